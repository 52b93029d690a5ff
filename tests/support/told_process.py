"""A program in a process of its own, which is told what to do: a line in, a line out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from support.programs import environment
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ToldProcess:
    """
    A process that answers each line with a line.

    Args:
        program: What it runs.
        arguments: What it is given.
        stderr: Where its errors go; None: where they are read at its end.
    """

    def __init__(self, program: Path, *arguments: object, stderr: int | None = 2) -> None:
        python = warm_programs(warnings=None)
        self.process = python.talk_text(program, *map(str, arguments), stderr=stderr, env=environment())

    def say(self, order: str) -> None:
        """Give an order."""
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for the next line that it says."""
        return self.process.stdout.readline().strip()

    def tell(self, order: str) -> str:
        """Give an order, and wait for the answer."""
        self.say(order)
        return self.hear()

    def kill(self) -> str:
        """End it at once, wherever it is; what it has said that nobody has heard."""
        self.process.kill()
        return self.process.communicate()[0]

    def end(self) -> str:
        """Wait until it has ended; what it has still said."""
        return self.process.communicate()[0]


Told = TypeVar("Told", bound=ToldProcess)


@contextlib.contextmanager
def within_the_test(process: Told) -> Iterator[Told]:
    """A process that does not outlive the test."""
    try:
        yield process
    finally:
        process.kill()

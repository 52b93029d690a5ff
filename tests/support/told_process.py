"""A program in a process of its own, which is told what to do: a line in, a line out."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

from support.programs import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ToldProcess:
    """
    A process that answers each line with a line.

    Args:
        program: What it runs.
        arguments: What it is given.
        stderr: Where its errors go, as `subprocess.Popen` takes it.
    """

    def __init__(self, program: Path, *arguments: object, stderr: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(),
        )

    def say(self, order: str) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for the next line that it says."""
        assert self.process.stdout is not None
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

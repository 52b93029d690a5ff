"""
The programs of docs/recipes.md, run as they stand there, each in a process of its own that a test may kill.

It is forked from one that has imported milepost.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore
from support.documentation import TOP, sections
from support.patience import WATCHDOG_S, until
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPES: Final = TOP / "docs/recipes.md"

KILLED: Final = (
    "Load a CSV file",
    "Write to another database",
    "Set a failing record aside",
    "Fetch URLs with a pool of threads",
    "Share a bag of files among processes",
    "Feed asyncio workers through a queue",
    "Read an API page by page",
    "Consume Kafka",
    "Read chunks with pandas, and row groups of a Parquet file",
    "Resume a data loader",
    "Follow a file that grows",
    "Stop cleanly on SIGTERM",
    "Run a job every night, and backfill",
    "Keep a replica with Litestream",
)
"""The recipes that need something around them. `tests/recipes` runs, kills and resumes each."""


def program(heading: str, number: int = 0) -> str:
    """One of the programs below a heading."""
    return sections(RECIPES)[heading][number].text


DOSES: Final = ((1, 1), pytest.param(10, 3, marks=pytest.mark.long))
"""How many times a recipe is done from the beginning to the end, and how many times it is killed meanwhile."""

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED") or random.SystemRandom().randrange(10**9))
CHANCE: Final = random.Random(SEED)


class Recipe:
    """
    A program of the page, which is started again and again in one directory.

    Args:
        heading: The heading above it.
        directory: Where it runs.
        number: Which one it is below that heading.
        broken: What stands in place of it, for a test that must fail.
        arguments: What it is given on its command line.
        environment: What it finds in its environment.
    """

    def __init__(
        self,
        heading: str,
        directory: Path,
        *,
        number: int = 0,
        broken: str | None = None,
        arguments: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.directory = directory
        self.lines: list[str] = []
        """What it has printed, in all its lives."""
        self._file = directory / "recipe.py"
        self._file.write_text(broken or program(heading, number), encoding="utf-8")
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._startup_s = 0.0

    @contextlib.contextmanager
    def started(self) -> Iterator[Life]:
        """One life of it, which ends with the `with` at the latest."""
        life = Life([self._file, *self._arguments], self.directory, self._environment)
        try:
            yield life
        finally:
            life.kill()
            self.lines += life.lines()

    def run(self) -> None:
        """Let it come to its end, in good order."""
        with self.started() as life:
            life.end_well()

    def kill(self, within_s: float) -> bool:
        """Start it, and kill it at a random moment after it has opened its store; whether it was still running."""
        begin = time.monotonic()
        with self.started() as life:
            if self._startup_s == 0:
                until(lambda: any(self.directory.glob("*.milepost")) or life.ended)
                self._startup_s = time.monotonic() - begin
            else:
                time.sleep(self._startup_s)
            time.sleep(CHANCE.random() * within_s)
            return life.kill()

    def stop(self, within_s: float) -> None:
        """Start it, and send it SIGTERM at a random moment after it has begun to work; it ends in good order."""
        with self.started() as life:
            until(lambda: life.has_printed("") or life.ended)
            time.sleep(CHANCE.random() * within_s)
            life.process.send_signal(signal.SIGTERM)
            life.end_well()


class Life:
    """A process, and the processes that it starts. Every warning is an error."""

    def __init__(self, command: list[str | Path], directory: Path, environment: dict[str, str]) -> None:
        self._output = (directory / f"output-{time.monotonic_ns()}").open("w+", encoding="utf-8")
        self._errors = (directory / f"errors-{time.monotonic_ns()}").open("w+", encoding="utf-8")
        with Path(os.devnull).open(encoding="utf-8") as nothing:
            streams = nothing.fileno(), self._output.fileno(), self._errors.fileno()
            self.process = warm_programs().start(streams, *command, cwd=directory, env=environment, session=True)

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    def kill(self) -> bool:
        """Kill it with all that it has started; whether it was still running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(WATCHDOG_S) == -signal.SIGKILL

    def end_well(self) -> None:
        """Wait for its end, which is a good one."""
        code = self.process.wait(WATCHDOG_S)
        self._errors.seek(0)
        assert (code, self._errors.read()) == (0, "")

    def end_badly(self) -> str:
        """Wait for its end, which is no good one; its complaint."""
        assert self.process.wait(WATCHDOG_S) == 1
        self._errors.seek(0)
        return self._errors.read()

    def has_printed(self, line: str) -> bool:
        """Whether it has printed a line that ends so by now."""
        return f"{line}\n" in Path(self._output.name).read_text(encoding="utf-8")

    def lines(self) -> list[str]:
        """What it has printed, in whole lines."""
        self._output.seek(0)
        text = self._output.read()
        self._output.close()
        self._errors.close()
        return text.splitlines()[: text.count("\n")]


def killed_and_resumed(recipe: Recipe, kills: int, within_s: float) -> int:
    """Kill it at random moments, one life after the other, and let it come to its end; how many kills met it alive."""
    print(f"MILEPOST_FAULT_SEED={SEED}")
    met = sum(recipe.kill(within_s) for _ in range(kills))
    recipe.run()
    if kills > 1:
        recipe.run()  # it finds that nothing is left to do
    assert met > 0 or kills == 1  # on a fast machine one kill may come too late
    return met


def directories(tmp_path: Path, rounds: int) -> Iterator[Path]:
    """A directory for each round."""
    for number in range(rounds):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        yield directory


def write_orders(path: Path, length: int) -> list[tuple[int, int]]:
    """Write a CSV file of orders; the orders."""
    orders = [(number, number * 7 % 1000) for number in range(length)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "amount"), *orders])
    return orders


def ask(file: Path, query: str) -> list[Any]:
    """The rows of a query, which asks a file of anybody's."""
    with contextlib.closing(apsw.Connection(str(file))) as connection:
        return list(connection.execute(query))


def check_store(file: Path, stage: str, offset: int, run_id: str = "run-1") -> None:
    """The stage has come so far, and the chain holds."""
    with CheckpointStore.open_readonly(file) as store:
        assert store.resume_point_for_stage(stage, run_id=run_id).watermark.offset == offset
        store.verify().raise_if_broken()

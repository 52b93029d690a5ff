"""
Other processes that have the same file open: what a test orders from them, and what they are.

    python other_process.py PART PATH …

`hold` and `write` are told what to do, a line each, and answer with a line; `own` and `batches` go on by themselves.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from chains import entry
from milepost import CheckpointStore, MilepostError, StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class OtherProcess:
    """One of the parts of this module, in a process of its own."""

    def __init__(self, part: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), part, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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
        """Wait until it has ended, in good order; what it has still said."""
        said, complaint = self.process.communicate()
        assert (self.process.returncode, complaint) == (0, "")
        return said


@contextlib.contextmanager
def other_process(part: str, *arguments: object) -> Iterator[OtherProcess]:
    """A process that does not outlive the test."""
    process = OtherProcess(part, *arguments)
    try:
        yield process
    finally:
        process.kill()


# The parts


def hold(path: str) -> None:
    """A program that is not milepost's: takes the write lock when told, and gives it back."""
    connection = apsw.Connection(path)
    say("ready")
    for line in sys.stdin:
        order, *seconds = line.split()
        connection.execute("BEGIN IMMEDIATE")
        say("held")
        if order == "for":
            time.sleep(float(seconds[0]))
        else:
            sys.stdin.readline()
        connection.execute("ROLLBACK")
        say("free")


def write(path: str) -> None:
    """Append whenever told, and answer with the sequence, or with the name of what was raised."""
    with CheckpointStore(path) as store:
        say("ready")
        for line in sys.stdin:
            if line.strip() == "close":
                break
            try:
                last = store.latest("other")
                say(str(store.append(entry(last.sequence + 1 if last else 1, run_id="other")).position))
            except MilepostError as error:
                say(type(error).__name__)
    say("closed")


def own(path: str, every: str, length: str, pause_s: str) -> None:
    """Run one loop as if nobody else did, and begin anew whenever told that somebody does; say so."""
    from milepost import StageMovedError  # noqa: PLC0415 - only this part has use for it

    with CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store:
        loop = store.checkpointed(range(int(length)), run_id="run-7", stage="load", every=int(every), transaction=True)
        records: Iterator[Any] = iter(loop)
        say("ready")
        sys.stdin.readline()
        while True:
            try:
                for record in records:
                    loop.connection.execute("INSERT INTO sink VALUES (?, ?)", (record, os.getpid()))
                    time.sleep(float(pause_s))
                break
            except StageMovedError:
                say("told")
                records = iter(loop)


def batches(path: str) -> None:
    """Commit batches that take 100 ms each, one at once after the other, until killed."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store:
        say("ready")
        sequence = 0
        while True:
            with contextlib.suppress(StoreBusyError), store.transaction():
                sequence += 1
                store.append(entry(sequence, run_id="batches"))
                time.sleep(0.1)


def say(word: str) -> None:
    """A line, at once."""
    print(word, flush=True)


if __name__ == "__main__":
    parts: dict[str, Callable[..., None]] = {"hold": hold, "write": write, "own": own, "batches": batches}
    parts[sys.argv[1]](*sys.argv[2:])

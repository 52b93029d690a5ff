"""
Other processes that have the same file open: what a test orders from them, and what they are.

    python other_process.py PART PATH …

`hold` and `write` are told what to do, a line each, and answer with a line; `own` and `blocks` go on by themselves.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from milepost import CheckpointStore, MilepostError
from support.chains import entry
from support.told_process import ToldProcess, within_the_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class OtherProcess(ToldProcess):
    """One of the parts of this module, in a process of its own."""

    def __init__(self, part: str, *arguments: object) -> None:
        super().__init__(Path(__file__), part, *arguments, stderr=None)

    def end(self) -> str:
        """Wait until it has ended, in good order; what it has still said."""
        said, complaint = self.process.communicate()
        assert (self.process.returncode, complaint) == (0, "")
        return said


def other_process(part: str, *arguments: object) -> AbstractContextManager[OtherProcess]:
    """One that does not outlive the test."""
    return within_the_test(OtherProcess(part, *arguments))


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


def blocks(path: str, number: str, seconds: str) -> None:
    """Commit so many blocks that take so long each, one at once after the other."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store:
        say("ready")
        for sequence in range(1, int(number) + 1):
            with store.transaction():
                store.append(entry(sequence, run_id="blocks"))
                time.sleep(float(seconds))
    say("done")


def say(word: str) -> None:
    """A line, at once."""
    print(word, flush=True)


if __name__ == "__main__":
    parts: dict[str, Callable[..., None]] = {"hold": hold, "write": write, "own": own, "blocks": blocks}
    parts[sys.argv[1]](*sys.argv[2:])

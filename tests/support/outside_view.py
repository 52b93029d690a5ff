"""The other process: it has one interrupted (interrupted_process.py), and sees from outside what is in the file."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from milepost import CheckpointStore, MilepostError
from support.interrupted_operations import SINK, entry
from support.interrupted_process import Orders
from support.programs import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.interrupted_operations import Told


_PLACE: Final = re.compile(r"((\w+), place (-?\d+): .*)")  # as the process writes where it is interrupted
_FRAME: Final = re.compile(r'File ".*?([^/]*)", line (\d+) in (.*)')  # as faulthandler writes it


@dataclass
class Outcome:
    """
    What came of interrupting an operation many times.

    Attributes:
        places: At how many places CPython looked for signals.
        hits: How often a signal came.
        looks: How often all was in order from outside.
        recorded: How often what a handler stated was taken.
        refused: How often it was refused.
        problems: What did not hold, each with where the interrupt came.
    """

    places: int = 0
    hits: int = 0
    looks: int = 0
    recorded: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        of = f" of {self.places} places" if self.places else ""
        handled = f", {self.recorded} taken and {self.refused} refused in a handler" if self.recorded or self.refused else ""
        return f"{self.hits} interrupts{of}, {self.looks} looks from outside{handled}, {len(self.problems)} problems"


class View:
    """The file, seen and written by this process; it remembers what it has seen."""

    def __init__(self, path: Path, patience_ms: int) -> None:
        self._store = CheckpointStore(path, durability="normal", busy_timeout_ms=patience_ms)
        with self._store.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sink (key TEXT NOT NULL) STRICT")
        self._receipts: dict[str, tuple[int, str]] = {}
        self._sink: set[str] = set()
        self._twice: list[str] = []
        self._position = self._row = 0
        self._sequence = 0

    def look(self, told: Sequence[Told], undone: Sequence[str], together: Sequence[Sequence[str]]) -> str | None:
        """Append at once, and see whether what must be there is there; a sentence about the first thing that is not."""
        self._sequence += 1
        try:
            with self._store.transaction() as connection:
                last = self._store.append(entry(self._sequence, run_id="outside", key=f"outside-{self._sequence}"))
                rows: Any = connection.execute("SELECT rowid, key FROM sink WHERE rowid > ?", (self._row,)).fetchall()
            for row, key in rows:
                if key in self._sink:
                    self._twice.append(key)
                self._sink.add(key)
                self._row = row
            for receipt, stated, *_ in self._store.receipts(after=self._position):
                self._receipts[stated.idempotency_key] = receipt.position, receipt.signature
                self._position = receipt.position
                if self._position == last.position:  # others go on meanwhile, and what was told is before this
                    break
        except MilepostError as error:  # StoreBusyError above all: somebody has left a transaction open
            return f"another process cannot append: {error!r}"
        for name, position, signature in told:
            if not self._has(name):
                return f"{name!r} was acknowledged and is not in the file"
            if position is not None and self._receipts[name] != (position, signature):
                return f"{name!r} has the receipt {self._receipts[name]}, and another one was given"
        for name in undone:
            if self._has(name):
                return f"{name!r} was undone and is in the file"
        for names in together:
            there = [name for name in names if self._has(name)]
            if there and len(there) < len(names):
                return f"of {names} only {there} are in the file"
        return f"twice in the sink: {self._twice[0]}" if self._twice else None

    def hold(self, duration_ms: int, answer: Any) -> None:
        """Hold the lock of the file for a while after the answer."""
        with self._store.transaction():
            answer(None)
            time.sleep(duration_ms / 1000)

    def close(self) -> str | None:
        """Verify the chain as a whole, and close the file."""
        with self._store:
            found = self._store.verify()
        return None if found.ok else f"verify() finds {found.faults[0]}"

    def _has(self, name: str) -> bool:
        return name.removeprefix(SINK) in self._sink if name.startswith(SINK) else name in self._receipts


class _Nursery:
    """A process that has imported what is interrupted, and forks the processes that are: one after the other."""

    def __init__(self) -> None:
        self._told, others = socket.socketpair()
        command = [sys.executable, str(Path(__file__).with_name("interrupted_process.py")), str(others.fileno())]
        with others:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment(), pass_fds=[others.fileno()]
            )
        atexit.register(self._end)

    def begin(self, orders: Orders, errors: int) -> tuple[IO[str], IO[bytes]]:
        """Begin a process; the lines that it says, and where it is answered."""
        (asked, answers), (said, says) = os.pipe(), os.pipe()
        socket.send_fds(self._told, [json.dumps(dataclasses.asdict(orders)).encode()], [asked, says, errors])
        os.close(asked)
        os.close(says)
        return os.fdopen(said), os.fdopen(answers, "wb", buffering=0)

    def wait(self) -> int:
        """Wait until the process has ended; its exit code."""
        return int(self._told.recv(100))

    def _end(self) -> None:
        self._told.close()
        self._process.wait()


_nursery = functools.cache(_Nursery)


class Interrupted:
    """One process that is interrupted, and the view of its file."""

    def __init__(self, orders: Orders, outcome: Outcome) -> None:
        self._orders, self._outcome = orders, outcome
        self.operation = orders.operations[0]
        self.place, self.ended, self._failed = orders.after, False, False
        self._view = View(Path(orders.path), orders.patience_ms)

    def serve(self) -> None:
        """Answer the process until it ends."""
        with tempfile.TemporaryFile() as errors:
            nursery = _nursery()
            lines, answers = nursery.begin(self._orders, errors.fileno())

            def answer(value: Any) -> None:
                with contextlib.suppress(BrokenPipeError):  # it hung and has ended while this process looked
                    answers.write(json.dumps(value).encode() + b"\n")

            try:
                with lines, answers:
                    for line in lines:
                        self._serve(json.loads(line), answer)
            finally:
                code = nursery.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            if code or not (self.ended or self._failed):
                places = _PLACE.findall(said)
                if places:
                    self.operation, self.place = places[-1][1], int(places[-1][2])
                    self._outcome.hits += len(places)
                stacks = " < ".join(f"{name}:{line} {function}" for name, line, function in _FRAME.findall(said)[:5])
                what = f"it hangs in {stacks}" if "Timeout" in said else f"the process has ended: {said[-2000:]}"
                self._problem(f"{places[-1][0] if places else 'before the first interrupt'}: {what}")
        broken = self._view.close()
        if broken:
            self._problem(f"at the end: {broken}")

    def _serve(self, message: dict[str, Any], answer: Any) -> None:
        match message:
            case {"told": told, "undone": undone, "together": together}:
                problem = self._view.look(told, undone, together)
                self._outcome.looks += problem is None
                answer(problem)
            case {"places": places}:
                self._outcome.places += places
            case {"hold": duration_ms}:
                self._view.hold(duration_ms, answer)
            case {"problem": problem, "operation": operation, "place": place, "hits": hits}:
                self.operation, self.place = operation, place
                self._outcome.hits += hits
                self._problem(problem)
            case {"done": True, "hits": hits, "recorded": recorded, "refused": refused}:
                self._outcome.hits += hits
                self._outcome.recorded, self._outcome.refused = recorded, refused
                self.ended = True

    def _problem(self, problem: str) -> None:
        self._failed = True
        orders = self._orders
        self._outcome.problems.append(
            f"durability {orders.durability}, handler {orders.handler}, seed {orders.seed}: {problem}"
        )


@contextlib.contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory in memory where there is one: a sync takes no time there, so that more interrupts hit something else."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="milepost-process-", dir=parent) as directory:
        yield Path(directory).resolve()


def interrupt(directory: Path, operations: Sequence[str], *, most_problems: int = 1, **orders: Any) -> Outcome:
    """
    Have operations interrupted, see what holds afterwards, and print a line about it.

    After a problem a new process goes on with a new file behind the place of the interrupt, until there are `most_problems`.
    """
    outcome, left, after = Outcome(), list(operations), -1
    for number in range(most_problems):
        path = directory / f"interrupted-{number}.milepost"
        interrupted = Interrupted(Orders(str(path), left, after=after, **orders), outcome)
        interrupted.serve()
        after = interrupted.place
        left = left[left.index(interrupted.operation) :]
        if interrupted.ended or after < 0:
            break
    print(f"{', '.join(operations)}: {orders}: {outcome}")
    return outcome

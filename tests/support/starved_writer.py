"""Append in every way while SQLite's heap is limited, lower each time; say what succeeded, what raised, what went wrong."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import apsw

from milepost import CheckpointStore, MilepostError, Watermark
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HIGHEST, LOWEST = 1_000_000, 20_000  # bytes; an open store has about 300,000


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let SQLite have no more memory than that."""
    apsw.hard_heap_limit(size)
    try:
        yield
    finally:
        apsw.hard_heap_limit(0)


class Starved:
    """One file, and what must be in it."""

    def __init__(self, path: str, *, swallows: bool) -> None:
        self.path, self.swallows = path, swallows
        self.keys: list[str] = []  # in order
        self.raised = self.succeeded = 0
        self.problems: list[str] = []

    def verbs(self, store: CheckpointStore, number: int) -> list[tuple[list[str], Callable[[], object]]]:
        """Every way of appending, with the keys that it appends."""
        run_id = f"run-{number}"
        rows = [entry(n, run_id=run_id, key=f"{number}:{n}" + "k" * 300) for n in range(1, 60)]
        keys = [each.idempotency_key for each in rows]

        def in_a_block() -> None:
            with store.transaction() as connection:
                store.append(rows[51])
                connection.execute("CREATE TABLE IF NOT EXISTS sink (x)")
                connection.execute("INSERT INTO sink VALUES (zeroblob(1000))")
                store.append(rows[52])

        return [
            (keys[:1], lambda: store.append(rows[0])),
            (keys[1:51], lambda: store.append_many(rows[1:51])),
            (keys[51:53], in_a_block),
            (keys[53:54], lambda: store.advance(run_id, "load", Watermark(10**6, 2 * 10**12), idempotency_key=keys[53])),
        ]

    def step(self, number: int, size: int) -> None:
        """Everything once in an open store, and once in one that is opened under the same limit."""
        with CheckpointStore(self.path, durability="normal") as store:
            for keys, verb in self.verbs(store, 2 * number):
                self.do(keys, verb, store, size)
        try:
            with at_most(size), CheckpointStore(self.path, durability="normal") as store:
                for keys, verb in self.verbs(store, 2 * number + 1):
                    self.do(keys, verb, store, size)
        except MilepostError:
            self.raised += 1
        self.look(size)

    def do(self, keys: list[str], verb: Callable[[], object], store: CheckpointStore, size: int) -> None:
        """One verb; what it acknowledges must be there, and what it does not must not."""
        try:
            with at_most(size):
                verb()
            self.succeeded += 1
        except (MilepostError, MemoryError, apsw.Error) as error:
            if isinstance(error, apsw.Error) and not isinstance(error, apsw.NoMemError):
                self.problems.append(f"{size}: {error!r}")  # only the block's own statements raise APSW's
            self.raised += 1
            if not self.swallows:
                return
        self.keys += keys

    def look(self, size: int) -> None:
        """All of it, with memory enough."""
        with CheckpointStore.open_readonly(self.path) as store:
            if [each.idempotency_key for each in store.history()] != self.keys:
                self.problems.append(f"{size}: {len(store)} entries, {len(self.keys)} were acknowledged")
            self.problems += [f"{size}: {fault}" for fault in store.verify().faults]


def main(path: str, steps: str, *broken: str) -> None:
    """From the highest limit to the lowest."""
    starved = Starved(path, swallows="swallow" in broken)
    for number in range(int(steps)):
        starved.step(number, int(HIGHEST - (HIGHEST - LOWEST) * number / int(steps)))
        if broken and starved.problems:
            break
    print(starved.succeeded, starved.raised, *starved.problems, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

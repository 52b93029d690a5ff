"""
What does the file format itself cost? Prepared rows go into milepost's tables by plain APSW, beside the floor.

This checks, hashes and looks up nothing, so it is the limit for milepost. To be faster, milepost would have to give up an
index that a lookup needs, or a unique index that prevents duplicates.
"""

from __future__ import annotations

from functools import partial
from itertools import count, islice
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

import pytest

from benchmarks import floor
from benchmarks.bench_append import WARM, appending, as_it_is
from benchmarks.race import each, together
from benchmarks.workload import BATCH, RUN_ID, STAGE, one_run, random_key
from milepost import CheckpointStore
from milepost.mileposts import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import apsw

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

    Place = Callable[[], Path]

ENTRY: Final = "INSERT INTO entry VALUES (?, 1, 1, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
SIGNATURE: Final = bytes(range(32))


def opened(path: Path, synchronous: str) -> apsw.Connection:
    """Make a file of milepost's with a run and a stage. Return a connection to it like the floor's."""
    CheckpointStore(path).close()
    connection = floor.connect(path, synchronous)
    connection.execute("INSERT INTO run VALUES (1, ?)", (RUN_ID,))
    connection.execute("INSERT INTO stage VALUES (1, ?)", (STAGE,))
    connection.execute("INSERT INTO run_stage VALUES (1, 1)")
    connection.transaction_mode = "IMMEDIATE"
    return connection


def as_stored(row: Row) -> tuple[object, ...]:
    """Return a row as milepost stores it."""
    _, _, sequence, offset, event_time_ms, key, at_ms = row
    milepost = sequence if (sequence - 1) % INTERVAL == 0 else None
    return (sequence, sequence, offset, event_time_ms, key, at_ms, SIGNATURE, None, milepost)


@pytest.mark.parametrize(("durability", "averaged"), [("full", None), ("normal", mean)])
def test_append(race: Race, place: Place, dose: Dose, durability: str, averaged: Any) -> None:
    """Measure a row in a transaction of its own, in µs. It goes into two B-trees, and one in 40 into five."""
    operations = dose.of(200, 50)
    connection = floor.create(place(), durability)
    bare = opened(place(), durability)
    numbers = count(1)

    def append(row: tuple[object, ...]) -> None:
        with bare:
            bare.execute(ENTRY, row)

    def ours() -> Callable[[], Timings]:
        rows = [as_stored(one_run(number)) for number in islice(numbers, operations)]
        return lambda: each(append, rows)

    theirs = appending(partial(connection.execute, floor.INSERT), as_it_is, operations)
    for _ in range(WARM // operations):
        theirs()()
        ours()()
    race(
        f"raw rows into our tables, {durability}",
        theirs,
        ours,
        rounds=dose.of(41, 11),
        **({"averaged": averaged} if averaged else {}),
    )
    entries, mileposts = bare.execute("SELECT count(*), count(entries_so_far) FROM entry").get
    assert mileposts == -(-entries // INTERVAL)
    connection.close()
    bare.close()


@pytest.mark.parametrize("name", ["keys from offsets", "random keys"])
def test_append_many(race: Race, place: Place, dose: Dose, name: str) -> None:
    """Measure 100,000 rows in one transaction, in µs a row."""
    rows = [one_run(number, random_key) if name == "random keys" else one_run(number) for number in range(1, BATCH + 1)]
    stored = [as_stored(row) for row in rows]

    def theirs() -> Callable[[], Timings]:
        connection = floor.create(place())
        return lambda: _closing(connection, together(lambda: floor.append_many(connection, rows), BATCH))

    def ours() -> Callable[[], Timings]:
        connection = opened(place(), "full")
        connection.pragma("cache_size", -16_384)

        def append() -> None:
            with connection:
                connection.executemany(ENTRY, stored)

        return lambda: _closing(connection, together(append, BATCH))

    race(f"raw rows into our tables, {name}", theirs, ours, rounds=dose.of(9, 3))


def _closing(connection: apsw.Connection, timings: Timings) -> Timings:
    connection.close()
    return timings

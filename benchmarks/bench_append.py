"""What does one append cost, alone and beside others?"""

from __future__ import annotations

import threading
from functools import partial
from itertools import count, islice
from statistics import mean
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from benchmarks import floor
from benchmarks.race import Figure, each, in_threads
from benchmarks.workload import RUN_ID, checkpoint, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import apsw

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

    Place = Callable[[], Path]
    Contestant = Callable[[], Callable[[], Timings]]

T = TypeVar("T")

WARM: Final = 1_100
"""The number of appends after which a WAL of 1,000 pages is overwritten, if it grows by a page with each."""


def as_it_is(row: Row) -> Row:
    """Return a row for the floor."""
    return row


def appending(append: Callable[[T], object], form: Callable[[Row], T], operations: int) -> Contestant:
    """Append this many rows one by one in each round, and continue where the last round ended."""
    numbers = count(1)

    def prepare() -> Callable[[], Timings]:
        batch = [form(one_run(number)) for number in islice(numbers, operations)]
        return lambda: each(append, batch)

    return prepare


def entries(connection: apsw.Connection) -> int:
    """Return the number of rows of the floor."""
    number: int = connection.execute("SELECT count(*) FROM checkpoint").get
    return number


def test_durable(race: Race, place: Place, dose: Dose) -> None:
    """Measure an append that survives power loss, in µs, once both WALs are overwritten."""
    operations, rounds = 50, dose.of(60, 12)
    connection = floor.create(place(), "full")
    with CheckpointStore(place()) as store:
        theirs = appending(partial(connection.execute, floor.INSERT), as_it_is, operations)
        ours = appending(store.append, checkpoint, operations)
        for _ in range(WARM // operations):
            theirs()()
            ours()()
        warmed = len(store)
        race("append, full, p50", theirs, ours, rounds=rounds, figure=Figure(1.10))
        assert len(store) == entries(connection) > warmed
        assert store.latest() == checkpoint(one_run(len(store)))
    connection.close()


def test_durable_in_a_new_file(race: Race, place: Place, dose: Dose) -> None:
    """Measure the first 200 durable appends of a new file, in µs each. The WAL of a naive loop grows there."""
    operations = 200

    def theirs() -> Callable[[], Timings]:
        connection = floor.create(place(), "full")
        run = appending(partial(connection.execute, floor.INSERT), as_it_is, operations)()

        def first() -> Timings:
            timings = run()
            assert entries(connection) == operations
            connection.close()
            return timings

        return first

    def ours() -> Callable[[], Timings]:
        store = CheckpointStore(place())
        run = appending(store.append, checkpoint, operations)()

        def first() -> Timings:
            timings = run()
            assert len(store) == operations
            store.close()
            return timings

        return first

    race("append, full, p50, the first 200 of a file", theirs, ours, rounds=dose.of(11, 5), figure=Figure(1.00))


def test_normal(race: Race, place: Place, dose: Dose) -> None:
    """Measure the mean append that survives a crash of the process, in µs. Each round writes both WALs back."""
    operations = 2_000
    connection = floor.create(place(), "normal")
    with CheckpointStore(place(), durability="normal") as store:
        race(
            "append, normal, mean",
            appending(partial(connection.execute, floor.INSERT), as_it_is, operations),
            appending(store.append, checkpoint, operations),
            rounds=dose.of(31, 9),
            figure=Figure(3.0),
            averaged=mean,
            warm_up=True,
        )
        assert len(store) == entries(connection)
        assert store.latest() == checkpoint(one_run(len(store)))
    connection.close()


@pytest.mark.parametrize(("threads", "faster"), [(8, 2.5), (32, 4.0)])
def test_threads(race: Race, place: Place, dose: Dose, threads: int, faster: float) -> None:
    """Measure durable appends a second by many threads. The floor's threads share a connection and a lock."""
    each_thread = dose.of(2000, 800) // threads
    connection = floor.create(place(), "full")
    lock = threading.Lock()

    def insert(row: Row) -> None:
        with lock:
            connection.execute(floor.INSERT, row)

    with CheckpointStore(place()) as store:
        race(
            f"append, full, {threads} threads (appends a second)",
            appending_in_threads(insert, as_it_is, threads, each_thread),
            appending_in_threads(store.append, checkpoint, threads, each_thread),
            rounds=dose.of(9, 3),
            figure=Figure(faster, least=True),
            rate=True,
            warm_up=True,
        )
        assert len(store) == entries(connection)
        last = len(store) // threads
        assert {(point.stage, point.sequence) for point in store.resume_points(RUN_ID).values()} == {
            (stage(thread), last) for thread in range(threads)
        }
        assert store.verify().ok
    connection.close()


def stage(thread: int) -> str:
    """Return the stages of the threads, 9 characters each."""
    return f"stage-{thread:03}"


def appending_in_threads(
    append: Callable[[T], object], form: Callable[[Row], T], threads: int, operations: int
) -> Contestant:
    """Append this many rows in each of this many threads, each with a stage of its own."""
    numbers = count(1)

    def prepare() -> Callable[[], Timings]:
        rows = [one_run(number) for number in islice(numbers, operations)]

        def appends(thread: int) -> Callable[[], None]:
            batch = [form((row[0], stage(thread), *row[2:])) for row in rows]

            def run() -> None:
                for entry in batch:
                    append(entry)

            return run

        calls = [appends(thread) for thread in range(threads)]
        return lambda: in_threads(calls, threads * operations)

    return prepare

"""
How near do a few lines of raw APSW come to the aims of milepost?

Here the second contestant is raw APSW as well: it shares commits among threads or tasks, or keeps a cursor, by the shortest
code that does so. It has no chain, no rule, no check of the file, no time limit, and an error or an interrupt would hang it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import count, islice
from queue import SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, Self

import pytest

from benchmarks import floor
from benchmarks.bench_append import WARM, appending, appending_in_threads, as_it_is, entries
from benchmarks.bench_async import one_by_one, stage
from benchmarks.bench_cursor import CURSOR
from benchmarks.race import Figure
from benchmarks.workload import one_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import apsw

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

    Place = Callable[[], Path]

KEPT: Final = (
    "CREATE TABLE kept (run TEXT, stage TEXT, sequence INTEGER, cursor ANY, PRIMARY KEY (run, stage, sequence)) "
    "STRICT, WITHOUT ROWID"
)
INSERT: Final = "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@pytest.mark.parametrize(("threads", "faster"), [(8, 2.5), (32, 4.0)])
def test_threads(race: Race, place: Place, dose: Dose, threads: int, faster: float) -> None:
    """Measure durable rows a second by many threads with a queue. The floor's threads share a connection and a lock."""
    each_thread = dose.of(2000, 800) // threads
    alone, shared = floor.create(place(), "full"), floor.create(place(), "full")
    lock = threading.Lock()

    def insert(row: Row) -> None:
        with lock:
            alone.execute(floor.INSERT, row)

    with Queue(shared) as queue:
        race(
            f"by hand, {threads} threads (rows a second)",
            appending_in_threads(insert, as_it_is, threads, each_thread),
            appending_in_threads(queue.insert, as_it_is, threads, each_thread),
            rounds=dose.of(9, 3),
            figure=Figure(faster, least=True),
            rate=True,
            warm_up=True,
        )
    assert entries(shared) == entries(alone)


class Queue:
    """A thread that inserts all rows which wait, with one commit."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: SimpleQueue[tuple[Row, threading.Lock] | None] = SimpleQueue()
        self._own = threading.local()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.put(None)
        self._thread.join()

    def insert(self, row: Row) -> None:
        """Insert a row. It is durable when this returns."""
        done: threading.Lock | None = getattr(self._own, "done", None)
        if done is None:
            done = self._own.done = threading.Lock()
            done.acquire()
        self._rows.put((row, done))
        done.acquire()

    def _serve(self) -> None:
        while first := self._rows.get():
            batch = [first]
            while not self._rows.empty():
                following = self._rows.get()
                if following is None:
                    self._rows.put(None)
                    break
                batch.append(following)
            floor.append_many(self._connection, [row for row, _ in batch])
            for _, done in batch:
                done.release()


@pytest.mark.parametrize(("tasks", "faster"), [(16, 6.0), (256, 10.0)])
def test_tasks(race: Race, place: Place, dose: Dose, tasks: int, faster: float) -> None:
    """Measure durable rows a second by many tasks with a thread that commits. The floor inserts one by one."""
    each_task = dose.of(8000, 4000) // tasks
    alone, shared = floor.create(place(), "full"), floor.create(place(), "full")
    numbers = count(1)
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as executor:

        async def main(batches: list[list[Row]]) -> Timings:
            append = together(shared, executor)

            async def work(rows: list[Row]) -> None:
                for row in rows:
                    await append(row)

            begin = perf_counter_ns()
            await asyncio.gather(*map(work, batches))
            return [(perf_counter_ns() - begin) / 1000 / tasks / each_task]

        def prepare() -> Callable[[], Timings]:
            rows = [one_run(number) for number in islice(numbers, each_task)]
            batches: list[list[Row]] = [[(row[0], stage(task), *row[2:]) for row in rows] for task in range(tasks)]
            return lambda: runner.run(main(batches))

        race(
            f"by hand, {tasks} tasks (rows a second)",
            one_by_one(alone),
            prepare,
            rounds=dose.of(15, 5),
            figure=Figure(faster, least=True),
            rate=True,
            warm_up=True,
        )
    assert entries(shared) % (tasks * each_task) == 0


def together(connection: apsw.Connection, executor: ThreadPoolExecutor) -> Callable[[Row], asyncio.Future[None]]:
    """Return a function that inserts a row. All rows that wait are inserted with one commit."""
    loop = asyncio.get_running_loop()
    waiting: list[tuple[Row, asyncio.Future[None]]] = []
    writing: list[asyncio.Task[None]] = []

    async def write() -> None:
        while waiting:
            batch = waiting.copy()
            waiting.clear()
            await loop.run_in_executor(executor, floor.append_many, connection, [row for row, _ in batch])
            for _, done in batch:
                done.set_result(None)
            await asyncio.sleep(0)
        writing.clear()

    def append(row: Row) -> asyncio.Future[None]:
        done = loop.create_future()
        waiting.append((row, done))
        if not writing:
            writing.append(loop.create_task(write()))
        return done

    return append


def test_a_cursor(race: Race, place: Place, dose: Dose) -> None:
    """Measure a durable row with a cursor of 200 bytes and its SHA-256, beside a row without, in µs."""
    operations = 50
    without, with_cursors = (with_a_key(floor.create(place(), "full")) for _ in range(2))
    with_cursors.execute(KEPT)
    theirs = appending(lambda row: without.execute(INSERT, (*row, None)), as_it_is, operations)
    ours = appending(lambda row: insert_with_cursor(with_cursors, row), as_it_is, operations)
    for _ in range(WARM // operations):
        theirs()()
        ours()()
    race("by hand, a cursor of 200 bytes, full, p50", theirs, ours, rounds=dose.of(60, 12), figure=Figure(1.10))
    assert entries(with_cursors) == entries(without)
    assert with_cursors.execute("SELECT count(*) FROM kept").get == 2


def with_a_key(connection: apsw.Connection) -> apsw.Connection:
    """Add what a row of milepost has too: an index of its keys, and a detail."""
    connection.execute("ALTER TABLE checkpoint ADD COLUMN detail TEXT")
    connection.execute("CREATE UNIQUE INDEX by_key ON checkpoint (key, run, stage)")
    return connection


def insert_with_cursor(connection: apsw.Connection, row: Row) -> None:
    """Insert a row with the SHA-256 of its cursor, and keep the cursor and the one before it."""
    run, stage, sequence = row[:3]
    cursor = json.dumps(CURSOR)
    detail = json.dumps({"cursor": sha256(cursor.encode()).hexdigest(), "cursor_type": "json"})
    with connection:
        connection.execute(INSERT, (*row, detail))
        connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?)", (run, stage, sequence, cursor))
        connection.execute("DELETE FROM kept WHERE run = ? AND stage = ? AND sequence < ?", (run, stage, sequence - 1))

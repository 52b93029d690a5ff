"""What does an append from a task cost, and for how long does it hold the event loop?"""

from __future__ import annotations

import asyncio
from itertools import count, islice
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks import floor
from benchmarks.race import Figure, each
from benchmarks.workload import RUN_ID, checkpoint, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import apsw

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row
    from milepost import Checkpoint

    Place = Callable[[], Path]

SINGLE: Final = 50
"""Appends of the floor in each round, one after the other."""


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Give an event loop that lasts for all rounds."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize("stages", ["one stage", "a stage each"])
@pytest.mark.parametrize(("tasks", "faster"), [(16, 6.0), (256, 10.0)])
def test_tasks(race: Race, place: Place, dose: Dose, runner: asyncio.Runner, tasks: int, faster: float, stages: str) -> None:
    """Measure durable appends a second by many tasks. The floor appends one by one, in one stage."""
    each_task = dose.of(8000, 4000) // tasks
    connection = floor.create(place(), "full")
    with CheckpointStore(place()) as store:
        race(
            f"append, full, {tasks} tasks, {stages} (appends a second)",
            one_by_one(connection),
            by_tasks(
                store,
                runner,
                in_a_stage_each(tasks, each_task) if stages == "a stage each" else in_one_stage(tasks, each_task),
                lambda begin, _: [(perf_counter_ns() - begin) / 1000 / tasks / each_task],
            ),
            rounds=dose.of(15, 5),
            figure=Figure(faster, least=True),
            rate=True,
            warm_up=True,
        )
        all_are_there(store, tasks if stages == "a stage each" else 1)
    connection.close()


def test_hold(race: Race, place: Place, dose: Dose, runner: asyncio.Runner) -> None:
    """Measure the longest time in which no other task gets its turn. The floor appends in the loop, a commit each."""
    tasks, each_task = 256, dose.of(24, 12)
    connection = floor.create(place(), "full")
    with CheckpointStore(place()) as store:
        race(
            f"{tasks} tasks: longest hold of the loop (µs)",
            in_the_loop(connection, runner, tasks),
            by_tasks(store, runner, in_a_stage_each(tasks, each_task), lambda _, longest: [longest / 1000]),
            rounds=dose.of(31, 9),
            figure=Figure(5_000, own=True),
            warm_up=True,
        )
        all_are_there(store, tasks)
    connection.close()


def all_are_there(store: CheckpointStore, stages: int) -> None:
    """Check that each stage has recorded all of its steps, and that the chain holds."""
    last = len(store) // stages
    found = {(point.stage, point.sequence) for point in store.resume_points(RUN_ID).values()}
    assert found == {(stage(number), last) for number in range(stages)}
    assert store.verify().ok


def stage(number: int) -> str:
    """Return the name of a stage: 9 characters."""
    return f"stage-{number:03}"


def in_a_stage_each(tasks: int, each_task: int) -> Callable[[], list[Iterator[Checkpoint]]]:
    """Return what gives each task its entries of the next round, in a stage of its own."""
    numbers = count(1)

    def entries() -> list[Iterator[Checkpoint]]:
        rows = [one_run(number) for number in islice(numbers, each_task)]
        return [iter([checkpoint((row[0], stage(task), *row[2:])) for row in rows]) for task in range(tasks)]

    return entries


def in_one_stage(tasks: int, each_task: int) -> Callable[[], list[Iterator[Checkpoint]]]:
    """Return what gives each task the same entries of the next round: whoever is free takes the next one."""
    numbers = count(1)

    def entries() -> list[Iterator[Checkpoint]]:
        rows = [one_run(number) for number in islice(numbers, tasks * each_task)]
        return [iter([checkpoint((row[0], stage(0), *row[2:])) for row in rows])] * tasks

    return entries


def one_by_one(connection: apsw.Connection) -> Callable[[], Callable[[], Timings]]:
    """Let the floor append its rows one after the other."""
    numbers = count(1)

    def prepare() -> Callable[[], Timings]:
        rows = [one_run(number) for number in islice(numbers, SINGLE)]
        return lambda: [sum(each(lambda row: connection.execute(floor.INSERT, row), rows)) / SINGLE]

    return prepare


def in_the_loop(connection: apsw.Connection, runner: asyncio.Runner, tasks: int) -> Callable[[], Callable[[], Timings]]:
    """Let each of many tasks append one row to the floor. Each append holds the loop."""
    numbers = count(1)

    async def append(row: Row) -> None:
        await asyncio.sleep(0)
        connection.execute(floor.INSERT, row)

    async def main(rows: list[Row]) -> Timings:
        hold = asyncio.create_task(longest_hold())
        await asyncio.gather(*(append(row) for row in rows))
        hold.cancel()
        return [await hold / 1000]

    def prepare() -> Callable[[], Timings]:
        rows = [one_run(number) for number in islice(numbers, tasks)]
        return lambda: runner.run(main(rows))

    return prepare


def by_tasks(
    store: CheckpointStore,
    runner: asyncio.Runner,
    entries: Callable[[], list[Iterator[Checkpoint]]],
    timings: Callable[[int, float], Timings],
) -> Callable[[], Callable[[], Timings]]:
    """Append in tasks what each is given. `timings` is made of the beginning and the longest hold, in ns."""

    async def append(given: Iterator[Checkpoint]) -> None:
        for entry in given:
            await store.append_async(entry)

    async def main(of_tasks: list[Iterator[Checkpoint]]) -> Timings:
        hold = asyncio.create_task(longest_hold())
        begin = perf_counter_ns()
        await asyncio.gather(*map(append, of_tasks))
        hold.cancel()
        return timings(begin, await hold)

    def prepare() -> Callable[[], Timings]:
        of_tasks = entries()
        return lambda: runner.run(main(of_tasks))

    return prepare


async def longest_hold() -> float:
    """Look at the clock again and again until cancelled. Return the longest time between two looks, in ns."""
    longest, last = 0, perf_counter_ns()
    try:
        while True:
            await asyncio.sleep(0.0002)
            now = perf_counter_ns()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return longest

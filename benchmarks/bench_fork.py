"""What does a fork cost a process that has a store open?"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from itertools import count
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from benchmarks import floor
from benchmarks.race import Figure
from benchmarks.workload import checkpoint, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings

    Place = Callable[[], Path]

FORKS: Final = 20
WARM: Final = 100


def nothing() -> None:
    """Do nothing."""


def forking(
    before: Callable[[], object] = nothing, after: Callable[[], object] = nothing, end: Callable[[], object] = nothing
) -> Callable[[], Timings]:
    """
    Fork this many times, and time the parent's part.

    Args:
        before: The parent's work before each fork; not timed.
        after: Its work after each fork; timed.
        end: Called at the end of the round.
    """

    def run() -> Timings:
        timings = []
        for _ in range(FORKS):
            before()
            begin = perf_counter_ns()
            child = os.fork()
            if child == 0:
                os._exit(0)
            after()
            timings.append((perf_counter_ns() - begin) / 1000)
            assert os.waitpid(child, 0)[1] == 0
        end()
        return timings

    return run


def appending(store: CheckpointStore) -> Callable[[], object]:
    """Append the next entry."""
    numbers = count(len(store) + 1)
    return lambda: store.append(checkpoint(one_run(next(numbers))))


def filled(path: Path, durability: Any = "normal") -> CheckpointStore:
    """Return a store that has been used."""
    store = CheckpointStore(path, durability=durability)
    append = appending(store)
    for _ in range(WARM):
        append()
    store.latest()
    return store


def test_fork(race: Race, place: Place, dose: Dose) -> None:
    """Measure a fork beside a store used since the last fork, in µs. The floor has no store open."""

    def ours() -> Callable[[], Timings]:
        store = filled(place())
        append = appending(store)
        return forking(before=lambda: (append(), store.latest()), end=store.close)

    race("fork beside a store", forking_alone, ours, rounds=dose.of(31, 7))


def forking_alone() -> Callable[[], Timings]:
    """Fork with no store open."""
    gc.collect()
    return forking()


def test_fork_beside_an_idle_store(race: Race, place: Place, dose: Dose) -> None:
    """Measure a fork beside an unused store, in µs, as in a server that replaces its workers."""

    def ours() -> Callable[[], Timings]:
        store = filled(place())
        forking()()
        return forking(end=store.close)

    race("fork beside an idle store", forking_alone, ours, rounds=dose.of(31, 7))


def test_fork_and_append(race: Race, place: Place, dose: Dose) -> None:
    """Measure a fork and the durable append after it, in µs. The floor keeps its connection open, which is unsafe."""

    def theirs() -> Callable[[], Timings]:
        connection, numbers = floor.create(place(), "full"), count(1)
        for _ in range(WARM):
            connection.execute(floor.INSERT, one_run(next(numbers)))
        return forking(after=lambda: connection.execute(floor.INSERT, one_run(next(numbers))), end=connection.close)

    def ours() -> Callable[[], Timings]:
        store = filled(place(), "full")
        return forking(after=appending(store), end=store.close)

    race("fork, then append, full", theirs, ours, rounds=dose.of(21, 5))


def test_subprocess(race: Race, place: Place, dose: Dose) -> None:
    """Measure `subprocess.run` and the append after it, in µs. No fork hook runs, so a store should add nothing."""
    program = shutil.which("true")
    assert program is not None

    def running(after: Callable[[], object], end: Callable[[], object]) -> Callable[[], Timings]:
        def run() -> Timings:
            timings = []
            for _ in range(FORKS):
                begin = perf_counter_ns()
                subprocess.run([program], check=True)
                after()
                timings.append((perf_counter_ns() - begin) / 1000)
            end()
            return timings

        return run

    def theirs() -> Callable[[], Timings]:
        connection, numbers = floor.create(place(), "normal"), count(1)
        return running(lambda: connection.execute(floor.INSERT, one_run(next(numbers))), connection.close)

    def ours() -> Callable[[], Timings]:
        store = filled(place())
        return running(appending(store), store.close)

    race("subprocess, then append, normal", theirs, ours, rounds=dose.of(21, 5), figure=Figure(1.10))

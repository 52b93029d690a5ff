"""How soon after it opens a store can a pipeline continue?"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from benchmarks import floor
from benchmarks.race import Figure
from benchmarks.workload import checkpoint, many_runs
from milepost import CheckpointStore, ResumePoint

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings


class _Closable(Protocol):
    def close(self) -> None: ...


def opening(open_and_ask: Callable[[], _Closable], times: int) -> Callable[[], Callable[[], Timings]]:
    """Open this many times. The time to close is left out."""

    def run() -> Timings:
        timings = []
        for _ in range(times):
            begin = perf_counter_ns()
            opened = open_and_ask()
            timings.append((perf_counter_ns() - begin) / 1000)
            opened.close()
        return timings

    return lambda: run


def test_open(race: Race, filled: Callable[[int], Filled], dose: Dose, size: int) -> None:
    """Measure the time from the path of a closed file to the first resume point, in µs."""
    files, row = filled(size), many_runs(size)

    def theirs() -> apsw.Connection:
        connection = floor.connect(files.floor_path, "full")
        assert connection.execute(floor.LATEST_OF_RUN_AND_STAGE, row[:2]).get == row
        return connection

    def ours() -> CheckpointStore:
        store = CheckpointStore(files.path)
        assert store.resume_point_for_stage(row[1], run_id=row[0]) == point
        return store

    entry = checkpoint(row)
    point = ResumePoint(entry.run_id, entry.stage, entry.sequence, entry.watermark)
    race(
        f"open and resume, {size:,}",
        opening(theirs, 10),
        opening(ours, 10),
        rounds=dose.of(21, 10),
        figure=Figure(3000, own=True),
        warm_up=True,
    )

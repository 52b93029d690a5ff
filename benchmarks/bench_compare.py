"""What does it cost to compare a replay with its original?"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from benchmarks import floor
from benchmarks.race import Figure, together
from benchmarks.workload import CHUNK, RUN_ID, STAGE, checkpoint, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

REPLAY: Final = f"{RUN_ID}-replay"
JOIN: Final = (  # the least work that tells: entries of both runs, less those that differ
    "SELECT count(*) FROM checkpoint AS one JOIN checkpoint AS other ON other.run = ? AND other.stage = one.stage "
    "AND other.sequence = one.sequence WHERE one.run = ? AND one.stage = ? AND one.offset = other.offset "
    "AND one.event_time_ms = other.event_time_ms AND one.key = other.key"
)


def rows_of_both(size: int) -> Iterator[list[Row]]:
    """Append a run of one stage and its replay, in batches."""
    for run_id in (RUN_ID, REPLAY):
        for first in range(1, size + 1, CHUNK):
            yield [(run_id, *one_run(number)[1:]) for number in range(first, min(first + CHUNK, size + 1))]


def test_compare(race: Race, place: Callable[[], Path], dose: Dose) -> None:
    """Compare two equal runs, in µs an entry of each. The floor counts equal entries in a join."""
    size = dose.of(1_000_000, 100_000)
    with CheckpointStore(place(), durability="normal") as store, closing(floor.create(place(), "normal")) as connection:
        for batch in rows_of_both(size):
            store.append_many(map(checkpoint, batch))
            floor.append_many(connection, batch)
        for index in floor.INDEXES:
            connection.execute(index)

        def theirs() -> Timings:
            same = []
            timings = together(lambda: same.append(connection.execute(JOIN, (REPLAY, RUN_ID, STAGE)).get), size)
            assert same == [size]
            return timings

        def ours() -> Timings:
            found = []
            timings = together(lambda: found.append(store.compare(RUN_ID, REPLAY)), size)
            assert found[0].identical
            assert [stage.common for stage in found[0].stages] == [size]
            return timings

        race(
            f"compare {size:,} with {size:,}, an entry",
            lambda: theirs,
            lambda: ours,
            rounds=dose.of(7, 3),
            figure=Figure(2.0, own=True),
            warm_up=True,
        )

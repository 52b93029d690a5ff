"""What does it cost to read a chain from end to end?"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks import floor
from benchmarks.race import Figure, together
from benchmarks.workload import BATCH, checkpoint, many_runs
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings


def test_history(race: Race, filled: Callable[[int], Filled], dose: Dose) -> None:
    """Measure a walk over 100,000 Checkpoints, in µs an entry. The floor fetches tuples."""
    files, last = filled(BATCH), many_runs(BATCH)
    with CheckpointStore(files.path) as store, closing(floor.connect(files.floor_path, "full")) as connection:

        def theirs() -> Timings:
            seen: deque[object] = deque(maxlen=1)
            timings = together(lambda: seen.extend(connection.execute(floor.SCAN)), BATCH)
            assert seen == deque([last])
            return timings

        def ours() -> Timings:
            seen: deque[object] = deque(maxlen=1)
            timings = together(lambda: seen.extend(store.history()), BATCH)
            assert seen == deque([checkpoint(last)])
            return timings

        race(
            f"history of {BATCH:,}, an entry",
            lambda: theirs,
            lambda: ours,
            rounds=dose.of(15, 5),
            figure=Figure(1.7),
            warm_up=True,
        )

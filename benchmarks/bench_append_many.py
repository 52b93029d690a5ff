"""What does an entry cost in a batch?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import floor
from benchmarks.race import Figure, together
from benchmarks.workload import BATCH, checkpoint, many_runs, offset_key, one_run, random_key
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row


@pytest.mark.parametrize(
    ("name", "row", "key", "limit"),
    [
        ("keys from offsets", one_run, offset_key, 3.5),
        ("random keys", one_run, random_key, 5.5),
        ("from offsets, 10 runs, 3 stages", many_runs, offset_key, 3.5),
    ],
)
def test_append_many(
    race: Race,
    place: Callable[[], Path],
    dose: Dose,
    name: str,
    row: Callable[[int, Callable[[int], str]], Row],
    key: Callable[[int], str],
    limit: float,
) -> None:
    """Measure a batch of 100,000 in one durable transaction, into a new file, in µs an entry."""
    rows = [row(number, key) for number in range(1, BATCH + 1)]
    entries = [checkpoint(row) for row in rows]

    def theirs() -> Callable[[], Timings]:
        path = place()
        connection = floor.create(path)

        def run() -> Timings:
            timings = together(lambda: floor.append_many(connection, rows), BATCH)
            assert connection.execute("SELECT count(*) FROM checkpoint").get == BATCH
            connection.close()
            path.unlink()
            return timings

        return run

    def ours() -> Callable[[], Timings]:
        path = place()
        store = CheckpointStore(path)

        def run() -> Timings:
            timings = together(lambda: store.append_many(entries), BATCH)
            assert len(store) == BATCH
            assert store.latest() == entries[-1]
            store.close()
            path.unlink()
            return timings

        return run

    race(f"append_many, {name}", theirs, ours, rounds=dose.of(9, 3), figure=Figure(limit))

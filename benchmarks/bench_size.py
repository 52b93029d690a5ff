"""How much disk does an entry take?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import floor
from benchmarks.race import Figure
from benchmarks.workload import BATCH, checkpoint, offset_key, one_run, random_key
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.race import Race


@pytest.mark.parametrize(
    ("name", "key", "limit"), [("keys from offsets", offset_key, 150), ("random keys", random_key, 200)]
)
def test_size(race: Race, place: Callable[[], Path], name: str, key: Callable[[int], str], limit: float) -> None:
    """Measure a closed file of 100,000, in bytes an entry. Names have 14 and 9 characters, keys 15 or 32."""
    rows = [one_run(number, key) for number in range(1, BATCH + 1)]

    def theirs() -> float:
        path = place()
        connection = floor.create(path)
        floor.append_many(connection, rows)
        connection.close()
        return path.stat().st_size / BATCH

    def ours() -> float:
        path = place()
        with CheckpointStore(path) as store:
            store.append_many(map(checkpoint, rows))
        return path.stat().st_size / BATCH

    race.once(f"bytes an entry, {name}", theirs, ours, Figure(limit, own=True))

"""What does it cost to hand a whole chain over to a notebook?"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import arro3.core as arrow
import polars as pl
import pytest

from benchmarks import floor
from benchmarks.race import Figure, together
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings
    from milepost.forensics.frames import Frame


def _streamed(frame: Frame) -> int:
    return sum(batch.num_rows for batch in arrow.RecordBatchReader.from_stream(frame))


TAKERS: dict[str, Callable[[Frame], int]] = {
    "streamed through": _streamed,
    "in polars": lambda frame: pl.DataFrame(frame).height,
}


@pytest.mark.parametrize("taker", TAKERS)
def test_frames(race: Race, filled: Callable[[int], Filled], dose: Dose, large: int, taker: str) -> None:
    """Measure a frame of the largest store, in µs an entry. The floor fetches tuples, without position and signature."""
    files, take = filled(large), TAKERS[taker]
    with CheckpointStore(files.path) as store, closing(floor.connect(files.floor_path, "full")) as connection:

        def theirs() -> Timings:
            sizes: list[int] = []
            timings = together(lambda: sizes.append(len(connection.execute(floor.SCAN).fetchall())), large)
            assert sizes == [large]
            return timings

        def ours() -> Timings:
            sizes: list[int] = []
            timings = together(lambda: sizes.append(take(store.frame())), large)
            assert sizes == [large]
            return timings

        race(
            f"frame of {large:,} {taker}, an entry",
            lambda: theirs,
            lambda: ours,
            rounds=dose.of(5, 3),
            figure=Figure(2.0),
            warm_up=True,
        )

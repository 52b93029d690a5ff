"""What does a cursor add to a checkpoint? The floor here is milepost itself, without one."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

from benchmarks.bench_append import WARM
from benchmarks.race import Figure, each
from milepost import CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings

CURSOR: Final = {"page_token": "x" * 180}
"""About 200 bytes of JSON."""


def test_a_cursor(race: Race, place: Callable[[], Path], dose: Dose) -> None:
    """Measure a durable advance with a cursor of 200 bytes beside one without, in µs."""
    operations = 50
    with CheckpointStore(place()) as without, CheckpointStore(place()) as with_cursors:

        def advancing(store: CheckpointStore, cursor: object) -> Callable[[], Callable[[], Timings]]:
            numbers = count(1)

            def advance(number: int) -> object:
                mark = Watermark(number * 500, number)
                return store.advance("run-7", "load", mark, idempotency_key=f"load:{number}", cursor=cursor)

            def prepare() -> Callable[[], Timings]:
                batch = [next(numbers) for _ in range(operations)]
                return lambda: each(advance, batch)

            return prepare

        theirs, ours = advancing(without, None), advancing(with_cursors, CURSOR)
        for _ in range(WARM // operations):
            theirs()()
            ours()()
        race("advance with a cursor of 200 bytes, full, p50", theirs, ours, rounds=dose.of(60, 12), figure=Figure(1.10))
        assert len(without) == len(with_cursors)
        assert with_cursors.cursor("load") == CURSOR

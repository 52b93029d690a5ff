"""The rules of an append where the stage is known: what is told of nearly every entry at once, and what is not."""

from __future__ import annotations

import pytest

from milepost import (
    Checkpoint,
    CheckpointStore,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    StageMovedError,
    Watermark,
)
from support.chains import MAX, entry


class _Text(str):
    """Not `str` itself."""

    __slots__ = ()


BROKEN: dict[str, Checkpoint] = {
    "no key": entry(2, key=""),
    "a key that is too long": entry(2, key="k" * 1025),
    "a key with a NUL": entry(2, key="a\0b"),
    "a key that is no text": entry(2)._replace(idempotency_key=b"key"),  # type: ignore[arg-type]
    "a clock before 1970": entry(2, at_ms=-1),
    "a clock after all": entry(2, at_ms=MAX + 1),
    "an offset that is no number": entry(2)._replace(watermark=Watermark("9", 2**60)),  # type: ignore[arg-type]
    "an event time that is no integer": entry(2)._replace(watermark=Watermark(1000, 2.0**60)),  # type: ignore[arg-type]
    "an event time after all": entry(2, event_time_ms=MAX + 1),
    "an offset after all": entry(2, offset=MAX + 1),
    "a sequence after all": entry(MAX + 1, offset=1000, event_time_ms=2**60),
    "a watermark that is a tuple": entry(2)._replace(watermark=(1000, 2**60)),  # type: ignore[arg-type]
    "a tuple": tuple(entry(2)),  # type: ignore[dict-item]
    "a checkpoint that lacks a value": tuple.__new__(Checkpoint, entry(2)[:5]),
    "a checkpoint with a value more": tuple.__new__(Checkpoint, (*entry(2), 0)),
    "a watermark that lacks a value": entry(2)._replace(watermark=tuple.__new__(Watermark, (1000,))),
    "a watermark with a value more": entry(2)._replace(watermark=tuple.__new__(Watermark, (1000, 2**60, 0))),
    "a run of another type": entry(2, run_id=_Text("run-7")),
    "a run and a stage of another type": entry(2, run_id=_Text("run-7"), stage=_Text("load")),
    "numbers that are bools": entry(run_id="zero")._replace(sequence=True, watermark=Watermark(True, True)),
    "a sequence and an offset that are bools": entry(run_id="zero")._replace(sequence=True, watermark=Watermark(True, 1)),
    "numbers and a clock that are bools": entry(run_id="zero", at_ms=True)._replace(
        sequence=True, watermark=Watermark(True, True)
    ),
    "a clock before 1970 at the first instant": entry(run_id="zero", offset=0, event_time_ms=0, at_ms=-1),
    "names of another type": entry(2, run_id=_Text("run-7"), stage=_Text("load"), key=_Text("new")),
    "a sequence that is a bool": entry(1)._replace(sequence=True, idempotency_key="new"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_a_rule_is_refused_though_its_stage_is_known(store: CheckpointStore, broken: str) -> None:
    """In a batch, where what nearly every entry is can be told at once."""
    with pytest.raises(MilepostError) as caught:
        store.append_many([entry(0), entry(1), entry(0, run_id="zero", offset=0, event_time_ms=0, at_ms=0), BROKEN[broken]])
    assert isinstance(caught.value, InvalidCheckpointError | InvalidArgumentError), caught.value
    assert len(store) == 0


@pytest.mark.parametrize("mark", [Watermark(4, 9), Watermark(5, 0), Watermark(5, 2), Watermark(6, 1)])
def test_a_key_that_is_recorded_with_a_lower_or_a_higher_watermark_is_no_duplicate(
    store: CheckpointStore, mark: Watermark
) -> None:
    """Nobody is given the receipt of another step: with `after`, without it, or where no sequence is left."""

    def again(**after: Watermark) -> None:
        store.advance("run-7", "load", mark, idempotency_key="a", **after)

    store.advance("run-7", "load", Watermark(5, 1), idempotency_key="a")
    store.advance("run-7", "load", Watermark(7, 1), idempotency_key="b")
    with pytest.raises(IdempotencyConflictError):
        again()
    with pytest.raises(StageMovedError) as caught:
        again(after=Watermark(1, 1))
    assert caught.value.receipt is None
    store.append(entry(MAX, offset=7, event_time_ms=1))
    with pytest.raises(MilepostError):
        again()
    assert len(store) == 3

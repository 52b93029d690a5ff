"""
The rules of an append, in the order in which they are checked.

1. The checkpoint is valid.
2. The stage of its run has not recorded its key: with the same sequence and watermark it is a duplicate, else a conflict.
3. Its sequence is above the last one of the stage and run.
4. Neither its offset nor its event time is behind the last one of the stage and run.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import (
    Checkpoint,
    CheckpointStore,
    DamagedStoreError,
    IdempotencyConflictError,
    InvalidCheckpointError,
    MilepostWarning,
    Receipt,
    RejectedCheckpointError,
    SequenceError,
    Watermark,
    WatermarkRegressionError,
)
from milepost.checkpoint import chain_signature
from support.chains import MAX, chain, entry
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ELSEWHERE = [{"stage": "extract"}, {"run_id": "run-8"}]
"""Another stage of the same run, and the same stage of another run: no rule looks there."""


def test_an_append_is_answered_with_its_position_and_the_signature_there(store: CheckpointStore) -> None:
    """The first position is 1."""
    receipts = [store.append(each) for each in chain(3)]
    assert receipts == [Receipt(n, chain_signature(chain(n)), duplicate=False) for n in (1, 2, 3)]
    assert list(store.history()) == chain(3)


# 1. The checkpoint is valid


def test_an_invalid_checkpoint_is_refused_with_its_field_and_value(store: CheckpointStore) -> None:
    """It is a ValueError, as Python has it; test_bad_input.py has every wrong value of every field."""
    with pytest.raises(InvalidCheckpointError) as caught:
        store.append(entry(1, at_ms=-1))
    assert isinstance(caught.value, ValueError)
    assert (caught.value.field, caught.value.value, caught.value.index) == ("at_ms", -1, None)
    assert len(store) == 0


def test_an_invalid_checkpoint_is_refused_though_its_step_is_recorded(store: CheckpointStore) -> None:
    """The first rule comes before the second, for which the wall clock would not count."""
    store.append(entry(1))
    with pytest.raises(InvalidCheckpointError):
        store.append(entry(1, at_ms=-1))


# 2. The key is new


def test_a_key_with_the_same_sequence_and_watermark_is_a_duplicate(store: CheckpointStore) -> None:
    """Whatever the wall clock says: the receipt is the first one's, and nothing is written."""
    receipt = store.append(entry(1))
    store.append(entry(2))
    assert store.append(entry(1, at_ms=7)) == replace(receipt, duplicate=True)
    assert list(store.history()) == chain(2)


def test_a_duplicate_is_one_however_far_the_stage_has_gone(store: CheckpointStore) -> None:
    """The second rule comes before the third and the fourth, which the step would break now."""
    receipts = [store.append(each) for each in chain(3)]
    for receipt, each in zip(receipts, chain(3), strict=True):
        assert store.append(each) == replace(receipt, duplicate=True)
    assert len(store) == 3


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(entry(1, offset=501), id="same sequence, another offset"),
        pytest.param(entry(1, event_time_ms=0), id="same sequence, another event time"),
        pytest.param(entry(9, key="load:1", offset=500), id="later, same offset"),
        pytest.param(entry(9, key="load:1"), id="later"),
        pytest.param(entry(9, key="load:1", offset=0, event_time_ms=0), id="later, and behind"),
        pytest.param(entry(0, key="load:1"), id="earlier, and behind"),
    ],
)
def test_a_key_with_another_sequence_or_watermark_is_a_conflict(store: CheckpointStore, other: Checkpoint) -> None:
    """It tells both, whether the sequence rises or not: the third and the fourth rule come after it."""
    store.append(entry(1))
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append(other)
    assert (caught.value.entry, caught.value.recorded, caught.value.index) == (other, entry(1), None)
    assert list(store.history()) == [entry(1)]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_key_is_new_to_another_stage_or_run(store: CheckpointStore, elsewhere: dict[str, str]) -> None:
    """Each stage of each run has keys of its own."""
    store.append(entry(1, key="same"))
    assert store.append(entry(2, key="same", **elsewhere)) == Receipt(2, store.chain_signature(), duplicate=False)  # type: ignore[arg-type]


# 3. The sequence rises


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_a_sequence_that_does_not_rise_is_refused(store: CheckpointStore, sequence: int) -> None:
    """The last one's own, too."""
    store.append(entry(5))
    late = entry(sequence, key="late", offset=10**6, event_time_ms=2**60)
    with pytest.raises(SequenceError) as caught:
        store.append(late)
    assert (caught.value.entry, caught.value.last, caught.value.index) == (late, entry(5), None)
    assert len(store) == 1


def test_a_sequence_that_does_not_rise_is_told_before_a_watermark_that_falls(store: CheckpointStore) -> None:
    """The third rule comes before the fourth."""
    store.append(entry(5))
    with pytest.raises(SequenceError):
        store.append(entry(4, key="late"))


def test_a_sequence_may_begin_anywhere_and_leave_gaps(store: CheckpointStore) -> None:
    """From 0 to 2^63-1."""
    entries = [entry(sequence, offset=0, event_time_ms=0) for sequence in (0, 7, 8, MAX)]
    for each in entries:
        store.append(each)
    assert list(store.history()) == entries


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_sequence_begins_anew_in_another_stage_or_run(store: CheckpointStore, elsewhere: dict[str, str]) -> None:
    """The last one of any other does not count."""
    store.append(entry(5))
    assert store.append(entry(1, offset=10**6, event_time_ms=2**60, **elsewhere)).position == 2  # type: ignore[arg-type]


# 4. The watermark does not fall


@pytest.mark.parametrize(("offset", "event_time_ms"), [(99, 100), (100, 99), (99, 99), (0, MAX), (MAX, 0)])
def test_an_offset_or_an_event_time_that_falls_is_refused(store: CheckpointStore, offset: int, event_time_ms: int) -> None:
    """Each by itself, however far the other one rises."""
    last = entry(1, offset=100, event_time_ms=100)
    store.append(last)
    behind = entry(2, offset=offset, event_time_ms=event_time_ms)
    with pytest.raises(WatermarkRegressionError) as caught:
        store.append(behind)
    assert (caught.value.entry, caught.value.last, caught.value.index) == (behind, last, None)
    store.append(entry(2, offset=100, event_time_ms=100))


@pytest.mark.parametrize(("offset", "event_time_ms"), [(100, 100), (101, 100), (100, 101)])
def test_an_offset_and_an_event_time_may_stay_where_they_are(
    store: CheckpointStore, offset: int, event_time_ms: int
) -> None:
    """Both, or one of them."""
    store.append(entry(1, offset=100, event_time_ms=100))
    assert store.append(entry(2, offset=offset, event_time_ms=event_time_ms)).position == 2


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_watermark_begins_anew_in_another_stage_or_run(store: CheckpointStore, elsewhere: dict[str, str]) -> None:
    """The last one of any other does not count."""
    store.append(entry(1))
    assert store.append(entry(2, offset=0, event_time_ms=0, **elsewhere)).position == 2  # type: ignore[arg-type]


# What no rule looks at, and what is refused


def test_a_wall_clock_that_goes_back_rejects_nothing(store: CheckpointStore) -> None:
    """`at_ms` is recorded as it is stated."""
    entries = [entry(1, at_ms=1000), entry(2, at_ms=0), entry(3, at_ms=1000)]
    for each in entries:
        store.append(each)
    assert list(store.history()) == entries


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (entry(3, at_ms=-1), InvalidCheckpointError),
        (entry(3, key="load:1"), IdempotencyConflictError),
        (entry(2, key="late"), SequenceError),
        (entry(3, offset=0), WatermarkRegressionError),
    ],
)
def test_what_is_refused_leaves_the_chain_as_it_was(
    store: CheckpointStore, refused: Checkpoint, error: type[Exception]
) -> None:
    """And the next append goes on from there; what breaks rule 2, 3 or 4 is a RejectedCheckpointError."""
    for each in chain(2):
        store.append(each)
    head = store.head()
    with pytest.raises(error) as caught:
        store.append(refused)
    assert isinstance(caught.value, RejectedCheckpointError) == (error is not InvalidCheckpointError)
    assert store.head() == head
    store.append(entry(3))
    assert list(store.history()) == chain(3)


@pytest.mark.filterwarnings("error::milepost.MilepostWarning")
@pytest.mark.parametrize(
    ("event_time_ms", "looks"),
    [
        (7258118400001, "check their unit"),
        (883612799999999, "check their unit"),  # half of what 2026 would be in microseconds
        (883612800000000, "microseconds"),
        (883612799999999999, "microseconds"),
        (883612800000000000, "nanoseconds"),
        (1767225600000000000, "nanoseconds"),
    ],
)
def test_an_event_time_after_the_year_2200_is_told_with_the_likely_unit(
    store: CheckpointStore, event_time_ms: int, looks: str
) -> None:
    """One `time.time_ns()` would pin the stage for good: no later event time could come before it."""
    with pytest.raises(MilepostWarning, match=f"after the year 2200: .*{looks}"):
        store.advance("run-7", "load", Watermark(1, event_time_ms), idempotency_key="a")
    assert len(store) == 0, "a warning that is an error leaves the chain as it was"
    store.advance("run-7", "load", Watermark(1, 7258118400000), idempotency_key="a")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for offset in range(2, 5):
            store.advance("run-7", "load", Watermark(offset, event_time_ms), idempotency_key=f"{offset}")
    assert len(told) == 1, "once"


@pytest.mark.parametrize("place", [2**63 - 1, 0, -5])
def test_behind_a_row_that_stands_where_none_can_nothing_is_appended(path: Path, place: int) -> None:
    """The file is damaged: the next position would be none, or one that was assigned before."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3))
    tamper(path, "DELETE FROM entry WHERE position < 3", f"UPDATE entry SET position = {place} WHERE position = 3")
    with CheckpointStore(path, durability="normal") as damaged:
        calls: list[Callable[[], object]] = [
            lambda: damaged.append(entry(4)),
            lambda: damaged.append_many([entry(4)]),
            lambda: damaged.advance("r", "s", entry(4).watermark, idempotency_key="k"),
        ]
        for call in calls:
            with pytest.raises(DamagedStoreError):
                call()
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT position FROM entry").fetchall() == [(place,)]
    connection.close()

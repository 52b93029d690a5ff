"""The rules of an append, one by one, and of a batch that is longer than what is written at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from milepost import (
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    IdempotencyConflictError,
    SequenceError,
    WatermarkRegressionError,
)
from support.chains import chain, entry

if TYPE_CHECKING:
    pass


def test_a_key_with_the_same_sequence_and_watermark_is_a_duplicate(store: CheckpointStore) -> None:
    """Whatever the wall clock says: the receipt is the first one's, and nothing is written."""
    receipt = store.append(entry(1))
    store.append(entry(2))
    assert store.append(entry(1, at_ms=7)) == replace(receipt, duplicate=True)
    assert store.append_many([entry(2), entry(3), entry(1)]) == BatchReceipt(1, 2, 3, store.chain_signature())
    assert list(store.history()) == chain(3)


@pytest.mark.parametrize(
    "other",
    [
        entry(1, offset=501),
        entry(1, event_time_ms=0),
        entry(9, key="load:1", offset=500),
        entry(9, key="load:1"),
    ],
)
def test_a_key_with_another_sequence_or_watermark_is_a_conflict(store: CheckpointStore, other: Checkpoint) -> None:
    """It tells both, whether the sequence rises or not, and in a batch the index."""
    store.append(entry(1))
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append(other)
    assert (caught.value.entry, caught.value.recorded, caught.value.index) == (other, entry(1), None)
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append_many([entry(2), other])
    assert (caught.value.entry, caught.value.recorded, caught.value.index) == (other, entry(1), 1)
    assert list(store.history()) == [entry(1)]


@pytest.mark.parametrize("sequence", [0, 4, 5])
def test_a_sequence_that_does_not_rise_is_refused(store: CheckpointStore, sequence: int) -> None:
    """The last one's own, too."""
    store.append(entry(5))
    late = entry(sequence, key="late", offset=10**6, event_time_ms=2**60)
    with pytest.raises(SequenceError) as caught:
        store.append(late)
    assert (caught.value.entry, caught.value.last) == (late, entry(5))
    assert len(store) == 1


@pytest.mark.parametrize(("offset", "event_time_ms"), [(99, 100), (100, 99)])
def test_an_offset_or_an_event_time_that_falls_is_refused(store: CheckpointStore, offset: int, event_time_ms: int) -> None:
    """Each by itself; both may stay where they are."""
    store.append(entry(1, offset=100, event_time_ms=100))
    with pytest.raises(WatermarkRegressionError):
        store.append(entry(2, offset=offset, event_time_ms=event_time_ms))
    store.append(entry(2, offset=100, event_time_ms=100))

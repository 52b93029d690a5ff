"""A batch: all of it or nothing, the entry that is at fault, and how few rows and stages are in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import (
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    IdempotencyConflictError,
    InvalidCheckpointError,
    SequenceError,
    WatermarkRegressionError,
    append,
    rows,
)
from milepost.checkpoint import chain_signature
from milepost.mileposts import INTERVAL
from support.chains import chain, entry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_a_batch_is_answered_with_what_is_new_what_is_not_and_where_the_chain_ends(store: CheckpointStore) -> None:
    """Duplicates of what the chain has, and of what the batch itself has."""
    for each in chain(2):
        store.append(each)
    assert store.append_many([entry(2), entry(3), entry(1)]) == BatchReceipt(1, 2, 3, store.chain_signature())
    assert store.append_many([entry(4), entry(4)]) == BatchReceipt(1, 1, 4, store.chain_signature())
    assert list(store.history()) == chain(4)


def test_a_batch_of_nothing_is_taken(store: CheckpointStore) -> None:
    """The receipt says where the chain stands."""
    store.append(entry(1))
    assert store.append_many([]) == BatchReceipt(0, 0, 1, store.chain_signature())


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (entry(3, at_ms=-1), InvalidCheckpointError),
        (entry(3, key="load:1"), IdempotencyConflictError),
        (entry(3, key="load:2"), IdempotencyConflictError),
        (entry(2, key="late"), SequenceError),
        (entry(3, offset=0), WatermarkRegressionError),
    ],
)
def test_of_a_batch_with_one_wrong_entry_nothing_is_recorded(
    store: CheckpointStore, refused: Checkpoint, error: Any
) -> None:
    """Every rule counts what the batch has before it; the error has the index of the entry."""
    store.append(entry(1))
    with pytest.raises(error) as caught:
        store.append_many([entry(2), refused, entry(4)])
    assert caught.value.index == 1
    assert list(store.history()) == [entry(1)]
    assert store.append_many([entry(2), entry(3)]).position == 3


@pytest.mark.parametrize(
    "other",
    [
        entry(1, offset=501),
        entry(1, event_time_ms=0),
        entry(9, key="load:1", offset=500),
        entry(9, key="load:1"),
    ],
)
def test_a_conflict_in_a_batch_tells_both_and_the_index(store: CheckpointStore, other: Checkpoint) -> None:
    """Whether the sequence rises or not."""
    store.append(entry(1))
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append_many([entry(2), other])
    assert (caught.value.entry, caught.value.recorded, caught.value.index) == (other, entry(1), 1)
    assert list(store.history()) == [entry(1)]


@pytest.mark.parametrize("wrong", [0, 1, 100, 249, 250, 251, 499, 500, 600])
def test_an_error_in_a_long_batch_tells_the_index_of_its_entry(store: CheckpointStore, wrong: int) -> None:
    """A key is recorded already, though the sequence rises: the row is refused when many are written at once."""
    store.append(entry(1, key="taken"))
    batch = chain(701)[1:]
    batch[wrong] = batch[wrong]._replace(idempotency_key="taken")
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append_many(batch)
    assert (caught.value.entry, caught.value.recorded, caught.value.index) == (batch[wrong], entry(1, key="taken"), wrong)
    assert store.append(entry(2)).position == 2


@pytest.mark.parametrize(
    "then", [entry(4)._replace(sequence=True), entry(1), entry(2, key="late"), entry(4, stage="milepost:run")]
)
def test_of_two_errors_in_a_batch_the_first_is_told(store: CheckpointStore, then: Checkpoint) -> None:
    """Also where it is seen only when the rows are written."""
    store.append(entry(1))
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append_many([entry(2), entry(3, key="load:1"), then])
    assert caught.value.index == 1


# How much of it is in memory at once


@pytest.mark.parametrize("run_stages", [1, 2, 3, 1000])
def test_a_batch_over_more_stages_than_are_kept_in_memory_is_one_chain(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, run_stages: int
) -> None:
    """What waits is written before a stage is forgotten; duplicates and rules are those of all that went before."""
    monkeypatch.setattr(append, "_RUN_STAGES", run_stages)
    batch = [
        entry(number, run_id=f"run-{number % 2}", stage=f"stage-{number % 7}", key=f"step-{number}")
        for number in [*range(1, 60), 30, *range(60, 90), 31]
    ]
    expected = [*batch[:59], *batch[60:-1]]
    assert store.append_many(batch) == BatchReceipt(89, 2, 89, chain_signature(expected))
    assert list(store.history()) == expected
    with pytest.raises(SequenceError):
        store.append_many([*(entry(90 + n, stage=f"other-{n}") for n in range(5)), batch[0]._replace(idempotency_key="x")])
    assert len(store) == 89


def test_no_more_stages_are_kept_in_memory_than_allowed(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a long batch has: nor their runs."""
    monkeypatch.setattr(append, "_RUN_STAGES", 3)
    most = [0, 0]
    checked_stage = append.Appender._checked_stage

    def counted(self: append.Appender, item: Checkpoint, index: int | None) -> object:
        stage = checked_stage(self, item, index)
        most[:] = max(most[0], len(self._stages)), max(most[1], len(self._runs))
        return stage

    monkeypatch.setattr(append.Appender, "_checked_stage", counted)
    store.append_many([entry(1, run_id=f"run-{number}") for number in range(20)])
    assert most == [3, 3]


def test_a_long_batch_is_written_a_few_rows_at_a_time(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that live for long are gone through by Python's garbage collector, again and again."""
    written: list[int] = []
    add_entries = rows.add_entries

    def noted(connection: rows.Statements, numbered: Sequence[tuple[object, ...]]) -> None:
        written.append(len(numbered))
        add_entries(connection, numbered)

    monkeypatch.setattr(rows, "add_entries", noted)
    store.append_many(chain(1000))
    assert written == [250] * 4


@pytest.mark.parametrize("before", [1, INTERVAL - 1, INTERVAL, INTERVAL + 3])
def test_a_milepost_within_a_batch_counts_the_rows_that_are_not_written_yet(
    store: CheckpointStore, path: Path, before: int
) -> None:
    """On top of what the stage had when the store was opened."""
    length = before + 3 * INTERVAL + 2
    with CheckpointStore(path, durability="normal") as other:
        other.append_many(chain(before))
    store.append(entry(1, run_id="run-8"))
    store.append_many(chain(length)[before:])
    assert store.verify().ok
    assert len(store) == length + 1

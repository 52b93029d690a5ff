"""The rules of an append, one by one, and of a batch that is longer than what is written at once."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from chains import MAX, chain, entry
from milepost import (
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    SequenceError,
    StageMovedError,
    Watermark,
    WatermarkRegressionError,
    append,
    rows,
)
from milepost.checkpoint import chain_signature
from milepost.mileposts import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


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


@pytest.mark.parametrize("then", [entry(4)._replace(sequence=True), entry(1), entry(2, key="late")])
def test_of_two_errors_in_a_batch_the_first_is_told(store: CheckpointStore, then: Checkpoint) -> None:
    """Also where it is seen only when the rows are written."""
    store.append(entry(1))
    with pytest.raises(IdempotencyConflictError) as caught:
        store.append_many([entry(2), entry(3, key="load:1"), then])
    assert caught.value.index == 1


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


# Advance, with `after`


def _advance(store: CheckpointStore, mark: int, key: str, **after: Watermark | None) -> object:
    return store.advance("run-7", "load", Watermark(mark, 0), idempotency_key=key, **after)


def test_a_stage_that_does_not_stand_where_it_must_is_not_advanced(store: CheckpointStore) -> None:
    """Neither one that has not begun, nor one that has."""
    with pytest.raises(StageMovedError):
        _advance(store, 5, "a", after=Watermark(1, 0))
    _advance(store, 5, "a", after=None)
    with pytest.raises(StageMovedError):
        _advance(store, 6, "b", after=None)
    with pytest.raises(StageMovedError):
        _advance(store, 6, "b", after=Watermark(4, 0))
    with pytest.raises(StageMovedError):
        _advance(store, 6, "b", after=Watermark(5, 1))
    _advance(store, 6, "b", after=Watermark(5, 0))
    assert [item.watermark.offset for item in store.history()] == [5, 6]


def test_where_a_stage_must_stand_is_looked_at_before_the_key(store: CheckpointStore) -> None:
    """Of two owners that do the same step one is told, and that the step is recorded."""
    receipt = store.advance("run-7", "load", Watermark(5, 0), idempotency_key="a", after=None)
    with pytest.raises(StageMovedError) as caught:
        _advance(store, 5, "a", after=None)
    assert (caught.value.receipt, caught.value.found) == (replace(receipt, duplicate=True), Watermark(5, 0))
    with pytest.raises(StageMovedError) as caught:  # the key of another step
        _advance(store, 6, "a", after=None)
    assert caught.value.receipt is None
    with pytest.raises(StageMovedError) as caught:
        _advance(store, 6, "b", after=None)
    assert caught.value.receipt is None


def test_a_stage_moves_from_where_it_must_stand(store: CheckpointStore) -> None:
    """Else two owners that say the same would both be told that it is theirs."""
    _advance(store, 5, "a")
    with pytest.raises(StageMovedError):
        _advance(store, 5, "b", after=Watermark(5, 0))
    with pytest.raises(StageMovedError):
        _advance(store, 5, "a", after=Watermark(5, 0))
    assert len(store) == 1


def test_a_key_that_is_recorded_with_this_watermark_is_a_duplicate_however_far_the_stage_is(store: CheckpointStore) -> None:
    """With another one it is a conflict; and both where no sequence is left."""
    first = store.advance("run-7", "load", Watermark(5, 0), idempotency_key="a")
    assert _advance(store, 5, "a") == replace(first, duplicate=True)
    _advance(store, 7, "b")
    assert _advance(store, 5, "a") == replace(first, duplicate=True)
    for mark in (6, 8):
        with pytest.raises(IdempotencyConflictError):
            _advance(store, mark, "a")
    with pytest.raises(WatermarkRegressionError):
        _advance(store, 6, "c")
    assert store.append(entry(3)).position == 3  # what was refused is not kept in memory either
    store.append(entry(MAX, offset=MAX, event_time_ms=MAX))
    assert _advance(store, 5, "a") == replace(first, duplicate=True)
    with pytest.raises(InvalidCheckpointError):
        store.advance("run-7", "load", Watermark(MAX, MAX), idempotency_key="d")
    assert len(store) == 4


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


@pytest.mark.parametrize("spoil", [lambda s: _advance(s, 5, "a"), lambda s: _advance(s, 6, "a")])
@pytest.mark.parametrize("inside", [False, True])
def test_what_an_advance_has_not_written_does_not_count(
    store: CheckpointStore, spoil: Callable[[CheckpointStore], object], inside: bool
) -> None:
    """The next append stands on the last row that is there, also within one block."""
    _advance(store, 5, "a")
    _advance(store, 5, "b")

    def both() -> None:
        with contextlib.suppress(IdempotencyConflictError):
            spoil(store)
        assert _advance(store, 7, "c").position == 3  # type: ignore[attr-defined]

    if inside:
        with store.transaction():
            both()
    else:
        both()
    assert [item.sequence for item in store.history()] == [1, 2, 3]


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


def test_advance_takes_what_python_takes_as_an_integer(store: CheckpointStore) -> None:
    """As a data frame gives it; what is stored and compared is an int."""
    first = Watermark(np.int64(500), np.uint32(7))  # type: ignore[arg-type]
    store.advance("run-7", "load", first, idempotency_key="a")
    store.advance("run-7", "load", Watermark(900, 7), idempotency_key="b", after=first)
    assert next(store.history()).watermark == Watermark(500, 7)
    assert [type(value) for entry in store.history() for value in entry.watermark] == [int] * 4
    for wrong in (True, np.float64(1), "1"):
        with pytest.raises(InvalidCheckpointError, match="offset"):
            store.advance("run-7", "load", Watermark(wrong, 8), idempotency_key="c")  # type: ignore[arg-type]

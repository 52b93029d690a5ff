"""Advance: the store stamps the sequence and the time, and `after` says where the stage must stand."""

from __future__ import annotations

import contextlib
import inspect
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from milepost import (
    CheckpointStore,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    Receipt,
    RejectedCheckpointError,
    StageMovedError,
    Watermark,
    WatermarkRegressionError,
)
from support.chains import MAX, entry

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, SECOND, THIRD = (Watermark(1000 * n, 10 * n) for n in (1, 2, 3))
NOT_ASKED: Final = object()


def _advance(store: CheckpointStore, mark: Watermark, key: str, after: Any = NOT_ASKED, stage: str = "load") -> Receipt:
    asked = {} if after is NOT_ASKED else {"after": after}
    return store.advance("run-7", stage, mark, idempotency_key=key, **asked)


def _advance_to(store: CheckpointStore, mark: int, key: str, **after: Watermark | None) -> object:
    return store.advance("run-7", "load", Watermark(mark, 0), idempotency_key=key, **after)


def test_advance_stamps_the_next_sequence_and_the_time_of_the_clock(store: CheckpointStore) -> None:
    """The first sequence of a stage in a run is 1; the clock of these tests goes on by a second at each look."""
    for stage in ("load", "load", "extract"):
        store.advance("run-7", stage, FIRST, idempotency_key=f"step {len(store)}")
    assert [(e.stage, e.sequence, e.idempotency_key) for e in store.history()] == [
        ("load", 1, "step 0"),
        ("load", 2, "step 1"),
        ("extract", 1, "step 2"),
    ]
    assert [e.at_ms for e in store.history()] == [1767225601000, 1767225602000, 1767225603000]


def test_advance_is_answered_as_an_append_is(store: CheckpointStore) -> None:
    """With the position and the signature there."""
    assert _advance(store, FIRST, "one") == Receipt(1, store.chain_signature(), duplicate=False)
    assert _advance(store, SECOND, "two") == Receipt(2, store.chain_signature(), duplicate=False)


def test_advance_counts_on_from_what_was_appended(store: CheckpointStore) -> None:
    """Whatever gaps the sequences have."""
    store.append(entry(41, offset=0, event_time_ms=0))
    _advance(store, FIRST, "one")
    assert [e.sequence for e in store.history()] == [41, 42]


def test_advance_in_a_block_counts_on_from_what_the_block_has_appended(store: CheckpointStore) -> None:
    """The stamped sequence sees the block's own entries."""
    with store.transaction():
        store.append(entry(7))
        store.advance("run-7", "load", Watermark(9000, 2**50), idempotency_key="next")
    last = store.latest()
    assert last is not None
    assert last.sequence == 8


def test_a_key_that_is_recorded_with_this_watermark_is_a_duplicate_however_far_the_stage_is(store: CheckpointStore) -> None:
    """With another one it is a conflict; and both where no sequence is left."""
    first = store.advance("run-7", "load", Watermark(5, 0), idempotency_key="a")
    assert _advance_to(store, 5, "a") == replace(first, duplicate=True)
    _advance_to(store, 7, "b")
    assert _advance_to(store, 5, "a") == replace(first, duplicate=True)
    for mark in (6, 8):
        with pytest.raises(IdempotencyConflictError):
            _advance_to(store, mark, "a")
    with pytest.raises(WatermarkRegressionError):
        _advance_to(store, 6, "c")
    assert store.append(entry(3)).position == 3  # what was refused is not kept in memory either
    store.append(entry(MAX, offset=MAX, event_time_ms=MAX))
    assert _advance_to(store, 5, "a") == replace(first, duplicate=True)
    with pytest.raises(InvalidCheckpointError):
        store.advance("run-7", "load", Watermark(MAX, MAX), idempotency_key="d")
    assert len(store) == 4


@pytest.mark.parametrize("spoil", [lambda s: _advance_to(s, 5, "a"), lambda s: _advance_to(s, 6, "a")])
@pytest.mark.parametrize("inside", [False, True])
def test_what_an_advance_has_not_written_does_not_count(
    store: CheckpointStore, spoil: Callable[[CheckpointStore], object], inside: bool
) -> None:
    """The next append stands on the last row that is there, also within one block."""
    _advance_to(store, 5, "a")
    _advance_to(store, 5, "b")

    def both() -> None:
        with contextlib.suppress(IdempotencyConflictError):
            spoil(store)
        assert _advance_to(store, 7, "c").position == 3  # type: ignore[attr-defined]

    if inside:
        with store.transaction():
            both()
    else:
        both()
    assert [item.sequence for item in store.history()] == [1, 2, 3]


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


def test_a_recorded_step_is_a_duplicate_also_where_no_sequence_is_left(store: CheckpointStore) -> None:
    """Nothing has to be stamped for it; a new step is told."""
    store.append(entry(2**63 - 2, offset=10, event_time_ms=0))
    last = store.advance("run-7", "load", Watermark(20, 0), idempotency_key="last")
    again = store.advance("run-7", "load", Watermark(20, 0), idempotency_key="last")
    assert (again.position, again.signature, again.duplicate) == (last.position, last.signature, True)
    first = entry(2**63 - 2, offset=10, event_time_ms=0)
    assert store.advance("run-7", "load", first.watermark, idempotency_key=first.idempotency_key).position == 1
    with pytest.raises(MilepostError):
        store.advance("run-7", "load", Watermark(30, 0), idempotency_key="new")
    with store.transaction():
        assert store.advance("run-7", "load", Watermark(20, 0), idempotency_key="last").duplicate
    assert len(store) == 2


def test_a_sequence_cannot_be_stamped_above_the_largest(store: CheckpointStore) -> None:
    """After sequence 2^63-1 a stage can go on only in a new run, and advance says which field is at fault."""
    store.append(entry(1)._replace(sequence=MAX))
    with pytest.raises(InvalidCheckpointError, match="sequence is 9223372036854775808"):
        store.advance("run-7", "load", Watermark(MAX, MAX), idempotency_key="one too many")
    assert len(store) == 1


# From where the stage stands


def test_help_shows_that_nobody_asks_where_a_stage_stands_unless_it_is_given() -> None:
    """None would be an answer: that the stage has no checkpoint yet."""
    assert " = <not asked>, cursor:" in str(inspect.signature(CheckpointStore.advance))


def test_a_stage_that_does_not_stand_where_it_must_is_not_advanced(store: CheckpointStore) -> None:
    """Neither one that has not begun, nor one that has."""
    with pytest.raises(StageMovedError):
        _advance_to(store, 5, "a", after=Watermark(1, 0))
    _advance_to(store, 5, "a", after=None)
    with pytest.raises(StageMovedError):
        _advance_to(store, 6, "b", after=None)
    with pytest.raises(StageMovedError):
        _advance_to(store, 6, "b", after=Watermark(4, 0))
    with pytest.raises(StageMovedError):
        _advance_to(store, 6, "b", after=Watermark(5, 1))
    _advance_to(store, 6, "b", after=Watermark(5, 0))
    assert [item.watermark.offset for item in store.history()] == [5, 6]


def test_where_a_stage_must_stand_is_looked_at_before_the_key(store: CheckpointStore) -> None:
    """Of two owners that do the same step one is told, and that the step is recorded."""
    receipt = store.advance("run-7", "load", Watermark(5, 0), idempotency_key="a", after=None)
    with pytest.raises(StageMovedError) as caught:
        _advance_to(store, 5, "a", after=None)
    assert (caught.value.receipt, caught.value.found) == (replace(receipt, duplicate=True), Watermark(5, 0))
    with pytest.raises(StageMovedError) as caught:  # the key of another step
        _advance_to(store, 6, "a", after=None)
    assert caught.value.receipt is None
    with pytest.raises(StageMovedError) as caught:
        _advance_to(store, 6, "b", after=None)
    assert caught.value.receipt is None


def test_a_stage_moves_from_where_it_must_stand(store: CheckpointStore) -> None:
    """Else two owners that say the same would both be told that it is theirs."""
    _advance_to(store, 5, "a")
    with pytest.raises(StageMovedError):
        _advance_to(store, 5, "b", after=Watermark(5, 0))
    with pytest.raises(StageMovedError):
        _advance_to(store, 5, "a", after=Watermark(5, 0))
    assert len(store) == 1


def test_an_advance_from_where_the_stage_stands_is_recorded(store: CheckpointStore) -> None:
    """None says that it has no checkpoint yet."""
    receipts = [
        _advance(store, FIRST, "one", None),
        _advance(store, SECOND, "two", FIRST),
        _advance(store, FIRST, "one", None, stage="extract"),
    ]
    assert [(receipt.position, receipt.duplicate) for receipt in receipts] == [(1, False), (2, False), (3, False)]
    assert [(e.stage, e.sequence, e.watermark) for e in store.history()] == [
        ("load", 1, FIRST),
        ("load", 2, SECOND),
        ("extract", 1, FIRST),
    ]


def test_a_stage_is_advanced_from_a_checkpoint_with_sequence_0(store: CheckpointStore) -> None:
    """It has begun, so None no longer says where it stands."""
    store.append(entry(0, offset=1000, event_time_ms=10))
    with pytest.raises(StageMovedError) as caught:
        _advance(store, SECOND, "two", None)
    assert caught.value.found == FIRST
    assert _advance(store, SECOND, "two", FIRST).position == 2


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (None, "it has a checkpoint"),
        (FIRST, "it has moved on"),
        (THIRD, "it is not there yet"),
        (SECOND._replace(event_time_ms=11), "the event time is another one"),
    ],
)
def test_an_advance_from_where_the_stage_does_not_stand_is_told_and_writes_nothing(
    store: CheckpointStore, after: Watermark | None, why: str
) -> None:
    """The error says what was expected and what was found."""
    _advance(store, FIRST, "one")
    _advance(store, SECOND, "two")
    head = store.head()
    with pytest.raises(StageMovedError) as told:
        _advance(store, Watermark(9000, 90), "nine", after)
    assert (told.value.expected, told.value.found, told.value.receipt) == (after, SECOND, None)
    assert store.head() == head
    _advance(store, Watermark(9000, 90), "nine", SECOND)


def test_an_advance_of_a_stage_without_a_checkpoint_from_a_watermark_is_told(store: CheckpointStore) -> None:
    """Another stage of the run and the same stage of another run do not count; nothing is made for the stage."""
    _advance(store, FIRST, "one", stage="extract")
    store.advance("run-8", "load", FIRST, idempotency_key="one")
    with pytest.raises(StageMovedError) as told:
        _advance(store, SECOND, "two", FIRST)
    assert (told.value.expected, told.value.found, told.value.receipt) == (FIRST, None, None)
    assert store.latest_for_stage("load", run_id="run-7") is None
    assert len(store) == 2


def test_a_step_that_would_not_move_the_stage_is_told(store: CheckpointStore) -> None:
    """Two owners that expect the same could both be content with it."""
    _advance(store, FIRST, "one", None)
    with pytest.raises(StageMovedError) as told:
        _advance(store, FIRST, "again", FIRST)
    assert (told.value.expected, told.value.found, told.value.receipt) == (FIRST, FIRST, None)
    assert len(store) == 1


def test_a_retry_after_an_unknown_outcome_finds_the_receipt_of_its_own_step(store: CheckpointStore) -> None:
    """Also when others have moved the stage on since."""
    first = _advance(store, FIRST, "one", None)
    second = _advance(store, SECOND, "two", FIRST)
    for mark, key, after, receipt in [(FIRST, "one", None, first), (SECOND, "two", FIRST, second)]:
        with pytest.raises(StageMovedError) as told:
            _advance(store, mark, key, after)
        assert told.value.receipt is not None
        assert (told.value.receipt.position, told.value.receipt.signature) == (receipt.position, receipt.signature)
        _advance(store, THIRD, "three")


@pytest.mark.parametrize(("mark", "key"), [(SECOND, "one"), (FIRST, "none"), (FIRST, "extract")])
def test_the_receipt_is_of_the_same_stage_key_and_watermark_only(store: CheckpointStore, mark: Watermark, key: str) -> None:
    """Any other entry says nothing of this step."""
    _advance(store, FIRST, "extract", stage="extract")
    _advance(store, FIRST, "one", None)
    with pytest.raises(StageMovedError) as told:
        _advance(store, mark, key, None)
    assert told.value.receipt is None


def test_where_the_stage_stands_is_looked_at_before_the_key_and_the_other_rules_after_it(store: CheckpointStore) -> None:
    """A recorded key is no duplicate there; the key's conflict and a watermark that falls are told as always."""
    _advance(store, FIRST, "one", None)
    _advance(store, SECOND, "two", FIRST)
    with pytest.raises(StageMovedError):
        _advance(store, FIRST, "one", FIRST)
    with pytest.raises(IdempotencyConflictError):
        _advance(store, THIRD, "one", SECOND)
    with pytest.raises(WatermarkRegressionError):
        _advance(store, FIRST, "three", SECOND)
    assert _advance(store, SECOND, "two").duplicate
    assert len(store) == 2


def test_the_error_says_what_was_expected_and_found_and_survives_a_pickle(store: CheckpointStore) -> None:
    """It is a rejection: the checkpoint is valid, and the chain cannot take it."""
    receipt = _advance(store, FIRST, "one", None)
    with pytest.raises(RejectedCheckpointError) as told:
        _advance(store, FIRST, "one", SECOND)
    error = pickle.loads(pickle.dumps(told.value))
    assert type(error) is StageMovedError
    assert (error.expected, error.found) == (SECOND, FIRST)
    assert error.receipt == told.value.receipt  # type: ignore[attr-defined]
    assert error.receipt is not None
    assert error.receipt.position == receipt.position
    assert str(error) == str(told.value)
    for fact in ("'load'", "'run-7'", "1000", "2000"):
        assert fact in str(error)


@pytest.mark.parametrize("after", ["somewhere", 1000, Watermark(-1, 0), Watermark("1", 0)])  # type: ignore[arg-type]
def test_a_place_that_is_no_watermark_is_refused(store: CheckpointStore, after: Any) -> None:
    """No stage could ever stand there."""
    with pytest.raises(InvalidArgumentError, match="after is"):
        _advance(store, FIRST, "one", after)
    assert len(store) == 0


def test_in_a_block_an_advance_that_is_told_undoes_only_itself(store: CheckpointStore) -> None:
    """And sees what the block has recorded before it."""
    with store.transaction():
        _advance(store, FIRST, "one", None)
        with pytest.raises(StageMovedError):
            _advance(store, SECOND, "two", None)
        _advance(store, SECOND, "two", FIRST)
    assert [e.watermark for e in store.history()] == [FIRST, SECOND]

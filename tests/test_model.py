"""The store against a plain list: random verbs, and after each every read verb equals the pure function over the list."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import milepost.checkpoint as contract
from conftest import Clock
from milepost import (
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    IdempotencyConflictError,
    InvalidCheckpointError,
    Receipt,
    RejectedCheckpointError,
    SequenceError,
    Watermark,
    WatermarkRegressionError,
)
from support.chains import entry
from support.contract import check_histories, check_lookups, check_summaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RUNS = ["run-1", "run-2", "lauf-ü"]
STAGES = ["extract", "load", "\U0001f680"]
BUSY = "run-busy"  # while it goes on for long, all others are quiet, so that their last rows are far from their mileposts

# Few names and small numbers, so that duplicates, conflicts and regressions are as common as successes.
small = st.integers(0, 4)
entries = st.builds(
    Checkpoint,
    st.sampled_from(RUNS),
    st.sampled_from(STAGES),
    st.integers(0, 8),
    st.builds(Watermark, small, small),
    st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    st.integers(0, 1000),
)
maybe_invalid = st.one_of(entries, entries, entries, entries.map(lambda e: e._replace(sequence=True)))


class Undone(Exception):  # noqa: N818 - no error: a transaction that is given up on purpose
    """Ends a transaction block."""


class Model:
    """The rules of an append over a plain list, in the order in which they are checked."""

    def __init__(self) -> None:
        self.entries: list[Checkpoint] = []

    def append(self, new: Checkpoint, index: int | None = None) -> Receipt:
        """One checkpoint."""
        if not contract.valid(new):
            raise InvalidCheckpointError("sequence", new.sequence, "", index)
        same = [old for old in self.entries if (old.run_id, old.stage) == (new.run_id, new.stage)]
        for old in same:
            if old.idempotency_key == new.idempotency_key:
                if (old.sequence, old.watermark) == (new.sequence, new.watermark):
                    return self._receipt(self.entries.index(old) + 1, duplicate=True)
                raise IdempotencyConflictError(new, old, index)
        if same and new.sequence <= same[-1].sequence:
            raise SequenceError(new, same[-1], index)
        if same and (
            new.watermark.offset < same[-1].watermark.offset
            or new.watermark.event_time_ms < same[-1].watermark.event_time_ms
        ):
            raise WatermarkRegressionError(new, same[-1], index)
        self.entries.append(new)
        return self._receipt(len(self.entries), duplicate=False)

    def append_many(self, news: Iterable[Checkpoint]) -> BatchReceipt:
        """All of them, or none."""
        before = list(self.entries)
        try:
            receipts = [self.append(new, index) for index, new in enumerate(news)]
        except BaseException:
            self.entries = before
            raise
        duplicates = sum(receipt.duplicate for receipt in receipts)
        signature = contract.chain_signature(self.entries)
        return BatchReceipt(len(receipts) - duplicates, duplicates, len(self.entries), signature)

    def advance(self, run_id: str, stage: str, mark: Watermark, key: str, at_ms: int) -> Receipt:
        """The next sequence; a key that is recorded with this watermark is a duplicate."""
        same = [old for old in self.entries if (old.run_id, old.stage) == (run_id, stage)]
        for old in same:
            if old.idempotency_key == key and old.watermark == mark:
                return self._receipt(self.entries.index(old) + 1, duplicate=True)
        return self.append(Checkpoint(run_id, stage, same[-1].sequence + 1 if same else 1, mark, key, at_ms))

    def _receipt(self, position: int, *, duplicate: bool) -> Receipt:
        return Receipt(position, contract.chain_signature(self.entries[:position]), duplicate)


def outcome(action: Callable[[], object]) -> object:
    """What a call returns, or the kind and the facts of the error it raises."""
    try:
        return action()
    except InvalidCheckpointError as error:
        return type(error), error.field, error.index
    except RejectedCheckpointError as error:
        return type(error), error.entry, error.index, getattr(error, "last", None), getattr(error, "recorded", None)


class StoreIsAList(RuleBasedStateMachine):
    """Drives both, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="milepost-model-")
        self.clock = Clock()
        self.model = Model()
        self.block: Any = None
        self.before: list[list[Checkpoint]] = []
        self.store: CheckpointStore
        self.neighbour: CheckpointStore | None = None

    @initialize()
    def open(self) -> None:
        """Open the store, new or not."""
        self.store = CheckpointStore(Path(self.directory, "store"), durability="normal", clock=self.clock)

    @rule(new=maybe_invalid)
    def append(self, new: Checkpoint) -> None:
        """One checkpoint."""
        assert outcome(lambda: self.store.append(new)) == outcome(lambda: self.model.append(new))

    @rule(new=st.data())
    def append_again(self, new: st.DataObject) -> None:
        """One that is there already, with another wall clock."""
        if self.model.entries:
            old = new.draw(st.sampled_from(self.model.entries))._replace(at_ms=7)
            assert outcome(lambda: self.store.append(old)) == outcome(lambda: self.model.append(old))

    @rule(news=st.lists(maybe_invalid, max_size=6))
    def append_many(self, news: list[Checkpoint]) -> None:
        """A batch, most often rejected."""
        assert outcome(lambda: self.store.append_many(iter(news))) == outcome(lambda: self.model.append_many(news))

    @rule(run_id=st.sampled_from(RUNS), stage=st.sampled_from(STAGES), first=st.integers(9, 12), length=st.integers(0, 5))
    def append_many_in_order(self, run_id: str, stage: str, first: int, length: int) -> None:
        """A batch that fits, but for keys used before."""
        news = [entry(first + i, run_id=run_id, stage=stage, key=f"{first}+{i}") for i in range(length)]
        assert outcome(lambda: self.store.append_many(news)) == outcome(lambda: self.model.append_many(news))

    @precondition(lambda self: len(self.model.entries) < 150)
    @rule(stage=st.sampled_from(STAGES), length=st.integers(15, 45), batch=st.booleans())
    def go_on_for_long(self, stage: str, length: int, batch: bool) -> None:
        """A run whose stages have a milepost within, and after it others have one in their next row."""
        first = len(self.model.entries)
        news = [entry(first + i, run_id=BUSY, stage=stage) for i in range(length)]
        if batch:
            assert outcome(lambda: self.store.append_many(news)) == outcome(lambda: self.model.append_many(news))
        else:
            assert [self.store.append(new) for new in news] == [self.model.append(new) for new in news]

    @rule(new=entries)
    def advance(self, new: Checkpoint) -> None:
        """The store stamps sequence and clock."""
        at_ms = self.clock.now_ms + 1000
        mark, key = new.watermark, new.idempotency_key
        ours = outcome(lambda: self.store.advance(new.run_id, new.stage, mark, idempotency_key=key))
        assert ours == outcome(lambda: self.model.advance(new.run_id, new.stage, mark, key, at_ms))

    @precondition(lambda self: len(self.before) < 2)
    @rule()
    def enter_transaction(self) -> None:
        """Also a block inside a block."""
        block = self.store.transaction()
        block.__enter__()
        self.block = (block, self.block)
        self.before.append(list(self.model.entries))

    @precondition(lambda self: self.before)
    @rule(keep=st.booleans())
    def leave_transaction(self, keep: bool) -> None:
        """With all that it appended, or without."""
        block, self.block = self.block
        before = self.before.pop()
        if keep:
            block.__exit__(None, None, None)
        else:
            error = Undone()
            assert not block.__exit__(Undone, error, None)
            self.model.entries = before

    @precondition(lambda self: not self.before)
    @rule()
    def reopen(self) -> None:
        """Close it and open it again."""
        self.store.close()
        self.open()

    @precondition(lambda self: not self.before)
    @rule()
    def change_hands(self) -> None:
        """Another store of the same file goes on, while this one stays open and may go on later."""
        other, self.neighbour = self.neighbour, self.store
        if other is None:
            self.open()
        else:
            self.store = other

    @invariant()
    def every_read_verb_equals_the_pure_function(self) -> None:
        """Over the whole chain, and over each run."""
        if not hasattr(self, "store"):
            return
        model = self.model.entries
        check_histories(self.store, model, (*RUNS, BUSY), STAGES)
        check_lookups(self.store, model, (*RUNS, BUSY), STAGES)
        check_summaries(self.store, model)

    def teardown(self) -> None:
        """The chain holds at the end, whatever was done."""
        while self.before:
            self.leave_transaction(keep=True)
        if hasattr(self, "store"):
            verification = self.store.verify()
            self.store.close()
            if self.neighbour is not None:
                self.neighbour.close()
            assert verification.faults == ()
        shutil.rmtree(self.directory)


def test_the_store_equals_a_list() -> None:
    """A small dose of random programs."""
    run_state_machine_as_test(StoreIsAList, settings=settings(max_examples=6, stateful_step_count=25))


@pytest.mark.long
def test_the_store_equals_a_list_in_5000_examples() -> None:
    """The full dose of random programs."""
    run_state_machine_as_test(StoreIsAList, settings=settings(max_examples=5000, stateful_step_count=30))

"""A store that is archived now and then against one that never is: random verbs, and after each both answer the same."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from milepost import ArchivedStageError, Checkpoint, CheckpointStore, Head, RejectedCheckpointError, Watermark, archive
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.rows import Attempt

RUNS = ["run-1", "run-2"]
STAGES = ["extract", "load"]
BUSY = "run-busy"
BAGS = ["bag-1", "bag-2"]

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


class KillError(BaseException):
    """Ends an archive between two of its commits."""


def outcome(action: Callable[[], object]) -> object:
    """What a call returns, or the kind and the facts of the error it raises."""
    try:
        return action()
    except RejectedCheckpointError as error:
        return type(error), error.entry, error.index, getattr(error, "last", None), getattr(error, "recorded", None)


class ArchivedStore(RuleBasedStateMachine):
    """Drives both, and compares. The other one gets milepost's own entries too, so that positions and heads are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="milepost-model-"))
        self.numbers = count(1)
        self.made: list[Path] = []
        self.step, archive._STEP = archive._STEP, 7  # type: ignore[misc]
        self.neighbour: CheckpointStore | None = None
        self.attempts: dict[str, Attempt] = {}
        self.store: CheckpointStore
        self.whole: CheckpointStore

    @initialize()
    def open(self) -> None:
        """Open both."""
        self.store = CheckpointStore(self.directory / "store", durability="normal", clock=lambda: 0)
        if not hasattr(self, "whole"):
            self.whole = CheckpointStore(self.directory / "whole", durability="normal", clock=lambda: 0)

    def every(self) -> list[Checkpoint]:
        """All that was ever recorded."""
        return list(self.whole.history())

    def here(self) -> list[Checkpoint]:
        """What must be in the file: all behind the base, and what the archives have left of the entries before it."""
        every, base = list(enumerate(self.every(), 1)), self.store.base.entries
        here, last = every, 0
        for position, archived in every:
            if archived.stage != "milepost:archive":
                continue
            last, cut = position, archived.watermark.offset
            stays = self.stays([each for each in here if each[0] <= cut], every[: position - 1])
            here = [each for each in here if each[0] in stays or each[0] > cut]
        if last and every[last - 1][1].watermark.offset > base:  # killed: what goes has not all gone yet
            return self.halfway(every, [each for _, each in here], list(self.store.history()), base)
        return [each for _, each in here]

    def stays(self, before: list[tuple[int, Checkpoint]], recorded: list[tuple[int, Checkpoint]]) -> set[int]:
        """The positions that an archive of these entries leaves, when so much is recorded."""
        state = {each.run_id: each.idempotency_key for _, each in recorded if each.stage == "milepost:run"}
        last = {(each.run_id, each.stage): each.watermark for _, each in before}
        bags = {
            (each.run_id, each.stage)
            for _, each in before
            if each.stage == "bag" and each.sequence == 1 and not state.get(each.run_id, "").endswith(":finished")
        }
        return {
            position
            for position, each in before
            if last[each.run_id, each.stage] == each.watermark or (each.run_id, each.stage) in bags
        }

    def halfway(
        self, every: list[tuple[int, Checkpoint]], least: list[Checkpoint], found: list[Checkpoint], base: int
    ) -> list[Checkpoint]:
        """What is there while the base is being moved: all that stays, the last of each stage, and all behind the base."""
        last = {(each.run_id, each.stage): each for position, each in every if position <= base}
        must = [each for position, each in every if position > base or each in least or each in last.values()]
        left = iter(found)
        assert all(each in left for each in must)  # in this order
        assert set(found) <= {each for _, each in every}
        return found

    def is_archived(self, new: Checkpoint) -> bool:
        """Whether the step that has this key is in an archive alone."""
        found = list(self.whole.find(new.idempotency_key, stage=new.stage, run_id=new.run_id))
        return bool(found) and found[0] not in self.here()

    def both(self, act: Callable[[CheckpointStore], object]) -> None:
        """Do the same with both."""
        assert outcome(lambda: act(self.store)) == outcome(lambda: act(self.whole))

    @rule(new=entries)
    def append(self, new: Checkpoint) -> None:
        """A new checkpoint, or one whose key is recorded here."""
        assume(
            not self.is_archived(new) or not list(self.whole.find(new.idempotency_key, stage=new.stage, run_id=new.run_id))
        )
        self.both(lambda store: store.append(new))

    @rule(data=st.data(), batch=st.booleans())
    def append_again(self, data: st.DataObject, batch: bool) -> None:
        """One that is recorded already, here or in an archive: a duplicate, or refused."""
        recorded = [each for each in self.every() if each.run_id != "milepost" and each.run_id not in BAGS]
        assume(recorded)
        old = data.draw(st.sampled_from(recorded))._replace(at_ms=7)
        head = self.store.head()

        def act(store: CheckpointStore) -> object:
            return store.append_many([old]) if batch else store.append(old)

        if self.is_archived(old):
            with pytest.raises(RejectedCheckpointError):
                act(self.store)
            with pytest.raises(RejectedCheckpointError):
                self.store.advance(old.run_id, old.stage, old.watermark, idempotency_key=old.idempotency_key)
        else:
            self.both(act)
        assert self.store.head() == head

    @rule(run_id=st.sampled_from(RUNS), stage=st.sampled_from(STAGES), first=st.integers(9, 12), length=st.integers(0, 5))
    def append_many_in_order(self, run_id: str, stage: str, first: int, length: int) -> None:
        """A batch that fits, but for keys used before."""
        news = [entry(first + i, run_id=run_id, stage=stage, key=f"{first}+{i}") for i in range(length)]
        assume(not any(self.is_archived(new) for new in news))
        self.both(lambda store: store.append_many(news))

    @precondition(lambda self: self.store.head().entries < 300)
    @rule(stage=st.sampled_from(STAGES), length=st.integers(15, 45), level=st.sampled_from([1, 1, 20]))
    def go_on_for_long(self, stage: str, length: int, level: int) -> None:
        """A run whose stages have a milepost within; its watermark may stand for a while."""
        last = self.whole.latest_for_stage(stage, run_id=BUSY)
        begin = last.sequence if last else 0
        offset = last.watermark.offset if last else 0
        news = [
            entry(begin + i, run_id=BUSY, stage=stage, offset=offset + i // level, event_time_ms=0)
            for i in range(1, length + 1)
        ]
        self.both(lambda store: store.append_many(news))

    @rule(new=entries)
    def advance(self, new: Checkpoint) -> None:
        """The store stamps sequence and clock."""
        assume(
            not self.is_archived(new) or not list(self.whole.find(new.idempotency_key, stage=new.stage, run_id=new.run_id))
        )
        self.both(lambda store: store.advance(new.run_id, new.stage, new.watermark, idempotency_key=new.idempotency_key))

    @rule(run_id=st.sampled_from(BAGS))
    def begin(self, run_id: str) -> None:
        """An attempt, also of a run that has finished."""
        self.attempts[run_id] = self.store._writer.begin_run(run_id, again=True, clock=lambda: 0)
        assert self.whole._writer.begin_run(run_id, again=True, clock=lambda: 0) == self.attempts[run_id]

    @rule(run_id=st.sampled_from(BAGS), state=st.sampled_from(["finished", "failed"]))
    def end(self, run_id: str, state: str) -> None:
        """The attempt that is open."""
        assume(run_id in self.attempts)
        attempt = self.attempts.pop(run_id)
        self.both(lambda store: store._writer.end_run(run_id, attempt, state, lambda: 0, None))

    @rule(run_id=st.sampled_from(BAGS), first=st.integers(0, 30), length=st.integers(1, 25))
    def do_items(self, run_id: str, first: int, length: int) -> None:
        """Of a bag; once some of it are in an archive alone, it says so, and nothing is done."""
        items = [str(number) for number in range(first, first + length)]
        recorded = [each for each in self.every() if (each.run_id, each.stage) == (run_id, "bag")]
        if set(recorded) <= set(self.here()):
            self.both(lambda store: list(store.once(items, run_id=run_id, stage="bag", key=str)))
        else:
            with pytest.raises(ArchivedStageError):
                list(self.store.once(items, run_id=run_id, stage="bag", key=str))

    @rule(run_id=st.sampled_from(BAGS), length=st.integers(1, 25))
    def finish_after_an_archive(self, run_id: str, length: int) -> None:
        """A bag that an archive leaves whole goes with a later one, though nothing was done in it since."""
        self.begin(run_id)
        self.do_items(run_id, 0, length)
        self.archive(1.0, None)
        self.end(run_id, "finished")

    @precondition(lambda self: self.store.head().entries > 0)
    @rule(where=st.floats(0, 1), killed=st.one_of(st.none(), st.integers(1, 5)))
    def archive(self, where: float, killed: int | None) -> None:
        """Anywhere, and a kill between two commits; what was begun is finished by the next one."""
        cut = round(where * self.store.head().entries)
        assume(cut > 0)
        receipt, _, _ = next(self.whole.receipts(after=cut - 1, limit=1))
        before, target = Head(receipt.position, receipt.signature), self.directory / f"archive-{next(self.numbers)}"
        do, steps = self.store._writer.do, count(1)

        def dying(work: Any, within: Any = None) -> Any:
            if next(steps) == killed:
                raise KillError
            return do(work, within)

        self.store._writer.do = dying  # type: ignore[method-assign]
        try:
            with suppress(KillError):
                base = self.store.archive(target, before=before)
                assert base == self.store.base
                assert base.entries >= cut
        finally:
            self.store._writer.do = do  # type: ignore[method-assign]
        for found, each, detail in list(self.store.receipts(after=self.whole.head().entries)):
            self.whole._writer.restore([each], [detail], {})
            assert self.whole.head() == Head(found.position, found.signature)
        recorded = any(each.watermark.offset == cut for each in self.store.history("milepost"))
        if recorded and target.exists():
            self.made.append(target)
        assert self.store.verify().faults == ()
        assert self.store.verify(archives=self.made).elsewhere == 0

    @rule()
    def reopen(self) -> None:
        """Close it and open it again."""
        self.store.close()
        self.open()

    @rule()
    def change_hands(self) -> None:
        """Another store of the same file goes on, while this one stays open and may go on later."""
        other, self.neighbour = self.neighbour, self.store
        if other is None:
            self.open()
        else:
            self.store = other

    @invariant()
    def both_answer_the_same(self) -> None:
        """All lookups; and histories have what must be here."""
        if not hasattr(self, "store"):
            return
        store, whole, here = self.store, self.whole, self.here()
        assert list(store.history()) == here
        assert list(store.history(newest_first=True)) == here[::-1]
        assert len(store) == len(here)
        assert (store.head(), store.latest()) == (whole.head(), whole.latest())
        assert store.resume_points() == whole.resume_points()
        for run_id in (*RUNS, BUSY, *BAGS):
            assert store.chain_signature(run_id) == whole.chain_signature(run_id)
            assert store.resume_points(run_id) == whole.resume_points(run_id)
            assert list(store.history(run_id)) == [each for each in here if each.run_id == run_id]
            for stage in (*STAGES, "bag"):
                own = [each for each in here if (each.run_id, each.stage) == (run_id, stage)]
                assert store.latest_for_stage(stage, run_id=run_id) == whole.latest_for_stage(stage, run_id=run_id)
                assert list(store.history(run_id, stage)) == own
                assert [store.get(run_id, stage, each.sequence) for each in own[:2] + own[-2:]] == own[:2] + own[-2:]
        summaries = [
            [(run.run_id, run.entries, run.stages, run.signature) for run in each.runs()] for each in (store, whole)
        ]
        assert summaries[0] == summaries[1]
        counts = [[(stage.stage, stage.entries, stage.runs) for stage in each.stages()] for each in (store, whole)]
        assert counts[0] == counts[1]

    def teardown(self) -> None:
        """The chain holds at the end, with its archives and without."""
        archive._STEP = self.step  # type: ignore[misc]
        if hasattr(self, "store"):
            found = [self.store.verify(), self.store.verify(archives=self.made), self.whole.verify(run_id=None)]
            runs = [self.store.verify(run_id=run.run_id).faults for run in self.store.runs()]
            for store in (self.store, self.whole, self.neighbour):
                if store is not None:
                    store.close()
            assert [each.faults for each in found[:2]] == [(), ()]
            assert runs == [()] * len(runs)
        shutil.rmtree(self.directory)


def test_an_archived_store_answers_as_one_that_never_was() -> None:
    """A small dose of random programs."""
    run_state_machine_as_test(ArchivedStore, settings=settings(max_examples=4, stateful_step_count=15))


@pytest.mark.long
def test_an_archived_store_answers_as_one_that_never_was_in_2000_programs() -> None:
    """The full dose of random programs."""
    run_state_machine_as_test(ArchivedStore, settings=settings(max_examples=2000, stateful_step_count=30))

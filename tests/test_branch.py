"""branch(): a new run starts where another one stood, and neither is in the other's way."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from milepost import (
    ArchivedStageError,
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    CursorNotKeptError,
    DamagedStoreError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    NoCheckpointError,
    ReadOnlyStoreError,
    ResumePoint,
    RunExistsError,
    Watermark,
)
from milepost.signature import MAX_DETAIL_BYTES
from support.chains import chain, entry
from support.command import run
from support.tampering import tamper

if TYPE_CHECKING:
    from pathlib import Path


def step(store: CheckpointStore, number: int, cursor: object = None, *, run_id: str = "old", stage: str = "load") -> None:
    """One step whose watermark and key follow from a number."""
    store.advance(run_id, stage, Watermark(number * 10, number), idempotency_key=f"step-{number}", cursor=cursor)


def of_run(store: CheckpointStore, run_id: str) -> list[tuple[Checkpoint, dict[str, Any]]]:
    """The entries of a run and what their details say."""
    return [(each, json.loads(detail or "{}")) for _, each, detail in store.receipts(run_id)]


def receipt_of(store: CheckpointStore, appended: int, duplicates: int) -> BatchReceipt:
    """What a batch is told when the chain stands as it does."""
    return BatchReceipt(appended, duplicates, store.head().entries, store.head().signature)


# One branch


def test_a_branch_has_one_first_checkpoint_for_each_stage(store: CheckpointStore) -> None:
    """With the parent's sequence, watermark, key and cursor; the clock is the store's, and the detail has the origin."""
    for number in (1, 2, 3):
        step(store, number, {"page": number})
    step(store, 4, b"raw", stage="sort")
    step(store, 5, stage="plain")
    before = list(store.receipts())
    assert store.branch("old", "new") == receipt_of(store, 3, 0)
    assert list(store.receipts())[:5] == before
    found = of_run(store, "new")
    parents = [before[2], before[3], before[4]]
    assert [each._replace(run_id="old", at_ms=0) for each, _ in found] == [each._replace(at_ms=0) for _, each, _ in parents]
    assert [each.at_ms for each, _ in found] == sorted({each.at_ms for each, _ in found})
    assert found[0][0].at_ms > before[4][1].at_ms
    cursors = [(b'{"page":3}', "json"), (b"raw", "bytes"), None]
    for (_, detail), (receipt, *_), cursor in zip(found, parents, cursors, strict=True):
        of_cursor = {} if cursor is None else {"cursor": sha256(cursor[0]).hexdigest(), "cursor_type": cursor[1]}
        assert detail == {"branch_of": "old", "branch_position": receipt.position, **of_cursor}
    assert [store.cursor(stage, run_id="new") for stage in ("load", "sort", "plain")] == [{"page": 3}, b"raw", None]
    assert store.verify(run_id="new").ok


def test_a_branch_and_its_parent_go_on_by_themselves(store: CheckpointStore) -> None:
    """Each from where it stands, with the same keys if it comes to that."""
    for number in (1, 2):
        step(store, number, number)
    store.branch("old", "new")
    for run_id in ("old", "new"):
        step(store, 3, f"{run_id}'s", run_id=run_id)
    assert [each.sequence for each in store.history("old")] == [1, 2, 3]
    assert [each.sequence for each in store.history("new")] == [2, 3]
    assert [store.cursor("load", run_id=run_id) for run_id in ("old", "new")] == ["old's", "new's"]
    assert store.resume_points("new") == {"load": ResumePoint("new", "load", 3, Watermark(30, 3))}
    assert store.compare("old", "new").identical


def test_a_loop_of_a_branch_starts_behind_the_parents_checkpoint(store: CheckpointStore) -> None:
    """As if the new run had done what the parent did."""
    assert list(store.checkpointed(range(6), run_id="old", stage="load", every=2)) == list(range(6))
    as_of = next(each.at_ms for each in store.history("old") if each.watermark.offset == 4)
    store.branch("old", "new", as_of=as_of)
    assert list(store.checkpointed(range(9), run_id="new", stage="load", every=2)) == [4, 5, 6, 7, 8]
    found = {each.run_id: each.records for each in store.runs()}
    assert found == {"old": 6, "new": 5}


def test_a_branch_of_a_bag_says_so_and_one_of_any_other_stage_does_not(store: CheckpointStore) -> None:
    """As the first entry of a bag does."""
    list(store.once("ab", run_id="old", stage="mail", key=str))
    list(store.checkpointed("ab", run_id="old", stage="load"))
    store.branch("old", "new")
    assert {each.stage: detail.get("bag") for each, detail in of_run(store, "new")} == {"mail": True, "load": None}


def test_only_the_stage_that_is_asked_for_is_branched(store: CheckpointStore) -> None:
    """The others may follow."""
    step(store, 1)
    step(store, 2, stage="sort")
    assert store.branch("old", "new", stage="sort") == receipt_of(store, 1, 0)
    assert [each.stage for each, _ in of_run(store, "new")] == ["sort"]
    assert store.branch("old", "new") == receipt_of(store, 1, 1)
    assert [each.stage for each, _ in of_run(store, "new")] == ["sort", "load"]


def test_the_same_call_again_writes_nothing(store: CheckpointStore) -> None:
    """Also after the new run has gone on; the receipt counts duplicates."""
    step(store, 1, "a")
    step(store, 2, stage="sort")
    store.branch("old", "new")
    before = list(store.receipts())
    assert store.branch("old", "new") == receipt_of(store, 0, 2)
    step(store, 3, run_id="new")
    assert store.branch("old", "new") == receipt_of(store, 0, 2)
    assert list(store.receipts())[:-1] == before


def test_the_same_call_again_writes_nothing_though_the_parents_cursor_is_gone(
    store: CheckpointStore,
) -> None:
    """`as_of` says where it stood; the branch has a cursor of its own."""
    step(store, 1, "a")
    as_of = next(store.history("old")).at_ms
    store.branch("old", "new", as_of=as_of)
    for number in (2, 3, 4):
        step(store, number, number)
    assert store.branch("old", "new", as_of=as_of) == receipt_of(store, 0, 1)
    assert store.cursor("load", run_id="new") == "a"
    with pytest.raises(CursorNotKeptError):
        store.branch("old", "newer", as_of=as_of)


def test_a_stage_that_the_new_run_has_from_elsewhere_is_never_written_to(store: CheckpointStore) -> None:
    """Nothing is, whatever the order of the stages; the error has its last checkpoint."""
    step(store, 1)
    step(store, 2, stage="sort")
    step(store, 7, run_id="new", stage="sort")
    before = list(store.receipts())
    with pytest.raises(RunExistsError) as told:
        store.branch("old", "new")
    assert (told.value.run_id, told.value.stage, told.value.last) == ("new", "sort", before[2][1])
    assert str(told.value).startswith("run 'new' has stage 'sort' already, up to sequence 1: ")
    assert list(store.receipts()) == before
    assert store.branch("old", "new", stage="load").appended == 1
    assert store.branch("old", "newer").appended == 2


def test_the_same_branch_once_more_is_a_duplicate_while_it_means_the_same_checkpoints(store: CheckpointStore) -> None:
    """A time says which they are; without one they are the last ones, until the old run moves on."""
    step(store, 1)
    time = next(store.history()).at_ms
    for _ in range(2):
        store.branch("old", "new")
        store.branch("old", "new at a time", as_of=time)
    step(store, 2)
    before = list(store.receipts())
    assert store.branch("old", "new at a time", as_of=time).duplicates == 1
    with pytest.raises(RunExistsError):
        store.branch("old", "new")
    assert list(store.receipts()) == before


@pytest.mark.parametrize("changed", [{"sequence": 8}, {"offset": 0}, {"event_time_ms": 0}, {"key": "other"}])
def test_a_stage_with_nearly_the_same_entry_is_from_elsewhere(store: CheckpointStore, changed: dict[str, Any]) -> None:
    """Sequence, watermark and key are the entry."""
    store.append(entry(7, run_id="old"))
    given: dict[str, Any] = {"sequence": 7, "offset": 3500, "key": "load:7", "run_id": "new", **changed}
    store.append(entry(**given))
    with pytest.raises(RunExistsError):
        store.branch("old", "new")
    store.append(entry(7, run_id="same"))
    assert store.branch("old", "same").duplicates == 1


def test_a_cursor_that_is_not_kept_any_more_refuses_the_branch(store: CheckpointStore) -> None:
    """As a whole; of each stage two cursors are kept, and from a checkpoint without one there is none to keep."""
    step(store, 1, stage="sort")
    for number in (2, 3, 4):
        step(store, number, number)
    step(store, 5, stage="sort")
    times = [each.at_ms for each in store.history()]
    before = list(store.receipts())
    with pytest.raises(CursorNotKeptError) as told:
        store.branch("old", "new", as_of=times[1])
    assert (told.value.run_id, told.value.stage, told.value.position) == ("old", "load", 2)
    assert str(told.value).startswith("the cursor of stage 'load' of run 'old' at position 2 is no longer kept")
    assert list(store.receipts()) == before
    assert store.branch("old", "sort alone", stage="sort", as_of=times[1]).appended == 1
    for position in (3, 4):
        assert store.branch("old", f"new-{position}", as_of=times[position - 1]).appended == 2
        assert store.cursor("load", run_id=f"new-{position}") == position


@pytest.mark.parametrize(
    "change", ["cursor = '\"forged\"'", "cursor = CAST(cursor AS BLOB)", "cursor = 7"], ids=["text", "type", "number"]
)
def test_a_cursor_that_was_changed_is_not_signed_anew(store: CheckpointStore, path: Path, change: str) -> None:
    """A branch would make it a good one."""
    step(store, 1, "good")
    tamper(path, f"UPDATE stage_cursor SET {change}")
    with pytest.raises(DamagedStoreError, match="cursor"):
        store.branch("old", "new")
    assert len(store) == 1
    tamper(path, "UPDATE stage_cursor SET cursor = '\"good\"'")
    assert store.branch("old", "new").appended == 1


def test_a_cursor_that_was_put_to_a_checkpoint_without_one_is_not_signed(store: CheckpointStore, path: Path) -> None:
    """Its entry says that there is none."""
    step(store, 1)
    tamper(path, "INSERT INTO stage_cursor SELECT run_number, stage_number, position, '7' FROM entry")
    with pytest.raises(DamagedStoreError, match="cursor"):
        store.branch("old", "new")
    tamper(path, "DELETE FROM stage_cursor")


def test_there_must_be_something_to_start_from(store: CheckpointStore) -> None:
    """A run, a stage of it, at that time; attempts are nothing to start from."""
    step(store, 1)
    step(store, 2, run_id="other", stage="sort")
    with store.run("alone"):
        pass
    before = list(store.receipts())
    first = before[0][1].at_ms
    for run_id, options, stage in (
        ("none", {}, None),
        ("alone", {}, None),
        ("old", {"stage": "sort"}, "sort"),
        ("old", {"stage": "none"}, "none"),
        ("old", {"as_of": first - 1}, None),
        ("old", {"as_of": first - 1, "stage": "load"}, "load"),
        ("old", {"as_of": 0}, None),
        ("old", {"as_of": "2001-01-01", "stage": "load"}, "load"),
    ):
        with pytest.raises(NoCheckpointError) as told:
            store.branch(run_id, "new", **options)
        assert (told.value.run_id, told.value.stage) == (run_id, stage)
        assert (" up to " in str(told.value)) == ("as_of" in options)
    assert list(store.receipts()) == before
    assert store.branch("old", "new", as_of=first).appended == 1


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        (("", "new"), "run_id"),
        (("old", ""), "new_run_id"),
        (("old", 7), "new_run_id"),
        (("old", "x" * 1025), "new_run_id"),
        (("old", "old"), "new_run_id"),
        (("old", "new", "\0"), "stage"),
        (("old", "new", "milepost:run"), "stage"),
        (("old", "new", None, "yesterday"), "as_of"),
        (("old", "new", None, -1), "as_of"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(store: CheckpointStore, given: tuple[Any, ...], argument: str) -> None:
    """Before anything is written."""
    step(store, 1)
    run_id, new_run_id, stage, as_of = (*given, None, None)[:4]
    with pytest.raises(InvalidArgumentError) as told:
        store.branch(run_id, new_run_id, stage=stage, as_of=as_of)
    assert told.value.argument == argument
    assert len(store) == 1


def test_a_reader_branches_nothing(store: CheckpointStore, path: Path) -> None:
    """As every method that writes."""
    step(store, 1)
    with CheckpointStore.open_readonly(path) as reader, pytest.raises(ReadOnlyStoreError):
        reader.branch("old", "new")


def test_a_branch_inside_a_block_is_part_of_it(store: CheckpointStore) -> None:
    """Undone with it, cursor and all."""
    step(store, 1, "a")
    with pytest.raises(ZeroDivisionError), store.transaction():
        step(store, 2, "b")
        store.branch("old", "new")
        assert store.cursor("load", run_id="new") == "b"
        raise ZeroDivisionError
    assert (len(store), store.cursor("load", run_id="new")) == (1, None)
    with store.transaction():
        store.branch("old", "new")
        step(store, 3)
        step(store, 4, stage="sort")
        with pytest.raises(RunExistsError):
            store.branch("old", "new")
        store.branch("old", "new", stage="sort")
    assert [(each.stage, each.sequence) for each, _ in of_run(store, "new")] == [("load", 1), ("sort", 1)]
    assert store.cursor("load", run_id="new") == "a"


def test_a_clock_that_gives_no_time_refuses_the_branch(path: Path) -> None:
    """As a whole."""
    times: list[Any] = [1, 2, 3, "noon", 4, 5]
    with CheckpointStore(path, durability="normal", clock=lambda: times.pop(0)) as store:
        step(store, 1)
        step(store, 2, stage="sort")
        with pytest.raises(InvalidCheckpointError):
            store.branch("old", "new")
        assert len(store) == 2
        assert store.branch("old", "new").appended == 2


def test_a_branch_is_a_run_whose_attempts_are_its_own(store: CheckpointStore) -> None:
    """Those of the parent stay there; it may be branched into before and after its first attempt began."""
    with store.run("old") as run:
        run.advance("load", Watermark(100, 0), idempotency_key="a")
    for run_id, order in (("new", "branch first"), ("newer", "attempt first")):
        if order == "branch first":
            store.branch("old", run_id)
        with store.run(run_id) as run:
            if order == "attempt first":
                store.branch("old", run_id)
            assert run.attempt == 1
            assert run.resume_point("load").watermark.offset == 100
            run.advance("load", Watermark(130, 0), idempotency_key="b")
        found = next(each for each in store.runs() if each.run_id == run_id)
        assert (found.state, found.attempts, found.entries, found.records) == ("finished", 1, 2, 30)
    assert [key for key in (each.idempotency_key for each in store.history("new")) if key.startswith("attempt")] == [
        "attempt-1:began", "attempt-1:finished",
    ]  # fmt: skip


# Names


LONGEST = {
    "ASCII": "x" * 1024,
    "control characters": "\x01" * 1024,
    "new lines": "\n" * 1024,
    "quotes": '"\\' * 512,
    "of four bytes each": "🚀" * 256,
    "of the word": '"branch_position":9' * 50,
}


@pytest.mark.parametrize("name", LONGEST)
@pytest.mark.parametrize("cursor", [None, {"page": 1}, b"raw"], ids=["no cursor", "JSON", "bytes"])
def test_a_run_of_any_name_can_be_branched(store: CheckpointStore, name: str, cursor: object) -> None:
    """The detail stays within its bound: a name that is too long in JSON is left out, the position never."""
    run_id = LONGEST[name]
    step(store, 1, cursor, run_id=run_id, stage=run_id)
    store.branch(run_id, "new")
    store.branch("new", f"{run_id[:-5]}2")
    (_, plain, none), (_, _, detail), (_, _, again) = store.receipts()
    assert detail is not None
    assert again is not None
    assert len(detail.encode()) <= MAX_DETAIL_BYTES
    said = json.loads(detail)
    assert said["branch_position"] == 1
    assert said.get("branch_of", run_id) == run_id
    assert ("branch_of" in said) == (name != "control characters")
    assert json.loads(again)["branch_of"] == "new"
    assert store.cursor(run_id, run_id="new") == cursor
    assert (plain.run_id, none is None) == (run_id, cursor is None)
    found = {each.run_id: (each.records, each.entries) for each in store.runs()}
    assert found[run_id] == (10, 1), "the name alone makes no branch of it"
    assert found["new"] == (0, 1)


# Comparing


def test_a_branch_is_compared_from_its_first_sequence_on(store: CheckpointStore) -> None:
    """What the parent did before is no difference; what one of them did otherwise behind it is."""
    store.append_many(chain(500, run_id="old"))
    store.append_many(entry(number, run_id="old", stage="sort") for number in range(7))
    store.append(entry(1, run_id="old", stage="none"))
    store.append(entry(250, run_id="new", offset=250 * 500))
    assert store.compare("old", "new").stages[0].entries == 500
    store.branch("new", "newest")
    store.append_many(entry(number, run_id="newest") for number in range(251, 501))
    found = store.compare("old", "newest")
    assert [(each.stage, each.entries, each.other_entries, each.common, each.identical) for each in found.stages] == [
        ("load", 251, 251, 251, True), ("sort", 7, 0, 0, False), ("none", 1, 0, 0, False),
    ]  # fmt: skip
    assert store.compare("newest", "old").stages[0].identical
    store.append(entry(501, run_id="newest", key="other"))
    store.append(entry(501, run_id="old"))
    (load, *_) = store.compare("old", "newest").stages
    assert (load.entries, load.common, load.different) == (252, 252, 1)
    assert load.divergence is not None
    assert load.divergence.sequence == 501


def test_a_run_that_ended_before_a_branch_began_is_compared_as_empty(store: CheckpointStore) -> None:
    """It is recorded: nothing of it stands from there on."""
    store.append_many(chain(3, run_id="short"))
    store.append_many(chain(10, run_id="old"))
    store.branch("old", "new")
    for found in (store.compare("short", "new"), store.compare("new", "short")):
        (stage,) = found.stages
        assert {stage.entries, stage.other_entries} == {0, 1}
        assert not found.identical
    (stage,) = store.compare("short", "new").stages
    assert (stage.common, stage.first_only, stage.other_first_only) == (0, None, 10)


BRANCHES: dict[str, tuple[str | None, bool]] = {
    "as milepost writes it": ('{"branch_position":1,"branch_of":"old"}', True),
    "in another order": ('{ "branch_of": "old", "branch_position": 1 }', True),
    "a source of that name": ('{"source":"branch_position"}', False),
    "a source with that text": (json.dumps({"source": '"branch_position":1'}), False),
    "in an object of its own": ('{"other":{"branch_position":1}}', False),
    "none": (None, False),
}


@pytest.mark.parametrize(("detail", "branched"), BRANCHES.values(), ids=BRANCHES)
def test_a_detail_with_the_position_of_a_parent_makes_a_branch_and_no_other(
    tmp_path: Path, detail: str | None, branched: bool
) -> None:
    """Whoever wrote it: its records are counted from there, and it is compared from there."""
    said = {} if detail is None else {"detail": detail}
    lines = [
        {
            "run_id": run_id, "stage": "load", "sequence": number, "offset": number * 500, "event_time_ms": 0,
            "idempotency_key": f"{number}", "at_ms": 0, **(said if (run_id, number) == ("new", 5) else {}),
        }
        for run_id, first in (("old", 1), ("new", 5))
        for number in range(first, 11)
    ]  # fmt: skip
    found = run("import", "-", tmp_path / "new", stdin="".join(json.dumps(line) + "\n" for line in lines).encode())
    assert found.exit_code == 0, found.output
    with CheckpointStore.open_readonly(tmp_path / "new") as store:
        old, new = store.runs()
        assert (old.records, new.records) == (5000, 2500 if branched else 5000)
        (load,) = store.compare("old", "new").stages
        assert (load.entries, load.other_entries) == (6 if branched else 10, 6)


# Against a model


@dataclass
class Recorded:
    """An entry, as the model has it."""

    position: int
    entry: Checkpoint
    cursor: Any
    branched: bool


class Model:
    """A plain list, and what branch() makes of it."""

    def __init__(self) -> None:
        self.entries: list[Recorded] = []

    def of(self, run_id: str, stage: str) -> list[Recorded]:
        """The entries of a stage of a run."""
        return [each for each in self.entries if (each.entry.run_id, each.entry.stage) == (run_id, stage)]

    def stages(self) -> list[str]:
        """In the order of first appearance."""
        return list(dict.fromkeys(each.entry.stage for each in self.entries))

    def branch(
        self, run_id: str, new: str, stage: str | None, as_of: int | None, now: list[int]
    ) -> tuple[int, int] | type[MilepostError]:
        """How many are appended and how many are duplicates, or the error."""
        new_entries: list[Recorded] = []
        duplicates = found = 0
        ticks = iter(now)
        for name in [stage] if stage else self.stages():
            until = [each for each in self.of(run_id, name) if as_of is None or each.entry.at_ms <= as_of]
            if not until:
                continue
            found += 1
            tick = next(ticks)
            point = until[-1]
            there = self.of(new, name)
            if there:
                same = [each for each in there if each.entry[2:5] == point.entry[2:5]]
                if not same:
                    return RunExistsError
                duplicates += 1
                continue
            with_cursor = [each for each in self.of(run_id, name) if each.cursor is not None]
            if point.cursor is not None and point not in with_cursor[-2:]:
                return CursorNotKeptError
            entry = point.entry._replace(run_id=new, at_ms=tick)
            new_entries.append(Recorded(len(self.entries) + len(new_entries) + 1, entry, point.cursor, True))
        if not found:
            return NoCheckpointError
        self.entries += new_entries
        return len(new_entries), duplicates

    def records(self, run_id: str) -> int:
        """How far the foremost stage of a run has come by itself."""
        found = []
        for stage in self.stages():
            if of_stage := self.of(run_id, stage):
                start = of_stage[0].entry.watermark.offset if of_stage[0].branched else 0
                found.append(of_stage[-1].entry.watermark.offset - start)
        return max(found)

    def compared(self, one: str, other: str) -> list[tuple[str, int, int, int, int]]:
        """Of each stage: entries, entries of the other, in common, of these different; from where a branch begins."""
        found = []
        for stage in self.stages():
            both = [self.of(run_id, stage) for run_id in (one, other)]
            if any(both):
                start = max((each[0].entry.sequence for each in both if each and each[0].branched), default=0)
                first, second = (
                    {e.entry.sequence: e.entry[3:5] for e in each if e.entry.sequence >= start} for each in both
                )
                common = first.keys() & second.keys()
                different = sum(first[sequence] != second[sequence] for sequence in common)
                found.append((stage, len(first), len(second), len(common), different))
        return found


def _program(path: Path, seed: int, steps: int) -> None:
    chance, model = random.Random(seed), Model()
    clock: list[int] = []

    def tick() -> int:
        clock.append(chance.randrange(50))  # it jumps
        return clock[-1]

    with CheckpointStore(path, durability="normal", clock=tick) as store:
        for number in range(1, steps):
            clock.clear()
            run_id, stage = chance.choice("abcdef"), chance.choice("xyz")
            if chance.random() < 0.7:
                run_id = chance.choice("ab") if chance.random() < 0.6 else run_id
                of_stage = model.of(run_id, stage)
                sequence = of_stage[-1].entry.sequence + 1 if of_stage else 1
                cursor = chance.choice([None, number, b"%d" % number])
                mark = Watermark(sequence, chance.choice([0, 0, 0, number]))
                if of_stage:
                    mark = mark._replace(event_time_ms=max(mark.event_time_ms, of_stage[-1].entry.watermark.event_time_ms))
                key = f"step-{sequence}"
                store.advance(run_id, stage, mark, idempotency_key=key, cursor=cursor)
                entry_ = Checkpoint(run_id, stage, sequence, mark, key, clock[0])
                model.entries.append(Recorded(len(model.entries) + 1, entry_, cursor, False))
                continue
            new = chance.choice("cdefgh")
            if new == run_id:
                continue
            only, as_of = chance.choice([None, None, stage]), chance.choice([None, None, chance.randrange(50)])
            before = list(store.receipts())
            try:
                receipt: Any = store.branch(run_id, new, stage=only, as_of=as_of)
            except MilepostError as error:
                receipt = error
            expected = model.branch(run_id, new, only, as_of, [*clock, *[0] * 9])
            if isinstance(expected, type):
                assert type(receipt) is expected, f"seed {seed}, step {number}"
                assert list(store.receipts()) == before
            else:
                assert receipt == receipt_of(store, *expected), f"seed {seed}, step {number}"
        assert list(store.history()) == [each.entry for each in model.entries], f"seed {seed}"
        runs = list(dict.fromkeys(each.entry.run_id for each in model.entries))
        assert {each.run_id: each.records for each in store.runs()} == {run: model.records(run) for run in runs}
        for run_id in runs:
            for stage in model.stages():
                of_stage = model.of(run_id, stage)
                assert store.cursor(stage, run_id=run_id) == (of_stage[-1].cursor if of_stage else None)
            for other in runs:
                found = [
                    (each.stage, each.entries, each.other_entries, each.common, each.different)
                    for each in store.compare(run_id, other).stages
                ]
                assert found == model.compared(run_id, other), f"seed {seed}, {run_id} and {other}"
        store.verify().raise_if_broken()


def test_any_program_of_branches_does_what_a_plain_model_does(tmp_path: Path) -> None:
    """Of runs, of single stages, as of a time, of branches; with cursors that are kept or not; and what follows of it."""
    for number in range(2):
        seed = random.SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        _program(tmp_path / str(number), seed, 150)


@pytest.mark.long
def test_many_programs_of_branches_do_what_a_plain_model_does(tmp_path: Path) -> None:
    """A larger dose."""
    for number in range(100):
        seed = random.SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        _program(tmp_path / str(number), seed, 50 + number * 2)


def test_a_branch_from_where_a_stage_stood_in_an_archive_is_refused(path: Path) -> None:
    """It would leave that stage out without a word; from where it stands now, it starts."""
    with CheckpointStore(path, durability="normal") as store:
        for number in range(1, 6):
            store.append(entry(number, stage="load", at_ms=number * 100))
        store.append(entry(1, stage="extract", at_ms=50))
        store.archive(path.with_name("a"), before=store.head())
        with pytest.raises(ArchivedStageError, match="load"):
            store.branch("run-7", "fork", as_of=250)
        assert store.branch("run-7", "extracted", stage="extract", as_of=250).appended == 1
        assert store.branch("run-7", "fork").appended == 2
        assert store.resume_points("fork")["load"].sequence == 5

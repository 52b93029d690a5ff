"""Several owners of one stage: compare and set, and whoever comes late is told."""

from __future__ import annotations

import os
import pickle
import random
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import (
    CheckpointStore,
    IdempotencyConflictError,
    InvalidArgumentError,
    Receipt,
    RejectedCheckpointError,
    StageMovedError,
    Watermark,
    WatermarkRegressionError,
)
from support.chains import entry
from support.other_process import OtherProcess
from support.patience import all_at_once

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "7000"))
FIRST, SECOND, THIRD = (Watermark(1000 * n, 10 * n) for n in (1, 2, 3))
NOT_ASKED: Final = object()


def _advance(store: CheckpointStore, mark: Watermark, key: str, after: Any = NOT_ASKED, stage: str = "load") -> Receipt:
    asked = {} if after is NOT_ASKED else {"after": after}
    return store.advance("run-7", stage, mark, idempotency_key=key, **asked)


# advance(after=…)


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


def test_of_threads_that_expect_the_same_one_moves_the_stage(path: Path) -> None:
    """Each step is taken once, whoever takes it."""
    found: list[tuple[int, Watermark | None]] = []
    with CheckpointStore(path, durability="normal") as store:

        def take_steps(thread: int) -> int:
            taken = 0
            for step in range(1, 41):
                expected = Watermark(step - 1, 0) if step > 1 else None
                try:
                    _advance(store, Watermark(step, 0), f"{thread}:{step}", expected)
                    taken += 1
                except StageMovedError as error:
                    found.append((step, error.found))
            return taken

        assert sum(all_at_once([lambda n=n: take_steps(n) for n in range(6)])) == 40  # type: ignore[misc]
        assert len(found) == 5 * 40
        assert all(mark is not None and mark.offset >= step for step, mark in found)
        assert [e.watermark.offset for e in store.history()] == list(range(1, 41))
        store.verify().raise_if_broken()


# Two loops over one stage


def _in_sink(store: CheckpointStore) -> list[int]:
    with store.transaction() as connection:
        return [record for (record,) in connection.execute("SELECT record FROM sink ORDER BY rowid")]


def _make_sink(store: CheckpointStore) -> None:
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (record INTEGER NOT NULL, owner INTEGER NOT NULL) STRICT")


@pytest.mark.parametrize(("mine", "theirs"), [(2, 2), (2, 3), (5, 2), (2, 10)])
@pytest.mark.parametrize("batches", [1, 10])
def test_a_transactional_loop_whose_stage_was_moved_is_told_after_its_batch_and_undone(
    path: Path, mine: int, theirs: int, batches: int
) -> None:
    """Each record is in the sink once, whatever the sizes of the batches; iterated anew, the loop goes on."""
    with CheckpointStore(path, durability="normal") as store, CheckpointStore(path, durability="normal") as other:
        _make_sink(store)
        loop, rival = (
            each.checkpointed(range(10), run_id="run-7", stage="load", every=every, transaction=True)
            for each, every in [(store, mine), (other, theirs)]
        )
        late = iter(loop)  # it knows where the stage stands now
        for record in rival:
            rival.connection.execute("INSERT INTO sink VALUES (?, 2)", (record,))
            if record == batches * theirs:  # that batch is not finished, and undone
                break
        handed_out = []
        with pytest.raises(StageMovedError):
            for record in late:
                handed_out.append(record)
                loop.connection.execute("INSERT INTO sink VALUES (?, 1)", (record,))
        assert handed_out == list(range(mine))
        for record in loop:
            loop.connection.execute("INSERT INTO sink VALUES (?, 1)", (record,))
        assert _in_sink(store) == list(range(10))
        assert store.resume_point_for_stage("load").watermark.offset == 10
        store.verify().raise_if_broken()


def test_a_loop_without_transactions_whose_stage_was_moved_is_told_after_its_batch(store: CheckpointStore) -> None:
    """What it has done it has done, as after a kill; no range is recorded twice."""

    def loop(every: int) -> Any:
        return store.checkpointed(range(10), run_id="run-7", stage="load", every=every)

    late = iter(loop(3))
    assert [next(late) for _ in range(3)] == [0, 1, 2]
    assert list(loop(4)) == list(range(10))
    with pytest.raises(StageMovedError) as told:
        next(late)
    assert (told.value.expected, told.value.found) == (None, Watermark(10, 0))
    assert [e.idempotency_key for e in store.history()] == ["load:0-3", "load:4-7", "load:8-9"]
    assert list(late) == []
    assert list(loop(3)) == []


def test_a_loop_whose_stage_was_moved_by_an_append_is_told(store: CheckpointStore) -> None:
    """Whoever moves it, and by whatever call."""
    loop = store.checkpointed(range(10), run_id="run-7", stage="load", every=5, transaction=True)
    late = iter(loop)
    store.append(entry(1, offset=3, event_time_ms=0))
    with pytest.raises(StageMovedError):
        list(late)
    assert list(loop) == list(range(3, 10))


# As processes


def _run_owners(path: Path, sizes: list[int], length: int, pause_s: float, kills: int, seed: int) -> tuple[int, int]:
    """
    Let so many processes run one loop to its end, some of them killed and started again.

    Args:
        path: A store.
        sizes: How many records make a batch of each.
        length: How many records there are.
        pause_s: How long each takes.
        kills: How many are killed, at most: as long as there is something to do.
        seed: Of who is killed when.

    Returns:
        How many were killed, and how many times one was told.
    """
    chance = random.Random(seed)
    with CheckpointStore(path, durability="normal") as store:
        _make_sink(store)

    def start(every: int) -> OtherProcess:
        return OtherProcess("own", path, every, length, pause_s)

    owners = [start(every) for every in sizes]
    told = [0] * len(owners)
    spared = set(range(len(owners)))
    killed = 0
    try:
        assert [owner.hear() for owner in owners] == ["ready"] * len(owners)  # all know where the stage stands
        for owner in owners:
            owner.say("go")
        with CheckpointStore.open_readonly(path) as reader:
            while killed < kills and not ((last := reader.latest()) and last.watermark.offset == length):
                time.sleep(chance.uniform(0, 0.03))
                victim = chance.randrange(len(owners))
                spared.discard(victim)
                told[victim] += owners[victim].kill().count("told")
                owners[victim] = start(sizes[victim])
                assert owners[victim].hear() == "ready"
                owners[victim].say("go")
                killed += 1
        for number, owner in enumerate(owners):
            told[number] += owner.end().count("told")
    finally:
        for owner in owners:
            owner.process.kill()
            owner.process.communicate()
    with CheckpointStore(path, durability="normal") as store:
        assert _in_sink(store) == list(range(length))
        marks = [e.watermark.offset for e in store.history()]
        keys = [e.idempotency_key for e in store.history()]
        assert keys == [f"load:{first}-{last - 1}" for first, last in zip([0, *marks], marks, strict=False)]
        assert marks[-1] == length
        store.verify().raise_if_broken()
    # Those that were not killed have begun where nothing was recorded, and one was first.
    assert sum(told[each] > 0 for each in spared) >= len(spared) - 1
    return killed, sum(told)


@pytest.mark.parametrize(
    ("sizes", "length", "pause_s", "kills"),
    [
        pytest.param([7, 7], 400, 0, 0, id="two of a size"),
        pytest.param([5, 8, 6], 300, 0.0005, 1, id="three sizes, one killed"),
        pytest.param([25, 25], 20_000, 0.0005, 50, id="two, long", marks=pytest.mark.long),
        pytest.param([10, 20, 20, 30, 30, 45, 70, 100], 40_000, 0.0005, 200, id="eight, long", marks=pytest.mark.long),
    ],
)
def test_of_processes_that_run_one_transactional_loop_each_record_is_in_the_sink_once(
    path: Path, sizes: list[int], length: int, pause_s: float, kills: int
) -> None:
    """Overlapping from the first record on, killed at random and started again: whoever lost is told, and undone."""
    killed, told = _run_owners(path, sizes, length, pause_s, kills, SEED)
    print(f"{len(sizes)} owners, {killed} killed, told {told} times in all; seed {SEED}")

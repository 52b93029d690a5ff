"""Several owners of one stage: compare and set, and whoever comes late is told."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import CheckpointStore, StageMovedError, Watermark
from support.chains import entry
from support.other_process import OtherProcess
from support.patience import all_at_once

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "7000"))


def test_of_threads_that_expect_the_same_one_moves_the_stage(path: Path) -> None:
    """Each step is taken once, whoever takes it."""
    found: list[tuple[int, Watermark | None]] = []
    with CheckpointStore(path, durability="normal") as store:

        def take_steps(thread: int) -> int:
            taken = 0
            for step in range(1, 41):
                expected = Watermark(step - 1, 0) if step > 1 else None
                try:
                    store.advance("run-7", "load", Watermark(step, 0), idempotency_key=f"{thread}:{step}", after=expected)
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
        connection.execute("CREATE TABLE sink (record INTEGER NOT NULL UNIQUE, owner INTEGER NOT NULL) STRICT")


@pytest.mark.parametrize(("mine", "theirs"), [(2, 2), (2, 3), (5, 2), (2, 10)])
@pytest.mark.parametrize("batches", [1, 10])
def test_a_transactional_loop_whose_stage_was_moved_is_told_before_its_sink_meets_what_is_there(
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
        with pytest.raises(StageMovedError) as told:
            next(late)
        assert told.value.found == Watermark(min(batches * theirs, 10), 0)
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

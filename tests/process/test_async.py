"""Writing from tasks: nothing holds the loop, nothing hangs, and what was acknowledged is in the file."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import apsw
import pytest
import trio

import milepost
from milepost import (
    Checkpoint,
    CheckpointStore,
    ClosedStoreError,
    IdempotencyConflictError,
    InvalidCheckpointError,
    MilepostError,
    ReadOnlyStoreError,
    Receipt,
    SequenceError,
    StageMovedError,
    StoreBusyError,
    StoreError,
    Watermark,
    WatermarkRegressionError,
    helper,
    open_files,
    pace,
)
from milepost.block import Block, BlockTurn
from milepost.job import Job
from milepost.pace import Pace
from milepost.turn import NOW, Turn
from support.async_program import SCENES
from support.chains import chain, entry
from support.doors import fork_in_progress, writer
from support.other_process import other_process
from support.patience import begin, held_by_a_thread, in_time, result, until
from support.programs import PROGRAMS
from support.slow_disk import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future


T = TypeVar("T")

PROGRAM = PROGRAMS / "async_program.py"
OTHER_PYTHONS = list(filter(None, os.environ.get("MILEPOST_PYTHONS", "").split(os.pathsep)))
"""Interpreters that can import apsw, such as those of 3.12 and 3.13."""

PROMPTLY_S: Final = 15
"""The machines that run this are shared; a store that hangs does so for 5 s (busy_timeout_ms), or for ever."""


@pytest.fixture
def store(path: Path) -> Iterator[CheckpointStore]:
    """A store without the wait for the disk, closed in a thread of its own, for it may hang; its chain must hold."""
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=1000)
    yield store
    in_time(store.close)
    with CheckpointStore.open_readonly(path) as found:
        found.verify().raise_if_broken()


def run(main: Callable[[], Coroutine[Any, Any, T]], seconds: float = 30) -> T:
    """Run a loop in a thread of its own, for it may hang."""
    return in_time(lambda: asyncio.run(main()), seconds)


def keys(store: CheckpointStore) -> list[str]:
    """Of the whole chain."""
    return [found.idempotency_key for found in store.history()]


def recorded(store: CheckpointStore) -> dict[str, tuple[int, str]]:
    """Position and signature by stage and key, each of which there is once."""
    found = [(f"{e.stage} {e.idempotency_key}", r.position, r.signature) for r, e, _ in store.receipts()]
    assert len({name for name, _, _ in found}) == len(found)
    return {name: (position, signature) for name, position, signature in found}


# Many at once


@pytest.mark.parametrize("tasks", [0, 1, 40, 300, 1_500])
def test_every_task_has_a_receipt_of_its_own(store: CheckpointStore, tasks: int) -> None:
    """More than one transaction takes are done in the next one."""

    async def main() -> list[Receipt]:
        return await asyncio.gather(*(store.append_async(entry(1, stage=f"{task}")) for task in range(tasks)))

    receipts = run(main)
    assert [receipt.position for receipt in receipts] == list(range(1, tasks + 1))
    assert [receipt.signature for receipt in receipts] == [receipt.signature for receipt, _, _ in store.receipts()]


def test_a_large_batch_among_small_ones(store: CheckpointStore) -> None:
    """All wait for one commit, in which each has what it asked for."""

    async def main() -> None:
        small = [asyncio.create_task(store.append_async(entry(1, stage=f"{task}"))) for task in range(50)]
        large = asyncio.create_task(store.append_many_async(chain(5_000, stage="large")))
        steps = asyncio.create_task(
            store.advance_many_async(
                {"run_id": "run-7", "stage": "many", "watermark": Watermark(n, n), "idempotency_key": f"{n}"}
                for n in range(9)
            )
        )
        single = [
            asyncio.create_task(store.advance_async("run-7", f"a{task}", Watermark(1, 1), idempotency_key="1"))
            for task in range(50)
        ]
        assert (await large).appended == 5_000
        assert (await steps).appended == 9
        assert len({receipt.position for receipt in await asyncio.gather(*small, *single)}) == 100

    run(main)
    assert len(store) == 5_109


def test_all_that_wait_share_a_commit(path: Path) -> None:
    """The second one takes all that queued during the first."""
    commits: list[bool] = []
    with CheckpointStore(path) as store:
        writer(store)._lent.trace_v2(apsw.SQLITE_TRACE_STMT, lambda report: commits.append(report["sql"] == "COMMIT"))

        async def main() -> None:
            await asyncio.gather(*(store.append_async(entry(1, stage=f"{task}")) for task in range(500)))

        run(main)
    assert commits.count(True) <= 3


# Many are served in halves


class _InHalves(Pace):
    """As if that were always faster."""

    def __init__(self) -> None:
        super().__init__()
        self.in_halves = True

    def _choose(self) -> None:
        """Stay with it."""


@pytest.fixture
def in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tasks are served in halves, too."""
    monkeypatch.setattr(pace, "MANY", 2)
    monkeypatch.setattr(helper, "Pace", _InHalves)


either_way = pytest.mark.parametrize("_way", ["at once", "in halves"], indirect=True)


@pytest.fixture
def _way(request: pytest.FixtureRequest) -> None:
    if request.param == "in halves":
        request.getfixturevalue("in_halves")


@pytest.mark.usefixtures("in_halves")
def test_a_half_goes_on_while_the_other_half_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears before the sync of the transaction after its own, and queues meanwhile."""
    monkeypatch.setattr(helper, "_AT_LATEST_S", 3_600)
    committed: list[int] = []
    heard: list[Receipt] = []

    def while_the_others_go_on(_: str) -> None:
        if threading.current_thread().name == "milepost":
            until(lambda: len(heard) >= sum(committed))

    with disk(on_sync=while_the_others_go_on) as vfs, CheckpointStore(path, vfs=vfs) as store:
        commit = writer(store).commit_batch

        def count(batch: helper.Batch) -> None:
            commit(batch)
            committed.append(len(batch.claimed))

        monkeypatch.setattr(writer(store), "commit_batch", count)

        async def work(stage: str) -> None:
            for sequence in range(1, 11):
                receipt = await store.append_async(entry(sequence, stage=stage))
                heard.append(receipt)

        async def main() -> None:
            await asyncio.gather(*(work(f"{task}") for task in range(40)))

        run(main)
        assert sum(committed) == len(heard) == len(store) == 400
    assert max(committed[1:]) < 40


@pytest.mark.usefixtures("in_halves")
def test_a_half_hears_soon_whatever_the_other_one_waits_for(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of another thread, here: what is recorded is told."""
    commit, transactions, heard = writer(store).commit_batch, 0, threading.Event()
    blocks: list[Future[None]] = []

    def block() -> None:
        with store.transaction():
            assert heard.wait(20)

    def behind_a_block(batch: helper.Batch) -> None:
        nonlocal transactions
        transactions += 1
        if transactions == 3:
            blocks.append(begin(block))
            until(lambda: isinstance(writer(store)._turns.holder, BlockTurn))
        commit(batch)
        if transactions == 2:
            batch.claimed[-1].job.outcome = "the last of a half"

    monkeypatch.setattr(writer(store), "commit_batch", behind_a_block)

    async def main() -> None:
        await store.append_async(entry(1))
        appends: list[asyncio.Task[Any]] = [
            asyncio.create_task(store.append_async(entry(1, stage=f"{task}"))) for task in range(40)
        ]
        for append in asyncio.as_completed(appends):
            if await append == "the last of a half":
                heard.set()

    writer(store).busy_timeout_ms = 30_000
    run(main)
    result(blocks[0])
    assert len(store) == 41


# Cancelled


@either_way
@pytest.mark.parametrize("times", [200, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.usefixtures("_way")
def test_what_is_cancelled_is_withdrawn_or_recorded_and_a_retry_tells(path: Path, times: int) -> None:
    """At whatever moment; the retry is a duplicate exactly where the first try was recorded."""
    chance = random.Random(7)
    with CheckpointStore(path) as store:

        async def one(stage: str) -> tuple[bool, bool]:
            """Whether it was cancelled, and whether its retry was a duplicate."""
            task = asyncio.create_task(store.append_async(entry(1, stage=stage)))
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.choice([0, 0, 0.0002, 0.0005, 0.001, 0.002]))
            task.cancel()
            try:
                first = await task
            except asyncio.CancelledError:
                in_the_file = any(store.find(f"{stage}:1", stage=stage, run_id="run-7"))
                again = await store.append_async(entry(1, stage=stage))
                assert again.duplicate or not in_the_file
                return True, again.duplicate
            assert await store.append_async(entry(1, stage=stage)) == Receipt(
                first.position, first.signature, duplicate=True
            )
            return False, True

        async def main() -> list[tuple[bool, bool]]:
            told = []
            for first in range(0, times, 20):
                told += await asyncio.gather(*(one(f"{number}") for number in range(first, first + 20)))
            return told

        told = run(main, 600)
        assert len(recorded(store)) == len(store) == times
        store.verify().raise_if_broken()
    assert {(True, False), (False, True)} <= set(told)


def test_a_task_that_is_gone_has_withdrawn_what_it_waited_for(store: CheckpointStore) -> None:
    """Its coroutine ends by GeneratorExit, which is no cancellation."""

    async def main() -> None:
        async with store.transaction():
            loop = asyncio.get_running_loop()
            gone = store.append_async(entry(1, stage="gone"))
            task = asyncio.create_task(asyncio.sleep(0))
            with _as_current(task, loop):
                gone.send(None)
            gone.close()
            await task
        assert not (await store.append_async(entry(1))).duplicate

    run(main)
    assert keys(store) == ["load:1"]


@contextlib.contextmanager
def _as_current(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """What asyncio does around a step of a task."""
    own = asyncio.current_task()
    assert own is not None
    asyncio.tasks._leave_task(loop, own)
    asyncio.tasks._enter_task(loop, task)
    try:
        yield
    finally:
        asyncio.tasks._leave_task(loop, task)
        asyncio.tasks._enter_task(loop, own)


@pytest.mark.parametrize("times", [60, pytest.param(3_000, marks=pytest.mark.long)])
def test_a_block_that_is_cancelled_as_it_begins_is_not_joined_by_what_comes_after(path: Path, times: int) -> None:
    """It is undone a moment later, and what had joined it would be lost with it."""
    chance = random.Random(11)
    acknowledged: list[str] = []
    with CheckpointStore(path, durability="normal", busy_timeout_ms=5000) as store:

        async def begins() -> None:
            async with store.transaction():
                await store.append_async(entry(1, stage="never"))
                await asyncio.sleep(10)

        async def one(number: int) -> None:
            try:
                async with asyncio.timeout(0.0001 * chance.randrange(12)):
                    await begins()
            except TimeoutError:
                await store.append_async(entry(1, stage=f"{number}"))
                acknowledged.append(f"{number}:1")

        async def main() -> None:
            for number in range(times):
                await one(number)

        run(main, 600)
        assert keys(store) == acknowledged == [f"{number}:1" for number in range(times)]


def test_a_task_that_no_longer_waits_for_its_block_keeps_no_other_waiting(path: Path) -> None:
    """Its place in the queue is given up at once, though a block of a thread goes on, and another task gets its own."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=5000) as store:
        turns = writer(store)._turns
        inside, over = threading.Event(), threading.Event()

        def holds() -> None:
            with store.transaction():
                inside.set()
                over.wait(20)

        async def main() -> None:
            task = asyncio.create_task(_in(store.transaction))
            while not turns.waiting:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(2):
                while turns.waiting:
                    await asyncio.sleep(0.001)
                over.set()
                async with store.transaction():
                    await store.append_async(entry(1))

        held = begin(holds)
        inside.wait(20)
        try:
            run(main)
        finally:
            over.set()
        result(held)
        assert len(store) == 1


def test_a_block_whose_task_is_cancelled_just_as_it_has_begun_is_undone(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no `async with` holds its end."""
    tell = helper._tell

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            block = store.transaction()
            task: asyncio.Task[Any] = asyncio.create_task(stack.enter_async_context(block))

            def cancel_and_tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
                loop.call_soon_threadsafe(task.cancel)
                return tell(loop, call)

            with monkeypatch.context() as patch:
                patch.setattr(helper, "_tell", cancel_and_tell)
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert writer(store)._turns.holder is None
            assert not writer(store)._lent.in_transaction

    run(main)


async def _waiting(store: CheckpointStore, number: int) -> None:
    while writer(store)._turns.waiting < number:
        await asyncio.sleep(0.001)


def test_a_write_beside_a_task_that_waits_for_its_block_is_refused_at_once(store: CheckpointStore) -> None:
    """The thread that both are in could not let the task in."""

    async def main() -> None:
        task = asyncio.create_task(_in(store.transaction))
        await _waiting(store, 1)
        with pytest.raises(StoreError, match="or is about to be"):
            store.append(entry(1))
        let_go()
        await task
        store.append(entry(1))

    with held_by_a_thread(store) as let_go:
        run(main)


def test_a_task_of_a_loop_that_was_left_hides_none_of_the_next_loop_that_waits_for_its_block(
    store: CheckpointStore,
) -> None:
    """Both loops are of one thread, and the first one's task is cancelled late."""

    def main() -> None:
        one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
        first = one.create_task(_in(store.transaction))
        one.run_until_complete(_waiting(store, 1))
        second = two.create_task(_in(store.transaction))
        two.run_until_complete(_waiting(store, 2))
        first.cancel()
        one.run_until_complete(asyncio.wait([first]))
        with pytest.raises(StoreError, match="or is about to be"):
            store.append(entry(1))
        let_go()
        two.run_until_complete(second)
        one.close()
        two.close()

    with held_by_a_thread(store) as let_go:
        in_time(main)


def test_a_task_waits_for_the_blocks_of_others_as_long_as_the_store_says(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is told, and has begun nothing."""
    waited: list[float] = []

    async def in_vain(gate: helper.Gate, seconds: float) -> bool:
        waited.append(seconds)
        return False

    async def main() -> None:
        with pytest.raises(StoreBusyError):
            await _in(store.transaction)

    monkeypatch.setattr(helper.Gate, "enter", in_vain)
    writer(store).busy_timeout_ms = 4321
    run(main)
    assert waited == [4.321]


@pytest.mark.parametrize(("since", "seconds"), [(1000.0, 4.321), (999.0, 3.321), (900.0, 0.0)])
def test_tasks_wait_for_their_turn_as_long_as_the_store_says(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, since: float, seconds: float
) -> None:
    """From the moment on that the first of them waits for it."""
    turns, waited = writer(store)._turns, list[float]()
    take = turns.take

    def noted(turn: Turn, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return take(turn, timeout_s)

    monkeypatch.setattr(turns, "take", noted)
    monkeypatch.setattr("milepost.task_writer.time", SimpleNamespace(monotonic=lambda: 1000.0))
    writer(store).busy_timeout_ms = 4321
    writer(store).commit_batch(helper.Batch(deque(), since))
    assert waited == [pytest.approx(seconds)]


def test_tasks_whose_turn_was_given_up_for_them_are_not_told_that_it_took_too_long(store: CheckpointStore) -> None:
    """As before a fork, after which they are done: a slow transaction before is not counted."""

    async def main() -> None:
        queued = helper._Queued(Job(lambda _: None), asyncio.get_running_loop())
        queued.since -= 100
        batch = helper.Batch(deque([queued]), time.monotonic())
        batch.given_up = True
        writer(store).commit_batch(batch)
        assert queued.claim()

    with held_by_a_thread(store):
        run(main)


def test_what_queues_while_a_thread_forks_is_done_after_the_fork(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing else queues then; and no thread is begun meanwhile."""
    begun: list[threading.Thread] = []

    def noted(thread: threading.Thread) -> None:
        begun.append(thread)
        thread.start()

    async def main() -> Receipt:
        with fork_in_progress():
            task = asyncio.create_task(store.append_async(entry(1)))
            await asyncio.sleep(0)
            assert begun == []
        return await task

    monkeypatch.setattr(helper, "start", noted)
    assert run(main).position == 1


def test_a_fork_ends_the_thread_that_writes_for_tasks_and_closes_the_file(store: CheckpointStore) -> None:
    """Afterwards both are there again."""

    async def main() -> None:
        await store.append_async(entry(1))
        serves = _helper(store)._serving[NOW]
        with fork_in_progress():
            assert not serves.is_alive()
            assert not writer(store).has_open_file
        assert (await store.append_async(entry(2))).position == 2

    run(main)


def test_a_fork_does_not_wait_with_the_tasks_for_a_block_of_another_thread(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes for them gives up its place, and they are written after both."""
    monkeypatch.setattr(open_files, "_FORK_TIMEOUT_S", 0.1)

    async def main() -> None:
        task = asyncio.create_task(store.append_async(entry(1)))
        await _waiting(store, 1)
        serves = _helper(store)._serving[NOW]
        with fork_in_progress():
            assert not serves.is_alive()
        let_go()
        assert (await task).position == 1

    with held_by_a_thread(store) as let_go:
        run(main)


def test_tasks_are_not_waited_for_once_the_time_of_a_fork_is_up(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for their thread, nor by the store itself."""
    waited: list[float] = []
    join = threading.Thread.join

    def noted(thread: threading.Thread, seconds: float) -> None:
        waited.append(seconds)
        join(thread, 10)

    async def main() -> None:
        await store.append_async(entry(1))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "join", noted)
            patch.setitem(open_files.forking, threading.get_ident(), None)
            writer(store).let_go(time.monotonic() - 1)
        writer(store).take_back()

    run(main)
    assert waited == [0.0]


def test_a_thread_that_is_told_to_end_as_it_begins_a_transaction_is_replaced_by_another(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once whoever has told it lets the tasks go on."""

    async def main() -> None:
        await store.append_async(entry(1))
        tasks = _helper(store)
        serves = tasks._serving[NOW]

        def stop(_: int, most: int) -> int:
            tasks._stoppers["test"] = False
            return most

        with monkeypatch.context() as patch:
            patch.setattr(tasks._pace, "part_of", stop)
            task = asyncio.create_task(store.append_async(entry(2)))
            while serves.is_alive():
                await asyncio.sleep(0.001)
        assert not task.done()
        tasks.resume("test")
        assert (await task).position == 2

    run(main)


def test_what_queues_as_the_thread_ends_is_done_by_it(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has queued it has seen the thread, and begun no other."""
    served: list[object] = []

    async def main() -> None:
        await store.append_async(entry(1))
        tasks = helper.Helper(store.path, writer(store), 0)

        def serve(server: helper._Server) -> bool:
            served.append(server)
            tasks._queue.append(helper._Queued(Job(lambda _: None), asyncio.get_running_loop()))
            return len(served) < 3

        monkeypatch.setattr(tasks, "_serve", serve)
        server = helper._Server(tasks._run)
        tasks._serving[NOW] = server
        tasks._run(server)

    run(main)
    assert len(served) == 3


def test_a_thread_that_cannot_be_begun_is_told_and_tried_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next task."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(helper, "start", no_thread)
            with pytest.raises(StoreError, match="no thread can be begun"):
                await store.append_async(entry(1))
        assert (await store.append_async(entry(1))).position == 1

    run(main)


def test_threads_that_have_ended_are_not_kept(store: CheckpointStore) -> None:
    """One begins, and one ends, each block of a task."""

    async def main() -> None:
        for _ in range(3):
            await _in(store.transaction)

    run(main)
    until(lambda: not _helper(store)._calls)


def test_a_store_that_is_closed_in_a_block_of_a_task_leaves_no_thread(store: CheckpointStore) -> None:
    """Though that thread may have waited for this very block."""

    async def main() -> None:
        await store.append_async(entry(1))
        serves = _helper(store)._serving[NOW]
        with pytest.raises(ClosedStoreError), store.transaction():
            store.close()
        until(lambda: not serves.is_alive())

    run(main)


def test_at_the_end_of_the_interpreter_tasks_write_without_a_thread(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None can be begun then."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    async def main() -> None:
        await store.append_async(entry(1))
        gone: Any = lambda: None  # noqa: E731 - as a weak reference is
        monkeypatch.setattr(helper, "_helpers", {1: gone, 2: weakref.ref(_helper(store))})
        helper._at_exit()
        monkeypatch.setattr(helper, "start", no_thread)
        assert (await store.append_async(entry(2))).position == 2
        async with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER)")
            await store.append_async(entry(3))

    run(main)
    assert keys(store) == ["load:1", "load:2", "load:3"]


def _helper(store: CheckpointStore) -> helper.Helper:
    found = writer(store)._helper
    assert found is not None
    return found


def test_what_queues_during_a_commit_waits_for_its_turn_from_its_end_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes."""
    began, queued = threading.Event(), threading.Event()
    waits_since: list[float] = []
    ended: list[float] = []

    def clock() -> int:
        began.set()
        assert queued.wait(20)
        return 0

    async def main(store: CheckpointStore) -> None:
        first = asyncio.create_task(store.advance_async("run", "load", Watermark(1, 1), idempotency_key="1"))
        while not began.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(store.append_async(entry(1)))
        await asyncio.sleep(0)
        queued.set()
        await asyncio.gather(first, second)

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        commit = writer(store).commit_batch

        def noted(batch: helper.Batch) -> None:
            waits_since.append(batch.waits_since)
            commit(batch)
            ended.append(time.monotonic())

        monkeypatch.setattr(writer(store), "commit_batch", noted)
        run(lambda: main(store))
    assert waits_since[1] >= ended[0]


def test_the_end_of_the_interpreter_does_not_wait_for_the_lock_of_another_process(path: Path) -> None:
    """What waits for it is not recorded, as its task is told if it is there still."""
    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store,
        CheckpointStore(path, durability="normal") as other,
    ):

        async def main() -> float:
            task = asyncio.create_task(store.append_async(entry(1)))
            while writer(store)._file_lock._deadline is None:  # it waits for the lock
                await asyncio.sleep(0.001)
            helper, began = writer(store)._helper, time.monotonic()
            assert helper is not None
            helper.end(10)
            took = time.monotonic() - began
            with pytest.raises(StoreBusyError):
                await task
            return took

        writer(store)._file_lock.ask(0)
        with other.transaction():
            assert run(main) < 5
        assert len(store) == 0


def test_a_block_that_no_thread_can_end_is_ended_by_its_task(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop is held then, but what was recorded stands; what has not begun is refused."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with CheckpointStore(path, durability="normal") as store:

        async def main() -> None:
            async with store.transaction():
                await store.append_async(entry(1))
                monkeypatch.setattr("milepost.helper.start", no_thread)
            assert len(store) == 1
            with pytest.raises(StoreError, match="no thread can be begun"):
                await _in(store.transaction)
            monkeypatch.undo()
            await store.append_async(entry(2))

        run(main)
        assert keys(store) == ["load:1", "load:2"]


def test_what_queues_behind_a_slow_commit_waits_for_its_own_turn_from_then_on(path: Path) -> None:
    """The time that the tasks before took is not counted as if another thread had held the store meanwhile."""

    def clock() -> int:
        if slow:
            slow.clear()
            began.set()
            time.sleep(1.2)
        return 0

    slow, began, blocked = [True], threading.Event(), threading.Event()
    with CheckpointStore(path, durability="normal", busy_timeout_ms=1000, clock=clock) as store:

        def holds() -> None:
            began.wait(20)
            time.sleep(0.25)
            with store.transaction():
                blocked.set()
                time.sleep(0.2)

        async def main() -> None:
            first = asyncio.create_task(store.advance_async("run", "load", Watermark(1, 1), idempotency_key="1"))
            while not began.is_set():
                await asyncio.sleep(0.001)
            await asyncio.gather(first, store.append_async(entry(1)))

        held = begin(holds)
        run(main)
        result(held)
        assert blocked.is_set()
        assert len(store) == 2


def test_a_block_that_is_cancelled_while_it_commits_is_recorded(path: Path) -> None:
    """The task hears of it after the commit, and the next one finds a clean state."""
    with CheckpointStore(path) as store:

        async def commits() -> None:
            async with store.transaction():
                await store.append_many_async(chain(2_000))

        async def main() -> int:
            cancelled = 0
            for _ in range(3):
                task = asyncio.create_task(commits())
                while not task_is_leaving(task):
                    await asyncio.sleep(0)
                for _ in range(3):
                    task.cancel()
                    await asyncio.sleep(0)
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                cancelled += task.cancelled()
                assert len(store) == 2_000
            return cancelled

        assert run(main) > 0


def test_a_commit_that_has_begun_is_not_undone_by_the_end_of_its_task(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which gives up its `async with` on the way; the thread commits all the same."""
    leave, begun, gone = writer(store).leave, threading.Event(), threading.Event()

    def once_the_task_is_gone(block: Block, error: BaseException | None) -> None:
        if error is None:
            begun.set()
            assert gone.wait(20)
        leave(block, error)

    monkeypatch.setattr(writer(store), "leave", once_the_task_is_gone)

    async def records() -> None:
        async with store.transaction():
            await store.append_async(entry(1))

    async def main() -> None:
        ends, task = records(), asyncio.create_task(asyncio.sleep(0))
        with _as_current(task, asyncio.get_running_loop()):
            awaited = ends.send(None)
        while not awaited.done():  # the block has begun
            await asyncio.sleep(0.001)
        with _as_current(task, asyncio.get_running_loop()):
            ends.send(None)
        assert await asyncio.to_thread(begun.wait, 20)
        ends.close()
        gone.set()
        await store.append_async(entry(2))

    run(main)
    assert keys(store) == ["load:1", "load:2"]


def test_a_block_that_an_interrupt_undoes_is_not_committed_meanwhile(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes before the thread that is to commit has begun to."""
    leave, call, undoes = writer(store).leave, helper.Helper.call, threading.Event()
    threads: list[threading.Thread] = []

    def late(self: helper.Helper, function: Callable[[], T], unheard: Any = None) -> helper.Call[T]:
        def run() -> T:
            threads.append(threading.current_thread())
            assert undoes.wait(20)
            return function()

        if function.__name__ != "commit":
            return call(self, function, unheard)
        call(self, run)
        raise KeyboardInterrupt

    def once_the_thread_has_ended(block: Block, error: BaseException | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            undoes.set()
            until(lambda: bool(threads))
            threads[0].join(20)
        leave(block, error)

    monkeypatch.setattr(helper.Helper, "call", late)
    monkeypatch.setattr(writer(store), "leave", once_the_thread_has_ended)

    async def main() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            async with store.transaction():
                await store.append_async(entry(1))
        await store.append_async(entry(2))

    run(main)
    assert keys(store) == ["load:2"]


def test_an_interrupt_that_ends_a_block_is_in_nobodys_way(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if somebody keeps the exception, and with it all that was under way."""
    interrupt = KeyboardInterrupt()

    async def main() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            async with store.transaction():
                await store.append_async(entry(1))
                monkeypatch.setattr(helper.Helper, "call", _raises(interrupt))
        monkeypatch.undo()

    run(main)
    assert in_time(lambda: store.append(entry(2))).position == 1
    assert interrupt.__traceback__ is not None


def _raises(error: BaseException) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


def test_the_end_of_the_interpreter_cuts_short_the_wait_of_tasks_alone(path: Path) -> None:
    """A thread that waits for another process's lock may have all its time."""
    with CheckpointStore(path, durability="normal") as store, other_process("hold", path) as other:
        assert other.hear() == "ready"
        assert other.tell("hold") == "held"
        waits = begin(lambda: store.append(entry(1)))
        until(lambda: writer(store)._turns.holder is not None)
        for _ in range(20):
            writer(store).stop_waiting(helper.Batch(deque(), 0.0))
            time.sleep(0.005)
        assert other.tell("go on") == "free"
        assert result(waits).position == 1


def task_is_leaving(task: asyncio.Task[Any]) -> bool:
    """Whether it waits for its block's commit, or is done."""
    awaited: Any = task.get_coro()
    while awaited is not None and hasattr(awaited, "cr_await"):
        if awaited.cr_code.co_name == "leave_async":
            return True
        awaited = awaited.cr_await
    return task.done()


# The end of a process


def play(path: Path, scene: str, python: str = sys.executable, **environment: str) -> tuple[int, list[str], str, float]:
    """Run a scene to its end: exit code, what it said, its complaints, and how long it took."""
    began = time.monotonic()
    places = [str(Path(milepost.__file__).parents[1]), str(PROGRAMS.parent)]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment}
    played = subprocess.run(
        [python, "-W", "error", str(PROGRAM), str(path), scene],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=where,
    )
    return played.returncode, played.stdout.splitlines(), played.stderr, time.monotonic() - began


def nothing_is_lost(path: Path, said: list[str]) -> None:
    """Every stage that it named is in the file."""
    with CheckpointStore(path) as store:
        found = {e.stage for e in store.history()}
        store.verify().raise_if_broken()
    assert set(said) - {"ended"} <= found


ENDS: Final = [scene for scene in SCENES if scene != "for_ever"]
COMES_TO_ITS_END: Final = set(ENDS) - {"exits"}


@pytest.mark.parametrize("scene", ENDS)
def test_however_the_interpreter_ends_it_ends_and_nothing_is_lost(path: Path, scene: str) -> None:
    """Promptly, and without a complaint."""
    _ends_well(path, scene, sys.executable)


@pytest.mark.long
@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=str)
@pytest.mark.parametrize("scene", sorted(set(ENDS) - {"struck"}))
def test_however_another_python_ends_nothing_is_lost(path: Path, scene: str, python: str) -> None:
    """Of those that MILEPOST_PYTHONS names, some of which begin no thread at their end, and warn of forks beside threads."""
    _ends_well(path, scene, python)


def _ends_well(path: Path, scene: str, python: str) -> None:
    code, said, complaints, seconds = play(path, scene, python)
    assert code == 0, complaints
    if scene != "interrupted":  # asyncio complains of the tasks and sockets that an interrupt leaves
        assert complaints == ""
    assert "ended" in said
    assert seconds < PROMPTLY_S + (scene == "interrupted") * 60
    nothing_is_lost(path, said)


@pytest.mark.long
def test_nothing_is_lost_by_many_interrupts(path: Path) -> None:
    """The full dose."""
    code, said, complaints, _ = play(path, "interrupted", ROUNDS="500")
    assert (code, said[-1]) == (0, "ended"), complaints
    nothing_is_lost(path, said)


@pytest.mark.long
@pytest.mark.parametrize("first", range(3))
def test_an_interrupt_anywhere_leaves_a_store_that_works(path: Path, first: int) -> None:
    """The full dose."""
    code, said, complaints, _ = play(path, "struck", EVERY="3", FIRST=str(first))
    assert (code, said[-1]) == (0, "ended"), complaints
    nothing_is_lost(path, said)


@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.long)])
def test_what_was_acknowledged_before_a_kill_is_there(path: Path, times: int) -> None:
    """At whatever moment, with forty tasks in the queue."""
    for number in range(times):
        place = path.with_name(f"{number}.milepost")
        process = subprocess.Popen([sys.executable, str(PROGRAM), str(place), "for_ever"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(100 + 37 * number)]
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split("\n")
        nothing_is_lost(place, said + rest[:-1])


# Errors


def test_what_fails_fails_alone(store: CheckpointStore) -> None:
    """Its neighbours in the commit are recorded, and each task has an exception of its own."""
    store.append(entry(5, stage="taken"))

    async def main() -> list[Any]:
        wrong = [
            store.append_async(entry(5, stage="taken", key="other")),
            store.append_async(entry(4, stage="taken", key="before")),
            store.append_async(entry(6, stage="taken", key="back", offset=1)),
            store.append_async(entry(6, stage="taken", key="taken:5")),
            store.append_many_async([entry(1, stage="half"), entry(1, stage="half", key="again")]),
            store.advance_async("run-7", "taken", Watermark(9, 9), idempotency_key="z", after=None),
            store.advance_async("run-7", "taken", Watermark(1, 1), idempotency_key="y"),
            store.advance_many_async([("run-7", "fine", Watermark(1, 1), "1"), ("run-7", "taken", Watermark(1, 1), "x")]),
        ]
        right = [store.append_async(entry(1, stage=f"{task}")) for task in range(20)]
        told: list[Any] = await asyncio.gather(*wrong[:4], *right[:10], *wrong[4:], *right[10:], return_exceptions=True)
        return told

    told = run(main)
    errors = [each for each in told if isinstance(each, BaseException)]
    assert [type(error) for error in errors] == [
        SequenceError,
        SequenceError,
        WatermarkRegressionError,
        IdempotencyConflictError,
        SequenceError,
        StageMovedError,
        WatermarkRegressionError,
        WatermarkRegressionError,
    ]
    assert len({id(error) for error in errors}) == len(errors)
    assert sorted(e.stage for e in store.history()) == sorted(["taken", *(f"{task}" for task in range(20))])


async def _checkpointed(store: CheckpointStore) -> None:
    async for _ in store.checkpointed(range(3), run_id="loops", stage="load"):
        pass


async def _once(store: CheckpointStore) -> None:
    async for _ in store.once(range(3), run_id="loops", stage="load", key=str):
        pass


async def _tracked(store: CheckpointStore) -> None:
    async with store.tracked(run_id="loops", stage="load") as track:
        for offset in range(3):
            (await track(offset))()


@pytest.mark.parametrize("loop", [_checkpointed, _once, _tracked])
def test_what_a_loop_records_beside_what_fails_is_recorded(
    store: CheckpointStore, loop: Callable[[CheckpointStore], Coroutine[Any, Any, None]]
) -> None:
    """All jobs of a commit are done a second time if one of them fails, and a loop's is not taken for withdrawn then."""

    async def main() -> None:
        async with store.transaction():  # both queue behind it, and share the next commit
            looping = asyncio.create_task(loop(store))
            await asyncio.sleep(0.05)
            refused = asyncio.create_task(
                store.advance_async("run", "stage", Watermark(1, 0), idempotency_key="refused", after=Watermark(9, 0))
            )
            await asyncio.sleep(0.05)
        await looping
        with pytest.raises(StageMovedError):
            await refused

    run(main)
    point = store.resume_point_for_stage("load", run_id="loops")
    assert point.watermark.offset == 3


def test_an_invalid_checkpoint_is_refused_alone(store: CheckpointStore) -> None:
    """As every other."""

    async def main() -> list[Any]:
        bad = [entry(-1, stage="bad"), entry(1, stage=""), "no checkpoint"]
        return await asyncio.gather(
            *(store.append_async(each) for each in [*bad, *(entry(1, stage=f"{n}") for n in range(9))]),  # type: ignore[arg-type]
            return_exceptions=True,
        )

    told = run(main)
    assert [isinstance(each, InvalidCheckpointError) for each in told] == [True] * 3 + [False] * 9


@pytest.mark.parametrize("beside", [0, 20])
@pytest.mark.parametrize(
    "raised",
    [RuntimeError("clock"), StopIteration(), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=repr,
)
def test_a_clock_that_raises_fails_the_task_that_asked_for_the_time(path: Path, raised: BaseException, beside: int) -> None:
    """Alone in its commit or not, whatever it raises; and the next call is served."""
    broken = True

    def clock() -> int:
        if broken:
            raise raised
        return 1

    with CheckpointStore(path, durability="normal", clock=clock) as store:

        async def main() -> tuple[BaseException, list[Receipt]]:
            nonlocal broken
            loop = asyncio.get_running_loop()
            others = [asyncio.create_task(store.append_async(entry(1, stage=f"{task}"))) for task in range(beside)]
            told: asyncio.Future[BaseException] = loop.create_future()

            async def asks() -> None:
                try:
                    await store.advance_async("run-7", "asks", Watermark(1, 1), idempotency_key="1")
                except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
                    told.set_result(error)

            await asyncio.create_task(asks())
            broken = False
            receipts = list(await asyncio.gather(*others))
            receipts.append(await store.advance_async("run-7", "asks", Watermark(1, 1), idempotency_key="1"))
            return await told, receipts

        error, receipts = run(main)
        assert type(error) is (RuntimeError if isinstance(raised, StopIteration) else type(raised))
        assert sorted(receipt.position for receipt in receipts) == list(range(1, beside + 2))


@pytest.mark.parametrize("raised", [RuntimeError("on_connect"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_task_is_told_with_what_its_transaction_could_not_begin(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    """`on_connect` raises it, say, as the file is opened again after a fork. It is not tried again and again."""
    begun: list[object] = []

    def begin_in_vain() -> None:
        begun.append(raised)
        raise raised

    async def main() -> BaseException:
        told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def appends() -> None:
            try:
                await store.append_async(entry(1))
            except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
                told.set_result(error)

        with monkeypatch.context() as patch:
            patch.setattr(writer(store), "_begin", begin_in_vain)
            await asyncio.create_task(appends())
        assert (await store.append_async(entry(1))).position == 1
        return await told

    assert type(run(main)) is type(raised)
    assert begun == [raised]


def test_beside_another_process_that_holds_the_lock(path: Path) -> None:
    """Each task is told after `busy_timeout_ms`, by an exception of its own; the loop goes on meanwhile."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=200) as store, other_process("hold", path) as other:
        other.hear()
        other.tell("until told")

        async def begins_a_block() -> None:
            async with store.transaction():
                pytest.fail("there is none to be had")

        async def main() -> list[Any]:
            pauses = asyncio.create_task(longest_pause())
            told = await asyncio.gather(
                *(store.append_async(entry(1, stage=f"{task}")) for task in range(30)),
                store.advance_async("run-7", "one", Watermark(1, 1), idempotency_key="1"),
                *(begins_a_block() for _ in range(3)),
                return_exceptions=True,
            )
            pauses.cancel()
            assert await pauses < 0.15
            return told

        told = run(main)
        assert {type(each) for each in told} == {StoreBusyError}
        assert len({id(each) for each in told}) == 34
        other.tell("go")

        async def afterwards() -> None:
            await store.append_async(entry(1))

        run(afterwards)
        assert keys(store) == ["load:1"]


async def longest_pause() -> float:
    """Until it is cancelled: the longest time between two of its turns, in seconds."""
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return longest


def test_a_block_of_another_thread_is_waited_for_as_long_as_the_store_says(path: Path) -> None:
    """Since a task has queued: not once more for each that came before it."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=400) as store:

        async def timed(stage: str) -> float:
            began = time.monotonic()
            with pytest.raises(StoreBusyError):
                await store.append_async(entry(1, stage=stage))
            return time.monotonic() - began

        async def both() -> list[float]:
            first = asyncio.create_task(timed("first"))
            await asyncio.sleep(0.05)
            return list(await asyncio.gather(first, timed("second")))

        inside, over = threading.Event(), threading.Event()

        def holds() -> None:
            with store.transaction():
                inside.set()
                over.wait(20)

        held = begin(holds)
        inside.wait(20)
        try:
            assert all(0.39 < seconds < 0.65 for seconds in run(both))
        finally:
            over.set()
        result(held)


def test_a_closed_store_and_one_that_only_reads(path: Path) -> None:
    """Refuse every method."""
    store = CheckpointStore(path)
    store.append(entry(1))
    store.close()

    async def refused(store: CheckpointStore, error: type[MilepostError]) -> None:
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: store.append_async(entry(1)),
            lambda: store.append_many_async([entry(1)]),
            lambda: store.advance_async("run-7", "load", Watermark(1, 1), idempotency_key="1"),
            lambda: store.advance_many_async([("run-7", "load", Watermark(1, 1), "1")]),
            lambda: _in(store.transaction),
            lambda: _in(lambda: store.run("run-8")),
        ]
        for call in calls:
            with pytest.raises(error):
                await call()

    async def main() -> None:
        await refused(store, ClosedStoreError)
        async with CheckpointStore.open_readonly(path) as reader:
            await refused(reader, ReadOnlyStoreError)
        await refused(reader, ClosedStoreError)

    run(main)


async def _in(manager: Callable[[], Any]) -> None:
    async with manager():
        pass


def test_a_close_that_fails_leaves_a_store_that_works(path: Path) -> None:
    """A task of the same thread is in its block, and the thread cannot wait for it; nor does one that waits for ever."""
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=300)

    async def main() -> None:
        inside, over = asyncio.Event(), asyncio.Event()

        async def holds() -> None:
            async with store.transaction():
                inside.set()
                await over.wait()

        holder = asyncio.create_task(holds())
        await inside.wait()
        with pytest.raises(StoreError, match="task"):
            store.close()
        with pytest.raises(StoreBusyError):
            await asyncio.to_thread(store.close)
        over.set()
        await holder
        await store.append_async(entry(1))

    run(main)
    store.close()


def test_what_queues_as_the_store_is_closed_is_done_or_told(tmp_path: Path) -> None:
    """By tasks of another thread, at the very moment."""
    for number in range(20):
        store = CheckpointStore(tmp_path / f"{number}.milepost", durability="normal")
        acknowledged: list[str] = []

        async def appends(task: int, store: CheckpointStore, acknowledged: list[str]) -> None:
            sequence = 0
            with contextlib.suppress(ClosedStoreError):
                while True:
                    sequence += 1
                    await store.append_async(entry(sequence, stage=f"{task}"))
                    acknowledged.append(f"{task}:{sequence}")

        async def main(store: CheckpointStore, acknowledged: list[str]) -> None:
            await asyncio.gather(*(appends(task, store, acknowledged) for task in range(10)))

        looping = begin(lambda store=store, told=acknowledged: asyncio.run(main(store, told)))  # type: ignore[misc]
        time.sleep(0.001 * number)
        in_time(store.close)
        result(looping)
        with CheckpointStore.open_readonly(store.path) as found:
            assert set(acknowledged) <= set(keys(found))


@pytest.mark.parametrize("ending", ["a block", "the store"])
def test_what_a_loop_was_told_and_an_interrupt_has_lost_is_looked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The task cannot be cancelled while its commit is under way: it would wait for ever."""

    async def end() -> None:
        async with CheckpointStore(path, durability="normal") as store:
            async with store.transaction():
                await store.append_async(entry(1))
                if ending == "a block":
                    monkeypatch.setattr(helper, "_tell", lambda _loop, _call: True)
            monkeypatch.undo()
            if ending == "the store":
                monkeypatch.setattr(helper, "_tell", lambda _loop, _call: True)

    in_time(lambda: asyncio.run(end()), PROMPTLY_S)
    with CheckpointStore.open_readonly(path) as store:
        assert len(store) == 1


def test_a_store_that_two_tasks_close_is_closed_at_once(path: Path) -> None:
    """Neither waits for the other's thread."""
    store = CheckpointStore(path)

    async def main() -> float:
        began = time.monotonic()
        async with store, store:
            await store.append_async(entry(1))
            closing = [asyncio.create_task(_in(lambda: _Closing(store))) for _ in range(3)]
            await asyncio.gather(*closing)
        return time.monotonic() - began

    assert run(main) < 2


class _Closing:
    """An `async with` that the store's own end is the end of."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        await self._store.__aexit__(None, None, None)


# Loops


@pytest.mark.parametrize("threads", [2, 8])
def test_loops_in_threads_of_their_own_share_a_store(path: Path, threads: int) -> None:
    """From the first job on: they begin one helper, and close it."""
    for number in range(5):
        store = CheckpointStore(path.with_name(f"{number}.milepost"), durability="normal")
        start = threading.Barrier(threads)

        def loop(thread: int, store: CheckpointStore, start: threading.Barrier) -> list[Receipt]:
            async def main() -> list[Receipt]:
                return await asyncio.gather(*(store.append_async(entry(1, stage=f"{thread}-{n}")) for n in range(30)))

            start.wait(20)
            return asyncio.run(main())

        looping = [begin(lambda t=t, s=store, b=start: loop(t, s, b)) for t in range(threads)]  # type: ignore[misc]
        receipts = [receipt for each in looping for receipt in result(each)]
        assert sorted(receipt.position for receipt in receipts) == list(range(1, 30 * threads + 1))
        store.close()
        assert [each for each in threading.enumerate() if each.name == "milepost"] == []


def test_a_loop_that_is_closed_while_its_jobs_are_queued(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for them any more; another loop's are done, and blocks that were asked for are nobody's."""
    inside, over = threading.Event(), threading.Event()

    def holds() -> None:
        with store.transaction():
            inside.set()
            over.wait(20)

    held = begin(holds)
    inside.wait(20)

    def closes_its_loop() -> None:
        loop = asyncio.new_event_loop()
        tasks: list[asyncio.Task[Any]] = [
            *(loop.create_task(store.append_async(entry(1, stage=f"{task}"))) for task in range(20)),
            *(loop.create_task(_in(store.transaction)) for _ in range(5)),
        ]
        for _ in range(5):
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        tasks.clear()

    caplog.set_level(logging.CRITICAL, "asyncio")  # it tells of each task that was never done
    in_time(closes_its_loop)
    gc.collect()
    over.set()
    result(held)

    async def main() -> None:
        async with store.transaction():
            await store.append_async(entry(1, stage="block"))
        await store.append_async(entry(1, stage="after"))

    run(main)
    run(main)
    assert {"block:1", "after:1"} <= set(keys(store))
    helper = writer(store)._helper
    assert helper is not None
    until(lambda: gc.collect() >= 0 and list(helper._gates) == [])


@pytest.mark.parametrize("times", [12, pytest.param(400, marks=pytest.mark.long)])
def test_a_task_that_is_destroyed_in_its_block_undoes_it(path: Path, caplog: pytest.LogCaptureFixture, times: int) -> None:
    """Wherever it was: as it began, inside, inside a block within, or as it committed; the loop may be closed or not."""
    caplog.set_level(logging.CRITICAL, "asyncio")
    chance = random.Random(3)
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=2000)
    told: list[str] = []

    async def writes(number: int) -> None:
        async with store.transaction():
            await store.append_async(entry(1, stage=f"{number}"))
            async with store.transaction():
                await store.append_async(entry(2, stage=f"{number}"))
                await asyncio.sleep(chance.choice([0, 0, 0.0005]))
        told.append(f"{number}")

    def one(number: int) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(writes(number))
        loop.run_until_complete(asyncio.sleep(chance.choice([0, 0.0003, 0.0006, 0.001, 0.002])))
        loop.close()
        del task

    for number in range(times):
        in_time(lambda number=number: one(number))  # type: ignore[misc]
        for _ in range(2):  # a thread that ends now may know the task still
            gc.collect()
            time.sleep(0.002)
        in_time(lambda number=number: store.append(entry(1, stage=f"after-{number}")))  # type: ignore[misc]
    found = keys(store)
    for number in range(times):
        assert found.count(f"{number}:1") == found.count(f"{number}:2")
        assert f"{number}" not in told or f"{number}:1" in found
    in_time(store.close)
    gc.collect()


def test_a_store_whose_task_is_destroyed_is_closed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can be awaited then."""
    caplog.set_level(logging.CRITICAL, "asyncio")
    stores: list[CheckpointStore] = []

    async def holds() -> None:
        async with CheckpointStore(path) as store:
            stores.append(store)
            await store.append_async(entry(1))
            await asyncio.sleep(100)

    def abandons() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(holds())
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        del task

    in_time(abandons)
    gc.collect()
    with pytest.raises(ClosedStoreError):
        len(stores[0])


def test_a_loop_after_another(store: CheckpointStore) -> None:
    """One helper serves them all, and keeps none of them."""

    async def main(number: int) -> None:
        async def writes(task: int) -> None:
            async with store.transaction():
                await store.append_async(entry(1, stage=f"{number}-{task}"))

        await asyncio.gather(*(writes(task) for task in range(4)))

    for number in range(10):
        run(lambda number=number: main(number))  # type: ignore[misc]
    assert len(store) == 40


# trio


def test_trio_is_told_what_to_do_and_nothing_is_left_open(path: Path) -> None:
    """Its tasks cannot await what asyncio's can."""

    async def main() -> None:
        async with CheckpointStore(path) as store:
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                lambda: store.append_async(entry(1)),
                lambda: store.append_many_async([entry(1)]),
                lambda: store.advance_async("run-7", "load", Watermark(1, 1), idempotency_key="1"),
                lambda: store.advance_many_async([("run-7", "load", Watermark(1, 1), "1")]),
                lambda: _in(store.transaction),
                lambda: _in(lambda: store.run("run-8")),
            ]
            for call in calls:
                with pytest.raises(StoreError, match=r"trio\.to_thread"):
                    await call()
            await trio.to_thread.run_sync(store.append, entry(1))
            with store.transaction():
                store.append(entry(2))
        assert writer(store).closed

    in_time(lambda: trio.run(main))
    with CheckpointStore.open_readonly(path) as found:
        assert keys(found) == ["load:1", "load:2"]


# Random programs


class RandomProgram:
    """
    Tasks and threads that do whatever there is to do, and keep what they were told.

    Attributes:
        acknowledged: Receipts by stage and key.
        undone: What was in a block that was undone, by stage and key.
        together: What was in a block of which nobody knows whether it was committed: all of it is, or nothing.
    """

    def __init__(self, store: CheckpointStore, seed: int) -> None:
        self.store = store
        self.seed = seed
        self.chance = random.Random(seed)
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self.undone: set[str] = set()
        self.together: list[set[str]] = []
        self._numbers = iter(range(1, 1_000_000))

    def _next(self, stage: str) -> Checkpoint:
        return entry(next(self._numbers), stage=stage)

    async def write(self, stage: str) -> dict[str, tuple[int, str]]:
        """Record something by one of the methods; what was told."""
        store, e = self.store, self._next(stage)
        how = self.chance.randrange(4)
        if how == 0:
            receipt = await store.append_async(e)
        elif how == 1:
            receipt = await store.advance_async("run-7", stage, e.watermark, idempotency_key=e.idempotency_key)
        else:
            last = self._next(stage)
            if how == 2:
                batch = await store.append_many_async([e, last])
            else:
                batch = await store.advance_many_async([("run-7", stage, x.watermark, x.idempotency_key) for x in (e, last)])
            assert batch.appended == 2
            return {f"{stage} {last.idempotency_key}": (batch.position, batch.signature)}
        assert not receipt.duplicate
        return {f"{stage} {e.idempotency_key}": (receipt.position, receipt.signature)}

    async def block(self, stage: str, depth: int = 0) -> dict[str, tuple[int, str]]:
        """A block, with blocks inside; what was told in it and is there if the outermost one is committed."""
        told: dict[str, tuple[int, str]] = {}
        ends = self.chance.choice(["well", "well", "raises", "cancelled"])
        manager: Any = self.store.transaction()
        kind = self.chance.choice(["async", "async", "sync"])
        try:
            if kind == "async":
                async with manager:
                    await self._inside(stage, depth, told, ends)
            else:
                with manager:
                    await self._inside(stage, depth, told, ends)
        except (KeyError, asyncio.CancelledError) as error:
            if "undone here" not in error.args:  # cancelled by another: perhaps while it committed
                self.together.append(set(told))
                raise
            self.undone |= set(told)
            return {}
        return told

    async def _inside(self, stage: str, depth: int, told: dict[str, tuple[int, str]], ends: str) -> None:
        for _ in range(self.chance.randrange(4)):
            if depth < 3 and self.chance.random() < 0.3:
                told |= await self.block(stage, depth + 1)
            elif self.chance.random() < 0.5:
                told |= await self.write(stage)
            else:
                await asyncio.sleep(self.chance.choice([0, 0, 0.0003]))
        if ends == "raises":
            raise KeyError("undone here")
        if ends == "cancelled":
            raise asyncio.CancelledError("undone here")

    async def task(self, stage: str) -> None:
        """One task; whoever cancels it."""
        for _ in range(6):
            with contextlib.suppress(StoreError):  # another task of this thread is in a plain `with`
                what = self.chance.randrange(4)
                if what == 0:
                    self.acknowledged |= await self.block(stage)
                elif what == 1:
                    e = self._next(stage)
                    receipt = self.store.append(e)
                    self.acknowledged[f"{stage} {e.idempotency_key}"] = (receipt.position, receipt.signature)
                else:
                    self.acknowledged |= await self.write(stage)

    def thread(self, stage: str, chance: random.Random) -> None:
        """One thread."""
        for _ in range(8):
            told: dict[str, tuple[int, str]] = {}
            inside = chance.random() < 0.4
            raises = chance.random() < 0.4
            try:
                with self.store.transaction() if inside else contextlib.nullcontext():
                    for _ in range(2):
                        e = self._next(stage)
                        receipt = self.store.append(e)
                        told[f"{stage} {e.idempotency_key}"] = (receipt.position, receipt.signature)
                        if not inside:
                            self.acknowledged |= told
                    if raises:
                        raise KeyError("undone here")
            except KeyError:
                if inside:
                    self.undone |= set(told)
            except StoreBusyError:
                pass
            else:
                self.acknowledged |= told

    async def main(self, name: str, tasks: int) -> None:
        """Tasks, some of which are cancelled."""
        running = [asyncio.create_task(self.task(f"{name}-{task}")) for task in range(tasks)]
        for victim in self.chance.sample(running, tasks // 3):
            await asyncio.sleep(self.chance.choice([0, 0.0005, 0.002]))
            victim.cancel()
        for told in await asyncio.gather(*running, return_exceptions=True):
            assert told is None or isinstance(told, asyncio.CancelledError | StoreBusyError), told

    def run(self) -> None:
        """All of it: two loops and two threads."""
        calls: list[Callable[[], object]] = [
            lambda: asyncio.run(self.main(f"{self.seed}-a", 7)),
            lambda: asyncio.run(self.main(f"{self.seed}-b", 4)),
            lambda: self.thread(f"{self.seed}-c", random.Random(1)),
            lambda: self.thread(f"{self.seed}-d", random.Random(2)),
        ]
        for running in [begin(call) for call in calls[: self.chance.randrange(1, 5)]]:
            result(running, 60)


@either_way
@pytest.mark.parametrize("programs", [25, pytest.param(1_000, marks=pytest.mark.long)])
@pytest.mark.usefixtures("_way")
def test_of_random_programs_every_receipt_is_in_the_chain_and_nothing_undone(path: Path, programs: int) -> None:
    """And none hangs."""
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=5000)
    played = [RandomProgram(store, seed) for seed in range(programs)]
    for program in played:
        program.run()
    found = recorded(store)
    for program in played:
        assert {name: found.get(name) for name in program.acknowledged} == program.acknowledged
        assert program.undone.isdisjoint(found)
        for together in program.together:
            rest = together - program.undone
            assert rest <= set(found) or rest.isdisjoint(found)
    store.verify().raise_if_broken()
    in_time(store.close)

"""What a loop records while its source blocks, how it is stopped, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, ClosedStoreError, ForkedStoreError, StageMovedError, StoreError, Watermark
from milepost.turn import NOW
from support.chains import entry
from support.doors import writer
from support.other_process import other_process
from support.patience import begin, in_time, result, until
from support.slow_disk import disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))


def _offset(store: CheckpointStore, stage: str = "load") -> int:
    point = store.resume_points("run-7").get(stage)
    return point.watermark.offset if point else 0


def _loop(store: CheckpointStore, records: Any, **options: Any) -> Any:
    return store.checkpointed(records, **({"run_id": "run-7", "stage": "load"} | options))


class Blocking:
    """A source that blocks until it is given something; None ends it."""

    def __init__(self, *records: int) -> None:
        self.queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for record in records:
            self.queue.put(record)

    def __iter__(self) -> Iterator[int]:
        return iter(self.queue.get, None)


def _no_ticker() -> bool:
    return not [each for each in threading.enumerate() if each.name == "milepost-ticker"]


# every_s


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_finished_is_recorded_while_the_source_blocks(store: CheckpointStore, is_async: bool) -> None:
    """The last batch of an idle source is not kept back; the record in hand is not finished, and not recorded."""
    source = Blocking(0, 1, 2)

    async def run_async() -> list[int]:
        async def records() -> AsyncIterator[int]:
            while (record := await asyncio.to_thread(source.queue.get)) is not None:
                yield record

        return [record async for record in _loop(store, records(), every_s=0.01)]

    running = begin(lambda: asyncio.run(run_async()) if is_async else list(_loop(store, source, every_s=0.01)))
    until(lambda: _offset(store) == 3)
    source.queue.put(3)
    until(lambda: _offset(store) == 4)
    source.queue.put(None)
    assert result(running) == [0, 1, 2, 3]
    until(_no_ticker)
    assert _offset(store) == 4


def test_a_pool_under_async_for_hands_out_while_the_source_blocks(store: CheckpointStore) -> None:
    """And what was handed out is recorded."""
    source = Blocking(0, 1, 2)

    async def run() -> None:
        async def records() -> AsyncIterator[int]:
            while (record := await asyncio.to_thread(source.queue.get)) is not None:
                yield record

        async for _ in _loop(store, records(), every_s=0.01).map(str):
            pass

    running = begin(lambda: asyncio.run(run()))
    until(lambda: _offset(store) == 3)
    source.queue.put(None)
    result(running)


@pytest.mark.parametrize("kept", [False, True])
def test_nothing_is_recorded_after_the_loop_was_left(store: CheckpointStore, kept: bool) -> None:
    """Though somebody keeps its iterator, where the loop is a context manager."""
    with _loop(store, range(10), every_s=0.05) as loop:
        records = iter(loop)
        for _ in records:
            if loop.done == 3:
                break
        if not kept:
            del records
    time.sleep(0.12)
    assert _offset(store) == 0
    until(_no_ticker)


def test_nothing_of_a_pass_is_recorded_once_the_loop_has_begun_another(store: CheckpointStore) -> None:
    """Though somebody keeps the iterator of the first: the second would be told that the stage has moved."""
    loop = _loop(store, range(10), every_s=3600)
    first = iter(loop)
    assert [next(first) for _ in range(4)] == [0, 1, 2, 3]
    progress = loop._progress
    second = iter(loop)
    progress.record_meanwhile()
    assert _offset(store) == 0
    assert list(second) == list(range(10))
    assert _offset(store) == 10


@pytest.mark.parametrize("is_async", [False, True])
def test_the_tickers_thread_ends_with_its_loop(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """At once, and not when it would look again: many short loops would leave many threads."""
    monkeypatch.setattr("milepost.ticker._LOOK_AGAIN_S", 3600)

    async def run() -> list[int]:
        return [record async for record in _loop(store, range(3), every_s=3600)]

    assert (asyncio.run(run()) if is_async else list(_loop(store, range(3), every_s=3600))) == [0, 1, 2]
    until(_no_ticker)


def test_a_loop_that_begins_as_another_is_left_is_not_told_that_the_stage_has_moved(path: Path) -> None:
    """The ticker may be in the middle of a commit: it is waited for."""
    with CheckpointStore(path) as store:
        offset = 0
        for _ in range(25):
            records = iter(_loop(store, lambda start: range(start, 10**6), every_s=0.0005))
            for _ in range(20):
                next(records)
                time.sleep(0.0003)
            del records
            assert _offset(store) >= offset
            offset = _offset(store)
        assert offset > 0
        next(iter(_loop(store, lambda start: range(start, 10**6), every=1)))


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_is_recorded_after_an_interrupt_as_the_loop_is_left(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """Before the ticker's thread was told to end."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        records = aiter(loop)
        assert [await anext(records) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(KeyboardInterrupt):
            await records.aclose()

    monkeypatch.setattr("milepost.ticker._LOOK_AGAIN_S", 0.01)
    loop = _loop(store, range(10), every_s=3600)
    with monkeypatch.context() as patch:
        patch.setattr("milepost.ticker.Ticker.stop", interrupt)
        if is_async:
            asyncio.run(run())
        else:
            records = iter(loop)
            assert [next(records) for _ in range(4)] == [0, 1, 2, 3]
            with pytest.raises(KeyboardInterrupt):
                records.close()
    loop._progress.record_meanwhile()
    assert _offset(store) == 0
    until(_no_ticker)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_loop_that_is_left_waits_for_what_its_ticker_is_recording(store: CheckpointStore, is_async: bool) -> None:
    """Another loop that begins then would be told that the stage has moved."""
    goes_on = threading.Event()
    recorded: list[bool] = []
    recording = threading.Thread(target=lambda: recorded.append(goes_on.wait(20)))
    loop = _loop(store, range(4), every_s=3600)

    def begin_to_record() -> None:
        recording.start()
        loop._progress._recorder[NOW] = recording
        threading.Timer(0.05, goes_on.set).start()

    async def run() -> None:
        records = aiter(loop)
        await anext(records), await anext(records)
        begin_to_record()
        await records.aclose()
        assert recorded == [True]

    if is_async:
        in_time(lambda: asyncio.run(run()))
    else:
        records = iter(loop)
        next(records), next(records)
        begin_to_record()
        in_time(records.close)
        assert recorded == [True]
    loop._progress._recorder.clear()
    loop._progress.record_meanwhile()  # once more, too late
    assert _offset(store) == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_loop_that_is_refused_leaves_the_ticker_its_turn(path: Path, is_async: bool) -> None:
    """It was about to record when the store was closed, and the ticker is at it still."""
    with CheckpointStore(path) as store:
        loop = _loop(store, range(3))
        records = iter(loop)
        next(records)
        recording = loop._progress._recorder[NOW] = threading.Thread()
    with pytest.raises(ClosedStoreError):
        asyncio.run(loop._progress.record_async()) if is_async else loop._progress.record()
    assert loop._progress._recorder == {NOW: recording}


def test_a_failure_of_the_tickers_thread_comes_out_of_the_loop(store: CheckpointStore) -> None:
    """At the next record, once; nothing is recorded after it."""
    loop = _loop(store, range(1000), every_s=0.005)
    store_moves = False
    with pytest.raises(StageMovedError):
        for record in loop:
            if record == 2 and not store_moves:
                store_moves = True
                store.advance("run-7", "load", Watermark(1, 0), idempotency_key="another process")
                until(_no_more(loop))
            assert record < 4
    assert _offset(store) == 1
    until(_no_ticker)


def _no_more(loop: Any) -> Any:
    return lambda: loop._progress.attention


@pytest.mark.parametrize("before", [0, 3])
def test_what_is_finished_while_a_checkpoint_is_recorded_is_recorded_by_the_next(
    store: CheckpointStore, before: int
) -> None:
    """The ticker's thread has begun a transaction, and the loop goes on meanwhile; also where the stage has begun before."""

    def loops(length: int) -> dict[str, Any]:
        return {
            "load": _loop(store, range(length), every=100),
            "fetch": store.once(map(str, range(length)), run_id="run-7", stage="fetch", key=str, every=100),
        }

    for loop in loops(before).values():
        list(loop)
    for stage, loop in loops(before + 6).items():
        records = iter(loop)
        for _ in range(3):
            next(records)
        progress = loop._progress
        write = progress._write

        def goes_on(work: Any, end: Any, write: Any = write, records: Any = records) -> Any:
            next(records)
            return write(work, end)

        progress._write = goes_on
        progress.record_meanwhile()
        del progress._write
        assert (_offset(store, stage), loop.done) == (before + 2, before + 3)
        assert [int(record) for record in records] == [before + 4, before + 5]
        assert _offset(store, stage) == before + 6


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_of_the_tickers_thread_during_the_last_record_is_raised(store: CheckpointStore, is_async: bool) -> None:
    """The loop asks for no further one, at which it would be told."""
    loop = _loop(store, range(1), every_s=3600)
    failure = StoreError(store.path, "the ticker could not record")

    def fails() -> None:
        loop._progress._failure = failure

    async def run_async() -> None:
        async for _ in loop:
            fails()

    def run() -> None:
        for _ in loop:
            fails()

    with pytest.raises(StoreError, match="the ticker could not record"):
        asyncio.run(run_async()) if is_async else run()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_store_that_was_closed_is_told_to_a_loop_that_has_nothing_to_record(path: Path, is_async: bool) -> None:
    """As at any other call."""
    store = CheckpointStore(path)

    def closing(start: int) -> Iterator[int]:
        store.close()
        yield from range(0)

    async def run_async() -> list[int]:
        return [record async for record in _loop(store, closing)]

    with pytest.raises(ClosedStoreError):
        asyncio.run(run_async()) if is_async else list(_loop(store, closing))


def test_a_task_whose_loop_ends_waits_for_the_ticker_and_holds_no_other(store: CheckpointStore) -> None:
    """The ticker is in the middle of a transaction, which may wait for a lock."""
    goes_on = threading.Event()
    seen: list[bool] = []
    ticker = threading.Thread(target=lambda: seen.append(goes_on.wait(5)))

    async def end() -> None:
        loop = _loop(store, range(1))
        async for _ in loop:
            pass
        ticker.start()
        loop._progress._recorder[NOW] = ticker
        await loop._progress.end_async()
        assert seen == [True]

    async def other() -> None:
        while not ticker.is_alive():
            await asyncio.sleep(0)
        goes_on.set()

    async def both() -> None:
        await asyncio.gather(end(), other())

    asyncio.run(both())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_child_never_waits_for_what_its_parents_ticker_has_begun(store: CheckpointStore, is_async: bool) -> None:
    """There is no such thread in the child, so what it has begun never ends there."""
    loop = _loop(store, range(3))
    records = iter(loop)
    next(records)
    loop._progress._recorder[NOW] = threading.Thread()  # as at a fork in the middle of it
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with suppress(ForkedStoreError):
            asyncio.run(loop._progress.record_async()) if is_async else loop._progress.record()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    loop._progress._recorder.clear()
    assert list(records) == [1, 2]


def test_a_ticker_that_stands_still_in_a_fork_holds_no_child(path: Path) -> None:
    """The child's copy of the loop is refused, though nobody gives back the lock that the ticker had; so is its pool's."""
    with CheckpointStore(path) as store:
        for number in range(0, 20, 2):
            loop = _loop(store, range(10**6), stage=f"s{number}", every=10**6, every_s=0.0002)
            mapped = _loop(store, range(10**6), stage=f"m{number}", every_s=0.0002).map(_slow, workers=2)
            records, pairs = iter(loop), iter(mapped)
            next(records), next(pairs)
            for _ in range(number):
                next(records)
                time.sleep(0.0002)
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends it where it hangs
                refused = 0
                for each in (pairs, records):
                    try:
                        loop.stop(), mapped.stop()
                        list(each)
                    except StoreError:
                        refused += 1
                del each, records, pairs
                os._exit(0 if refused == 2 else 1)
            assert os.waitpid(child, 0)[1] == 0, number
            next(records), next(pairs)
            records.close(), pairs.close()
        store.verify().raise_if_broken()


def _slow(record: int) -> int:
    time.sleep(0.001)
    return record


# stop()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_sigterm_handler_stops_a_loop_and_loses_nothing(path: Path, transaction: bool, mapped: bool) -> None:
    """The record in hand is finished and recorded, whatever `every` is."""
    with CheckpointStore(path, durability="normal") as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER)")
        loop = _loop(store, range(10**6), every=50, transaction=transaction)
        loop = loop.map(_slow, workers=2) if mapped else loop
        before = signal.signal(signal.SIGTERM, lambda *_: loop.stop())
        try:
            finished = 0
            for _ in loop:
                finished += 1
                if transaction:
                    loop.connection.execute("INSERT INTO sink VALUES (1)")
                if finished == 120:
                    os.kill(os.getpid(), signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert finished == _offset(store) == 120 == loop.done
        if transaction:
            with store.transaction() as connection:
                assert connection.execute("SELECT count(*) FROM sink").get == 120


@pytest.mark.parametrize("transaction", [False, True])
def test_a_loop_stops_between_the_records_of_a_slow_source(store: CheckpointStore, transaction: bool) -> None:
    """With transaction=True too, where a batch is read before it is handed out: it need not fill up."""
    source = Blocking(0)
    loop = _loop(store, source, every=1000, transaction=transaction)
    running = begin(lambda: list(loop))
    until(source.queue.empty)
    loop.stop()
    source.queue.put(1)
    assert result(running) in ([0], [])
    assert len(running.result()) == _offset(store)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("stops", ["source", "body"])
def test_a_loop_that_is_stopped_reads_no_further(
    store: CheckpointStore, stops: str, transaction: bool, is_async: bool
) -> None:
    """A source may have no end, or block; what it has just read is not handed out."""
    read: list[int] = []
    handed_out: list[int] = []

    def records() -> Iterator[int]:
        for record in range(10):
            read.append(record)
            if record == 3 and stops == "source":
                loop.stop()
            yield record

    def use(record: int) -> None:
        handed_out.append(record)
        if record == 3:
            loop.stop()

    async def run() -> None:
        async with loop:
            async for record in loop:
                use(record)

    loop = _loop(store, records(), every=2, transaction=transaction)
    if is_async:
        asyncio.run(run())
    else:
        for record in loop:
            use(record)
    assert read == [0, 1, 2, 3]
    assert handed_out == list(range(_offset(store))) == list(range(4 if stops == "body" else 2 if transaction else 3))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_a_stopped_pool_waits_for_no_work_before_what_is_finished_is_recorded(
    store: CheckpointStore, in_order: bool, transaction: bool, is_async: bool
) -> None:
    """Whoever sent SIGTERM sends SIGKILL soon, and a request may take longer than that."""
    answered = threading.Event()
    handed_out: list[Any] = []

    def work(record: int) -> int:
        if record >= 5:
            answered.wait()
        return record

    given: dict[str, Any] = {"run_id": "run-7", "stage": "load", "every": 1 if transaction else 1000}
    given["transaction"] = transaction
    loop = store.checkpointed(range(40), **given) if in_order else store.once(range(40), key=str, **given)
    mapped = loop.map(work, workers=2)

    async def run() -> None:
        async with mapped:
            async for record, _ in mapped:
                handed_out.append(record)

    def run_sync() -> None:
        for record, _ in mapped:
            handed_out.append(record)

    running = begin(lambda: asyncio.run(run()) if is_async else run_sync())
    try:
        until(lambda: len(handed_out) == 5)
        loop.stop()
        until(lambda: _offset(store) == 5)
        assert not running.done()  # the work under way is waited for, behind that
    finally:
        answered.set()
    result(running)
    assert sorted(handed_out) == [0, 1, 2, 3, 4]
    assert _offset(store) == 5


@pytest.mark.parametrize("transaction", [False, True])
def test_work_that_fails_behind_a_stop_does_not_keep_what_is_finished_from_being_recorded(
    store: CheckpointStore, transaction: bool
) -> None:
    """Nobody is handed its result."""

    def work(record: int) -> None:
        if record >= 5:
            raise OSError

    loop = _loop(store, range(40), every=5 if transaction else 1000, transaction=transaction).map(work, workers=2)
    for record, _ in loop:
        if record == 4:
            loop.stop()
    assert _offset(store) == 5


@pytest.mark.parametrize("waits_for", ["work", "the source"])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_stopped_pool_of_tasks_ends_at_once(store: CheckpointStore, waits_for: str, transaction: bool) -> None:
    """Tasks that nobody will see the result of are cancelled, and so is what waits for the next record."""

    async def source() -> AsyncIterator[int]:
        for record in range(40):
            if record == 5 and waits_for == "the source":
                await asyncio.Event().wait()
            yield record

    async def work(record: int) -> int:
        if record >= 5:
            await asyncio.Event().wait()
        return record

    async def run() -> list[int]:
        loop = _loop(store, source(), every=1 if transaction else 1000, transaction=transaction).map(work)
        handed_out = []
        async with loop:
            async for record, _ in loop:
                handed_out.append(record)
                if record == 4:
                    asyncio.get_running_loop().call_later(0.01, loop.stop)
        return handed_out

    assert in_time(lambda: asyncio.run(run())) == [0, 1, 2, 3, 4]
    assert _offset(store) == 5


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_loop_that_was_stopped_before_it_begins_reads_nothing(
    store: CheckpointStore, transaction: bool, mapped: bool
) -> None:
    """And stays stopped; another one goes on."""
    loop = _loop(store, Blocking(), transaction=transaction)
    loop = loop.map(str) if mapped else loop
    loop.stop()
    assert in_time(lambda: list(loop)) == []

    async def run() -> list[Any]:
        async with loop:
            return [each async for each in loop]

    assert in_time(lambda: asyncio.run(run())) == []
    assert list(_loop(store, range(2), transaction=transaction)) == [0, 1]


# async for


def test_async_for_with_transactions_needs_async_with(store: CheckpointStore) -> None:
    """A `with` ends no block of a task in time."""

    async def run() -> None:
        loop = _loop(store, range(4), transaction=True)
        with pytest.raises(StoreError, match="needs `async with loop:`"):
            aiter(loop)
        with loop, pytest.raises(StoreError, match="needs `async with loop:`"):
            aiter(loop)
        async with loop:
            assert [record async for record in loop] == [0, 1, 2, 3]
        with pytest.raises(StoreError, match="needs `async with loop:`"):
            aiter(loop)

    in_time(lambda: asyncio.run(run()))


def test_a_loop_that_is_dropped_in_a_task_is_closed_soon(store: CheckpointStore) -> None:
    """Though the program keeps the loop: what Python closes of its own accord is only what nobody has."""
    closed = []

    async def records(start: int) -> AsyncIterator[int]:
        try:
            for record in range(start, 10):
                yield record
        finally:
            closed.append(start)

    async def run() -> None:
        loop = _loop(store, records)
        async for _ in loop:
            break
        for _ in range(50):
            await asyncio.sleep(0)
        assert closed == [0]

    asyncio.run(run())


@pytest.mark.parametrize("mapped", [False, True])
def test_a_break_out_of_async_for_ends_its_block_at_once(store: CheckpointStore, mapped: bool) -> None:
    """The next statement finds no open transaction, and at the end of the `async with` no task is left."""

    async def run() -> None:
        loop = _loop(store, range(10), every=4, transaction=True)
        loop = loop.map(str) if mapped else loop
        async with loop:
            async for _ in loop:
                loop.append(entry(1, run_id="undone"))
                break
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with CheckpointStore(store.path, busy_timeout_ms=0, durability="normal") as other:
            other.append(entry(1, run_id="other"))
        assert [run.run_id for run in store.runs()] == ["other"]

    in_time(lambda: asyncio.run(run()))


def test_the_event_loop_goes_on_while_another_process_has_the_lock(path: Path) -> None:
    """And while the work under way is waited for, when the loop was left."""

    async def once_the_loop_has_gone_on(release: Callable[[], object]) -> None:
        for _ in range(20):
            await asyncio.sleep(0.002)
        release()

    async def run(store: CheckpointStore, other: Any) -> None:
        for options in ({}, {"transaction": True}):
            assert other.tell("hold") == "held"
            released = asyncio.create_task(once_the_loop_has_gone_on(lambda: other.tell("go on")))
            async with _loop(store, range(4), stage=f"{options}", every=2, every_s=0.01, **options) as loop:
                async for _ in loop:
                    await asyncio.sleep(0.02)
            await released
        another_began, release = threading.Event(), threading.Event()
        released_in_time: list[bool] = []

        def work(record: int) -> None:
            if record == 0:
                assert another_began.wait(20)
            else:
                another_began.set()
                released_in_time.append(release.wait(20))

        async with _loop(store, range(4), stage="work").map(work) as loop:
            async for _ in loop:
                released = asyncio.create_task(once_the_loop_has_gone_on(release.set))
                break
        await released
        assert set(released_in_time) == {True}

    with CheckpointStore(path) as store, other_process("hold", path) as other:
        assert other.hear() == "ready"
        in_time(lambda: asyncio.run(run(store, other)))


async def _use(loop: Any) -> None:
    async with loop:
        async for _ in loop:
            pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cancelled_task_waits_for_what_its_loop_is_recording(path: Path, fails: bool) -> None:
    """The next loop finds it recorded; and where that has failed, the task hears of its cancellation all the same."""
    begun, goes_on = threading.Event(), threading.Event()

    def wait(_: str) -> None:
        if threading.current_thread().name == "milepost":
            begun.set()
            assert goes_on.wait(20)
            if fails:
                raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)

    async def run(store: CheckpointStore) -> None:
        task = asyncio.create_task(_use(_loop(store, range(4), every=2)))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        try:
            assert not task.done()
        finally:
            goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not fails:
            assert [record async for record in _loop(store, range(4))] == [2, 3]

    with disk(on_sync=wait) as vfs, CheckpointStore(path, vfs=vfs) as store:
        in_time(lambda: asyncio.run(run(store)))


def test_a_cancelled_task_does_not_wait_for_the_turn_of_its_loop_to_record(store: CheckpointStore) -> None:
    """It withdraws what would be recorded."""
    writer(store).busy_timeout_ms = 60_000

    async def run() -> None:
        loop = _loop(store, range(4), every=2)
        async with store.transaction():
            task = asyncio.create_task(_use(loop))
            while loop._progress is None or NOW not in loop._progress._recorder:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await store.append_async(entry(1, run_id="behind it"))

    in_time(lambda: asyncio.run(run()))
    assert _offset(store) == 0


def test_what_a_cancelled_task_has_withdrawn_is_not_recorded_with_what_shares_its_commit(path: Path) -> None:
    """Its transaction has begun, and somebody else's job is done first: another loop may begin meanwhile."""
    begun, goes_on = threading.Event(), threading.Event()

    def clock() -> int:
        begun.set()
        assert goes_on.wait(20)
        return 1

    async def run(store: CheckpointStore) -> None:
        loop = _loop(store, range(4), every=2)
        async with store.transaction():  # both queue behind it, and share the next commit
            first = asyncio.create_task(store.advance_async("run-7", "first", Watermark(1, 0), idempotency_key="1"))
            task = asyncio.create_task(_use(loop))
            while loop._progress is None or NOW not in loop._progress._recorder:
                await asyncio.sleep(0)
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()
        await first

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        in_time(lambda: asyncio.run(run(store)))
        assert {each.stage for each in store.history()} == {"first"}


@pytest.mark.parametrize("rounds", [60, pytest.param(5_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_task_that_is_cancelled_anywhere_is_resumed_by_another_at_once(path: Path, transaction: bool, rounds: int) -> None:
    """While it reads, works, waits for its block, or commits: what is recorded was done, and the sink has it once."""
    chance = random.Random(SEED)

    async def run(store: CheckpointStore) -> None:
        for number in range(rounds):
            mapped, every_s = chance.random() < 0.5, chance.choice([None, 0.001])
            loop = _loop(
                store, _from_start, every=chance.randint(1, 4), every_s=every_s, transaction=transaction, source="s"
            )
            loop = loop.map(_work, workers=2) if mapped else loop
            seen: list[int] = []

            async def use(loop: Any = loop, mapped: bool = mapped, seen: list[int] = seen) -> None:
                async with loop:
                    async for each in loop:
                        record = each[0] if mapped else each
                        seen.append(record)
                        if transaction:
                            loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
                        await asyncio.sleep(0)

            start = _offset(store)
            task = asyncio.create_task(use())
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            done = _offset(store)
            assert seen == list(range(start, start + len(seen)))
            assert done <= start + len(seen)
            assert asyncio.all_tasks() == {asyncio.current_task()}, number
        if transaction:
            async with store.transaction() as connection:
                rows = [record for (record,) in connection.execute("SELECT record FROM sink ORDER BY rowid")]
            assert rows == list(range(_offset(store)))

    with CheckpointStore(path) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER)")
        in_time(lambda: asyncio.run(run(store)), 25 if rounds < 1_000 else 600)
        assert _offset(store) > 0
        store.verify().raise_if_broken()


async def _from_start(start: int) -> AsyncIterator[int]:
    for record in range(start, start + 1000):
        if record % 3 == 0:
            await asyncio.sleep(0)
        yield record


async def _work(record: int) -> int:
    await asyncio.sleep(0)
    return record


def test_a_mapped_loop_may_be_continued_and_dropped_in_another_thread(store: CheckpointStore) -> None:
    """Its workers end with it."""
    held = [iter(_loop(store, range(100), every=2, every_s=0.001).map(_slow, workers=3))]
    assert next(held[0])[0] == 0
    assert [in_time(lambda: next(held[0]))[0] for _ in range(5)] == [1, 2, 3, 4, 5]
    in_time(held.clear)
    until(lambda: not [each for each in threading.enumerate() if each.name.startswith("milepost-")])
    assert _offset(store) in {4, 5}
    assert [record for record, _ in _loop(store, range(100)).map(_slow)][-1] == 99


@pytest.mark.parametrize("source", ["a list", "an async generator"])
def test_a_loop_whose_own_tasks_are_cancelled_before_they_begin_ends(store: CheckpointStore, source: str) -> None:
    """As a program does that cancels all tasks but its own."""

    async def work(record: int) -> int:
        await asyncio.sleep(0)
        return record

    async def records() -> AsyncIterator[int]:
        for record in range(10):
            yield record

    async def main(when: int) -> None:
        me = asyncio.current_task()

        def cancel_others() -> None:
            for task in asyncio.all_tasks() - {me}:
                task.cancel()

        def later(steps: int) -> None:
            asyncio.get_running_loop().call_soon(partial(later, steps - 1) if steps else cancel_others)

        later(when)
        given: Any = range(10) if source == "a list" else (lambda _start: records())
        loop = store.checkpointed(given, run_id=f"run-{when}", stage="s", every=2).map(work, workers=2)
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(20):
                async for _ in loop:
                    pass

    for when in range(12):
        in_time(lambda when=when: asyncio.run(main(when)))  # type: ignore[misc]
    assert store.verify().ok

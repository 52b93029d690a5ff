"""A block belongs to the thread and the task that opened it, never to whoever else the thread runs meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

import apsw
import pytest
import trio

from milepost import CheckpointStore, MilepostError, Receipt, StoreBusyError, StoreError
from support.chains import entry
from support.methods import WRITING
from support.patience import in_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path


@pytest.fixture
def sink(path: Path) -> Iterator[CheckpointStore]:
    """A store whose file has a sink; closed in a thread of its own, for it may hang."""
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=300)
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")
    yield store
    in_time(store.close)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_time(lambda: asyncio.run(main()))


def _records(store: CheckpointStore) -> list[int]:
    with store.transaction() as connection:
        return [record for (record,) in connection.execute("SELECT record FROM sink ORDER BY rowid")]


def _refused(store: CheckpointStore, call: str) -> None:
    with pytest.raises(StoreError, match="task") as refused:
        WRITING[call](store)
    assert not isinstance(refused.value, StoreBusyError)


# asyncio


@pytest.mark.parametrize("call", WRITING)
def test_beside_a_task_in_a_block_another_task_is_refused_at_once(sink: CheckpointStore, call: str) -> None:
    """It would be acknowledged inside a block that is not its own, and lost with it; and its thread cannot wait for it."""

    async def main() -> None:
        inside, over = asyncio.Event(), asyncio.Event()

        async def holds() -> None:
            with sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                inside.set()
                await over.wait()
                sink.append(entry(1, run_id="holds"))

        holder = asyncio.create_task(holds())
        await inside.wait()
        _refused(sink, call)
        await asyncio.create_task(_in_a_task(lambda: _refused(sink, call)))
        asyncio.get_running_loop().call_soon(lambda: _refused(sink, call))  # in no task at all
        await asyncio.sleep(0)
        over.set()
        await holder
        assert sink.append(entry(1, run_id="afterwards")).position == 2

    _run(main)
    assert [run.run_id for run in sink.runs()] == ["holds", "afterwards"]
    assert _records(sink) == [1]


async def _in_a_task(call: Callable[[], object]) -> None:
    call()


@pytest.mark.parametrize("call", WRITING)
def test_a_task_that_was_made_inside_the_block_does_not_own_it(sink: CheckpointStore, call: str) -> None:
    """Nor does one that was made in its own context: children inherit that."""

    async def main() -> None:
        with sink.transaction():
            await asyncio.create_task(_in_a_task(lambda: _refused(sink, call)))
            await asyncio.gather(*(_in_a_task(lambda: _refused(sink, call)) for _ in range(3)))
            async with asyncio.TaskGroup() as group:
                group.create_task(_in_a_task(lambda: _refused(sink, call)))
            sink.append(entry(1, run_id="mine"))

    _run(main)
    assert [run.run_id for run in sink.runs()] == ["mine"]


def test_a_thread_that_was_begun_inside_the_block_does_not_own_it(sink: CheckpointStore) -> None:
    """It waits like any other, at most `busy_timeout_ms`, and the event loop goes on meanwhile."""

    async def main() -> None:
        with sink.transaction():
            for call in ("append", "append_many", "advance", "transaction"):
                with pytest.raises(StoreBusyError) as busy:
                    await asyncio.to_thread(WRITING[call], sink)
                assert busy.value.waited_ms == 300
            sink.append(entry(1, run_id="mine"))

    _run(main)
    assert [run.run_id for run in sink.runs()] == ["mine"]


def test_other_tasks_and_threads_read_what_is_committed_and_never_wait(sink: CheckpointStore) -> None:
    """The block's own task reads the block."""
    sink.append(entry(1))

    async def main() -> None:
        def look() -> tuple[int, object, list[str], bool]:
            return len(sink), sink.latest(), [run.run_id for run in sink.runs()], sink.verify().ok

        async def look_in_a_task() -> object:
            return look()

        with sink.transaction():
            sink.append(entry(1, run_id="mine"))
            assert look() == (2, entry(1, run_id="mine"), ["run-7", "mine"], True)
            committed = (1, entry(1), ["run-7"], True)
            assert await asyncio.create_task(look_in_a_task()) == committed
            assert await asyncio.to_thread(look) == committed
            history = sink.history()
            assert len(await asyncio.create_task(_listed(sink))) == 1
            assert len(list(history)) == 2

    _run(main)


async def _listed(store: CheckpointStore) -> list[object]:
    return list(store.history())


def test_a_block_around_a_whole_event_loop_is_not_its_tasks(sink: CheckpointStore) -> None:
    """It was opened in no task; what a task appended in it would be lost with it."""

    async def main() -> None:
        _refused(sink, "append")

    def run() -> None:
        with sink.transaction():
            asyncio.run(main())
            sink.append(entry(1, run_id="mine"))

    in_time(run)
    assert [run.run_id for run in sink.runs()] == ["mine"]


def test_a_task_that_is_cancelled_in_its_block_undoes_it_and_others_go_on(sink: CheckpointStore) -> None:
    """As after any exception."""

    async def main() -> None:
        inside = asyncio.Event()

        async def holds() -> None:
            with sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                sink.append(entry(1, run_id="cancelled"))
                inside.set()
                await asyncio.sleep(1000)

        holder = asyncio.create_task(holds())
        await inside.wait()
        holder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holder
        assert sink.append(entry(1)).position == 1

    _run(main)
    assert _records(sink) == []


@pytest.mark.parametrize("tasks", [64])
@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.long)])
def test_of_many_tasks_one_of_which_raises_in_its_block_all_that_was_acknowledged_is_there(
    sink: CheckpointStore, tasks: int, rounds: int
) -> None:
    """Whatever the others do while it waits inside its block: what was refused or undone is not there."""
    acknowledged: list[tuple[Receipt, str]] = []
    refused: list[str] = []

    async def main() -> None:
        async def appends(task: int, number: int) -> None:
            for sequence in range(1, 4):
                try:
                    receipt = sink.append(entry(sequence, run_id=f"{number}", stage=f"{task}"))
                except StoreError as error:
                    refused.append(str(error))
                    break
                acknowledged.append((receipt, f"{task}:{sequence}"))
                await asyncio.sleep(0)

        async def raises(number: int) -> None:
            await asyncio.sleep(0)
            with sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                sink.append(entry(1, run_id=f"{number}", stage="raises"))
                await asyncio.sleep(0.001)
                raise KeyError

        for number in range(rounds):
            results = await asyncio.gather(
                *(raises(number) if task == 32 else appends(task, number) for task in range(tasks)), return_exceptions=True
            )
            assert [type(result) for result in results if result is not None] == [KeyError]

    _run(main)
    assert refused != []
    assert all("task" in problem for problem in refused)
    assert [(r.position, r.signature, e.idempotency_key) for r, e, _ in sink.receipts()] == [
        (receipt.position, receipt.signature, key) for receipt, key in acknowledged
    ]
    assert _records(sink) == []
    sink.verify().raise_if_broken()


def test_blocks_of_two_tasks_never_mix(sink: CheckpointStore) -> None:
    """The first to end would release the other's savepoint; the second is refused, and comes again."""
    refused: list[str] = []

    async def main() -> None:
        async def writes(task: int, ends_well: bool) -> None:
            while True:
                try:
                    with sink.transaction() as connection:
                        for record in range(10 * task, 10 * task + 10):
                            connection.execute("INSERT INTO sink VALUES (?)", (record,))
                            sink.append(entry(record + 1, run_id=f"{task}"))
                            await asyncio.sleep(0)
                        if not ends_well:
                            raise KeyError
                except KeyError:
                    return
                except StoreError as error:
                    refused.append(str(error))
                    await asyncio.sleep(0.001)
                else:
                    return

        await asyncio.gather(*(writes(task, task % 2 == 0) for task in range(6)))

    _run(main)
    assert refused != []
    assert all("task" in problem for problem in refused)
    assert sorted(_records(sink)) == sorted(n for task in (0, 2, 4) for n in range(10 * task, 10 * task + 10))
    assert sorted(run.run_id for run in sink.runs()) == ["0", "2", "4"]
    sink.verify().raise_if_broken()


# Loops in tasks


def test_beside_a_loop_of_a_task_another_task_is_refused_and_the_loop_is_named(sink: CheckpointStore) -> None:
    """As in one thread without tasks."""

    async def main() -> None:
        loop = sink.checkpointed(range(6), run_id="run-7", stage="load", every=3, transaction=True)

        async def appends() -> None:
            with pytest.raises(StoreError, match=r"'load'.*'run-7'"):
                sink.append(entry(1, run_id="astray"))

        for record in loop:
            loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
            await asyncio.create_task(appends())

    _run(main)
    assert _records(sink) == list(range(6))
    assert [e.watermark.offset for e in sink.history()] == [3, 6]


def test_a_loop_may_be_continued_by_one_task_after_the_other(sink: CheckpointStore) -> None:
    """Its block belongs to the loop."""

    async def main() -> None:
        loop = sink.checkpointed(range(10), run_id="run-7", stage="load", every=4, transaction=True)
        records = iter(loop)

        async def step() -> bool:
            record = next(records, None)
            if record is not None:
                loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
            return record is not None

        while await asyncio.create_task(step()):
            await asyncio.sleep(0)

    _run(main)
    assert _records(sink) == list(range(10))
    assert sink.append(entry(1, run_id="afterwards")).position == 4


def test_a_loop_in_an_async_generator_that_is_never_finished_is_undone(sink: CheckpointStore) -> None:
    """Whoever closes it: the event loop does, as it ends."""

    async def main() -> None:
        async def records() -> Any:
            loop = sink.checkpointed(range(10), run_id="run-7", stage="load", every=4, transaction=True)
            for record in loop:
                loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
                yield record

        generator = records()
        async for record in generator:
            if record == 5:
                break

    _run(main)
    assert sink.append(entry(1, run_id="afterwards")).position == 2
    assert _records(sink) == [0, 1, 2, 3]


# trio


def test_beside_a_task_of_trio_in_a_block_another_task_is_refused_at_once(sink: CheckpointStore) -> None:
    """A task of trio is none of asyncio's, and owns its blocks as well; threads wait, and reads see what is committed."""

    async def main() -> None:
        inside, over = trio.Event(), trio.Event()

        async def holds() -> None:
            with sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                inside.set()
                await over.wait()
                sink.append(entry(1, run_id="holds"))
                assert len(sink) == 1

        async def is_refused() -> None:
            for call in WRITING:
                _refused(sink, call)
            assert len(sink) == 0
            with pytest.raises(StoreBusyError):
                await trio.to_thread.run_sync(WRITING["append"], sink)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(holds)
                await inside.wait()
                await is_refused()
                async with trio.open_nursery() as inner:
                    inner.start_soon(is_refused)
                over.set()
        assert sink.append(entry(1, run_id="afterwards")).position == 2

    in_time(lambda: trio.run(main))
    assert [run.run_id for run in sink.runs()] == ["holds", "afterwards"]
    assert _records(sink) == [1]


def test_of_many_tasks_of_trio_all_that_was_acknowledged_is_there(sink: CheckpointStore) -> None:
    """One of them waits inside a block that then raises."""
    acknowledged: list[str] = []
    refused: list[str] = []

    async def main() -> None:
        async def appends(task: int) -> None:
            for sequence in range(1, 4):
                try:
                    sink.append(entry(sequence, run_id="run-7", stage=f"{task}"))
                except MilepostError as error:
                    refused.append(str(error))
                    break
                acknowledged.append(f"{task}:{sequence}")
                await trio.lowlevel.checkpoint()

        async def raises() -> None:
            with contextlib.suppress(KeyError), sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                sink.append(entry(1, stage="raises"))
                await trio.sleep(0.001)
                raise KeyError

        async with trio.open_nursery() as nursery:
            for task in range(64):
                if task == 32:
                    nursery.start_soon(raises)
                else:
                    nursery.start_soon(appends, task)

    in_time(lambda: trio.run(main))
    assert refused != []
    assert all("task" in problem for problem in refused)
    assert [e.idempotency_key for e in sink.history()] == acknowledged
    assert _records(sink) == []


def test_what_is_awaited_does_not_matter(sink: CheckpointStore) -> None:
    """A block of one task that awaits what another task has to do first is whole, as long as that one only reads."""

    async def main() -> None:
        async def reads(inside: Awaitable[object]) -> int:
            await inside
            return len(sink)

        inside = asyncio.get_running_loop().create_future()
        reader = asyncio.create_task(reads(inside))
        with sink.transaction():
            sink.append(entry(1))
            inside.set_result(None)
            assert await reader == 0
            sink.append(entry(2))
        assert len(sink) == 2

    _run(main)


# A statement that runs in another thread


def test_a_statement_of_a_tasks_block_in_another_thread_is_refused_at_once(sink: CheckpointStore) -> None:
    """APSW leaves statements active whose cursors go while another thread has the connection: nothing could end them."""

    async def main() -> None:
        for _ in range(20):
            async with sink.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (1)")
                with pytest.raises(StoreError, match=r"belongs to the thread .* run all of a slow one in a thread"):
                    await asyncio.to_thread(connection.execute, "SELECT record FROM sink")
        await asyncio.to_thread(slow)
        assert (await sink.append_async(entry(1))).position == 1

    def slow() -> None:
        with sink.transaction() as connection:
            connection.execute("INSERT INTO sink VALUES (2)")

    _run(main)
    assert _records(sink) == [1] * 20 + [2]


SLOW = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
"""Runs until it is interrupted."""


def _loop(sink: CheckpointStore, every: int = 1000) -> Any:
    return sink.checkpointed(range(9), run_id="r", stage="s", every=every, transaction=True)


@pytest.mark.parametrize("statement", [SLOW, f"INSERT INTO sink {SLOW}"], ids=["a query", "a write"])
def test_a_task_that_is_cancelled_beside_a_statement_of_its_loop_in_a_thread_undoes_the_batch(
    sink: CheckpointStore, statement: str
) -> None:
    """Its cancellation comes out, nobody else is held up, and the thread hears that the block is over."""
    heard: list[BaseException] = []

    def run(connection: apsw.Connection) -> None:
        try:
            connection.execute("INSERT INTO sink VALUES (1)")
            connection.execute(statement).fetchall()
        except apsw.Error as error:
            heard.append(error)
        try:
            while True:
                connection.execute("INSERT INTO sink VALUES (2)")
        except (StoreError, apsw.Error) as error:
            heard.append(error)

    async def main() -> None:
        loop = _loop(sink)
        with pytest.raises(TimeoutError) as told:
            async with asyncio.timeout(0.1), loop:
                async for _ in loop:
                    await asyncio.to_thread(run, loop.connection)
        assert not isinstance(told.value, StoreBusyError)
        with contextlib.closing(apsw.Connection(sink.path)) as other:
            other.execute("BEGIN IMMEDIATE; ROLLBACK")
        assert (await sink.append_async(entry(1))).position == 1
        while len(heard) < 2:
            await asyncio.sleep(0.01)

    _run(main)
    assert isinstance(heard[0], apsw.InterruptError)
    assert _records(sink) == []


def test_a_batch_is_not_over_before_its_statement_in_a_thread(sink: CheckpointStore) -> None:
    """The end of the batch waits for it, and commits it too."""

    def slow(*records: Any) -> Any:
        time.sleep(0.1)
        return records[0]

    def run(connection: apsw.Connection) -> None:
        connection.create_scalar_function("slow", slow)
        connection.execute("INSERT INTO sink SELECT slow(7)")

    async def main() -> None:
        loop, tasks = _loop(sink, every=3), []
        async with loop:
            async for record in loop:
                if record % 3 == 2:
                    tasks.append(asyncio.create_task(asyncio.to_thread(run, loop.connection)))
                    await asyncio.sleep(0.03)
        for task in tasks:
            await task

    _run(main)
    assert _records(sink) == [7] * 3
    assert sink.resume_point_for_stage("s").watermark.offset == 9


def test_statements_of_a_loop_in_threads_leave_none_active(sink: CheckpointStore) -> None:
    """Though nobody reads their rows to the end, and their cursors go in any thread."""

    async def main() -> None:
        for number in range(40):
            loop = sink.checkpointed(range(4), run_id=f"r-{number}", stage="s", every=2, transaction=True)
            async with loop:
                async for record in loop:
                    await asyncio.to_thread(loop.connection.execute, "INSERT INTO sink VALUES (?)", (record,))
                    for _ in range(3):
                        (await asyncio.to_thread(loop.connection.execute, "SELECT record FROM sink")).fetchone()
            await sink.append_async(entry(number + 1))

    _run(main)
    assert len(_records(sink)) == 160
    sink.verify().raise_if_broken()


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.long)])
def test_of_many_statements_in_a_thread_none_runs_beside_the_end_of_the_batch(sink: CheckpointStore, rounds: int) -> None:
    """One of them in autocommit would stay, and two at once in one connection break SQLite's own memory."""

    def run(connection: apsw.Connection) -> None:
        with contextlib.suppress(StoreError, apsw.Error):
            for record in range(100_000):
                connection.execute("INSERT INTO sink VALUES (?)", (record,))

    async def batch() -> None:
        loop = _loop(sink)
        async with loop:
            async for _ in loop:
                await asyncio.to_thread(run, loop.connection)

    async def others() -> None:
        for sequence in itertools.count(1):
            await sink.append_async(entry(sequence))

    async def main() -> None:
        beside = asyncio.create_task(others())
        for number in range(rounds):
            task = asyncio.create_task(batch())
            await asyncio.sleep(0.002 + number % 7 / 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside

    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        in_time(lambda: asyncio.run(main()), seconds=120)
    finally:
        sys.setswitchinterval(interval)
    assert _records(sink) == []
    sink.verify().raise_if_broken()


def test_a_block_that_is_entered_as_async_and_left_as_plain_lets_the_next_one_in(sink: CheckpointStore) -> None:
    """Whoever ends it."""

    async def main() -> None:
        for _ in range(2):
            block = sink.transaction()
            (await block.__aenter__()).execute("INSERT INTO sink VALUES (1)")
            block.__exit__(None, None, None)
        async with sink.transaction() as connection:
            connection.execute("INSERT INTO sink VALUES (2)")

    _run(main)
    assert _records(sink) == [1, 1, 2]


def test_whoever_waits_in_vain_for_a_block_of_the_process_is_told_which(sink: CheckpointStore) -> None:
    """A retry would not help where a block waits for another task to write."""

    async def main() -> None:
        with pytest.raises(StoreBusyError) as told:
            async with sink.transaction():
                await asyncio.gather(sink.append_async(entry(1)), sink.append_async(entry(2, stage="b")))
        assert told.value.block == "the transaction of a transaction() block"
        assert "is open in this process" in str(told.value)
        assert pickle.loads(pickle.dumps(told.value)).args == told.value.args
        loop = sink.checkpointed(range(4), run_id="r", stage="s", every=2, transaction=True)
        async with loop:
            async for _ in loop:
                with pytest.raises(StoreBusyError, match="the transaction of the loop over stage 's' of run 'r' is open"):
                    await asyncio.create_task(sink.append_async(entry(1)))
                break

    _run(main)

"""The block of a transactional loop belongs to the loop, wherever the loop is continued or dropped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import Checkpointed, CheckpointStore, StageMovedError, StoreError, Watermark
from support.chains import entry
from support.methods import WRITING
from support.patience import begin, in_time, result

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path


@pytest.fixture
def sink(path: Path) -> Iterator[CheckpointStore]:
    """A store whose file has a sink; closed in a thread of its own, for it may hang."""
    store = CheckpointStore(path, durability="normal", busy_timeout_ms=2000)
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")
    yield store
    in_time(store.close)


def _loop(store: CheckpointStore, stage: str = "load", length: int = 10, every: int = 4) -> Checkpointed[int]:
    return store.checkpointed(range(length), run_id="run-7", stage=stage, every=every, transaction=True)


def _put(loop: Checkpointed[int], record: int) -> None:
    loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))


def _records(store: CheckpointStore) -> list[int]:
    with store.transaction() as connection:
        return [record for (record,) in connection.execute("SELECT record FROM sink ORDER BY rowid")]


def _goes_on(store: CheckpointStore, records: list[int], stage_offset: int | None) -> None:
    """Nothing is held any more: this thread, another one and another store append, and what was acknowledged is there."""
    point = store.resume_points("run-7").get("load")
    assert (point.watermark.offset if point else None) == stage_offset
    assert in_time(lambda: _records(store)) == records
    before = len(store)
    assert store.append(entry(1, run_id="mine")).position == before + 1
    assert in_time(lambda: store.append(entry(1, run_id="of another thread"))).position == before + 2
    with CheckpointStore(store.path, durability="normal", busy_timeout_ms=2000) as other:
        assert other.append(entry(1, run_id="of another store")).position == before + 3
        other.verify().raise_if_broken()


# What is refused inside, and what joins

CALLS: Final[dict[str, Callable[[CheckpointStore], object]]] = {
    **WRITING,
    "another loop": lambda store: next(iter(_loop(store, "index"))),
}


@pytest.mark.parametrize("call", CALLS)
def test_beside_an_open_loop_its_thread_is_refused_and_the_loop_is_named(sink: CheckpointStore, call: str) -> None:
    """It would join the loop's block, be acknowledged, and be lost with it."""
    records = iter(_loop(sink))
    assert next(records) == 0
    with pytest.raises(StoreError) as refused:
        CALLS[call](sink)
    assert "'load'" in str(refused.value)
    assert "'run-7'" in str(refused.value)
    assert list(records) == list(range(1, 10))
    assert sink.runs() != []
    _goes_on(sink, [], 10)


def test_two_loops_side_by_side_do_not_lose_each_others_batches(sink: CheckpointStore) -> None:
    """`zip` of two of them: the second is refused and names the first, and nothing of either is lost in silence."""
    load, index = _loop(sink, "load"), _loop(sink, "index")
    with pytest.raises(StoreError, match="'load'"):
        for record, other in zip(load, index, strict=True):
            _put(load, record)
            _put(index, other)
    _goes_on(sink, [], None)
    for loop in (load, index):
        for record in loop:
            _put(loop, record)
    assert sink.resume_points("run-7")["index"].watermark.offset == 10
    assert _records(sink) == list(range(10)) * 2


def test_what_joins_a_loop_commits_with_its_batch(sink: CheckpointStore) -> None:
    """The sink's rows, other stages' checkpoints, and the loop's own; nobody sees any of it before."""
    loop = _loop(sink)
    with CheckpointStore.open_readonly(sink.path) as reader:
        for record in loop:
            assert {e.stage: e.sequence for e in reader.history()} == (
                {} if record < 4 else {"seen": 4 * (record // 4), "count": record // 4, "load": record // 4}
            )
            _put(loop, record)
            assert not loop.append(entry(record + 1, stage="seen")).duplicate
            if record % 4 == 0:
                loop.advance("run-7", "count", Watermark(record, 0), idempotency_key=f"{record}")
    assert {e.stage: e.sequence for e in sink.history()} == {"seen": 10, "count": 3, "load": 3}
    _goes_on(sink, list(range(10)), 10)


def test_what_joins_a_loop_is_undone_with_its_batch(sink: CheckpointStore) -> None:
    """An exception in the body, as always."""
    loop = _loop(sink)
    with pytest.raises(KeyError):
        for record in loop:
            _put(loop, record)
            loop.append(entry(record + 1, stage="seen"))
            if record == 5:
                raise KeyError
    assert {e.stage: e.sequence for e in sink.history()} == {"seen": 4, "load": 1}
    _goes_on(sink, [0, 1, 2, 3], 4)


def test_an_advance_that_joins_a_loop_may_be_told_and_the_batch_goes_on(sink: CheckpointStore) -> None:
    """It undoes only itself."""
    loop = _loop(sink)
    for record in loop:
        _put(loop, record)
        if record == 5:
            with pytest.raises(StageMovedError):
                loop.advance("run-7", "count", Watermark(2, 0), idempotency_key="2", after=Watermark(1, 0))
            loop.advance("run-7", "count", Watermark(2, 0), idempotency_key="2", after=None)
    assert sink.resume_points("run-7")["count"].watermark.offset == 2
    _goes_on(sink, list(range(10)), 10)


def test_a_loop_lends_nothing_outside_of_its_body(sink: CheckpointStore) -> None:
    """Neither before nor after, nor without transaction=True."""
    loop = _loop(sink)
    plain = sink.checkpointed(range(4), run_id="run-7", stage="plain", every=2)
    uses: list[Callable[[Checkpointed[int]], object]] = [
        lambda each: each.connection,
        lambda each: each.append(entry(1)),
        lambda each: each.advance("run-7", "count", Watermark(1, 0), idempotency_key="1"),
    ]

    def refused(each: Checkpointed[int]) -> None:
        for use in uses:
            with pytest.raises(StoreError, match="loop"):
                use(each)

    refused(loop)
    connection = [loop.connection for _ in loop][-1]
    refused(loop)
    with pytest.raises(StoreError):
        connection.execute("INSERT INTO sink VALUES (9)")
    for _ in plain:
        refused(plain)
        sink.append(entry(len(sink) + 1, run_id="beside"))  # such a loop holds no block
    _goes_on(sink, [], 10)


# Continued elsewhere


def test_a_loop_may_be_continued_by_one_thread_after_the_other(sink: CheckpointStore) -> None:
    """As `asyncio.to_thread(next, iterator)` does; each step in a thread of its own."""
    loop = _loop(sink)
    records = iter(loop)
    for expected in range(10):
        assert in_time(lambda: next(records)) == expected
        in_time(lambda expected=expected: _put(loop, expected))  # type: ignore[misc]
    assert in_time(lambda: next(records, None)) is None
    _goes_on(sink, list(range(10)), 10)


def test_a_loop_may_be_continued_from_an_event_loop_by_threads(sink: CheckpointStore) -> None:
    """The sink's writes too; the event loop goes on meanwhile."""
    loop = _loop(sink)

    async def run() -> None:
        records = iter(loop)
        while (record := await asyncio.to_thread(next, records, None)) is not None:
            await asyncio.to_thread(_put, loop, record)

    in_time(lambda: asyncio.run(run()))
    _goes_on(sink, list(range(10)), 10)


def test_beside_a_loop_that_another_thread_continues_that_thread_is_refused(sink: CheckpointStore) -> None:
    """The one that it was begun in waits like any other, at most its time."""
    records = iter(_loop(sink))
    assert next(records) == 0
    assert in_time(lambda: next(records)) == 1

    def continue_and_append() -> None:
        assert next(records) == 2
        with pytest.raises(StoreError, match="'load'"):
            sink.append(entry(1, run_id="astray"))

    in_time(continue_and_append)
    assert in_time(lambda: list(records)) == list(range(3, 10))
    _goes_on(sink, [], 10)


# Dropped, wherever that is


def _begun(store: CheckpointStore, steps: int) -> list[Any]:
    """A loop's iterator after so many steps, and nothing else that holds it."""
    records = iter(_loop(store))
    for _ in range(steps):
        next(records)
    return [records]


@pytest.mark.parametrize("begun_in", ["this thread", "another"])
@pytest.mark.parametrize("dropped_in", ["this thread", "another"])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_loop_that_is_dropped_is_undone(sink: CheckpointStore, begun_in: str, dropped_in: str, steps: int) -> None:
    """Whichever thread drops it; the next append works."""
    held = _begun(sink, steps) if begun_in == "this thread" else in_time(lambda: _begun(sink, steps))
    held.clear() if dropped_in == "this thread" else in_time(held.clear)
    gc.collect()
    _goes_on(sink, [], 4 if steps > 4 else None)


@pytest.mark.parametrize("collected_in", ["this thread", "another"])
def test_a_loop_that_the_garbage_collector_finds_is_undone(sink: CheckpointStore, collected_in: str) -> None:
    """In whichever thread that happens to run."""

    class Knot:
        def __init__(self, held: list[Any]) -> None:
            self.held, self.itself = held, self

    knot = Knot(_begun(sink, 6))
    del knot
    gc.collect() if collected_in == "this thread" else in_time(gc.collect)
    _goes_on(sink, [], 4)


def test_a_loop_that_is_dropped_while_another_thread_waits_lets_it_in(sink: CheckpointStore) -> None:
    """It need not time out."""
    held = _begun(sink, 1)
    waiting = begin(lambda: sink.append(entry(1, run_id="waits")))
    with contextlib.suppress(TimeoutError):
        waiting.exception(0.1)
    assert not waiting.done()
    held.clear()
    gc.collect()
    assert result(waiting).position == 1
    _goes_on(sink, [], None)


def _holds_a_block(store: CheckpointStore) -> Generator[None, None, None]:
    with store.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (1)")
        store.append(entry(1, run_id="held"))
        yield
        connection.execute("INSERT INTO sink VALUES (2)")


@pytest.mark.parametrize("how", ["dropped", "closed", "continued"])
def test_a_generator_that_holds_a_block_may_end_in_another_thread(sink: CheckpointStore, how: str) -> None:
    """Refused or done, but whole; and nothing hangs afterwards."""
    held: list[Any] = [_holds_a_block(sink)]
    next(held[0])

    def end() -> None:
        if how == "closed":
            held[0].close()
        elif how == "continued":
            next(held[0], None)
        held.clear()
        gc.collect()

    with contextlib.suppress(StoreError):
        in_time(end)
    with contextlib.suppress(StoreError):
        in_time(end if held else gc.collect)
    committed = [run.run_id for run in sink.runs()] == ["held"]
    assert how == "continued" or not committed
    _goes_on(sink, [1, 2] if committed else [], None)


@pytest.mark.parametrize("error", [None, KeyError()])
def test_a_block_may_be_left_in_another_thread_than_it_was_entered_in(
    sink: CheckpointStore, error: Exception | None
) -> None:
    """By an ExitStack that is handed over: done, or refused and done in its own; whole in any case."""
    block = sink.transaction()
    connection = block.__enter__()
    connection.execute("INSERT INTO sink VALUES (1)")
    sink.append(entry(1, run_id="handed over"))

    def leave() -> None:
        block.__exit__(type(error) if error else None, error, None)

    try:
        in_time(leave)
    except StoreError:
        leave()
    committed = [run.run_id for run in sink.runs()] == ["handed over"]
    assert committed is (error is None)
    _goes_on(sink, [1] if committed else [], None)


def test_a_store_may_be_closed_while_a_loop_is_open(path: Path) -> None:
    """Nothing of the open batch is kept, and dropping the loop afterwards does no harm."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=500) as store:
        held = _begun(store, 6)
        with contextlib.suppress(StoreError):
            in_time(store.close)
            store.close()
        in_time(held.clear)
    with CheckpointStore(path, durability="normal", busy_timeout_ms=0) as store:
        assert [e.watermark.offset for e in store.history()] == [4]
        store.append(entry(9))

"""Random programs of loops over one stage, ended and resumed in every way, against a plain model of what is recorded."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import CheckpointStore
from support.chains import entry
from support.patience import in_time, until

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

LENGTH: Final = 40
ENDS: Final = ("runs to its end", "breaks", "raises", "stops", "its work raises", "its source raises", "is cancelled")


class _Ended(Exception):  # noqa: N818 - plays the part of a failure
    """Ends a loop."""


@dataclass(frozen=True)
class Pass:
    """
    One loop over what remains.

    Attributes:
        is_async: Whether by `async for`.
        work: Who works on the records: nobody, threads, tasks or an executor.
        transaction: As the argument.
        every: As the argument.
        every_s: As the argument.
        workers: As the argument.
        in_flight: As the argument.
        seeks: Whether the source is a function of the start.
        is_async_source: Whether the source is async, under `async for`.
        ends: How it ends.
        at: After how many records.
        enters: Whether in a `with`.
    """

    is_async: bool
    work: str
    transaction: bool
    every: int
    every_s: float | None
    workers: int
    in_flight: int
    seeks: bool
    is_async_source: bool
    ends: str
    at: int
    enters: bool


PASSES: Final = st.lists(
    st.builds(
        Pass,
        is_async=st.booleans(),
        work=st.sampled_from(["nobody", "threads", "tasks", "executor"]),
        transaction=st.booleans(),
        every=st.integers(1, 9),
        every_s=st.sampled_from([None, 0.0005]),
        workers=st.integers(1, 4),
        in_flight=st.integers(1, 9),
        seeks=st.booleans(),
        is_async_source=st.booleans(),
        ends=st.sampled_from(ENDS),
        at=st.integers(0, 15),
        enters=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


class Program:
    """What runs passes, and looks what they have done."""

    def __init__(self, store: CheckpointStore, length: int, executor: Executor) -> None:
        self.store, self.length, self.executor = store, length, executor
        self.worked: list[int] = []  # records whose work was finished
        self.begun: list[int] = []
        self.handed_out: list[int] = []
        self.sink: list[int] = []  # what the model expects
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")

    @property
    def done(self) -> int:
        """How many records are recorded."""
        last = self.store.latest_for_stage("load", run_id="run-7")
        return last.watermark.offset if last else 0

    def run(self, it: Pass) -> None:
        """Run a pass, and compare."""
        start = self.done
        self.worked, self.begun, self.handed_out = [], [], []
        loop = self._loop(it, start)
        try:
            if it.is_async:
                asyncio.run(self._run_async(it, loop, start + it.at))
            else:
                self._run(it, loop, start + it.at)
        except (_Ended, asyncio.CancelledError):
            pass
        self._compare(it, start, loop)

    def _compare(self, it: Pass, start: int, loop: Any) -> None:
        done, handed_out = self.done, len(self.handed_out)
        assert self.handed_out == list(range(start, start + handed_out)), "out of order"
        assert set(range(start, done)) <= set(self.worked), "recorded before its work was finished"
        assert done <= start + handed_out, "recorded before it was handed out"
        assert len(set(self.begun) - set(range(done))) <= it.in_flight + it.every, "too many to do again"
        assert loop.done >= done
        if it.ends == "stops" and start + handed_out < self.length:
            assert done == start + handed_out == max(start, min(start + it.at + 1, self.length)), "stop() loses nothing"
        if it.ends == "runs to its end" or start + it.at >= self.length:
            assert done == self.length
        if it.transaction:
            self.sink += range(start, done)
        # Nothing is open: another store can write at once.
        with CheckpointStore(self.store.path, busy_timeout_ms=0, durability="normal") as other:
            other.append(entry(len(other) + 1, run_id="other"))
        with self.store.transaction() as connection:
            assert [record for (record,) in connection.execute("SELECT record FROM sink ORDER BY rowid")] == self.sink
        until(lambda: not [each for each in threading.enumerate() if each.name in {"milepost-worker", "milepost-ticker"}])

    # The source, the work and the body

    def _source(self, it: Pass, start: int) -> Any:
        bad = start + it.at if it.ends == "its source raises" else self.length

        def records(first: int = 0) -> Iterator[int]:
            for record in range(first, self.length):
                if record == bad:
                    raise _Ended
                yield record

        async def records_async(first: int = 0) -> AsyncIterator[int]:
            for record in records(first):
                await asyncio.sleep(0)
                yield record

        each: Any = records_async if it.is_async and it.is_async_source else records
        return each if it.seeks else _Fresh(each)

    def _loop(self, it: Pass, start: int) -> Any:
        bad = start + it.at if it.ends == "its work raises" else None

        def work(record: int) -> int:
            self.begun.append(record)
            if record == bad:
                raise _Ended
            self.worked.append(record)
            return -record

        async def work_async(record: int) -> int:
            await asyncio.sleep(0.0002 * (record % 3))
            return work(record)

        loop = self.store.checkpointed(
            self._source(it, start),
            run_id="run-7",
            stage="load",
            every=it.every,
            every_s=it.every_s,
            transaction=it.transaction,
        )
        if it.work == "nobody":
            return loop
        is_coroutine = it.work == "tasks" and it.is_async
        return loop.map(
            work_async if is_coroutine else work,
            workers=it.workers,
            in_flight=it.in_flight,
            executor=self.executor if it.work == "executor" else None,
        )

    def _process(self, it: Pass, loop: Any, given: Any, end: int) -> bool:
        """The body; whether to break."""
        record = given if it.work == "nobody" else given[0]
        if it.work == "nobody":
            self.begun.append(record)
            self.worked.append(record)
        else:
            assert given[1] == -record
        self.handed_out.append(record)
        if it.transaction:
            loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
        if record == end:
            if it.ends == "raises":
                raise _Ended
            if it.ends == "stops":
                loop.stop()
            return it.ends == "breaks"
        return False

    def _run(self, it: Pass, loop: Any, end: int) -> None:
        with loop if it.enters else nullcontext():
            for given in loop:
                if self._process(it, loop, given, end):
                    break

    async def _run_async(self, it: Pass, loop: Any, end: int) -> None:
        async with loop if it.enters or it.transaction else nullcontext():
            async for given in loop:
                if self._process(it, loop, given, end):
                    break
                if it.ends == "is cancelled" and self.handed_out[-1] == end:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                await asyncio.sleep(0)
        if it.enters or it.transaction:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left


class _Fresh:
    """A source that makes its iterator anew."""

    def __init__(self, each: Any) -> None:
        self._each = each
        if hasattr(each(), "__aiter__"):
            self.__class__ = _FreshAsync

    def __iter__(self) -> Any:
        return self._each()


class _FreshAsync(_Fresh):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> Any:
        return self._each()


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """Of the caller's."""
    with ThreadPoolExecutor(3) as executor:
        yield executor


def _run_programs(directory: Any, executor: Executor, programs: int) -> None:
    numbers = itertools.count()

    @settings(max_examples=programs, database=None)
    @given(st.integers(0, LENGTH), PASSES)
    def run(length: int, passes: list[Pass]) -> None:
        with CheckpointStore(directory / f"store-{next(numbers)}", durability="normal") as store:
            program = Program(store, length, executor)
            last = Pass(False, "nobody", True, 9, None, 1, 1, True, False, "runs to its end", 0, False)
            for it in [*passes, last]:
                in_time(lambda it=it: program.run(it))  # type: ignore[misc]
            assert program.done == length
            ranges = [each.idempotency_key for each in store.history("run-7")]
            edges = [0, *(each.watermark.offset for each in store.history("run-7"))]
            assert ranges == [f"load:{first}-{after - 1}" for first, after in itertools.pairwise(edges)]
            store.verify().raise_if_broken()

    run()


@pytest.mark.parametrize("programs", [20, pytest.param(1_000, marks=pytest.mark.long)])
def test_of_random_programs_nothing_is_recorded_early_twice_or_never(
    tmp_path: Path, executor: Executor, programs: int
) -> None:
    """However they end: what is recorded was finished, in order, once; little is done again; nothing is left open."""
    _run_programs(tmp_path, executor, programs)

"""
Loops that record what they have finished: how records are handed out, one by one or in transactions.

Each loop is made of three things. A *feed* iterates over pairs of a value and a token. A *progress* notes the tokens of what
is finished, and records them. The functions and classes here stand between the two: they hand a value out, and it is
finished when the caller asks for the next one.
"""

from __future__ import annotations

import threading
import time
import weakref
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from milepost.append import NOT_ASKED
from milepost.errors import StoreError, shown
from milepost.owner import in_event_loop
from milepost.source import Resumable, Start, close, close_async
from milepost.steps import checked_step
from milepost.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
    from types import TracebackType

    import apsw

    from milepost.append import NotAsked
    from milepost.block import Block
    from milepost.checkpoint import Checkpoint, Watermark
    from milepost.progress import Progress
    from milepost.receipt import Receipt
    from milepost.store import CheckpointStore

Value = TypeVar("Value")

_NOTHING: Final = object()


class Loop(Resumable, ABC, Generic[Value]):
    """
    What every loop of a store can do.

    It is not an iterator. A loop that ends early, by `break` or an exception, drops its iterator. That rolls an open block
    back, and a new loop resumes. As a context manager, it ends its iterator at the end of the `with`.

    Attributes:
        run_id: The run.
        stage: Its stage.
        every: After how many finished records a checkpoint is recorded.
        every_s: After how many seconds, or None.
    """

    def __init__(
        self, store: CheckpointStore, run_id: str, stage: str, *, every: int, every_s: float | None, transaction: bool
    ) -> None:
        self._store = store
        self.run_id: str = run_id
        self.stage: str = stage
        self.every: int = every
        self.every_s: float | None = every_s
        self._transaction = transaction
        self._progress: Progress[Any, Any] | None = None  # of the pass that began last
        self._stopped = False
        self.stops: list[None] = []
        """One more for each `stop()`. A run shares it with the loops of its handle."""
        self._entered = False  # by `async with`
        # The iterator of that pass. Weak, so that dropping the iterator ends its block.
        self._pass: Callable[[], Any] = _no_pass
        # What `async with` closes at its end. Python would close a generator that a `break` has dropped some time later.
        self._held: object = None

    # What a kind of loop is made of

    @abstractmethod
    def _start(self) -> Start:
        """Look up where a pass would start."""

    @abstractmethod
    def _new_progress(self) -> Progress[Any, Any]:
        """Look up where the stage stands, and begin there."""

    @abstractmethod
    def _feed(self, progress: Any) -> Iterator[tuple[Value, Any]]:
        """Iterate over what is to be done, each with its token."""

    @abstractmethod
    def _feed_async(self, progress: Any) -> AsyncIterator[tuple[Value, Any]]:
        """Do as `_feed`, for `async for`."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: stage {shown(self.stage)} of run {shown(self.run_id)}>"

    # Where it is

    @property
    def start(self) -> Start:
        """Where the loop starts, or has started: the offset, as an int, and its `cursor`."""
        return self._start() if self._progress is None else self._progress.start

    @property
    def done(self) -> int:
        """How many records are finished, also before this loop: for a progress bar. The last ones may be unrecorded."""
        return int(self._start()) if self._progress is None else self._progress.done

    @property
    def stopped(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopped

    def stop(self) -> None:
        """
        Finish the record in hand, record it, and end the loop: for a signal handler, or another thread.

        A source that blocks is waited for. The loop stays stopped: make another one to go on.
        """
        self._stopped = True
        self.stops.append(None)
        self._store._note_stop(self.run_id)  # noqa: SLF001 - the store's own loop
        if self._progress is not None:
            self._progress.stop()

    # Inside its block

    @property
    def connection(self) -> apsw.Connection:
        """
        The connection for the sink's writes, which commit together with the checkpoint.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
        """
        connection = getattr(self._pass(), "connection", None)
        if connection is None:
            raise StoreError(
                self._store.path,
                "a loop's connection needs transaction=True and exists only inside the loop: use store.transaction()",
            )
        found: apsw.Connection = connection
        return found

    def append(self, entry: Checkpoint) -> Receipt:
        """
        Append a checkpoint of another stage, which commits together with the loop's own.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
            MilepostError: The same as `CheckpointStore.append` raises.
        """
        return self._store._writer.append(entry, self._block())  # noqa: SLF001 - the store's own loop

    def advance(
        self,
        run_id: str,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """
        Advance another stage, and commit that together with the loop's own checkpoint.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
            MilepostError: The same as `CheckpointStore.advance` raises.
        """
        step = checked_step(run_id, stage, watermark, idempotency_key, after, cursor)
        return self._store._writer.advance(step, self._store._clock, self._block())  # noqa: SLF001

    def _block(self) -> Block:
        block: Block | None = getattr(self._pass(), "block", None)
        if block is None:
            raise StoreError(
                self._store.path,
                "a loop's append() and advance() need transaction=True and work only inside it: use the store's",
            )
        return block

    def new_block(self) -> Block:
        """Make the block of the next batch."""
        loop = f"the loop over stage {shown(self.stage)} of run {shown(self.run_id)}"
        return self._store._writer.block(loop)  # noqa: SLF001

    # Passes

    def __iter__(self) -> Iterator[Value]:
        """Iterate over what is still to be done."""
        try:
            progress = self._begin()
            feed = self._feed(progress)
        except StopIteration as error:
            raise _not_the_end(error) from error
        this = _InTransactions(self, progress, feed) if self._transaction else _one_by_one(progress, feed, self.every_s)
        self._begin_pass(this)
        return this

    def __aiter__(self) -> AsyncIterator[Value]:
        """Iterate over what is still to be done, in a task."""
        if self._transaction and not self._entered:
            raise StoreError(
                self._store.path,
                "a loop with transaction=True needs `async with loop:` around its `async for`, which ends its block in time",
            )
        progress = self._begin()
        feed = self._feed_async(progress)
        this: AsyncGenerator[Value, None] | _InTransactionsAsync[Value]
        if self._transaction:
            this = _InTransactionsAsync(self, progress, feed)
        else:
            this = _one_by_one_async(progress, feed, self.every_s)
        self._begin_pass(this)
        if self._entered:
            self._held = feed if self._transaction else this  # a block ends when its iterator is dropped
        return this

    def _begin_pass(self, this: Any) -> None:
        self._pass = weakref.ref(this)

    def _begin(self) -> Progress[Any, Any]:
        if self._progress is not None:
            self._progress.over = True
        progress = self._progress = self._new_progress()
        if self._stopped:  # looked at last: a signal handler stops the progress that it finds
            progress.stop()
        return progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close(self._pass())

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        held, self._held = self._held, None
        try:
            await close_async(self._pass())
        finally:
            await close_async(held)


def _no_pass() -> None:
    """Stand for the reference to an iterator before there is one."""


def _not_the_end(error: Exception) -> RuntimeError:
    """
    Return what Python makes of a StopIteration that comes out of a generator.

    A store's clock, say, may raise one: `clock=lambda: next(times)`. To a `for` it would be the end of the loop.
    """
    return RuntimeError(f"a function that the loop calls raised {type(error).__name__}")


def _one_by_one(
    progress: Progress[Any, Any], feed: Iterator[tuple[Value, Any]], every_s: float | None
) -> Generator[Value, None, None]:
    """Hand values out, and record those that are finished."""
    ticker = None
    finished, every = progress.finished, progress.every
    try:
        if every_s is not None:
            ticker = Ticker(progress, every_s)
            ticker.start()
        for value, token in feed if not progress.stopped else ():
            if progress.attention and progress.must_end():
                break
            yield value
            # The caller asks for the next one, so it has finished this one.
            finished.append(token)
            if len(finished) >= every or progress.attention:
                progress.record()
                if progress.stopped:
                    break
        progress.record()
    finally:
        progress.over = True  # first, and without a call that could be interrupted
        if ticker is not None:
            ticker.stop()
        progress.end()
        close(feed)


async def _one_by_one_async(
    progress: Progress[Any, Any], feed: AsyncIterator[tuple[Value, Any]], every_s: float | None
) -> AsyncGenerator[Value, None]:
    """Do as `_one_by_one`, for `async for`."""
    ticker = None
    try:
        if every_s is not None:
            ticker = Ticker(progress, every_s)
            ticker.start()
        if not progress.stopped:
            async for value, token in feed:
                if progress.attention and progress.must_end():
                    break
                yield value
                progress.finished.append(token)
                if len(progress.finished) >= progress.every or progress.attention:
                    await progress.record_async()
                    if progress.stopped:
                        break
        await progress.record_async()
    finally:
        progress.over = True
        if ticker is not None:
            ticker.stop()
        if in_event_loop():
            await close_async(feed)
            await progress.end_async()


class _Batches(Generic[Value]):
    """
    What the two iterators have in common that run each batch inside a transaction block, which the loop owns.

    They are classes, not generators, so that another thread may continue them. A block ends when its iterator is dropped, in
    any thread.
    """

    def __init__(self, loop: Loop[Value], progress: Progress[Any, Any]) -> None:
        self._loop, self._progress = loop, progress
        self._batch: Iterator[tuple[Value, Any]] = iter(())
        self._in_hand: Any = _NOTHING  # the token of the value that was handed out
        self.block: Block | None = None
        self._end: Callable[..., Any] | None = None  # ends the block, also when it is dropped with this iterator
        self._over = False

    @property
    def connection(self) -> apsw.Connection | None:
        """The connection of the block; None outside of a block."""
        return None if self.block is None or self.block.turn is None else self.block.turn.connection

    def _continue(self) -> None:
        """Note which thread continues it, and that the value in hand is finished."""
        if self.block is not None and self.block.turn is not None:
            self.block.turn.in_thread = threading.current_thread()
        if self._in_hand is not _NOTHING:
            token, self._in_hand = self._in_hand, _NOTHING
            self._progress.finished.append(token)
            if self._progress.stopped:
                self._batch = iter(())

    def _is_over(self, until: float | None) -> bool:
        """Return whether to read no more into a batch."""
        return self._progress.stopped or (until is not None and time.monotonic() >= until)

    def _until(self) -> float | None:
        """Return until when to read a batch, on the monotonic clock; None for as long as it takes."""
        return None if self._loop.every_s is None else time.monotonic() + self._loop.every_s

    def _drop(self) -> None:
        """End the pass. Dropping `_end` rolls back what is open."""
        self._progress.over = True
        self._end = self.block = None


class _InTransactions(_Batches[Value]):
    """The iterator of a `for`."""

    def __init__(self, loop: Loop[Value], progress: Progress[Any, Any], feed: Iterator[tuple[Value, Any]]) -> None:
        super().__init__(loop, progress)
        self._feed = feed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Value:
        if self._over:
            raise StopIteration
        handed_out = False
        try:
            self._continue()
            pair = next(self._batch, None) or self._next_batch()
            if pair is not None:
                value, self._in_hand = pair
                handed_out = True
                return value
        except StopIteration as error:
            raise _not_the_end(error) from error
        finally:
            if not handed_out:
                self._over = True  # first, and without a call that could be interrupted
                self.close()
        raise StopIteration

    def _next_batch(self) -> tuple[Value, Any] | None:
        """Commit the batch, read the next one, begin its block, and return its first pair; None at the end."""
        while True:
            self._commit()
            # Read the batch before its transaction begins, so that a slow source keeps no other writer waiting.
            batch: list[tuple[Value, Any]] = []
            until = self._until()
            for each in islice(() if self._progress.stopped else self._feed, self._progress.every):
                batch.append(each)
                if self._is_over(until):
                    break
            if not batch or self._progress.stopped:
                return None
            block = self._loop.new_block()
            self._end = block.__exit__
            block.__enter__()
            self.block = block
            self._batch = iter(self._progress.admit(batch, block))
            first = next(self._batch, None)
            if first is not None:  # else others have done all of it meanwhile
                return first

    def _commit(self) -> None:
        if self.block is not None and self._end is not None:
            self._progress.record(self.block)
            self._end(None, None, None)
            self.block = self._end = None

    def close(self) -> None:
        """End the pass: what is not recorded is undone."""
        self._over = True
        self._drop()
        close(self._feed)


class _InTransactionsAsync(_Batches[Value]):
    """The iterator of an `async for`."""

    _end: Callable[..., Awaitable[None]] | None

    def __init__(self, loop: Loop[Value], progress: Progress[Any, Any], feed: AsyncIterator[tuple[Value, Any]]) -> None:
        super().__init__(loop, progress)
        self._feed = feed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Value:
        if self._over:
            raise StopAsyncIteration
        handed_out = False
        try:
            self._continue()
            pair = next(self._batch, None) or await self._next_batch()
            if pair is not None:
                value, self._in_hand = pair
                handed_out = True
                return value
        except StopAsyncIteration as error:
            raise _not_the_end(error) from error
        finally:
            if not handed_out:
                self._over = True
                await self.aclose()
        raise StopAsyncIteration

    async def _next_batch(self) -> tuple[Value, Any] | None:
        """Do as `_InTransactions._next_batch`."""
        while True:
            await self._commit()
            batch: list[tuple[Value, Any]] = []
            until = self._until()
            if not self._progress.stopped:
                async for each in self._feed:
                    batch.append(each)
                    if len(batch) >= self._progress.every or self._is_over(until):
                        break
            if not batch or self._progress.stopped:
                return None
            block = self._loop.new_block()
            self._end = block.__aexit__
            await block.__aenter__()
            self.block = block
            self._batch = iter(self._progress.admit(batch, block))
            first = next(self._batch, None)
            if first is not None:
                return first

    async def _commit(self) -> None:
        if self.block is not None and self._end is not None:
            self._progress.record(self.block)  # no disk is waited for inside a block
            await self._end(None, None, None)
            self.block = self._end = None

    async def aclose(self) -> None:
        """End the pass: what is not recorded is undone."""
        self._over = True
        self._drop()
        await close_async(self._feed)

"""Track an ordered source whose records finish out of order: `with store.tracked(run_id=…, stage=…) as track`."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from milepost import rows
from milepost.arguments import check_integer, plain_integer
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import InvalidArgumentError, MilepostError, StoreError
from milepost.progress import OffsetProgress
from milepost.source import Start
from milepost.ticker import Ticker
from milepost.times import to_ms

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from milepost.append import Step
    from milepost.store import CheckpointStore
    from milepost.times import Time

_LOOK_AGAIN_S: Final = 0.05
"""How often a waiting thread looks for itself, in seconds: several threads may wait at one bell."""


class _Stopped(BaseException):
    """Ends the `with` after `stop()`. No `except Exception` of the caller's catches it."""


class Done:
    """
    Say that a tracked record is finished: `done()`.

    As a callback of a future it is called with that. A record whose future failed or was cancelled is not finished. A second
    call does nothing.
    """

    __slots__ = ("_claim", "_ended", "_ring", "error", "event_time_ms", "finished", "offset")

    def __init__(self, offset: int, event_time_ms: int, ended: deque[Done], ring: Callable[[], object]) -> None:
        self.offset: int = offset
        self.event_time_ms: int = event_time_ms
        self.finished: bool = False
        self.error: BaseException | None = None
        self._claim = [None]  # emptied in one step, by the first call
        self._ended, self._ring = ended, ring

    def __call__(self, future: Any = None, /) -> None:
        """
        Note that the record is finished, from any thread. It does not record, and waits for nothing.

        Args:
            future: The future that has ended, where this is its callback.

        Raises:
            InvalidArgumentError: `future` is none.
        """
        error = None if future is None else _error_of(future)
        with suppress(IndexError):
            self._claim.pop()
            self.error = error
            self.finished = error is None
            self._ended.append(self)
            self._ring()

    def __repr__(self) -> str:
        state = "finished" if self.finished else "under way" if self._claim else f"failed with {self.error!r}"
        return f"<Done of offset {self.offset}, {state}>"


def _error_of(future: Any) -> BaseException | None:
    try:
        error: BaseException | None = _cancelled() if future.cancelled() else future.exception()
    except AttributeError:
        raise InvalidArgumentError("future", future, "must be a future: call done() without arguments elsewhere") from None
    return error


def _cancelled() -> BaseException:
    from concurrent.futures import CancelledError  # noqa: PLC0415 - the caller has imported it

    return CancelledError("the future of a tracked record was cancelled")


class _TrackedProgress(OffsetProgress):
    """
    The records that have begun, and how far they are finished without a gap.

    Everything but `ended` is changed under a lock, since the ticker's thread collects too.
    """

    def begin_tracking(self) -> Self:
        """Set up what `Progress` does not have."""
        self._begun: deque[Done] = deque()
        self.ended: deque[Done] = deque()
        self.unfinished: int = 0
        self.failures: list[BaseException] = []
        self._told = 0  # how many of these track() has raised
        self._last_begun: int | None = None
        self._passed = self._passed_recorded = self._passed_in_step = 0  # how many records
        self._collecting = threading.Lock()
        return self

    def begin(self, offset: int, event_time_ms: int, ring: Callable[[], object]) -> Done:
        """Note that work on a record begins."""
        with self._collecting:
            least = self.start if self._last_begun is None else self._last_begun + 1
            if offset < least:
                rule = f"must rise from one call to the next, and be {least:,} or more here: see `start`"
                raise InvalidArgumentError("offset", offset, rule)
            done = Done(offset, event_time_ms, self.ended, ring)
            self._last_begun = offset
            self._begun.append(done)
            self.unfinished += 1
        return done

    def collect(self) -> None:
        """Take what has ended, and see how far all is finished."""
        with self._collecting:
            while self.ended:
                done = self.ended.popleft()
                self.unfinished -= 1
                if done.error is not None:
                    self.failures.append(done.error)
            event_time_ms = self.event_time_ms
            while self._begun and self._begun[0].finished:
                event_time_ms = max(event_time_ms, self._begun.popleft().event_time_ms)
                self._passed += 1
            if self._last_begun is not None:
                self.reach(self._begun[0].offset if self._begun else self._last_begun + 1, event_time_ms)

    def raise_failed(self) -> None:
        """Raise what the future of a record has failed with, each once."""
        if self._told < len(self.failures):
            self._told += 1
            raise self.failures[self._told - 1]

    @property
    def is_due(self) -> bool:
        """Whether so many records are finished that a checkpoint is due."""
        return self._passed - self._passed_recorded >= self.every or self.attention

    def _unrecorded(self) -> Step | None:
        self.collect()
        self._passed_in_step = self._passed
        return super()._unrecorded() if self._passed > self._passed_recorded else None

    def _note(self, work: Step, outcome: None) -> None:
        super()._note(work, outcome)
        self._passed_recorded = self._passed_in_step


class _Tracking:
    """What `with` and `async with` have in common."""

    def __init__(
        self, store: CheckpointStore, run_id: str, stage: str, every: int, every_s: float | None, in_flight: int
    ) -> None:
        self._store = store
        self.run_id: str = run_id
        self.stage: str = stage
        self.every: int = every
        self.every_s: float | None = every_s
        self.in_flight: int = in_flight
        self._progress: _TrackedProgress | None = None
        self._ticker: Ticker | None = None
        self._stopped = False
        self._is_open = False

    def _state(self) -> rows.StageState | None:
        return self._store._database.read(rows.stage_state, self.run_id, self.stage)  # noqa: SLF001 - the store's own loop

    @property
    def start(self) -> Start:
        """The offset to start at, as an int: all below it is finished."""
        if self._progress is not None:
            return self._progress.start
        state = self._state()
        return Start(state.watermark.offset if state else 0)

    @property
    def done(self) -> int:
        """The lowest unfinished offset: all below it is finished. The last ones may be unrecorded."""
        if self._progress is None:
            return int(self.start)
        self._progress.collect()
        return self._progress.done

    def stop(self) -> None:
        """
        Have the next `track()` end the `with` block, which waits for what has begun, and records it.

        For a signal handler, or another thread.
        """
        self._stopped = True
        if self._progress is not None:
            self._progress.stop()

    def _open(self) -> None:
        if self._progress is not None:
            raise StoreError(self._store.path, "a tracked source is entered once: call tracked() again")
        state = self._state()
        self._progress = _TrackedProgress(
            self._store._writer,  # noqa: SLF001
            self._store._clock,  # noqa: SLF001
            self.run_id,
            self.stage,
            Start(state.watermark.offset if state else 0),
            self.every,
            state.watermark if state else None,
        ).begin_tracking()
        if self._stopped:
            self._progress.stop()
        self._is_open = True
        if self.every_s is not None:
            self._ticker = Ticker(self._progress, self.every_s)

    def _close(self) -> None:
        self._is_open = False
        if self._progress is not None:
            self._progress.end()
        if self._ticker is not None:
            self._ticker.stop()

    def _opened(self) -> _TrackedProgress:
        if self._progress is None or not self._is_open:
            raise StoreError(self._store.path, "track() works inside its `with` only")
        return self._progress

    def _checked(self, offset: object, event_time: Time | None) -> tuple[int, int]:
        plain: Any = plain_integer(offset)
        check_integer("offset", plain, most=MAX_INTEGER - 1)  # the offset behind it is stored
        return plain, 0 if event_time is None else to_ms("event_time", event_time)

    def _look(self, progress: _TrackedProgress) -> None:
        """Take what has ended. Raise what has failed, and end where `stop()` was called."""
        progress.collect()
        progress.raise_failed()
        if progress.must_end():
            raise _Stopped

    def _after(self, error: BaseException | None, failure: Exception) -> None:
        """What is finished could not be recorded, after the body has raised: that is what the caller has to hear."""
        if error is None:
            raise failure
        error.add_note(
            f"and what is finished could not be recorded: {failure if isinstance(failure, MilepostError) else repr(failure)}"
        )


class Tracked(_Tracking):
    """
    An ordered source whose records the caller's own workers finish, in any order.

    `CheckpointStore.tracked` makes it, and its docstring has the rules. `with` gives this object, which is called with each
    offset. `async with` gives an `AsyncTracked`, whose call is awaited.

    Attributes:
        run_id: The run.
        stage: Its stage.
        every: After how many finished records a checkpoint is recorded.
        every_s: After how many seconds, or None.
        in_flight: How many records may be begun and not finished.
    """

    def __enter__(self) -> Self:
        self._open()
        self._bell = threading.Lock()
        self._bell.acquire()
        return self

    def __call__(self, offset: int, *, event_time: Time | None = None) -> Done:
        """
        Begin work on a record, and record what has finished meanwhile if that is due.

        It waits while `in_flight` records are unfinished.

        Args:
            offset: The record's. It rises from one call to the next; gaps are fine.
            event_time: The record's event time, or None.

        Returns:
            A callable: call it when the record is finished, or add it to a future as a callback.

        Raises:
            InvalidArgumentError: An argument breaks a rule.
            MilepostError: What is finished could not be recorded.
            BaseException: What the future of another record has failed with.
        """
        progress = self._opened()
        plain, event_time_ms = self._checked(offset, event_time)
        self._look(progress)
        if progress.is_due:
            progress.record()
        while progress.unfinished >= self.in_flight:
            self._wait()
            self._look(progress)
            if progress.is_due:
                progress.record()
        return progress.begin(plain, event_time_ms, self._ring)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _wait(self) -> None:
        if not self._progress or not self._progress.ended:
            if _in_event_loop():
                raise StoreError(
                    self._store.path,
                    f"{self.in_flight:,} records are unfinished, which would hold the event loop: use `async with`",
                )
            self._bell.acquire(timeout=_LOOK_AGAIN_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        progress = self._opened()
        stopped = isinstance(error, _Stopped)
        try:
            if error is None or stopped:
                while progress.unfinished:
                    self._wait()
                    progress.collect()
        finally:
            try:
                progress.record()
            except Exception as failure:  # noqa: BLE001 - the body's exception is what the caller has to hear
                self._after(None if stopped else error, failure)
            finally:
                self._close()
        if (error is None or stopped) and progress.failures:
            raise progress.failures[0]
        return stopped

    async def __aenter__(self) -> AsyncTracked:
        self._async = AsyncTracked(self._store, self.run_id, self.stage, self.every, self.every_s, self.in_flight)
        if self._stopped:
            self._async.stop()
        return await self._async.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await self._async.leave(error)


class AsyncTracked(_Tracking):
    """
    As `Tracked`, for a task: `done = await track(offset)`.

    Attributes:
        run_id: The run.
        stage: Its stage.
        every: After how many finished records a checkpoint is recorded.
        every_s: After how many seconds, or None.
        in_flight: How many records may be begun and not finished.
    """

    async def enter(self) -> Self:
        """Begin, as `async with` does."""
        import asyncio  # noqa: PLC0415 - which most programs do without, takes 30 ms

        self._open()
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        return self

    async def __call__(self, offset: int, *, event_time: Time | None = None) -> Done:
        """
        Do as `Tracked.__call__`, without holding the event loop.

        Args:
            offset: As `Tracked.__call__`.
            event_time: As `Tracked.__call__`.

        Returns:
            As `Tracked.__call__`.

        Raises:
            InvalidArgumentError: An argument breaks a rule.
            MilepostError: What is finished could not be recorded.
            BaseException: What the future of another record has failed with.
        """
        progress = self._opened()
        plain, event_time_ms = self._checked(offset, event_time)
        self._look(progress)
        if progress.is_due:
            await progress.record_async()
        while progress.unfinished >= self.in_flight:
            await self._wait()
            self._look(progress)
            if progress.is_due:
                await progress.record_async()
        return progress.begin(plain, event_time_ms, self._ring)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._bell.set)

    async def _wait(self) -> None:
        self._bell.clear()
        if not self._progress or not self._progress.ended:
            await self._bell.wait()

    async def leave(self, error: BaseException | None) -> bool:
        """End, as `async with` does."""
        progress = self._opened()
        stopped = isinstance(error, _Stopped)
        try:
            if error is None or stopped:
                while progress.unfinished:
                    await self._wait()
                    progress.collect()
        finally:
            try:
                await self._record_last(progress, error)
            except Exception as failure:  # noqa: BLE001 - the body's exception is what the caller has to hear
                self._after(None if stopped else error, failure)
            finally:
                self._close()
        if (error is None or stopped) and progress.failures:
            raise progress.failures[0]
        return stopped

    async def _record_last(self, progress: _TrackedProgress, error: BaseException | None) -> None:
        if isinstance(error, GeneratorExit):  # the task is gone, and nothing can be awaited
            progress.record()
        else:
            await progress.record_async()


def _in_event_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    import asyncio  # noqa: PLC0415 - only where it is there already

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""Track an ordered source whose records finish out of order: `with store.tracked(run_id=…, stage=…) as track`."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from milepost import rows
from milepost.arguments import check_integer, plain_integer
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import InvalidArgumentError, MilepostError, StageMovedError, StoreError, note
from milepost.owner import in_event_loop
from milepost.progress import OffsetProgress, refuse_bag
from milepost.source import Start
from milepost.ticker import Ticker
from milepost.times import to_ms

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from milepost.append import Step
    from milepost.block import Block
    from milepost.checkpoint import Watermark
    from milepost.store import CheckpointStore
    from milepost.times import Time

_LOOK_AGAIN_S: Final = 0.05
"""How often a waiting thread looks for itself, in seconds: several threads may wait at one bell."""


class _Stopped(BaseException):
    """
    Ends the `with` after `stop()`. No `except Exception` of the caller's catches it.

    Args:
        of: The tracking that was stopped: another one's `with` lets it pass.
    """

    def __init__(self, of: _Tracking) -> None:
        super().__init__()
        self.of: _Tracking = of


class Done:
    """
    Say that a tracked record is finished: `done()`.

    As a callback of a future it is called with that, and as an `error_callback` of `multiprocessing.Pool` with an exception.
    A record whose future failed or was cancelled, or that was given an exception, is not finished. A second call does
    nothing.
    """

    __slots__ = ("__weakref__", "_progress", "_record", "_ring")

    def __init__(self, record: _Record, progress: _TrackedProgress, ring: Callable[[], object]) -> None:
        self._record, self._progress, self._ring = record, progress, ring

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self._record.offset

    def __call__(self, future: Any = None, /) -> None:
        """
        Note that the record is finished, from any thread. It does not record, and waits for nothing.

        Args:
            future: The future that has ended, where this is its callback; or what the work has failed with.

        Raises:
            InvalidArgumentError: `future` is neither. The record is not finished, and the next `track()` raises this too:
                whoever calls it in a thread of a pool's own may never show it.
        """
        refused = None
        try:
            error = None if future is None else _error_of(future)
        except InvalidArgumentError as failure:
            error = refused = failure
        if not self._record.outcomes:
            self._record.outcomes.append(error)
        self._progress.free(self._record)
        self._ring()
        if refused is not None:
            raise refused

    def __repr__(self) -> str:
        return f"<Done of offset {self.offset}, {self._record.state}>"


def _error_of(future: Any) -> BaseException | None:
    if issubclass(type(future), BaseException):
        given: BaseException = future
        return given
    try:
        error: BaseException | None = _cancelled() if future.cancelled() else future.exception()
    except AttributeError:
        rule = (
            "must be a future, or the exception of a failure: a callback that gets a result calls done() without arguments"
        )
        raise InvalidArgumentError("future", future, rule) from None
    return error


def _cancelled() -> BaseException:
    from concurrent.futures import CancelledError  # noqa: PLC0415 - the caller has imported it

    return CancelledError("the future of a tracked record was cancelled")


class _Record(NamedTuple):
    """
    A record that has begun.

    Attributes:
        offset: Its offset.
        event_time_ms: Its event time, or 0.
        outcomes: Empty while work on it is under way. The first one counts: None, or what its future has failed with. A list
            takes an outcome in one step, which no signal handler can come between.
    """

    offset: int
    event_time_ms: int
    outcomes: list[BaseException | None]

    @property
    def finished(self) -> bool:
        """Whether work on it has come to a good end."""
        return bool(self.outcomes) and self.outcomes[0] is None

    @property
    def state(self) -> str:
        """How it stands, in words."""
        if not self.outcomes:
            return "under way"
        return "finished" if self.outcomes[0] is None else f"failed with {self.outcomes[0]!r}"


class _TrackedProgress(OffsetProgress):
    """
    The records that have begun, and how far they are finished without a gap.

    A lock guards it, since the ticker's thread collects too. `done()` takes none. Each of its steps is whole, so a signal
    handler may call it within any other.
    """

    def begin_tracking(self) -> Self:
        """Set up what `Progress` does not have."""
        self._reached = int(self.start), self.recorded_ms  # below which offset all is finished, and the latest event time
        self._begun: deque[_Record] = deque()  # from the first one that is not finished
        # By offset: those that somebody may still finish. Weak, to notice that nobody can.
        self._under_way: dict[int, tuple[_Record, weakref.ref[Done]]] = {}
        self._failures: deque[BaseException] = deque()  # those that track() is still to raise
        self._last_begun: int | None = None
        self._passed = self._passed_recorded = self._passed_in_step = 0  # how many records
        self._asked: list[Watermark] = []  # what was to be recorded since it was last heard that something was
        self._collecting = threading.Lock()
        return self

    @property
    def done(self) -> int:
        """The lowest unfinished offset."""
        return self._reached[0]

    @property
    def unfinished(self) -> int:
        """How many records somebody is at work on."""
        return len(self._under_way)

    def begin(self, offset: int, event_time_ms: int, ring: Callable[[], object]) -> Done:
        """Note that work on a record begins."""
        with self._collecting:
            least = self.start if self._last_begun is None else self._last_begun + 1
            if offset < least:
                rule = f"must rise from one call to the next, and be {least:,} or more here: see `start`"
                raise InvalidArgumentError("offset", offset, rule)
            record = _Record(offset, event_time_ms, [])
            done = Done(record, self, ring)
            # In this order, for an interrupt may come in between: what was not handed out is neither finished nor awaited.
            self._begun.append(record)
            self._last_begun = offset
            self._under_way[offset] = record, weakref.ref(done)
        return done

    def free(self, record: _Record) -> None:
        """Note that a record has ended, from any thread: it gives its slot back."""
        if self._under_way.pop(record.offset, None) is not None and record.outcomes[0] is not None:
            self._failures.append(record.outcomes[0])

    def give_up_dropped(self) -> None:
        """Give back the slots of records that nobody can finish any more."""
        for record, done in list(self._under_way.values()):
            dropped = done() is None  # looked at first: whoever called it has come to the end
            if dropped and not record.outcomes:
                problem = (
                    f"nobody can finish the record at offset {record.offset:,}: keep what track() returns, and call it when "
                    "the work ends, with the exception if it failed"
                )
                record.outcomes.append(StoreError(self._writer.path, problem))
            if record.outcomes:
                self.free(record)

    def collect(self) -> None:
        """See how far all is finished."""
        with self._collecting:  # no acquire(): an interrupt could come between that and its `try`
            self._collect()

    @property
    def is_collecting(self) -> bool:
        """Whether a thread is at it: perhaps the caller's own, in the middle of what a signal handler has interrupted."""
        return self._collecting.locked()

    def _collect(self) -> None:
        passed, event_time_ms = 0, self._reached[1]
        for record in self._begun:
            if not record.finished:
                break
            passed += 1
            event_time_ms = max(event_time_ms, record.event_time_ms)
        self._passed += passed
        if self._last_begun is not None:
            first = self._begun[passed].offset if passed < len(self._begun) else self._last_begun + 1
            self._reached = first, event_time_ms
        for _ in range(passed):  # last: after an interrupt they are looked at again, and nothing is left out
            self._begun.popleft()

    def raise_failed(self) -> None:
        """Raise what the future of a record has failed with, each once."""
        if self._failures:
            raise self._failures.popleft()

    def failed(self) -> list[BaseException]:
        """Return what the futures of records have failed with, the lowest offset first."""
        outcomes = (outcome for record in self._begun for outcome in record.outcomes[:1])
        return [outcome for outcome in outcomes if outcome is not None]

    @property
    def is_due(self) -> bool:
        """Whether so many records are finished that a checkpoint is due."""
        return self._passed - self._passed_recorded >= self.every or self.attention

    def _unrecorded(self) -> Step | None:
        with self._collecting:
            self._collect()
            self._passed_in_step = self._passed
            step = self._step(*self._reached, None) if self._passed > self._passed_recorded else None
        if step is None:
            self._passed_recorded = self._passed_in_step
        else:
            self._asked.append(step.watermark)
        return step

    def _note(self, work: Step, outcome: None) -> None:
        super()._note(work, outcome)
        self._passed_recorded = self._passed_in_step
        self._asked.clear()

    def _record(self, within: Block | None) -> None:
        try:
            super()._record(within)
        except MilepostError as error:
            if not self._was_recorded(error):
                raise
            super()._record(within)

    async def record_async(self) -> None:
        """As `Progress.record_async`."""
        try:
            await super().record_async()
        except MilepostError as error:
            if not self._was_recorded(error):
                raise
            await super().record_async()

    def _was_recorded(self, error: MilepostError) -> bool:
        """Whether the stage was moved by this progress itself: by a recording that was interrupted, and went well."""
        before = self._asked[:-1]  # the last one is what has failed now
        self._asked.clear()
        if not isinstance(error, StageMovedError) or error.found not in before:
            return False
        self._last = error.found
        return True


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
        self.stops: list[None] = []
        """One more for each `stop()`. A run shares it with the loops of its handle."""
        self._is_open = False

    def _state(self) -> rows.ResumeState | None:
        return self._store._database.read(rows.resume_state, self.run_id, self.stage)  # noqa: SLF001 - the store's own loop

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
        if not self._progress.is_collecting:
            self._progress.collect()
        return self._progress.done

    @property
    def stopped(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopped

    def stop(self) -> None:
        """
        Have the next `track()` end the `with` block, which records what is finished, waits for the rest, and records it.

        For a signal handler, or another thread.
        """
        self._stopped = True
        self.stops.append(None)
        self._store._note_stop(self.run_id)  # noqa: SLF001 - the store's own loop
        if self._progress is not None:
            self._progress.stop()

    def _refuse_a_second_time(self) -> None:
        if self._progress is not None:
            raise StoreError(self._store.path, "a tracked source is entered once: call tracked() again")

    def _open(self) -> _TrackedProgress:
        self._refuse_a_second_time()
        state = self._state()
        if state is not None:
            self._store._database.read(refuse_bag, self.run_id, self.stage)  # noqa: SLF001
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
            self._ticker.start()
        return self._progress

    def _close(self) -> None:
        self._is_open = False
        if self._progress is not None:
            self._progress.end()
        if self._ticker is not None:
            self._ticker.stop()

    def _opened(self) -> _TrackedProgress:
        if self._progress is None or not self._is_open:
            raise StoreError(self._store.path, "track() works inside its `with` only")
        self._store._writer.refuse_if_ended()  # noqa: SLF001 - in the child of a fork a lock may be held for ever
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
            raise _Stopped(self)

    def _to_leave(self, error: BaseException | None) -> tuple[_TrackedProgress, BaseException | None]:
        """Return what is to be recorded at the end of the `with`, and the exception that ends it, but for the own stop."""
        if self._progress is None or not self._is_open:
            raise StoreError(self._store.path, "this `with` has ended already")
        return self._progress, self._without_stop(error)

    def _without_stop(self, error: BaseException | None) -> BaseException | None:
        """Return an exception without what `track()` raises after `stop()`: a TaskGroup puts that into a group."""
        if isinstance(error, _Stopped):
            return None if error.of is self else error
        if isinstance(error, BaseExceptionGroup):
            return error.split(lambda each: isinstance(each, _Stopped) and each.of is self)[1]
        return error

    def _after(self, error: BaseException | None, failure: Exception) -> None:
        """What is finished could not be recorded, after the body has raised: that is what the caller has to hear."""
        if error is None:
            raise failure
        note(error, "and what is finished could not be recorded", failure)

    def _end(self, progress: _TrackedProgress, given: BaseException | None, error: BaseException | None) -> bool:
        """
        Raise what has to be heard at the end of the `with`.

        Args:
            progress: Its records.
            given: What has ended the `with`, or None.
            error: The same without the own stop, or None.

        Returns:
            Whether Python is to forget what has ended it.
        """
        failed = progress.failed()
        if isinstance(given, BaseExceptionGroup):
            from concurrent.futures import CancelledError  # noqa: PLC0415 - asyncio has imported it

            # The TaskGroup has cancelled the work under way, because the stop came out of it.
            failed = [each for each in failed if not isinstance(each, CancelledError)]
        if error is None and failed:
            raise failed[0]
        if error is not None and error is not given:
            raise error from None
        return given is not None and error is None


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

    _async: AsyncTracked | None = None

    def __enter__(self) -> Self:
        self._bell = threading.Lock()
        self._bell.acquire()
        self._open()
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
            self._wait(progress)
            self._look(progress)
            if progress.is_due:
                progress.record()
        return progress.begin(plain, event_time_ms, self._ring)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _wait(self, progress: _TrackedProgress) -> None:
        if in_event_loop():
            raise StoreError(
                self._store.path,
                f"{progress.unfinished:,} records are unfinished, which would hold the event loop: use `async with`",
            )
        if not self._bell.acquire(timeout=_LOOK_AGAIN_S):
            progress.give_up_dropped()

    def __exit__(
        self, kind: type[BaseException] | None, given: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        progress, error = self._to_leave(given)
        try:
            if progress.stopped and error is None:  # work may take longer than whoever has it stopped waits
                progress.record()
            while error is None and progress.unfinished:
                self._store._writer.refuse_if_ended()  # noqa: SLF001 - closed, or the child of a fork: there nobody finishes any
                self._wait(progress)
        finally:
            try:
                self._store._writer.refuse_if_ended()  # noqa: SLF001
                progress.record()
            except Exception as failure:  # noqa: BLE001 - the body's exception is what the caller has to hear
                self._after(error, failure)
            finally:
                self._close()
        return self._end(progress, given, error)

    async def __aenter__(self) -> AsyncTracked:
        self._refuse_a_second_time()
        inner = AsyncTracked(self._store, self.run_id, self.stage, self.every, self.every_s, self.in_flight)
        self._progress = await inner.enter()
        self._async, inner.stops = inner, self.stops
        if self._stopped:
            inner.stop()
        return inner

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._async is not None and await self._async.leave(error)


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

    async def enter(self) -> _TrackedProgress:
        """Begin, as `async with` does."""
        import asyncio  # noqa: PLC0415 - which most programs do without, takes 30 ms

        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._turn = asyncio.Lock()
        return self._open()

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
        async with self._turn:  # several tasks begin their records in the order of their calls
            self._look(progress)
            if progress.is_due:
                await progress.record_async()
            while progress.unfinished >= self.in_flight:
                await self._wait(progress)
                self._look(progress)
                if progress.is_due:
                    await progress.record_async()
            return progress.begin(plain, event_time_ms, self._ring)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._bell.set)

    async def _wait(self, progress: _TrackedProgress) -> None:
        again = self._loop.call_later(_LOOK_AGAIN_S, self._look_again, progress)
        try:
            await self._bell.wait()
            self._bell.clear()
        finally:
            again.cancel()

    def _look_again(self, progress: _TrackedProgress) -> None:
        progress.give_up_dropped()
        self._bell.set()

    async def leave(self, given: BaseException | None) -> bool:
        """End, as `async with` does."""
        progress, error = self._to_leave(given)
        try:
            if progress.stopped and error is None:
                await progress.record_async()
            while error is None and progress.unfinished:
                self._store._writer.refuse_if_ended()  # noqa: SLF001 - as Tracked.__exit__
                await self._wait(progress)
        finally:
            try:
                await self._record_last(progress)
            except Exception as failure:  # noqa: BLE001 - the body's exception is what the caller has to hear
                self._after(error, failure)
            finally:
                self._close()
        return self._end(progress, given, error)

    async def _record_last(self, progress: _TrackedProgress) -> None:
        self._store._writer.refuse_if_ended()  # noqa: SLF001
        if isinstance(sys.exception(), GeneratorExit):  # the task is gone, and nothing can be awaited
            progress.record()
        else:
            await progress.record_async()

"""
Work on records by threads, by an executor or by tasks, with a limited number in flight.

`Pool` begins jobs and hands over those that have finished, in the order of the source or as they finish. It hands over a
finished result before it reads another record, so that a slow source delays no result that is there already.

A worker never touches the pool: it takes a job from a queue, does it, and rings a bell. No lock guards anything else.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import weakref
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from milepost.errors import InvalidArgumentError
from milepost.owner import in_event_loop
from milepost.source import close_async
from milepost.threads import start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future

    from milepost.progress import Progress

_LOOK_AGAIN_S: Final = 1.0
"""How often a waiting loop looks for itself, in seconds. On some systems only a wait that ends can be interrupted."""
_POLL_S: Final = 0.002
"""How often a task looks whether the workers have ended, in seconds."""


class Job:
    """
    One record, and what came of the work on it.

    Attributes:
        record: It.
        token: What its feed gave with it.
        result: What the work has returned.
        error: What the work has raised, or why it was not done; None if it returned.
        was_done: Whether the work has raised the error itself. Else the record must never pass for finished.
        finished: Whether one of the two is there.
    """

    __slots__ = ("error", "finished", "record", "result", "token", "was_done")

    def __init__(self, record: Any, token: Any) -> None:
        self.record: Any = record
        self.token: Any = token
        self.result: Any = None
        self.error: BaseException | None = None
        self.was_done: bool = True
        self.finished: bool = False

    def fail(self, error: BaseException) -> None:
        """Note why it was not done."""
        self.error, self.was_done = error, False


class _Workers(Protocol):
    """Those who do the jobs."""

    def begin(self, job: Job) -> None: ...
    def stop(self) -> None: ...
    @property
    def are_at_work(self) -> bool: ...


class _Threads:
    """
    Worker threads. They keep no interpreter alive, and end with this object, should an interrupt come before `stop`.

    It has no `__del__`: Python ignores an interrupt that comes inside one.

    Args:
        work: What they do with a record.
        workers: How many threads to start at most.
        ring: Called with each job that is finished.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int, ring: Callable[[Job], object]) -> None:
        self._work, self._most, self._ring = work, workers, ring
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def begin(self, job: Job) -> None:
        """Have a thread do the job."""
        self._queue.put(job)
        if len(self._threads) < self._most:
            thread = threading.Thread(
                target=_serve,
                args=(self._queue, self._work, self._ring, weakref.ref(self)),
                name="milepost-worker",
                daemon=True,
            )
            self._threads.append(thread)
            start(thread)

    def stop(self) -> None:
        """Do nothing more but the jobs that have begun."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)

    @property
    def are_at_work(self) -> bool:
        """Whether a thread has not ended; but for the caller's, which the garbage collector may be in."""
        return any(thread.is_alive() and thread is not threading.current_thread() for thread in self._threads)

    def wait(self) -> None:
        """Wait for the jobs that have begun."""
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()


def _serve(
    queue: SimpleQueue[Job | None],
    work: Callable[[Any], Any],
    ring: Callable[[Job], object],
    workers: weakref.ref[_Threads],
) -> None:
    process = os.getpid()
    while os.getpid() == process:  # else the work has forked, and has returned in the child too
        try:
            job = queue.get(timeout=_LOOK_AGAIN_S)
        except Empty:
            if workers() is None:
                return
            continue
        if job is None:
            break
        try:
            job.result = work(job.record)
        except BaseException as error:  # noqa: BLE001 - the loop raises it
            job.error = error
        _refuse_awaitable(work, job)
        job.finished = True
        ring(job)
        del job
    queue.put(None)  # for the next thread


def _refuse_awaitable(work: object, job: Job) -> None:
    if not hasattr(type(job.result), "__await__"):
        return
    if inspect.iscoroutine(job.result):
        job.result.close()  # else Python warns that nobody awaited it
    rule = "returned an awaitable: give a coroutine function itself (async def), and loop with `async for`"
    job.fail(InvalidArgumentError("work", work, rule))


class _Executed:
    """An executor of the caller's, which is left running."""

    def __init__(self, work: Callable[[Any], Any], executor: Executor, ring: Callable[[Job], object]) -> None:
        self._work, self._executor, self._ring = work, executor, ring
        self._futures: dict[Job, Future[Any]] = {}

    def begin(self, job: Job) -> None:
        """Submit the job."""
        future = self._executor.submit(self._work, job.record)
        self._futures[job] = future
        future.add_done_callback(partial(self._finish, job))

    def _finish(self, job: Job, future: Future[Any]) -> None:
        try:
            job.error = future.exception()
            if job.error is None:
                job.result = future.result()
                _refuse_awaitable(self._work, job)
            elif isinstance(job.error, BrokenExecutor):
                job.fail(job.error)
        except CancelledError as error:
            job.fail(error)
        self._futures.pop(job, None)
        job.finished = True
        self._ring(job)

    def stop(self) -> None:
        """Withdraw the jobs that have not begun."""
        for future in list(self._futures.values()):
            future.cancel()

    are_at_work = False
    """Those that have begun are not waited for: it would be for ever where the garbage collector runs in one of them."""


class _Tasks:
    """Tasks of the running event loop, at most `workers` at once."""

    def __init__(self, work: Callable[[Any], Any], workers: int, ring: Callable[[Job], object]) -> None:
        self._work, self._most, self._ring = work, workers, ring
        self._queue: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = 0  # how many of them will look into the queue again

    def begin(self, job: Job) -> None:
        """Have a task do the job."""
        self._queue.append(job)
        if self._serving < self._most:
            self._serving += 1
            task = asyncio.create_task(self._serve(), name="milepost-worker")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        while task.cancelled() and self._queue:  # perhaps before its first step, and then nobody does what it was begun for
            job = self._queue.popleft()
            job.fail(asyncio.CancelledError())
            job.finished = True
            self._ring(job)

    async def _serve(self) -> None:
        while self._queue:
            await self._do(self._queue.popleft())
        self._serving -= 1  # at once: a job that is begun before the callback above runs needs another task

    async def _do(self, job: Job) -> None:
        try:
            job.result = await self._work(job.record)
        except BaseException as error:
            job.error = error
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise
        finally:
            job.finished = True
            self._ring(job)

    def stop(self) -> None:
        """Cancel what is under way."""
        self._queue.clear()
        for task in list(self._tasks):
            task.cancel()

    @property
    def are_at_work(self) -> bool:
        """Whether a task has not ended."""
        return bool(self._tasks)


class _Reader:
    """
    A task that reads an async source when it is told to.

    One task reads all of it, and closes it: an asyncio.timeout(), or a task group, that a source has entered belongs to the
    task.
    """

    def __init__(self, feed: AsyncIterator[tuple[Any, Any]], ring: Callable[[], object]) -> None:
        self._feed, self._ring = feed, ring
        self._wanted = asyncio.Event()
        self._pairs: list[tuple[Any, Any]] = []
        self.is_reading = False
        self.has_ended = False
        self.error: BaseException | None = None
        self.task = asyncio.create_task(self._read(), name="milepost-reader")
        self.task.add_done_callback(self._ended)

    def read(self) -> None:
        """Begin to read the next record."""
        self.is_reading = True
        self._wanted.set()

    def take(self) -> tuple[Any, Any] | None:
        """Return what was read, or None."""
        if not self._pairs:
            return None
        self.is_reading = False
        return self._pairs.pop()

    async def _read(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                pair = await anext(self._feed, None)
                if pair is None:
                    return
                self._pairs.append(pair)
                self._ring()
        except BaseException as error:
            self.error = error
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise
        finally:
            self.is_reading, self.has_ended = False, True
            self._ring()
            if in_event_loop():
                await close_async(self._feed)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        if not self.has_ended:  # it was cancelled before its first step
            self.error, self.is_reading, self.has_ended = asyncio.CancelledError(), False, True
            self._ring()

    def stop(self) -> None:
        """Close the source."""
        with suppress(RuntimeError):  # the loop is closed
            self.task.cancel()

    async def ended(self) -> None:
        """Wait until it is closed."""
        if not self.task.done():
            await asyncio.wait([self.task])


class Pool:
    """
    Jobs in flight.

    Args:
        work: What to do with a record.
        workers: How many jobs to do at once.
        in_flight: How many jobs may be begun and not handed over.
        executor: Does the jobs instead of threads of the pool's own, or None.
        look: Called before each wait: raises where nobody will end it, such as in a forked child.
        progress: Of the loop. Once it is stopped, the pool waits for no other job.
        ordered: Whether to hand over in the order of the source, or else as jobs finish.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        workers: int,
        in_flight: int,
        executor: Executor | None,
        look: Callable[[], object],
        progress: Progress[Any, Any],
        *,
        ordered: bool,
    ) -> None:
        self._look = look
        self._progress = progress
        self._work, self._number, self._in_flight, self._executor, self._ordered = (
            work, workers, in_flight, executor, ordered,
        )  # fmt: skip
        self._pending: deque[Job] = deque()  # in the order of the source; empty where that does not matter
        self._finished: deque[Job] = deque()  # as they finish; empty where the order of the source matters
        self._begun = 0  # and not handed over
        self._awaited: Job | bool = False  # the job that the loop sleeps for; True for any

    def _next(self) -> Job | None:
        """Return a finished job that is next, or None; an empty one once the loop is stopped, which looks and ends."""
        if self._progress.stopped:
            return Job(None, None)
        if not self._has_next():
            return None
        self._begun -= 1
        return self._pending.popleft() if self._ordered else self._finished.popleft()

    def _begin(self, workers: _Workers, record: Any, token: Any) -> None:
        job = Job(record, token)
        self._begun += 1
        if self._ordered:
            self._pending.append(job)
        workers.begin(job)

    def _workers(self, ring: Callable[[Job], object]) -> _Workers:
        if self._executor is not None:
            return _Executed(self._work, self._executor, ring)
        return _Threads(self._work, self._number, ring)

    def _note(self, job: Job) -> bool:
        """In a worker: the job is finished. Return whether the loop sleeps for it."""
        if not self._ordered:
            self._finished.append(job)
        return self._awaited is True or self._awaited is job

    def run(self, feed: Iterator[tuple[Any, Any]]) -> Iterator[Job]:
        """Do the records of a feed, for a `for`."""
        bell = threading.Lock()
        bell.acquire()

        def wake() -> None:
            with suppress(RuntimeError):  # it rings already
                bell.release()

        def ring(job: Job) -> None:
            if self._note(job):
                wake()

        workers = self._workers(ring)
        self._progress.wake = wake
        more = True
        failure: Exception | None = None
        try:
            while True:
                job = self._next()
                if job is not None:
                    yield job
                elif more and self._begun < self._in_flight:
                    try:
                        pair = next(feed, None)
                    except Exception as error:  # noqa: BLE001 - raised at its place, behind the records before it
                        more, failure = False, error
                        continue
                    if pair is None:
                        more = False
                    else:
                        self._begin(workers, *pair)
                elif self._begun == 0:
                    if failure is not None:
                        raise failure
                    return
                else:
                    self._look()
                    self._awaited = self._pending[0] if self._ordered else True
                    if not self._has_next():
                        bell.acquire(timeout=_LOOK_AGAIN_S)
                    self._awaited = False
        finally:
            workers.stop()
            if isinstance(workers, _Threads):
                workers.wait()

    def _has_next(self) -> bool:
        return bool(self._pending and self._pending[0].finished) if self._ordered else bool(self._finished)

    async def run_async(self, feed: AsyncIterator[tuple[Any, Any]]) -> AsyncIterator[Job]:
        """Do the records of a feed, for an `async for`: results are handed over while the source is awaited too."""
        loop = asyncio.get_running_loop()
        bell = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(bell.set)

        def ring(job: Job) -> None:
            if self._note(job):
                wake()

        workers: _Workers = (
            _Tasks(self._work, self._number, ring)
            if self._executor is None and inspect.iscoroutinefunction(self._work)
            else self._workers(ring)
        )
        reader = _Reader(feed, bell.set)
        self._progress.wake = wake
        try:
            while True:
                job = self._next()
                if job is not None:
                    yield job
                    continue
                pair = reader.take()
                if pair is not None:
                    self._begin(workers, *pair)
                    continue
                if self._begun == 0 and reader.has_ended:
                    if reader.error is not None:
                        raise reader.error
                    return
                if self._begun < self._in_flight and not reader.is_reading and not reader.has_ended:
                    reader.read()
                self._look()
                self._awaited = self._pending[0] if self._ordered and self._pending else True
                bell.clear()
                if not self._has_next() and not self._progress.stopped:  # looked at after the bell was cleared
                    await bell.wait()
                self._awaited = False
        finally:
            workers.stop()
            reader.stop()
            if in_event_loop():
                while workers.are_at_work:
                    await asyncio.sleep(_POLL_S)
                await reader.ended()

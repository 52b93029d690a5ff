"""
Work on records by threads, by an executor or by tasks, with a limited number in flight.

`Pool` begins jobs and hands over those that have finished, in the order of the source or as they finish. It hands over a
finished result before it reads another record, so that a slow source delays no result that is there already.

A worker never touches the pool: it takes a job from a queue, does it, and rings a bell. No lock guards anything else.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from concurrent.futures import CancelledError, Executor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from milepost.errors import InvalidArgumentError
from milepost.source import close_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future

_LOOK_AGAIN_S: Final = 1.0
"""How often a waiting loop looks for itself, in seconds. On some systems only a wait that ends can be interrupted."""


class Job:
    """One record, and what came of the work on it."""

    __slots__ = ("error", "finished", "record", "result", "token")

    def __init__(self, record: Any, token: Any) -> None:
        self.record, self.token = record, token
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished: bool = False


class _Workers(Protocol):
    """Those who do the jobs."""

    def begin(self, job: Job) -> None: ...
    def end(self) -> None: ...


class _Threads:
    """
    Worker threads. They keep no interpreter alive.

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
                target=_serve, args=(self._queue, self._work, self._ring), name="milepost-worker", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """Do nothing more, and wait for the jobs that have begun."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()


def _serve(queue: SimpleQueue[Job | None], work: Callable[[Any], Any], ring: Callable[[Job], object]) -> None:
    while (job := queue.get()) is not None:
        try:
            job.result = work(job.record)
            if inspect.isawaitable(job.result):
                _refuse_awaitable(work, job.result)
        except BaseException as error:  # noqa: BLE001 - the loop raises it
            job.error = error
        job.finished = True
        ring(job)
        del job


def _refuse_awaitable(work: object, result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()  # else Python warns that nobody awaited it
    raise InvalidArgumentError(
        "work", work, "returned an awaitable: give a coroutine function itself (async def), and loop with `async for`"
    )


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
        except CancelledError as error:
            job.error = error
        self._futures.pop(job, None)
        job.finished = True
        self._ring(job)

    def end(self) -> None:
        """Withdraw the jobs that have not begun."""
        for future in list(self._futures.values()):
            future.cancel()


class _Tasks:
    """Tasks of the running event loop, at most `workers` at once."""

    def __init__(self, work: Callable[[Any], Any], workers: int, ring: Callable[[Job], object]) -> None:
        self._work, self._most, self._ring = work, workers, ring
        self._queue: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, job: Job) -> None:
        """Have a task do the job."""
        self._queue.append(job)
        if len(self._tasks) < self._most:
            task = asyncio.create_task(self._serve(), name="milepost-worker")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self) -> None:
        while self._queue:
            job = self._queue.popleft()
            try:
                job.result = await self._work(job.record)
            except BaseException as error:
                job.error = error
                if isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
            finally:
                job.finished = True
                self._ring(job)

    def end(self) -> None:
        """Cancel what is under way."""
        self._queue.clear()
        for task in list(self._tasks):
            task.cancel()

    async def ended(self) -> None:
        """Wait until all have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class Pool:
    """
    Jobs in flight.

    Args:
        work: What to do with a record.
        workers: How many jobs to do at once.
        in_flight: How many jobs may be begun and not handed over.
        executor: Does the jobs instead of threads of the pool's own, or None.
        ordered: Whether to hand over in the order of the source, or else as jobs finish.
    """

    def __init__(
        self, work: Callable[[Any], Any], workers: int, in_flight: int, executor: Executor | None, *, ordered: bool
    ) -> None:
        self._work, self._number, self._in_flight, self._executor, self._ordered = (
            work, workers, in_flight, executor, ordered,
        )  # fmt: skip
        self._pending: deque[Job] = deque()  # in the order of the source; empty where that does not matter
        self._finished: deque[Job] = deque()  # as they finish; empty where the order of the source matters
        self._begun = 0  # and not handed over
        self._awaited: Job | bool = False  # the job that the loop sleeps for; True for any

    def _next(self) -> Job | None:
        """Return a finished job that is next, or None."""
        if self._ordered:
            if not self._pending or not self._pending[0].finished:
                return None
            job = self._pending.popleft()
        elif self._finished:
            job = self._finished.popleft()
        else:
            return None
        self._begun -= 1
        return job

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

        def ring(job: Job) -> None:
            if self._note(job):
                with suppress(RuntimeError):  # it rings already
                    bell.release()

        workers = self._workers(ring)
        more = True
        try:
            while True:
                job = self._next()
                if job is not None:
                    yield job
                elif more and self._begun < self._in_flight:
                    pair = next(feed, None)
                    if pair is None:
                        more = False
                    else:
                        self._begin(workers, *pair)
                elif self._begun == 0:
                    return
                else:
                    self._awaited = self._pending[0] if self._ordered else True
                    if not (self._pending[0].finished if self._ordered else self._finished):
                        bell.acquire(timeout=_LOOK_AGAIN_S)
                    self._awaited = False
        finally:
            workers.end()

    async def run_async(self, feed: AsyncIterator[tuple[Any, Any]]) -> AsyncIterator[Job]:
        """Do the records of a feed, for an `async for`: results are handed over while the source is awaited too."""
        loop = asyncio.get_running_loop()
        bell = asyncio.Event()

        def ring(job: Job) -> None:
            if self._note(job):
                with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                    loop.call_soon_threadsafe(bell.set)

        workers: _Workers = (
            _Tasks(self._work, self._number, ring)
            if self._executor is None and inspect.iscoroutinefunction(self._work)
            else self._workers(ring)
        )
        reading: asyncio.Task[Any] | None = None
        more = True
        try:
            while True:
                job = self._next()
                if job is not None:
                    yield job
                    continue
                if reading is not None and reading.done():
                    pair, reading = reading.result(), None
                    if pair is None:
                        more = False
                    else:
                        self._begin(workers, *pair)
                    continue
                if more and reading is None and self._begun < self._in_flight:
                    reading = asyncio.create_task(_read(feed))
                elif self._begun == 0 and reading is None:
                    return
                self._awaited = self._pending[0] if self._ordered and self._pending else True
                bell.clear()
                if (self._ordered and self._pending and self._pending[0].finished) or self._finished:
                    continue
                if reading is not None:
                    reading.add_done_callback(lambda _: bell.set())
                await bell.wait()
                self._awaited = False
        finally:
            workers.end()
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])
            if isinstance(workers, _Tasks):
                await workers.ended()
            await close_async(feed)


async def _read(feed: AsyncIterator[tuple[Any, Any]]) -> tuple[Any, Any] | None:
    return await anext(feed, None)

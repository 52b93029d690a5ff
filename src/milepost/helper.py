"""
A thread that does for an event loop what would hold it: a writer's helper.

Tasks queue jobs and go on; the helper does all that have queued in one transaction, and tells the loops what came of them.
It is begun at the first job. It ends when the store closes, before a fork, and with the interpreter, which it never keeps
alive. A job belongs to whoever takes its claim first: to the helper, once the transaction that does it has begun, or to the
task, which withdraws it when it is cancelled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from milepost.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.writer import Job

T = TypeVar("T")

MOST: Final = 1_000
"""How many jobs one transaction does at most."""

_AT_EXIT_S: Final = 5.0
"""How long the end of the interpreter waits for the transaction under way."""


class _Queued:
    """A job that a task waits for."""

    __slots__ = ("_claim", "future", "job", "loop")

    def __init__(self, job: Job[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.job, self.loop = job, loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self._claim = [None]  # emptied in one step, by whoever is first

    def claim(self) -> bool:
        """Whether the job is the caller's from now on, to do or to withdraw."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def deliver(self) -> None:
        """In its loop: hand over what came of it."""
        if not self.future.done():  # else the task was cancelled meanwhile
            if self.job.error is None:
                self.future.set_result(self.job.outcome)
            else:
                self.future.set_exception(self.job.error)


class Batch(Turn):
    """The helper's turn: whatever has queued by the time that its transaction has begun."""

    __slots__ = ("_queue", "_waited", "claimed")

    def __init__(self, queue: deque[_Queued]) -> None:
        super().__init__()
        self._queue = queue
        self._waited = len(queue)  # of these it can be said that they waited as long as this turn
        self.claimed: list[_Queued] = []

    def claim(self) -> list[Job[Any]]:
        """Take what has queued, but for what was withdrawn."""
        return self._claim(MOST)

    def claim_those_that_waited(self) -> list[Job[Any]]:
        """Take what had queued when this turn was asked for, to be told that it failed."""
        return self._claim(self._waited)

    def _claim(self, most: int) -> list[Job[Any]]:
        for _ in range(most):
            try:
                queued = self._queue.popleft()
            except IndexError:
                break
            if queued.claim():
                self.claimed.append(queued)
        return [queued.job for queued in self.claimed]


class _Commits(Protocol):
    """What does the jobs of a batch: the writer."""

    def commit_batch(self, batch: Batch) -> None: ...


class Helper:
    """
    The thread, its queue, and the threads that run one call each.

    Args:
        writer: What does the jobs.
        patience_ns: How long to wait for the tasks that the last transaction served, without one coming.
    """

    def __init__(self, writer: _Commits, patience_ns: int) -> None:
        self._writer = weakref.ref(writer)
        self._patience_ns = patience_ns
        self._queue: deque[_Queued] = deque()
        self._bell = threading.Lock()
        self._thread: threading.Thread | None = None
        self._calls: set[threading.Thread] = set()
        self._batch: Batch | None = None
        self._stopping = self._draining = False
        _helpers.add(self)

    async def do(self, job: Job[T]) -> T:
        """
        Have a job done with others, and wait for it.

        Cancelled while it is queued, it is withdrawn; once its transaction has begun, it is done all the same.
        """
        queued = _Queued(job, asyncio.get_running_loop())
        self._queue.append(queued)
        self.begin()
        try:
            outcome: T = await queued.future
        except asyncio.CancelledError:
            queued.claim()
            raise
        return outcome

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run one call in a thread of its own, since it may wait for long; for the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                outcome = function()
            except BaseException as error:  # noqa: BLE001 - the task's to hear
                _tell(loop, partial(_set, future.set_exception, error))
            else:
                _tell(loop, partial(_set, future.set_result, outcome))
            finally:
                self._calls.discard(threading.current_thread())

        def _set(how: Callable[[Any], None], what: object) -> None:
            if not future.done():
                how(what)

        thread = threading.Thread(target=run, name="milepost", daemon=True)
        self._calls.add(thread)
        try:
            thread.start()
        except BaseException:
            self._calls.discard(thread)
            raise
        return future

    def begin(self) -> None:
        """See to it that the thread runs, if there is something to do."""
        if self._thread is None and self._queue and not self._stopping:
            thread = self._thread = threading.Thread(target=self._run, name="milepost", daemon=True)
            try:
                thread.start()
            except BaseException:
                self._thread = None
                raise
        self._ring()

    def stop(self, seconds: float, *, drain: bool = False) -> bool:
        """
        End the threads; what is queued waits for `resume`.

        Args:
            seconds: How long to wait for the transaction under way.
            drain: Do first what has queued.

        Returns:
            Whether they have ended.
        """
        deadline = time.monotonic() + seconds
        self._draining = drain
        self._stopping = True
        batch = self._batch
        if batch is not None and not drain:
            batch.given_up = True
            batch.wake()
        self._ring()
        for thread in [self._thread, *self._calls]:
            if thread is not None and thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        self._thread = None
        return True

    def resume(self) -> None:
        """Go on with what has queued."""
        self._stopping = self._draining = False
        self.begin()

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Tell all that have queued that they will not be done."""
        batch = Batch(self._queue)
        for job in batch.claim_those_that_waited():
            job.error = error()
        _deliver(batch.claimed)

    def forget(self) -> None:
        """In the child of a fork: the threads and the tasks are the parent's."""
        self._queue.clear()
        self._calls.clear()
        self._thread = None
        self._bell = threading.Lock()
        self._stopping = True

    def _ring(self) -> None:
        try:  # noqa: SIM105 - for each job: suppress() would take longer than all else
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def _run(self) -> None:
        served = 0
        while True:
            if not self._queue and not self._stopping:
                self._bell.acquire()
            if self._stopping and not (self._draining and self._queue):
                return
            if not self._queue:
                continue
            self._await_company(served)
            writer = self._writer()
            if writer is None:
                return
            batch = self._batch = Batch(self._queue)
            try:
                writer.commit_batch(batch)
            finally:
                self._batch = None
                served = len(batch.claimed)
                _deliver(batch.claimed)
            del writer, batch

    def _await_company(self, served: int) -> None:
        """
        Let those queue again whom the last transaction served: without them every second one would do one job.

        It ends when as many are back, or none has come for a while.
        """
        came, since = -1, 0
        while (waiting := len(self._queue)) < served - 1 and not self._stopping:
            now = time.monotonic_ns()
            if waiting > came:
                came, since = waiting, now
            elif now - since >= self._patience_ns:
                return
            time.sleep(0)  # gives the interpreter to the loop


def _deliver(done: list[_Queued]) -> None:
    """Hand over what came of jobs, in one call of each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Queued]] = {}
    for queued in done:
        by_loop.setdefault(queued.loop, []).append(queued)
    for loop, of_loop in by_loop.items():
        _tell(loop, partial(_deliver_here, of_loop))


def _deliver_here(done: list[_Queued]) -> None:
    for queued in done:
        queued.deliver()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed: nobody waits any more
        loop.call_soon_threadsafe(call)


_helpers: weakref.WeakSet[Helper] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    """Python ends a thread in the middle of a transaction, and whoever closes the store then would wait for it for ever."""
    for helper in list(_helpers):
        helper.stop(_AT_EXIT_S)

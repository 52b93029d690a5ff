"""
A thread that does for an event loop what would hold it: a writer's helper.

Tasks queue jobs and go on; the helper does all that have queued in one transaction, and tells the loops what came of them.
It is begun at the first job. It ends when the store closes, before a fork, and with the interpreter, which it never keeps
alive. A job belongs to whoever takes its claim first. The helper takes it once the transaction that does the job has begun,
and a task that is cancelled takes it to withdraw the job.

Several loops, in threads of their own, may share it, and a signal handler may raise between any two steps of the main
thread. So, as in `turn`, no lock guards anything: which thread serves the queue is an entry of a dict, set and deleted in
one step each.

Many tasks are served in halves, where that is faster. A half hears what came of its transaction only when that of the other
half is about to be committed. So the loop lets its tasks go on while the helper waits for the disk. If it heard at once, the
loop and the helper would want the interpreter at the same time, and neither of them during the commit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from milepost import open_files
from milepost.errors import StoreError
from milepost.pace import Pace
from milepost.threads import start
from milepost.turn import NOW, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from milepost.job import Job

T = TypeVar("T")

MOST: Final = 1_000
"""How many jobs one transaction does at most."""

_AT_LATEST_S: Final = 0.005
"""How long a half may have to wait to hear what came of its transaction, in seconds, whatever the next one waits for."""

_AT_EXIT_S: Final = 5.0
"""How long the end of the interpreter waits for the transactions under way."""

_EXIT: Final = "exit"

_LOOK_AGAIN_S: Final = 0.05
"""How often a task that cannot be cancelled checks for itself, in seconds: an interrupt may lose what its loop was told."""


class _Queued:
    """A job that a task waits for."""

    __slots__ = ("_claim", "_unheard", "future", "job", "loop", "since")

    def __init__(self, job: Job[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.job, self.loop = job, loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.since = time.monotonic()
        self._claim = [None]  # emptied in one step, by whoever is first
        self._unheard = False

    def claim(self) -> bool:
        """Whether the job is the caller's from now on, to do or to withdraw."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def withdraw(self) -> None:
        """Its task waits no more: it is not done, unless its transaction has begun."""
        self.claim()
        self._unheard = True

    def deliver_if_done(self) -> None:
        """In its loop: hand over what came of it, if that is known. A second time does nothing."""
        if self.job.done:
            self.deliver()

    def deliver(self) -> None:
        """In its loop: hand over what came of it."""
        if self._unheard or self.future.done():  # the task was cancelled meanwhile
            return
        if self.job.error is None:
            self.future.set_result(self.job.outcome)
        else:
            _fail(self.future, self.job.error)


Outcomes = tuple[tuple[asyncio.AbstractEventLoop, deque[_Queued]], ...]


class Call(Generic[T]):
    """
    One call in a thread of its own, which a task waits for.

    Args:
        loop: The task's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self.came: Callable[[], object] | None = None
        """Gives the future what came of the call, once it has ended."""

    def deliver(self) -> None:
        """In its loop: hand over what came of it, if the call has ended. A second time does nothing."""
        if self.came is not None and not self.future.done():
            self.came()


class Batch(Turn):
    """
    The helper's turn: whatever has queued by the time that its transaction has begun.

    Args:
        queue: What has queued.
        progress: When the helper has last come to the end of a transaction, on the monotonic clock.
        most: How many jobs to do at most.
        before: What came of the transaction before, for those that have not heard it yet.
    """

    __slots__ = ("_before", "_most", "_queue", "_waited", "claimed", "waits_since")

    def __init__(self, queue: deque[_Queued], progress: float, most: int = MOST, before: Outcomes = ()) -> None:
        super().__init__()
        self._queue, self._most, self._before = queue, most, before
        self._waited = len(queue)  # of these it can be said that they waited as long as this turn
        self.claimed: list[_Queued] = []
        self.waits_since: float = progress
        """Since when the first of them waits for its turn, and not for others of the queue."""
        with contextlib.suppress(IndexError):  # another thread has told them that nothing will be done
            self.waits_since = max(progress, queue[0].since)

    @property
    def jobs(self) -> list[Job[Any]]:
        """Those that were claimed."""
        return [queued.job for queued in self.claimed]

    def claim(self) -> list[Job[Any]]:
        """Take what has queued, but for what was withdrawn."""
        return self._claim(self._most)

    def claim_those_that_waited(self) -> list[Job[Any]]:
        """Take what had queued when this turn was asked for, to be told that it failed."""
        return self._claim(self._waited)

    def claim_those_since(self, moment: float) -> list[Job[Any]]:
        """Take what had queued by a moment of the monotonic clock, to be told that it failed."""
        return self._claim(sum(queued.since <= moment for queued in self._queue.copy()))

    def _claim(self, most: int) -> list[Job[Any]]:
        for _ in range(most):
            try:
                queued = self._queue.popleft()
            except IndexError:
                break
            if queued.claim():
                self.claimed.append(queued)
        return self.jobs

    def commit_is_next(self) -> None:
        """Let the loops tell those of the transaction before, while this thread waits for the disk."""
        _deliver(self._before)


class Gate:
    """
    Where the tasks of a loop wait that want a transaction block: one at a time has a thread wait for its turn.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = asyncio.Lock()

    async def enter(self, seconds: float) -> bool:
        """Wait for those before; whether they left in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._lock.acquire()
        except TimeoutError:
            return False

    def open(self) -> None:
        """Let the next one in; from whatever thread, for there the garbage collector may find a task that is gone."""
        if _running_loop() is self._loop:
            self._lock.release()
        else:
            _tell(self._loop, self._lock.release)


class _Server(threading.Thread):
    """A thread that serves the queue, and what it sleeps on."""

    def __init__(self, work: Callable[[_Server], object]) -> None:
        super().__init__(name="milepost", daemon=True)
        self._work = work
        self.bell = threading.Lock()

    def run(self) -> None:
        """Serve the queue until told to end."""
        self._work(self)

    def ring(self) -> None:
        """Let it look at the queue."""
        if self.bell.locked():  # else it rings already, and each job of a batch would cost an exception
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self.bell.release()


class _Commits(Protocol):
    """What does the jobs of a batch: the writer."""

    def commit_batch(self, batch: Batch) -> None: ...
    def stop_waiting(self, batch: Batch) -> None: ...


class Helper:
    """
    The thread, its queue, and the threads that run one call each.

    Args:
        path: The file.
        writer: What does the jobs.
        patience_ns: How long to wait for the tasks that the last transaction served, without one coming.
    """

    def __init__(self, path: str, writer: _Commits, patience_ns: int) -> None:
        self._path = path
        self._writer = weakref.ref(writer)
        self._patience_ns = patience_ns
        self._queue: deque[_Queued] = deque()
        self._serving: dict[str, _Server] = {}  # under NOW: the thread that serves the queue
        self._calls: set[threading.Thread] = set()
        # By id() of the loop. Weak: a gate goes with the tasks at it, which would not go while it is known here.
        self._gates: weakref.WeakValueDictionary[int, Gate] = weakref.WeakValueDictionary()
        self._batch: Batch | None = None
        self._progress = 0.0
        self._pace = Pace()
        self._stoppers: dict[Hashable, bool] = {}  # who has stopped it, and whether what has queued is done first
        self._over: Callable[[], BaseException] | None = None
        self.process: int = os.getpid()
        _helpers[id(self)] = weakref.ref(self, partial(_forget, id(self)))

    async def do(self, job: Job[T], *, outlasting: bool = False) -> T:
        """
        Have a job done with others, and wait for it.

        Cancelled while it is queued, it is withdrawn; once its transaction has begun, it is done all the same.

        Args:
            job: The job.
            outlasting: Wait for it, whoever cancels the task meanwhile.

        Raises:
            StoreError: No task of asyncio calls.
        """
        queued = _Queued(job, self._loop_of_task())
        try:
            self._queue.append(queued)
            self._refuse_if_over()  # whoever closed the store may have told those in the queue before
            self.begin()
            outcome: T = await (outlast(queued.future, queued.deliver_if_done) if outlasting else queued.future)
        except BaseException:
            queued.withdraw()
            raise
        return outcome

    def call(self, function: Callable[[], T], unheard: Callable[[], object] | None = None) -> Call[T]:
        """
        Run one call in a thread of its own, since it may wait for long.

        Args:
            function: The call.
            unheard: What to do after a call that went well where the loop is closed, and the task hears nothing.

        Raises:
            StoreError: No task of asyncio calls, or there are too many threads.
        """
        loop = self._loop_of_task()
        call: Call[T] = Call(loop)

        def run() -> None:
            try:
                outcome = function()
            except BaseException as error:  # noqa: BLE001 - the task's to hear
                call.came = partial(_fail, call.future, error)
                _tell(loop, call.deliver)
            else:
                call.came = partial(call.future.set_result, outcome)
                if not _tell(loop, call.deliver) and unheard is not None:
                    unheard()
            finally:
                self._calls.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="milepost", daemon=True)
        self._calls.add(thread)
        try:
            start(thread)
        except RuntimeError as error:
            self._calls.discard(thread)
            raise self._no_thread(error) from error
        return call

    def gate(self) -> Gate:
        """
        The gate of the running loop.

        Raises:
            StoreError: No task of asyncio calls.
        """
        loop = self._loop_of_task()
        return self._gates.setdefault(id(loop), Gate(loop))

    def begin(self) -> None:
        """See to it that a thread serves the queue, if there is something to do."""
        server = self._serving.get(NOW)
        if server is not None:
            server.ring()
        elif self._queue and self._may_serve():
            self._begin(_Server(self._run))

    def _begin(self, server: _Server) -> None:
        try:
            if self._serving.setdefault(NOW, server) is server:
                start(server)
            else:  # another loop was faster
                self.begin()
        except RuntimeError as error:  # others may have seen this one, and wait for it
            if NOW in self._serving and self._serving[NOW] is server:
                del self._serving[NOW]
            self._fail_queued(partial(self._no_thread, error))
        except BaseException:  # an interrupt: nobody knows whether it runs
            if NOW in self._serving and self._serving[NOW] is server:
                del self._serving[NOW]
            server.ring()  # if it does, it sees that it is not the one
            self.begin()
            raise

    def _refuse_if_over(self) -> None:
        if self._over is not None:
            raise self._over()

    def _no_thread(self, error: RuntimeError) -> StoreError:
        return StoreError(self._path, f"no thread can be begun to write for a task ({error}): end some threads")

    def _loop_of_task(self) -> asyncio.AbstractEventLoop:
        loop = _running_loop()
        if loop is None or asyncio.current_task(loop) is None:
            raise StoreError(
                self._path,
                "append_async() and its like, and `async with`, need a task of asyncio: elsewhere, in trio say, call the "
                "method without _async in a thread (trio.to_thread.run_sync), or use a plain `with`",
            )
        return loop

    def _may_serve(self) -> bool:
        return not open_files.forking and all(self._stoppers.values())

    @property
    def _is_stopped(self) -> bool:
        return bool(self._stoppers or open_files.forking)

    @property
    def ended_with_the_interpreter(self) -> bool:
        """Whether the interpreter is ending: from now on whoever writes does it in a thread of his own."""
        return _EXIT in self._stoppers

    def stop(self, who: Hashable, seconds: float, *, drain: bool = False) -> bool:
        """
        End the threads; what is queued waits for `resume`.

        Args:
            who: Who stops it, and may have it go on.
            seconds: How long to wait for the transaction under way.
            drain: Do first what has queued. Calls go on: who closes the store waits for his turn behind them.

        Returns:
            Whether they have ended.
        """
        self._stoppers[who] = drain
        return self._await_threads(seconds, drain=drain)

    def pause(self, seconds: float) -> bool:
        """As `stop`, while `open_files.forking` has the threads end; `begin` has the queue served again."""
        return self._await_threads(seconds, drain=False)

    def _await_threads(self, seconds: float, *, drain: bool) -> bool:
        deadline = time.monotonic() + seconds
        server, batch = self._serving.get(NOW), self._batch
        if batch is not None and not drain:
            batch.given_up = True
            batch.wake()
        if server is not None:
            server.ring()
        for thread in [server, *([] if drain else self._calls)]:
            if thread is not None and thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def end(self, seconds: float) -> None:
        """End with the interpreter, which waits for a commit, and not for another process's lock."""
        self.stop(_EXIT, 0.0)
        writer, batch = self._writer(), self._batch
        if writer is not None and batch is not None:
            writer.stop_waiting(batch)
        self.stop(_EXIT, seconds)

    def resume(self, who: Hashable) -> None:
        """Go on with what has queued, as far as he who has stopped it is concerned."""
        self._stoppers.pop(who, None)
        self.begin()

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Tell all that have queued, and all that ever will, that they will not be done."""
        self._over = error
        self._fail_queued(error)

    def _fail_queued(self, error: Callable[[], BaseException]) -> None:
        batch = Batch(self._queue, 0.0)
        for job in batch.claim_those_that_waited():
            job.error = error()
        _deliver(_by_loop(batch.claimed))

    def forget(self) -> None:
        """In the child of a fork: the threads and the tasks are the parent's."""
        self._queue.clear()
        self._calls.clear()
        self._serving.clear()
        self._batch = None

    def _run(self, server: _Server) -> None:
        while self._serve(server):
            if NOW in self._serving and self._serving[NOW] is server:
                del self._serving[NOW]
            # Who has queued, or had it go on, before that has seen this thread, and begun none.
            if not self._queue or not self._may_serve() or self._serving.setdefault(NOW, server) is not server:
                return

    def _serve(self, server: _Server) -> bool:
        """Serve the queue until it is told to end; False when there is no writer any more."""
        served = 0
        before: Outcomes = ()  # of the transaction before, if its tasks have not heard
        while self._serving.get(NOW) is server:
            if not self._queue:
                if self._is_stopped:
                    return True
                server.bell.acquire()
                continue
            if not before:
                self._await_company(served)
            writer = self._writer()
            if writer is None:
                return False
            try:
                most = MOST if before else self._pace.part_of(len(self._queue), MOST)
                batch = self._batch = Batch(self._queue, self._progress, most, before)
                if not self._may_serve():  # looked at last: who stops it tells the batch that is there by then
                    return True
                writer.commit_batch(batch)
                if batch.done:  # it had its turn
                    self._progress = time.monotonic()
            finally:
                self._batch = None
            served, outcomes = len(batch.claimed), _by_loop(batch.claimed)
            waiting = len(self._queue)
            self._pace.note(served, waiting, time.monotonic())
            if self._pace.other_half_waits(served, waiting):
                before = outcomes
                _deliver_later(outcomes)
            else:
                before = ()
                _deliver(outcomes)
            del writer, batch
        return True

    def _await_company(self, served: int) -> None:
        """
        Let those queue again whom the last transaction served: without them every second one would do one job.

        It ends when as many are back, or none has come for a while.
        """
        came, since = -1, 0
        while (waiting := len(self._queue)) < served - 1 and not self._is_stopped:
            now = time.monotonic_ns()
            if waiting > came:
                came, since = waiting, now
            elif now - since >= self._patience_ns:
                return
            time.sleep(0)  # gives the interpreter to the loop


async def outlast(future: asyncio.Future[T], deliver: Callable[[], object] | None = None) -> T:
    """
    What comes of a future, whoever cancels the task meanwhile. Of that it hears afterwards, and of a failure as its cause.

    Args:
        future: The future.
        deliver: Does again what should have completed the future, if an interrupt has ended that.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future], timeout=None if deliver is None else _LOOK_AGAIN_S)
        except asyncio.CancelledError as reason:
            cancelled = reason
        if deliver is not None:
            deliver()
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if isinstance(error, StopIteration):  # a future takes none; Python makes the same of one that ends a coroutine
        told = RuntimeError(f"what writes for the task raised {error!r}")
        told.__cause__ = error
        error = told
    future.set_exception(error)


def _by_loop(done: list[_Queued]) -> Outcomes:
    """What came of jobs, for each loop: handed over once, however often that is asked for."""
    by_loop: dict[asyncio.AbstractEventLoop, deque[_Queued]] = {}
    for queued in done:
        queued.job.done = True
        by_loop.setdefault(queued.loop, deque()).append(queued)
    return tuple(by_loop.items())


def _deliver(outcomes: Outcomes) -> None:
    """Hand over what came of jobs, in one call of each loop."""
    for loop, of_loop in outcomes:
        _tell(loop, partial(_deliver_here, loop, of_loop))


def _deliver_later(outcomes: Outcomes) -> None:
    """Hand over what came of jobs after a while, if nobody does so before."""
    for loop, of_loop in outcomes:
        _tell(loop, partial(loop.call_later, _AT_LATEST_S, _deliver_here, loop, of_loop))


def _deliver_here(loop: asyncio.AbstractEventLoop, done: deque[_Queued]) -> None:
    try:
        while done:
            done[0].deliver()
            done.popleft()
    finally:
        if done:  # an interrupt, after which the loop may go on
            loop.call_soon(_deliver_here, loop, done)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """Have a loop call something; False when it is closed, and nobody waits any more."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True


_helpers: dict[int, weakref.ref[Helper]] = {}


def _forget(number: int, helper: weakref.ref[Helper]) -> None:
    if _helpers.get(number) is helper:
        del _helpers[number]


@atexit.register
def _at_exit() -> None:
    """Python ends a thread in the middle of a transaction, and whoever closes the store then would wait for it for ever."""
    deadline = time.monotonic() + _AT_EXIT_S
    for helper in [found for each in list(_helpers.values()) if (found := each()) is not None]:
        if helper.process == os.getpid():  # else C code has forked, and its threads are not here
            helper.end(max(0.0, deadline - time.monotonic()))

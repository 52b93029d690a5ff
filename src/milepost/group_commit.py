"""
Group commit: one transaction, and one sync of the disk, for what several threads want to write at the same time.

A lock alone does not give it: the threads that wait would commit one after the other, a sync each. Here the first thread
that comes leads: it writes its own, together with all that the others have queued until then; who comes meanwhile queues,
and the first of those leads next. A thread that is alone leads at once, and pays for two uncontended locks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class Job:
    """
    Something to write, and in the end what came of it: an `outcome`, or an `error`.

    A job may have an `item`: a query, the same one in all jobs, and what to give it. The query takes those of several jobs
    in one go, in place of the `work` of each.
    """

    __slots__ = ("asleep", "done", "error", "item", "leads", "outcome", "work")

    def __init__(self, work: Callable[[], object], item: tuple[Any, object] | None = None) -> None:
        self.work: Final = work
        self.item: Final = item
        self.outcome: object = None
        self.error: BaseException | None = None
        self.done = False
        self.leads = False
        self.asleep: threading.Lock  # what its thread waits for; only of a job that queues


class GroupCommit:
    """
    Lets one thread at a time lead.

    Args:
        commit: Runs the work of some jobs in one transaction, and gives each its `outcome` or its `error`. It calls `take`
            for the jobs that are queued once nothing else keeps it from writing.
        patience_us: How long, in µs, a commit may wait for another job to come: less than it takes by itself.
    """

    def __init__(self, commit: Callable[[list[Job]], None], patience_us: int = 0) -> None:
        self._patience_ns = patience_us * 1000
        self._commit = commit
        self._mutex = threading.Lock()
        self._queue: deque[Job] = deque()
        self._led = False
        self._last = 1  # how many jobs the last commit had

    def run(self, work: Callable[[], object], item: tuple[Any, object] | None = None) -> object:
        """Have `work` done in a transaction, alone or with others', and give or raise what came of it."""
        job = Job(work, item)
        with self._mutex:
            if self._led:
                job.asleep = threading.Lock()
                job.asleep.acquire()
                self._queue.append(job)
            else:
                self._led = job.leads = True
        if not job.leads:
            self._follow(job)
        if not job.done:
            self._lead(job)
        if job.error is not None:
            raise job.error
        return job.outcome

    def take(self, jobs: list[Job]) -> None:
        """Add to `jobs` all that is queued."""
        if self._queue:
            with self._mutex:
                jobs.extend(self._queue)
                self._queue.clear()

    def _follow(self, job: Job) -> None:
        """Sleep until the job is done, or it is this thread's turn to lead."""
        try:
            job.asleep.acquire()
        except BaseException:  # KeyboardInterrupt: leave nobody waiting for a leader that is gone
            with self._mutex:
                if job in self._queue:
                    self._queue.remove(job)
                    raise
            while not (job.done or job.leads):  # taken by a leader, who is about to finish it
                time.sleep(0.001)
            if not job.done:
                self._hand_over()
            raise

    def _lead(self, job: Job) -> None:
        jobs = [job]
        try:
            self._await_company()
            self._commit(jobs)
        except BaseException as error:
            for each in jobs:
                each.error = each.error or error
            raise
        finally:
            for each in jobs:
                each.done = True
            self._last = len(jobs)
            self._hand_over()
            for each in jobs[1:]:
                each.asleep.release()

    def _await_company(self) -> None:
        """
        Let those come back whom the last commit served: without them every second commit would have one job.

        It ends when all are back, or none has come for a while; after a commit of one job there is nobody to wait for.
        """
        came, since = -1, 0
        while (queued := len(self._queue)) < self._last - 1:
            now = time.monotonic_ns()
            if queued > came:
                came, since = queued, now
            elif now - since >= self._patience_ns:
                return
            time.sleep(0)  # gives the interpreter to another thread

    def _hand_over(self) -> None:
        with self._mutex:
            if self._queue:
                following = self._queue.popleft()
                following.leads = True
                following.asleep.release()
            else:
                self._led = False

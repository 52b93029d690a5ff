"""Group commit: what several threads want to write at once is done in one transaction."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

import apsw

from milepost import append, rows
from milepost.block_writer import BlockWriter
from milepost.errors import MilepostError, StoreError, is_of_system
from milepost.job import Job
from milepost.turn import NOW, Turn

if TYPE_CHECKING:
    from milepost.block import Block
    from milepost.helper import Batch
    from milepost.receipt import Receipt
    from milepost.writable_database import Options

T = TypeVar("T")

PATIENCE_NS: Final = {"full": 100_000, "normal": 0}  # a sync of the disk takes longer, a write to its cache does not


class GroupWriter(BlockWriter):
    """
    A writer whose threads do their jobs together.

    Args:
        path: The file's absolute name.
        options: As `WritableDatabase` takes them.
    """

    def __init__(self, path: str, **options: Unpack[Options]) -> None:
        super().__init__(path, **options)
        self._main_thread = threading.main_thread().ident

    def _do(self, job: Job[T], within: Block | None = None) -> T:
        """Have a job done: in the caller's own block, in a transaction of its own, or in another thread's with others."""
        self.refuse_if_ended()
        holder = self._in_the_way()
        if holder is not None:
            block = self._block_of_caller(holder, within)
            if block is not None:
                return self._do_in_block(block, job)
        elif within is not None:
            raise StoreError(self.path, "the loop's block has ended: record inside the loop")
        try:
            if not self._turns.take(job, self.busy_timeout_ms / 1000):
                raise self._busy()
            if not job.done:
                self._commit(job)
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is job:
                del self._turns.held[NOW]
            job.given_up = True
            self._turns.wake_first()
        if job.error is not None:
            raise job.error
        return job.outcome

    def _commit(self, leader: Job[Any] | Batch) -> None:
        """
        Do a job, or a batch of tasks, in one transaction with what other threads have queued; what fails fails alone.

        Args:
            leader: Whose turn it is.
        """
        own: list[Job[Any]] | None = None
        others: list[Turn] = []
        settled = False
        try:
            group = leader.thread != self._main_thread
            if group:
                self._await_company(leader)
            self._begin()
            own = leader.claim()
            if group:
                others += self._turns.take_over()
            self._turns.company = len(others)
            if own or others:  # else all were withdrawn
                appended = self._do_all([*own, *others])  # type: ignore[list-item]
                self._file_lock.let_others_in()
                leader.commit_is_next()
                self._commit_transaction(appended)
            settled = True
        except Exception as error:  # noqa: BLE001 - it is told to whose it is
            own = leader.claim_those_that_waited() if own is None else own
            if isinstance(error, apsw.Error | UnicodeDecodeError | MilepostError) or is_of_system(error):
                self._end = None
                self._tell_all([*own, *others], error)  # type: ignore[list-item]
                settled = True
            else:  # the clock's, of the only job; or of this thread, as it has no stack left
                self._tell_all(own, error)
        finally:
            try:
                self._rules.ours = True
                if not self._inherited and self._connection is not None and self._connection.in_transaction:
                    self._execute("ROLLBACK")
            except apsw.Error:  # SQLite has rolled back itself
                pass
            finally:
                if settled:
                    self._turns.finish(others)
                else:
                    self._put_back(others)

    def _put_back(self, others: list[Turn]) -> None:
        """Another thread does the jobs, as this one has failed. If it was after the commit, they are not done again."""
        end, self._end = self._end, None
        try:
            if others and end is not None and not self._lent.in_transaction:
                last = end.receipt()
                if rows.signature_at(self._statements, last.position) == bytes.fromhex(last.signature):
                    for job in others:
                        job.keep_outcome()
        except Exception:  # noqa: BLE001, S110 - it has no stack left, say: then they are found to be duplicates
            pass
        finally:
            self._turns.put_back(others)

    def _tell_all(self, jobs: list[Job[Any]], error: BaseException) -> None:
        """Jobs have failed: one exception for each, since threads raise them side by side."""
        told = self._told(error)
        for job in jobs:
            job.error, told = told, self._told(error, again=True)

    def _await_company(self, leader: Turn) -> None:
        """
        Let those come back whom the last commit served: without them every second commit would have one job.

        It ends when all are back, or none has come for a while; after a commit of one job there is nobody to wait for.
        """
        company = self._turns.company
        if self._turns.waiting < company:
            self._turns.wait_for_others(leader, company, PATIENCE_NS[self._synchronous] / 1e9)

    def _do_all(self, jobs: list[Job[Any]]) -> int:
        """Do the jobs of a transaction; how many entries were appended."""
        for job in jobs:
            job.error = None  # of a thread that could not commit it
        return self._do_alone(jobs[0]) if len(jobs) == 1 else self._do_group(jobs)

    def _do_alone(self, job: Job[Any]) -> int:
        """Do a job that is the only one, or that takes all others with it if it fails; how many entries were appended."""
        end, self._end = self._end or append.Appender(self._statements, self.hash), None
        before = end.appended
        job.outcome = job.work(end)
        self._end = end if end.usable else None
        return end.appended - before

    def _do_group(self, jobs: list[Job[Any]]) -> int:
        """
        Do several jobs, at first as if none could fail: with a savepoint open, SQLite copies each page before it changes it.

        If one does, the transaction begins anew, and each job has a savepoint of its own.
        """
        try:
            return self._do_together(jobs)
        except BaseException as error:  # it is raised again, for the job that it belongs to
            if self._inherited or not self._lent.in_transaction:  # SQLite has undone all, as when the disk is full
                raise
            self._told(error)  # a failed sync ends the store
        self._execute("ROLLBACK")
        self._begin()
        return sum(self._do_in_savepoint(job, 0) for job in jobs)

    def _do_together(self, jobs: list[Job[Any]]) -> int:
        """Do several jobs, and first those that append one checkpoint, which need one statement for all."""
        single = [job for job in jobs if job.entry is not None]
        appended = 0
        if len(single) > 1:
            together: Job[list[Receipt]] = Job(lambda end: end.append_each([job.entry for job in single if job.entry]))
            appended = self._do_alone(together)
            for job, receipt in zip(single, together.outcome, strict=True):
                job.outcome = receipt
            jobs = [job for job in jobs if job.entry is None]
        return appended + sum(self._do_alone(job) for job in jobs)

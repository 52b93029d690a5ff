"""
Write to one file: what a store asks of it, and its end.

Each module below adds one thing to the one before: `writable_database` the connection and its transactions, `block_writer`
transaction blocks, `group_writer` commits that threads share, `task_writer` what asyncio needs.

What a process does to it: a signal handler may raise between any two steps of the main thread, and in the middle of a
wait. Therefore:

- whether a transaction is open is asked of SQLite, never remembered;
- what is set is set inside the `try` that unsets it;
- a `finally` begins with what must not be left undone, without a call that could be interrupted as it begins;
- the main thread commits its own work only, so that nobody else hears of its interrupts.

BEGIN, COMMIT and ROLLBACK are run by `execute`, which lets other threads run meanwhile. No Python runs inside COMMIT.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TypeVar, Unpack

from milepost import details, open_files
from milepost.block import Block, BlockTurn
from milepost.errors import ClosedStoreError, StoreError
from milepost.job import Job
from milepost.task_writer import TaskWriter
from milepost.turn import NOW, Turn
from milepost.writable_database import Durability, Options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from milepost.append import Appender, Step
    from milepost.checkpoint import Checkpoint
    from milepost.cursors import Stored
    from milepost.receipt import BatchReceipt, Receipt
    from milepost.rows import Attempt

__all__ = ["Durability", "Writer"]

T = TypeVar("T")

_CLOSING: Final = "closing"


class _ForkTurn(Turn):
    """The turn of a thread that forks: from `let_go` to the end of the fork, whoever interrupts what is done after it."""

    __slots__ = ()

    @property
    def is_over(self) -> bool:
        """Whether the fork is."""
        return self.thread not in open_files.forking


class Writer(TaskWriter):
    """
    The file, opened to write, and made if it is missing.

    Args:
        path: The file's absolute name.
        options: As `WritableDatabase` takes them.
    """

    def __init__(self, path: str, **options: Unpack[Options]) -> None:
        super().__init__(path, **options)

    # Writing

    def append(self, entry: Checkpoint, within: Block | None = None) -> Receipt:
        """Append one checkpoint; in a commit of its own, with those of other threads, or within a loop's block."""
        return self._do(Job(lambda end: end.append(entry), entry), within)

    def do(self, work: Callable[[Appender], T], within: Block | None = None) -> T:
        """Do what a loop records; in a commit of its own, with those of other threads, or within the loop's block."""
        return self._do(Job(work), within)

    def append_many(self, entries: Sequence[Checkpoint]) -> BatchReceipt:
        """Append a batch: all of it, or nothing."""
        return self._do(Job(lambda end: end.append_many(entries)))

    def restore(
        self, entries: Sequence[Checkpoint], details: Sequence[str | None], cursors: Mapping[int, Stored]
    ) -> BatchReceipt:
        """Append a batch as another store had it: with the detail of each, and with the cursors by position."""
        return self._do(Job(lambda end: end.restore(entries, details, cursors)))

    def advance(self, step: Step, clock: Callable[[], int], within: Block | None = None) -> Receipt:
        """Append the next checkpoint of a stage."""
        return self._do(Job(lambda end: end.advance(step, clock)), within)

    def advance_many(self, steps: Sequence[Step], clock: Callable[[], int]) -> BatchReceipt:
        """Append the next checkpoints of several stages: all of them, or nothing."""
        return self._do(Job(lambda end: end.advance_many(steps, clock)))

    def begin_run(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> Attempt:
        """Record that an attempt of a run begins."""
        return self._do(Job(lambda end: end.begin_run(run_id, again=again, clock=clock)))

    def end_run(self, run_id: str, began: Attempt, state: str, clock: Callable[[], int], error: str | None) -> Receipt:
        """Record how an attempt has ended."""
        return self._do(Job(lambda end: end.end_run(run_id, began, state, clock, error)))

    def branch(
        self, run_id: str, new_run_id: str, stage: str | None, as_of_ms: int | None, clock: Callable[[], int]
    ) -> BatchReceipt:
        """Let a run start where another one stood."""
        return self._do(Job(lambda end: end.branch(run_id, new_run_id, stage, as_of_ms, clock)))

    def write_back(self) -> None:
        """Write the WAL back, so that the file has its true size, as far as readers allow."""
        self._do(Job(lambda _end: self._wal.make_due()))

    def block(self, loop: str | None = None) -> Block:
        """A transaction block, of the caller or of a loop."""
        self.refuse_if_ended()
        return Block(self, loop)

    # Writing from tasks, whose event loop is never held. Each returns what is to be awaited, and is no coroutine itself: one
    # around another takes a fiftieth of an append.

    def append_async(self, entry: Checkpoint) -> Awaitable[Receipt]:
        """As `append`, in a commit with those of other tasks."""
        return self._do_async(Job(lambda end: end.append(entry), entry))

    def do_async(self, work: Callable[[Appender], T]) -> Awaitable[T]:
        """As `do`, in a commit with those of other tasks."""
        return self._do_async(Job(work))

    def append_many_async(self, entries: Sequence[Checkpoint]) -> Awaitable[BatchReceipt]:
        """As `append_many`."""
        return self._do_async(Job(lambda end: end.append_many(entries)))

    def advance_async(self, step: Step, clock: Callable[[], int]) -> Awaitable[Receipt]:
        """As `advance`."""
        return self._do_async(Job(lambda end: end.advance(step, clock)))

    def advance_many_async(self, steps: Sequence[Step], clock: Callable[[], int]) -> Awaitable[BatchReceipt]:
        """As `advance_many`."""
        return self._do_async(Job(lambda end: end.advance_many(steps, clock)))

    async def begin_run_async(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> Attempt:
        """As `begin_run`. If the task is cancelled meanwhile, the attempt is recorded as failed."""
        from asyncio import CancelledError  # noqa: PLC0415 - whoever is here has imported it

        job = Job(lambda end: end.begin_run(run_id, again=again, clock=clock))
        try:
            return await self._do_async(job, outlasting=True)
        except CancelledError as error:
            if job.error is None:
                await self.end_run_async(run_id, job.outcome, details.FAILED, clock, details.name_of_error(type(error)))
            raise

    def end_run_async(
        self, run_id: str, began: Attempt, state: str, clock: Callable[[], int], error: str | None
    ) -> Awaitable[Receipt]:
        """As `end_run`, whoever cancels the task meanwhile."""
        return self._do_async(Job(lambda end: end.end_run(run_id, began, state, clock, error)), outlasting=True)

    # The end

    def close(self) -> None:
        """
        Close the file; the last one to close it writes the WAL back into it. A second call does nothing.

        Raises:
            StoreBusyError: Another thread's transaction block, or write, did not end for `busy_timeout_ms`.
        """
        if self.closed:
            return
        holder, helper = self._in_the_way(), self._helper
        seconds = self.busy_timeout_ms / 1000
        turn = Turn()
        try:
            if isinstance(holder, BlockTurn) and self._ended is None and holder.belongs_to_caller():
                self.refuse_within_call(holder)
                if helper is not None:  # it waits for this very block, if for anything
                    helper.stop(_CLOSING, 0.0)
            else:
                if holder is not None:
                    self._block_of_caller(holder, None)
                if helper is not None:
                    deadline = time.monotonic() + seconds
                    helper.stop(_CLOSING, seconds, drain=True)
                    seconds = max(0.0, deadline - time.monotonic())
                if not self._turns.take(turn, seconds):
                    raise self._busy()
            self._close_now()
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is turn:
                del self._turns.held[NOW]
            turn.given_up = True
            self._turns.wake_first()
            if helper is not None and not self.closed:
                helper.resume(_CLOSING)

    def _close_now(self) -> None:
        # The connection that writes last: it writes the WAL back.
        self._closing = True
        self.close_readers(time.monotonic() + self.busy_timeout_ms / 1000)
        self._close_connection()
        super().close()
        if self._helper is not None:
            self._helper.fail(lambda: ClosedStoreError(self.path, "the store was closed before this was recorded"))

    async def close_async(self) -> None:
        """As `close`, after what has queued; it is closed whoever cancels the task."""
        from milepost.helper import outlast  # noqa: PLC0415 - a store that only reads never comes here

        helper = self._running_helper()
        gone = isinstance(sys.exception(), GeneratorExit)  # the task is, and nothing can be awaited
        if gone or self.closed or helper.ended_with_the_interpreter or self._block_of_task() is not None:
            self.close()
            return
        try:
            closing = helper.call(self.close)
        except StoreError:  # no thread to be had, or a task of trio's
            self.close()
        else:
            await outlast(closing.future, closing.deliver)

    # What a fork asks of an open file (open_files.py)

    def let_go(self, deadline: float) -> bool:
        """As `Database.let_go`, once no write is under way and no block is open."""
        holder = self._turns.holder
        if holder is not None and holder.is_of_this_thread:
            return False
        if self._helper is not None and not self._helper.pause(max(0.0, deadline - time.monotonic())):
            return False
        turn, taken = _ForkTurn(), False
        try:
            taken = self._turns.take(turn, max(0.0, deadline - time.monotonic()))
            if not taken:
                return False
            all_closed = super().let_go(deadline)
            self._close_connection()
            return all_closed
        finally:
            if not taken:
                if NOW in self._turns.held and self._turns.held[NOW] is turn:
                    del self._turns.held[NOW]
                turn.given_up = True
                self._turns.wake_first()

    def take_back(self) -> None:
        """As `Database.take_back`."""
        if self._turns.holder is None:
            self._turns.wake_first()
        if self._helper is not None and not self.closed:
            self._helper.begin()

    def carried_over(self) -> None:
        """As `Database.carried_over`."""
        super().carried_over()
        if self._helper is not None:
            self._helper.forget()

"""
Write from tasks of asyncio, and never hold their event loop.

What a task writes is done by the helper's thread, with what other tasks have queued. A task that wants a transaction block
has a thread wait for its turn, and another one commit.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TypeVar, Unpack

from milepost.block import BlockTurn
from milepost.errors import StoreError
from milepost.group_writer import PATIENCE_NS, GroupWriter
from milepost.turn import NOW

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import apsw

    from milepost.block import Block
    from milepost.helper import Batch, Helper
    from milepost.job import Job
    from milepost.writable_database import Options

T = TypeVar("T")


async def _done(outcome: T) -> T:
    return outcome


class TaskWriter(GroupWriter):
    """
    A writer that tasks may use.

    Args:
        path: The file's absolute name.
        options: As `WritableDatabase` takes them.
    """

    def __init__(self, path: str, **options: Unpack[Options]) -> None:
        super().__init__(path, **options)
        self._helpers: dict[str, Helper] = {}  # under NOW: made by the first task

    def _do_async(self, job: Job[T], *, outlasting: bool = False) -> Awaitable[T]:
        """Have a job done for the running task, which awaits what this returns: `outlasting`, whoever cancels it."""
        self.refuse_if_ended()
        block = self._block_of_task()
        if block is not None:  # no disk is waited for inside it
            return _done(self._do_in_block(block, job))
        helper = self._running_helper()
        if helper.ended_with_the_interpreter:
            return _done(self._do(job))
        return helper.do(job, outlasting=outlasting)

    def _block_of_task(self) -> BlockTurn | None:
        """
        The block that the running task has open.

        Raises:
            StoreError: It is a loop's.
        """
        holder = self._turns.holder
        if not isinstance(holder, BlockTurn) or not (holder.was_opened_by_caller() or holder.outermost.abandoned):
            return None
        return self._block_of_caller(holder, None)

    @property
    def _helper(self) -> Helper | None:
        return self._helpers.get(NOW)

    def _running_helper(self) -> Helper:
        helper = self._helpers.get(NOW)
        if helper is None:
            from milepost.helper import Helper  # noqa: PLC0415 - asyncio, which most programs do without, takes 30 ms

            helper = self._helpers.setdefault(NOW, Helper(self.path, self, PATIENCE_NS[self._synchronous]))
        return helper

    def commit_batch(self, batch: Batch) -> None:
        """In the helper's thread: do what has queued, in one transaction. Whatever fails is told to the tasks."""
        seconds = self.busy_timeout_ms / 1000
        try:
            if not self._turns.take(batch, max(0.0, batch.waits_since + seconds - time.monotonic())):
                if not batch.given_up:
                    for job in batch.claim_those_since(time.monotonic() - seconds):
                        job.error = self._busy()
                return
            self._commit(batch)
            batch.done = True
        except BaseException as error:  # noqa: BLE001 - the clock has raised SystemExit, say: the thread serves others too
            self._tell_all(batch.jobs or batch.claim_those_that_waited(), error)
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is batch:
                del self._turns.held[NOW]
            batch.given_up = True
            self._turns.wake_first()

    def stop_waiting(self, batch: Batch) -> None:
        """Let a batch whose turn it is wait no longer for another process's lock."""
        if self._turns.holder is batch:
            self._file_lock.wait_until(0.0)

    async def enter_async(self, block: Block) -> apsw.Connection:
        """
        Begin a block of the running task.

        Of the tasks of a loop one at a time asks for its turn, in a thread of its own; the others wait in the loop.
        """
        self.refuse_if_ended()
        if self._block_of_task() is not None or block.turn is not None:
            return self.enter(block)
        helper = self._running_helper()
        if helper.ended_with_the_interpreter:
            return self.enter(block)
        gate = helper.gate()
        if not await gate.enter(self.busy_timeout_ms / 1000):
            raise self._busy()
        turn = BlockTurn(self.path, block)
        claim = [None]  # emptied in one step: by the thread when the block has begun, or by the task that waits no more

        def enter() -> apsw.Connection:
            connection = self._enter_outermost(block, turn)
            try:
                claim.pop()
            except IndexError:
                self.leave(block, GeneratorExit())
            return connection

        def undo() -> None:
            if block.turn is turn:
                self.leave(block, GeneratorExit())

        thread = turn.thread
        try:
            block.gate = gate
            self._entering[thread] = turn
            return await helper.call(enter, undo).future
        except BaseException:
            self._abandon(block, turn, claim)
            block.open_gate()
            raise
        finally:
            if thread in self._entering and self._entering[thread] is turn:
                del self._entering[thread]

    def _abandon(self, block: Block, turn: BlockTurn, claim: list[None]) -> None:
        """The task was cancelled, or is gone, before it had the block that it has asked for."""
        turn.disown()
        try:
            claim.pop()
        except IndexError:  # it has begun
            if block.turn is turn:
                self.leave(block, GeneratorExit())
        else:
            turn.given_up = True  # if it waits still
            turn.wake()

    async def leave_async(self, block: Block, error: BaseException | None) -> None:
        """As `leave`; once the commit is under way it is waited for, whoever cancels the task."""
        from milepost.helper import outlast  # noqa: PLC0415 - whoever is here has imported it

        claim = [None]  # emptied in one step: by the thread that commits, or by the task that an interrupt has ended before

        def commit() -> None:
            block.held = None  # from now on it is not for the end of the `async with` to undo
            try:
                claim.pop()
            except IndexError:
                return
            self.leave(block, None)

        try:
            turn, helper = block.turn, self._running_helper()
            waits = error is None and turn is not None and not turn.over and block is turn.outermost  # for the disk
            if not waits or helper.ended_with_the_interpreter:
                self.leave(block, error)
                return
            try:
                leaving = helper.call(commit)
            except StoreError:  # there is no thread to be had: the loop is held, and the block ends
                self.leave(block, None)
            else:
                await outlast(leaving.future, leaving.deliver)
        except BaseException as failure:
            with contextlib.suppress(IndexError):  # the commit is under way
                claim.pop()
                if block.turn is not None:
                    self.leave(block, failure)
            raise
        finally:
            block.open_gate()

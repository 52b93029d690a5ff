"""Transaction blocks: who has one open, what is done inside it, and how it ends."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

import apsw

from milepost import append
from milepost.block import CUT_SHORT, UNDONE, BlockTurn
from milepost.errors import FailedStoreError, MilepostError, StoreBusyError, StoreError
from milepost.job import Job
from milepost.sqlite_errors import sync_failed
from milepost.turn import NOW, Turn, Turns
from milepost.writable_database import Options, WritableDatabase

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.block import Block
    from milepost.lent import LentConnection

_BY_WHOM: Final = (
    "by the store's clock, a signal handler or a destructor: let it only take a note, and write when the call that it has "
    "interrupted is over"
)

T = TypeVar("T")
Given = TypeVarTuple("Given")

_SHORT_STACK: Final = 200  # frames

DEEPEST: Final = 100
"""How deep blocks may stand inside one another."""

# By how deep inside the outermost block: 0 for a call of milepost's own in a group, or in a block.
_SAVEPOINT: Final = [f"SAVEPOINT milepost_{depth}" for depth in range(DEEPEST + 2)]
_RELEASE: Final = [f"RELEASE milepost_{depth}" for depth in range(DEEPEST + 2)]
_UNDO: Final = [f"ROLLBACK TO milepost_{depth}; RELEASE milepost_{depth}" for depth in range(DEEPEST + 2)]


def _stack_is_short() -> bool:
    """Return whether the calling thread has little stack left, so that a RecursionError is its own."""
    frame, left = sys._getframe(), sys.getrecursionlimit()  # noqa: SLF001
    while frame.f_back is not None:
        frame, left = frame.f_back, left - 1
    return left < _SHORT_STACK


class BlockWriter(WritableDatabase):
    """
    A writable database that gives one turn at a time, and keeps it for as long as a transaction block is open.

    Args:
        path: The file's absolute name.
        options: As `WritableDatabase` takes them.
    """

    def __init__(self, path: str, **options: Unpack[Options]) -> None:
        super().__init__(path, **options)
        self._turns = Turns()
        self._entering: dict[int, BlockTurn] = {}  # by thread: the block that one of its tasks waits for

    def _open_first(self) -> None:
        """
        As `WritableDatabase._open_first`, in a turn, so that a fork of another thread waits for its end.

        SQLite has locks that all its connections share. A child that is forked while another thread has one would wait for
        it for ever, whatever file it opens.
        """
        turn = Turn()
        try:
            if not self._turns.take(turn, self.busy_timeout_ms / 1000):
                raise StoreBusyError(self.path, self.busy_timeout_ms)
            super()._open_first()
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is turn:
                del self._turns.held[NOW]
            turn.given_up = True
            self._turns.wake_first()

    def _begin(self) -> None:
        """As `WritableDatabase._begin`, with nothing left open of a block whose end was interrupted."""
        turn = None if self._connection is None else self._connection.lent_to
        if turn is not None and not turn.is_closed:
            turn.close(0.0, interrupt=False)
        super()._begin()

    def enter(self, block: Block) -> apsw.Connection:
        """Begin a block; what `with` does with it."""
        self.refuse_if_ended()
        if block.turn is not None:
            raise StoreError(self.path, "a transaction block is entered once: call transaction() again")
        holder = self._in_the_way()
        if holder is not None:
            outer = self._block_of_caller(holder, None)
            if outer is not None:
                return self._enter_inner(outer, block)
        return self._enter_outermost(block, BlockTurn(self.path, block))

    def _enter_outermost(self, block: Block, turn: BlockTurn) -> apsw.Connection:
        entered = False
        try:
            if not self._turns.take(turn, self.busy_timeout_ms / 1000):
                raise self._busy()
            self._begin()
            connection = self._lent
            self._end = None  # what the block's own savepoints undo, nobody tells us
            self._lend(turn, connection)
            block.turn = turn
            entered = True
            return connection  # noqa: TRY300 - an interrupt here is one of the try
        except (apsw.Error, UnicodeDecodeError, OSError, MilepostError) as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        finally:
            if not entered and NOW in self._turns.held and self._turns.held[NOW] is turn:
                try:
                    self._rules.ours = True
                    if not self._inherited and self._connection is not None and self._connection.in_transaction:
                        self._execute("ROLLBACK")
                except apsw.Error:  # SQLite has rolled back itself
                    pass
                finally:
                    del self._turns.held[NOW]
            if not entered:
                block.turn = None
                turn.given_up = True
                self._turns.wake_first()

    def _lend(self, turn: BlockTurn, connection: LentConnection) -> None:
        turn.connection, connection.lent_to = connection, turn
        connection.cursor_factory = turn.cursor
        self._bound.steps = None
        self._rules.ours = turn.busy = False

    def leave(self, block: Block, error: BaseException | None) -> None:
        """End a block, and let in the next task that waits to begin one."""
        try:
            self._leave(block, error)
        finally:
            block.open_gate()

    def _leave(self, block: Block, error: BaseException | None) -> None:  # noqa: PLR0912 - in this order, whatever interrupts it
        """
        End a block: commit it, or undo it where an exception has ended it.

        The block's own exceptions, APSW's among them, pass through unchanged; only after SQLite has rolled it back, when
        every further statement fails, does an exception of APSW's become ours.
        """
        turn, block.turn = block.turn, None
        if turn is None or turn.over:
            if error is None:
                self.refuse_if_ended()
                if block.undone:
                    raise StoreError(self.path, UNDONE)
            return
        if block is not turn.outermost:
            self._leave_inner(turn, block, error)
            return
        try:
            turn.busy = True
            if error is not None and self._ended is not None:  # by a handler that then has ended the program, say
                if isinstance(error, apsw.Error) and isinstance(self._ended, FailedStoreError):
                    raise self._told(error) from error
                return
            self.refuse_if_ended()
            turn.close(self.busy_timeout_ms / 1000, interrupt=error is not None)
            cut_short = not self._lent.in_transaction
            self._reset(self._lent)
            if cut_short and isinstance(error, apsw.Error):
                told = self._told(error)
                if type(told) is StoreError:
                    told = StoreError(self.path, f"SQLite rolled the transaction back, and all of it: {told.problem}")
                raise told from error
            if cut_short and error is None:
                raise StoreError(self.path, CUT_SHORT)
            self._file_lock.let_others_in()
            if error is None:
                self._commit_transaction(turn.appended)
        except (apsw.Error, UnicodeDecodeError, OSError, MilepostError) as failure:
            told = self._told(failure)
            if told is failure:
                raise
            raise told from failure
        finally:
            try:
                self._rules.ours = True
                if self._ended is None and self._connection is not None and self._connection.in_transaction:
                    self._execute("ROLLBACK")
            except apsw.Error:  # SQLite has rolled back itself
                pass
            finally:
                turn.over, block.held = True, None
                if NOW in self._turns.held and self._turns.held[NOW] is turn:
                    del self._turns.held[NOW]
                turn.given_up = True
                self._turns.wake_first()

    def disk_failed_in_block(self, error: apsw.IOError) -> None:
        """
        The disk has failed in a statement of a block's.

        A transaction that outgrows SQLite's cache writes frames before its commit. The first one of a WAL comes after a
        sync, which may fail within any statement; and the block may catch the error.
        """
        if sync_failed(error):
            self._told(error)

    def _busy(self) -> StoreBusyError:
        """The error where a turn did not come in time: for another process's lock, or for a block of this process."""
        holder = self._turns.holder
        if not isinstance(holder, BlockTurn):
            return StoreBusyError(self.path, self.busy_timeout_ms)
        whose = holder.loop or "a transaction() block"
        return StoreBusyError(self.path, self.busy_timeout_ms, f"the transaction of {whose}")

    def _in_the_way(self) -> Turn | None:
        """Whose turn it is, or will be before the caller's and not end before the caller does."""
        if self._entering:
            entering = self._entering.get(threading.get_ident())
            if entering is not None and entering.is_of_this_thread:
                return entering
        return self._turns.holder

    def _block_of_caller(self, holder: Turn, within: Block | None) -> BlockTurn | None:
        """
        The block that the caller writes into; None where it has to wait for its turn.

        Raises:
            StoreError: It would wait for itself.
        """
        if isinstance(holder, BlockTurn):
            if holder.outermost.abandoned:
                holder.outermost.undo()
                return None
            if within is not None and within.turn is holder:
                return holder
            if holder.belongs_to_caller():
                return holder
        if not holder.is_of_this_thread:
            return None
        if not isinstance(holder, BlockTurn):
            problem = f"a write was begun within another of the same thread, {_BY_WHOM}"
        elif holder.loop is not None:
            problem = (
                f"{holder.loop} has its transaction open in this thread: use the loop's own append(), advance() and "
                "connection inside it, or end the loop first"
            )
        else:
            problem = (
                "another task of this thread is inside transaction(), or is about to be, and the thread cannot wait for it: "
                "let the task leave its block before it awaits, or write from the task that opened it"
            )
        raise StoreError(self.path, problem)

    # Inside a block

    def refuse_inside_block(self, what: str) -> None:
        """Refuse a call that makes several commits of its own, if the caller is inside a block."""
        self.refuse_if_ended()
        holder = self._in_the_way()
        if holder is not None and self._block_of_caller(holder, None) is not None:
            raise StoreError(self.path, f"{what} makes commits of its own: leave the transaction() block first")

    def _enter_inner(self, turn: BlockTurn, block: Block) -> apsw.Connection:
        self._refuse_reentry(turn)
        self._await_statements(turn)
        if turn.depth >= DEEPEST:
            raise StoreError(self.path, f"{DEEPEST} transaction blocks stand inside one another: leave some")
        connection = self._lent
        depth = turn.depth + 1
        entered = False
        try:
            self._rules.ours = turn.busy = True
            self._execute(_SAVEPOINT[depth])
            block.turn, block.depth, turn.depth = turn, depth, depth
            self._rules.ours = turn.busy = False
            entered = True
            return connection
        finally:
            if not entered:
                try:
                    self._rules.ours = True
                    if not self._inherited and connection.in_transaction:
                        self._execute(_UNDO[depth])
                except apsw.SQLError:  # interrupted before it began
                    pass
                finally:
                    self._rules.ours = turn.busy = False

    def _leave_inner(self, turn: BlockTurn, block: Block, error: BaseException | None) -> None:
        depth = block.depth
        if self._ended is not None:
            return
        kept = False
        try:
            turn.await_statements(self.busy_timeout_ms / 1000, interrupt=error is not None)
            if error is None or isinstance(error, apsw.Error):
                turn.refuse_if_cut_short()
            self._rules.ours = turn.busy = True
            if error is None:
                self._execute(_RELEASE[depth])
                kept = True
        finally:
            try:
                self._rules.ours = turn.busy = True
                if not (kept or self._inherited) and self._lent.in_transaction:
                    self._end = None
                    self._execute(_UNDO[depth])
            except apsw.SQLError:
                pass
            finally:
                self._rules.ours = turn.busy = False
                turn.depth, block.held = depth - 1, None

    def _do_in_block(self, turn: BlockTurn, job: Job[T]) -> T:
        """Do a job inside an open block: it is undone alone where it fails, and there with the end of the block."""
        self._refuse_reentry(turn)
        self._await_statements(turn)
        connection = self._lent
        row_trace, exec_trace, ours, steps = connection.row_trace, connection.exec_trace, self._rules.ours, self._bound.steps
        try:
            turn.busy = True
            self._rules.ours = True
            self._bound.steps = 0
            connection.row_trace = connection.exec_trace = None
            turn.appended += self._do_in_savepoint(job, 0)
            self._end = None
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._told(error) from error
        finally:
            connection.row_trace, connection.exec_trace = row_trace, exec_trace
            self._bound.steps = steps  # those of a read that a signal handler has interrupted, to append
            self._rules.ours = ours
            turn.busy = False
        if job.error is not None:
            raise job.error
        return job.outcome

    def _do_in_savepoint(self, job: Job[Any], depth: int) -> int:
        """Do a job of several in a transaction; how many entries it appended. What it raises is its `error`."""
        try:
            end, self._end = self._end or append.Appender(self._statements, self.hash), None
            before = end.appended
            self._execute(_SAVEPOINT[depth])
            job.outcome = job.work(end)
            self._execute(_RELEASE[depth])
            self._end = end if end.usable else None
        except BaseException as error:
            if self._inherited or not self._lent.in_transaction:  # SQLite has undone all, as when the disk is full
                raise
            leader = self._turns.holder
            if isinstance(error, RecursionError) and isinstance(leader, Job) and leader is not job and _stack_is_short():
                raise  # it is about the stack of this thread, which does the job for another one
            try:  # noqa: SIM105 - a call of suppress() could be interrupted, and this be left undone
                self._execute(_UNDO[depth])
            except apsw.SQLError:  # interrupted before it began
                pass
            job.error = self._told(error) if isinstance(error, apsw.Error | UnicodeDecodeError) else error
            return 0
        return end.appended - before

    def refuse_within_call(self, turn: BlockTurn) -> None:
        """
        Refuse what would take the connection from a call of milepost's that goes on inside the block.

        Raises:
            StoreError: Such a call goes on.
        """
        if turn.busy or self._bound.steps is not None:
            raise StoreError(self.path, f"a call of this store is not over yet in its block, and was interrupted {_BY_WHOM}")

    def _await_statements(self, turn: BlockTurn) -> None:
        """
        Wait for statements of the block that run in other threads, before a call of milepost's in it.

        Raises:
            StoreError: One does not end in time, or SQLite has rolled the block back.
        """
        turn.await_statements(self.busy_timeout_ms / 1000, interrupt=False)
        try:
            turn.refuse_if_cut_short()
        except apsw.ThreadingViolationError as error:
            raise self._told(error) from error

    def _refuse_reentry(self, turn: BlockTurn) -> None:
        if turn.busy:
            raise StoreError(self.path, f"a write was begun within another, {_BY_WHOM}")

    def read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `Database.read`."""
        if self._turns.held:  # else no block is open
            holder = self._turns.holder
            if (
                isinstance(holder, BlockTurn)
                and holder.is_open
                and holder.belongs_to_caller()
                and not holder.outermost.abandoned
            ):
                return self._read_in_block(holder, query, *given)
        return self.read_committed(query, *given)

    def _read_in_block(self, turn: BlockTurn, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        self.refuse_if_ended()
        self._await_statements(turn)
        connection = self._lent
        row_trace, exec_trace, ours, steps = connection.row_trace, connection.exec_trace, self._rules.ours, self._bound.steps
        try:
            self._rules.ours = True
            self._bound.steps = 0
            connection.row_trace = connection.exec_trace = None
            connection.cursor_factory = turn.own_cursor
            return query(connection, *given)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._told(error) from error
        finally:
            connection.cursor_factory = turn.cursor
            connection.row_trace, connection.exec_trace = row_trace, exec_trace
            self._bound.steps = steps
            self._rules.ours = ours

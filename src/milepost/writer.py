"""
Write to one file: the queue of those who want to, the end of the chain, and every BEGIN and COMMIT.

What an ordinary WAL database with synchronous=FULL still loses, and what is done about it here:

- two processes that create the file at once, or a kill while it is made: `create` links it into place when it is whole;
- a commit that a killed process had written but not synced, which the next process sees and builds upon, until the power
  goes: `wal.make_durable` writes the WAL's bytes again and syncs them before the first answer;
- a file, WAL or shared memory that is unlinked under us by another program: looked at before a commit is acknowledged;
- a sync that failed, after which the kernel calls the lost pages clean: the writer refuses all further work;
- a descriptor of the live file closed in our own process, which drops all of SQLite's locks on it: nothing here opens
  the file but SQLite's own VFS, which knows of this;
- a fork: `open_files`.

And what a process does to it: a signal handler may raise between any two steps of the main thread, and in the middle of a
wait. So whether a transaction is open is asked of SQLite, never remembered; what is set is set inside the `try` that
unsets it; a `finally` first does, without a call that could be interrupted as it begins, what must not be left undone; and
the main thread commits its own work only, so that nobody else hears of its interrupts. BEGIN, COMMIT and ROLLBACK are run
by `execute`, which lets other threads run meanwhile, and no Python runs inside COMMIT.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, TypeVarTuple

import apsw

from milepost import append, create, files, open_files, schema, wal
from milepost.block import CUT_SHORT, Block, BlockTurn, outside
from milepost.bound import Bound
from milepost.connection import connect, refuse_foreign_header
from milepost.database import CLOSING, Database
from milepost.errors import (
    ClosedStoreError,
    FailedStoreError,
    MilepostError,
    MilepostWarning,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
)
from milepost.lent import LentConnection, Rules
from milepost.reader import CACHE_KIB, Reader, SharedReader
from milepost.sqlite_errors import sync_failed, translate
from milepost.turn import NOW, Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from milepost.append import Appender, Step
    from milepost.checkpoint import Checkpoint
    from milepost.cursors import Stored
    from milepost.helper import Batch, Helper
    from milepost.receipt import BatchReceipt, Receipt
    from milepost.signature import Hash

_BY_WHOM: Final = (
    "by the store's clock, a signal handler or a destructor: let it only take a note, and write when the call that it has "
    "interrupted is over"
)

Durability = Literal["full", "normal"]
"""What an acknowledgement survives: power loss, or a crash of the process."""

T = TypeVar("T")
Given = TypeVarTuple("Given")

DEEPEST: Final = 100
"""How deep blocks may stand inside one another."""

_PATIENCE_NS: Final = {"full": 100_000, "normal": 0}  # a sync of the disk takes longer, a write to its cache does not
_POLL_S: Final = 0.0005  # between two looks whether another process has given back its lock
_LONG_S: Final = 0.001  # who has held the lock for longer lets others in before it takes it again …
_PART: Final = 20  # … for this part of the time that it held it,
_MOST_S: Final = 2 * _POLL_S  # and no longer than it takes others to look

# By how deep inside the outermost block: 0 for a call of milepost's own in a group, or in a block.
_SAVEPOINT: Final = [f"SAVEPOINT milepost_{depth}" for depth in range(DEEPEST + 2)]
_RELEASE: Final = [f"RELEASE milepost_{depth}" for depth in range(DEEPEST + 2)]
_UNDO: Final = [f"ROLLBACK TO milepost_{depth}; RELEASE milepost_{depth}" for depth in range(DEEPEST + 2)]


class Job(Turn, Generic[T]):
    """
    Something to write in one transaction, alone or with others, and what came of it.

    Args:
        work: Does it, with the end of the chain that it is given.
        entry: Where the work is to append one checkpoint: that one, so that those of several jobs can be written at once.
    """

    shared = True

    __slots__ = ("entry", "error", "outcome", "work")

    outcome: T

    def __init__(self, work: Callable[[Appender], T], entry: Checkpoint | None = None) -> None:
        super().__init__()
        self.work: Callable[[Appender], T] = work
        self.entry: Checkpoint | None = entry
        self.error: BaseException | None = None

    def claim(self) -> list[Job[Any]]:
        """What its turn is for: as a batch of tasks has it."""
        return [self]

    claim_those_that_waited = claim


class Writer(Database):
    """
    The file, opened to write, and made if it is missing.

    Args:
        path: The file's absolute name.
        synchronous: `"full"` or `"normal"`.
        busy_timeout_ms: How long to wait for another writer, in ms.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash that the caller's key gives; None without a key.
        on_connect: Called with each connection that is opened to write.
    """

    def __init__(
        self,
        path: str,
        *,
        synchronous: Durability,
        busy_timeout_ms: int,
        vfs: str | None,
        hmac: Hash | None,
        on_connect: Callable[[apsw.Connection], object] | None = None,
    ) -> None:
        super().__init__(path, vfs, hmac)
        self.busy_timeout_ms = busy_timeout_ms
        self._synchronous = synchronous
        self._on_connect = on_connect
        self._turns = Turns()
        self._main_thread = threading.main_thread().ident
        self._connection: LentConnection | None = None  # None too while it has let go of the file for a fork
        self._letting_go: dict[int, Turn] = {}  # by the thread that forks
        # The end of the chain as our own last commit left it, and SQLite's data_version then: it is good for as long as
        # nobody else, of this process or another, has written since.
        self._end: Appender | None = None
        self._version: int | None = None
        self._deadline: float | None = None  # of the wait for another process's lock
        self._began = 0.0  # when the last transaction began, on the monotonic clock
        self._free_until = 0.0  # until when the lock is left to others
        self._group = 1  # how many jobs the last commit had
        self._helpers: dict[str, Helper] = {}  # under NOW: made by the first task
        self._entering: dict[int, BlockTurn] = {}  # by thread: the block that one of its tasks waits for

    # Opening

    def _open_first(self) -> None:
        if not files.is_store_file(self.path):
            create.create(self.path, self.vfs, self._hmac)
        files.warn_of_remote(self.path)
        create.sweep(self.path)
        self._connect()

    def _connect(self) -> None:
        """Open the connection that writes."""
        open_files.refuse_inherited(self.path)
        refuse_foreign_header(self.path, self.vfs)
        if os.stat(self.path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
            create.refuse_second_name(self.path)
        found = files.status(f"{self.path}-wal")
        connection: LentConnection | None = None
        try:
            open_files.opening_to_write[id(self)] = self.path
            others = [other for other in open_files.opened() if other.path == self.path and other is not self]
            # Beside another writer the shared memory is mapped already, to be written to.
            if not any(isinstance(other, Writer) and other.has_open_file for other in others):
                deadline = time.monotonic() + self.busy_timeout_ms / 1000
                if not all(other.make_way(deadline) for other in others):
                    raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - undone as for every other error
            connection = connect(self.path, "mode=rw", self.vfs, self.busy_timeout_ms, LentConnection)
            if found is not None and found.st_size > 0:
                self._leave_wal_alone(connection)  # until it is durable: an opening that is refused must not write it back
            with files.opening(self.path):
                self._prepare(connection)
            self._connection = connection
        except BaseException:
            if connection is not None and self._connection is not connection:
                apsw.Connection.close(connection, True)
            raise
        finally:
            open_files.opening_to_write.pop(id(self), None)

    def _prepare(self, connection: LentConnection) -> None:
        self._rules = connection.rules = Rules(self.path)
        connection.set_authorizer(self._rules.judge)
        connection.set_busy_handler(self._wait_for_lock)
        self._deadline = None
        self._bound = Bound(connection, self.path)
        # One cursor for all of milepost's own: the next statement ends one that an interrupt has left half read.
        self._statements = apsw.Cursor(connection)
        self._execute = self._statements.execute
        self._lent = connection
        if connection.readonly("main"):
            raise ReadOnlyStoreError(self.path, "the file cannot be written: check its permissions, or use open_readonly()")
        schema.upgrade(connection, self.path)
        self.hash: Hash = schema.chosen_hash(connection, self.path, self._hmac)
        self.hash(b"")  # refuses a missing key now, not at the first append
        if connection.pragma("journal_mode") != "wal" and connection.pragma("journal_mode", "wal") != "wal":
            raise StoreError(self.path, "the journal mode is not WAL and cannot be set: close the file everywhere else")
        connection.pragma("cache_size", -CACHE_KIB)
        connection.pragma("synchronous", self._synchronous)  # https://sqlite.org/pragma.html#pragma_synchronous
        self._leave_wal_alone(connection)
        self._wal = wal.Wal(connection, self.path, self.vfs, grows_ahead=self._synchronous == "full")
        self._make_durable(connection)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._bound.steps = None
        if self._on_connect is not None:
            self._rules.opening, self._rules.ours = True, False
            self._on_connect(connection)
            self._rules.opening, self._rules.ours = False, True
            if connection.in_transaction:
                raise StoreError(self.path, "on_connect has left a transaction open: let it end what it begins")
            self._reset(connection)
        connection.cursor_factory = self._refuse_outside

    def _make_durable(self, connection: LentConnection) -> None:
        """Before the first answer: what the file holds is durable, and the locks on it are this process's own."""
        frames = self._wal.frames()
        try:
            self._execute("BEGIN IMMEDIATE")
            named = [(name, files.identity_of(name)) for name in (self.path, self._wal.name, f"{self.path}-shm")]
            opened = [(name, identity, identity()) for name, identity in named]
            self._files = [each for each in opened if each[2] is not None]
            if len(self._files) < 3 and self.vfs is None:
                raise StoreError(self.path, "its WAL is not where SQLite keeps it: close the file everywhere else")
            open_files.refuse_without_locks(self.path, f"{self.path}-shm")
            unread = 0 if frames is None else wal.unread_commits(self._wal.name, self.vfs, frames[0])
            wal.make_durable(self._wal.name, self.vfs)
            files.sync_directory(self.path)  # whoever made the file may have been killed before its name was durable
            self._execute("COMMIT")
        finally:
            if connection.in_transaction:
                self._execute("ROLLBACK")
        if unread > 1 and self._wal.frames() == frames:  # else a neighbour has gone on meanwhile
            warnings.warn(
                f"{self.path}: its -wal file holds {unread} commits that cannot be read, since a page before them is not as "
                "it was written: the disk has lost what it had made durable (or, with durability normal, the power went). "
                "Copy the file and its -wal aside before the next write, and compare with a head that was kept elsewhere",
                MilepostWarning,
                stacklevel=7,  # of who opens the store
            )

    def _refuse_outside(self, _connection: apsw.Connection) -> apsw.Cursor:
        raise outside(self.path)

    def _leave_wal_alone(self, connection: apsw.Connection) -> None:
        """
        Closing the connection must not write the WAL back: a sync of it would now succeed and mean nothing.

        The next opener writes the WAL again first (`wal.make_durable`); a power loss before that would leave the file half
        written back, and the WAL that would mend it gone.
        """
        with contextlib.suppress(apsw.Error):
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _new_reader(self) -> Reader:
        return SharedReader(self.path, self.vfs, self._hmac)

    @property
    def has_open_file(self) -> bool:
        """Whether its connection is open; not before the first one is, nor while it has let go of the file."""
        return self._connection is not None

    def make_way(self, deadline: float) -> bool:
        """Nothing has to be closed: its readers map the shared memory as a writer does."""
        del deadline
        return True

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

    def begin_run(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> int:
        """Record that an attempt of a run begins; its number."""
        return self._do(Job(lambda end: end.begin_run(run_id, again=again, clock=clock)))

    def end_run(self, run_id: str, attempt: int, state: str, clock: Callable[[], int], error: str | None) -> Receipt:
        """Record how an attempt has ended."""
        return self._do(Job(lambda end: end.end_run(run_id, attempt, state, clock, error)))

    def branch(
        self, run_id: str, new_run_id: str, stage: str | None, as_of_ms: int | None, clock: Callable[[], int]
    ) -> BatchReceipt:
        """Let a run start where another one stood."""
        return self._do(Job(lambda end: end.branch(run_id, new_run_id, stage, as_of_ms, clock)))

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
                raise StoreBusyError(self.path, self.busy_timeout_ms)
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

    # Writing from tasks, whose event loop is never held

    async def append_async(self, entry: Checkpoint) -> Receipt:
        """As `append`, in a commit with those of other tasks."""
        return await self._do_async(Job(lambda end: end.append(entry), entry))

    async def do_async(self, work: Callable[[Appender], T]) -> T:
        """As `do`, in a commit with those of other tasks."""
        return await self._do_async(Job(work))

    async def append_many_async(self, entries: Sequence[Checkpoint]) -> BatchReceipt:
        """As `append_many`."""
        return await self._do_async(Job(lambda end: end.append_many(entries)))

    async def advance_async(self, step: Step, clock: Callable[[], int]) -> Receipt:
        """As `advance`."""
        return await self._do_async(Job(lambda end: end.advance(step, clock)))

    async def advance_many_async(self, steps: Sequence[Step], clock: Callable[[], int]) -> BatchReceipt:
        """As `advance_many`."""
        return await self._do_async(Job(lambda end: end.advance_many(steps, clock)))

    async def begin_run_async(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> int:
        """As `begin_run`."""
        return await self._do_async(Job(lambda end: end.begin_run(run_id, again=again, clock=clock)))

    async def end_run_async(
        self, run_id: str, attempt: int, state: str, clock: Callable[[], int], error: str | None
    ) -> Receipt:
        """As `end_run`."""
        return await self._do_async(Job(lambda end: end.end_run(run_id, attempt, state, clock, error)))

    async def _do_async(self, job: Job[T]) -> T:
        self.refuse_if_ended()
        block = self._block_of_task()
        if block is not None:  # no disk is waited for inside it
            return self._do_in_block(block, job)
        helper = self._running_helper()
        if helper.ended_with_the_interpreter:
            return self._do(job)
        return await helper.do(job)

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

            helper = self._helpers.setdefault(NOW, Helper(self.path, self, _PATIENCE_NS[self._synchronous]))
        return helper

    def commit_batch(self, batch: Batch) -> None:
        """In the helper's thread: do what has queued, in one transaction. Whatever fails is told to the tasks."""
        seconds = self.busy_timeout_ms / 1000
        try:
            if not self._turns.take(batch, max(0.0, batch.waits_since + seconds - time.monotonic())):
                if not batch.given_up:
                    for job in batch.claim_those_since(time.monotonic() - seconds):
                        job.error = StoreBusyError(self.path, self.busy_timeout_ms)
                return
            self._commit(batch)
            batch.done = True
        except BaseException as error:  # noqa: BLE001 - the clock has raised SystemExit, say: the thread serves others too
            self._tell_all(batch.jobs, error)
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is batch:
                del self._turns.held[NOW]
            batch.given_up = True
            self._turns.wake_first()

    def stop_waiting(self, batch: Batch) -> None:
        """Let a batch whose turn it is wait no longer for another process's lock."""
        if self._turns.holder is batch:
            self._deadline = 0.0

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
            raise StoreBusyError(self.path, self.busy_timeout_ms)
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
            return await helper.call(enter, undo)
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
                await outlast(leaving)
        except BaseException as failure:
            with contextlib.suppress(IndexError):  # the commit is under way
                claim.pop()
                if block.turn is not None:
                    self.leave(block, failure)
            raise
        finally:
            block.open_gate()

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
            await outlast(closing)

    def _in_the_way(self) -> Turn | None:
        """Whose turn it is, or will be before the caller's and not end before the caller does."""
        if self._entering:
            entering = self._entering.get(threading.get_ident())
            if entering is not None:
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
                self.leave(holder.outermost, GeneratorExit())
                return None
            if within is not None and within.turn is holder:
                return holder
            if holder.belongs_to_caller():
                return holder
        if holder.thread != threading.get_ident():
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

    def _commit(self, leader: Job[Any] | Batch) -> None:
        """
        Do a job, or a batch of tasks, in one transaction with what other threads have queued; what fails fails alone.

        Args:
            leader: Whose turn it is.
        """
        own: list[Job[Any]] = []
        others: list[Turn] = []
        settled = False
        try:
            group = leader.thread != self._main_thread
            if group:
                self._await_company()
            self._begin()
            own = leader.claim()
            if group:
                others += self._turns.take_over()
            self._group = 1 + len(others)
            if own or others:  # else all were withdrawn
                appended = self._do_all([*own, *others])  # type: ignore[list-item]
                self._let_others_in()
                self._execute("COMMIT")
                self._version = self._lent.data_version()
                self._before_acknowledging(appended)
            settled = True
        except (apsw.Error, UnicodeDecodeError, OSError, MilepostError) as error:
            self._end = None
            self._tell_all([*(own or leader.claim_those_that_waited()), *others], error)  # type: ignore[list-item]
            settled = True
        except Exception as error:  # noqa: BLE001 - the clock's: of the only job, for in a group it is the job's alone
            self._end = None
            self._tell_all(own or leader.claim_those_that_waited(), error)
        finally:
            try:
                self._rules.ours = True
                if self._connection is not None and self._connection.in_transaction:
                    self._execute("ROLLBACK")
            except apsw.Error:  # SQLite has rolled back itself
                pass
            finally:
                if not settled:
                    self._end = None
                    self._turns.put_back(others)
                else:
                    for other in others:
                        other.finish()

    def _tell_all(self, jobs: list[Job[Any]], error: BaseException) -> None:
        """Jobs have failed: one exception for each, since threads raise them side by side."""
        told = self._told(error)
        for job in jobs:
            job.error, told = told, self._told(error, again=True)

    def _do_all(self, jobs: list[Job[Any]]) -> int:
        """Do the jobs of a transaction; how many entries were appended."""
        return self._do_alone(jobs[0]) if len(jobs) == 1 else self._do_group(jobs)

    def _begin(self) -> None:
        """Begin a transaction, with all that an append has to know."""
        self.refuse_if_ended()
        if self._connection is None:  # it has let go of the file, for a fork
            self._connect()
        self._rules.ours = True
        self._roll_back_what_was_left()
        self._deadline = None
        if self._free_until:
            time.sleep(max(0.0, self._free_until - time.monotonic()))
            self._free_until = 0.0
        self._execute("BEGIN IMMEDIATE")  # the lock comes before the tip is read, or a neighbour could pass us
        self._began = time.monotonic()
        self._refuse_another(*self._files[-1])
        self._bound.steps = 0
        if self._lent.data_version() != self._version:
            self._end = None
            schema.refuse_another_version_now(self._statements, self.path)
        self._wal.make_room()

    def _roll_back_what_was_left(self) -> None:
        """
        Nothing is open when a transaction begins: an interrupt, or a commit that fails, may leave one open.

        A retry inside that would find its own entry there, call it a duplicate, and acknowledge what nobody commits.
        """
        connection = self._lent
        if connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._execute("ROLLBACK")
            if connection.in_transaction:
                self._ended = FailedStoreError(
                    self.path, "a transaction can be neither committed nor undone: open the store anew"
                )
                raise self._ended

    def _let_others_in(self) -> None:
        """
        Before a transaction ends: if it was long, others get the lock next.

        SQLite has no queue for it: others look again and again, and would find it free only by luck, were it taken again at
        once, batch after batch.
        """
        now = time.monotonic()
        held = now - self._began
        if held > _LONG_S:
            self._free_until = now + min(held / _PART, _MOST_S)

    def _wait_for_lock(self, _calls: int) -> bool:
        """Between two tries to get a lock that another process has: False when the time is up."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self.busy_timeout_ms / 1000
        if now >= self._deadline:
            return False
        time.sleep(_POLL_S)
        return True

    def _await_company(self) -> None:
        """
        Let those come back whom the last commit served: without them every second commit would have one job.

        It ends when all are back, or none has come for a while; after a commit of one job there is nobody to wait for.
        """
        came, since = -1, 0
        while (waiting := self._turns.waiting) < self._group - 1:
            now = time.monotonic_ns()
            if waiting > came:
                came, since = waiting, now
            elif now - since >= _PATIENCE_NS[self._synchronous]:
                return
            time.sleep(0)  # gives the interpreter to another thread

    def _do_alone(self, job: Job[Any]) -> int:
        """Do the only job of a transaction; how many entries were appended."""
        end, self._end = self._end or append.Appender(self._statements, self.hash), None
        before = end.appended
        job.outcome = job.work(end)
        self._end = end if end.usable else None
        return end.appended - before

    def _do_group(self, jobs: list[Job[Any]]) -> int:
        """Do several jobs; those that append one checkpoint together, if none of these fails."""
        appended = 0
        single = [job for job in jobs if job.entry is not None]
        if len(single) > 1:
            together: Job[list[Receipt]] = Job(lambda end: end.append_each([job.entry for job in single if job.entry]))
            appended = self._do_in_savepoint(together, 0)
            if together.error is None:
                for job, receipt in zip(single, together.outcome, strict=True):
                    job.outcome = receipt
                jobs = [job for job in jobs if job.entry is None]
        return appended + sum(self._do_in_savepoint(job, 0) for job in jobs)

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
            if not self._lent.in_transaction:  # SQLite has undone all, as it does when the disk is full
                raise
            try:  # noqa: SIM105 - a call of suppress() could be interrupted, and this be left undone
                self._execute(_UNDO[depth])
            except apsw.SQLError:  # interrupted before it began
                pass
            job.error = self._told(error) if isinstance(error, apsw.Error | UnicodeDecodeError) else error
            return 0
        return end.appended - before

    def _before_acknowledging(self, appended: int) -> None:
        """After a commit: what the caller relies on is durable, and where a reader will find it."""
        if appended == 0 and self._synchronous == "full":
            # All that was stated is recorded already, perhaps by a neighbour that was killed before its sync.
            self._refuse_another_file()
            self._wal.sync()
        self._refuse_another_file()
        self._wal.write_back()

    def _refuse_another_file(self) -> None:
        """
        The file, its WAL and its shared memory are still the ones of these names.

        A neighbour with an SQLite older than 3.52 unlinks the WAL if a program of ours has closed a descriptor of the
        database, and `rm` does so anyway; SQLite goes on writing to the unlinked file without an error. A neighbour that
        finds no shared memory makes another one, and each then writes over the other's frames: so that one is looked at
        before a write too.
        """
        for name, identity, opened in self._files:
            self._refuse_another(name, identity, opened)

    def _refuse_another(self, name: str, identity: Callable[[], object], opened: object) -> None:
        what = "file" if name == self.path else f"{name[len(self.path) :]} file"
        try:
            found = identity()
        except OSError as error:
            raise FailedStoreError(
                self.path,
                f"its {what} can no longer be looked at ({error.strerror}), and what was written last may be lost: close "
                "the store, open it again, and look for the last checkpoint",
            ) from error
        if found != opened:
            if name.endswith("-shm") and self._wal.is_in_place():  # another process may write to it, without our knowledge
                self._leave_wal_alone(self._lent)
            raise FailedStoreError(
                self.path,
                f"its {what} was removed or replaced by another program while the store was open, and what was "
                "written since may be lost: close the store, open it again, and look for the last checkpoint",
            )

    def _told(self, error: BaseException, *, again: bool = False) -> BaseException:
        """
        What is raised for an error, a new exception for each who is told.

        Args:
            error: APSW's, the operating system's or one of ours.
            again: Another one was told already.
        """
        if isinstance(error, apsw.Error | UnicodeDecodeError):
            told: MilepostError = translate(error, self.path, self.busy_timeout_ms)
        elif isinstance(error, MilepostError):
            told = type(error)(*error.args) if again else error
        elif isinstance(error, OSError):
            told = files.from_os(self.path, error)
        else:
            return error
        if told is not error:
            told.__cause__ = error
        if isinstance(told, FailedStoreError):
            self._ended = FailedStoreError(*told.args)
            if self._connection is not None and sync_failed(error):
                self._leave_wal_alone(self._connection)
        return told

    # Transaction blocks

    def block(self, loop: str | None = None) -> Block:
        """A transaction block, of the caller or of a loop."""
        self.refuse_if_ended()
        return Block(self, loop)

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
                raise StoreBusyError(self.path, self.busy_timeout_ms)
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
                    if self._connection is not None and self._connection.in_transaction:
                        self._execute("ROLLBACK")
                except apsw.Error:  # SQLite has rolled back itself
                    pass
                finally:
                    del self._turns.held[NOW]
            if not entered:
                block.turn = None
                turn.given_up = True
                self._turns.wake_first()

    def leave(self, block: Block, error: BaseException | None) -> None:
        """
        End a block: commit it, or undo it where an exception has ended it.

        The block's own exceptions, APSW's among them, pass through unchanged; only after SQLite has rolled it back, when
        every further statement fails, does an exception of APSW's become ours.
        """
        turn, block.turn = block.turn, None
        if turn is None or turn.over:
            if error is None:
                self.refuse_if_ended()
            return
        if block is not turn.outermost:
            self._leave_inner(turn, block, error)
            return
        try:
            turn.busy = True
            self.refuse_if_ended()
            cut_short = not self._lent.in_transaction
            turn.close_cursors()
            self._reset(self._lent)
            if cut_short and (error is None or isinstance(error, apsw.Error)):
                raise StoreError(self.path, CUT_SHORT) from error
            self._let_others_in()
            if error is None:
                self._execute("COMMIT")
                self._version = self._lent.data_version()
                self._before_acknowledging(turn.appended)
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

    def _lend(self, turn: BlockTurn, connection: LentConnection) -> None:
        turn.connection = connection
        connection.cursor_factory = turn.cursor
        self._bound.steps = None
        self._rules.ours = turn.busy = False

    def _reset(self, connection: LentConnection) -> None:
        """Undo what the caller has set on the connection, but for functions, collations and modules."""
        self._rules.ours = True
        if connection.authorizer != self._rules.judge:
            connection.set_authorizer(self._rules.judge)
        connection.cursor_factory = self._refuse_outside
        connection.row_trace = connection.exec_trace = None
        connection.set_busy_handler(self._wait_for_lock)
        connection.set_commit_hook(None)
        connection.set_rollback_hook(None)
        connection.set_wal_hook(None)
        connection.wal_autocheckpoint(0)
        self._bound.install(connection)

    def _enter_inner(self, turn: BlockTurn, block: Block) -> apsw.Connection:
        self._refuse_reentry(turn)
        turn.refuse_if_cut_short()
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
                    if connection.in_transaction:
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
            turn.refuse_if_cut_short()
            self._rules.ours = turn.busy = True
            if error is None:
                self._execute(_RELEASE[depth])
                kept = True
        finally:
            try:
                self._rules.ours = turn.busy = True
                if not kept and self._lent.in_transaction:
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
        turn.refuse_if_cut_short()
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
        turn.refuse_if_cut_short()
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
                if helper is not None:  # it waits for this very block, if for anything
                    helper.stop(CLOSING, 0.0)
            else:
                if holder is not None:
                    self._block_of_caller(holder, None)
                if helper is not None:
                    deadline = time.monotonic() + seconds
                    helper.stop(CLOSING, seconds, drain=True)
                    seconds = max(0.0, deadline - time.monotonic())
                if not self._turns.take(turn, seconds):
                    raise StoreBusyError(self.path, self.busy_timeout_ms)
            self._close_now()
        finally:
            if NOW in self._turns.held and self._turns.held[NOW] is turn:
                del self._turns.held[NOW]
            turn.given_up = True
            self._turns.wake_first()
            if helper is not None and not self.closed:
                helper.resume(CLOSING)

    def _close_now(self) -> None:
        # The connection that writes last: it writes the WAL back.
        self._paused.add(CLOSING)
        self.close_readers(time.monotonic() + self.busy_timeout_ms / 1000)
        self._close_connection()
        super().close()
        if self._helper is not None:
            self._helper.fail(lambda: ClosedStoreError(self.path, "the store was closed before this was recorded"))

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._rules.ours = True
            with contextlib.suppress(apsw.Error):  # the WAL could not be written back: the next opener does that
                # Forced: a cursor that a block has left open would keep the file open, and its locks with it.
                self._connection.close(True)
            self._connection = self._end = self._version = None

    # What a fork asks of an open file (open_files.py)

    def let_go(self, deadline: float) -> bool:
        """As `Database.let_go`, once no write is under way and no block is open."""
        holder = self._turns.holder
        if holder is not None and holder.thread == threading.get_ident():
            return False
        if self._helper is not None and not self._helper.stop(threading.get_ident(), max(0.0, deadline - time.monotonic())):
            return False
        turn = self._letting_go[threading.get_ident()] = Turn()
        if not self._turns.take(turn, max(0.0, deadline - time.monotonic())):
            return False
        all_closed = super().let_go(deadline)
        self._close_connection()
        return all_closed

    def take_back(self) -> None:
        """As `Database.take_back`."""
        super().take_back()
        turn = self._letting_go.pop(threading.get_ident(), None)
        if turn is not None:
            if NOW in self._turns.held and self._turns.held[NOW] is turn:
                del self._turns.held[NOW]
            turn.given_up = True
            self._turns.wake_first()
        if self._helper is not None and not self.closed:
            self._helper.resume(threading.get_ident())

    def carried_over(self) -> None:
        """As `Database.carried_over`."""
        super().carried_over()
        if self._helper is not None:
            self._helper.forget()

    def _connections(self) -> list[apsw.Connection]:
        return super()._connections() + ([] if self._connection is None else [self._connection])

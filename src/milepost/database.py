"""
Open, share and close one SQLite file through APSW; the only place that begins, commits and rolls back.

`WritableDatabase` and `ReadOnlyDatabase` run a query (a function of a connection: rows.py, append.py) under the store's
lock, in a transaction where it writes, and turn APSW's exceptions into ours.

What an ordinary WAL database with synchronous=FULL still loses, and what is done about it here:

- two processes that create the file at once, or a kill while it is made: `put_in_place` links it there when it is whole;
- a commit that a killed process had written but not synced, which the next process sees and builds upon, until the power
  goes: `wal.make_durable` writes the WAL's bytes again and syncs them before the first answer;
- a file or WAL that is unlinked under us by another program: `_refuse_another_file` looks before a commit is acknowledged;
- a sync that failed, after which the kernel calls the lost pages clean: the database refuses all further work;
- a descriptor of the live file closed in our own process, which drops all of SQLite's locks on it: nothing here opens
  the file but SQLite's own VFS, which knows of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import tempfile
import threading
import time
import warnings
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, TypeVarTuple

import apsw

from milepost import creation, files, schema, wal
from milepost.connection import connect, refuse_foreign_header
from milepost.errors import (
    ClosedStoreError,
    DamagedStoreError,
    FailedStoreError,
    ForkedStoreError,
    InvalidArgumentError,
    MilepostError,
    MilepostWarning,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from milepost.group_commit import GroupCommit, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milepost.signature import Hash

T = TypeVar("T")
Item = TypeVar("Item")
Given = TypeVarTuple("Given")

OLDEST_ENGINE: Final = (3, 51, 3)
"""Older SQLites have the WAL-reset race, which loses committed rows (https://sqlite.org/wal.html#walresetbug)."""

_STEPS: Final = 20_000  # of SQLite's virtual machine, between two looks at whether a query will ever end
_STEPS_PER_BYTE: Final = 200  # of the file; an integrity check of a sink with twenty CHECKs takes 16
_AHEAD_PAGES: Final = 64  # how far the WAL grows ahead of what is written to it, at least
_CACHE_KIB: Final = 16_384  # with SQLite's own 2 MiB a large batch writes each page of the key index many times
_PATIENCE_US: Final = {"full": 100, "normal": 0}  # a sync of the disk takes longer, a write to its cache does not
_SYNC_FAILED: Final = {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}


class Read(Protocol):
    """Run one query of rows.py: `read` or `read_committed` of a database."""

    def __call__(self, query: Callable[[apsw.Connection, *Given], T], /, *given: *Given) -> T: ...  # noqa: D102 - the protocol says it


class Kept:
    """
    What a write leaves for the next one: no longer than nobody else, of this process or another, has written in between.

    SQLite says whether somebody has, while the lock is held under which the next write begins: the file may be read anew
    by that write, or it is known to be as the last one left it.

    Source:
        https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html#sqlitefcntldataversion
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def take(self) -> Any:
        """Take it away, to put it back only when all has gone well."""
        value, self.value = self.value, None
        return value


class Database(ABC):
    """One connection, shared by the threads of one process."""

    hashed: Hash
    """What links are made with."""

    def __init__(self, path: str, vfs: str | None, keyed: Hash | None) -> None:
        if vfs is not None and (type(vfs) is not str or vfs not in apsw.vfs_names()):
            raise InvalidArgumentError("vfs", vfs, f"must be the name of an SQLite VFS, one of {apsw.vfs_names()}")
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < OLDEST_ENGINE:
            raise StoreError(
                path,
                f"SQLite {apsw.sqlite_lib_version()} can lose committed rows: install an apsw with SQLite "
                f"{'.'.join(map(str, OLDEST_ENGINE))} or newer",
            )
        self.path = path
        self.vfs = vfs
        self._keyed = keyed
        self.busy_timeout_ms = 0
        # Reentrant: a verb called inside the caller's own transaction() joins it.
        self._lock = threading.RLock()
        # How many _STEPS the query under way has taken; None while the caller's own statements run.
        self._steps: int | None = 0
        self._changes = 0
        self.kept = Kept()
        # Why nothing more can be done here: closed, forked or failed. Looked at before the lock, which a fork may have
        # copied while another thread held it.
        self._ended: StoreError | None = None
        self._connection: apsw.Connection
        _open_databases.add(self)

    def read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a query that only reads, and finishes reading before it returns."""
        if self._ended is not None:
            self._refuse_if_ended()
        with self._lock:
            if self._ended is not None:
                self._refuse_if_ended()
            self._steps = 0
            try:
                return query(self._connection, *given)
            except (apsw.Error, UnicodeDecodeError) as error:
                raise self._translated(error) from error
            finally:
                self._steps = None

    @abstractmethod
    def read_committed(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `read`, of what is committed: never waits for a transaction block, of whatever thread, nor sees into it."""

    def read_apart(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `read_committed`, on a read-only connection that nothing else uses."""
        self._refuse_if_ended()
        apart = ReadOnlyDatabase(self.path, self.vfs, self._keyed)
        try:
            return apart.read(query, *given)
        finally:
            apart.close()

    @abstractmethod
    def write(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a query that writes, in one transaction: when this returns it is committed, and if it raises, undone."""

    @abstractmethod
    def write_item(self, query: Callable[[apsw.Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
        """As `write`, of a query that writes any number of items and gives an outcome for each."""

    @abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[apsw.Connection]:
        """One transaction for what the caller's block writes through the connection it is given."""

    def copy_to(self, path: str) -> None:
        """Make an exact copy of what is committed, on a connection of its own: other threads go on."""
        creation.backup(self.read_apart, path)

    @property
    def closed(self) -> bool:
        """Whether nothing is left to be closed."""
        return isinstance(self._ended, ClosedStoreError | ForkedStoreError)

    def close(self) -> None:
        """Close the file; the last one to close it writes the WAL back into it. A second call does nothing."""
        if not self.closed:
            with self._lock:
                self._ended = ClosedStoreError(self.path, "the store is closed: open it again")
                with contextlib.suppress(apsw.Error):  # the WAL could not be written back: the next opener does that
                    self._close_connection()

    def _close_connection(self) -> None:
        # Forced: a cursor that a transaction block has left open would keep the file open, and its locks with it.
        self._connection.close(True)

    def _bound_queries(self) -> None:
        """
        In a damaged or hostile file a tree of rows may lead in circles: no query of ours takes so many steps in a sound one.

        Source:
            https://sqlite.org/c3ref/progress_handler.html
        """

        def endless() -> bool:
            if self._steps is None:
                return False
            changes = self._connection.total_changes()
            if changes != self._changes:  # a batch that goes on writing rows comes to its end
                self._changes, self._steps = changes, 0
            self._steps += 1
            return self._steps > 100 and self._steps * _STEPS > _STEPS_PER_BYTE * files.size_bytes(self.path)

        self._connection.set_progress_handler(endless, _STEPS)

    def _leave_wal_alone(self) -> None:
        """
        Closing the connection must not write the WAL back: a sync of it would now succeed and mean nothing.

        The next opener writes the WAL again first (`wal.make_durable`); a power loss before that would leave the file half
        written back, and the WAL that would mend it gone.
        """
        if hasattr(self, "_connection"):  # missing where the file could not be made
            with contextlib.suppress(apsw.Error):
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _refuse_if_ended(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)  # a new one each time: threads may raise it side by side

    def _carried_over_a_fork(self) -> None:
        """In the child: never touch the connection again, not even to close it, which would write to the parent's WAL."""
        if not self.closed:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._ended = ForkedStoreError(self.path, "opened before a fork: open the store anew in the child process")

    def _translated(self, error: apsw.Error | UnicodeDecodeError) -> MilepostError:  # noqa: PLR0911, PLR0912 - one line a class
        """The exception of ours for one of APSW's."""
        if isinstance(error, apsw.SQLError) and isinstance(error.__context__, apsw.Error):
            # SQLite had undone the transaction itself, so that APSW's ROLLBACK failed: what came before it is the reason.
            error = error.__context__
        code = getattr(error, "extendedresult", 0)
        detail = f"{error} ({apsw.mapping_extended_result_codes.get(code, 'SQLite')})"
        match error:
            case UnicodeDecodeError():
                return DamagedStoreError(self.path, "a text in it is not UTF-8: verify() it, and restore it from a copy")
            case apsw.BusyError() if code == apsw.SQLITE_BUSY_SNAPSHOT:
                return StoreError(self.path, "a cursor of an earlier transaction block is still open: read it to its end")
            case apsw.BusyError() | apsw.ProtocolError():
                return StoreBusyError(self.path, self.busy_timeout_ms)
            case apsw.FullError():
                return StoreFullError(self.path, "no space left on the disk; nothing was written: free some and try again")
            case apsw.IOError() if code in _SYNC_FAILED:
                self._ended = FailedStoreError(
                    self.path,
                    f"the disk failed to make a write durable: {detail}; close the store and open it again, which "
                    "repeats the write, and look for the last checkpoint before going on",
                )
                self._leave_wal_alone()
                return self._ended
            case apsw.InterruptError():
                return DamagedStoreError(self.path, "a query of it does not end: verify() it, and restore it from a copy")
            case apsw.CorruptError():
                return DamagedStoreError(self.path, f"{detail}: verify() it, and restore it from a copy")
            case apsw.NotADBError():
                return NotAStoreError(self.path, "not an SQLite database: choose another path for the checkpoints")
            case apsw.ReadOnlyError():
                return ReadOnlyStoreError(self.path, f"{detail}: check the permissions of the file and its directory")
            case apsw.NoMemError():
                return StoreError(self.path, "SQLite ran out of memory; the chain is as it was: free some and try again")
            case apsw.CantOpenError():
                return StoreError(self.path, f"{detail}: check that it exists, and its permissions")
            case _:
                return StoreError(self.path, f"{detail}; the chain is as it was")


class WritableDatabase(Database):
    """The file, opened for reading and writing; made if it is missing."""

    def __init__(self, path: str, *, synchronous: str, busy_timeout_ms: int, vfs: str | None, keyed: Hash | None) -> None:
        super().__init__(path, vfs, keyed)
        self.busy_timeout_ms = busy_timeout_ms
        # Inside a transaction block: whether SQLite or the caller has ended the transaction before its time.
        self._block_thread: int | None = None
        self._writing_thread: int | None = None
        self._version: int | None = None  # of the file, after our own last write
        self._wal_pages = self._written_back = 0
        self._wal_room = 1  # how many pages it has without growing; not for the very first commit
        # How long the WAL may get: 8 MB, or some 1,600 appends. SQLite's own figure, 1,000 pages, suits statements that
        # change one page of 4 KB; an append changes two or three of 2 KB. Up to 4,062 pages a reader searches one table of
        # the WAL's index.
        self.write_back_pages = 4000
        self.long_wal_pages = 131_072
        self._long_wal_told = False
        self._cut_short = False
        self._reader: ReadOnlyDatabase | None = None  # for `read_committed`, from the first use on
        self._reader_lock = threading.Lock()
        self._synchronous = synchronous
        self._group = GroupCommit(self._commit, _PATIENCE_US[synchronous])
        self._wal_path = f"{path}-wal"  # not filename_wal: SQLite's names are UTF-8, and the locale's may be another
        try:
            if not files.is_store_file(path):
                creation.create(path, vfs, keyed)
            refuse_foreign_header(path, vfs)
            files.warn_of_remote(path)
            creation.sweep(path)
            for other in list(_open_databases):
                if isinstance(other, ReadOnlyDatabase) and other.path == path:
                    other.step_aside()
            if os.stat(path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
                creation.refuse_second_name(path)
            self._connection = connect(path, "mode=rw", vfs, busy_timeout_ms)
            try:
                with files.opening(path):
                    self._prepare()
            except BaseException:
                self._close_connection()
                raise
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._translated(error) from error
        except OSError as error:
            raise files.from_os(path, error) from error

    def _prepare(self) -> None:
        self._bound_queries()
        connection = self._connection
        connection.transaction_mode = "IMMEDIATE"  # the lock comes before the tip is read, or a neighbour could pass us
        if connection.readonly("main"):
            raise ReadOnlyStoreError(self.path, "the file cannot be written: check its permissions, or use open_readonly()")
        schema.refuse_another_shape(connection, self.path)
        self.hashed = schema.chosen_hash(connection, self.path, self._keyed)
        self.hashed(b"")  # refuses a missing key now, not at the first append
        if connection.pragma("journal_mode") != "wal" and connection.pragma("journal_mode", "wal") != "wal":
            raise StoreError(self.path, "the journal mode is not WAL and cannot be set: close the file everywhere else")
        connection.pragma("cache_size", -_CACHE_KIB)
        self._page_bytes = int(connection.pragma("page_size"))
        # Write the WAL back ourselves: an automatic checkpoint swallows the error of a sync that fails.
        connection.wal_autocheckpoint(0)
        connection.set_wal_hook(self._note_wal)
        connection.pragma("synchronous", self._synchronous)  # https://sqlite.org/pragma.html#pragma_synchronous
        self._leave_wal_alone()  # until it is durable
        frames = self._wal_frames()
        with connection:
            named = [(name, files.identity_of(name)) for name in (self.path, self._wal_path)]
            opened = [(name, identity, identity()) for name, identity in named]
            self._files = [each for each in opened if each[2] is not None]
            if len(self._files) < 2 and self.vfs is None:
                raise StoreError(self.path, "its WAL is not where SQLite keeps it: close the file everywhere else")
            unread = wal.unread_commits(self._wal_path, self.vfs, frames)
            wal.make_durable(self._wal_path, self.vfs)
            files.sync_directory(self.path)  # whoever made the file may have been killed before its name was durable
        if unread > 1 and self._wal_frames() == frames:  # else a neighbour has gone on meanwhile
            warnings.warn(
                f"{self.path}: its -wal file holds {unread} commits that cannot be read, since a page before them is not as "
                "it was written: the disk has lost what it had made durable (or, with durability normal, the power went). "
                "Copy the file and its -wal aside before the next write, and compare with a head that was kept elsewhere",
                MilepostWarning,
                stacklevel=5,
            )
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._steps = None

    def _wal_frames(self) -> int:
        """How many frames of the WAL SQLite reads."""
        return self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]

    def read_committed(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `Database.read_committed`."""
        self._refuse_if_ended()
        with self._reader_lock:
            self._refuse_if_ended()
            if self._reader is None:
                self._reader = ReadOnlyDatabase(self.path, self.vfs, self._keyed)
        return self._reader.read(query, *given)

    def _close_connection(self) -> None:
        with self._reader_lock:
            if self._reader is not None:
                self._reader.close()
        super()._close_connection()

    def write(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `Database.write`; inside a transaction block of the same thread it is a savepoint of that."""
        return self._write(functools.partial(query, self._connection, *given))  # type: ignore[return-value]

    def write_item(self, query: Callable[[apsw.Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
        """
        As `write`, of a query that writes any number of items and gives an outcome for each.

        What several threads want to write at the same time is given to it at once; all of them have the same query.
        """
        return self._write(functools.partial(_only, self._connection, query, item), (query, item))  # type: ignore[return-value]

    def _write(self, work: Callable[[], object], item: tuple[Any, object] | None = None) -> object:
        self._refuse_if_ended()
        self._refuse_within_a_write()
        if self._block_thread != threading.get_ident():
            return self._group.run(work, item)
        job = Job(work)
        with self._lock:
            self._refuse_if_ended()
            self._refuse_if_cut_short()
            self.kept.value = None  # the block may have written anything
            self._run_apart(job)
        if job.error is not None:
            raise job.error
        return job.outcome

    def _commit(self, jobs: list[Job]) -> None:
        """Run the first job, and those that others have queued, in one transaction; a job that fails fails alone."""
        with self._lock:
            self._group.take(jobs)
            try:
                self._refuse_if_ended()
                self._clear_leftover()
                before = self._connection.total_changes()
                version, self._version = self._version, None
                with self._connection:
                    if self._connection.data_version() != version:
                        self.kept.value = None
                    if self._wal_pages >= self._wal_room and self._synchronous == "full":
                        self._make_wal_longer()
                    if len(jobs) == 1:
                        self._run(jobs[0])
                    else:
                        self._run_group(jobs)
                self._version = self._connection.data_version()
                self._settle(before)
            except (apsw.Error, UnicodeDecodeError) as error:
                for job in jobs:  # one exception each: threads raise them side by side
                    job.error = self._translated(error)
                    job.error.__cause__ = error
            except MilepostError as error:
                for job in jobs:
                    job.error = error if job is jobs[0] else type(error)(*error.args)
            except Exception as error:  # noqa: BLE001 - the clock's, which is the caller's: alone, it is handed back to him
                jobs[0].error = error

    def _run(self, job: Job) -> None:
        self._writing_thread = threading.get_ident()
        self._steps = 0
        try:
            job.outcome = job.work()
        finally:
            self._writing_thread = self._steps = None

    def _refuse_within_a_write(self) -> None:
        """The clock is asked inside a write: one that writes itself would wait for its own end, or pull the tip away."""
        if self._writing_thread == threading.get_ident():
            raise StoreError(
                self.path, "a write was begun within another, by the store's clock: let the clock only tell the time"
            )

    def _make_wal_longer(self) -> None:
        """
        Let the WAL grow ahead of what is written to it, to twice its length; call it with the write lock held.

        A sync costs up to twice as much while a file grows as when it is overwritten, since its new length has to be made
        durable as well. SQLite takes the zeros at the end for nothing, as it does what is left there of an earlier round.
        """
        pages = min(2 * self._wal_pages, self.write_back_pages) + _AHEAD_PAGES
        self._wal_room = max(pages - _AHEAD_PAGES // 2, self._wal_pages + _AHEAD_PAGES)
        length = wal.HEADER_BYTES + pages * (wal.FRAME_HEADER_BYTES + self._page_bytes)
        with contextlib.suppress(apsw.Error):  # a disk without space for it may have enough for the commit itself
            wal.lengthen(self._wal_path, self.vfs, length)

    def _run_group(self, jobs: list[Job]) -> None:
        """Run jobs so that one that fails fails alone: those that have an item together, if none of these fails."""
        shared = [job for job in jobs if job.item is not None]
        if len(shared) > 1 and self._run_together(shared):
            jobs = [job for job in jobs if job.item is None]
        for job in jobs:
            self._run_apart(job)

    def _run_together(self, jobs: list[Job]) -> bool:
        """Write the items of jobs in one go; False if that fails, and then nothing of it is kept."""
        pairs = [job.item for job in jobs if job.item is not None]
        query, outcomes = pairs[0][0], list[object]()
        together = Job(lambda: outcomes.extend(query(self._connection, [item for _, item in pairs])))
        self._run_apart(together)
        if together.error is not None:
            return False
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.outcome = outcome
        return True

    def _run_apart(self, job: Job) -> None:
        """Run a job as a savepoint of the open transaction."""
        try:
            with self._connection:
                self._run(job)
        except (apsw.Error, UnicodeDecodeError) as error:
            if not self._connection.in_transaction:  # SQLite has rolled everything back, as it does when the disk is full
                raise
            job.error = self._translated(error)
            job.error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - a rejection, or the clock's own error: the job's alone
            job.error = error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """
        As `Database.transaction`; a block inside a block is a savepoint of it.

        The block's own exceptions, APSW's among them, pass through unchanged; only after the transaction was cut short,
        when every further statement fails, does an exception of APSW's become ours.
        """
        self._refuse_if_ended()
        self._refuse_within_a_write()
        with self._lock:
            self._refuse_if_ended()
            self._refuse_if_cut_short()
            outermost = self._block_thread is None
            connection = self._connection
            if outermost:
                self._clear_leftover()
                self._version = None
            try:
                connection.__enter__()
            except apsw.Error as error:
                raise self._translated(error) from error
            before = connection.total_changes()
            if outermost:
                self._guard(connection)
            try:
                yield connection
            except BaseException as error:
                cut_short = self._cut_short
                self._leave(connection, outermost, error)
                if cut_short and isinstance(error, apsw.Error):  # "constraint failed" says nothing of what happened
                    raise StoreError(self.path, _CUT_SHORT) from error
                raise
            self._refuse_if_ended()
            cut_short = self._cut_short
            try:
                self._leave(connection, outermost, None)
            except apsw.Error as error:
                raise self._translated(error) from error
            if cut_short:
                raise StoreError(self.path, _CUT_SHORT)
            if outermost:
                self._settle(before)

    def _guard(self, connection: apsw.Connection) -> None:
        """Inside a block only its end commits: a COMMIT of the caller's would part what belongs together."""
        self._block_thread = threading.get_ident()

        def cut_short() -> None:
            self._cut_short = True

        connection.set_commit_hook(lambda: True)
        connection.set_rollback_hook(cut_short)

    def _leave(self, connection: apsw.Connection, outermost: bool, error: BaseException | None) -> None:
        if self._ended is not None:  # closed within the block: undone by that
            self._block_thread, self._cut_short = None, False
            return
        cut_short = self._cut_short
        if outermost:
            connection.set_commit_hook(None)
            connection.set_rollback_hook(None)
            self._block_thread, self._cut_short = None, False
        if cut_short and error is None:
            error = StoreError(self.path, _CUT_SHORT)  # what came after the cut is undone too
        try:
            connection.__exit__(type(error) if error else None, error, None)
        except apsw.Error:
            if error is None:
                raise
            # Nothing left to roll back: SQLite, or the caller, has done so.

    def _refuse_if_cut_short(self) -> None:
        if self._cut_short:
            raise StoreError(self.path, _CUT_SHORT)

    def _clear_leftover(self) -> None:
        """
        Nothing is open when a transaction begins: a commit that fails may leave its transaction open.

        A retry inside that would find its own entry there, call it a duplicate, and acknowledge what nobody commits.
        """
        if self._connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
            if self._connection.in_transaction:
                self._ended = FailedStoreError(
                    self.path, "a transaction can be neither committed nor undone: open the store anew"
                )
                raise self._ended

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._wal_pages:  # it begins anew, all of it having been written back
            self._written_back = 0
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _write_wal_back(self) -> None:
        """What SQLite's automatic checkpoint does; only a sync that failed matters to what was just committed."""
        self._written_back = self._wal_pages
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            if getattr(error, "extendedresult", 0) in _SYNC_FAILED:
                raise self._translated(error) from error
        if self._wal_pages >= self.long_wal_pages and not self._long_wal_told:
            self._long_wal_told = True
            # What was committed is committed, also where warnings are made errors.
            with contextlib.suppress(MilepostWarning):
                warnings.warn(
                    f"{self.path}: its -wal file has grown to {self._wal_pages * self._page_bytes >> 20} MB, since somebody "
                    "has been reading the file in one transaction all the while: end that transaction, or close what reads",
                    MilepostWarning,
                    stacklevel=2,
                )

    def _settle(self, changes_before: int) -> None:
        """Before a commit is acknowledged: what the caller relies on is durable, and where a reader will find it."""
        if self._synchronous == "full" and self._connection.total_changes() == changes_before:
            # All that was stated is recorded already, perhaps by a neighbour that was killed before its sync.
            try:
                wal.sync(self._wal_path, self.vfs)
            except apsw.Error as error:
                raise self._translated(error) from error
        self._refuse_another_file()
        if self._wal_pages - self._written_back >= self.write_back_pages:
            self._write_wal_back()

    def _refuse_another_file(self) -> None:
        """
        The file and the WAL that a commit went to are still the ones of these names.

        A neighbour with an SQLite older than 3.52 unlinks the WAL if a program of ours has closed a descriptor of the
        database, and `rm` does so anyway; SQLite goes on writing to the unlinked file without an error.
        """
        for name, identity, opened in self._files:
            if identity() != opened:
                what = "-wal file" if name != self.path else "file"
                self._ended = FailedStoreError(
                    self.path,
                    f"its {what} was removed or replaced by another program while the store was open, and what was "
                    "written since may be lost: close the store, open it again, and look for the last checkpoint",
                )
                raise self._ended


def _only(connection: apsw.Connection, query: Callable[[apsw.Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
    return query(connection, (item,))[0]


_CUT_SHORT: Final = (
    "the transaction was rolled back within its block, by a COMMIT or ROLLBACK of the block's own or by SQLite after an "
    "error; nothing of the block was kept: leave ending it to the block"
)


class ReadOnlyDatabase(Database):
    """
    The file, opened so that neither it nor its directory changes by a byte, whatever a pipeline does meanwhile.

    How a WAL database can be read without writing depends on what lies beside it:

    - `-wal` and `-shm`, from a pipeline that is writing or was killed: SQLite's ordinary way, with the shared memory
      mapped read-only (https://sqlite.org/uri.html, `mode=ro`, `readonly_shm`);
    - nothing, after a clean close, or a WAL without a frame: `immutable`. SQLite then takes no lock, so each answer counts
      only if the file was the same before and after, and a WAL that appears makes us open it anew;
    - a `-wal` alone, as in a copy made by hand: SQLite would have to make a `-shm`, so a copy of both is read;
    - a `-wal` and a `-shm` that a writer was killed in the middle of changing: SQLite would have to make it anew. The next
      writer does so as it opens the file, so that is waited for; if none comes, a copy is read.
    """

    _ATTEMPTS: Final = 100
    _WAITS: Final = 10
    _WAIT_S: Final = 0.005

    def __init__(self, path: str, vfs: str | None, keyed: Hash | None) -> None:
        super().__init__(path, vfs, keyed)
        self.busy_timeout_ms = 5000
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            if not files.is_store_file(path):
                raise StoreError(path, "no such file: check the path, or open it with CheckpointStore() to make it")
            self._open_settled()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._translated(error) from error
        except OSError as error:
            raise files.from_os(path, error) from error

    def read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `Database.read`, whatever has become of the files around it since the last call."""
        self._refuse_if_ended()
        with self._lock:
            self._refuse_if_ended()
            unrecovered = False
            for attempt in range(self._ATTEMPTS):
                self._steps = 0
                try:
                    if unrecovered or self._stale():
                        self._reopen()
                    result = query(self._connection, *given)
                except (apsw.Error, UnicodeDecodeError) as error:
                    unrecovered = _unrecovered(error)
                    if attempt + 1 == self._ATTEMPTS or not (unrecovered or self._stale()):
                        raise self._translated(error) from error
                    continue
                except OSError as error:
                    raise files.from_os(self.path, error) from error
                if not self._stale():
                    return result
            raise StoreBusyError(self.path, self.busy_timeout_ms)

    def read_committed(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `read`: there are no transaction blocks."""
        return self.read(query, *given)

    def write(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Refuse."""
        del query, given
        raise self._refusal()

    def write_item(self, query: Callable[[apsw.Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
        """Refuse."""
        del query, item
        raise self._refusal()

    def transaction(self) -> contextlib.AbstractContextManager[apsw.Connection]:
        """Refuse."""
        raise self._refusal()

    def _refusal(self) -> StoreError:
        self._refuse_if_ended()
        return ReadOnlyStoreError(self.path, "opened with open_readonly(): open it with CheckpointStore() to write")

    def _open(self, *, waited: bool) -> None:
        try:
            with files.opening(self.path):
                self._open_as_found(waited=waited)
        except BaseException:
            self._close_connection()
            raise

    def _open_as_found(self, *, waited: bool) -> None:
        self._surroundings = self._look()
        of_wal, of_shm = self._surroundings[1:]
        path, how = self.path, "mode=ro&readonly_shm=1"
        # A header without a frame says nothing, and SQLite would wait for ever for the writer that was killed after it.
        frames = of_wal is not None and of_wal[0] > wal.HEADER_BYTES
        self._live = of_shm is not None and frames and not waited
        if not self._live:
            how = "mode=ro&immutable=1"
            if frames:
                path, how = self._copied(), "mode=rw"
        refuse_foreign_header(self.path, self.vfs)
        self._connection = connect(path, how, self.vfs)
        self._bound_queries()
        self._connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.pragma("query_only", True)
        self._connection.pragma("cache_size", -_CACHE_KIB)
        schema.refuse_another_shape(self._connection, self.path)
        self.hashed = schema.chosen_hash(self._connection, self.path, self._keyed)

    def _open_settled(self) -> None:
        """Open it, again if it changed meanwhile: what was read then may have been half old and half new."""
        waits = 0
        for _ in range(self._ATTEMPTS):
            try:
                self._open(waited=waits == self._WAITS)
            except (apsw.Error, UnicodeDecodeError, MilepostError, OSError) as error:
                if _unrecovered(error) and waits < self._WAITS:
                    waits += 1
                    time.sleep(self._WAIT_S)
                elif self._look() == self._surroundings:
                    raise
            else:
                return
        raise StoreBusyError(self.path, self.busy_timeout_ms)

    def _reopen(self) -> None:
        self._close_connection()
        self._open_settled()

    def _close_connection(self) -> None:
        if hasattr(self, "_connection"):  # missing where the file was refused
            super()._close_connection()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def step_aside(self) -> None:
        """
        For a writer of this process that is about to open the file: let go of it, and open it anew at the next read.

        The shared memory that a reader has mapped read-only SQLite would give to the writer, who could not write then.
        """
        with self._lock:
            if self._ended is None:
                self._close_connection()
                self._live, self._surroundings = False, ()

    def _stale(self) -> bool:
        """Whether the files are no longer what they were when we opened them. SQLite itself sees to a live WAL."""
        if self._live:
            return False
        return self._look() != self._surroundings

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        """Size, modification time and identity of the file, its -wal and its -shm; None for one that is not there."""
        found: list[tuple[int, ...] | None] = []
        for suffix in ("", "-wal", "-shm"):
            try:
                status = os.stat(self.path + suffix)  # noqa: PTH116 - a hot path, and no descriptor is opened
                found.append((status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                found.append(None)
            except OSError as error:
                raise files.from_os(self.path + suffix, error) from error
        return tuple(found)

    def _copied(self) -> str:
        self._copy, copy = files.copied(self.path, self.vfs)
        return copy


def _unrecovered(error: Exception) -> bool:
    """Whether a reader found a WAL whose index has to be made anew, which only a writer may."""
    return getattr(error, "extendedresult", 0) in {apsw.SQLITE_READONLY_RECOVERY, apsw.SQLITE_READONLY_CANTINIT}


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for database in list(_open_databases):
        database._carried_over_a_fork()  # noqa: SLF001 - the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

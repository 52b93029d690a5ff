"""
Open one file to write, begin its transactions, and look at it again before a commit is acknowledged.

What an ordinary WAL database with synchronous=FULL still loses, and what is done about it here:

- two processes that create the file at once, or a kill while it is made: `create` links it into place when it is whole;
- a commit that a killed process had written but not synced, which the next process sees and builds upon, until the power
  goes: `wal.make_durable` writes the WAL's bytes again and syncs them before the first answer;
- a file, WAL or shared memory that is unlinked under us by another program: `named_files` looks before each
  acknowledgement;
- a sync that failed, after which the kernel calls the lost pages clean: the writer refuses all further work;
- a descriptor of the live file closed in our own process, which drops all of SQLite's locks on it: only SQLite's own VFS,
  which knows of this, opens the file here;
- a fork: `open_files`.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict

import apsw

from milepost import create, files, inherited, open_files, schema, wal
from milepost.block import outside
from milepost.bound import Bound
from milepost.connection import connect, is_sealed, refuse_foreign_header
from milepost.database import Database
from milepost.errors import (
    FailedStoreError,
    MilepostError,
    MilepostWarning,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    is_of_system,
)
from milepost.file_lock import FileLock
from milepost.lent import LentConnection, Rules
from milepost.named_files import NamedFiles
from milepost.reader import CACHE_KIB, Reader, SharedReader
from milepost.sqlite_errors import sync_failed, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from milepost.append import Appender
    from milepost.signature import Hash

Durability = Literal["full", "normal"]
"""What an acknowledgement survives: power loss, or a crash of the process."""

_LITESTREAM: Final = "SELECT 1 FROM main.sqlite_schema WHERE name = '_litestream_seq'"
"""
Finds the table that Litestream makes in a file that it replicates.

Litestream reads commits from the WAL, even one whose writer was killed before SQLite's index of the WAL had it. Litestream
keeps that index alive, so no recovery takes the commit in, and the next writer puts another one in its place.
"""

_OWN_READERS_S: Final = 0.5  # how long a reopening waits for this store's own lookups


class Options(TypedDict):
    """How a file is opened to write."""

    synchronous: Durability
    busy_timeout_ms: int
    vfs: str | None
    hmac: Hash | None
    on_connect: NotRequired[Callable[[apsw.Connection], object] | None]


class WritableDatabase(Database):
    """
    A file that one connection writes to. It is made if it is missing.

    Args:
        path: The file's absolute name.
        synchronous: `"full"` or `"normal"`.
        busy_timeout_ms: How long to wait for another writer, in ms.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash that the caller's key gives; None without a key.
        on_connect: Called with each connection that is opened to write.
    """

    writes = True

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
        self._attached: list[str] = []  # the files that on_connect has attached
        self._connection: LentConnection | None = None  # None too while it has let go of the file for a fork
        # The end of the chain as our own last commit left it, and SQLite's data_version then: it is good for as long as
        # nobody else, of this process or another, has written since.
        self._end: Appender | None = None
        self._version: int | None = None
        self._file_lock = FileLock()

    # Opening

    def _open_first(self) -> None:
        if not files.is_store_file(self.path):
            create.create(self.path, self.vfs, self.hmac)
        files.warn_of_remote(self.path)
        create.sweep(self.path)
        self._connect()

    def _connect(self) -> None:
        """Open the connection that writes."""
        open_files.refuse_inherited(self.path)
        refuse_foreign_header(self.path, self.vfs)
        if is_sealed(self.path, self.vfs):
            raise ReadOnlyStoreError(self.path, "it is an archive, which is sealed: open it with open_readonly()")
        if os.stat(self.path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
            create.refuse_second_name(self.path)
        found = files.status(f"{self.path}-wal")
        connection: LentConnection | None = None
        me = id(self)
        try:
            # Announce first, then check: a signal handler that forks before this finds no open file to keep its child from.
            # The child would write what its parent writes.
            open_files.opening_to_write[me] = open_files.mapping_to_write[me] = self.path
            self.refuse_if_ended()
            others = [other for other in open_files.opened() if other.path == self.path and other is not self]
            # Beside another writer the shared memory is mapped already, to be written to.
            if not any(isinstance(other, WritableDatabase) and other.has_open_file for other in others):
                deadline = time.monotonic() + self.busy_timeout_ms / 1000
                if not all(other.make_way(deadline) for other in others):
                    raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - undone as for every other error
                # After a fork its own readers may use a mapping that is read-only. One that goes on for long, as a check of
                # the whole file does, hardly will, and a write must not wait for it.
                self.make_way(min(deadline, time.monotonic() + _OWN_READERS_S))
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
            if me in open_files.mapping_to_write:
                del open_files.mapping_to_write[me]
            if me in open_files.opening_to_write:
                del open_files.opening_to_write[me]

    def _prepare(self, connection: LentConnection) -> None:
        self._rules = connection.rules = Rules(self.path)
        connection.set_authorizer(self._rules.judge)
        connection.set_busy_handler(self._file_lock.wait)
        self._file_lock.ask(self.busy_timeout_ms)
        self._bound = Bound(connection, self.path)
        # One cursor for all of milepost's own: the next statement ends one that an interrupt has left half read.
        self._statements = apsw.Cursor(connection)
        self._execute = self._statements.execute
        self._lent = connection
        if connection.readonly("main"):
            raise ReadOnlyStoreError(self.path, "the file cannot be written: check its permissions, or use open_readonly()")
        schema.upgrade(connection, self.path)
        self.hash: Hash = schema.chosen_hash(connection, self.path, self.hmac)
        self.hash(b"")  # refuses a missing key now, not at the first append
        if connection.pragma("journal_mode") != "wal" and connection.pragma("journal_mode", "wal") != "wal":
            raise StoreError(self.path, "the journal mode is not WAL and cannot be set: close the file everywhere else")
        connection.pragma("cache_size", -CACHE_KIB)
        connection.pragma("synchronous", self._synchronous)  # https://sqlite.org/pragma.html#pragma_synchronous
        self._leave_wal_alone(connection)
        connection.pragma("schema_version")  # a read, which maps the shared memory
        open_files.mapping_to_write.pop(id(self), None)
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
            self._attached = list(filter(None, map(connection.db_filename, connection.db_names()[1:])))
            for attached in self._attached:
                inherited.refuse(attached)
        connection.cursor_factory = self._refuse_outside

    def _make_durable(self, connection: LentConnection) -> None:
        """Before the first answer: what the file holds is durable, and the locks on it are this process's own."""
        frames = self._wal.frames()
        try:
            self._execute("BEGIN IMMEDIATE")
            self._named_files = NamedFiles(self.path)
            if len(self._named_files) < 3 and self.vfs is None:
                raise StoreError(self.path, "its WAL is not where SQLite keeps it: close the file everywhere else")
            open_files.refuse_without_locks(self.path, f"{self.path}-shm")
            unread = 0 if frames is None else wal.unread_commits(self._wal.name, self.vfs, frames[0])
            replicated = unread > 0 and self._execute(_LITESTREAM).fetchone() is not None
            wal.make_durable(self._wal.name, self.vfs)
            files.sync_directory(self.path)  # whoever made the file may have been killed before its name was durable
            self._execute("COMMIT")
        finally:
            if connection.in_transaction:
                self._execute("ROLLBACK")
        if not unread or self._wal.frames() != frames:  # a neighbour has gone on meanwhile
            return
        if unread > 1:
            warnings.warn(
                f"{self.path}: its -wal file holds {unread} commits that cannot be read, since a page before them is not as "
                "it was written: the disk has lost what it had made durable (or, with durability normal, the power went). "
                "Copy the file and its -wal aside before the next write, and compare with a head that was kept elsewhere",
                MilepostWarning,
                stacklevel=8,  # of who opens the store
            )
        if replicated:
            warnings.warn(
                f"{self.path}: a writer was killed in the middle of a commit. This file does not have that commit, but "
                "Litestream may have shipped it, and the next write would break the replica: stop Litestream, run "
                "`litestream reset`, and start it again with a new path",
                MilepostWarning,
                stacklevel=8,
            )

    def _reset(self, connection: LentConnection) -> None:
        """Undo what the caller has set on the connection, but for functions, collations and modules."""
        self._rules.ours = True
        if connection.authorizer != self._rules.judge:
            connection.set_authorizer(self._rules.judge)
        connection.cursor_factory = self._refuse_outside
        connection.row_trace = connection.exec_trace = None
        connection.set_busy_handler(self._file_lock.wait)
        connection.set_commit_hook(None)
        connection.set_rollback_hook(None)
        connection.set_wal_hook(None)
        connection.wal_autocheckpoint(0)
        self._bound.install(connection)

    def _refuse_outside(self, _connection: apsw.Connection) -> apsw.Cursor:
        raise outside(self.path)

    def _leave_wal_alone(self, connection: apsw.Connection) -> None:
        """
        Closing the connection must not write the WAL back: a sync of it would now succeed and mean nothing.

        The next opener writes the WAL again first (`wal.make_durable`); a power loss before that would leave the file half
        written back, and the WAL that would mend it gone.
        """
        with contextlib.suppress(apsw.Error):
            # APSW's own method: that of a connection which is lent to a block refuses to.
            apsw.Connection.config(connection, apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _close_connection(self) -> None:
        if self._connection is None:
            return
        try:
            # Forced: a cursor that a block has left open would keep the file open, and its locks with it. APSW's own method:
            # an interrupt that comes as one of ours begins would leave it open, and nobody would know.
            apsw.Connection.close(self._connection, True)
        except apsw.Error:  # the WAL could not be written back: the next opener does that
            pass
        finally:
            self._connection = self._end = self._version = None

    def _new_reader(self) -> Reader:
        return SharedReader(self.path, self.vfs, self.hmac)

    @property
    def has_open_file(self) -> bool:
        """Whether its connection is open; not before the first one is, nor while it has let go of the file."""
        return self._connection is not None

    @property
    def paths(self) -> Collection[str]:
        """As `Database.paths`."""
        return [self.path, *self._attached]

    @property
    def may_be_open(self) -> bool:
        """As `Database.may_be_open`."""
        return self._connection is not None or id(self) in open_files.opening_to_write or super().may_be_open

    def _connections(self) -> list[apsw.Connection]:
        return super()._connections() + ([] if self._connection is None else [self._connection])

    # A transaction

    def _begin(self) -> None:
        """Begin a transaction, with all that an append has to know."""
        self.refuse_if_ended()
        if self._connection is None:  # it has let go of the file, for a fork
            self._connect()
        self._rules.ours = True
        self._roll_back_what_was_left()
        self._file_lock.ask(self.busy_timeout_ms)
        self._execute("BEGIN IMMEDIATE")  # the lock comes before the tip is read, or another process could pass us
        self._named_files.refuse_other_memory(self._file_lock.note_taken())
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

    def _commit_transaction(self, appended: int) -> None:
        """Commit; it may be acknowledged when this returns."""
        self._execute("COMMIT")
        self._version = self._lent.data_version()
        self._before_acknowledging(appended)

    def _before_acknowledging(self, appended: int) -> None:
        """After a commit: what the caller relies on is durable, and where a reader will find it."""
        if appended == 0 and self._synchronous == "full":
            # All that was stated is recorded already, perhaps by a process that was killed before its sync.
            self._named_files.refuse_others(time.monotonic())
            self._wal.sync()
        now = time.monotonic()
        self._named_files.refuse_others(now)
        self._file_lock.wait_until(now + wal.RESTART_S)
        self._wal.write_back()

    def _told(self, error: BaseException, *, again: bool = False) -> BaseException:
        """
        What is raised for an error, a new exception for each who is told.

        Args:
            error: APSW's, the operating system's or one of ours.
            again: Another one was told already.
        """
        if self._inherited and self._ended is not None:  # whatever it is, it comes of the fork
            told: MilepostError = type(self._ended)(*self._ended.args)
        elif isinstance(error, apsw.Error | UnicodeDecodeError):
            told = translate(error, self.path, self.busy_timeout_ms)
        elif isinstance(error, MilepostError):
            told = type(error)(*error.args) if again else error
        elif isinstance(error, OSError) and is_of_system(error):
            told = files.from_os(self.path, error)
        else:
            return error
        if told is not error:
            told.__cause__ = error
        if isinstance(told, FailedStoreError):
            self._ended = FailedStoreError(*told.args)
            if self._connection is not None and (sync_failed(error) or self._named_files.have_other_memory()):
                self._leave_wal_alone(self._connection)
        return told

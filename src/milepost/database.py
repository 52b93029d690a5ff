"""
Read one file through a pool of read-only APSW connections. Each call borrows one.

A read never waits for another read, a commit or a transaction block: it takes an idle connection, or opens one. A failed
call closes its connection. A traceback that keeps its cursor can then hold no lock.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, Self, TypeVar, TypeVarTuple

import apsw

from milepost import create, files, open_files
from milepost.connection import is_sealed
from milepost.errors import (
    ClosedStoreError,
    ForkedStoreError,
    InvalidArgumentError,
    MilepostError,
    StoreBusyError,
    StoreError,
    is_of_system,
)
from milepost.reader import Reader, SnapshotReader
from milepost.sqlite_errors import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from milepost.signature import Hash

T = TypeVar("T")
Given = TypeVarTuple("Given")

OLDEST_ENGINE: Final = (3, 51, 3)
"""Older versions of SQLite can lose committed rows by the WAL-reset bug (https://sqlite.org/wal.html#walresetbug)."""

_IDLE: Final = 4  # connections kept for later reads
_ATTEMPTS: Final = 100  # to read a file that somebody keeps replacing
_WAIT_S: Final = 0.001


class Read(Protocol):
    """Run one query of rows/. `Database.read` and `Database.read_committed` do so."""

    def __call__(self, query: Callable[[apsw.Connection, *Given], T], /, *given: *Given) -> T: ...  # noqa: D102 - the protocol says it


class Database:
    """
    A file that milepost reads. `Writer` also writes to it.

    Args:
        path: The file's absolute name.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash with the caller's key; None without a key.
    """

    hash: Hash
    """The hash function of the chain's links."""

    busy_timeout_ms = 5000
    writes = False

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
        if vfs is not None and (type(vfs) is not str or vfs not in apsw.vfs_names()):
            raise InvalidArgumentError("vfs", vfs, f"must be the name of an SQLite VFS, one of {apsw.vfs_names()}")
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < OLDEST_ENGINE:
            raise StoreError(
                path,
                f"SQLite {apsw.sqlite_lib_version()} can lose committed rows: install an APSW with SQLite "
                f"{'.'.join(map(str, OLDEST_ENGINE))} or newer",
            )
        self.path = path
        self.vfs = vfs
        self.hmac: Hash | None = hmac
        self._process = os.getpid()
        # Why this file accepts no more calls: closed, forked or failed.
        self._ended: StoreError | None = None
        # All open readers, by id(). Weak references, so that a reader dropped by an interrupt disappears.
        self._readers: dict[int, weakref.ref[Reader]] = {}
        self._idle: deque[Reader] = deque()
        self._closing = False  # no reader opens any more
        self._inherited = False  # this process is the child of a fork, and what is open is its parent's

    def open(self) -> Self:
        """
        Open the file, so that its errors come now.

        Raises:
            StoreError: It cannot be opened.
        """
        try:
            open_files.register(self)
            self._open_first()
        except BaseException as error:
            self.close()
            self._raise_as_ours(error)
            raise
        return self

    def __reduce__(self) -> NoReturn:
        raise StoreError(self.path, "a store cannot be pickled or copied: hand over its path, and open it there")

    def _open_first(self) -> None:
        reader = self._open_reader()
        self.hash = reader.hash
        self._idle.append(reader)

    def _new_reader(self) -> Reader:
        return SnapshotReader(self.path, self.vfs, self.hmac)

    def read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a read-only query that reads everything before it returns. In your own block it sees the block's writes."""
        return self.read_committed(query, *given)

    def read_committed(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a query as `read` does, but see committed entries only. It never waits for a transaction block."""
        if self._ended is not None or os.getpid() != self._process:
            self.refuse_if_ended()
        reader = None
        try:
            try:
                reader = self._idle.pop()
            except IndexError:
                reader = self._open_reader()
            for _ in range(_ATTEMPTS):
                if reader.closed or (reader.may_go_stale and reader.stale()):
                    self._discard(reader)
                    reader = self._open_reader()
                reader.bound.steps = 0
                try:
                    result = query(reader.connection, *given)
                except (apsw.Error, UnicodeDecodeError) as error:
                    reader.refuse_another_version(error)
                    if not (reader.may_go_stale and reader.outdated_by(error)):
                        raise
                    self._discard(reader)
                    continue
                if self._inherited:  # a signal handler has forked meanwhile, and the lock on what was read is the parent's
                    self.refuse_if_ended()
                if reader.may_go_stale and reader.stale():  # the result may mix two files
                    continue
                if self._closing or open_files.forking or open_files.mapping_to_write or len(self._idle) >= _IDLE:
                    self._discard(reader)
                else:
                    self._idle.append(reader)
                return result
            raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - the handler below closes the reader
        except BaseException as error:
            self._discard(reader)
            self._raise_as_ours(error)
            raise

    def read_on_own_connection(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a query as `read_committed` does, on a connection of its own. Use it for slow queries and foreign SQL."""
        self.refuse_if_ended()
        own = Database(self.path, self.vfs, self.hmac)
        try:  # opened inside it: an interrupt would leave it open, since `open_files` knows it
            own.open()
            return own.read_committed(query, *given)
        finally:
            own.close()

    def copy_to(self, path: str) -> None:
        """Copy the committed contents exactly, on a connection of its own, so that other threads continue."""
        create.backup(self.read_on_own_connection, path)

    @property
    def sealed(self) -> bool:
        """Whether the file is an archive, which nobody writes to."""
        try:
            return is_sealed(self.path, self.vfs)
        except apsw.Error as error:
            raise translate(error, self.path, self.busy_timeout_ms) from error

    @property
    def closed(self) -> bool:
        """True if the file is closed, or was carried over a fork."""
        return isinstance(self._ended, ClosedStoreError | ForkedStoreError)

    def close(self) -> None:
        """Close the file, after reads in other threads have ended. A second call does nothing."""
        if not self.closed:
            # Set last: after an interrupt, the next close() finishes the work.
            self._closing = True
            self.close_readers(time.monotonic() + self.busy_timeout_ms / 1000)
            open_files.forget(self)
            self._ended = ClosedStoreError(self.path, "the store is closed: open it again")

    def _open_reader(self) -> Reader:
        deadline = time.monotonic() + self.busy_timeout_ms / 1000
        open_files.refuse_inherited(self.path)  # without its locks, what it reads may be overwritten under it
        reader = self._new_reader()
        try:
            while True:
                self.refuse_if_ended()
                # Register first, then check. A fork, or an opening to write, announces itself first, and then waits for
                # the registered readers. Either side therefore sees the other.
                self._readers[reader.key] = weakref.ref(reader)
                waits = self._closing or open_files.forks_elsewhere()
                if not waits and self.path not in open_files.mapping_to_write.values():
                    break
                self._discard(reader)
                if time.monotonic() > deadline:
                    raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - the handler below closes the reader
                time.sleep(_WAIT_S)
            reader.open()
        except BaseException:
            self._discard(reader)
            raise
        return reader

    def _discard(self, reader: Reader | None) -> None:
        if reader is not None:
            try:
                reader.close()
            finally:
                self._readers.pop(reader.key, None)  # whatever closing it met, or close() of the file would wait for it

    def _close_idle_readers(self) -> None:
        while True:
            reader = None
            try:
                reader = self._idle.pop()
            except IndexError:
                return
            finally:
                if reader is not None:
                    try:
                        reader.connection.close(True)  # directly: an interrupt could come as a method of ours begins
                    except apsw.Error:  # it only reads, so there is nothing to lose
                        pass
                    finally:
                        self._readers.pop(reader.key, None)  # else an interrupt's traceback would keep it, and others wait
            self._discard(reader)

    def close_readers(self, deadline: float) -> bool:
        """Close the idle readers and wait for the others. Return whether all closed by the deadline (monotonic)."""
        while True:
            self._close_idle_readers()
            if not any(reader() is not None for reader in list(self._readers.values())):
                self._readers.clear()
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_WAIT_S)

    def refuse_if_ended(self) -> None:
        """
        Refuse any call after the file was closed, after a fork in the child, and after a failure.

        Raises:
            StoreError: Its class says which of these.
        """
        if os.getpid() != self._process and not self.closed:
            open_files.notice_a_fork()  # before it is given up: what was open decides whether the child may use the file
            self.carried_over()
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)  # a new one each time: several threads may raise it

    def _raise_as_ours(self, error: BaseException) -> None:
        """
        Raise a MilepostError in place of SQLite's or the system's. Others, such as one of the caller's, pass.

        In a child that was forked within the call, it is a ForkedStoreError: whatever the call fails with comes of that.
        """
        if not isinstance(error, apsw.Error | UnicodeDecodeError | OSError | MilepostError):
            return
        if self._inherited and self._ended is not None:
            raise type(self._ended)(*self._ended.args) from error
        if isinstance(error, apsw.Error | UnicodeDecodeError):
            raise translate(error, self.path, self.busy_timeout_ms) from error
        if is_of_system(error) and not isinstance(error, MilepostError):
            raise files.from_os(self.path, error) from error

    # The hooks that a fork calls (open_files.py)

    @property
    def paths(self) -> Collection[str]:
        """The file, and those that are attached to its connection."""
        return [self.path]

    @property
    def may_be_open(self) -> bool:
        """Whether a connection is open, or was about to be opened when another thread forked."""
        return any(reader() is not None for reader in list(self._readers.values()))

    def let_go(self, deadline: float) -> bool:
        """Close every connection before a fork, while `open_files.forking` has others wait. Return whether all closed."""
        return self.close_readers(deadline)

    def take_back(self) -> None:
        """Go on in the parent after a fork."""

    def make_way(self, deadline: float) -> bool:
        """Close the readers, because they have mapped the shared memory read-only."""
        return self.close_readers(deadline)

    def carried_over(self) -> None:
        """Give up every inherited connection in the child of a fork, without even closing it."""
        self._inherited = True
        self._ended = ForkedStoreError(
            self.path, "this store was opened before a fork: open a store of its own in the child process"
        )
        for connection in self._connections():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._readers, self._idle = {}, deque()

    def _connections(self) -> list[apsw.Connection]:
        readers = [reader() for reader in list(self._readers.values())]
        return [reader.connection for reader in readers if reader is not None and hasattr(reader, "connection")]

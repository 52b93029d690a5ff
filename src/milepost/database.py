"""
Read one file through APSW: connections that only read, lent to one call at a time.

A read never waits for another read, for a commit or for a transaction block: it takes a connection that is idle, or opens
one. A call that fails closes its connection, so that a cursor which a kept traceback holds open pins nothing.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar, TypeVarTuple

import apsw

from milepost import creation, files, open_files
from milepost.errors import (
    ClosedStoreError,
    ForkedStoreError,
    InvalidArgumentError,
    MilepostError,
    StoreBusyError,
    StoreError,
)
from milepost.reader import Reader, SnapshotReader
from milepost.sqlite_errors import translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.signature import Hash

T = TypeVar("T")
Given = TypeVarTuple("Given")

OLDEST_ENGINE: Final = (3, 51, 3)
"""Older SQLites have the WAL-reset race, which loses committed rows (https://sqlite.org/wal.html#walresetbug)."""

_IDLE: Final = 4  # connections that are kept for the next read
_ATTEMPTS: Final = 100  # at a file that somebody replaces while it is read
_WAIT_S: Final = 0.001
CLOSING: Final = -1  # no thread


class Read(Protocol):
    """Run one query of rows/: `read` or `read_committed` of a database."""

    def __call__(self, query: Callable[[apsw.Connection, *Given], T], /, *given: *Given) -> T: ...  # noqa: D102 - the protocol says it


class Database:
    """
    A file that is read; `Writer` is one that is written to as well.

    Args:
        path: The file's absolute name.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash that the caller's key gives; None without a key.
    """

    hash: Hash
    """What links are made with."""

    busy_timeout_ms = 5000

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
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
        self._hmac = hmac
        self._process = os.getpid()
        # Why nothing more can be done here: closed, forked or failed.
        self._ended: StoreError | None = None
        # All that are open, by id(): weak, so that one which an interrupt has let drop is gone.
        self._readers: dict[int, weakref.ref[Reader]] = {}
        self._idle: deque[Reader] = deque()
        self._paused: set[int] = set()  # threads that have had it let go of the file: meanwhile no reader is opened

    def open(self) -> Self:
        """
        Open the file, so that what is wrong with it is told now.

        Raises:
            StoreError: It cannot be opened.
        """
        open_files.register(self)
        try:
            self._open_first()
        except BaseException as error:
            self.close()
            if isinstance(error, apsw.Error | UnicodeDecodeError):
                raise translate(error, self.path, self.busy_timeout_ms) from error
            if isinstance(error, OSError) and not isinstance(error, MilepostError):
                raise files.from_os(self.path, error) from error
            raise
        return self

    def _open_first(self) -> None:
        reader = self._open_reader()
        self.hash = reader.hash
        self._idle.append(reader)

    def _new_reader(self) -> Reader:
        return SnapshotReader(self.path, self.vfs, self._hmac)

    def read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """Run a query that only reads, and finishes reading before it returns; inside one's own block it sees the block."""
        return self.read_committed(query, *given)

    def read_committed(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `read`, of what is committed: it never waits for a transaction block, nor sees into it."""
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
                if reader.may_go_stale and reader.stale():  # half of it may be of one file, and half of another
                    continue
                if self._paused or open_files.opening_to_write or len(self._idle) >= _IDLE:
                    self._discard(reader)
                else:
                    self._idle.append(reader)
                return result
            raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - and as for every other error
        except BaseException as error:
            self._discard(reader)
            if isinstance(error, OSError) and not isinstance(error, MilepostError):
                raise files.from_os(self.path, error) from error
            if isinstance(error, apsw.Error | UnicodeDecodeError):
                raise translate(error, self.path, self.busy_timeout_ms) from error
            raise

    def read_apart(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        """As `read_committed`, on a connection that nothing else uses: for what takes long, or is not our own SQL."""
        self.refuse_if_ended()
        apart = Database(self.path, self.vfs, self._hmac).open()
        try:
            return apart.read_committed(query, *given)
        finally:
            apart.close()

    def copy_to(self, path: str) -> None:
        """Make an exact copy of what is committed, on a connection of its own: other threads go on."""
        creation.backup(self.read_apart, path)

    @property
    def closed(self) -> bool:
        """Whether nothing is left to be closed."""
        return isinstance(self._ended, ClosedStoreError | ForkedStoreError)

    def close(self) -> None:
        """Close the file. A second call does nothing; reads under way in other threads end first."""
        if not self.closed:
            # Ended last: a close that an interrupt ends is closed by the next one.
            self._paused.add(CLOSING)
            self.close_readers(time.monotonic() + self.busy_timeout_ms / 1000)
            self._ended = ClosedStoreError(self.path, "the store is closed: open it again")
            open_files.forget(self)

    def _open_reader(self) -> Reader:
        deadline = time.monotonic() + self.busy_timeout_ms / 1000
        reader = self._new_reader()
        try:
            while True:
                self.refuse_if_ended()
                # It is there to be waited for before the look whether it may be: who lets go of the file, or opens it to
                # write, says so before it looks whom to wait for.
                self._readers[reader.key] = weakref.ref(reader)
                if not self._paused and self.path not in open_files.opening_to_write.values():
                    break
                self._discard(reader)
                if time.monotonic() > deadline:
                    raise StoreBusyError(self.path, self.busy_timeout_ms)  # noqa: TRY301 - and as after every error
                time.sleep(_WAIT_S)
            reader.open()
        except BaseException:
            self._discard(reader)
            raise
        return reader

    def _discard(self, reader: Reader | None) -> None:
        if reader is not None:
            reader.close()
            self._readers.pop(reader.key, None)

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
                        reader.connection.close(True)  # at once: a call of ours could be interrupted as it begins
                    finally:
                        self._readers.pop(reader.key, None)  # else it is waited for while an interrupt's traceback has it
            self._discard(reader)

    def close_readers(self, deadline: float) -> bool:
        """Close the idle ones, and let those in use close as they end; whether all did by the deadline (monotonic)."""
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
        Nothing more can be done once it is closed, was carried over a fork, or has failed.

        Raises:
            StoreError: Which of these.
        """
        if os.getpid() != self._process and not self.closed:
            self.carried_over()
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)  # a new one each time: threads may raise it side by side

    # What a fork asks of an open file (open_files.py)

    def let_go(self, deadline: float) -> bool:
        """Close every connection; reads wait from now on."""
        self._paused.add(threading.get_ident())
        return self.close_readers(deadline)

    def take_back(self) -> None:
        """Reads go on."""
        self._paused.discard(threading.get_ident())

    def make_way(self, deadline: float) -> bool:
        """Close the readers, whose shared memory is mapped read-only."""
        return self.close_readers(deadline)

    def carried_over(self) -> None:
        """In the child: a connection that is still there is never touched again, not even to close it."""
        self._ended = ForkedStoreError(
            self.path, "this store was opened before a fork: open a store of its own in the child process"
        )
        for connection in self._connections():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._readers, self._idle = {}, deque()

    def _connections(self) -> list[apsw.Connection]:
        readers = [reader() for reader in self._readers.values()]
        return [reader.connection for reader in readers if reader is not None and not reader.closed]

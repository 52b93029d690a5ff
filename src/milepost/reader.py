"""
One read-only connection. Its answers are consistent whatever lies beside the file, and while others change it.

`SnapshotReader` changes no byte of the file or its directory. It reads a WAL database in one of four ways:

- `-wal` and `-shm` exist: a pipeline is writing, or was killed. SQLite reads as usual, with the shared memory mapped
  read-only (https://sqlite.org/uri.html, `mode=ro`, `readonly_shm`).
- Neither exists after a clean close, or the WAL has no frame. SQLite reads with `immutable`, and takes no lock. An answer
  counts only if the file is the same before and after. If a WAL appears, the reader opens the file again.
- Only `-wal` exists, as in a copy made by hand. SQLite would have to make a `-shm`, so the reader reads a copy of both.
- A writer was killed while it changed the `-shm`. SQLite would have to rebuild it, and the next writer does so when it
  opens the file. The reader waits for that; if no writer comes, it reads a copy.

For a file of an older version, the reader upgrades a copy, and reads that.

`SharedReader` belongs to a store that also writes. Such a store keeps `-wal` and `-shm` in order.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, schema, wal
from milepost.bound import Bound
from milepost.connection import connect, refuse_foreign_header
from milepost.errors import MilepostError, SchemaVersionError, StoreBusyError, StoreError, is_of_system

if TYPE_CHECKING:
    from milepost.signature import Hash

CACHE_KIB: Final = 16_384  # with SQLite's default of 2 MiB, a large batch writes each page of the key index many times

_ATTEMPTS: Final = 100
_WAITS: Final = 10
_WAIT_S: Final = 0.005
_BUSY_TIMEOUT_MS: Final = 5000

_Found = tuple[tuple[int, ...] | None, ...]


class Reader(ABC):
    """
    A read-only connection, its bound, and the hash of the chain.

    Args:
        path: The file's absolute name.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash with the caller's key; None without a key.
    """

    connection: apsw.Connection
    bound: Bound
    hash: Hash
    may_go_stale: bool
    """True if the caller must check `stale` before and after each read."""

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
        self.key: int = id(self)  # its database finds it by this, without a call that an interrupt could follow
        self._path, self._vfs, self._hmac = path, vfs, hmac
        self.closed: bool = True

    @abstractmethod
    def open(self) -> None:
        """Open the file. An error leaves nothing open."""

    def stale(self) -> bool:
        """Return whether the file has changed, so that the reader must open it again."""
        return False

    def outdated_by(self, error: Exception) -> bool:
        """Return whether an error only means that the reader must open the file again."""
        del error
        return False

    def refuse_another_version(self, error: Exception) -> None:
        """
        Refuse the file if a statement failed because another process has upgraded it. Its tables may differ then.

        Raises:
            SchemaVersionError: Another process has upgraded the file.
        """
        if isinstance(error, apsw.SQLError):
            schema.refuse_another_version_now(self.connection, self._path)

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self.closed = True
        if hasattr(self, "connection"):
            with contextlib.suppress(apsw.Error):
                # Forced: a cursor that somebody keeps would hold the file open, with its locks.
                self.connection.close(True)

    def _connect(self, path: str, how: str, *, upgrade: bool = False) -> None:
        self.closed = False
        self.connection = connect(path, how, self._vfs, _BUSY_TIMEOUT_MS)
        self.bound = Bound(self.connection, self._path)
        if upgrade:
            schema.upgrade(self.connection, self._path)
        self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        self.connection.pragma("query_only", True)
        self.connection.pragma("cache_size", -CACHE_KIB)
        schema.refuse_another_shape(self.connection, self._path)
        self.hash = schema.chosen_hash(self.connection, self._path, self._hmac)
        self.bound.steps = None


class SharedReader(Reader):
    """A reader of a store that also writes. The writer checks whether the file is still the same."""

    may_go_stale = False

    def open(self) -> None:
        """Open the file as a writer does, but allow reads only."""
        try:
            self._connect(self._path, "mode=rw")
            # Only the writer writes the WAL back, because it can handle a failed sync.
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        except BaseException:
            self.close()
            raise


class SnapshotReader(Reader):
    """A reader that changes no byte of the file or its directory."""

    may_go_stale = True

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
        super().__init__(path, vfs, hmac)
        self._copy: files.TemporaryDirectory | None = None
        self._live = False
        self._surroundings: _Found = ()
        self._file: object = None  # which file had the name when it was opened
        self._identity = files.identity_of(path)

    def open(self) -> None:
        """Open the file, again if it changed meanwhile: the first look may have seen half of each version."""
        if not files.is_store_file(self._path):
            raise StoreError(self._path, "no such file: check the path, or create it with CheckpointStore()")
        waits = 0
        for _ in range(_ATTEMPTS):
            try:
                self._open_as_found(waited=waits == _WAITS)
            except (apsw.Error, UnicodeDecodeError, MilepostError, OSError) as error:
                self.close()
                if isinstance(error, OSError) and not is_of_system(error):
                    raise
                if _needs_recovery(error) and waits < _WAITS:
                    waits += 1
                    time.sleep(_WAIT_S)
                elif self._look() == self._surroundings:
                    raise
            except BaseException:
                self.close()
                raise
            else:
                return
        raise StoreBusyError(self._path, _BUSY_TIMEOUT_MS)

    def stale(self) -> bool:
        """Return whether the files have changed. With a live WAL, SQLite sees changes, so only the name is checked."""
        if self._live:
            return self._identity() != self._file
        return self._look() != self._surroundings

    def outdated_by(self, error: Exception) -> bool:
        """Return whether the WAL's index needs a writer to rebuild it, or the files have changed."""
        return _needs_recovery(error) or self.stale()

    def close(self) -> None:
        """Close the connection, and remove the copy if there is one."""
        super().close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _open_as_found(self, *, waited: bool) -> None:
        self._surroundings = self._look()
        self._file = self._identity()
        _, of_wal, of_shm = self._surroundings
        # A header without a frame holds no data. Its writer may be dead, and SQLite would wait for it forever.
        frames = of_wal is not None and of_wal[0] > wal.HEADER_BYTES
        self._live = of_shm is not None and frames and not waited
        refuse_foreign_header(self._path, self._vfs)
        with files.opening(self._path):
            if frames and not self._live:
                self._connect_to_copy()
                return
            try:
                self._connect(self._path, "mode=ro&readonly_shm=1" if self._live else "mode=ro&immutable=1")
            except SchemaVersionError as error:
                if error.found not in schema.UPGRADES:
                    raise
                super().close()
                self._live = False
                self._connect_to_copy()

    def _look(self) -> _Found:
        """Return size, modification time and identity of the file, its -wal and its -shm; None for a missing one."""
        found: list[tuple[int, ...] | None] = []
        for suffix in ("", "-wal", "-shm"):
            try:
                status = os.stat(self._path + suffix)  # noqa: PTH116 - fast, and opens no descriptor
                found.append((status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                found.append(None)
            except OSError as error:
                raise files.from_os(self._path + suffix, error) from error
        return tuple(found)

    def _connect_to_copy(self) -> None:
        """Read a copy that may be changed: recovered from its WAL, and upgraded."""
        self._copy, copy = files.copy_to_temporary(self._path, self._vfs)
        self._connect(copy, "mode=rw", upgrade=True)


def _needs_recovery(error: Exception) -> bool:
    """Return whether a reader found a WAL whose index only a writer can rebuild."""
    return getattr(error, "extendedresult", 0) in {apsw.SQLITE_READONLY_RECOVERY, apsw.SQLITE_READONLY_CANTINIT}

"""
One connection that reads, opened so that what it reads is whole, whatever lies beside the file and is done to it.

`SnapshotReader` changes no byte of the file or its directory. How a WAL database can be read without writing depends on what
lies beside it:

- `-wal` and `-shm`, from a pipeline that is writing or was killed: SQLite's ordinary way, with the shared memory
  mapped read-only (https://sqlite.org/uri.html, `mode=ro`, `readonly_shm`);
- nothing, after a clean close, or a WAL without a frame: `immutable`. SQLite then takes no lock, so each answer counts
  only if the file was the same before and after, and a WAL that appears makes us open it anew;
- a `-wal` alone, as in a copy made by hand: SQLite would have to make a `-shm`, so a copy of both is read;
- a `-wal` and a `-shm` that a writer was killed in the middle of changing: SQLite would have to make it anew. The next
  writer does so as it opens the file, so that is waited for; if none comes, a copy is read.

A file of an older version is read from a copy too, which is upgraded.

`SharedReader` is that of a store which writes to the file itself, and so has `-wal` and `-shm` in order.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, schema, wal
from milepost.bound import Bound
from milepost.connection import connect, refuse_foreign_header
from milepost.errors import MilepostError, SchemaVersionError, StoreBusyError, StoreError

if TYPE_CHECKING:
    from milepost.signature import Hash

CACHE_KIB: Final = 16_384  # with SQLite's own 2 MiB a large batch writes each page of the key index many times

_ATTEMPTS: Final = 100
_WAITS: Final = 10
_WAIT_S: Final = 0.005
_BUSY_TIMEOUT_MS: Final = 5000

_Found = tuple[tuple[int, ...] | None, ...]


class Reader(ABC):
    """
    A connection that reads, its bound, and the hash of the chain.

    Args:
        path: The file's absolute name.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        hmac: The hash that the caller's key gives; None without a key.
    """

    connection: apsw.Connection
    bound: Bound
    hash: Hash
    may_go_stale: bool
    """Whether `stale` has to be asked before and after each read."""

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
        self.key: int = id(self)  # what its database finds it by, without a call that an interrupt could follow
        self._path, self._vfs, self._hmac = path, vfs, hmac
        self.closed: bool = True

    @abstractmethod
    def open(self) -> None:
        """Open the file; what goes wrong leaves nothing open."""

    def stale(self) -> bool:
        """Whether it has to be opened anew, because the file is another one than it was."""
        return False

    def outdated_by(self, error: Exception) -> bool:
        """Whether an error only says that it has to be opened anew."""
        del error
        return False

    def refuse_another_version(self, error: Exception) -> None:
        """
        A newer version may have other tables: where a statement fails, that is what to say.

        Raises:
            SchemaVersionError: Another process has upgraded the file.
        """
        if isinstance(error, apsw.SQLError):
            schema.refuse_another_version_now(self.connection, self._path)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.closed = True
        if hasattr(self, "connection"):
            with contextlib.suppress(apsw.Error):
                # Forced: a cursor that somebody has kept would keep the file open, and its locks with it.
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
    """A reader beside the writer of the same store, which looks whether the file is still the same."""

    may_go_stale = False

    def open(self) -> None:
        """Open it as a writer would, and let it only read."""
        try:
            self._connect(self._path, "mode=rw")
            # The writer writes the WAL back, which knows what a sync that fails means.
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        except BaseException:
            self.close()
            raise


class SnapshotReader(Reader):
    """A reader that changes no byte."""

    may_go_stale = True

    def __init__(self, path: str, vfs: str | None, hmac: Hash | None) -> None:
        super().__init__(path, vfs, hmac)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._live = False
        self._surroundings: _Found = ()
        self._file: object = None  # which file the name stood for as it was opened
        self._identity = files.identity_of(path)

    def open(self) -> None:
        """Open it, again if it changed meanwhile: what was read then may have been half old and half new."""
        if not files.is_store_file(self._path):
            raise StoreError(self._path, "no such file: check the path, or open it with CheckpointStore() to make it")
        waits = 0
        for _ in range(_ATTEMPTS):
            try:
                self._open_as_found(waited=waits == _WAITS)
            except (apsw.Error, UnicodeDecodeError, MilepostError, OSError) as error:
                self.close()
                if _unrecovered(error) and waits < _WAITS:
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
        """Whether the files are no longer what they were; of a live WAL SQLite itself sees to that, and we to its name."""
        if self._live:
            return self._identity() != self._file
        return self._look() != self._surroundings

    def outdated_by(self, error: Exception) -> bool:
        """Whether the WAL's index has to be made anew, which only a writer may, or the files are others by now."""
        return _unrecovered(error) or self.stale()

    def close(self) -> None:
        """As `Reader.close`; what it has copied is removed."""
        super().close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _open_as_found(self, *, waited: bool) -> None:
        self._surroundings = self._look()
        self._file = self._identity()
        _, of_wal, of_shm = self._surroundings
        # A header without a frame says nothing, and SQLite would wait for ever for the writer that was killed after it.
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
        """Size, modification time and identity of the file, its -wal and its -shm; None for one that is not there."""
        found: list[tuple[int, ...] | None] = []
        for suffix in ("", "-wal", "-shm"):
            try:
                status = os.stat(self._path + suffix)  # noqa: PTH116 - a hot path, and no descriptor is opened
                found.append((status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                found.append(None)
            except OSError as error:
                raise files.from_os(self._path + suffix, error) from error
        return tuple(found)

    def _connect_to_copy(self) -> None:
        """Read a copy, which may be written to: recovered from its WAL, and upgraded."""
        self._copy, copy = files.copied(self._path, self._vfs)
        self._connect(copy, "mode=rw", upgrade=True)


def _unrecovered(error: Exception) -> bool:
    """Whether a reader found a WAL whose index has to be made anew, which only a writer may."""
    return getattr(error, "extendedresult", 0) in {apsw.SQLITE_READONLY_RECOVERY, apsw.SQLITE_READONLY_CANTINIT}

"""
Files on the disk: which there are, and what they are; the only place that reads or writes bytes of one.

Nothing here opens a file of a store but SQLite's own VFS. Closing a descriptor of our own would drop all locks that this
process has on the file (https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
import warnings
from typing import TYPE_CHECKING, Final, Protocol

import apsw

from milepost.errors import (
    InvalidArgumentError,
    MilepostError,
    MilepostWarning,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreError,
    StoreFullError,
)
from milepost.filesystem import remote_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_AT_FDCWD: Final = -100
_STATX_INO: Final = 0x100
# PyDLL: it is asked at each commit, and to give up the interpreter and take it again would cost more than the call.
_statx: Final = getattr(ctypes.PyDLL(None), "statx", None) if sys.platform == "linux" else None

PIECE_BYTES: Final = 1 << 16  # SQLite's own VFS takes fewer than 2^17 bytes at a time
_LONGEST_PATH: Final = 4096  # longer than any file system takes; resolving one of megabytes would take minutes


def absolute(path: object) -> str:
    """
    The one absolute name of a file, symbolic links resolved.

    A path is a path: `:memory:`, `file:x?mode=ro` and `` are names to SQLite, and options to nobody.

    Raises:
        InvalidArgumentError: It is not the path of a file.
    """
    try:
        given = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        raise InvalidArgumentError("path", path, "must be a str or a path object") from None
    if type(given) is bytes:
        given = os.fsdecode(given)
    if type(given) is not str or not given or "\0" in given:
        raise InvalidArgumentError("path", path, "must be a path without NUL characters")
    try:
        length = len(given.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("path", path, "must be UTF-8, as SQLite's VFS takes names: rename the file") from None
    if length > _LONGEST_PATH:
        raise InvalidArgumentError("path", path, f"must have at most {_LONGEST_PATH:,} bytes")
    return os.path.realpath(given)


def is_store_file(path: str) -> bool:
    """Whether there is a file that may be a store; False if there is nothing, an error if it is anything else."""
    try:
        status = os.stat(path)  # noqa: PTH116 - nothing may open the file
    except FileNotFoundError:
        if not os.path.isdir(directory(path)):  # noqa: PTH112
            raise StoreError(path, "its directory does not exist: make it first") from None
        return False
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise NotAStoreError(path, f"{kind}: name a file for the checkpoints")
    if status.st_size == 0:
        raise NotAStoreError(path, "empty, which a store never is: restore it from a copy, or remove it to start anew")
    return True


def size_bytes(path: str) -> int:
    """How large a file is, together with its WAL; of what is not on the disk, 0."""
    size = 0
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            size += os.stat(path + suffix).st_size  # noqa: PTH116 - nothing may open the file
    return size


def warn_of_remote(path: str) -> None:
    """Warn where another machine may have the file."""
    kind = remote_kind(path)
    if kind is not None:
        warnings.warn(
            f"{path}: on a file system of the kind {kind}, which another machine may share: its locks and the shared memory "
            "of the WAL cannot be relied upon; keep the store on a local disk, and copy it with backup()",
            MilepostWarning,
            stacklevel=4,
        )


@contextlib.contextmanager
def vfs_file(path: str, vfs: str | None, flags: int) -> Iterator[apsw.VFSFile | None]:
    """A file, opened through the VFS, so that a test that records what reaches the disk sees it too; None for no file."""
    try:
        file = apsw.VFSFile(vfs or "", path, [flags, 0])
    except apsw.CantOpenError:
        yield None
        return
    try:
        yield file
    finally:
        file.xClose()


def read(file: Readable | None, length: int, offset: int) -> bytes:
    """What there is to read, up to `length` bytes."""
    return b"" if file is None else file.xRead(max(0, min(length, file.xFileSize() - offset)), offset)


class Readable(Protocol):
    """What can be read as bytes: an apsw.VFSFile, for one."""

    def xFileSize(self) -> int: ...  # noqa: D102, N802 - APSW's names
    def xRead(self, amount: int, offset: int) -> bytes: ...  # noqa: D102, N802


def identity_of(path: str) -> Callable[[], object]:
    """
    A function that tells, each time it is called, which file a name stands for (its inode and device), or None for no file.

    It asks for nothing else. Since Linux 6.13 a file whose times were asked for gets new ones with the next
    write, which the next sync has to make durable: with `os.stat` at each commit a durable append took 270 µs, not 180.

    Source:
        statx(2); https://docs.kernel.org/filesystems/multigrain-ts.html
    """
    encoded, found = os.fsencode(path), ctypes.create_string_buffer(256)

    def identity() -> object:
        if _statx is not None and _statx(_AT_FDCWD, encoded, 0, _STATX_INO, found) == 0:
            return found[32:40], found[136:144]
        try:
            status = os.stat(path)  # noqa: PTH116 - runs at each commit: 1 µs, pathlib 3 µs
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_dev

    return identity


def directory(path: str) -> str:
    """The directory of a file."""
    return os.path.dirname(path)  # noqa: PTH120 - `path` is a str, whatever it contains


def sync_directory(path: str) -> None:
    """Make the entry of a file in its directory durable."""
    if os.name == "nt":  # a directory cannot be opened there, and its entries are journalled
        return
    opened = os.open(directory(path), os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def from_os(path: str, error: OSError) -> MilepostError:
    """The exception of ours for one of the operating system's."""
    if isinstance(error, MilepostError):  # StoreBusyError is a TimeoutError, and so an OSError
        return error
    if isinstance(error, PermissionError) or error.errno == 30:  # EROFS
        return ReadOnlyStoreError(path, f"{error.strerror}: check the permissions of the file and its directory")
    if error.errno == 28:  # ENOSPC
        return StoreFullError(path, "no space left on the disk: free some and try again")
    return StoreError(path, f"{error.strerror}: check the path and the disk")

"""
Files on the disk: which there are, and what they are; the only place that reads or writes bytes of one.

Nothing here opens a file of a store but SQLite's own VFS. Closing a descriptor of our own would drop all locks that this
process has on the file (https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
import tempfile
import warnings
from pathlib import Path
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
_LONGEST_GIVEN: Final = 4096  # longer than any file system takes; resolving one of megabytes would take minutes
LONGEST_PATH: Final = 504  # of the 512 that SQLite's VFS for Unix has for a name, 8 are for "-journal"
_NO_SYNC: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""What says that there is no file. Anything else, such as no permission, says that nobody knows."""


def absolute(path: object) -> str:
    """
    The one absolute name of a store's file, symbolic links resolved.

    Raises:
        InvalidArgumentError: It is not the path of a file, or one that is too long for SQLite.
    """
    resolved = real(path)
    length, name_bytes = len(os.fsencode(resolved)), len(os.fsencode(os.path.basename(resolved)))  # noqa: PTH119
    if os.name == "posix" and length > LONGEST_PATH:
        rule = f"SQLite takes {LONGEST_PATH} bytes, directory and all, and this has {length}: choose a shorter path"
        raise InvalidArgumentError("path", resolved, rule)
    longest = _longest_name(directory(resolved)) - len("-wal")
    if name_bytes > longest:
        rule = f"its name may have {longest} bytes, since its -wal has 4 more, and has {name_bytes}: choose a shorter one"
        raise InvalidArgumentError("path", resolved, rule)
    return resolved


def real(path: object) -> str:
    """
    The one absolute name of any file, symbolic links resolved, as Python's own functions take it.

    A path is a path: `:memory:`, `file:x?mode=ro` and `` are names to SQLite, and options to nobody. What the locale
    cannot spell is taken as UTF-8, which is what SQLite takes.

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
        encoded = _in_bytes(given)
        if len(encoded) > _LONGEST_GIVEN:
            raise InvalidArgumentError("path", path, f"must have at most {_LONGEST_GIVEN:,} bytes")
        resolved = os.path.realpath(os.fsdecode(encoded))
        for_sqlite(resolved)
    except UnicodeError:
        raise InvalidArgumentError("path", path, "must be UTF-8, as SQLite's VFS takes names: rename the file") from None
    return resolved


def for_sqlite(path: str) -> str:
    """
    A path as SQLite takes names: its bytes read as UTF-8, whatever the locale makes of them.

    Source:
        https://sqlite.org/c3ref/open.html; https://docs.python.org/3/glossary.html#term-filesystem-encoding-and-error-handler
    """
    return os.fsencode(path).decode()


def _in_bytes(given: str) -> bytes:
    """The bytes of a path as somebody gave it."""
    try:
        return os.fsencode(given)
    except UnicodeEncodeError:  # text of a program, which the locale cannot spell
        return given.encode()


def _longest_name(folder: str) -> int:
    """How many bytes a name may have in a directory."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):  # Windows; a directory that is not there is told of by who needs it
        return 255


def status(path: str) -> os.stat_result | None:
    """
    What a file is; None if there is none.

    Raises:
        StoreError: Nobody can tell, for the reason that it gives.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - nothing may open the file
    except _ABSENT:
        return None
    except OSError as error:
        raise from_os(path, error) from error


def is_store_file(path: str) -> bool:
    """Whether there is a file that may be a store; False if there is nothing, an error if it is anything else."""
    found = status(path)
    if found is None:
        if os.path.isdir(directory(path)):  # noqa: PTH112
            return False
        if os.path.lexists(directory(path)):
            raise StoreError(path, "what stands where its directory should be is a file: choose another path")
        raise StoreError(path, "its directory does not exist: make it first")
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise NotAStoreError(path, f"{kind}: name a file for the checkpoints")
    if found.st_size == 0:
        raise NotAStoreError(path, "empty, which a store never is: restore it from a copy, or remove it to start anew")
    return True


def size_bytes(path: str) -> int:
    """How large a file is, together with its WAL; of what is not on the disk, 0."""
    found = (status(path + suffix) for suffix in ("", "-wal"))
    return sum(each.st_size for each in found if each is not None)


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
    """
    A file, opened through the VFS, so that a test that records what reaches the disk sees it too; None for no file.

    Raises:
        StoreError: There is one, and it cannot be opened.
    """
    file = _opened(path, vfs, flags)
    try:
        yield file
    finally:
        if file is not None:
            file.xClose()


def _opened(path: str, vfs: str | None, flags: int) -> apsw.VFSFile | None:
    for attempt in (1, 2):  # the second where what was in the way of the first is gone
        try:
            return apsw.VFSFile(vfs or "", for_sqlite(path), [flags, 0])
        except (apsw.CantOpenError, apsw.IOError) as error:
            # The latter where SQLite may not look at the database beside a WAL, to give the WAL the same permissions.
            if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_FSTAT:
                raise
            why = why_not_opened(path)
            if isinstance(why, _ABSENT):
                return None
            if why is not None:
                raise from_os(path, why) from error
            if attempt == 2:
                raise StoreError(path, f"{error}: check the file and the disk") from error
    return None


@contextlib.contextmanager
def opening(path: str) -> Iterator[None]:
    """
    Let SQLite open what lies beside a file (its -wal, -shm or -journal), and give its reason if it cannot.

    To be left before the connection is closed, which would free the descriptors that there were too few of.
    """
    try:
        yield
    except apsw.CantOpenError as error:
        for suffix in ("", "-wal", "-shm"):
            why = why_not_opened(path + suffix)
            if why is not None and not isinstance(why, _ABSENT):
                raise from_os(path + suffix, why) from error
        raise


def why_not_opened(path: str) -> OSError | None:
    """
    Why SQLite could not open a file, which it does not tell: it has one and the same error for all reasons.

    Without opening it, for closing a descriptor of it would drop the locks of this process. A file that can only be read is
    opened to read. None if nothing is in the way any more, or what was is not known.
    """
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:  # too many open files, of this process or of all
        return OSError(error.errno, error.strerror, path)
    return None


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

    It raises OSError where nobody can tell, as without permission to search the directory.

    Source:
        statx(2); https://docs.kernel.org/filesystems/multigrain-ts.html
    """
    encoded, found = os.fsencode(path), ctypes.create_string_buffer(256)

    def identity() -> object:
        if _statx is not None and _statx(_AT_FDCWD, encoded, 0, _STATX_INO, found) == 0:
            return found[32:40], found[136:144]
        try:
            status = os.stat(path)  # noqa: PTH116 - runs at each commit: 1 µs, pathlib 3 µs
        except _ABSENT:
            return None
        return status.st_ino, status.st_dev

    return identity


def directory(path: str) -> str:
    """The directory of a file."""
    return os.path.dirname(path)  # noqa: PTH120 - `path` is a str, whatever it contains


def sync_directory(path: str) -> None:
    """Make the entry of a file in its directory durable, as far as its file system can."""
    if os.name == "nt":  # a directory cannot be opened there, and its entries are journalled
        return
    opened = os.open(directory(path), os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # a file system without a sync of directories, which SQLite bears with too
            raise
    finally:
        os.close(opened)


def copied(path: str, vfs: str | None) -> tuple[tempfile.TemporaryDirectory[str], str]:
    """
    A copy of a file and its WAL in the directory for temporary files, and that directory, to be cleaned up by the caller.

    Raises:
        StoreError: There is no place for it; `TMPDIR` names another.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="milepost-")
    except OSError as error:
        problem = f"it can only be read through a copy, and there is no place for one: {error.strerror}: set TMPDIR"
        raise StoreError(path, problem) from error
    copy = str(Path(folder.name, "copy"))
    try:
        for suffix, kind in (("", apsw.SQLITE_OPEN_MAIN_DB), ("-wal", apsw.SQLITE_OPEN_WAL)):
            # Through the VFS: closing a descriptor of our own would drop the locks that this process may have on it.
            with vfs_file(path + suffix, vfs, kind | apsw.SQLITE_OPEN_READONLY) as file:
                _write(copy + suffix, file)
    except BaseException:
        folder.cleanup()
        raise
    return folder, copy


def _write(copy: str, file: apsw.VFSFile | None) -> None:
    try:
        with Path(copy).open("wb") as made:
            size = file.xFileSize() if file else 0
            made.writelines(read(file, PIECE_BYTES, offset) for offset in range(0, size, PIECE_BYTES))
    except OSError as error:
        raise from_os(copy, error, "set TMPDIR to another directory") from error


def from_os(path: str, error: OSError, remedy: str | None = None) -> MilepostError:
    """The exception of ours for one of the operating system's, about the file that it names, or else about `path`."""
    if isinstance(error, MilepostError):  # StoreBusyError is a TimeoutError, and so an OSError
        return error
    named = error.filename
    path = os.fsdecode(named) if isinstance(named, str | bytes) and named else path
    what = error.strerror or str(error)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return ReadOnlyStoreError(path, f"{what}: {remedy or 'check the permissions of the file and its directory'}")
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFullError(path, f"no space left on the disk: {remedy or 'free some and try again'}")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return StoreError(path, f"{what}: close some, or raise the limit (ulimit -n)")
    return StoreError(path, f"{what}: {remedy or 'check the path and the disk'}")

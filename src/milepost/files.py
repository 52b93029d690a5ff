"""
Look at files on the disk, and read and write their bytes.

Only SQLite's own VFS opens a store's file here. If milepost closed a descriptor of its own, this process would lose all its
locks on the file (https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import apsw

from milepost.errors import (
    InvalidArgumentError,
    MilepostError,
    MilepostWarning,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreError,
    StoreFullError,
    is_of_system,
)
from milepost.remote import remote_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_AT_FDCWD: Final = -100
_STATX_INO: Final = 0x100
_STATX_BTIME: Final = 0x800
# PyDLL keeps the interpreter's lock. The call comes at each commit, and releasing the lock would cost more than the call.
_statx: Final = getattr(ctypes.PyDLL(None), "statx", None) if sys.platform == "linux" else None


class _Found(ctypes.Structure):
    """What statx(2) finds out about a file: its struct statx, with a name for each field that is asked for."""

    _fields_: ClassVar = [
        ("mask", ctypes.c_uint32),
        ("_1", ctypes.c_char * 28),
        ("inode", ctypes.c_uint64),
        ("_2", ctypes.c_char * 40),
        ("born_s", ctypes.c_int64),
        ("born_ns", ctypes.c_uint32),
        ("_3", ctypes.c_char * 44),
        ("device", ctypes.c_uint64),  # its major and minor number, of 32 bits each
        ("_4", ctypes.c_char * 112),
    ]


PIECE_BYTES: Final = 1 << 16  # SQLite's own VFS accepts fewer than 2^17 bytes at a time
_LONGEST_GIVEN: Final = 4096  # longer than any file system allows; to resolve a path of megabytes would take minutes
LONGEST_PATH: Final = 504  # SQLite's VFS for Unix allows 512 for a name, and 8 of them are for "-journal"
_NO_SYNC: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""Errors that say that there is no file. After any other, such as a missing permission, nobody knows."""


def absolute(path: object) -> str:
    """
    Return the one absolute name of a store's file, with symbolic links resolved.

    Raises:
        InvalidArgumentError: It is not the path of a file, or it is too long for SQLite.
        StoreError: It is relative, and the working directory is gone.
    """
    resolved = real(path)
    length, name_bytes = len(os.fsencode(resolved)), len(os.fsencode(os.path.basename(resolved)))  # noqa: PTH119
    if os.name == "posix" and length > LONGEST_PATH:
        rule = f"it has {length} bytes, directory included, but SQLite allows {LONGEST_PATH}: choose a shorter path"
        raise InvalidArgumentError("path", resolved, rule)
    longest = _longest_name(directory(resolved)) - len("-wal")
    if name_bytes > longest:
        rule = (
            f"its name has {name_bytes} bytes, but {longest} are allowed, because -wal is added to it: choose a shorter one"
        )
        raise InvalidArgumentError("path", resolved, rule)
    return resolved


def real(path: object) -> str:
    """
    Return the one absolute name of any file, with symbolic links resolved, as Python's own functions accept it.

    A path is always a path: `:memory:` and `file:x?mode=ro` are ordinary file names here. If the locale cannot spell a
    path, it is encoded as UTF-8, as SQLite expects.

    Raises:
        InvalidArgumentError: It is not the path of a file.
        StoreError: It is relative, and the working directory is gone.
    """
    spelled = given(path)
    try:
        encoded = _in_bytes(spelled)
        if len(encoded) > _LONGEST_GIVEN:
            raise InvalidArgumentError("path", path, f"must have at most {_LONGEST_GIVEN:,} bytes")
        resolved = os.path.realpath(os.fsdecode(encoded))
        for_sqlite(resolved)
    except UnicodeError:
        raise InvalidArgumentError("path", path, "must be UTF-8, because SQLite requires it: rename the file") from None
    except OSError as error:  # os.getcwd()'s
        if not is_of_system(error):
            raise
        problem = f"the working directory of this process cannot be found ({error.strerror}): give an absolute path"
        raise StoreError(spelled, problem) from error
    return resolved


def given(path: object, argument: str = "path") -> str:
    """
    Return a path as a str, as it was given.

    Raises:
        InvalidArgumentError: It is not the path of a file.
    """
    try:
        found = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        raise InvalidArgumentError(argument, path, "must be a str or a path object") from None
    if type(found) is bytes:
        found = os.fsdecode(found)
    if type(found) is not str or not found or "\0" in found:
        raise InvalidArgumentError(argument, path, "must be a path without NUL characters")
    return found


def for_sqlite(path: str) -> str:
    """
    Return a path as SQLite expects it: its bytes decoded as UTF-8, whatever the locale is.

    Source:
        https://sqlite.org/c3ref/open.html; https://docs.python.org/3/glossary.html#term-filesystem-encoding-and-error-handler
    """
    return os.fsencode(path).decode()


def _in_bytes(spelled: str) -> bytes:
    """Return the bytes of a path as somebody gave it."""
    try:
        return os.fsencode(spelled)
    except UnicodeEncodeError:  # a str of the program that the locale cannot spell
        return spelled.encode()


def _longest_name(folder: str) -> int:
    """Return how many bytes a file name may have in a directory."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):  # Windows, or no such directory: a later step reports that
        return 255


def status(path: str) -> os.stat_result | None:
    """
    Return the status of a file, or None if there is no file.

    Raises:
        StoreError: The system cannot tell; the message gives its reason.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - nothing may open the file
    except _ABSENT:
        return None
    except OSError as error:
        raise from_os(path, error) from error


def is_store_file(path: str) -> bool:
    """Return whether there is a file that may be a store: False for no file, an error for anything else."""
    found = status(path)
    if found is None:
        if os.path.isdir(directory(path)):  # noqa: PTH112
            return False
        if os.path.lexists(directory(path)):
            raise StoreError(path, "its directory is a file: choose another path")
        raise StoreError(path, "its directory does not exist: make it first")
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise NotAStoreError(path, f"{kind}: name a file for the checkpoints")
    if found.st_size == 0:
        raise NotAStoreError(
            path, "the file is empty, and a store never is: restore it from a copy, or remove it to start anew"
        )
    return True


def size_bytes(path: str) -> int:
    """Return the size of a file together with its WAL; a missing file counts as 0."""
    found = (status(path + suffix) for suffix in ("", "-wal"))
    return sum(each.st_size for each in found if each is not None)


def warn_of_remote(path: str) -> None:
    """Warn if another machine may share the file."""
    kind = remote_kind(path)
    if kind is not None:
        warnings.warn(
            f"{path}: another machine may share this {kind} file system, so SQLite cannot rely on locks or shared memory: "
            "keep the store on a local disk, and copy it with backup()",
            MilepostWarning,
            stacklevel=6,  # the line that opens the store
        )


@contextlib.contextmanager
def vfs_file(path: str, vfs: str | None, flags: int) -> Iterator[apsw.VFSFile | None]:
    """
    Open a file through the VFS, and yield None if there is none. A test's VFS therefore sees this access too.

    Raises:
        StoreError: There is a file, but it cannot be opened.
    """
    file = _open(path, vfs, flags)
    try:
        yield file
    finally:
        if file is not None:
            file.xClose()


def _open(path: str, vfs: str | None, flags: int) -> apsw.VFSFile | None:
    for attempt in (1, 2):  # the second, if the obstacle has gone meanwhile
        try:
            return apsw.VFSFile(vfs or "", for_sqlite(path), [flags, 0])
        except (apsw.CantOpenError, apsw.IOError) as error:
            # IOError: SQLite may not look at the database beside a WAL, whose permissions the WAL is to get.
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
    Let SQLite open a file and what lies beside it (-wal, -shm), and say why if it cannot.

    Leave this block before you close the connection. Closing frees descriptors, and so hides that too many were open.
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
    Find out why SQLite could not open a file, since SQLite has one error for all reasons.

    This does not open the file: closing a descriptor of it would drop this process's locks. A read-only file is no reason,
    since SQLite then opens it to read. None means that the obstacle has gone, or is unknown.
    """
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:  # too many open files, in this process or in all
        return OSError(error.errno, error.strerror, path)
    return None


def read(file: Readable | None, length: int, offset: int) -> bytes:
    """Read up to `length` bytes, or fewer at the end of the file."""
    return b"" if file is None else file.xRead(max(0, min(length, file.xFileSize() - offset)), offset)


class Readable(Protocol):
    """A file whose bytes can be read, such as an apsw.VFSFile."""

    def xFileSize(self) -> int: ...  # noqa: D102, N802 - APSW's names
    def xRead(self, amount: int, offset: int) -> bytes: ...  # noqa: D102, N802


def identity_of(path: str) -> Callable[[], object]:
    """
    Return a function that tells which file a name stands for now: its inode and device, or None for no file.

    The function asks for nothing else, because a query of the file's times slows the next sync down since Linux 6.13.

    The function raises OSError if the system cannot tell, as without permission to search the directory.

    Source:
        statx(2); https://docs.kernel.org/filesystems/multigrain-ts.html
    """
    encoded, found = os.fsencode(path), _Found()
    at = ctypes.byref(found)

    def identity() -> object:
        if _statx is not None and _statx(_AT_FDCWD, encoded, 0, _STATX_INO, at) == 0:
            return found.inode, found.device
        try:
            status = os.stat(path)  # noqa: PTH116 - called at each commit: 1 µs, pathlib 3 µs
        except _ABSENT:
            return None
        return status.st_ino, status.st_dev

    return identity


def birth_of(path: str) -> str | None:
    """
    Tell a file from every other one, also from a later one with its name or its inode; None where the system cannot.

    Returns:
        Its inode and the moment when it was made. Renaming it keeps both, and copying it makes another file.

    Source:
        statx(2), stx_btime.
    """
    if _statx is not None:
        found = _Found()
        asked = _statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_INO | _STATX_BTIME, ctypes.byref(found)) == 0
        if asked and found.mask & _STATX_BTIME and found.born_s:  # some file systems know it of newer files only
            return f"{found.inode:x}-{found.born_s:x}-{found.born_ns:x}"
        return None
    with ignoring_errors():
        status = os.stat(path)  # noqa: PTH116 - nothing may open the file
        born = getattr(status, "st_birthtime_ns", None) or getattr(status, "st_birthtime", None)
        return None if born is None else f"{status.st_ino:x}-{born}"
    return None


def directory(path: str) -> str:
    """Return the directory of a file."""
    return os.path.dirname(path)  # noqa: PTH120 - `path` is a str, whatever it contains


def sync_directory(path: str) -> None:
    """Make a file's entry in its directory durable, as far as the file system can."""
    if os.name == "nt":  # it cannot open a directory, and journals the entries
        return
    opened = os.open(directory(path), os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # the file system cannot sync directories; SQLite ignores that too
            raise
    finally:
        os.close(opened)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of the data at an offset, wherever another process that shares the descriptor stands."""
    left = memoryview(data)
    while left:
        if sys.platform == "win32":  # where no process shares it
            os.lseek(descriptor, offset, os.SEEK_SET)
            written = os.write(descriptor, left)
        else:
            written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


class ignoring_errors(contextlib.suppress):  # noqa: N801 - as suppress() is
    """Pass over the system's errors, and not over what a signal handler raises."""

    def __init__(self) -> None:
        super().__init__(OSError)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return error is not None and is_of_system(error)


class TemporaryDirectory:
    """
    As `tempfile.TemporaryDirectory`, but the child of a fork leaves it to its parent.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self) -> None:
        self.name: str = tempfile.mkdtemp(prefix="milepost-")
        self._process = os.getpid()
        self._end = weakref.finalize(self, _remove_directory, self.name, self._process)

    def cleanup(self) -> None:
        """Remove it with everything in it. A second call removes what an interrupt has left."""
        self._end.detach()
        _remove_directory(self.name, self._process)


def _remove_directory(name: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(name, ignore_errors=True)


def copy_to_temporary(path: str, vfs: str | None) -> tuple[TemporaryDirectory, str]:
    """
    Copy a file and its WAL into a new temporary directory. The caller cleans the directory up.

    Returns:
        The directory, and the path of the copy in it.

    Raises:
        StoreError: There is no place for the copy; `TMPDIR` can name another.
    """
    try:
        folder = TemporaryDirectory()
    except OSError as error:
        if not is_of_system(error):
            raise
        problem = f"it can only be read through a copy, and there is no place for one ({error.strerror}): set TMPDIR"
        raise StoreError(path, problem) from error
    copy = str(Path(folder.name, "copy"))
    try:
        for suffix, kind in (("", apsw.SQLITE_OPEN_MAIN_DB), ("-wal", apsw.SQLITE_OPEN_WAL)):
            # Through the VFS: closing a descriptor of milepost's own would drop this process's locks on the file.
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


def from_os(path: str, error: OSError, advice: str | None = None) -> MilepostError:
    """
    Translate an error of the operating system. The result is about the file that it names, or else about `path`.

    One that a signal handler has raised comes out as it is.
    """
    if isinstance(error, MilepostError):  # StoreBusyError is a TimeoutError, and therefore an OSError
        return error
    if not is_of_system(error):
        raise error
    named = error.filename
    path = os.fsdecode(named) if isinstance(named, str | bytes) and named else path
    what = error.strerror or str(error)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return ReadOnlyStoreError(path, f"{what}: {advice or 'check the permissions of the file and its directory'}")
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFullError(path, f"no space left on the disk: {advice or 'free some space and retry'}")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return StoreError(path, f"{what}: close some, or raise the limit with ulimit -n")
    return StoreError(path, f"{what}: {advice or 'check the path and the disk'}")

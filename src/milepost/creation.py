"""
Make a file, or a copy of one: all of it, durably and under its name, or nothing.

A file is made in a hidden directory beside its place, `.milepost_…`, and linked into place when it is whole. Whoever
makes it holds a lock on that directory (flock), which ends with the process, however that ends: a directory that can be
locked was left by one that was killed, and the next to make a file there, or to open a store to write, removes it (`sweep`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, schema
from milepost.connection import connect
from milepost.errors import InvalidArgumentError, MilepostError, StoreError, StoreFullError
from milepost.filesystem import remote_kind

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.database import Read
    from milepost.signature import Hash

# An append changes six pages and writes each whole: of 4,096 bytes, SQLite's own size, it takes a quarter longer with
# durability normal; of 1,024 a batch takes a sixth longer, and an entry 151 bytes instead of 147.
_PAGE_BYTES: Final = 2048
_COPIED_PAGES: Final = 4096  # between two looks at whether a signal has come: 8 MB, which take 10 ms
_PREFIX: Final = ".milepost_"
_ASIDE: Final = re.compile(r"\.milepost_[0-9a-f]{8}")
_OLDER: Final = ".milepost-"  # how the name of a file began that an older milepost was making
_NAME: Final = "new"  # of what is made in it
_HIDDEN_BYTES: Final = len("/.milepost_12345678/new")
_TRIES: Final = 100

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_renameat2: Final = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
_NO_LINKS: Final = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_RENAME: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_OF_WRITING: Final = {
    apsw.SQLITE_IOERR_WRITE,
    apsw.SQLITE_IOERR_FSYNC,
    apsw.SQLITE_IOERR_DIR_FSYNC,
    apsw.SQLITE_IOERR_TRUNCATE,
    apsw.SQLITE_IOERR_DELETE,
}


def create(path: str, vfs: str | None, keyed: Hash | None) -> None:
    """
    Make a new store; one that another process has put there meanwhile is as good.

    Raises:
        StoreError: It cannot be made; nothing is left behind.
    """
    refuse_long_directory(path)
    with contextlib.suppress(FileExistsError), put_in_place(path) as aside:
        connection: apsw.Connection = connect(aside, "mode=rw", vfs)
        try:
            with _opening(aside, path):
                connection.pragma("page_size", _PAGE_BYTES)
                connection.pragma("auto_vacuum", "incremental")  # what an archive frees can be given back, step by step
                connection.pragma("journal_mode", "wal")
                connection.pragma("synchronous", "full")
                connection.execute("BEGIN IMMEDIATE")
                schema.create(connection, keyed)
                connection.execute("COMMIT")
        finally:
            connection.close()  # writes the WAL back into the file, syncs it and removes the WAL


def backup(read: Read, path: str) -> None:
    """
    Make an exact copy of a store, as it was at one moment, while others write.

    Args:
        read: Runs a query on a connection of the store, and again if the file changed under it. Only a copy that it has
            come back from is put in place.
        path: A file that does not exist yet.

    Raises:
        StoreError: There is a file already, or it cannot be written; nothing is left behind.
    """
    refuse_long_directory(path)
    there = StoreError(path, "there is a file already, and a backup never overwrites: choose another path")
    if os.path.lexists(path):  # told at once, not when gigabytes have been copied
        raise there
    try:
        with put_in_place(path) as aside:
            read(_copy, aside, path)
    except FileExistsError as error:
        raise there from error


def _copy(connection: apsw.Connection, aside: str, path: str) -> None:
    """
    Copy what a connection sees into the file `aside`, from the beginning, whatever an earlier try has left there.

    In one read transaction, which in WAL mode stops no writer: the statement that is left open holds it. In steps, because a
    signal is heard between two of them only. What happens to the copy is told of `path`, the name that it will have.

    Source:
        https://sqlite.org/backup.html; https://sqlite.org/isolation.html
    """
    with _told_of(path):
        _remove_siblings(aside)
        os.truncate(aside, 0)  # closing a descriptor drops locks, and nobody has any on this file
    snapshot = connection.execute("SELECT name FROM sqlite_schema")
    try:
        next(snapshot)
        with _opening(aside, path):
            target = apsw.Connection(files.for_sqlite(aside))
        try:
            target.pragma("synchronous", "full")
            with _opening(aside, path), target.backup("main", connection, "main") as steps:
                while not steps.done:
                    steps.step(_COPIED_PAGES)
        except apsw.FullError as error:
            raise StoreFullError(path, "no space left on the disk for the copy: free some and try again") from error
        except apsw.IOError as error:
            code = getattr(error, "extendedresult", 0)
            if code not in _OF_WRITING:  # of reading the store, which may be another file by now
                raise
            name = apsw.mapping_extended_result_codes[code]
            raise StoreError(path, f"the copy cannot be written ({name}): check the disk") from error
        finally:
            target.close()
    finally:
        snapshot.close()


@contextlib.contextmanager
def _opening(aside: str, path: str) -> Iterator[None]:
    """As `files.opening`, told of the file that is being made."""
    try:
        yield
    except apsw.CantOpenError as error:
        with _told_of(path):
            raise files.why_not_opened(aside) or OSError(errno.EIO, f"{error}, or what it needs beside it") from error


def refuse_long_directory(path: str, levels: int = 1) -> None:
    """
    A store is made under a longer name than it gets, if its own is short; SQLite takes neither above `files.LONGEST_PATH`.

    Raises:
        InvalidArgumentError: There is no room for one, or for `levels` of them in each other.
    """
    length, most = len(os.fsencode(files.directory(path))), files.LONGEST_PATH - levels * _HIDDEN_BYTES
    if os.name == "posix" and length > most:
        rule = (
            f"a store can be made in a directory whose path has at most {most} bytes, and this has {length}: choose another"
        )
        raise InvalidArgumentError("path", path, rule)


@contextlib.contextmanager
def put_in_place(path: str) -> Iterator[str]:
    """
    Give another name to make a file under, and link it into place: all of it, durably, or nothing.

    The file is readable by its owner only.

    Raises:
        FileExistsError: There is one in place already.
        StoreError: It cannot be put there.
    """
    with directory_beside(path) as made:
        aside = os.path.join(made, _NAME)  # noqa: PTH118 - a str, whatever it contains
        with _told_of(path):
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        yield aside
        _link(aside, path)
    with _told_of(path):
        files.sync_directory(path)


@contextlib.contextmanager
def directory_beside(path: str) -> Iterator[str]:
    """
    A directory beside a file, to make something in, which is removed at the end with all that is in it.

    Raises:
        StoreError: It cannot be made.
    """
    sweep(path)
    aside = _Aside(path)
    try:
        with _told_of(path):
            aside.make()
        yield aside.name
    finally:
        with _told_of(path):
            try:
                aside.remove()
            finally:
                aside.remove()  # the rest of it, if a signal came in the middle


def sweep(path: str) -> None:
    """
    Remove what was left beside a file by a process that was killed while it made one there.

    Not where another machine may be making it, whose lock nobody sees here; nor on Windows, which has no such lock. It is a
    courtesy: what it may not do, it leaves.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        folder = files.directory(path)
        names = os.listdir(folder)  # noqa: PTH208 - `path` is a str, whatever it contains
        left = [name for name in names if name.startswith(_PREFIX) and _ASIDE.fullmatch(name)]
        if left and remote_kind(path) is None:
            for name in left:
                _sweep(os.path.join(folder, name))  # noqa: PTH118


def _sweep(left: str) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        held = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(held).st_uid == os.geteuid():
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody makes a file in it
                _remove(left)
        finally:
            os.close(held)


class _Aside:
    """A hidden directory beside a file, locked for as long as this process has it; wherever a signal comes, it is known."""

    def __init__(self, path: str) -> None:
        self._folder = files.directory(path)
        self._held: int | None = None
        self.name = ""

    def make(self) -> None:
        """Make it, and lock it where there are such locks; where there are none, a sweeper has none either."""
        for _ in range(_TRIES):
            self.name = os.path.join(self._folder, _PREFIX + secrets.token_hex(4))  # noqa: PTH118
            try:
                os.mkdir(self.name, 0o700)  # noqa: PTH102
            except FileExistsError:
                self.name = ""
                continue
            if self._lock():
                return
            self.remove()
        raise OSError(errno.EAGAIN, "the directory to make it in was removed again and again")

    def _lock(self) -> bool:
        """False if somebody took it for left behind before it was locked."""
        if sys.platform == "win32":
            return True
        try:
            self._held = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        found = files.status(self.name)
        return found is not None and os.path.samestat(os.fstat(self._held), found)

    def remove(self) -> None:
        """Remove it and let go of it; a second time nothing happens."""
        if self.name:
            _remove(self.name)
            self.name = ""
        if self._held is not None:
            held, self._held = self._held, None
            os.close(held)


def _remove(made: str) -> None:
    """Remove a directory and what we have made in it; without a descriptor, of which there may be none."""
    new = os.path.join(made, _NAME)  # noqa: PTH118
    Path(new).unlink(missing_ok=True)
    _remove_siblings(new)
    try:
        Path(made).rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(made)  # a directory within it, of a process that was killed in there


def _remove_siblings(aside: str) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(aside + suffix).unlink(missing_ok=True)


def _link(aside: str, path: str) -> None:
    """
    Give a file its name, unless there is one of that name.

    Source:
        rename(2) for RENAME_NOREPLACE, which FAT and others have that know no hard links.
    """
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise _error_about(path, error) from error
        _rename(aside, path, error)


def _rename(aside: str, path: str, no_link: OSError) -> None:
    why = "which the C library does not have"
    if _renameat2 is not None:
        names = os.fsencode(aside), os.fsencode(path)
        if _renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        why = os.strerror(number)
        if number == errno.EEXIST:
            raise FileExistsError(number, why, path)
        if number not in _NO_RENAME:
            raise _error_about(path, OSError(number, why))
    raise StoreError(
        path,
        f"its file system has neither hard links ({no_link.strerror}) nor a rename that replaces nothing (renameat2 with "
        f"RENAME_NOREPLACE: {why}), and without one of them a file could be overwritten: choose a directory on another one",
    ) from no_link


@contextlib.contextmanager
def _told_of(path: str) -> Iterator[None]:
    """Let an error of the system name the file that is being made, and not what it is called meanwhile."""
    try:
        yield
    except OSError as error:
        raise _error_about(path, error) from error


def _error_about(path: str, error: OSError) -> MilepostError:
    return files.from_os(path, OSError(error.errno, error.strerror))


def refuse_second_name(path: str) -> None:
    """
    A file with two names would be written through two WALs, and break.

    For an instant a new file has two, until `put_in_place` has removed the first; a kill in that instant leaves it there.
    """
    identity = files.identity_of(path)()
    folder = files.directory(path)
    for name in os.listdir(folder):  # noqa: PTH208 - `path` is a str, whatever it contains
        if name.startswith((_PREFIX, _OLDER)):
            for other in (os.path.join(folder, name), os.path.join(folder, name, _NAME)):  # noqa: PTH118
                with contextlib.suppress(OSError):  # somebody else's: then the file keeps its second name
                    if identity is not None and files.identity_of(other)() == identity:
                        Path(other).unlink(missing_ok=True)
    if os.stat(path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
        raise StoreError(path, "the file has a second name (a hard link), and writing through both would break it: copy it")

"""
Make a store, or a copy of one, atomically: the whole file appears under its name durably, or nothing does.

A new file grows in a hidden directory beside its place, `.milepost_…`, and is linked into place when it is complete. The
process that makes it holds a lock on that directory (flock), and the lock ends with the process. A directory without a
lock is therefore left over from a killed process. `sweep` removes it before the next file is made there, and when a store
is opened to write.

A signal handler may fork while a file is made, and its child go on. Whoever writes to the temporary file therefore opens it
first, and then asks whether it is the parent's (`inherited.refuse`). A child that is forked later has a descriptor that can
only read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, inherited, open_files, schema
from milepost.connection import connect
from milepost.errors import InvalidArgumentError, MilepostError, StoreError, StoreFullError, is_of_system
from milepost.remote import remote_kind

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.database import Read
    from milepost.signature import Hash

# An append writes each page that it changes whole. With SQLite's default of 4,096 bytes and durability normal, an append
# takes a quarter longer. With 1,024 a batch takes a sixth longer, and an entry 151 bytes instead of 147.
_PAGE_BYTES: Final = 2048
_COPIED_PAGES: Final = 4096  # copied between two chances for a signal: 8 MB, which take 10 ms
_PREFIX: Final = ".milepost_"
_TEMPORARY: Final = re.compile(r"\.milepost_[0-9a-f]{8}")
_OLDER_PREFIX: Final = ".milepost-"  # the prefix of an older milepost's temporary files
_NAME: Final = "new"  # the new file's name in its temporary directory
_HIDDEN_BYTES: Final = len("/.milepost_12345678/new")
_SIBLINGS: Final = ("-wal", "-shm", "-journal")
_TRIES: Final = 100
_SEAL_OFFSET: Final = 18  # https://sqlite.org/fileformat2.html#the_database_header

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_renameat2: Final = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
_NO_LINKS: Final = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_RENAME: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_WRITE_ERRORS: Final = {
    apsw.SQLITE_IOERR_WRITE,
    apsw.SQLITE_IOERR_FSYNC,
    apsw.SQLITE_IOERR_DIR_FSYNC,
    apsw.SQLITE_IOERR_TRUNCATE,
    apsw.SQLITE_IOERR_DELETE,
}


def create(path: str, vfs: str | None, hmac: Hash | None) -> None:
    """
    Make a new store, or accept the one that another process has just put there.

    Raises:
        StoreError: It cannot be made; nothing is left behind.
    """
    refuse_long_directory(path)
    with contextlib.suppress(FileExistsError), put_in_place(path) as temporary:
        connection: apsw.Connection = connect(temporary, "mode=rw", vfs)
        try:
            inherited.refuse(temporary)
            with _opening(temporary, path):
                connection.pragma("page_size", _PAGE_BYTES)
                connection.pragma(
                    "auto_vacuum", "incremental"
                )  # so that space freed by an archive can be given back in steps
                connection.pragma("journal_mode", "wal")
                connection.pragma("synchronous", "full")
                connection.execute("BEGIN IMMEDIATE")
                schema.create(connection, hmac)
                connection.execute("COMMIT")
        finally:
            connection.close()  # writes the WAL back into the file, syncs the file and removes the WAL


def fill(temporary: str, path: str, vfs: str | None) -> None:
    """Make the empty tables of an archive in the file `temporary`, which is to become `path`, whatever it holds."""
    _empty(temporary, path)
    connection: apsw.Connection = connect(temporary, "mode=rw", vfs)
    try:
        inherited.refuse(temporary)
        with _opening(temporary, path):
            connection.pragma("journal_mode", "memory")  # the child of a fork would remove a file of it
            connection.pragma("page_size", _PAGE_BYTES)
            connection.pragma("auto_vacuum", "incremental")
            schema.create(connection)
    finally:
        connection.close()


def seal(temporary: str, vfs: str | None) -> None:
    """Mark a finished file as read-only for every SQLite, and sync it."""
    with files.vfs_file(temporary, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE) as file:
        if file is not None:
            file.xWrite(schema.SEAL, _SEAL_OFFSET)
            file.xSync(apsw.SQLITE_SYNC_FULL)


def make_durable(path: str, vfs: str | None) -> None:
    """Sync a finished file and its name in its directory."""
    with files.vfs_file(path, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY) as file:
        if file is not None:
            file.xSync(apsw.SQLITE_SYNC_FULL)
    with _errors_about(path):
        files.sync_directory(path)


def backup(read: Read, path: str) -> None:
    """
    Make an exact copy of a store as it is at one moment, while others write.

    Args:
        read: Runs the copying on a connection of the store, and repeats it if the file changed meanwhile. The copy is put
            in place after `read` has returned.
        path: A file that does not exist yet.

    Raises:
        StoreError: The file exists already, or cannot be written; nothing is left behind.
    """
    refuse_long_directory(path)
    there = StoreError(path, "the file exists already, and a backup never overwrites: choose another path")
    if os.path.lexists(path):  # checked before gigabytes are copied
        raise there
    try:
        with put_in_place(path) as temporary:
            read(_copy, temporary, path)
    except FileExistsError as error:
        raise there from error


def _copy(connection: apsw.Connection, temporary: str, path: str) -> None:
    """
    Copy the contents that a connection sees into the file `temporary`, in place of an earlier attempt's.

    An open statement holds one read transaction, which blocks no writer in WAL mode. The copy goes in steps, because Python
    handles a signal between two steps only. Errors name `path`, the final name of the copy.

    Source:
        https://sqlite.org/backup.html; https://sqlite.org/isolation.html
    """
    _empty(temporary, path)
    snapshot = connection.execute("SELECT name FROM sqlite_schema")
    try:
        next(snapshot)
        with _opening(temporary, path):
            target = apsw.Connection(files.for_sqlite(temporary))
        try:
            inherited.refuse(temporary)
            target.pragma("synchronous", "full")
            target.pragma("journal_mode", "memory")  # the child of a fork would remove a file of it
            with writing(temporary, path), target.backup("main", connection, "main") as steps:
                while not steps.done:
                    steps.step(_COPIED_PAGES)
        finally:
            target.close()
    finally:
        snapshot.close()


def _empty(temporary: str, path: str) -> None:
    """Empty the file `temporary` of what an earlier attempt has left."""
    with _errors_about(path):
        opened = os.open(temporary, os.O_RDWR)
        try:
            inherited.refuse(temporary)
            _remove_siblings(temporary)
            os.ftruncate(opened, 0)
        finally:
            os.close(opened)  # which drops no locks: nobody holds any on this file


@contextlib.contextmanager
def writing(temporary: str, path: str) -> Iterator[None]:
    """Copy into the file that is being made: what fails there is told as an error of the copy, and not of the store."""
    try:
        with _opening(temporary, path):
            yield
    except apsw.FullError as error:
        raise StoreFullError(path, "no space left on the disk for the copy: free some space and retry") from error
    except apsw.IOError as error:
        code = getattr(error, "extendedresult", 0)
        if code not in _WRITE_ERRORS:  # reading the store failed; it may be another file by now
            raise
        name = apsw.mapping_extended_result_codes[code]
        raise StoreError(path, f"the copy cannot be written ({name}): check the disk") from error


@contextlib.contextmanager
def _opening(temporary: str, path: str) -> Iterator[None]:
    """Do the same as `files.opening`, with errors that name the file that is being made."""
    try:
        yield
    except apsw.CantOpenError as error:
        with _errors_about(path):
            raise files.why_not_opened(temporary) or OSError(errno.EIO, f"{error}, or a file beside it") from error


def refuse_long_directory(path: str, levels: int = 1) -> None:
    """
    Refuse a directory whose path is too long to make a store in.

    A store's temporary name may be longer than its own, and SQLite accepts no path above `files.LONGEST_PATH`.

    Raises:
        InvalidArgumentError: The path leaves no room for `levels` temporary directories within each other.
    """
    length, most = len(os.fsencode(files.directory(path))), files.LONGEST_PATH - levels * _HIDDEN_BYTES
    if os.name == "posix" and length > most:
        rule = f"its directory has {length} bytes, but a store can be made in one of at most {most}: choose a shorter path"
        raise InvalidArgumentError("path", path, rule)


@contextlib.contextmanager
def put_in_place(path: str, *, overwrite: bool = False) -> Iterator[str]:
    """
    Yield the temporary name of a new, empty file, and link the finished file into place, durably and as a whole.

    Only its owner may read the file.

    Raises:
        FileExistsError: There is a file in place already, and it is not to be overwritten.
        StoreError: The file cannot be put there.
        ForkedStoreError: In the child of a fork: only who has begun a file ends it.
    """
    process = os.getpid()
    with directory_beside(path) as made:
        temporary = os.path.join(made, _NAME)  # noqa: PTH118 - a str, whatever it contains
        try:
            with _errors_about(path):  # not O_EXCL: nobody else comes here but a child that a signal handler forks meanwhile
                with io.FileIO(temporary, "ab"):  # no number, which an interrupt could lose
                    pass
                os.chmod(temporary, 0o600)  # noqa: PTH101 - a str, whatever it contains
            open_files.being_made[temporary] = inherited.identity(temporary)
            inherited.refuse_child(process, path)  # one that was forked before it was known what is made
            yield temporary
        finally:
            open_files.being_made.pop(temporary, None)
        inherited.refuse_child(process, path)
        if overwrite:
            with _errors_about(path):
                os.replace(temporary, path)  # noqa: PTH105 - a str, whatever it contains
        else:
            link(temporary, path)
    with _errors_about(path):
        files.sync_directory(path)


@contextlib.contextmanager
def directory_beside(path: str) -> Iterator[str]:
    """
    Make a temporary directory beside a file, and remove it at the end with everything in it.

    Raises:
        StoreError: It cannot be made, or the file would have a name that SQLite uses for a file of its own.
    """
    _refuse_name_of_sibling(path)
    sweep(path)
    temporary = _TemporaryDirectory(path)
    try:
        with _errors_about(path):
            temporary.make()
        yield temporary.name
    finally:
        try:
            temporary.remove()
        finally:
            with _errors_about(path):
                temporary.remove()  # the rest, if a signal interrupted the first call


def _refuse_name_of_sibling(path: str) -> None:
    """SQLite takes a file with such a name for a log of the database beside it: it waits for it, or removes it."""
    for suffix in _SIBLINGS:
        database = path.removesuffix(suffix)
        has_name = database != path and os.path.basename(database) != ""  # noqa: PTH119 - `path` is a str, whatever it contains
        if has_name and os.path.lexists(database):
            raise StoreError(path, f"SQLite uses this name for a file of its own beside {database}: choose another path")


def sweep(path: str) -> None:
    """
    Remove temporary directories that killed processes left beside a file.

    It does nothing on a shared file system, because the lock of another machine is invisible there. It does nothing on
    Windows, which has no such lock. It ignores every error, because nothing depends on it.
    """
    if sys.platform == "win32":
        return
    with files.ignoring_errors():
        folder = files.directory(path)
        names = os.listdir(folder)  # noqa: PTH208 - `path` is a str, whatever it contains
        left = [name for name in names if name.startswith(_PREFIX) and _TEMPORARY.fullmatch(name)]
        if left and remote_kind(path) is None:
            for name in left:
                _sweep(os.path.join(folder, name))  # noqa: PTH118


def _sweep(left: str) -> None:
    if sys.platform == "win32":
        return
    with files.ignoring_errors():
        held = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(held).st_uid == os.geteuid():
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody makes a file in it
                _remove(left)
        finally:
            os.close(held)


class _TemporaryDirectory:
    """A hidden directory beside a file, locked while this process uses it. A signal at any point leaves it removable."""

    def __init__(self, path: str) -> None:
        self._folder = files.directory(path)
        self._process = os.getpid()
        self._held: int | None = None
        self.name = ""

    def make(self) -> None:
        """Make it, and lock it if the file system has such locks. Without them `sweep` removes nothing either."""
        for _ in range(_TRIES):
            self.name = os.path.join(self._folder, _PREFIX + secrets.token_hex(4))  # noqa: PTH118
            try:
                os.mkdir(self.name, 0o700)  # noqa: PTH102
            except OSError as error:
                self.name = ""  # nothing was made: on a read-only mount, to remove it fails too, with an error that misleads
                if isinstance(error, FileExistsError):
                    continue
                raise
            if self._lock():
                return
            self.remove()
        raise OSError(errno.EAGAIN, "another process keeps removing its temporary directory")

    def _lock(self) -> bool:
        """Lock it. Return False if `sweep` in another process removed it first."""
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
        except OSError as error:
            if not is_of_system(error):
                raise
            return True
        found = files.status(self.name)
        return found is not None and os.path.samestat(os.fstat(self._held), found)

    def remove(self) -> None:
        """Remove it and release its lock. A second call does nothing."""
        if os.getpid() != self._process:  # the child of a fork, whose parent goes on in it
            self.name = ""
        if self.name:
            _remove(self.name)
            self.name = ""
        if self._held is not None:
            held, self._held = self._held, None
            os.close(held)


def _remove(made: str) -> None:
    """Remove a temporary directory and its files. It needs no descriptor, because none may be left."""
    new = os.path.join(made, _NAME)  # noqa: PTH118
    Path(new).unlink(missing_ok=True)
    _remove_siblings(new)
    try:
        Path(made).rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if not is_of_system(error):
            raise
        shutil.rmtree(made)  # a killed process left a directory in it


def _remove_siblings(temporary: str) -> None:
    for suffix in _SIBLINGS:
        Path(temporary + suffix).unlink(missing_ok=True)


def link(temporary: str, path: str) -> None:
    """
    Give a file its final name, unless another file has that name.

    Source:
        rename(2): RENAME_NOREPLACE works on FAT and other file systems without hard links.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise _error_about(path, error) from error
        _rename(temporary, path, error)


def _rename(temporary: str, path: str, no_link: OSError) -> None:
    why = "missing from the C library"
    if _renameat2 is not None:
        names = os.fsencode(temporary), os.fsencode(path)
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
        f"its file system has neither hard links ({no_link.strerror}) nor a rename that never overwrites (renameat2 with "
        f"RENAME_NOREPLACE: {why}): choose a directory on another file system",
    ) from no_link


@contextlib.contextmanager
def _errors_about(path: str) -> Iterator[None]:
    """Make the operating system's errors name the file that is being made, and not its temporary name."""
    try:
        yield
    except OSError as error:
        raise _error_about(path, error) from error


def _error_about(path: str, error: OSError) -> MilepostError:
    if not is_of_system(error):
        raise error
    return files.from_os(path, OSError(error.errno, error.strerror))


def refuse_second_name(path: str) -> None:
    """
    Refuse a file with two names: two WALs, one for each name, would corrupt it.

    A new file has two names until `put_in_place` removes the temporary one. A kill in between leaves both, so this removes
    the temporary one first.

    Raises:
        StoreError: The file has a hard link.
    """
    identity = files.identity_of(path)()
    folder = files.directory(path)
    for name in os.listdir(folder):  # noqa: PTH208 - `path` is a str, whatever it contains
        if name.startswith((_PREFIX, _OLDER_PREFIX)):
            for other in (os.path.join(folder, name), os.path.join(folder, name, _NAME)):  # noqa: PTH118
                with files.ignoring_errors():  # it may belong to somebody else; then the file keeps both names
                    if identity is not None and files.identity_of(other)() == identity:
                        Path(other).unlink(missing_ok=True)
    if os.stat(path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
        raise StoreError(
            path, "the file has a second name (a hard link), and writing through both would corrupt it: copy it"
        )

"""
Put a copy of a store in the place of an older one: whoever looks finds the old file or the new one, also after a kill.

The copy is complete and durable under a temporary name before a rename gives it the name of the old one. That is refused
if SQLite could mix the two up, as the WAL and the shared memory of the old file would be those of the new one. It is also
refused if the old file has an entry that the store does not have: it may be the only record of that entry.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, rows, schema
from milepost.create import directory_beside, refuse_long_directory
from milepost.database import Database
from milepost.errors import NotAStoreError, StoreError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = "new"  # the copy's name in its temporary directory
_LOCKED_FROM: Final = 0x4000_0000  # of the bytes that SQLite locks, https://sqlite.org/fileformat2.html#the_lock_byte_page
_LOCKED_BYTES: Final = 512


@contextmanager
def replaced(path: str, store: Database) -> Iterator[str]:
    """
    Yield the name for a copy of a store, where there is no file yet. At the end, the copy replaces the file at `path`.

    Args:
        path: The absolute name of the file to replace.
        store: The store that is copied.

    Raises:
        StoreError: The file is no older copy of the store, open in a program, or has a log beside it. It stays.
    """
    _refuse_another_kind(path, store.path)  # before gigabytes are copied
    with _locked(path):
        _refuse_log(path)
        found = _state(path)
    _refuse_entries_of_its_own(path, store)
    refuse_long_directory(path, levels=2)  # the copy needs a temporary directory within this one
    with directory_beside(path) as made:
        copy = str(Path(made, _NAME))
        yield copy
        with _locked(path):
            _refuse_log(path)
            if _state(path) != found:
                raise StoreError(path, "another program has just changed it: try again")
            try:
                os.replace(copy, path)  # noqa: PTH105 - a str, whatever it contains
                files.sync_directory(path)
            except OSError as error:
                raise files.from_os(path, OSError(error.errno, error.strerror)) from error


def _state(path: str) -> tuple[int, ...]:
    """What changes when a file is written or replaced."""
    found = files.status(path)
    return () if found is None else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _refuse_entries_of_its_own(path: str, store: Database) -> None:
    with closing(Database(path, None, None).open()) as older:
        base, (position, signature) = older.read(rows.chain_base), older.read(rows.tip)
    if base.position < store.read(rows.chain_base).position:
        raise StoreError(
            path, f"it has entries that {store.path} has no more, because they were archived: choose another path"
        )
    if position and store.read(rows.signature_at, position) != signature:
        raise StoreError(path, f"it has entries that {store.path} does not have: choose another path")


def _refuse_another_kind(path: str, source: str) -> None:
    """Refuse to replace the store itself, and anything that is no file of milepost."""
    found, copied = files.status(path), files.status(source)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise StoreError(path, "no regular file, and so it is not overwritten: choose another path")
    if copied is not None and os.path.samestat(found, copied):
        raise StoreError(path, "the very file to copy: choose another path")
    # Closing a descriptor drops this process's locks on the file. It has none, because the store is another file.
    with files.vfs_file(path, None, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY) as file:
        header = files.read(file, schema.HEADER_BYTES, 0)
    try:
        schema.refuse_another_version(header, path)
    except NotAStoreError as error:
        raise StoreError(path, "no file of milepost, and so it is not overwritten: choose another path") from error


def _refuse_log(path: str) -> None:
    """Refuse a file with a log beside it, which SQLite would replay into the new one."""
    for suffix in ("-wal", "-journal"):
        log = files.status(path + suffix)
        if log is not None and log.st_size:
            problem = f"a program that wrote to it was killed, and {Path(path + suffix).name} is not empty"
            raise StoreError(path, f"{problem}: open the file once to write, or choose another path")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """
    Lock a file so that SQLite cannot open it. Refuse it if a program has it open.

    A connection holds a shared lock on these bytes for as long as it is open, also one that only reads.

    Source:
        https://sqlite.org/lockingv3.html
    """
    if sys.platform == "win32":  # where nobody can replace a file that is open
        yield
        return
    try:
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise files.from_os(path, error) from error
    try:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCKED_BYTES, _LOCKED_FROM)
        except (BlockingIOError, PermissionError) as error:
            raise StoreError(path, "a program has this file open: close it there, or choose another path") from error
        found = files.status(path)
        if found is None or not os.path.samestat(found, os.fstat(opened)):
            raise StoreError(path, "another program has just replaced it: try again")
        yield
    finally:
        os.close(opened)

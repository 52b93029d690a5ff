"""Make a file, or a copy of one: all of it, durably and under its name, or nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from milepost import files, schema
from milepost.connection import connect
from milepost.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.signature import Hash

# An append changes six pages and writes each whole: of 4,096 bytes, SQLite's own size, it takes a quarter longer with
# durability normal; of 1,024 a batch takes a sixth longer, and an entry 151 bytes instead of 147.
_PAGE_BYTES: Final = 2048
_ASIDE: Final = ".milepost-"  # how the name of a file begins that is being made


def create(path: str, vfs: str | None, keyed: Hash | None) -> None:
    """Make a new store; one that another process has put there meanwhile is as good."""
    with contextlib.suppress(FileExistsError), put_in_place(path) as aside:
        connection: apsw.Connection = connect(aside, "mode=rw", vfs)
        try:
            connection.pragma("page_size", _PAGE_BYTES)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.execute("BEGIN IMMEDIATE")
            schema.create(connection, keyed)
            connection.execute("COMMIT")
        finally:
            connection.close()  # writes the WAL back into the file, syncs it and removes the WAL


def copy(connection: apsw.Connection, path: str) -> None:
    """
    Make an exact copy of a store, as it was at one moment, while others write.

    Source:
        https://sqlite.org/backup.html; all pages in one step, which is one read transaction: in WAL mode it stops no writer.
    """
    try:
        with put_in_place(path) as aside:
            target = apsw.Connection(aside)
            try:
                target.pragma("synchronous", "full")
                with target.backup("main", connection, "main") as backup:
                    backup.step(-1)
            finally:
                target.close()
    except FileExistsError as error:
        raise StoreError(path, "there is a file already, and a backup never overwrites: choose another path") from error
    except OSError as error:
        raise files.from_os(path, error) from error


@contextlib.contextmanager
def put_in_place(path: str) -> Iterator[str]:
    """
    Give another name to make a file under, and link it into place: all of it, durably, or nothing.

    The file is readable by its owner only. FileExistsError where there is one in place already.
    """
    handle, aside = tempfile.mkstemp(prefix=_ASIDE, suffix=".new", dir=files.directory(path))
    os.close(handle)
    try:
        yield aside
        os.link(aside, path)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(aside + suffix).unlink(missing_ok=True)
    files.sync_directory(path)


def refuse_second_name(path: str) -> None:
    """
    A file with two names would be written through two WALs, and break.

    For an instant a new file has two, until `put_in_place` has removed the first; a kill in that instant leaves it there.
    """
    identity = files.identity_of(path)()
    for name in os.listdir(files.directory(path)):  # noqa: PTH208 - `path` is a str, whatever it contains
        other = os.path.join(files.directory(path), name)  # noqa: PTH118
        if name.startswith(_ASIDE) and files.identity_of(other)() == identity:
            Path(other).unlink(missing_ok=True)
    if os.stat(path).st_nlink > 1:  # noqa: PTH116 - nothing may open the file
        raise StoreError(path, "the file has a second name (a hard link), and writing through both would break it: copy it")

"""One connection of SQLite's to an existing file, with everything off that a hostile file could use."""

from __future__ import annotations

from typing import Final, TypeVar
from urllib.parse import quote

import apsw

from milepost import files, schema, wal
from milepost.errors import NotAStoreError, StoreError

_FLAGS: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI


Connection = TypeVar("Connection", bound=apsw.Connection)


def connect(
    path: str,
    how: str,
    vfs: str | None,
    busy_timeout_ms: int = 5000,
    kind: type[Connection] = apsw.Connection,  # type: ignore[assignment]
) -> Connection:
    """
    Open an existing file, with everything off that a hostile file could use (https://sqlite.org/security.html).

    Raises:
        StoreError: It is not there, or cannot be opened, for the reason that it gives.
    """
    uri = f"file:{quote(files.for_sqlite(path))}?{how}"
    try:
        connection = kind(uri, flags=_FLAGS, vfs=vfs)
    except apsw.CantOpenError as error:
        why = files.why_not_opened(path)
        if why is None:
            raise
        raise files.from_os(path, why) from error
    connection.set_busy_timeout(busy_timeout_ms)  # at once: a neighbour that closes the file locks it for an instant
    # Before any statement: without it SQLite plans a cached statement anew whenever its parameters change, at 4 times
    # the cost of a lookup (https://sqlite.org/c3ref/c_dbconfig_defensive.html, ENABLE_QPSG).
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.pragma("cell_size_check", True)
    connection.pragma("mmap_size", 0)  # an I/O error on a mapped page is a signal that kills the process
    return connection


def refuse_foreign_header(path: str, vfs: str | None) -> None:
    """
    Look at the header only, through the VFS, which knows of the locks of this process (no `open()` of ours does).

    No connection: that would take a lock and wake a WAL, which could be another application's; and an `immutable` one,
    which does neither, calls a file malformed that was being written back from its WAL when the power went.
    """
    with files.vfs_file(path, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY) as file:
        if file is None:
            raise StoreError(path, "no such file: it was there a moment ago; check what removes it")
        header = files.read(file, schema.HEADER_BYTES, 0)
    try:
        schema.refuse_another_version(header, path)
    except NotAStoreError:
        # Power loss may leave any page torn that was being written back; the WAL has it whole, the first page too.
        kept = wal.first_page(f"{path}-wal", vfs)
        if kept is None:
            raise
        schema.refuse_another_version(kept, path)

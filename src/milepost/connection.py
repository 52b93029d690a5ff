"""Open one SQLite connection to an existing file, with every feature off that a hostile file could exploit."""

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
    Open an existing file, with every feature off that a hostile file could exploit.

    Raises:
        StoreError: The file does not exist, or cannot be opened; the message gives the reason.

    Source:
        https://sqlite.org/security.html
    """
    uri = f"file:{quote(files.for_sqlite(path))}?{how}"
    try:
        connection = kind(uri, flags=_FLAGS, vfs=vfs)
    except apsw.CantOpenError as error:
        why = files.why_not_opened(path)
        if why is None:
            raise
        raise files.from_os(path, why) from error
    connection.set_busy_timeout(
        busy_timeout_ms
    )  # first of all: another process that closes the file locks it for an instant
    # Before any statement. Without it SQLite plans a cached statement again for each change of its parameters, which makes
    # a lookup 4 times as slow (https://sqlite.org/c3ref/c_dbconfig_defensive.html, ENABLE_QPSG).
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.pragma("cell_size_check", True)
    connection.pragma("mmap_size", 0)  # an I/O error on a mapped page kills the process by a signal
    return connection


def is_sealed(path: str, vfs: str | None) -> bool:
    """Return whether a file is sealed, as an archive is: every program can only read it."""
    with files.vfs_file(path, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY) as file:
        return schema.is_sealed(files.read(file, schema.HEADER_BYTES, 0))


def refuse_foreign_header(path: str, vfs: str | None) -> None:
    """
    Refuse a file with another application's header, or another format version.

    It reads the header through the VFS, because `open()` would cost this process its locks on the file. It opens no
    connection: that would take a lock and recover a WAL, and both may be another application's. An `immutable` connection
    does neither, but takes a file for malformed if the power failed while its WAL was written back.

    Raises:
        StoreError: The file is not milepost's, or no longer there.
    """
    with files.vfs_file(path, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY) as file:
        if file is None:
            raise StoreError(path, "the file has just been removed: find out what removes it")
        header = files.read(file, schema.HEADER_BYTES, 0)
    try:
        schema.refuse_another_version(header, path)
    except NotAStoreError:
        # Power loss may tear any page that was being written back, even the first. The WAL still has it whole.
        kept = wal.first_page(f"{path}-wal", vfs)
        if kept is None:
            raise
        schema.refuse_another_version(kept, path)

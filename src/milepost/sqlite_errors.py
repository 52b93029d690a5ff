"""Translate APSW's exceptions into milepost's, without any other effect."""

from __future__ import annotations

from typing import Final

import apsw

from milepost.errors import (
    DamagedStoreError,
    FailedStoreError,
    MilepostError,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)

_SYNC_FAILED: Final = {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}


def sync_failed(error: BaseException) -> bool:
    """Return whether the disk failed to make a write durable. The kernel then marks the lost pages as clean."""
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) in _SYNC_FAILED


def translate(error: apsw.Error | UnicodeDecodeError, path: str, waited_ms: int) -> MilepostError:  # noqa: PLR0911, PLR0912 - one line a class
    """
    Translate an exception of APSW's.

    Args:
        error: APSW's exception.
        path: The file.
        waited_ms: How long the call waited for a lock, in ms.
    """
    code = getattr(error, "extendedresult", 0)
    detail = f"{error} ({apsw.mapping_extended_result_codes.get(code, 'SQLite')})"
    match error:
        case UnicodeDecodeError():
            return DamagedStoreError(path, "it contains text that is not UTF-8: verify() it, and restore it from a copy")
        case apsw.BusyError() if code == apsw.SQLITE_BUSY_SNAPSHOT:
            return StoreError(path, "a cursor of an earlier transaction block is still open: read it to its end")
        case apsw.BusyError() if "SQL statements in progress" in str(error):
            problem = "a statement of the block is not over: read its cursor to the end, close its blob, or write after it"
            return StoreError(path, f"{detail}: {problem}")
        case apsw.BusyError() | apsw.ProtocolError():
            return StoreBusyError(path, waited_ms)
        # The -shm cannot grow: SQLite writes into each new page of it, to learn at once whether the disk has room.
        case _ if isinstance(error, apsw.FullError) or code == apsw.SQLITE_IOERR_SHMSIZE:
            return StoreFullError(path, "no space left on the disk, and nothing was written: free some space and retry")
        case _ if sync_failed(error):
            return FailedStoreError(
                path,
                f"the disk failed to make a write durable ({detail}): close the store and open it again, which repeats the "
                "write, then read the resume point before you continue",
            )
        case apsw.InterruptError():
            return DamagedStoreError(path, "a query on it does not end: verify() it, and restore it from a copy")
        case apsw.CorruptError():
            return DamagedStoreError(path, f"{detail}: verify() it, and restore it from a copy")
        case apsw.NotADBError():
            return NotAStoreError(path, "not an SQLite database: choose another path for the checkpoints")
        case apsw.ReadOnlyError():
            return ReadOnlyStoreError(path, f"{detail}: check the permissions of the file and its directory")
        case apsw.NoMemError():
            return StoreError(path, "SQLite ran out of memory, and the chain is unchanged: free some memory and retry")
        case apsw.CantOpenError():
            return StoreError(path, f"{detail}: check that the file exists, and its permissions")
        case apsw.IOError() if code == apsw.SQLITE_IOERR_WRITE:  # a full quota too: SQLite tells a full disk alone
            return StoreError(path, f"{detail}; the chain is unchanged: check the disk, its quota, and `ulimit -f`")
        case _:
            return StoreError(path, f"{detail}; the chain is unchanged")

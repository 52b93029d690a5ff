"""The WAL beside a store's file, as bytes: what SQLite leaves to chance is made certain here."""

from __future__ import annotations

from typing import Final

import apsw

from milepost import files, schema

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24  # before each page
_FLAGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE


def make_durable(wal: str, vfs: str | None) -> None:
    """
    Write the WAL's bytes again where they stand, and sync them; call it with the write lock held.

    What a killed process wrote and did not sync is in the page cache only: visible, and gone with the power. Syncing is
    not enough, because after a sync that failed the kernel takes the lost pages for clean and has nothing to write.
    """
    with files.vfs_file(wal, vfs, _FLAGS) as file:
        size = file.xFileSize() if file else 0
        if file and size:
            for offset in range(0, size, files.PIECE_BYTES):
                file.xWrite(file.xRead(min(files.PIECE_BYTES, size - offset), offset), offset)
            file.xSync(apsw.SQLITE_SYNC_FULL)


def sync(wal: str, vfs: str | None) -> None:
    """Make durable what is written in the WAL; nothing to do takes 20 µs."""
    with files.vfs_file(wal, vfs, _FLAGS) as file:
        if file:
            file.xSync(apsw.SQLITE_SYNC_FULL)


def lengthen(wal: str, vfs: str | None, length: int) -> None:
    """Let the WAL have so many bytes at least, zeros at its end; call it with the write lock held."""
    with files.vfs_file(wal, vfs, _FLAGS) as file:
        if file:
            for offset in range(file.xFileSize(), length, files.PIECE_BYTES):
                file.xWrite(bytes(min(files.PIECE_BYTES, length - offset)), offset)


def first_page(wal: str, vfs: str | None) -> bytes | None:
    """
    The header of the database as its WAL has it, or None.

    Source:
        https://sqlite.org/fileformat2.html#the_write_ahead_log
    """
    found = None
    with files.vfs_file(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
        if file is None:
            return None
        size = file.xFileSize()
        page_bytes = int.from_bytes(files.read(file, HEADER_BYTES, 0)[8:12], "big")
        if page_bytes < 512:
            return None
        for offset in range(HEADER_BYTES, size, FRAME_HEADER_BYTES + page_bytes):
            frame = files.read(file, FRAME_HEADER_BYTES + schema.HEADER_BYTES, offset)
            if int.from_bytes(frame[:4], "big") == 1:
                found = frame[FRAME_HEADER_BYTES:]
    return found

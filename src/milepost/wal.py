"""The WAL beside a store's file, as bytes: what SQLite leaves to chance is made certain here."""

from __future__ import annotations

from typing import Final, Literal

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


def unread_commits(wal: str, vfs: str | None, frames: int) -> int:
    """
    How many commits the WAL holds behind its first `frames`, which are all that SQLite reads.

    A frame with a wrong checksum ends what SQLite reads: it drops that commit, and every later one, without a word. One
    commit behind may be what a loss of power has torn before it was acknowledged. With durability full two cannot: the
    second was written when the first was durable, so the disk has lost what it had.

    Source:
        https://sqlite.org/fileformat2.html#the_write_ahead_log
    """
    commits = 0
    with files.vfs_file(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
        header = files.read(file, HEADER_BYTES, 0)
        frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
        if file is None or not _whole(header):  # the first to be written of a round, and so what a kill may leave half done
            return 0
        for offset in range(HEADER_BYTES + frames * frame_bytes, file.xFileSize() - frame_bytes + 1, frame_bytes):
            frame = file.xRead(FRAME_HEADER_BYTES, offset)
            # Of this round of the WAL, by its salts; the last of a commit, since it tells the pages that the file then has.
            commits += frame[8:16] == header[16:24] and frame[4:8] != bytes(4)
    return commits


def _whole(header: bytes) -> bool:
    """Whether the header of a WAL has the checksum that it should have."""
    if len(header) < HEADER_BYTES:
        return False
    order: Literal["big", "little"] = "big" if header[3] & 1 else "little"
    words = [int.from_bytes(header[at : at + 4], order) for at in range(0, 24, 4)]
    one = other = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + other) & 0xFFFFFFFF
        other = (other + second + one) & 0xFFFFFFFF
    return header[24:32] == one.to_bytes(4, "big") + other.to_bytes(4, "big")


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

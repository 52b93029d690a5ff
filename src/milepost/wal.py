"""Handle the bytes of the WAL: sync it, grow it, write it back, and count the commits that SQLite would skip."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from typing import TYPE_CHECKING, Final, Literal, Protocol

import apsw

from milepost import files, inherited, schema
from milepost.errors import MilepostError, MilepostWarning, is_of_system
from milepost.readable import size
from milepost.sqlite_errors import sync_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24  # before each page
_AHEAD_PAGES: Final = 64  # how far, at least, the WAL grows ahead of its content
RESTART_S: Final = 0.05
"""How long a writer waits, at most, for others to let a WAL begin anew that has become too long."""

_TOO_LONG: Final = 4
"""How many times as long as it is to be written back at a WAL may become before it is made to begin anew."""

_FLAGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE


class _File(files.Readable, Protocol):
    """The methods of apsw.VFSFile that read and write a WAL."""

    def xWrite(self, data: bytes, offset: int) -> None: ...  # noqa: N802 - APSW's names
    def xSync(self, flags: int) -> None: ...  # noqa: N802


class _SystemFile(io.FileIO):
    """
    A WAL opened by the system's own calls. They let other threads run meanwhile; apsw.VFSFile does not.

    Closing its descriptor drops no lock, because SQLite locks the file and its -shm, never the -wal.
    """

    def xFileSize(self) -> int:  # noqa: N802
        return os.fstat(self.fileno()).st_size

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return os.pread(self.fileno(), amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        files.write_at(self.fileno(), data, offset)

    def xSync(self, _flags: int) -> None:  # noqa: N802
        try:
            os.fsync(self.fileno())
        except OSError as error:
            if not is_of_system(error):
                raise
            failed = apsw.IOError(f"fsync of the WAL: {error.strerror}")
            failed.result, failed.extendedresult = apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise failed from error


@contextlib.contextmanager
def _open(wal: str, vfs: str | None, flags: int) -> Iterator[_File | None]:
    """Open the WAL, and yield None if there is none. A VFS that the caller named sees this access too."""
    if vfs is not None or os.name == "nt":
        with files.vfs_file(wal, vfs, flags) as file:
            _refuse_inherited(wal, flags)
            yield file
        return
    try:
        # An object, not a number from os.open(): if an interrupt loses it, Python closes it.
        opened = _SystemFile(wal, "r+b" if flags & apsw.SQLITE_OPEN_READWRITE else "rb")
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise files.from_os(wal, error) from error
    try:
        _refuse_inherited(wal, flags)
        yield opened
    finally:
        opened.close()


def _refuse_inherited(wal: str, flags: int) -> None:
    """Refuse to write to the WAL of a file that a fork's parent uses. After it is opened: a fork may come just before."""
    if flags & apsw.SQLITE_OPEN_READWRITE:
        inherited.refuse(wal.removesuffix("-wal"))


def make_durable(wal: str, vfs: str | None) -> None:
    """
    Write the WAL's bytes again in place, and sync them. Call it with the write lock held.

    A killed process may have left bytes in the page cache only. Everybody sees them, but a power loss removes them. A sync
    alone is not enough: after a failed sync the kernel marks the lost pages as clean, and writes nothing.
    """
    with _open(wal, vfs, _FLAGS) as file:
        size = file.xFileSize() if file else 0
        if file and size:
            for offset in range(0, size, files.PIECE_BYTES):
                file.xWrite(file.xRead(min(files.PIECE_BYTES, size - offset), offset), offset)
            file.xSync(apsw.SQLITE_SYNC_FULL)


def sync(wal: str, vfs: str | None) -> None:
    """Sync the WAL. It takes 20 µs if there is nothing to write."""
    with _open(wal, vfs, _FLAGS) as file:
        if file:
            file.xSync(apsw.SQLITE_SYNC_FULL)


def lengthen(wal: str, vfs: str | None, length: int) -> None:
    """Grow the WAL to at least this many bytes, with zeros. Call it with the write lock held."""
    with _open(wal, vfs, _FLAGS) as file:
        if file:
            for offset in range(file.xFileSize(), length, files.PIECE_BYTES):
                file.xWrite(bytes(min(files.PIECE_BYTES, length - offset)), offset)


def unread_commits(wal: str, vfs: str | None, frames: int) -> int:
    """
    Count the commits in the WAL behind its first `frames`, which are all that SQLite reads.

    SQLite stops at a frame with a wrong checksum, and silently drops its commit and every later one. One such commit may be
    harmless: a power loss tore it before it was acknowledged. Two are not, with durability full: the second was written
    after the first was durable, so the disk has lost data.

    Two are harmless if the second does not continue the first: each is of a writer that was killed within its sync, while
    another process kept the WAL's index, and shorter commits are written over a long one. So they count as one.

    Source:
        https://sqlite.org/fileformat2.html#the_write_ahead_log
    """
    commits, last = 0, 0
    with _open(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
        header = files.read(file, HEADER_BYTES, 0)
        frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
        if file is None or not _is_valid_header(header):  # written first in each round, so a kill may leave it incomplete
            return 0
        for offset in range(HEADER_BYTES + frames * frame_bytes, file.xFileSize() - frame_bytes + 1, frame_bytes):
            frame = file.xRead(FRAME_HEADER_BYTES, offset)
            # The salts mark frames of this round. The last frame of a commit states the file's new size in pages.
            if frame[8:16] == header[16:24] and frame[4:8] != bytes(4):
                if commits != 1 or _is_continued(file, last, frame_bytes, _order(header)):
                    commits += 1
                last = offset
    return commits


def _is_continued(file: _File, last: int, frame_bytes: int, order: Literal["big", "little"]) -> bool:
    """Return whether the frame behind a commit's last one continues its checksum: the one stored there, or the right one."""
    frame, following = file.xRead(frame_bytes, last), file.xRead(frame_bytes, last + frame_bytes)
    checksums = frame[16:24], _checksum_of_frame(frame, _checksum_before(file, last, frame_bytes), order)
    return any(_checksum_of_frame(following, checksum, order) == following[16:24] for checksum in checksums)


def _checksum_before(file: _File, offset: int, frame_bytes: int) -> bytes:
    """Return the checksum that the frame at an offset continues: that of the frame before it, or of the header."""
    return file.xRead(8, HEADER_BYTES - 8 if offset == HEADER_BYTES else offset - frame_bytes + 16)


def _checksum_of_frame(frame: bytes, before: bytes, order: Literal["big", "little"]) -> bytes:
    return _checksum(frame[:8] + frame[FRAME_HEADER_BYTES:], before, order)


def _checksum(data: bytes, before: bytes, order: Literal["big", "little"]) -> bytes:
    """Return the checksum of a WAL's bytes, continued from the one before them."""
    one, other = int.from_bytes(before[:4], "big"), int.from_bytes(before[4:], "big")
    for at in range(0, len(data), 8):
        one = (one + int.from_bytes(data[at : at + 4], order) + other) & 0xFFFFFFFF
        other = (other + int.from_bytes(data[at + 4 : at + 8], order) + one) & 0xFFFFFFFF
    return one.to_bytes(4, "big") + other.to_bytes(4, "big")


def _order(header: bytes) -> Literal["big", "little"]:
    """Return the order of bytes that the checksums of a WAL are made with."""
    return "big" if header[3] & 1 else "little"


def _is_valid_header(header: bytes) -> bool:
    """Return whether the header of a WAL has the right checksum."""
    return len(header) >= HEADER_BYTES and _checksum(header[:24], bytes(8), _order(header)) == header[24:32]


def first_page(wal: str, vfs: str | None) -> bytes | None:
    """
    Return the database header in the WAL's last whole copy of page 1, or None.

    Behind the last commit there may be frames that were never committed, of which a power loss has left a part.

    Source:
        https://sqlite.org/fileformat2.html#the_write_ahead_log
    """
    with _open(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
        if file is None:
            return None
        header = files.read(file, HEADER_BYTES, 0)
        page_bytes = int.from_bytes(header[8:12], "big")
        if page_bytes < 512:
            return None
        frame_bytes = FRAME_HEADER_BYTES + page_bytes
        frames = range(HEADER_BYTES, file.xFileSize() - frame_bytes + 1, frame_bytes)
        copies = [offset for offset in frames if int.from_bytes(files.read(file, 4, offset), "big") == 1]
        for offset in reversed(copies):
            frame = files.read(file, frame_bytes, offset)
            if _checksum_of_frame(frame, _checksum_before(file, offset, frame_bytes), _order(header)) == frame[16:24]:
                return frame[FRAME_HEADER_BYTES:][: schema.HEADER_BYTES]
    return None


class Wal:
    """
    The WAL of a writer's connection, between two commits: its length, the room ahead of it, and writing it back.

    Args:
        connection: The writer's connection.
        path: The file.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        grows_ahead: Whether to grow the WAL ahead of its content. It pays if each commit syncs the WAL.
    """

    def __init__(self, connection: apsw.Connection, path: str, vfs: str | None, *, grows_ahead: bool) -> None:
        self._connection, self._path, self._vfs, self._grows_ahead = connection, path, vfs, grows_ahead
        self.name: str = f"{path}-wal"  # not filename_wal, which is UTF-8 in any locale
        self._page_bytes = int(connection.pragma("page_size"))
        self._frames = 0  # after this connection's last commit
        self._room = 1  # how many frames fit without growth; 1 leaves out the very first commit
        self._due = False
        self._frames_at_last_try = 0  # how many frames it had at the last attempt to write it back
        self._warned_of_length = False
        # How long the WAL may get: 8 MB, or some 1,600 appends. SQLite's default of 1,000 pages suits statements that change
        # one page of 4 KB, but an append changes two or three of 2 KB. Up to 4,062 pages, a reader searches one table of the
        # WAL's index.
        self.write_back_pages = 4000
        self.long_pages = 131_072
        # SQLite's automatic checkpoint is off, because it hides the error of a failed sync.
        connection.wal_autocheckpoint(0)
        # A very large batch makes the WAL as long as itself. The limit shortens it when it restarts.
        connection.pragma("journal_size_limit", 2 * self.write_back_pages * self._page_bytes)

    def frames(self) -> tuple[int, int] | None:
        """
        Return how many frames of the WAL SQLite reads, and how many of them are written back.

        Call it outside of a transaction. It returns None at once if another process is writing the WAL back, or a statement
        of the caller's is still active.
        """
        try:
            return self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except (apsw.BusyError, apsw.LockedError):
            return None

    def make_room(self) -> None:
        """
        Grow the WAL ahead of its content, to twice its length. Call it with the write lock held.

        A sync of a growing file costs up to twice as much, because its new length must become durable too. SQLite ignores
        the zeros at the end, as it ignores the rest of an earlier round.
        """
        if self._frames < self._room or not self._grows_ahead:
            return
        pages = min(2 * self._frames, self.write_back_pages) + _AHEAD_PAGES
        self._room = max(pages - _AHEAD_PAGES // 2, self._frames + _AHEAD_PAGES)
        # A disk that is too full for this may still have space for the commit.
        with contextlib.suppress(apsw.Error, OSError, MilepostError):
            lengthen(self.name, self._vfs, HEADER_BYTES + pages * (FRAME_HEADER_BYTES + self._page_bytes))

    def sync(self) -> None:
        """Sync the WAL, also for another process that was killed before its sync."""
        sync(self.name, self._vfs)

    def make_due(self) -> None:
        """Have the next `write_back` write the WAL back, however short it is: only that makes the file itself shorter."""
        self._due = True

    def write_back(self) -> None:
        """
        Write the WAL back after a commit, if it is long enough, as SQLite's automatic checkpoint would.

        SQLite begins the WAL anew when all of it is written back and nobody reads it. That never comes where another
        process appends all the time, or readers take turns: one has always added a commit, or begun to read, meanwhile. A
        WAL that has become long that way is made to begin anew, for which the others wait a moment. A reader that keeps it
        from being written back is not waited for, as it may stay for hours. Call it with a deadline for the busy handler.

        Raises:
            apsw.IOError: A sync failed. Any other error leaves the commit intact, and is ignored.
        """
        found = self.frames()
        if found is None:
            return
        frames, written_back = found
        if frames < self._frames:  # it has restarted, so all of it was written back
            self._frames_at_last_try = 0
        self._frames = frames
        if frames - max(self._frames_at_last_try, written_back) < self.write_back_pages and not self._due:
            return
        self._due = False
        self._frames_at_last_try = frames
        try:
            frames, written_back = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if frames >= _TOO_LONG * self.write_back_pages and frames - written_back < self.write_back_pages:
                frames, written_back = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error as error:
            if sync_failed(error):
                raise
        if frames - written_back >= self.long_pages and not self._warned_of_length:
            self._warned_of_length = True
            # The commit stands, even if the caller turns warnings into errors.
            with contextlib.suppress(MilepostWarning):
                warnings.warn(
                    f"{self._path}: the -wal file has grown to {size(frames * self._page_bytes)}, because a reader keeps "
                    "one transaction open: end that transaction, or close the reader",
                    MilepostWarning,
                    stacklevel=2,
                )

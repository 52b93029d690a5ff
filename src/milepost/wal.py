"""The WAL beside a store's file, as bytes: what SQLite leaves to chance is made certain here."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from typing import TYPE_CHECKING, Final, Literal, Protocol

import apsw

from milepost import files, schema
from milepost.errors import MilepostError, MilepostWarning
from milepost.readable import size
from milepost.sqlite_errors import sync_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24  # before each page
_AHEAD_PAGES: Final = 64  # how far the WAL grows ahead of what is written to it, at least
_FLAGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE


class _File(files.Readable, Protocol):
    """What is done to a WAL as bytes: some of what an apsw.VFSFile does."""

    def xWrite(self, data: bytes, offset: int) -> None: ...  # noqa: N802 - APSW's names
    def xSync(self, flags: int) -> None: ...  # noqa: N802


class _SystemFile(io.FileIO):
    """
    A WAL opened by the system's own calls, which let other threads run meanwhile; those of apsw.VFSFile do not.

    SQLite locks the file and its -shm, never the -wal: closing a descriptor of it drops no lock.
    """

    def xFileSize(self) -> int:  # noqa: N802
        return os.fstat(self.fileno()).st_size

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return os.pread(self.fileno(), amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        while data:
            written = os.pwrite(self.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def xSync(self, _flags: int) -> None:  # noqa: N802
        try:
            os.fsync(self.fileno())
        except OSError as error:
            failed = apsw.IOError(f"fsync of the WAL: {error.strerror}")
            failed.result, failed.extendedresult = apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise failed from error


@contextlib.contextmanager
def _opened(wal: str, vfs: str | None, flags: int) -> Iterator[_File | None]:
    """The WAL, or None for no file; through the VFS where the caller has named one, which is to see all that is done."""
    if vfs is not None or os.name == "nt":
        with files.vfs_file(wal, vfs, flags) as file:
            yield file
        return
    try:
        # An object, not the number of os.open(): an interrupt that comes with it closes it.
        opened = _SystemFile(wal, "r+b" if flags & apsw.SQLITE_OPEN_READWRITE else "rb")
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise files.from_os(wal, error) from error
    try:
        yield opened
    finally:
        opened.close()


def make_durable(wal: str, vfs: str | None) -> None:
    """
    Write the WAL's bytes again where they stand, and sync them; call it with the write lock held.

    What a killed process wrote and did not sync is in the page cache only: visible, and gone with the power. Syncing is
    not enough, because after a sync that failed the kernel takes the lost pages for clean and has nothing to write.
    """
    with _opened(wal, vfs, _FLAGS) as file:
        size = file.xFileSize() if file else 0
        if file and size:
            for offset in range(0, size, files.PIECE_BYTES):
                file.xWrite(file.xRead(min(files.PIECE_BYTES, size - offset), offset), offset)
            file.xSync(apsw.SQLITE_SYNC_FULL)


def sync(wal: str, vfs: str | None) -> None:
    """Make durable what is written in the WAL; nothing to do takes 20 µs."""
    with _opened(wal, vfs, _FLAGS) as file:
        if file:
            file.xSync(apsw.SQLITE_SYNC_FULL)


def lengthen(wal: str, vfs: str | None, length: int) -> None:
    """Let the WAL have so many bytes at least, zeros at its end; call it with the write lock held."""
    with _opened(wal, vfs, _FLAGS) as file:
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
    with _opened(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
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
    with _opened(wal, vfs, apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY) as file:
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


class Wal:
    """
    The WAL of a writer's connection, between two commits: how long it is, room ahead of it, and writing it back.

    Args:
        connection: The writer's.
        path: The file.
        vfs: The name of an SQLite VFS; None for SQLite's own.
        grows_ahead: Whether each commit syncs it, so that it pays to let it grow ahead of what is written.
    """

    def __init__(self, connection: apsw.Connection, path: str, vfs: str | None, *, grows_ahead: bool) -> None:
        self._connection, self._path, self._vfs, self._grows_ahead = connection, path, vfs, grows_ahead
        self.name: str = f"{path}-wal"  # not filename_wal: SQLite's names are UTF-8, and the locale's may be another
        self._page_bytes = int(connection.pragma("page_size"))
        self._identity = files.identity_of(self.name)
        self._identity_at_first = self._identity()
        self._frames = 0  # after our own last commit
        self._room = 1  # how many frames it holds without growing; not for the very first commit
        self._tried = 0  # how many frames it had when it was last written back, or tried to be
        self._long_told = False
        # How long the WAL may get: 8 MB, or some 1,600 appends. SQLite's own figure, 1,000 pages, suits statements that
        # change one page of 4 KB; an append changes two or three of 2 KB. Up to 4,062 pages a reader searches one table of
        # the WAL's index.
        self.write_back_pages = 4000
        self.long_pages = 131_072
        # Write the WAL back ourselves: an automatic checkpoint swallows the error of a sync that fails.
        connection.wal_autocheckpoint(0)
        # One very large batch makes it as long as itself; when it begins anew it gets short again.
        connection.pragma("journal_size_limit", 2 * self.write_back_pages * self._page_bytes)

    def frames(self) -> tuple[int, int] | None:
        """
        How many frames of the WAL SQLite reads, and how many of them are written back; outside of a transaction.

        None where another process is writing it back just now: SQLite answers so at once, and asks no busy handler.
        """
        try:
            return self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.BusyError:
            return None

    def is_in_place(self) -> bool:
        """Whether its name stands for the file that it stood for at first."""
        try:
            return self._identity() == self._identity_at_first
        except OSError:
            return False

    def make_room(self) -> None:
        """
        Let the WAL grow ahead of what is written to it, to twice its length; call it with the write lock held.

        A sync costs up to twice as much while a file grows as when it is overwritten, since its new length has to be made
        durable as well. SQLite takes the zeros at the end for nothing, as it does what is left there of an earlier round.
        """
        if self._frames < self._room or not self._grows_ahead:
            return
        pages = min(2 * self._frames, self.write_back_pages) + _AHEAD_PAGES
        self._room = max(pages - _AHEAD_PAGES // 2, self._frames + _AHEAD_PAGES)
        # A disk without space for it may have enough for the commit itself.
        with contextlib.suppress(apsw.Error, OSError, MilepostError):
            lengthen(self.name, self._vfs, HEADER_BYTES + pages * (FRAME_HEADER_BYTES + self._page_bytes))

    def sync(self) -> None:
        """Make durable what is written in it, perhaps by another process that was killed before its sync."""
        sync(self.name, self._vfs)

    def write_back(self) -> None:
        """
        After a commit: what SQLite's automatic checkpoint does, when it is time.

        Raises:
            apsw.IOError: A sync failed. No other error of it matters to what was just committed.
        """
        found = self.frames()
        if found is None:  # and so is being done
            return
        frames, written_back = found
        if frames < self._frames:  # it has begun anew, all of it having been written back
            self._tried = 0
        self._frames = frames
        if frames - max(self._tried, written_back) < self.write_back_pages:
            return
        self._tried = frames
        try:
            frames, written_back = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            if sync_failed(error):
                raise
        if frames - written_back >= self.long_pages and not self._long_told:
            self._long_told = True
            # What was committed is committed, also where warnings are made errors.
            with contextlib.suppress(MilepostWarning):
                warnings.warn(
                    f"{self._path}: its -wal file has grown to {size(frames * self._page_bytes)}, since somebody "
                    "has been reading the file in one transaction all the while: end that transaction, or close what reads",
                    MilepostWarning,
                    stacklevel=2,
                )

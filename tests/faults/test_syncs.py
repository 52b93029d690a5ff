"""What is made durable before which answer: the syncs themselves, as SQLite's VFS and the kernel are asked for them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from milepost import CheckpointStore, FailedStoreError, SequenceError, Watermark, WrongKeyError, files
from milepost.wal import first_page, lengthen, make_durable, sync, unread_commits
from support.chains import chain, entry
from support.doors import wal, writer
from support.hooked_vfs import Call, hooked
from support.syncs import synced_inodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def _noted() -> Iterator[tuple[str, list[Call]]]:
    """The name of a VFS, and the calls that it gets."""
    calls: list[Call] = []
    with hooked(calls.append) as vfs:
        yield vfs, calls


def _syncs_of_wal(calls: list[Call]) -> int:
    return sum(call.method == "xSync" and call.path.endswith("-wal") for call in calls)


def _again_in_block(store: CheckpointStore) -> None:
    with store.transaction():
        store.append(entry(1))


def _again_in_inner_block(store: CheckpointStore) -> None:
    with store.transaction(), store.transaction():
        store.append(entry(1))


DUPLICATES: dict[str, Callable[[CheckpointStore], object]] = {
    "append": lambda store: store.append(entry(1)),
    "append_many": lambda store: store.append_many(chain(2)),
    "advance": lambda store: store.advance("run-8", "load", Watermark(1, 1), idempotency_key="a"),
    "block": _again_in_block,
    "inner block": _again_in_inner_block,
}


@pytest.mark.parametrize(("durability", "syncs"), [("full", 1), ("normal", 0)])
@pytest.mark.parametrize("way", DUPLICATES)
def test_a_duplicate_is_made_durable_before_it_is_acknowledged(path: Path, way: str, durability: Any, syncs: int) -> None:
    """SQLite syncs nothing for it; and who recorded it may have been killed before his sync."""
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs, durability=durability) as store:
        store.append_many(chain(2))
        store.advance("run-8", "load", Watermark(1, 1), idempotency_key="a")
        calls.clear()
        DUPLICATES[way](store)
        assert _syncs_of_wal(calls) == syncs


def _rejected(store: CheckpointStore) -> None:
    with pytest.raises(SequenceError):
        store.append(entry(0, key="late", offset=10**6, event_time_ms=2**60))


@pytest.mark.parametrize(("durability", "syncs"), [("full", 1), ("normal", 0)])
@pytest.mark.parametrize("beside", [[], [_rejected], [_rejected, _rejected]])
def test_duplicates_that_are_committed_together_are_made_durable_too(
    path: Path, durability: Any, syncs: int, beside: list[Callable[[CheckpointStore], object]]
) -> None:
    """Also beside what is rejected: nothing of that is new."""
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs, durability=durability) as store:
        store.append_many(chain(2))
        store.advance("run-8", "load", Watermark(1, 1), idempotency_key="a")
        jobs = [DUPLICATES["append"], *beside, DUPLICATES["append_many"], DUPLICATES["advance"]]
        turns = writer(store)._turns
        with ThreadPoolExecutor(len(jobs)) as pool:
            with store.transaction():
                waiting = []
                for job in jobs:
                    waiting.append(pool.submit(job, store))
                    while turns.waiting < len(waiting):
                        pass
                store.append(entry(3))
                calls.clear()
            for each in waiting:
                each.result()
        assert _syncs_of_wal(calls) == 2 * syncs  # the block's, and one for all


def test_a_duplicate_in_a_block_beside_what_is_rejected_is_made_durable(path: Path) -> None:
    """What is rejected is not appended."""
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs) as store:
        store.append_many(chain(2))
        calls.clear()
        with store.transaction():
            _rejected(store)
            store.append(entry(1))
        assert _syncs_of_wal(calls) == 1


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_new_is_synced_once(path: Path, inside: bool) -> None:
    """By its commit: a sync more would double the time of every append."""
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs) as store:
        for sequence in range(1, 4):
            store.append(entry(sequence))
        calls.clear()
        with store.transaction() if inside else contextlib.nullcontext():
            store.append(entry(4))
        assert _syncs_of_wal(calls) == 1


def test_a_wal_that_is_found_is_written_again_and_synced_before_the_first_answer(path: Path, tmp_path: Path) -> None:
    """All of it: its writer may have been killed before its sync, or have seen one fail."""
    original = tmp_path / "original"
    with CheckpointStore(original) as store:
        store.append_many(chain(2000))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{path}{suffix}")
    content = path.with_name(f"{path.name}-wal").read_bytes()
    assert len(content) > 2 * files.PIECE_BYTES  # what it is written in
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs) as store:
        of_wal = [call for call in calls if call.path.endswith("-wal")]
        synced = max(number for number, call in enumerate(of_wal) if call.method == "xSync")
        written = bytearray(len(content))
        for call in of_wal[:synced]:
            if call.method == "xWrite":
                written[call.offset : call.offset + len(call.data)] = call.data
        assert written == content
        assert len(store) == 2000


def test_what_the_system_writes_of_it_in_pieces_is_written_where_it_belongs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write may end early, as at the last free byte of a disk."""
    original = tmp_path / "original"
    with CheckpointStore(original) as store:
        store.append_many(chain(50))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{path}{suffix}")
    pwrite = os.pwrite
    pieces: list[int] = []

    def short(descriptor: int, data: bytes, offset: int) -> int:
        pieces.append(offset)
        return pwrite(descriptor, data[:1000], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with CheckpointStore(path) as store:
        assert list(store.history()) == chain(50)
    assert pieces[:4] == [0, 1000, 2000, 3000]


def test_a_wal_gets_as_long_as_it_is_to_be_and_keeps_what_it_holds(tmp_path: Path) -> None:
    """However much is missing."""
    name = tmp_path / "orders.milepost-wal"
    for length in (5, 100, 100, files.PIECE_BYTES + 7, 3 * files.PIECE_BYTES + 1):
        name.write_bytes(b"frame")
        lengthen(str(name), None, length)
        assert name.read_bytes() == b"frame" + bytes(length - 5)


@pytest.mark.parametrize("vfs", [None, "unix"])
def test_where_there_is_no_wal_none_is_made(tmp_path: Path, vfs: str | None) -> None:
    """Somebody may have taken it away meanwhile, which is told elsewhere."""
    name = str(tmp_path / "orders.milepost-wal")
    make_durable(name, vfs)
    sync(name, vfs)
    lengthen(name, vfs, 100)
    assert unread_commits(name, vfs, 0) == 0
    assert first_page(name, vfs) is None
    assert list(tmp_path.iterdir()) == []


def test_a_wal_that_is_found_is_not_written_back_by_an_opening_that_is_refused(path: Path, tmp_path: Path) -> None:
    """It was not made durable first: a loss of power would leave the file half written back, and the WAL gone."""
    original, names = tmp_path / "original", (path, path.with_name(f"{path.name}-wal"))
    with CheckpointStore(original, hmac_key=b"k" * 32) as store:
        store.append_many(chain(50))
        for name in names:
            shutil.copyfile(f"{original}{name.name[len(path.name) :]}", name)
    found = [name.read_bytes() for name in names]
    with pytest.raises(WrongKeyError):
        CheckpointStore(path, hmac_key=b"w" * 32)
    assert [name.read_bytes() for name in names] == found


def test_the_name_of_a_file_is_made_durable_by_who_makes_it_and_by_who_opens_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have been killed before that."""
    synced = synced_inodes(monkeypatch)
    (tmp_path / "copies").mkdir()
    with CheckpointStore(path) as store:
        assert tmp_path.stat().st_ino in synced
        store.backup(tmp_path / "copies" / "copy")
        assert (tmp_path / "copies").stat().st_ino in synced
    synced.clear()
    with CheckpointStore(path):
        assert tmp_path.stat().st_ino in synced


@pytest.mark.parametrize(("durability", "least", "most"), [("full", 2, 10), ("normal", 90, 100)])
def test_the_wal_of_a_durable_store_grows_ahead_of_what_is_written(
    path: Path, durability: Any, least: int, most: int
) -> None:
    """A sync costs up to twice as much while a file grows; where nothing is synced it grows as it is written."""
    name, sizes = path.with_name(f"{path.name}-wal"), set[int]()
    with CheckpointStore(path, durability=durability) as store:
        for sequence in range(1, 101):
            store.append(entry(sequence))
            sizes.add(name.stat().st_size)
        frames, _ = wal(store).frames() or (0, 0)
        assert frames * 2072 < max(sizes) < 3 * frames * 2072
        assert least <= len(sizes) <= most
        store.verify().raise_if_broken()


def test_the_wal_does_not_grow_ahead_for_the_first_commit(path: Path) -> None:
    """It may be the only one."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        frames, _ = wal(store).frames() or (0, 0)
        assert path.with_name(f"{path.name}-wal").stat().st_size == 32 + frames * 2072


def test_sqlite_itself_does_not_write_the_wal_back(path: Path) -> None:
    """It would at 1,000 pages, and hide that a sync has failed."""
    with CheckpointStore(path, durability="normal") as store:
        cursor = "x" * 65_000
        store.advance_many(
            [
                {"run_id": "a", "stage": f"{number}", "watermark": Watermark(1, 1), "idempotency_key": "a", "cursor": cursor}
                for number in range(40)
            ]
        )
        frames, written_back = wal(store).frames() or (0, 0)
        assert 1000 < frames < wal(store).write_back_pages
        assert written_back == 0


class _Disk:
    """The hook of a VFS whose syncs, or reads, of one file fail while it is told so."""

    def __init__(self) -> None:
        self.fails: tuple[str, str] | None = None  # the method, and how the file's name ends
        self.code = apsw.SQLITE_IOERR_FSYNC
        self.failed = 0
        self.written: list[str] = []

    def __call__(self, call: Call) -> None:
        if call.method == "xWrite":
            self.written.append(call.path)
        if self.fails is not None and call.method == self.fails[0] and call.path.endswith(self.fails[1]):
            self.failed += 1
            raise apsw.exception_for(self.code)


def _append(store: CheckpointStore) -> None:
    store.append(entry(3))


def _append_in_block(store: CheckpointStore) -> None:
    with store.transaction():
        store.append(entry(3))


@pytest.mark.parametrize("write", [_append, _append_in_block, DUPLICATES["append"], DUPLICATES["block"]])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_a_sync_that_failed_the_wal_is_left_to_the_next_opener(
    path: Path, write: Callable[[CheckpointStore], object]
) -> None:
    """A sync of it would now succeed and mean nothing: closing the store writes nothing of it into the file."""
    disk = _Disk()
    with hooked(disk) as vfs:
        with CheckpointStore(path, vfs=vfs) as store:
            store.append_many(chain(2))
            disk.fails = "xSync", "-wal"
            with pytest.raises(FailedStoreError, match="failed to make a write durable"):
                write(store)
            assert disk.failed == 1
            disk.fails = None
            with pytest.raises(FailedStoreError):
                store.append(entry(9))
            disk.written.clear()
        assert disk.written == []
        assert path.with_name(f"{path.name}-wal").stat().st_size > 0
    with CheckpointStore(path) as store:
        assert store.append(entry(4)).position == len(store)


def test_a_sync_of_mileposts_own_that_fails_is_told_as_one_of_sqlites_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a duplicate, by the system's own call; the store does nothing more then."""

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with CheckpointStore(path) as store:
        store.append(entry(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(FailedStoreError, match="failed to make a write durable"):
                store.append(entry(1))
        with pytest.raises(FailedStoreError):
            store.append(entry(2))
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


@pytest.mark.parametrize("method", ["xSync", "xWrite"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_back_that_fails_is_told_only_if_a_sync_did(path: Path, method: str, inside: bool) -> None:
    """What was just committed is committed: no other error of it matters, and it is tried again later."""
    disk = _Disk()
    disk.code = apsw.SQLITE_IOERR_FSYNC if method == "xSync" else apsw.SQLITE_IOERR_WRITE
    with hooked(disk) as vfs, CheckpointStore(path, vfs=vfs, durability="normal") as store:
        wal(store).write_back_pages = 20

        def write() -> None:
            for sequence in range(len(store) + 1, len(store) + 31):
                with store.transaction() if inside else contextlib.nullcontext():
                    store.append(entry(sequence))

        disk.fails = method, path.name
        if method == "xSync":
            with pytest.raises(FailedStoreError, match="failed to make a write durable"):
                write()
            disk.fails = None
            with pytest.raises(FailedStoreError):
                store.append(entry(100))
        else:
            write()
            assert len(store) == 30
            disk.fails = None
            disk.written.clear()
            write()
            assert str(path) in disk.written
        assert disk.failed >= 1

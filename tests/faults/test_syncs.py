"""What is made durable before which answer: the syncs themselves, as SQLite's VFS and the kernel are asked for them."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hooked_vfs import Call, hooked

from chains import chain, entry
from milepost import CheckpointStore, Watermark

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
def test_a_duplicate_is_made_durable_before_it_is_acknowledged(path: Path, way: str, durability: str, syncs: int) -> None:
    """SQLite syncs nothing for it; and who recorded it may have been killed before his sync."""
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs, durability=durability) as store:
        store.append_many(chain(2))
        store.advance("run-8", "load", Watermark(1, 1), idempotency_key="a")
        calls.clear()
        DUPLICATES[way](store)
        assert _syncs_of_wal(calls) == syncs


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
        store.append_many(chain(50))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{path}{suffix}")
    content = path.with_name(f"{path.name}-wal").read_bytes()
    assert len(content) > 10_000
    with _noted() as (vfs, calls), CheckpointStore(path, vfs=vfs) as store:
        of_wal = [call for call in calls if call.path.endswith("-wal")]
        synced = max(number for number, call in enumerate(of_wal) if call.method == "xSync")
        written = bytearray(len(content))
        for call in of_wal[:synced]:
            if call.method == "xWrite":
                written[call.offset : call.offset + len(call.data)] = call.data
        assert written == content
        assert len(store) == 50


def test_the_name_of_a_file_is_made_durable_by_who_makes_it_and_by_who_opens_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have been killed before that."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    (tmp_path / "copies").mkdir()
    with CheckpointStore(path) as store:
        assert tmp_path.stat().st_ino in synced
        store.backup(tmp_path / "copies" / "copy")
        assert (tmp_path / "copies").stat().st_ino in synced
    synced.clear()
    with CheckpointStore(path):
        assert tmp_path.stat().st_ino in synced

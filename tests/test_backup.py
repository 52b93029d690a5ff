"""backup(): an exact, verifying copy, while others write."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from chains import chain, entry
from milepost import CheckpointStore, ReadOnlyStoreError, StoreError

if TYPE_CHECKING:
    from pathlib import Path


def _names(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()]


def test_a_backup_is_a_store_with_the_same_chain(store: CheckpointStore, path: Path) -> None:
    """It has the head that is returned, goes on like any other, and is readable by its owner only."""
    store.append_many(chain(100))
    copy = path.with_name("copy")
    assert store.backup(copy) == store.head()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with CheckpointStore(copy) as other:
        assert list(other.history()) == chain(100)
        assert other.verify(expected=store.head()).ok
        other.append(entry(101))
    assert len(store) == 100
    assert sorted(_names(path)) == ["copy", path.name, f"{path.name}-shm", f"{path.name}-wal"]


def test_a_backup_under_load_holds_a_prefix_of_the_original(path: Path) -> None:
    """Its head is in the chain of the original, whatever is appended meanwhile."""
    writing = threading.Event()
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(2000))

        def write() -> None:
            sequence = 2000
            while not writing.is_set():
                sequence += 1
                store.append(entry(sequence))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            heads = [store.backup(path.with_name(f"copy-{i}")) for i in range(5)]
        finally:
            writing.set()
            thread.join()
        for i, head in enumerate(heads):
            assert store.verify(expected=head).ok
            with CheckpointStore.open_readonly(path.with_name(f"copy-{i}")) as copy:
                assert copy.verify(expected=head).ok
        assert [head.entries for head in heads] == sorted(head.entries for head in heads)


def test_a_backup_never_overwrites_and_leaves_nothing_behind(store: CheckpointStore, path: Path) -> None:
    """An existing file, a missing directory, the store itself."""
    store.append(entry(1))
    there = path.with_name("there")
    there.write_text("precious")
    for target, message in ((there, "a backup never overwrites"), (path, "a backup never overwrites"),
                            (path.parent / "missing" / "copy", "check the path")):  # fmt: skip
        with pytest.raises(StoreError, match=message):
            store.backup(target)
    assert there.read_text() == "precious"
    assert not [name for name in _names(path) if name.startswith(".")]


def test_a_store_that_only_reads_can_be_backed_up_too(path: Path) -> None:
    """After a clean close, and beside a live writer."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        with CheckpointStore.open_readonly(path) as reader:
            assert reader.backup(path.with_name("live")) == store.head()
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.backup(path.with_name("closed")) == reader.head()
        with pytest.raises(ReadOnlyStoreError):
            reader.append(entry(2))


def test_what_an_open_block_has_written_is_not_in_a_backup(store: CheckpointStore, path: Path) -> None:
    """Only what is committed."""
    store.append(entry(1))
    with store.transaction():
        store.append(entry(2))
        assert store.backup(path.with_name("copy")).entries == 1


def test_a_file_with_a_second_name_is_refused_for_writing(path: Path) -> None:
    """Two names would have two WALs."""
    CheckpointStore(path).close()
    os.link(path, path.with_name("second"))
    with pytest.raises(StoreError, match="a second name"):
        CheckpointStore(path)
    path.with_name("second").unlink()
    CheckpointStore(path).close()


def test_a_kill_while_the_file_is_put_in_place_leaves_a_store_that_opens(path: Path) -> None:
    """The first name, which is left over, is removed by the next opener."""
    program = (
        "import os, sys\n"
        "from milepost import CheckpointStore\n"
        "link = os.link\n"
        "os.link = lambda *names: (link(*names), os._exit(9))\n"
        "CheckpointStore(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == 9
    assert path.stat().st_nlink == 2
    with CheckpointStore(path) as store:
        store.append(entry(1))
    assert _names(path) == [path.name]

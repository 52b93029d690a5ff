"""What the kernel says of locks, and what is made of it."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, ForkedStoreError, open_files
from support.chains import entry
from support.doors import connections

if TYPE_CHECKING:
    from pathlib import Path


class _File:
    """A file that is open, and lets go of everything at once."""

    path = "orders.milepost"

    def let_go(self, deadline: float) -> bool:
        """It does."""
        return True

    def take_back(self) -> None:
        """It is not asked for anything more."""

    def make_way(self, deadline: float) -> bool:
        """It does."""
        return True

    def carried_over(self) -> None:
        """There is no child."""


def _line(inode: int, byte: int, kind: str = "POSIX") -> str:
    return f"1: {kind}  ADVISORY  READ {os.getpid()} fe:00:{inode} {byte} {byte}\n"


@pytest.fixture
def shm(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, and a list of locks that a test may write."""
    monkeypatch.setattr(open_files, "_LOCKS", str(path.with_name("locks")))
    path.write_bytes(b"")
    return path


def _refused(shm: Path, locks: str) -> bool:
    shm.with_name("locks").write_text(locks)
    try:
        open_files.refuse_without_locks("orders.milepost", str(shm))
    except ForkedStoreError:
        return True
    return False


def test_a_process_without_the_lock_that_every_opener_has_is_refused(shm: Path) -> None:
    """And no other: where the writer's own lock is not listed either, the list says nothing."""
    inode = shm.stat().st_ino
    assert _refused(shm, _line(inode, 120) + _line(inode, 124))
    assert not _refused(shm, _line(inode, 120) + _line(inode, 128))
    assert not _refused(shm, _line(inode, 128))
    assert not _refused(shm, "")
    assert _refused(shm, _line(inode, 120) + _line(inode + 1, 128))
    assert _refused(shm, _line(inode, 120) + _line(inode, 128, "OFDLCK"))


@pytest.mark.parametrize("locks", ["nonsense\n", "1: POSIX\n", "1: POSIX  ADVISORY  READ x y z w\n", "\n"])
def test_a_list_of_another_form_refuses_nobody(shm: Path, locks: str) -> None:
    """Nor does one that cannot be read."""
    assert not _refused(shm, locks)
    shm.with_name("locks").unlink()
    open_files.refuse_without_locks("orders.milepost", str(shm))


def test_a_list_that_misses_a_lock_once_refuses_nobody(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in pieces, while other processes take and give back theirs."""
    looks = iter([{120}] * 5 + [{120, 128}] * 100)
    monkeypatch.setattr(open_files, "_locked_bytes", lambda process, inode: next(looks))
    open_files.refuse_without_locks("orders.milepost", str(shm))
    assert len(list(looks)) == 99


def test_a_file_that_is_opened_while_another_thread_forks_is_registered_after_that() -> None:
    """Else the child would inherit it, though nobody was asked to let go of it."""
    asked, go_on, registered = threading.Event(), threading.Event(), threading.Event()

    class Slow(_File):
        def let_go(self, deadline: float) -> bool:
            asked.set()
            return go_on.wait(10)

    slow, late = Slow(), _File()
    open_files.register(slow)

    def fork() -> None:
        open_files._before_fork()
        open_files._after_fork_in_parent()

    def register() -> None:
        open_files.register(late)
        registered.set()

    forking, registering = threading.Thread(target=fork), threading.Thread(target=register)
    try:
        forking.start()
        assert asked.wait(10)
        registering.start()
        assert not registered.wait(0.2)
        go_on.set()
        assert registered.wait(10)
        assert late in open_files.opened()
    finally:
        go_on.set()
        forking.join(10)
        registering.join(10)
        open_files.forget(slow)
        open_files.forget(late)


def test_what_a_store_has_open_is_never_closed_in_the_child_of_a_fork(path: Path) -> None:
    """Neither what it reads with nor what it writes with, as the last name of it goes: SQLite would write the WAL back."""
    store = CheckpointStore(path, durability="normal")
    store.append(entry(1))
    inherited = list(map(weakref.ref, connections(store)))
    assert len(inherited) == 2
    store._database.carried_over()
    open_files.forget(store._database)
    del store
    gc.collect()
    for connection in inherited:
        kept = connection()
        assert kept is not None
        apsw.Connection.close(kept, True)

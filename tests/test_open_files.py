"""What the kernel says of locks, and what is made of it."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, ForkedStoreError, StoreError, open_files
from milepost.database import Database
from support.chains import entry
from support.doors import connections, fork_in_progress, writer

if TYPE_CHECKING:
    from pathlib import Path


class _File:
    """A file that is open, and lets go of everything at once."""

    writes = True

    path = "orders.milepost"
    paths = ("orders.milepost",)
    may_be_open = False

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


def _line(inode: int, byte: int, kind: str = "POSIX", process: int | None = None) -> str:
    return f"1: {kind}  ADVISORY  READ {process or os.getpid()} fe:00:{inode} {byte} {byte}\n"


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
    assert _refused(shm, _line(inode, 120) + _line(inode, 128, process=os.getppid()))
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


def test_a_file_that_is_opened_while_another_thread_forks_waits_for_that() -> None:
    """Else the child would inherit it, though nobody was asked to let go of it."""
    asked, go_on, registered = threading.Event(), threading.Event(), threading.Event()

    class Slow(_File):
        def let_go(self, deadline: float) -> bool:
            asked.set()
            return go_on.wait(10)

    slow, late = Slow(), _File()
    open_files.register(slow)

    def fork() -> None:
        with fork_in_progress():
            pass

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


class _Interrupted(_File):
    """A file whose hooks are interrupted, and who was asked before that."""

    writes = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def let_go(self, deadline: float) -> bool:
        """It is asked, and a handler raises."""
        self.asked.append("let_go")
        raise KeyboardInterrupt

    def take_back(self) -> None:
        """Likewise."""
        self.asked.append("take_back")
        raise KeyboardInterrupt


def test_an_interrupt_of_one_file_in_a_fork_keeps_no_other_from_being_asked() -> None:
    """It comes out of the hook, where Python prints it, once all were asked."""
    files = [_Interrupted() for _ in range(3)]
    try:
        for file in files:
            open_files.register(file)
        with pytest.raises(KeyboardInterrupt):
            open_files._before_fork()
        with pytest.raises(KeyboardInterrupt):
            open_files._after_fork_in_parent()
    finally:
        open_files._end_of_fork()
        for file in files:
            open_files.forget(file)
    assert [file.asked for file in files] == [["let_go", "take_back"]] * 3


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_a_fork_whose_last_hook_never_ran_leaves_a_store_usable(path: Path, kind: str) -> None:
    """An interrupt may come as the hook begins. What waits meanwhile is not woken, and looks for itself."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=2000) as store:
        store.append(entry(1))
        with CheckpointStore.open_readonly(path) as reader, ThreadPoolExecutor(1) as pool:
            len(reader)
            open_files._before_fork()
            waiting = pool.submit(store.append, entry(2)) if kind == "writer" else pool.submit(len, reader)
            while not (writer(store)._turns.waiting or kind == "reader" or waiting.done()):
                time.sleep(0.001)
            open_files._end_of_fork()
            assert waiting.result(10)
            assert len(reader) == len(store)
            store.append(entry(3))


def test_a_thread_that_forks_is_refused_or_answered_in_the_middle_of_it(path: Path) -> None:
    """By a signal handler, that is: it never waits for the fork, which waits for the handler."""
    with CheckpointStore(path, durability="normal") as store, fork_in_progress():
        with pytest.raises(StoreError, match="handler"):
            store.append(entry(1))
        assert len(store) == 0
        with CheckpointStore(path, durability="normal") as another:
            another.append(entry(2))
        assert len(store) == 1


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


def test_a_file_that_an_interrupt_has_dropped_before_it_was_closed_is_closed(path: Path) -> None:
    """Nobody else would ever close it, and the last one to close the file writes the WAL back."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        before = open_files.opened()
        dropped = Database(store.path, None, None)
        dropped.open()
        del dropped
        gc.collect()
        assert open_files.opened() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]

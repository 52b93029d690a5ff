"""
Know which files this process has open, and close them before a fork.

A fork copies SQLite's table of its locks, but the kernel copies no lock. If the child opens a file in that table, SQLite
takes no lock on it, and two writers overwrite each other. Therefore every open database closes its connections before a
fork, and the file leaves the table. The parent opens connections again at its next call, and the child opens a store of its
own. A database in a transaction block, for example, cannot close; `refuse_inherited` refuses its file in the child.

Source:
    https://sqlite.org/howtocorrupt.html, section 2.6.
    os.register_at_fork covers os.fork and multiprocessing. It does not cover `subprocess` without preexec_fn, which starts
    another program, or a fork by C code, which a changed process id reveals.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from milepost.errors import ForkedStoreError

_FORK_TIMEOUT_S: Final = 1.0
"""How long a fork waits for running calls. A longer call keeps its file open, and the child may not use the file."""

_WAIT_S: Final = 0.001
_LOCKS: Final = "/proc/locks"
_LOOKS: Final = 20  # the kernel's list changes while it is read: one look in 100,000 misses a lock
_WRITE_LOCK: Final = 120  # the byte of the -shm that a writer locks, https://sqlite.org/walformat.html#wal_locks
_OPEN_LOCK: Final = 128  # the byte that each process locks (shared) while it has the file open


class OpenFile(Protocol):
    """A database, as an object that has a file open."""

    path: str

    def let_go(self, deadline: float) -> bool:
        """Close every connection until `take_back`, and wait for running calls until the deadline (monotonic)."""

    def take_back(self) -> None:
        """Allow the file to be opened again."""

    def make_way(self, deadline: float) -> bool:
        """Close the readers that keep a writer of this process from opening the file. Wait as `let_go` does."""

    def carried_over(self) -> None:
        """Give up every connection in the child of a fork, without even closing it."""


_lock = threading.Lock()
_open: dict[int, OpenFile] = {}  # by id()
_still_open: set[tuple[int, int]] = set()  # device and inode of files that stayed open at the fork that made this process
_still_open_by_thread: dict[int, set[tuple[int, int]]] = {}  # the same for forks in progress, by the thread that forks
_process = os.getpid()

opening_to_write: dict[int, str] = {}
"""
Paths that this process is opening to write, by the id() of the opener. Meanwhile nothing else in this process opens them.

SQLite maps the shared memory of a WAL once in a process. If a reader comes first, the mapping is read-only, and a writer
could not write.
"""


def register(file: OpenFile) -> None:
    """Add an open file, so that a fork closes it first. If another thread is forking, wait for the fork to end."""
    deadline = time.monotonic() + 2 * _FORK_TIMEOUT_S
    while True:
        with _lock:
            # A fork asks the registered files to close. It would inherit a file opened after that, unnoticed.
            if not _still_open_by_thread.keys() - {threading.get_ident()} or time.monotonic() > deadline:
                _open[id(file)] = file
                return
        time.sleep(_WAIT_S)


def forget(file: OpenFile) -> None:
    """Remove a closed file."""
    with _lock:
        _open.pop(id(file), None)


def opened() -> list[OpenFile]:
    """Return the files that this process has open."""
    with _lock:
        return list(_open.values())


def refuse_inherited(path: str) -> None:
    """
    Refuse a file that the parent process still had open at the fork.

    Raises:
        ForkedStoreError: It is such a file.
    """
    _notice_a_fork_without_hooks()
    if _still_open and _identity(path) in _still_open:
        raise _inherited_error(path)


def refuse_without_locks(path: str, shm: str) -> None:
    """
    Refuse to write to a file if SQLite believes in a lock that this process does not have. Call it in BEGIN IMMEDIATE.

    That happens if the caller's own code had a connection to the file open at the fork. Nothing is refused if the kernel
    does not list locks.

    Raises:
        ForkedStoreError: The kernel lists the writer's lock, but not the lock of each process with the file open.
    """
    for _ in range(_LOOKS):
        try:
            held = _locked_bytes(os.getpid(), os.stat(shm).st_ino)  # noqa: PTH116 - nothing may open the file
        except (OSError, ValueError, IndexError):
            return
        if _WRITE_LOCK not in held or _OPEN_LOCK in held:
            return
    raise _inherited_error(path)


def _locked_bytes(process: int, inode: int) -> set[int]:
    """Return which of the two bytes a process has locked, from the kernel's list (proc(5))."""
    held = set[int]()
    for line in Path(_LOCKS).read_text(encoding="utf-8", errors="replace").splitlines():
        # 1: POSIX  ADVISORY  WRITE 4711 fe:00:12345 120 120
        words = line.split()
        if words[1] == "POSIX" and words[4] == str(process) and words[5].rpartition(":")[2] == str(inode):
            first, last = int(words[6]), words[7]
            held |= {byte for byte in (_WRITE_LOCK, _OPEN_LOCK) if first <= byte and (last == "EOF" or byte <= int(last))}
    return held


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - nothing may open the file
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _inherited_error(path: str) -> ForkedStoreError:
    return ForkedStoreError(
        path,
        "the parent process was using the file at the fork, so SQLite cannot lock it here: fork while nothing uses it, or "
        "start this process by spawn, forkserver or exec",
    )


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_TIMEOUT_S
    with _lock:
        still_open = _still_open_by_thread[threading.get_ident()] = set()
    for file in opened():
        let_go = False
        with contextlib.suppress(Exception):  # an error of one never keeps the others open
            let_go = file.let_go(deadline)
        identity = None if let_go else _identity(file.path)
        if identity is not None:
            still_open.add(identity)


def _after_fork_in_parent() -> None:
    _still_open_by_thread.pop(threading.get_ident(), None)
    for file in opened():
        with contextlib.suppress(Exception):
            file.take_back()


def _after_fork_in_child() -> None:
    global _lock, _process  # noqa: PLW0603 - another thread may have held the lock at the fork
    _lock = threading.Lock()
    _still_open.update(_still_open_by_thread.pop(threading.get_ident(), ()))
    _still_open_by_thread.clear()
    _process = os.getpid()
    opening_to_write.clear()
    for file in opened():
        with contextlib.suppress(Exception):
            file.carried_over()
    _open.clear()


def _notice_a_fork_without_hooks() -> None:
    """Detect a fork by C code, which runs no hooks of Python's, so that every file stayed open."""
    if os.getpid() != _process:
        _still_open.update(filter(None, [_identity(file.path) for file in list(_open.values())]))
        _after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

"""
Which files this process has open, and how they are let go of before a fork.

A fork copies the process, and with it SQLite's table of the locks that it believes to hold; the kernel copies no lock. A
child that opens a file which is in that table takes no lock at all: two writers then write over each other. So before a
fork every open database closes its connections, by which the file leaves the table, and opens them again at its next use;
the child finds nothing inherited, and opens a store of its own. What could not be let go of, in a transaction block say,
the child must not open: `refuse_inherited`.

Source:
    https://sqlite.org/howtocorrupt.html, section 2.6. os.register_at_fork runs for os.fork and multiprocessing; not for
    `subprocess` without preexec_fn, which starts another program; and not for a fork by C code, of which the process id
    tells.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from milepost.errors import ForkedStoreError

_PATIENCE_S: Final = 1.0
"""How long a fork waits for the calls under way; longer ones keep the file, and the child is refused it."""

_WAIT_S: Final = 0.001
_LOCKS: Final = "/proc/locks"
_LOOKS: Final = 20  # the kernel's list is read in pieces, and changes meanwhile: one look in 100,000 misses a lock
_WRITE_LOCK: Final = 120  # the byte of the -shm that a writer locks, https://sqlite.org/walformat.html#wal_locks
_OPEN_LOCK: Final = 128  # the byte that each process with the file open locks, shared


class OpenFile(Protocol):
    """What has a file open: a database."""

    path: str

    def let_go(self, deadline: float) -> bool:
        """Close every connection, until `take_back`; calls under way end first, if they do by the deadline (monotonic)."""

    def take_back(self) -> None:
        """The file may be opened again."""

    def make_way(self, deadline: float) -> bool:
        """Close what keeps a writer of this process from opening the file; calls under way end as in `let_go`."""

    def carried_over(self) -> None:
        """In the child of a fork: never touch a connection again, not even to close it."""


_lock = threading.Lock()
_open: dict[int, OpenFile] = {}  # by id()
_kept: set[tuple[int, int]] = set()  # device and inode of what was not let go of before the fork that made this process
_keeping: dict[int, set[tuple[int, int]]] = {}  # the same of forks under way, by the thread that forks
_process = os.getpid()

opening_to_write: dict[int, str] = {}
"""
Paths that this process is opening to write, by the id() of who does. Until that is done, nothing else here opens them.

SQLite maps the shared memory of a WAL once a process. Where a reader comes first it is mapped read-only, and a writer that
comes then could not write.
"""


def register(file: OpenFile) -> None:
    """From now on it is asked to let go before a fork; one that is under way in another thread is waited for."""
    deadline = time.monotonic() + 2 * _PATIENCE_S
    while True:
        with _lock:
            # What is opened once a fork has asked who is to let go would be inherited, and nobody would know.
            if not _keeping.keys() - {threading.get_ident()} or time.monotonic() > deadline:
                _open[id(file)] = file
                return
        time.sleep(_WAIT_S)


def forget(file: OpenFile) -> None:
    """It is closed."""
    with _lock:
        _open.pop(id(file), None)


def opened() -> list[OpenFile]:
    """What this process has open."""
    with _lock:
        return list(_open.values())


def refuse_inherited(path: str) -> None:
    """
    Refuse a file that the process which forked this one had open at the fork, and did not let go of.

    Raises:
        ForkedStoreError: It is one of those.
    """
    _notice_a_fork_without_hooks()
    if _kept and _identity(path) in _kept:
        raise _inherited(path)


def refuse_without_locks(path: str, shm: str) -> None:
    """
    Refuse to write to a file on which this process has no lock though SQLite believes so; call it in BEGIN IMMEDIATE.

    It is so beside a connection to the file that somebody else, the caller say, had open at the fork. Where the kernel
    does not list locks nothing is refused here.

    Raises:
        ForkedStoreError: The kernel lists the writer's lock, and not the one that each process with the file open has.
    """
    for _ in range(_LOOKS):
        try:
            held = _locked_bytes(os.getpid(), os.stat(shm).st_ino)  # noqa: PTH116 - nothing may open the file
        except (OSError, ValueError, IndexError):
            return
        if _WRITE_LOCK not in held or _OPEN_LOCK in held:
            return
    raise _inherited(path)


def _locked_bytes(process: int, inode: int) -> set[int]:
    """Which of the two bytes a process has locked, as the kernel lists it; proc(5)."""
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


def _inherited(path: str) -> ForkedStoreError:
    return ForkedStoreError(
        path,
        "the process that forked this one had the file open at the fork, in a transaction block, in a call that took long, "
        "or through a connection that is not milepost's, so that SQLite takes no locks on it here: fork while nothing uses "
        "the file, or start this process by spawn, forkserver or exec",
    )


def _before_fork() -> None:
    deadline = time.monotonic() + _PATIENCE_S
    with _lock:
        kept = _keeping[threading.get_ident()] = set()
    for file in opened():
        let_go = False
        with contextlib.suppress(Exception):  # a broken one never keeps the others from letting go
            let_go = file.let_go(deadline)
        identity = None if let_go else _identity(file.path)
        if identity is not None:
            kept.add(identity)


def _after_fork_in_parent() -> None:
    _keeping.pop(threading.get_ident(), None)
    for file in opened():
        with contextlib.suppress(Exception):
            file.take_back()


def _after_fork_in_child() -> None:
    global _lock, _process  # noqa: PLW0603 - another thread may have had the lock as this process was made
    _lock = threading.Lock()
    _kept.update(_keeping.pop(threading.get_ident(), ()))
    _keeping.clear()
    _process = os.getpid()
    opening_to_write.clear()
    for file in opened():
        with contextlib.suppress(Exception):
            file.carried_over()
    _open.clear()


def _notice_a_fork_without_hooks() -> None:
    """C code may fork without Python's hooks: then nothing was let go of."""
    if os.getpid() != _process:
        _kept.update(filter(None, [_identity(file.path) for file in list(_open.values())]))
        _after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

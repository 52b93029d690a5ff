"""
Know which files this process has open, and close them before a fork.

A fork copies SQLite's table of its locks, but the kernel copies no lock. If the child opens a file in that table, SQLite
takes no lock on it, and two writers overwrite each other. Therefore every open database closes its connections before a
fork, and the file leaves the table. The parent opens connections again at its next call, and the child opens a store of its
own. A database in a transaction block, for example, cannot close. The child sees in its copy of the database what was open,
and `inherited` keeps the child away from that file.

A signal handler may run between any two steps of a hook, and fork, open a store, or raise. So, as in `turn`, no lock guards
anything, and whether a fork is in progress is an entry of a dict. A function in C deletes it, and no handler runs in that.

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
import weakref
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from milepost import inherited

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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
    writes: bool
    """Whether it writes, and is closed by whoever has it, whatever comes."""

    @property
    def paths(self) -> Collection[str]:
        """The file, and those that are attached to its connection."""

    @property
    def may_be_open(self) -> bool:
        """Whether a connection of it is open, or was about to be opened when another thread forked."""

    def let_go(self, deadline: float) -> bool:
        """Close every connection until `take_back`, and wait for running calls until the deadline (monotonic)."""

    def take_back(self) -> None:
        """Allow the file to be opened again."""

    def make_way(self, deadline: float) -> bool:
        """Close the readers that keep a writer of this process from opening the file. Wait as `let_go` does."""

    def carried_over(self) -> None:
        """Give up every connection in the child of a fork, without even closing it."""


# By id(). Weak references to those that only read, so that one which an interrupt has dropped before it could be closed
# goes, and is closed. Others stay known while the garbage collector closes them, when a weak reference is gone already.
_open: dict[int, Callable[[], OpenFile | None]] = {}
_process = os.getpid()

being_made: dict[str, inherited.Identity | None] = {}
"""
Files that this process is making under a temporary name, such as a backup. They get their own name once they are whole.

A child that a signal handler forks meanwhile has SQLite's connection to such a file, in the middle of a write. It would undo
what its parent has written, even once the file is in its place.
"""

forking: dict[int, None] = {}
"""The threads that fork just now. Meanwhile the others open nothing."""

opening_to_write: dict[int, str] = {}
"""Paths that this process is opening to write, by the id() of the opener. The child of a fork keeps away from them."""

mapping_to_write: dict[int, str] = {}
"""
Those of them whose shared memory is not mapped yet. Meanwhile nothing else in this process opens them.

SQLite maps the shared memory of a WAL once in a process. If a reader comes first, the mapping is read-only, and a writer
could not write. Once it is mapped, readers need not wait, however long the writer waits for another process.
"""


def register(file: OpenFile) -> None:
    """Add a file that is about to be opened, so that a fork closes it. If another thread is forking, wait for that."""
    notice_a_fork()
    # First, and then look: a fork announces itself first, and then looks for files.
    _open[id(file)] = partial(_kept, file) if file.writes else weakref.ref(file)
    deadline = time.monotonic() + 2 * _FORK_TIMEOUT_S
    while forks_elsewhere() and time.monotonic() < deadline:
        time.sleep(_WAIT_S)


def _kept(file: OpenFile) -> OpenFile:
    return file


def forks_elsewhere() -> bool:
    """Return whether another thread forks just now. The caller's own may do so too, if a signal handler calls."""
    return bool(forking) and bool(forking.keys() - {threading.get_ident()})


def forget(file: OpenFile) -> None:
    """Remove a closed file."""
    _open.pop(id(file), None)


def opened() -> list[OpenFile]:
    """Return the files that this process has open."""
    return [file for each in list(_open.values()) if (file := each()) is not None]


def refuse_inherited(path: str) -> None:
    """
    Refuse a file that the parent process still had open at the fork.

    Raises:
        ForkedStoreError: It is such a file.
    """
    notice_a_fork()
    inherited.refuse(path)


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
    raise inherited.error(path)


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


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_TIMEOUT_S
    forking[threading.get_ident()] = None
    _each_of(opened(), lambda file: file.let_go(deadline))


def _after_fork_in_parent() -> None:
    _each_of(opened(), lambda file: file.take_back())


def _each_of(files: list[OpenFile], call: Callable[[OpenFile], object]) -> None:
    """Call something for each file, whatever it raises for one. An interrupt comes after the last one; Python prints it."""
    interrupt: BaseException | None = None
    while files:
        try:
            call(files.pop())
        except Exception:  # noqa: BLE001, S110 - the fork goes on, whatever happens here
            pass
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt


def notice_a_fork() -> None:
    """
    In the child of a fork: give up what the parent had open.

    The hook calls it. So do the next opening and the next use of a store, because C code forks without hooks, an interrupt
    may end the hook, and a hook of the caller's may come first.
    """
    global _process  # noqa: PLW0603 - a process has one id
    if os.getpid() == _process:
        return
    forking.clear()
    if being_made:
        with contextlib.suppress(Exception):
            inherited.disarm(being_made.keys(), being_made.values())
        being_made.clear()
    for file in opened():
        with contextlib.suppress(Exception):  # an error of one never keeps the others from being given up
            if file.may_be_open:
                inherited.disarm(file.paths)
        with contextlib.suppress(Exception):
            file.carried_over()
        opening_to_write.pop(id(file), None)
        mapping_to_write.pop(id(file), None)
        _open.pop(id(file), None)
    _process = os.getpid()


_end_of_fork: Final = partial(next, map(forking.pop, iter(threading.get_ident, None), repeat(None)))
"""Delete the calling thread's entry of `forking`, all in C: in a function of Python's, an interrupt could come first."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_end_of_fork, after_in_child=forking.clear)
    os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=notice_a_fork)

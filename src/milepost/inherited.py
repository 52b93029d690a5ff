"""
Keep the child of a fork from writing to a file that its parent could not close before.

A signal handler may fork in the middle of a transaction, and so may the body of a block. The child inherits SQLite's
connection in the middle of a write, with the descriptors of the files, and the shared memory of the WAL mapped. If the child
goes on, its SQLite writes over its parent's frames in the WAL. If it raises, its SQLite rolls back, and removes the parent's
frames from the index in the shared memory, where the parent then looks for them in vain. Both happen inside SQLite, where no
check in Python comes first.

So the child's descriptors of these files are exchanged for others that can only read, and its mapping for a copy of its own.

Source:
    https://sqlite.org/howtocorrupt.html, section 2.6; https://sqlite.org/walformat.html, section 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milepost.errors import ForkedStoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
_DESCRIPTORS: Final = "/dev/fd"  # on Linux and macOS
_MAPPINGS: Final = "/proc/self/maps"  # on Linux only: proc(5)
_MAP_FIXED: Final = 0x10

Identity = tuple[int, int]
"""Device and inode of a file."""

_files: set[Identity] = set()  # of each such file; a WAL's may soon be another file's


def disarm(paths: Collection[str], known: Collection[Identity | None] = ()) -> None:
    """
    In the child of a fork: have nothing that is open of a store's files reach them, and refuse them from now on.

    Args:
        paths: The store's file, and the files that are attached to its connection.
        known: Which files that were, where the parent may give them other names meanwhile.
    """
    found = [*map(identity, paths), *known]
    _files.update(filter(None, found))
    names = {identity(path + suffix): path + suffix for path in paths for suffix in _SUFFIXES}
    names |= dict.fromkeys(known, os.devnull)
    with contextlib.suppress(OSError):
        _exchange_descriptors(names)
    with contextlib.suppress(OSError, ValueError):
        _copy_mappings({f"{path}-shm" for path in paths})


def refuse(path: str) -> None:
    """
    Refuse a file that the parent process still had open at the fork.

    Raises:
        ForkedStoreError: It is such a file.
    """
    if _files and identity(path) in _files:
        raise error(path)


def refuse_child(process: int, path: str) -> None:
    """
    Refuse to go on with a file that another process has begun, of which this one is the child of a fork.

    Raises:
        ForkedStoreError: This process is another one.
    """
    if os.getpid() != process:
        raise error(path)


def error(path: str) -> ForkedStoreError:
    """Return what is raised about such a file."""
    return ForkedStoreError(
        path,
        "the parent process was using the file at the fork, so SQLite cannot lock it here: fork while nothing uses it, or "
        "start this process by spawn, forkserver or exec",
    )


def identity(path: str) -> Identity | None:
    """Return which file has a name; None for no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - nothing may open the file
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _exchange_descriptors(names: Mapping[Identity | None, str]) -> None:
    """Exchange each descriptor of these files for one that can only read: SQLite can neither write nor lock as a writer."""
    for descriptor in map(int, os.listdir(_DESCRIPTORS)):  # noqa: PTH208 - the names are numbers
        with contextlib.suppress(OSError):  # that of the list itself is closed already
            status = os.fstat(descriptor)
            name = names.get((status.st_dev, status.st_ino))
            if name is not None:
                readable = _open(name)
                try:
                    os.dup2(readable, descriptor, inheritable=False)
                finally:
                    os.close(readable)


def _open(name: str) -> int:
    try:
        return os.open(name, os.O_RDONLY)
    except OSError:  # the process has given up the right to
        return os.open(os.devnull, os.O_RDONLY)


def _copy_mappings(paths: Collection[str]) -> None:
    """Exchange each mapping of these files for a copy in this process's own memory."""
    if sys.platform != "linux":
        return
    mapped = ctypes.CDLL(None).mmap
    mapped.restype = ctypes.c_void_p
    mapped.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    shown = {os.fsencode(path).replace(b"\n", b"\\012") for path in paths}
    for line in Path(_MAPPINGS).read_bytes().split(b"\n"):  # and not where a name has another line separator
        # 7f1c80000000-7f1c80008000 rw-s 00000000 00:1a 12345    /var/lib/orders.milepost-shm
        addresses, *_, name = line.split(None, 5) or (b"", b"")
        if name.removesuffix(b" (deleted)") in shown:
            first, last = (int(address, 16) for address in addresses.split(b"-"))
            content = ctypes.string_at(first, last - first)
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            if mapped(first, last - first, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == first:
                ctypes.memmove(first, content, last - first)

"""Recognize file systems that another machine may share: SQLite cannot rely on their locks."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_MOUNTS: Final = "/proc/self/mounts"
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")

SHARED: Final = {
    # Over a network.
    "afs", "auristorfs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "glusterfs", "ibrix", "lustre", "ncp", "ncpfs",
    "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
    # On a disk that several machines mount: locks may reach them, but the shared memory of the WAL does not.
    "acfs", "cvfs", "gfs", "gfs2", "gpfs", "ocfs2", "snfs", "vxfs",
    # From the host, into a virtual machine or a container: the host's programs have other locks and other pages.
    "9p", "drvfs", "fakeowner", "hostfs", "osxfs", "prl_fs", "vboxsf", "virtiofs", "vmhgfs",
    # Served by a program, from anywhere. `fuseblk` is missing here because it is a disk of this machine.
    "fuse",
}  # fmt: skip
"""
File systems, by Linux's names, whose files another machine may change. Any `fuse.…` counts as one too.

Source:
    GNU `df --local` (gnulib, lib/mountlist.c, ME_REMOTE).
    systemd (src/basic/mountpoint-util.c, fstype_is_network).
    The kernel (`nodev` in /proc/filesystems; filesystems/fuse/fuse.rst for `fuseblk`).
    Docker Desktop for `fakeowner` (https://github.com/docker/desktop-feedback/issues/626).
"""


def remote_kind(path: str, mounts: str = _MOUNTS) -> str | None:
    """
    Return the kind of the shared or user-space file system that holds a path. None means local, or unknown.

    It compares bytes, because a path or a mount point may have names that the locale cannot spell.

    Raises:
        OSError: There is a list of mounts, but it cannot be read, as when too many files are open.

    Source:
        https://sqlite.org/wal.html (WAL does not work over a network file system); proc(5).
    """
    try:
        lines = Path(mounts).read_bytes().split(b"\n")  # no other character ends a line
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # not Linux, or no /proc
        return None
    wanted, found, longest = os.fsencode(path), b"", -1
    for line in lines:
        _, place, kind, *_ = [*line.split(b" "), b"", b"", b""]
        point = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), place)  # a space is \040
        inside = wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")
        if point and inside and len(point) >= longest:
            found, longest = kind, len(point)
    name = os.fsdecode(found)
    return name if name in SHARED or name.startswith("fuse.") else None

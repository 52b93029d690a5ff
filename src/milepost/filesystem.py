"""What kind of file system a path is on: if another machine shares it, SQLite's locks and memory cannot be relied upon."""

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
    # On a disk that several machines have mounted: locks may reach them, the shared memory of the WAL does not.
    "acfs", "cvfs", "gfs", "gfs2", "gpfs", "ocfs2", "snfs", "vxfs",
    # From the host, into a virtual machine or a container: programs of the host have other locks, and other pages.
    "9p", "drvfs", "fakeowner", "hostfs", "osxfs", "prl_fs", "vboxsf", "virtiofs", "vmhgfs",
    # Served by a program, which may get it from anywhere. Not `fuseblk`: that is a disk of this machine's own.
    "fuse",
}  # fmt: skip
"""
Names of file systems, as Linux gives them, whose files another machine may change; `fuse.…` may be anything.

Source:
    GNU `df --local` (gnulib, lib/mountlist.c, ME_REMOTE); systemd (src/basic/mountpoint-util.c, fstype_is_network);
    the kernel's list of what needs a disk of its own (`nodev` in /proc/filesystems, filesystems/fuse/fuse.rst for
    `fuseblk`); `fakeowner` is what Docker Desktop shows for the host's folders
    (https://github.com/docker/desktop-feedback/issues/626).
"""


def remote_kind(path: str, mounts: str = _MOUNTS) -> str | None:
    """
    The kind of shared or user-space file system that a path is on, or None for a local one, or where nobody knows.

    All in bytes: a mount point may have any character in its name, as may a path, whatever the locale.

    Raises:
        OSError: The list of mounts is there and cannot be read, as when too many files are open.

    Source:
        https://sqlite.org/wal.html (WAL does not work over a network file system); proc(5).
    """
    try:
        lines = Path(mounts).read_bytes().split(b"\n")  # each of which ends with this and with nothing else
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # not Linux, or no /proc here
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

"""What kind of file system a path is on: over a network, SQLite's locks and shared memory cannot be relied upon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_MOUNTS: Final = "/proc/self/mounts"

REMOTE: Final = {
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "prl_fs", "smb3",
    "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip
"""Names of file systems, as Linux gives them, whose files another machine may change; `fuse.…` may be anything."""


def remote_kind(path: str, mounts: str = _MOUNTS) -> str | None:
    """
    The kind of network or user-space file system that a path is on, or None for a local one, or where nobody knows.

    Source:
        https://sqlite.org/wal.html (WAL does not work over a network file system); proc(5).
    """
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    found, longest = "", -1
    for line in lines:
        _, place, kind, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)  # a space is \040
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            found, longest = kind, len(point)
    return found if found in REMOTE or found.startswith("fuse.") else None

"""Which files are synced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def synced_inodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which each `os.fsync` adds the inode of its file from now on."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return synced

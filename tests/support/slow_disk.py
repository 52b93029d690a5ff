"""A disk that does what a test says before it opens or syncs a file."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Hook = Callable[[str], object]

_numbers: Final = itertools.count(1)


class _Disk(apsw.VFS):
    def __init__(self, name: str, on_sync: Hook, on_open: Hook) -> None:
        super().__init__(name, "")
        self._on_sync, self._on_open = on_sync, on_open

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's names
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._on_open(path)
        return _File(path, name, flags, self._on_sync)


class _File(apsw.VFSFile):
    def __init__(self, path: str, name: str | apsw.URIFilename | None, flags: list[int], on_sync: Hook) -> None:
        super().__init__("", name, flags)
        self._path, self._on_sync = path, on_sync

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._on_sync(self._path)
        super().xSync(flags)


def _nothing(_: str) -> None:
    """Do nothing."""


@contextlib.contextmanager
def disk(*, on_sync: Hook = _nothing, on_open: Hook = _nothing) -> Iterator[str]:
    """The name of a VFS that calls these with the path of the file, before it does what it is asked to."""
    name = f"disk-{next(_numbers)}"
    vfs = _Disk(name, on_sync, on_open)
    try:
        yield name
    finally:
        vfs.unregister()

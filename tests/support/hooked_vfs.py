"""The ordinary VFS with a hook before every call: the hook may kill the process, or raise what a broken disk would."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_numbers: Final = itertools.count(1)


class Call(NamedTuple):
    """
    One call that SQLite, or milepost, makes.

    Attributes:
        method: Its name at SQLite.
        path: The file it is about.
        file: The open file itself, of a call on one.
        data: What is to be written, of xWrite.
        offset: Where it is to be written.
    """

    method: str
    path: str
    file: HookedFile | None = None
    data: bytes = b""
    offset: int = 0


class HookedVFS(apsw.VFS):
    """
    Everything goes through to the ordinary VFS, after the hook has seen it.

    What cannot fail (xDeviceCharacteristics, xSectorSize) is left out, and so is what APSW does not show: xShmMap and its
    family.
    """

    def __init__(self, name: str, hook: Callable[[Call], object]) -> None:
        super().__init__(name, "")
        self.hook = hook

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's names
        """Open a file."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self.hook(Call("xOpen", path))
        return HookedFile(self.hook, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Take a name out of its directory."""
        self.hook(Call("xDelete", filename))
        super().xDelete(filename, syncdir)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        """Ask whether a file is there."""
        self.hook(Call("xAccess", pathname))
        return super().xAccess(pathname, flags)


class HookedFile(apsw.VFSFile):
    """An open file of a `HookedVFS`."""

    def __init__(
        self, hook: Callable[[Call], object], path: str, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._hook, self._path, self._closed = hook, path, False
        super().__init__("", name, flags)

    def write_unhooked(self, data: bytes, offset: int) -> None:
        """For a hook that does a part of what it was told of."""
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Read."""
        self._hook(Call("xRead", self._path, self))
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        """Write."""
        self._hook(Call("xWrite", self._path, self, bytes(data), offset))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut."""
        self._hook(Call("xTruncate", self._path, self))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Sync."""
        self._hook(Call("xSync", self._path, self))
        super().xSync(flags)

    def xFileSize(self) -> int:  # noqa: N802
        """Ask for the size."""
        self._hook(Call("xFileSize", self._path, self))
        return super().xFileSize()

    def xLock(self, level: int) -> None:  # noqa: N802
        """Lock."""
        self._hook(Call("xLock", self._path, self))
        super().xLock(level)

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Unlock; it has happened even if the hook raises."""
        super().xUnlock(level)
        self._hook(Call("xUnlock", self._path, self))

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Ask whether somebody writes."""
        self._hook(Call("xCheckReservedLock", self._path, self))
        return super().xCheckReservedLock()

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        """Anything else."""
        self._hook(Call("xFileControl", self._path, self))
        return super().xFileControl(op, ptr)

    def xClose(self) -> None:  # noqa: N802
        """Close; it has happened even if the hook raises. APSW calls it again when the object goes."""
        super().xClose()
        if not self._closed:
            self._closed = True
            self._hook(Call("xClose", self._path, self))


@contextlib.contextmanager
def hooked(hook: Callable[[Call], object]) -> Iterator[str]:
    """The name of a VFS whose calls the hook sees."""
    name = f"hooked-{next(_numbers)}"
    vfs = HookedVFS(name, hook)
    try:
        yield name
    finally:
        vfs.unregister()

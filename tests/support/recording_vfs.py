"""
Record what reaches the disk: every write, truncation, sync and directory entry of the files in one directory.

SQLite's own calls, and those that milepost makes through a VFS, come in by `_RecordingVFS`; what milepost does to the
directory outside SQLite (os.open, os.link, os.unlink, os.fsync) by replacing these functions while a recording runs. A
file in a directory that is made within it is recorded too, as `hidden/new`. The shared memory (-shm) is left out: a crash
of the machine takes it away, and SQLite makes it anew.

The underlying files live on, so a recording runs at full speed in a memory file system. power_loss.py rebuilds from the
recording what a crash would have left of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written to a file; they are in the page cache, not on the disk."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut to a size."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """What was written to a file is on the disk from here on."""

    file: int


@dataclass(frozen=True, slots=True)
class FailedSync:
    """A sync that failed: the kernel takes what was written for clean, and never writes it."""

    file: int


@dataclass(frozen=True, slots=True)
class Enter:
    """A name in the directory stands for a file."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A name is gone from the directory."""

    name: str


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """The directory's entries are on the disk from here on."""


@dataclass(frozen=True, slots=True)
class Mark:
    """No operation: the workload has begun (`acknowledged` False) or got its answer to step number `step`."""

    step: int
    acknowledged: bool


Operation = Write | Truncate | Sync | FailedSync | Enter | Leave | SyncDirectory | Mark

_numbers: Final = itertools.count(1)


@dataclass
class Recorder:
    """
    The log of one directory, and the switch that makes a sync fail.

    Args:
        directory: Whose files are recorded.
        names: Which file each name stands for already, by number, where an earlier recording is gone on with.
        fail_sync: The number (0, 1, 2 …) of the sync of a file that fails; None for no failure.
    """

    directory: Path
    names: dict[str, int] = field(default_factory=dict)
    fail_sync: int | None = None
    log: list[Operation] = field(default_factory=list)
    syncs: int = 0
    failed: bool = False

    def mark(self, step: int, *, acknowledged: bool) -> None:
        """Note that the workload begins a step, or that its answer has come."""
        self.log.append(Mark(step, acknowledged))

    def is_inside(self, path: str) -> bool:
        """Whether a file is in the directory, or in one that is made in it."""
        return path.startswith(f"{self.directory}/")

    def name_of(self, path: str) -> str:
        """What a file in the directory is called there; `hidden/new` in a directory within it."""
        return path.removeprefix(f"{self.directory}/")

    def sync_directory_of(self, path: str) -> None:
        """The directory of a file is synced; of one within ours it is not known which of its entries will be found."""
        if os.path.dirname(path) == str(self.directory):  # noqa: PTH120 - called for every operation
            self.log.append(SyncDirectory())

    def number(self, path: str) -> int:
        """The number of the file that a name stands for; it enters the directory if it is new."""
        name = self.name_of(path)
        if name not in self.names:
            self.names[name] = next(_numbers)
            self.log.append(Enter(name, self.names[name]))
        return self.names[name]

    def leave(self, path: str) -> None:
        """A name is taken out of the directory."""
        name = self.name_of(path)
        if self.names.pop(name, None) is not None:
            self.log.append(Leave(name))

    def sync(self, file: int) -> None:
        """
        A file is synced, or fails to be.

        Raises:
            apsw.IOError: It is this one's turn to fail.
        """
        turn, self.syncs = self.syncs, self.syncs + 1
        if turn == self.fail_sync:
            self.failed = True
            self.log.append(FailedSync(file))
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        self.log.append(Sync(file))

    @contextlib.contextmanager
    def recording(self) -> Iterator[str]:
        """Record while the block runs; it is given the name of the VFS to open files through."""
        vfs = _RecordingVFS(f"recording-{next(_numbers)}", self)
        try:
            with self._recording_directory():
                yield vfs.name
        finally:
            vfs.unregister()

    @contextlib.contextmanager
    def _recording_directory(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in ("open", "link", "unlink", "remove", "fsync")}
        directory = os.stat(self.directory)  # noqa: PTH116

        def is_ours(path: object) -> bool:
            return isinstance(path, str | os.PathLike) and self.is_inside(str(os.fspath(path)))

        def recorded_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            handle: int = real["open"](path, flags, *args, **kwargs)
            if flags & os.O_CREAT and is_ours(path):
                self.number(os.fspath(path))
            return handle

        def recorded_link(source: Any, target: Any, **kwargs: Any) -> None:
            real["link"](source, target, **kwargs)
            if is_ours(target):
                file = self.number(os.fspath(source))
                name = self.name_of(os.fspath(target))
                self.names[name] = file
                self.log.append(Enter(name, file))

        def recorded_unlink(path: Any, **kwargs: Any) -> None:
            real["unlink"](path, **kwargs)
            if is_ours(path):
                self.leave(os.fspath(path))

        def recorded_fsync(handle: int) -> None:
            if os.path.samestat(os.fstat(handle), directory):
                self.log.append(SyncDirectory())

        replaced: dict[str, Callable[..., Any]] = {
            "open": recorded_open,
            "link": recorded_link,
            "unlink": recorded_unlink,
            "remove": recorded_unlink,
            "fsync": recorded_fsync,
        }
        for name, function in replaced.items():
            setattr(os, name, function)
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)


class _RecordingVFS(apsw.VFS):
    """The ordinary VFS, with every change noted down after it has been made."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        super().__init__(name, "")
        self.name = name
        self._recorder = recorder

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Open a file; only one that is opened to be written, and is not of a temporary kind, is recorded."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or flags[0] & apsw.SQLITE_OPEN_READONLY:
            return apsw.VFSFile("", name, flags)
        return _RecordingFile(self._recorder, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Take a name out of the directory."""
        super().xDelete(filename, syncdir)
        self._recorder.leave(filename)
        if syncdir:
            self._recorder.sync_directory_of(filename)


_SYNCS_ITS_DIRECTORY: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class _RecordingFile(apsw.VFSFile):
    def __init__(self, recorder: Recorder, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._recorder, self._path = recorder, path
        # SQLite's unix VFS syncs the directory with the first sync of a WAL or journal that it was allowed to create.
        self._directory_is_due = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _SYNCS_ITS_DIRECTORY)
        super().__init__("", name, flags)
        self._file = recorder.number(path)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.log.append(Write(self._file, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._recorder.log.append(Truncate(self._file, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._recorder.sync(self._file)
        if self._directory_is_due:
            self._directory_is_due = False
            self._recorder.sync_directory_of(self._path)

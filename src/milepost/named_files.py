"""Tell whether a file, its WAL and its shared memory are still the ones of their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from milepost import files
from milepost.errors import FailedStoreError, is_of_system

if TYPE_CHECKING:
    from collections.abc import Callable

_WAL: Final = "-wal file"
_MEMORY: Final = "-shm file"
_SUFFIXES: Final = {"file": "", _WAL: "-wal", _MEMORY: "-shm"}
_SOON_S: Final = 0.0001  # so soon after a look nobody can have removed the shared memory and written by another one


class NamedFiles:
    """
    The file, its WAL and its shared memory, as they are named when this is made: those of them that there are.

    Another process with an SQLite older than 3.52 unlinks the WAL if a program of ours has closed a descriptor of the
    database, and `rm` does so anyway. SQLite then goes on writing to the unlinked file without an error. A process that
    finds no shared memory makes another one, and each then writes over the other's frames.

    Args:
        path: The file's absolute name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._looked = 0.0  # when all were last found to be the ones of their names, on the monotonic clock
        named = [(name, files.identity_of(path + suffix)) for name, suffix in _SUFFIXES.items()]
        found = [(name, identity, identity()) for name, identity in named]
        self._files = [each for each in found if each[2] is not None]

    def __len__(self) -> int:
        return len(self._files)

    def refuse_others(self, now: float) -> None:
        """
        Refuse to acknowledge what was written, unless all of them are still the ones of their names.

        Args:
            now: The monotonic clock, in seconds.

        Raises:
            FailedStoreError: One of them is not, or nobody can tell.
        """
        self._refuse_others_of(self._files)
        self._looked = now

    def refuse_other_memory(self, now: float) -> None:
        """As `refuse_others`, before a write and of the shared memory alone."""
        if now - self._looked > _SOON_S:
            self._refuse_others_of(self._files[-1:])

    def have_other_memory(self) -> bool:
        """Return whether others may write to our WAL without our knowledge: the shared memory is no longer ours."""
        try:
            others = {name for name, identity, at_first in self._files if identity() != at_first}
        except OSError as error:
            if not is_of_system(error):
                raise
            return False
        return _MEMORY in others and _WAL not in others

    def _refuse_others_of(self, looked_at: list[tuple[str, Callable[[], object], object]]) -> None:
        for name, identity, at_first in looked_at:
            try:
                found = identity()
            except OSError as error:
                if not is_of_system(error):
                    raise
                raise FailedStoreError(
                    self._path,
                    f"its {name} can no longer be looked at ({error.strerror}), and what was written last may be lost: "
                    "close the store, open it again, and look for the last checkpoint",
                ) from error
            if found != at_first:
                raise FailedStoreError(
                    self._path,
                    f"its {name} was removed or replaced by another program while the store was open, and what was written "
                    "since may be lost: close the store, open it again, and look for the last checkpoint",
                )

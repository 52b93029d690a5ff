"""Make a command's output file as a whole or not at all, and never overwrite another."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from milepost.create import put_in_place
from milepost.errors import StoreError
from milepost.files import directory, real, status

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def new_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file to write. It appears, durably, when all of it is written."""
    target = check_new_path(real(path))
    try:
        with put_in_place(target) as temporary, Path(temporary).open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        _refuse(target)


def check_new_path(target: str) -> str:
    """Return the given absolute name, and refuse it if the file exists or its directory does not."""
    if status(target) is not None:
        _refuse(target)
    folder = status(directory(target))
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise StoreError(target, "its directory does not exist: make it first")
    return target


def _refuse(path: str) -> NoReturn:
    raise StoreError(path, "the file exists already, and milepost never overwrites one: choose another path")

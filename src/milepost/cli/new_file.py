"""A file that a command makes: all of it or nothing, and never in the place of another."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from milepost.creation import put_in_place
from milepost.errors import StoreError
from milepost.files import directory, real, status

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def new_file(path: str) -> Iterator[IO[bytes]]:
    """A file to write that appears when all of it is written, and is durable then."""
    target = not_there_yet(real(path))
    try:
        with put_in_place(target) as aside, Path(aside).open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        _refuse(target)


def not_there_yet(target: str) -> str:
    """The absolute name of a file as it was given, which does not exist, in a directory that does."""
    if status(target) is not None:
        _refuse(target)
    folder = status(directory(target))
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise StoreError(target, "its directory does not exist: make it first")
    return target


def _refuse(path: str) -> NoReturn:
    raise StoreError(path, "there is a file already, and nothing is ever overwritten: choose another path")

"""Make a command's output file as a whole or not at all, and overwrite another only if asked to, and never a database."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn

from milepost.create import put_in_place
from milepost.errors import StoreError
from milepost.files import directory, real, status

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE: Final = b"SQLite format 3"


@contextmanager
def new_file(path: str, *, overwrite: bool | None = None) -> Iterator[IO[bytes]]:
    """
    Open a file to write. It appears, durably, when all of it is written; until then, one that it replaces stays.

    `overwrite` is what the command's option says; None if it has no such option.
    """
    target = real(path)
    if overwrite is False and status(target) is not None:
        raise StoreError(target, "the file exists already: choose another path, or give --overwrite")
    overwrite = bool(overwrite) and status(target) is not None
    if overwrite:
        _check_replaceable(target)
    else:
        check_new_path(target)
    try:
        with put_in_place(target, overwrite=overwrite) as temporary, Path(temporary).open("wb") as stream:
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


def _check_replaceable(target: str) -> None:
    """Refuse to overwrite what is no regular file, and an SQLite database: a slip of the hand would cost a record."""
    found = status(target)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise StoreError(target, "no regular file, and so it is not overwritten: choose another path")
    with Path(target).open("rb") as stream:
        if stream.read(len(_DATABASE)) == _DATABASE:
            raise StoreError(target, "a database, and milepost never overwrites one: choose another path")


def _refuse(path: str) -> NoReturn:
    raise StoreError(path, "the file exists already, and milepost never overwrites one: choose another path")

"""A file that a command makes: all of it or nothing, and never in the place of another."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from milepost.creation import put_in_place
from milepost.errors import StoreError
from milepost.files import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def new_file(path: str) -> Iterator[IO[bytes]]:
    """A file to write that appears when all of it is written, and is durable then."""
    target = not_there_yet(path)
    try:
        with put_in_place(target) as aside, Path(aside).open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        _refuse(target)


def not_there_yet(path: str) -> str:
    """The absolute name of a file that does not exist, in a directory that does."""
    target = absolute(path)
    if os.path.lexists(target):
        _refuse(target)
    if not Path(target).parent.is_dir():
        raise StoreError(target, "its directory does not exist: make it first")
    return target


def _refuse(path: str) -> NoReturn:
    raise StoreError(path, "there is a file already, and nothing is ever overwritten: choose another path")

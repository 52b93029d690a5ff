"""A reader that keeps SQLite from writing the WAL back as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from pathlib import Path


def long_reader(path: Path, entries: int) -> apsw.Connection:
    """Begin a transaction that sees so many entries. It ends when the connection is closed."""
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM entry").get == entries
    return reader

"""What SQLite itself finds in the file: the part of a verification that is not about the chain."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, TypeVarTuple

from milepost import rows
from milepost.errors import DamagedStoreError, MilepostError

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from milepost.database import Database

T = TypeVar("T")
Given = TypeVarTuple("Given")

_STEPS: Final = 20_000  # of SQLite's virtual machine, between two moments at which Ctrl-C is heard


class Integrity(NamedTuple):
    """
    What SQLite finds in a file.

    Attributes:
        problems: What is wrong.
        unchecked: The names of the tables that it cannot check here.
    """

    problems: list[str]
    unchecked: list[str]


def check(database: Database) -> Integrity:
    """
    Check the file as it is committed, on connections of its own, so that appends and lookups go on.

    No number of steps says of a table of others that its check does not end; that its tree is one does, which is looked at
    before it is walked along. What a module makes of its virtual tables nobody knows, and so that is bounded.
    """
    try:
        problems, unchecked, virtual = _unbounded(database, rows.integrity)
    except DamagedStoreError as error:
        return Integrity([error.problem], [])
    if problems:
        with contextlib.suppress(MilepostError):  # the tree that is none leads in circles; or not all can be checked
            problems = database.read_apart(rows.integrity_check) or problems
    if virtual:
        try:
            of_virtual = database.read_apart(rows.virtual_integrity, virtual)
        except DamagedStoreError as error:
            problems = [*problems, error.problem]
        else:
            problems, unchecked = problems + of_virtual.problems, unchecked + of_virtual.unchecked
    return Integrity(problems, unchecked)


def _unbounded(database: Database, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
    """Run a query on a connection of its own, however many steps it takes."""

    def unbounded(connection: apsw.Connection) -> T:
        # Without any handler Ctrl-C would be heard only at its end.
        connection.set_progress_handler(lambda: False, _STEPS)
        return query(connection, *given)

    return database.read_apart(unbounded)

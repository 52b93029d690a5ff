"""Run SQLite's own check of the file, the part of a verification that is not about the chain."""

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

_STEPS: Final = 20_000  # of SQLite's virtual machine, between two chances for Ctrl-C


class Integrity(NamedTuple):
    """
    The result of SQLite's check.

    Attributes:
        problems: The problems that SQLite reports.
        unchecked: The tables that SQLite cannot check here.
    """

    problems: list[str]
    unchecked: list[str]


def check(database: Database) -> Integrity:
    """
    Check the committed contents of the file, on connections of its own, so that appends and lookups continue.

    No bound fits the check of somebody else's table. Its B-tree is therefore checked first for circles, and then walked
    without a bound. Virtual tables run foreign code, so their check is bounded.
    """
    try:
        problems, unchecked, virtual = _run_unbounded(database, rows.integrity)
    except DamagedStoreError as error:
        return Integrity([error.problem], [])
    if problems:
        with contextlib.suppress(MilepostError):  # a damaged tree may lead in circles, or some table cannot be checked
            problems = database.read_on_own_connection(rows.integrity_check) or problems
    if virtual:
        try:
            of_virtual = database.read_on_own_connection(rows.virtual_integrity, virtual)
        except DamagedStoreError as error:
            problems = [*problems, error.problem]
        else:
            problems, unchecked = problems + of_virtual.problems, unchecked + of_virtual.unchecked
    return Integrity(problems, unchecked)


def _run_unbounded(database: Database, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
    """Run a query on a connection of its own, without a bound on its steps."""

    def unbounded(connection: apsw.Connection) -> T:
        # Without a handler, Ctrl-C would take effect only at the end of the query.
        connection.set_progress_handler(lambda: False, _STEPS)
        return query(connection, *given)

    return database.read_on_own_connection(unbounded)

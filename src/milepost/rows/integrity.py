"""SQLite's own check of the file."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterable


class Integrity(NamedTuple):
    """
    The result of SQLite's check, without the virtual tables.

    Attributes:
        problems: The first problem in the file. If SQLite cannot check all of it, the first problem in each table.
        unchecked: The tables that SQLite cannot check.
        virtual: The virtual tables.
    """

    problems: list[str]
    unchecked: list[str]
    virtual: list[str]


def integrity(connection: apsw.Connection) -> Integrity:
    """
    Check whether SQLite finds the file sound. It ends, whatever the file contains. Use a connection for this alone.

    SQLite first reads every page of every tree once, and goes on to the rows only if the trees are sound. Asked for one
    problem, it never walks in circles. Modules of virtual tables promise no such order, so this leaves them out.

    A table may need a collation or a function that this connection lacks. In a hostile file it may need an endless program.
    SQLite then checks nothing at all, so this checks each table by itself, and names each table that it cannot check. It
    then misses a page that two tables share, and a lost page. It still sees any damage that this does to milepost's tables.

    Source:
        https://sqlite.org/pragma.html#pragma_integrity_check
    """
    connection.drop_modules(None)
    connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _MOST_OPERATIONS)
    tables: list[tuple[Any, ...]] = connection.execute(_TABLES).fetchall()
    virtual = [name for name, root in tables if not root]
    try:
        return Integrity(_first(connection.execute(_FIRST_PROBLEM)), [], virtual)
    except _UNCHECKED:
        pass
    problems, unchecked = list[str](), list[str]()
    for name in ("sqlite_schema", *(name for name, root in tables if root)):
        try:
            problems += _first(_of_table(connection, name))
        except _UNCHECKED:
            if name in _OURS:
                raise
            unchecked.append(name)
    return Integrity(problems, unchecked, virtual)


# Our own statements have a hundred. Generated columns that refer to one another double a check with each column.
_MOST_OPERATIONS: Final = 5_000_000
_OURS: Final = {"sqlite_schema", "keyed", "run", "stage", "run_stage", "entry", "stage_cursor", "chain_base"}
# The connection lacks something, a program is too long, or its result is too large.
_UNCHECKED: Final = apsw.SQLError, apsw.NoMemError, apsw.TooBigError
_TABLES: Final = "SELECT name, rootpage FROM sqlite_schema WHERE lower(type) = 'table'"
_FIRST_PROBLEM: Final = "PRAGMA integrity_check(1)"
_PROBLEMS_OF_TABLE: Final = "SELECT integrity_check FROM pragma_integrity_check(?)"
_COLUMNS_OF_TABLE: Final = "SELECT name FROM pragma_table_info(?)"


def _first(found: apsw.Cursor) -> list[str]:
    """Return the first problem, if there is one. SQLite does not look for another."""
    try:
        return [message for (message,) in islice(found, 1) if message != "ok"]
    finally:
        found.close()


def _of_table(connection: apsw.Connection, name: str) -> apsw.Cursor:
    """Find the problems of one table and its indexes."""
    if re.match(r"[-+]?[0-9]", name):  # SQLite would take the name for a number of problems, and check the whole file
        raise apsw.SQLError(f"SQLite cannot check the table {name!a} by itself")
    return connection.execute(_PROBLEMS_OF_TABLE, (name,))


def virtual_integrity(connection: apsw.Connection, names: Iterable[str]) -> Integrity:
    """Check virtual tables, each by its module."""
    problems, unchecked = list[str](), list[str]()
    for name in names:
        try:
            connection.execute(_COLUMNS_OF_TABLE, (name,)).fetchall()  # or a table without its module would count as sound
            problems += [message for (message,) in _of_table(connection, name) if message != "ok"]
        except apsw.SQLError:
            unchecked.append(name)
    return Integrity(problems, unchecked, [])


def integrity_check(connection: apsw.Connection) -> list[str]:
    """Return up to a hundred problems that SQLite finds. Use a connection for this alone."""
    connection.drop_modules(None)
    connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _MOST_OPERATIONS)
    return [message for (message,) in connection.execute("PRAGMA integrity_check") if message != "ok"]

"""What SQLite itself finds wrong in the file."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterable


class Integrity(NamedTuple):
    """
    What SQLite found in the file, beside its virtual tables.

    Attributes:
        problems: What is wrong: the first thing in the file or, where not all of it can be checked, in each table.
        unchecked: The tables that cannot be checked.
        virtual: The virtual tables.
    """

    problems: list[str]
    unchecked: list[str]
    virtual: list[str]


def integrity(connection: apsw.Connection) -> Integrity:
    """
    Whether SQLite finds the file sound, on a connection that is used for nothing else; it ends, whatever is in the file.

    SQLite looks at every page of every tree once, and goes on to the rows only if they are trees: asked for one problem, it
    never walks along what leads in circles. Modules of virtual tables know no such order, and so are left out.

    A table may need a collation or a function that this connection does not know, or in a hostile file a program without
    end. SQLite then checks nothing at all; so each table is checked by itself, and what cannot be checked is named. That two
    of them share a page, or that one is lost, is not seen then; whatever that does to our own tables is.

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


# Our own statements have a hundred. Generated columns that are made of one another double a check with each column.
_MOST_OPERATIONS: Final = 5_000_000
_OURS: Final = {"sqlite_schema", "keyed", "run", "stage", "run_stage", "entry", "stage_cursor", "chain_base"}
# Something is unknown to the connection; a program is too long; what it makes is too large.
_UNCHECKED: Final = apsw.SQLError, apsw.NoMemError, apsw.TooBigError
_TABLES: Final = "SELECT name, rootpage FROM sqlite_schema WHERE lower(type) = 'table'"
_FIRST_PROBLEM: Final = "PRAGMA integrity_check(1)"
_PROBLEMS_OF_TABLE: Final = "SELECT integrity_check FROM pragma_integrity_check(?)"
_COLUMNS_OF_TABLE: Final = "SELECT name FROM pragma_table_info(?)"


def _first(found: apsw.Cursor) -> list[str]:
    """The first problem, if there is one; SQLite does not go on to look for another."""
    try:
        return [message for (message,) in islice(found, 1) if message != "ok"]
    finally:
        found.close()


def _of_table(connection: apsw.Connection, name: str) -> apsw.Cursor:
    """What is wrong with one table and its indexes."""
    if re.match(r"[-+]?[0-9]", name):  # SQLite takes the name for a number of problems, and checks the whole file
        raise apsw.SQLError(f"SQLite cannot check the table {name!a} by itself")
    return connection.execute(_PROBLEMS_OF_TABLE, (name,))


def virtual_integrity(connection: apsw.Connection, names: Iterable[str]) -> Integrity:
    """The same of virtual tables, by the modules that they belong to."""
    problems, unchecked = list[str](), list[str]()
    for name in names:
        try:
            connection.execute(_COLUMNS_OF_TABLE, (name,)).fetchall()  # else a table without its module counts as sound
            problems += [message for (message,) in _of_table(connection, name) if message != "ok"]
        except apsw.SQLError:
            unchecked.append(name)
    return Integrity(problems, unchecked, [])


def integrity_check(connection: apsw.Connection) -> list[str]:
    """Up to a hundred things that SQLite finds wrong, where there are any; on a connection as `integrity` takes it."""
    connection.drop_modules(None)
    connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _MOST_OPERATIONS)
    return [message for (message,) in connection.execute("PRAGMA integrity_check") if message != "ok"]

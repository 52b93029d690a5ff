"""One statement of the caller's that can only read."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost.errors import InvalidArgumentError, shown
from milepost.readable import shorten_middle
from milepost.schema import use_own_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Answer = tuple[list[tuple[str, str | None]], list[tuple[Any, ...]]]
"""Name and declared type of each column, and the rows."""

_READS: Final = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE}
_READING_PRAGMAS: Final = {"table_info", "table_xinfo", "table_list", "index_list", "index_xinfo", "data_version"}
_STEPS: Final = 1_000_000  # steps of SQLite's virtual machine, a few ms, between two checks for Ctrl-C


def ask(connection: apsw.Connection, statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Answer:
    """
    Run one statement that only reads, on a connection that nothing else uses, and read its whole answer.

    Raises:
        InvalidArgumentError: It is several statements or writes, or SQLite cannot run it with these parameters.
    """
    use_own_view(connection)
    connection.authorizer = _authorize  # https://sqlite.org/c3ref/set_authorizer.html
    connection.set_progress_handler(lambda: False, _STEPS)  # in Python, where an interrupt is raised
    columns: list[tuple[str, str | None]] = []

    def trace(cursor: apsw.Cursor, _text: str, _bindings: object) -> bool:
        described = [(column[0], column[1]) for column in cursor.get_description()]
        if described and columns:
            raise InvalidArgumentError("statement", statement, "must be one statement: run each on its own")
        columns.extend(described)
        return True

    cursor = connection.cursor()
    cursor.exec_trace = trace
    try:
        found = cursor.execute(statement, parameters).fetchall()
    except apsw.AuthError as error:
        rule = f"must only read ({_line(error)}): write with the methods of the store, or in transaction()"
        raise InvalidArgumentError("statement", statement, rule) from error
    except apsw.BindingsError as error:
        raise InvalidArgumentError("parameters", parameters, _line(error)) from error
    except (apsw.SQLError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError) as error:
        raise InvalidArgumentError("statement", statement, _line(error)) from error
    except KeyError as error:
        raise InvalidArgumentError("parameters", parameters, f"has no value for {shown(error.args[0])}: add one") from error
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        rule = f"must be int of 64 bits, float, str, bytes or None ({_line(error)})"
        raise InvalidArgumentError("parameters", parameters, rule) from error
    except UnicodeDecodeError as error:
        rule = "its answer has text that is not UTF-8: use CAST(… AS BLOB) to see it, and verify() to check the store"
        raise InvalidArgumentError("statement", statement, rule) from error
    if not columns:
        raise InvalidArgumentError("statement", statement, "must be a SELECT")
    return columns, found


def names_of(columns: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return the names of the columns of an answer. They differ, also if case does not count: `stage`, `stage_2`."""
    taken: set[str] = set()
    distinct = []
    for name, _ in columns:
        tries = (name if number == 1 else f"{name}_{number}" for number in count(1))
        free = next(each for each in tries if each.casefold() not in taken)
        taken.add(free.casefold())
        distinct.append(free)
    return distinct


def _line(error: Exception) -> str:
    """Return the message of an error on one line of limited length, since it may quote the statement."""
    return shorten_middle(str(error), 160)


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    if action in _READS:
        return apsw.SQLITE_OK
    if action == apsw.SQLITE_FUNCTION and second != "load_extension":
        return apsw.SQLITE_OK
    if action == apsw.SQLITE_PRAGMA and first in _READING_PRAGMAS:
        return apsw.SQLITE_OK
    return apsw.SQLITE_DENY

"""Your own query: one statement that can only read, and its whole answer as a frame."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost.errors import InvalidArgumentError, shown
from milepost.forensics.extra import extra
from milepost.forensics.frames import Frame
from milepost.readable import shorten_middle
from milepost.schema import use_own_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import arro3.core as arrow
else:
    arrow = extra("arro3.core")

Answer = tuple[list[tuple[str, str | None]], list[tuple[Any, ...]]]
"""Name and declared type of each column, and the rows."""

_READS: Final = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE}
_READING_PRAGMAS: Final = {"table_info", "table_xinfo", "table_list", "index_list", "index_xinfo", "data_version"}
_STEPS: Final = 1_000_000  # steps of SQLite's virtual machine, a few ms, between two checks for Ctrl-C
_ROWS: Final = 10_000  # rows of a batch
_EXACT: Final = 2**53  # a float is exact for every integer up to here

_TYPES: Final = {
    frozenset({int}): arrow.DataType.int64(),
    frozenset({float}): arrow.DataType.float64(),
    frozenset({int, float}): arrow.DataType.float64(),
    frozenset({str}): arrow.DataType.utf8(),
    frozenset({bytes}): arrow.DataType.binary(),
}
_DECLARED: Final[dict[str | None, type]] = {"INTEGER": int, "INT": int, "REAL": float, "TEXT": str, "BLOB": bytes}


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


def frame(statement: str, columns: list[tuple[str, str | None]], found: list[tuple[Any, ...]]) -> Frame:
    """
    Make a frame of the answer to a statement.

    Raises:
        InvalidArgumentError: A column has values of several types.
    """
    names = _distinct([name for name, _ in columns])
    values: Iterable[tuple[Any, ...]] = zip(*found, strict=True) if found else ((),) * len(columns)
    fields = []
    for name, (_, declared), column in zip(names, columns, values, strict=True):
        kinds = frozenset(map(type, column)) - {type(None)}
        if not kinds:
            kinds = frozenset({_DECLARED.get(declared, str)})
        kind = _TYPES.get(kinds)
        if kind is None or (len(kinds) == 2 and any(type(value) is int and abs(value) > _EXACT for value in column)):
            types = " and ".join(sorted(each.__name__ for each in kinds))
            raise InvalidArgumentError("statement", statement, f"column {shown(name)} has {types}: CAST it to one type")
        fields.append(arrow.Field(name, kind))
    schema = arrow.Schema(fields)
    batches = [_batch(found[first : first + _ROWS], schema) for first in range(0, len(found), _ROWS)]
    return Frame(schema, lambda: batches)


def _batch(found: list[tuple[Any, ...]], schema: arrow.Schema) -> arrow.RecordBatch:
    columns = enumerate(zip(*found, strict=True))
    arrays = [arrow.Array(column, schema.field(index).type) for index, column in columns]
    return arrow.RecordBatch.from_arrays(arrays, schema=schema)


def _distinct(names: list[str]) -> list[str]:
    """Make names differ, also if case does not count: the second `stage` becomes `stage_2`."""
    taken: set[str] = set()
    distinct = []
    for name in names:
        tries = (name if number == 1 else f"{name}_{number}" for number in count(1))
        free = next(each for each in tries if each.casefold() not in taken)
        taken.add(free.casefold())
        distinct.append(free)
    return distinct

"""Your own query: one statement that can only read, and its whole answer as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from milepost.errors import InvalidArgumentError, shown
from milepost.forensics.extra import extra
from milepost.forensics.frames import Frame
from milepost.query import names_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import arro3.core as arrow
else:
    arrow = extra("arro3.core")

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


def frame(statement: str, columns: list[tuple[str, str | None]], found: list[tuple[Any, ...]]) -> Frame:
    """
    Make a frame of the answer to a statement.

    Raises:
        InvalidArgumentError: A column has values of several types.
    """
    names = names_of(columns)
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

"""Walks along the chain, a page at a time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost.checkpoint import MAX_INTEGER, Checkpoint, Watermark
from milepost.mileposts import APART, SCOPES, Scope, scope_of
from milepost.receipt import Receipt, receipt_of
from milepost.rows.columns import LINKED, NUMBERED, NUMBERS, advancing, bindings_for, checked_signature, digits, new

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Walk:
    """Which entries, by run, stage and wall clock (inclusive), and in which direction."""

    run_id: str | None = None
    stage: str | None = None
    since_ms: int = 0
    until_ms: int = MAX_INTEGER
    newest_first: bool = False


def page(
    connection: apsw.Connection, walk: Walk, after: int, before: int, limit: int, *, linked: bool
) -> list[tuple[Any, ...]]:
    """The first `limit` entries of a walk between two positions, as numbered rows, with their signatures if `linked`."""
    if after + 1 >= before:
        return []
    scope = scope_of(walk.run_id, walk.stage)
    # The mileposts behind which there may be such rows.
    least, most = after + 2 - APART, before - 1
    if walk.run_id is not None and walk.stage is not None:
        least, most = _sequences(connection, walk.run_id, walk.stage, after, before)
    mileposts = () if scope is None else (least, most)
    names = bindings_for(walk.run_id, walk.stage)
    bindings = (*names, after + 1, before - 1, *mileposts, walk.since_ms, walk.until_ms, limit)
    found = connection.execute(_PAGE[scope, walk.newest_first, linked], bindings).fetchall()
    return advancing(found, before, -1) if walk.newest_first else advancing(found, after)


def _page(scope: Scope | None, columns: str, direction: str) -> str:
    if scope is None:
        where, order = "entry WHERE entry.position BETWEEN ? AND ?", f"entry.position {direction}"
    else:
        rows = f"{scope.given} CROSS JOIN {scope.entries('given', '?', '?')}"
        where = f"{rows} WHERE post.{scope.order} BETWEEN ? AND ?"
        order = f"post.{scope.order} {direction}, entry.position {direction}"
    return f"{columns} FROM {where} AND entry.at_ms BETWEEN ? AND ? ORDER BY {order} LIMIT ?"


_PAGE: Final = {
    (scope, newest_first, linked): _page(scope, LINKED if linked else NUMBERED, "DESC" if newest_first else "ASC")
    for scope in (None, *SCOPES)
    for newest_first in (False, True)
    for linked in (False, True)
}


def _sequences(connection: apsw.Connection, run_id: str, stage: str, after: int, before: int) -> tuple[int, int]:
    """
    The sequences of the first and last milepost of a stage of a run behind which there may be rows between two positions.

    They are found by halving, not by walking.
    """
    numbers = connection.execute(NUMBERS, (run_id, stage)).get

    def position(sequence: int) -> int:
        return connection.execute(_POSITION_OF_SEQUENCE, (*numbers, sequence)).get or MAX_INTEGER

    least, most = connection.execute(_SEQUENCES, numbers * 2).get
    if least is None:
        return 1, 0
    every = range(MAX_INTEGER)
    if position(most) >= before:
        most = bisect_right(every, before - 1, least, most, key=position) - 1
    if after > 0 and least < most:
        beyond = position(most) > after + 1
        least = max(bisect_right(every, after + 1, least, most, key=position) - 1, least) if beyond else most
    return least, most


_MILEPOSTS: Final = (
    "FROM entry INDEXED BY entry_by_sequence WHERE run_number = ? AND stage_number = ? AND milepost IS NOT NULL"
)
_SEQUENCES: Final = f"SELECT (SELECT min(sequence) {_MILEPOSTS}), (SELECT max(sequence) {_MILEPOSTS})"
_POSITION_OF_SEQUENCE: Final = f"SELECT position {_MILEPOSTS} AND sequence >= ? ORDER BY sequence LIMIT 1"


def checkpoints(connection: apsw.Connection, numbered: list[tuple[Any, ...]]) -> list[Checkpoint]:
    """The checkpoints of numbered rows."""
    runs, stages = _names(connection)
    if not numbered:
        return []
    # Column by column: what would be a loop in Python is one in C, in two thirds of the time.
    _, run_numbers, stage_numbers, sequences, offsets, event_times_ms, keys, ats_ms, *_ = zip(*numbered, strict=True)
    marks = map(new, repeat(Watermark), zip(offsets, event_times_ms, strict=True))
    names = _each_name(runs, run_numbers), _each_name(stages, stage_numbers)
    return list(map(new, repeat(Checkpoint), zip(*names, sequences, marks, keys, ats_ms, strict=False)))


def names(connection: apsw.Connection, numbered: list[tuple[Any, ...]]) -> tuple[list[str], list[str], list[str]]:
    """Of each numbered row the run_id, the stage, and the signature as 64 hex digits."""
    runs, stages = _names(connection)
    return [runs[row[1]] for row in numbered], [stages[row[2]] for row in numbered], [digits(row[8]) for row in numbered]


def receipts(numbered: Iterable[tuple[Any, ...]]) -> list[Receipt]:
    """The receipts of numbered rows."""
    return [receipt_of(row[0], checked_signature(row[8])) for row in numbered]


def _each_name(names: _Names, numbers: Sequence[int]) -> Iterator[str]:
    """The names of a page's numbers, which for the most part are one: looked up once then."""
    if numbers.count(numbers[0]) == len(numbers):
        return repeat(names[numbers[0]])
    return map(names.__getitem__, numbers)


class _Names(dict[int, str]):
    """The names of the few numbers that a page of rows has. Not kept longer: a rollback may give a number away again."""

    def __init__(self, connection: apsw.Connection, statement: str) -> None:
        super().__init__()
        self._connection, self._statement = connection, statement

    def __missing__(self, number: int) -> str:
        name: str | None = self._connection.execute(self._statement, (number,)).get
        if name is None:
            raise apsw.CorruptError(f"number {number} of a run or stage has no name")
        self[number] = name
        return name


def _names(connection: apsw.Connection) -> tuple[_Names, _Names]:
    """Of runs, and of stages."""
    return (
        _Names(connection, "SELECT run_id FROM run WHERE run_number = ?"),
        _Names(connection, "SELECT stage FROM stage WHERE stage_number = ?"),
    )

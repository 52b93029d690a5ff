"""Walk along the chain, a page at a time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost.checkpoint import MAX_INTEGER, Checkpoint
from milepost.mileposts import INTERVAL, SCOPES, Scope, scope_of
from milepost.receipt import Receipt, receipt_of
from milepost.rows.columns import (
    NUMBERS,
    advancing,
    bindings_for,
    checked_detail,
    checked_signature,
    checkpoints_of,
    of_entry,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Filter:
    """
    A choice of entries of the chain, and a direction.

    Attributes:
        run_id: Only this run.
        stage: Only this stage.
        since_ms: Only wall clocks from this time on, in ms since the epoch.
        until_ms: Only wall clocks up to this time.
        after: Only positions above this one.
        before: Only positions below this one.
        limit: At most this many entries.
        newest_first: From the end of the chain to its beginning.
    """

    run_id: str | None = None
    stage: str | None = None
    since_ms: int = 0
    until_ms: int = MAX_INTEGER
    after: int = 0
    before: int = MAX_INTEGER
    limit: int = MAX_INTEGER
    newest_first: bool = False


class NumberedRow(NamedTuple):
    """The values of a checkpoint, its run and stage as numbers."""

    position: int
    run_number: int
    stage_number: int
    sequence: int
    offset: int
    event_time_ms: int
    idempotency_key: str
    at_ms: int


class SignedRow(NamedTuple):
    """A `NumberedRow` with its signature and its detail."""

    position: int
    run_number: int
    stage_number: int
    sequence: int
    offset: int
    event_time_ms: int
    idempotency_key: str
    at_ms: int
    signature: bytes
    detail: str | None


_Columns = type[NumberedRow] | type[SignedRow]


def numbered_rows(connection: apsw.Connection, chosen: Filter) -> list[tuple[Any, ...]]:
    """Return the chosen entries, with the columns of `NumberedRow`."""
    return _rows(connection, chosen, NumberedRow)


def signed_rows(connection: apsw.Connection, chosen: Filter) -> list[tuple[Any, ...]]:
    """Return the chosen entries, with the columns of `SignedRow`."""
    return _rows(connection, chosen, SignedRow)


def _rows(connection: apsw.Connection, chosen: Filter, columns: _Columns) -> list[tuple[Any, ...]]:
    if chosen.after + 1 >= chosen.before:
        return []
    scope = scope_of(chosen.run_id, chosen.stage)
    # The range of the mileposts that such rows may follow.
    least, most = chosen.after + 2 - INTERVAL, chosen.before - 1
    if chosen.run_id is not None and chosen.stage is not None:
        least, most = _sequences(connection, chosen.run_id, chosen.stage, chosen.after, chosen.before)
    mileposts = () if scope is None else (least, most)
    names = bindings_for(chosen.run_id, chosen.stage)
    bindings = (
        *names, chosen.after + 1, chosen.before - 1, *mileposts, chosen.since_ms, chosen.until_ms, chosen.limit
    )  # fmt: skip
    found = connection.execute(_ROWS[scope, chosen.newest_first, columns], bindings).fetchall()
    return advancing(found, chosen.before, -1) if chosen.newest_first else advancing(found, chosen.after)


def _select(scope: Scope | None, direction: str, columns: _Columns) -> str:
    if scope is None:
        where, order = "entry WHERE entry.position BETWEEN ? AND ?", f"entry.position {direction}"
    else:
        rows = f"{scope.given} CROSS JOIN {scope.entries('given', '?', '?')}"
        where = f"{rows} WHERE post.{scope.order} BETWEEN ? AND ?"
        order = f"post.{scope.order} {direction}, entry.position {direction}"
    return f"SELECT {of_entry(columns._fields)} FROM {where} AND entry.at_ms BETWEEN ? AND ? ORDER BY {order} LIMIT ?"


_ROWS: Final = {
    (scope, newest_first, columns): _select(scope, "DESC" if newest_first else "ASC", columns)
    for scope in (None, *SCOPES)
    for newest_first in (False, True)
    for columns in (NumberedRow, SignedRow)
}


def _sequences(connection: apsw.Connection, run_id: str, stage: str, after: int, before: int) -> tuple[int, int]:
    """
    Return the sequences of the first and last milepost of a stage of a run that rows between two positions may follow.

    A binary search finds them.
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
    "FROM entry INDEXED BY entry_by_sequence WHERE run_number = ? AND stage_number = ? AND entries_so_far IS NOT NULL"
)
_SEQUENCES: Final = f"SELECT (SELECT min(sequence) {_MILEPOSTS}), (SELECT max(sequence) {_MILEPOSTS})"
_POSITION_OF_SEQUENCE: Final = f"SELECT position {_MILEPOSTS} AND sequence >= ? ORDER BY sequence LIMIT 1"


def checkpoints(connection: apsw.Connection, numbered: list[tuple[Any, ...]]) -> list[Checkpoint]:
    """Return the checkpoints of rows that begin with the columns of `NumberedRow`."""
    runs, stages = _names(connection)
    if not numbered:
        return []
    _, run_numbers, stage_numbers, sequences, offsets, event_times_ms, keys, ats_ms, *_ = zip(*numbered, strict=True)
    names = _each_name(runs, run_numbers), _each_name(stages, stage_numbers)
    return list(checkpoints_of(*names, sequences, offsets, event_times_ms, keys, ats_ms))


def run_ids_and_stages(
    connection: apsw.Connection, run_numbers: Iterable[int], stage_numbers: Iterable[int]
) -> tuple[list[str], list[str]]:
    """Return the names for the numbers of a page of rows."""
    runs, stages = _names(connection)
    return list(map(runs.__getitem__, run_numbers)), list(map(stages.__getitem__, stage_numbers))


def recorded(connection: apsw.Connection, signed: list[tuple[Any, ...]]) -> list[tuple[Receipt, Checkpoint, str | None]]:
    """Return the receipt, the checkpoint and the detail of each row with the columns of `SignedRow`."""
    rows = map(SignedRow._make, signed)
    receipts = [(receipt_of(row.position, checked_signature(row.signature)), checked_detail(row.detail)) for row in rows]
    entries = checkpoints(connection, signed)
    return [(receipt, entry, detail) for (receipt, detail), entry in zip(receipts, entries, strict=True)]


def _each_name(names: _Names, numbers: Sequence[int]) -> Iterator[str]:
    """Return the names of a page's numbers. Mostly all are the same number, which is looked up once."""
    if numbers.count(numbers[0]) == len(numbers):
        return repeat(names[numbers[0]])
    return map(names.__getitem__, numbers)


class _Names(dict[int, str]):
    """The names of a page's few numbers. They are kept no longer, because after a rollback a number may get another name."""

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
    """Return the names of runs, and of stages."""
    return (
        _Names(connection, "SELECT run_id FROM run WHERE run_number = ?"),
        _Names(connection, "SELECT stage FROM stage WHERE stage_number = ?"),
    )

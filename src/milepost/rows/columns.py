"""The parts that several statements share, and functions that check and convert their rows."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, TypeVarTuple

import apsw

from milepost import details
from milepost.checkpoint import Checkpoint, Watermark
from milepost.mileposts import RUN_NUMBER, STAGE_NUMBER
from milepost.signature import START, ChainBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from milepost.cursors import Stored

T = TypeVar("T")
Given = TypeVarTuple("Given")

Statements = apsw.Connection | apsw.Cursor
"""A connection or a cursor, to run a statement. A writer has a cursor of its own, apart from the caller's statements."""


class EntryRow(NamedTuple):
    """A row of `entry`, whatever it holds. Statements and loops have its columns in this order."""

    position: int
    run_number: int
    stage_number: int
    sequence: int
    offset: int
    event_time_ms: int
    idempotency_key: str
    at_ms: int
    signature: bytes
    run_signature: bytes | None
    entries_so_far: int | None
    detail: str | None


PAGE: Final = 200
"""
How many rows a walk reads at a time.

Enough rows hide the cost of a statement. Each row makes three tuples, and Python's garbage collector runs at every 700 new
ones. A page of 200 rows is freed before that, and takes a third of the time.
"""

BATCH: Final = 1000
"""How many rows of a frame are read at a time. With 200, their consumer needs twice the memory and a third more time."""

OWN_SIGNATURE: Final = "ifnull(last.run_signature, last.signature)"  # the signature of the run's own chain
RUN_ID: Final = "(SELECT run_id FROM run WHERE run.run_number = entry.run_number)"
STAGE_NAME: Final = "(SELECT stage FROM stage WHERE stage.stage_number = entry.stage_number)"
FIELDS: Final = "entry.sequence, entry.offset, entry.event_time_ms, entry.idempotency_key, entry.at_ms"


def of_entry(columns: Iterable[str]) -> str:
    """Return these columns of `entry`, for a SELECT."""
    return ", ".join(f"entry.{column}" for column in columns)


NAMES: Final = "LEFT JOIN run USING (run_number) LEFT JOIN stage USING (stage_number)"
NAMED: Final = f"SELECT {RUN_ID}, {STAGE_NAME}, {FIELDS}"

new: Final = tuple.__new__  # makes a Checkpoint without the call in Python that Checkpoint(…) costs


def checkpoint(
    run_id: str | None, stage: str | None, sequence: int, offset: int, event_time_ms: int, key: str, at_ms: int
) -> Checkpoint:
    """Return the checkpoint of a row with its names. Only a damaged file lacks one."""
    if run_id is None or stage is None:
        raise apsw.CorruptError(f"the entry with idempotency_key {key!a} has a run or stage without a name")
    return new(Checkpoint, (run_id, stage, sequence, new(Watermark, (offset, event_time_ms)), key, at_ms))


def checkpoints_of(
    run_ids: Iterable[str],
    stages: Iterable[str],
    sequences: Iterable[int],
    offsets: Iterable[int],
    event_times_ms: Iterable[int],
    keys: Iterable[str],
    ats_ms: Iterable[int],
) -> Iterator[Checkpoint]:
    """
    Make checkpoints of columns, as many as the shortest has.

    The loop runs in C, and takes two thirds of the time of one in Python.
    """
    marks = map(new, repeat(Watermark), zip(offsets, event_times_ms, strict=False))
    return map(new, repeat(Checkpoint), zip(run_ids, stages, sequences, marks, keys, ats_ms, strict=False))


def require(value: T | None, what: str) -> T:
    """Return a value that each recorded entry has. Only in a file that somebody changed can it be missing."""
    if value is None:
        raise apsw.CorruptError(f"a {what} has no entries, or lacks the data about them")
    return value


def bindings_for(run_id: str | None, stage: str | None) -> tuple[str, ...]:
    """Return the bindings for the given names."""
    if run_id is None:
        return () if stage is None else (stage,)
    return (run_id,) if stage is None else (run_id, stage)


def is_branch(detail: str) -> str:
    """
    Return the condition that a detail is that of a branch's first entry, as SQL.

    It reads the JSON, as a name or a source may contain any text, and a file from elsewhere may have any order and white
    space. In a damaged file it may be no JSON.
    """
    return f"iif(json_valid({detail}), json_type({detail}, '$.branch_position') IS NOT NULL, FALSE)"


def marks_bag(detail: str) -> str:
    """Return the condition that a detail is that of a bag's first entry, also in a branch, as SQL; see `is_branch`."""
    return f"iif(json_valid({detail}), json_type({detail}, '$.bag') = 'true', FALSE)"


def said_finished(detail: str) -> str:
    """Return the condition that a detail is that of a finished attempt, as SQL; see `is_branch`."""
    return f"iif(json_valid({detail}), json_extract({detail}, '$.run') = '{details.FINISHED}', FALSE)"


OWN_STAGE: Final = f"NOT GLOB '{details.RESERVED}*'"
"""The condition on a stage's name that excludes milepost's own stages."""

NUMBERS: Final = f"SELECT {RUN_NUMBER}, {STAGE_NUMBER}"


def tip(connection: Statements) -> tuple[int, bytes]:
    """Return the position and the signature (32 bytes) of the last entry, or those of the base if there is none."""
    row = connection.execute("SELECT position, signature FROM entry WHERE position = (SELECT max(position) FROM entry)").get
    if row is None:
        return chain_base(connection)
    position, signature = row
    if position < 1:
        raise apsw.CorruptError("the last entry has a position below 1")
    return position, signature


def chain_base(connection: Statements) -> ChainBase:
    """Return where the chain in this file begins."""
    row = connection.execute(_CHAIN_BASE).get
    return START if row is None else ChainBase(row[0], checked_signature(row[1]))


_CHAIN_BASE: Final = "SELECT position, signature FROM chain_base WHERE position = (SELECT max(position) FROM chain_base)"


def extent(connection: Statements) -> tuple[int, int]:
    """Return the position of the base, and that of the last entry."""
    base, last = connection.execute(_EXTENT).get
    return base or 0, last or base or 0


_EXTENT: Final = "SELECT (SELECT max(position) FROM chain_base), (SELECT max(position) FROM entry)"


def checked_signature(signature: object) -> bytes:
    """Return a stored signature. A damaged file may have anything in its place."""
    if type(signature) is not bytes or len(signature) != 32:
        raise apsw.CorruptError("a signature is not 32 bytes")
    return signature


def checked_detail(detail: object) -> str | None:
    """Return a stored detail. A damaged file may have anything in its place."""
    if detail is not None and type(detail) is not str:
        raise apsw.CorruptError("a detail is no text")
    return detail


def checked_cursor(cursor: object) -> Stored | None:
    """Return a stored cursor. A damaged file may have anything in its place."""
    if cursor is not None and type(cursor) not in (str, bytes):
        raise apsw.CorruptError("a cursor is neither text nor bytes")
    return cursor  # type: ignore[return-value]


def digits(signature: object) -> str:
    """Return the 64 hex digits of a stored signature."""
    return checked_signature(signature).hex()


def advancing(found: list[tuple[Any, ...]], start: int, step: int = 1) -> list[tuple[Any, ...]]:
    """Return a page of rows if its positions advance. In a damaged file, a tree in circles would make a walk endless."""
    if found and (found[-1][0] - start) * step < len(found):
        raise apsw.CorruptError("the rows of a page do not rise from one to the next")
    return found


def at_one_moment(connection: apsw.Connection, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
    """Let the statements of a query see the file as it is at one moment."""
    if connection.in_transaction:
        return query(connection, *given)
    try:
        connection.execute("BEGIN DEFERRED")
        return query(connection, *given)
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")

"""What the statements of several askers are made of, and what is made of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, TypeVarTuple

import apsw

from milepost import details
from milepost.checkpoint import Checkpoint, Watermark
from milepost.mileposts import RUN_NUMBER, STAGE_NUMBER
from milepost.signature import START, ChainBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milepost.cursors import Stored

T = TypeVar("T")
Given = TypeVarTuple("Given")

Statements = apsw.Connection | apsw.Cursor
"""What runs a statement: a connection, or a writer's own cursor, whose statements are not the caller's."""


class EntryRow(NamedTuple):
    """A row of `entry` as it is, whatever is in it. Statements and loops have its columns in this order."""

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
How many rows a walk reads at a time: enough to hide the cost of a statement, and so few that the three tuples of each
are gone before Python's garbage collector, which looks at every 700 new ones, has seen them (a third of the time).
"""

BATCH: Final = 1000
"""How many rows of a frame are read at a time: with 200, what takes them needs twice the memory and a third more time."""

OWN_SIGNATURE: Final = "ifnull(last.run_signature, last.signature)"  # of the run's own chain
RUN_ID: Final = "(SELECT run_id FROM run WHERE run.run_number = entry.run_number)"
STAGE_NAME: Final = "(SELECT stage FROM stage WHERE stage.stage_number = entry.stage_number)"
FIELDS: Final = "entry.sequence, entry.offset, entry.event_time_ms, entry.idempotency_key, entry.at_ms"


def of_entry(columns: Iterable[str]) -> str:
    """These columns of `entry`, for a SELECT."""
    return ", ".join(f"entry.{column}" for column in columns)


NAMES: Final = "LEFT JOIN run USING (run_number) LEFT JOIN stage USING (stage_number)"
NAMED: Final = f"SELECT {RUN_ID}, {STAGE_NAME}, {FIELDS}"

new: Final = tuple.__new__  # what Checkpoint(…) comes to in the end, without a call in Python on the way


def checkpoint(
    run_id: str | None, stage: str | None, sequence: int, offset: int, event_time_ms: int, key: str, at_ms: int
) -> Checkpoint:
    """A row with its names; only a damaged file lacks one."""
    if run_id is None or stage is None:
        raise apsw.CorruptError(f"the entry with idempotency_key {key!a} has a run or stage without a name")
    return new(Checkpoint, (run_id, stage, sequence, new(Watermark, (offset, event_time_ms)), key, at_ms))


def require(value: T | None, what: str) -> T:
    """What each recorded entry brings with it, and only a file that was tampered with can lack."""
    if value is None:
        raise apsw.CorruptError(f"a {what} has no entries, or lacks what is kept about them")
    return value


def bindings_for(run_id: str | None, stage: str | None) -> tuple[str, ...]:
    """The bindings for the names that are given."""
    if run_id is None:
        return () if stage is None else (stage,)
    return (run_id,) if stage is None else (run_id, stage)


OWN_STAGE: Final = f"NOT GLOB '{details.RESERVED}*'"
"""What follows a stage's name where it is not to be one that milepost alone writes."""

NUMBERS: Final = f"SELECT {RUN_NUMBER}, {STAGE_NUMBER}"


def tip(connection: Statements) -> tuple[int, bytes]:
    """The position and signature (32 bytes) of the last entry; those of the base where there is none."""
    row = connection.execute("SELECT position, signature FROM entry WHERE position = (SELECT max(position) FROM entry)").get
    if row is None:
        return chain_base(connection)
    position, signature = row
    if position < 1:
        raise apsw.CorruptError("the last entry has a position below 1")
    return position, signature


def chain_base(connection: Statements) -> ChainBase:
    """Where the chain in this file begins."""
    row = connection.execute("SELECT position, signature FROM chain_base ORDER BY position DESC LIMIT 1").get
    return START if row is None else ChainBase(row[0], checked_signature(row[1]))


def checked_signature(signature: object) -> bytes:
    """A stored signature, instead of which a damaged file may have anything."""
    if type(signature) is not bytes or len(signature) != 32:
        raise apsw.CorruptError("a signature is not 32 bytes")
    return signature


def checked_detail(detail: object) -> str | None:
    """A stored detail, instead of which a damaged file may have anything."""
    if detail is not None and type(detail) is not str:
        raise apsw.CorruptError("a detail is no text")
    return detail


def checked_cursor(cursor: object) -> Stored | None:
    """A stored cursor, instead of which a damaged file may have anything."""
    if cursor is not None and type(cursor) not in (str, bytes):
        raise apsw.CorruptError("a cursor is neither text nor bytes")
    return cursor  # type: ignore[return-value]


def digits(signature: object) -> str:
    """The 64 hex digits of a stored signature."""
    return checked_signature(signature).hex()


def advancing(found: list[tuple[Any, ...]], start: int, step: int = 1) -> list[tuple[Any, ...]]:
    """A page of rows; in a damaged file a tree may lead in circles, and a walk along it would never end."""
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

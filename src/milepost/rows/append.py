"""Read and write for an append, inside its transaction."""

from __future__ import annotations

from itertools import product
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost.checkpoint import MAX_INTEGER, Checkpoint
from milepost.mileposts import BOUND, RUN, RUN_NUMBER, RUN_STAGE, STAGE_NUMBER, entries_so_far
from milepost.receipt import Receipt, receipt_of
from milepost.rows.columns import (
    FIELDS,
    NUMBERS,
    OWN_SIGNATURE,
    EntryRow,
    Statements,
    chain_base,
    checked_signature,
    checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.cursors import Stored


def append_state(connection: Statements, run_id: str, stage: str) -> tuple[Any, ...]:
    """
    Return the state that an append needs before it writes, from one statement.

    Returns:
        The position and signature of the chain's last entry. The run_number, the stage_number, and the signature of the
        run's own chain. The sequence, offset and event_time_ms of the stage's last checkpoint in that run, and the position
        of its last milepost. A missing value is None.
    """
    row: tuple[Any, ...] | None = connection.execute(_STATE, (run_id, stage)).get
    if row is None:  # the first entry of the file
        numbers: tuple[Any, ...] = connection.execute(NUMBERS, (run_id, stage)).get
        return (*chain_base(connection), *numbers, None, None, None, None, None)
    if tuple(map(type, row)) not in _STATES or not 0 < row[0] < MAX_INTEGER:
        raise apsw.CorruptError("the last rows are not as an append leaves them")
    return row


# The types of a sound row's columns. In a damaged file, SQLite returns any type that it finds, even from a STRICT table.
_STATES: Final = {
    (int, bytes, *numbers, signature, *last)
    for numbers in product((int, NoneType), repeat=2)
    for signature in (bytes, NoneType)
    for last in ((int,) * 4, (NoneType,) * 4)
}
_FOUND: Final = {"run_number": "run.run_number", "stage_number": "stage.stage_number"}
_STATE: Final = (
    f"SELECT tip.position, tip.signature, run.run_number, stage.stage_number, {RUN.last(_FOUND, OWN_SIGNATURE)}, "
    f"own.sequence, own.offset, own.event_time_ms, {RUN_STAGE.milepost(_FOUND)} "
    "FROM entry AS tip LEFT JOIN run ON run_id = ? LEFT JOIN stage ON stage.stage = ? "
    f"LEFT JOIN entry AS own ON own.position = {RUN_STAGE.last(_FOUND, 'last.position')} "
    "WHERE tip.position = (SELECT max(position) FROM entry)"
)


def entries_of_run_stage(connection: Statements, run_number: int, stage_number: int) -> int:
    """Return how many entries a stage has in a run."""
    entries: int | None = connection.execute(_ENTRIES_OF_RUN_STAGE, (run_number, stage_number)).get
    return entries or 0


_ENTRIES_OF_RUN_STAGE: Final = f"SELECT {entries_so_far(BOUND)}"


def add_run(connection: Statements, run_id: str) -> int:
    """Give a run its number."""
    number: int = connection.execute("INSERT INTO run (run_id) VALUES (?) RETURNING run_number", (run_id,)).get
    return number


def add_stage(connection: Statements, stage: str) -> int:
    """Give a stage its number."""
    number: int = connection.execute("INSERT INTO stage (stage) VALUES (?) RETURNING stage_number", (stage,)).get
    return number


def add_run_stage(connection: Statements, run_number: int, stage_number: int) -> None:
    """Record that a run has a stage."""
    connection.execute("INSERT INTO run_stage (run_number, stage_number) VALUES (?, ?)", (run_number, stage_number))


def add_entries(connection: Statements, numbered: Sequence[tuple[Any, ...]]) -> None:
    """
    Add rows at the end of the chain.

    Args:
        connection: Runs the statement.
        numbered: Rows with the columns of `EntryRow`.

    Raises:
        apsw.ConstraintError: The stage of the run already has the key of one of them. The rows before it were added.
    """
    if len(numbered) == 1:
        connection.execute(_ADD_ENTRY, numbered[0])
    else:
        connection.executemany(_ADD_ENTRY, numbered)


# Without the names of the columns: APSW hashes the text for each row, and they would take a thirtieth of a batch.
_ADD_ENTRY: Final = f"INSERT INTO entry VALUES ({', '.join('?' * len(EntryRow._fields))})"


def find_duplicate(connection: Statements, run_id: str, stage: str, key: str) -> tuple[Receipt, Checkpoint] | None:
    """Return the checkpoint of a stage of a run with this key, and its receipt, or None."""
    row = connection.execute(_DUPLICATE, (key, run_id, stage)).get
    if row is None:
        return None
    position, signature, *fields = row
    return receipt_of(position, checked_signature(signature), duplicate=True), checkpoint(run_id, stage, *fields)


_DUPLICATE: Final = (
    f"SELECT position, signature, {FIELDS} FROM entry INDEXED BY entry_by_key "
    f"WHERE idempotency_key = ? AND run_number = {RUN_NUMBER} AND stage_number = {STAGE_NUMBER}"
)


def numbers_at(connection: Statements, position: int) -> tuple[int, int]:
    """Return the numbers of the run and the stage of an entry."""
    row: tuple[Any, ...] | None = connection.execute(_NUMBERS_AT, (position,)).get
    if row is None:
        raise apsw.CorruptError(f"the entry at position {position} is gone")
    run_number, stage_number = row
    return run_number, stage_number


_NUMBERS_AT: Final = "SELECT run_number, stage_number FROM entry WHERE position = ?"


def keep_cursor(
    connection: Statements,
    run_number: int,
    stage_number: int,
    position: int,
    cursor: Stored,
    kept: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """
    Keep the cursor of a stage's newest entry and the one before it: it takes the place of the older of two.

    Args:
        connection: Runs the statements.
        run_number: The number of the run.
        stage_number: The number of the stage.
        position: The position of the newest entry.
        cursor: Its cursor.
        kept: The positions of the cursors that are kept, if the caller knows them.

    Returns:
        The positions of the cursors that are kept now.
    """
    run_stage = run_number, stage_number
    if kept is None:
        kept = tuple(of for (of,) in connection.execute(_CURSORS, run_stage))
    if len(kept) < 2:
        connection.execute(_ADD_CURSOR, (*run_stage, position, cursor))
    else:
        connection.execute(_REPLACE_CURSOR, (position, cursor, *run_stage, kept[0]))
    return (*kept[-1:], position)


_CURSORS: Final = "SELECT position FROM stage_cursor WHERE run_number = ? AND stage_number = ? ORDER BY position"
_ADD_CURSOR: Final = "INSERT INTO stage_cursor (run_number, stage_number, position, cursor) VALUES (?, ?, ?, ?)"
_REPLACE_CURSOR: Final = (
    "UPDATE stage_cursor SET position = ?, cursor = ? WHERE run_number = ? AND stage_number = ? AND position = ?"
)

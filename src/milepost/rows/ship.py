"""Read what is to be shipped: the entries behind a position as lines of canonical bytes, and their cursors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost import details
from milepost.rows.append import add_entries
from milepost.rows.columns import (
    EntryRow,
    Statements,
    at_one_moment,
    chain_base,
    checked_cursor,
    checked_detail,
    checked_signature,
    of_entry,
    tip,
)
from milepost.rows.history import Filter, SignedRow, run_ids_and_stages, signed_rows
from milepost.rows.lookup import signature_at
from milepost.signature import canonical_bytes, link, prefix

if TYPE_CHECKING:
    from milepost.cursors import Stored
    from milepost.signature import ChainBase, Hash

_PAGE: Final = 1000


class Shippable(NamedTuple):
    """
    The entries behind a position.

    Attributes:
        before: The chain's signature (32 bytes) at that position, or None if it is not in the file.
        lines: The canonical bytes of each entry.
        signature: The chain's signature behind the last of them.
        cursors: Those of their cursors that are kept, by position.
        left: How many entries there are behind them.
    """

    before: bytes | None
    lines: list[bytes]
    signature: bytes
    cursors: dict[int, Stored]
    left: int


def shippable(connection: apsw.Connection, after: int, most: int, most_bytes: int, hash_function: Hash | None) -> Shippable:
    """
    Return the entries behind a position as they are at one moment.

    Args:
        connection: Reads the file.
        after: The position.
        most: How many entries to return at most.
        most_bytes: After how many bytes to end.
        hash_function: That of the chain's links; None if nobody has given the key.

    Raises:
        apsw.CorruptError: An entry or a cursor is not what the chain signs, so nobody could restore it.
    """
    return at_one_moment(connection, _shippable, after, most, most_bytes, hash_function)


def _shippable(connection: apsw.Connection, after: int, most: int, most_bytes: int, hash_function: Hash | None) -> Shippable:
    if after < chain_base(connection).position:
        return Shippable(None, [], b"", {}, 0)
    before = signature_at(connection, after)
    last, _ = tip(connection)
    lines: list[bytes] = []
    cursors: dict[int, Stored] = {}
    signature, size, prefixes = before or b"", 0, dict[tuple[int, int], str]()
    while len(lines) < most and size < most_bytes:
        limit = min(_PAGE, most - len(lines))
        page = signed_rows(connection, Filter(after=after + len(lines), before=last + 1, limit=limit))
        for row in map(SignedRow._make, page):
            numbers = row.run_number, row.stage_number
            beginning = prefixes.get(numbers)
            if beginning is None:
                runs, stages = run_ids_and_stages(connection, [row.run_number], [row.stage_number])
                beginning = prefixes[numbers] = prefix(runs[0], stages[0])
            detail = checked_detail(row.detail)
            line = canonical_bytes(
                beginning, row.sequence, row.offset, row.event_time_ms, row.idempotency_key, row.at_ms, detail
            )
            lines.append(line)
            size += len(line)
            if row.position != after + len(lines):
                raise apsw.CorruptError(f"the entry at position {after + len(lines)} is gone")
            if detail is not None and '"cursor"' in detail:
                cursor = checked_cursor(connection.execute(_CURSOR_AT, (*numbers, row.position)).get)
                if cursor is not None:
                    _refuse_changed_cursor(cursor, detail, row.position)
                    cursors[row.position] = cursor
                    size += len(cursor)
            if hash_function is not None and row.signature != link(signature, line, hash_function):
                raise apsw.CorruptError(f"the entry at position {row.position} was changed, or one before it")
            signature = row.signature
        if len(page) < limit:
            break
    if lines:
        checked_signature(signature)
    return Shippable(before, lines, signature, cursors, last - after - len(lines))


def _refuse_changed_cursor(cursor: Stored, detail: str | None, position: int) -> None:
    if not details.signs(detail, cursor):
        raise apsw.CorruptError(f"the cursor of the entry at position {position} was changed")


_CURSOR_AT: Final = "SELECT cursor FROM stage_cursor WHERE run_number = ? AND stage_number = ? AND position = ?"


class ChainState(NamedTuple):
    """What a shipper compares with what was shipped."""

    position: int
    signature: bytes
    base: int
    key_check: bytes | None


def chain_state(connection: apsw.Connection) -> ChainState:
    """Return where the chain ends and begins, and what reveals a wrong key of it."""
    return at_one_moment(connection, _chain_state)


def _chain_state(connection: apsw.Connection) -> ChainState:
    position, signature = tip(connection)
    key_check: Any = connection.execute("SELECT key_check FROM keyed").get
    return ChainState(
        position,
        checked_signature(signature),
        chain_base(connection).position,
        None if key_check is None else checked_signature(key_check),
    )


class Beginning(NamedTuple):
    """
    What an archive has left of the beginning of a chain.

    Attributes:
        base: The base of the chain.
        rows: The entries up to there, each with its names: (values of `EntryRow`, run_id, stage).
        cursors: Those of their cursors that are kept, by position.
    """

    base: ChainBase
    rows: list[tuple[EntryRow, str, str]]
    cursors: dict[int, Stored]


def beginning(connection: apsw.Connection) -> Beginning:
    """Return what an archive has left, as it is at one moment."""
    return at_one_moment(connection, _beginning)


def _beginning(connection: apsw.Connection) -> Beginning:
    base = chain_base(connection)
    found = list(map(EntryRow._make, connection.execute(_KEPT, (base.position,)).fetchall()))
    names = run_ids_and_stages(connection, [row.run_number for row in found], [row.stage_number for row in found])
    cursors = connection.execute("SELECT position, cursor FROM stage_cursor WHERE position <= ?", (base.position,))
    kept = {position: cursor for position, cursor in cursors if checked_cursor(cursor) is not None}
    for row in found:
        if row.position in kept:
            _refuse_changed_cursor(kept[row.position], checked_detail(row.detail), row.position)
    return Beginning(base, list(zip(found, *names, strict=True)), kept)


_KEPT: Final = f"SELECT {of_entry(EntryRow._fields)} FROM entry WHERE position <= ? ORDER BY position"


def put_beginning(connection: Statements, begins: Beginning) -> None:
    """
    Put what an archive has left into an empty file.

    Raises:
        apsw.Error: The rows contradict each other.
    """
    rows = begins.rows
    numbers = sorted({(row.run_number, row.stage_number) for row, _, _ in rows})
    connection.execute("INSERT INTO chain_base (position, signature) VALUES (?, ?)", begins.base)
    connection.executemany(
        "INSERT INTO run (run_number, run_id) VALUES (?, ?)", sorted({(row.run_number, run_id) for row, run_id, _ in rows})
    )
    connection.executemany(
        "INSERT INTO stage (stage_number, stage) VALUES (?, ?)",
        sorted({(row.stage_number, stage) for row, _, stage in rows}),
    )
    connection.executemany("INSERT INTO run_stage (run_number, stage_number) VALUES (?, ?)", numbers)
    add_entries(connection, [row for row, _, _ in rows])
    of_position = {row.position: (row.run_number, row.stage_number) for row, _, _ in rows}
    connection.executemany(
        "INSERT INTO stage_cursor (run_number, stage_number, position, cursor) VALUES (?, ?, ?, ?)",
        [
            (*of_position[position], position, cursor)
            for position, cursor in begins.cursors.items()
            if position in of_position
        ],
    )

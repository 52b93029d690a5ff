"""Read the rows that a verification recomputes, and the data that lookups use to find rows."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost.mileposts import BOUND, INTERVAL, RUN, RUN_NUMBER, RUN_STAGE, entries_so_far
from milepost.rows.archive import ArchiveRow, last_archive
from milepost.rows.columns import (
    OWN_SIGNATURE,
    PAGE,
    EntryRow,
    advancing,
    at_one_moment,
    bindings_for,
    chain_base,
    of_entry,
    tip,
)
from milepost.signature import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.signature import ChainBase


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data beside the rows at one moment: names by number, and which stages each run has (as numbers)."""

    base: ChainBase
    archive: ArchiveRow | None
    entries: int
    signature: bytes
    run_names: dict[int, str]
    stage_names: dict[int, str]
    run_stages: set[tuple[Any, ...]]


def snapshot(connection: apsw.Connection) -> Snapshot:
    """Return the data beside the rows, and the position and signature of the last row at that moment."""
    return at_one_moment(connection, _snapshot)


def _snapshot(connection: apsw.Connection) -> Snapshot:
    run_stages: list[tuple[Any, ...]] = connection.execute("SELECT run_number, stage_number FROM run_stage").fetchall()
    base = chain_base(connection)
    archive = last_archive(connection)
    return Snapshot(base, archive, *tip(connection), _run_names(connection), _stage_names(connection), set(run_stages))


def snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    """Return a snapshot, and how many entries a run had at that moment."""
    return at_one_moment(connection, _snapshot_of_run, run_id)


def _snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    return _snapshot(connection), entries_of_run(connection, run_id)


def _run_names(connection: apsw.Connection) -> dict[int, str]:
    """Return the run_id of every run number. Invalid UTF-8 becomes lone surrogates, which no valid name has."""
    found = connection.execute("SELECT run_number, CAST(run_id AS BLOB) FROM run")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def _stage_names(connection: apsw.Connection) -> dict[int, str]:
    """Return the stage of every stage number, as `_run_names` does."""
    found = connection.execute("SELECT stage_number, CAST(stage AS BLOB) FROM stage")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def empty_run_stages(connection: apsw.Connection, run_id: str | None) -> list[tuple[Any, ...]]:
    """Return (run_number, stage_number) of every run_stage without an entry, of all runs or of one. No append leaves one."""
    return connection.execute(_EMPTY_RUN_STAGES[run_id is not None], bindings_for(run_id, None)).fetchall()


_EVERY_EMPTY_RUN_STAGE: Final = (
    f"SELECT run_number, stage_number FROM run_stage WHERE {RUN_STAGE.milepost('run_stage')} IS NULL"
)
_EMPTY_RUN_STAGES: Final = {
    False: _EVERY_EMPTY_RUN_STAGE,
    True: f"{_EVERY_EMPTY_RUN_STAGE} AND run_stage.run_number = {RUN_NUMBER}",
}


def empty_runs(connection: apsw.Connection, run_id: str | None) -> list[int]:
    """Return the numbers of the runs without an entry: of all, or of one. No append leaves one."""
    return [row[0] for row in connection.execute(_EMPTY_RUNS[run_id is not None], bindings_for(run_id, None))]


_EVERY_EMPTY_RUN: Final = f"SELECT run_number FROM run WHERE {RUN.milepost('run')} IS NULL"
_EMPTY_RUNS: Final = {False: _EVERY_EMPTY_RUN, True: f"{_EVERY_EMPTY_RUN} AND run_id = ?"}


def superfluous_bases(connection: apsw.Connection) -> list[int]:
    """Return the positions in `chain_base` that are not the base. No archive leaves one."""
    return [row[0] for row in connection.execute(_SUPERFLUOUS_BASES)]


_SUPERFLUOUS_BASES: Final = "SELECT position FROM chain_base WHERE position < (SELECT max(position) FROM chain_base)"


class Progress(NamedTuple):
    """
    How far a run, and a stage of it, had come before a position of the chain. If they had not begun, the values are None.

    Attributes:
        run_signature: The signature of the run's own chain.
        sequence: The stage's last sequence in the run.
        milepost: The position of its last milepost.
        entries: How many entries it had.
    """

    run_signature: bytes | None
    sequence: int | None
    milepost: int | None
    entries: int | None


def progress_at(connection: apsw.Connection, position: int, run_number: int, stage_number: int) -> Progress:
    """Return how far a run, and a stage of it, had come before a position."""
    return Progress(*connection.execute(_PROGRESS, (run_number, stage_number, position)).get)


# Among a stage's mileposts before the position, the last one has the highest sequence. The index returns it after the
# mileposts from the position on, which the walk reads anyway. An index by run would return those of all stages first.
_PROGRESS: Final = (
    f"SELECT (SELECT {OWN_SIGNATURE} FROM entry AS last WHERE last.position <= "
    f"min(?3 - 1, {RUN.milepost(BOUND, 'AND post.position < ?3')} + {INTERVAL - 1}) AND last.run_number = ?1 "
    "ORDER BY last.position DESC LIMIT 1), "
    f"(SELECT last.sequence FROM entry AS last WHERE last.position <= min(?3 - 1, post.position + {INTERVAL - 1}) "
    f"AND {RUN_STAGE.equal('last', BOUND)} ORDER BY last.position DESC LIMIT 1), "
    "post.position, post.entries_so_far + (SELECT count(*) FROM entry AS behind WHERE behind.position "
    f"BETWEEN post.position + 1 AND min(post.position + {INTERVAL - 1}, ?3 - 1) AND {RUN_STAGE.equal('behind', BOUND)}) "
    f"FROM (SELECT 1) LEFT JOIN entry AS post ON post.position = {RUN_STAGE.milepost(BOUND, 'AND post.position < ?3')}"
)


def run_at(connection: apsw.Connection, run_id: str, base: int) -> tuple[bytes, int]:
    """Return the signature of a run's own chain at the base of the chain, and how many entries it had there."""
    run_number = connection.execute(_RUN_NUMBER, (run_id,)).get
    signature, behind = connection.execute(_RUN_AT, (run_number, base)).get
    return signature or EMPTY, entries_of_run(connection, run_id) - behind


_RUN_NUMBER: Final = f"SELECT {RUN_NUMBER}"
_OF_RUN: Final = {"run_number": "?1"}
_RUN_AT: Final = (
    f"SELECT (SELECT {OWN_SIGNATURE} FROM entry AS last WHERE last.position <= "
    f"min(?2, {RUN.milepost(_OF_RUN, 'AND post.position <= ?2')} + {INTERVAL - 1}) AND last.run_number = ?1 "
    "ORDER BY last.position DESC LIMIT 1), "
    f"(SELECT count(*) FROM {RUN.entries(_OF_RUN, '?2 + 1')})"
)


def invalid_positions(connection: apsw.Connection) -> list[int]:
    """Return the first hundred positions below 1, which no append assigns."""
    return [row[0] for row in connection.execute("SELECT position FROM entry WHERE position < 1 LIMIT 100")]


def rows_after(connection: apsw.Connection, after: int, through: int) -> list[tuple[Any, ...]]:
    """Return one page of rows above `after`, with the columns of `EntryRow`, whatever they hold."""
    try:
        found = connection.execute(_ROWS_AFTER, (after, through, PAGE)).fetchall()
    except UnicodeDecodeError:
        found = _decoded(connection.execute(_ROWS_AFTER_AS_BYTES, (after, through, PAGE)))
    return advancing(found, after)


_COLUMNS: Final = of_entry(EntryRow._fields)
_COLUMNS_AS_BYTES: Final = ", ".join(
    f"CAST(entry.{column} AS BLOB)" if column in {"idempotency_key", "detail"} else f"entry.{column}"
    for column in EntryRow._fields
)
_BEHIND: Final = "FROM entry WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
_ROWS_AFTER: Final = f"SELECT {_COLUMNS} {_BEHIND}"
_ROWS_AFTER_AS_BYTES: Final = f"SELECT {_COLUMNS_AS_BYTES} {_BEHIND}"


def run_rows_after(connection: apsw.Connection, run_id: str, after: int, through: int) -> list[tuple[Any, ...]]:
    """Return one page of rows of one run, as `rows_after`, each with the signature of the row before it in the chain."""
    bindings = run_id, after, through, after + 2 - INTERVAL, through, PAGE
    try:
        found = connection.execute(_RUN_ROWS_AFTER, bindings).fetchall()
    except UnicodeDecodeError:
        found = _decoded(connection.execute(_RUN_ROWS_AFTER_AS_BYTES, bindings))
    return advancing(found, after)


_BEHIND_IN_RUN: Final = (
    "(SELECT signature FROM entry AS previous WHERE previous.position = entry.position - 1) "
    f"FROM {RUN.given} CROSS JOIN {RUN.entries('given', '? + 1', '?')} WHERE post.position BETWEEN ? AND ? "
    "ORDER BY post.position, entry.position LIMIT ?"
)
_RUN_ROWS_AFTER: Final = f"SELECT {_COLUMNS}, {_BEHIND_IN_RUN}"
_RUN_ROWS_AFTER_AS_BYTES: Final = f"SELECT {_COLUMNS_AS_BYTES}, {_BEHIND_IN_RUN}"


def _decoded(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Decode rows with texts as bytes. Invalid UTF-8 becomes lone surrogates, which no recorded text has."""
    rows = ((EntryRow._make(row[: len(EntryRow._fields)]), row[len(EntryRow._fields) :]) for row in found)
    return [
        (*row._replace(idempotency_key=_text(row.idempotency_key), detail=_text(row.detail)), *more) for row, more in rows
    ]


def _text(stored: Any) -> Any:
    return stored and stored.decode(errors="surrogateescape")


def entries_of_run(connection: apsw.Connection, run_id: str) -> int:
    """Return how many entries a run has."""
    entries: int | None = connection.execute(_ENTRIES_OF_RUN, (run_id,)).get
    return entries or 0


_ENTRIES_OF_RUN: Final = (
    f"SELECT sum({entries_so_far('run_stage')}) FROM {RUN.given} "
    "CROSS JOIN run_stage ON run_stage.run_number = given.run_number"
)


class KeptCursor(NamedTuple):
    """A cursor in the file, and the entry that it claims to belong to."""

    position: int
    found: str
    """Its SHA-256, 64 hex digits, and its type: json, bytes, or another type that SQLite found. A lost cursor is "none"."""
    detail: str | None
    """The detail of that entry of the same stage and run, or None if there is no such entry."""


def kept_cursors(connection: apsw.Connection, run_id: str | None) -> list[KeptCursor]:
    """Return every cursor of all runs or of one, and every last entry of a stage that has lost its cursor."""
    return at_one_moment(connection, _kept_cursors, run_id)


def _kept_cursors(connection: apsw.Connection, run_id: str | None) -> list[KeptCursor]:
    of_run, bindings = run_id is not None, bindings_for(run_id, None)
    found = [
        KeptCursor(position, f"{sha256(cursor).hexdigest()} ({kind})", _text(detail))
        for position, kind, cursor, detail in connection.execute(_KEPT[of_run], bindings)
    ]
    lost = connection.execute(_LOST[of_run], bindings)
    return found + [KeptCursor(position, "none", _text(detail)) for position, detail in lost]


_EVERY_KEPT: Final = (
    "SELECT position, CASE typeof(cursor) WHEN 'text' THEN 'json' WHEN 'blob' THEN 'bytes' ELSE typeof(cursor) END, "
    "CAST(cursor AS BLOB), "
    "(SELECT CAST(detail AS BLOB) FROM entry WHERE entry.position = kept.position AND entry.run_number = kept.run_number "
    "AND entry.stage_number = kept.stage_number) FROM stage_cursor AS kept"
)
_EVERY_LOST: Final = (
    "SELECT position, CAST(detail AS BLOB) FROM run_stage CROSS JOIN entry "
    f"ON entry.position = {RUN_STAGE.last('run_stage', 'last.position')} WHERE detail IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM stage_cursor AS kept WHERE kept.run_number = run_stage.run_number "
    "AND kept.stage_number = run_stage.stage_number AND kept.position = entry.position)"
)
_KEPT: Final = {False: _EVERY_KEPT, True: f"{_EVERY_KEPT} WHERE run_number = {RUN_NUMBER}"}
_LOST: Final = {False: _EVERY_LOST, True: f"{_EVERY_LOST} AND run_stage.run_number = {RUN_NUMBER}"}

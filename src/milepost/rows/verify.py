"""What a verification recomputes: every row as it is, and what rows are found by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost.mileposts import APART, BOUND, RUN, RUN_STAGE, entries_so_far
from milepost.rows.columns import FIELDS, FIELDS_WITH_BYTES, OWN_SIGNATURE, PAGE, advancing, at_one_moment, tip

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is kept beside the rows, at one moment: names by number, and which stages each run has (as numbers)."""

    entries: int
    signature: bytes
    run_names: dict[int, str]
    stage_names: dict[int, str]
    lanes: set[tuple[Any, ...]]


def snapshot(connection: apsw.Connection) -> Snapshot:
    """What is kept while the last position was `entries`, and the chain's signature what that row says."""
    return at_one_moment(connection, _snapshot)


def _snapshot(connection: apsw.Connection) -> Snapshot:
    lanes: list[tuple[Any, ...]] = connection.execute("SELECT run_number, stage_number FROM lane").fetchall()
    return Snapshot(*tip(connection), _run_names(connection), _stage_names(connection), set(lanes))


def snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    """A snapshot, and how many entries a run had at that moment."""
    return at_one_moment(connection, _snapshot_of_run, run_id)


def _snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    return _snapshot(connection), entries_of_run(connection, run_id)


def _run_names(connection: apsw.Connection) -> dict[int, str]:
    """The run_id of every run number; what is not UTF-8 comes with lone surrogates, and so is no valid name."""
    found = connection.execute("SELECT run_number, CAST(run_id AS BLOB) FROM run")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def _stage_names(connection: apsw.Connection) -> dict[int, str]:
    """The stage of every stage number, as `_run_names`."""
    found = connection.execute("SELECT stage_number, CAST(stage AS BLOB) FROM stage")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def empty_lanes(connection: apsw.Connection) -> list[tuple[Any, ...]]:
    """(run_number, stage_number) of every lane without an entry; no append leaves one."""
    return connection.execute(_EMPTY_LANES).fetchall()


_EMPTY_LANES: Final = f"SELECT run_number, stage_number FROM lane WHERE {RUN_STAGE.milepost('lane')} IS NULL"


class Before(NamedTuple):
    """
    How far a run, and a stage of it, had come before a position of the chain; None for what had not begun.

    Attributes:
        run_signature: The run's own chain.
        sequence: The stage's last sequence in the run.
        milepost: The position of its last milepost.
        entries: How many entries it had.
    """

    run_signature: bytes | None
    sequence: int | None
    milepost: int | None
    entries: int | None


def before(connection: apsw.Connection, position: int, run_number: int, stage_number: int) -> Before:
    """How far a run, and a stage of it, had come before a position."""
    return Before(*connection.execute(_BEFORE, (run_number, stage_number, position)).get)


# Of its mileposts before the position, a stage's last one has the highest sequence: the index gives it behind those that
# stand at the position or later, which a walk from there on reads anyway. By run, it would stand behind those of all stages.
_BEFORE: Final = (
    f"SELECT (SELECT {OWN_SIGNATURE} FROM entry AS last WHERE last.position <= "
    f"min(?3 - 1, {RUN.milepost(BOUND, 'AND post.position < ?3')} + {APART - 1}) AND last.run_number = ?1 "
    "ORDER BY last.position DESC LIMIT 1), "
    f"(SELECT last.sequence FROM entry AS last WHERE last.position <= min(?3 - 1, post.position + {APART - 1}) "
    f"AND {RUN_STAGE.equal('last', BOUND)} ORDER BY last.position DESC LIMIT 1), "
    "post.position, post.milepost + (SELECT count(*) FROM entry AS behind WHERE behind.position "
    f"BETWEEN post.position + 1 AND min(post.position + {APART - 1}, ?3 - 1) AND {RUN_STAGE.equal('behind', BOUND)}) "
    f"FROM (SELECT 1) LEFT JOIN entry AS post ON post.position = {RUN_STAGE.milepost(BOUND, 'AND post.position < ?3')}"
)


def stray_positions(connection: apsw.Connection) -> list[int]:
    """Positions that no append gives, below 1: the first hundred."""
    return [row[0] for row in connection.execute("SELECT position FROM entry WHERE position < 1 LIMIT 100")]


def links(connection: apsw.Connection, after: int, through: int) -> list[tuple[Any, ...]]:
    """One page of numbered rows above `after`, as they are, whatever is in them."""
    try:
        found = connection.execute(_LINKS, (after, through, PAGE)).fetchall()
    except UnicodeDecodeError:
        found = _with_any_text(connection.execute(_ANY_LINKS, (after, through, PAGE)))
    return advancing(found, after)


def _whole(fields: str) -> str:
    """All columns of a row, with its fields as they are or with the key as bytes."""
    return (
        f"SELECT entry.position, entry.run_number, entry.stage_number, {fields}, entry.signature, entry.run_signature, "
        "entry.milepost"
    )


_WHOLE: Final = _whole(FIELDS)
_WHOLE_WITH_BYTES: Final = _whole(FIELDS_WITH_BYTES)
_BEHIND: Final = "FROM entry WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
_LINKS: Final = f"{_WHOLE} {_BEHIND}"
_ANY_LINKS: Final = f"{_WHOLE_WITH_BYTES} {_BEHIND}"


def links_of_run(connection: apsw.Connection, run_id: str, after: int, through: int) -> list[tuple[Any, ...]]:
    """One page of numbered rows of one run above `after`, each with the signature of the row before it in the chain."""
    bindings = run_id, after, through, after + 2 - APART, through, PAGE
    try:
        found = connection.execute(_LINKS_OF_RUN, bindings).fetchall()
    except UnicodeDecodeError:
        found = _with_any_text(connection.execute(_ANY_LINKS_OF_RUN, bindings))
    return advancing(found, after)


_BEHIND_IN_RUN: Final = (
    "(SELECT signature FROM entry AS before WHERE before.position = entry.position - 1) "
    f"FROM {RUN.given} CROSS JOIN {RUN.entries('given', '? + 1', '?')} WHERE post.position BETWEEN ? AND ? "
    "ORDER BY post.position, entry.position LIMIT ?"
)
_LINKS_OF_RUN: Final = f"{_WHOLE}, {_BEHIND_IN_RUN}"
_ANY_LINKS_OF_RUN: Final = f"{_WHOLE_WITH_BYTES}, {_BEHIND_IN_RUN}"


def _with_any_text(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows whose key came as bytes: what is not UTF-8 gets lone surrogates, which no recorded key has."""
    return [(*row[:6], row[6] and row[6].decode(errors="surrogateescape"), *row[7:]) for row in found]


def entries_of_run(connection: apsw.Connection, run_id: str) -> int:
    """How many entries a run has."""
    entries: int | None = connection.execute(_ENTRIES_OF_RUN, (run_id,)).get
    return entries or 0


_ENTRIES_OF_RUN: Final = (
    f"SELECT sum({entries_so_far('lane')}) FROM {RUN.given} CROSS JOIN lane ON lane.run_number = given.run_number"
)

"""Look up the end of the chain and single checkpoints, each through an index."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost.checkpoint import MAX_INTEGER, Checkpoint, ResumePoint, Watermark
from milepost.mileposts import INTERVAL, RUN, RUN_NUMBER, RUN_STAGE, SCOPES, STAGE, STAGE_NUMBER, Scope, scope_of
from milepost.receipt import Head
from milepost.rows.columns import (
    FIELDS,
    NAMED,
    NAMES,
    OWN_SIGNATURE,
    OWN_STAGE,
    RUN_ID,
    STAGE_NAME,
    Statements,
    at_one_moment,
    bindings_for,
    chain_base,
    checked_cursor,
    checked_detail,
    checkpoint,
    digits,
    tip,
)
from milepost.signature import EMPTY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.cursors import Stored


def head(connection: apsw.Connection) -> Head:
    """Return how many entries the chain has, and its signature."""
    position, signature = tip(connection)
    return Head(position, digits(signature))


def base(connection: apsw.Connection) -> Head:
    """Return where the chain in this file begins."""
    position, signature = chain_base(connection)
    return Head(position, digits(signature))


def signature(connection: apsw.Connection) -> str:
    """Return the chain's signature, 64 hex digits."""
    return digits(tip(connection)[1])


def signature_at(connection: Statements, position: int) -> bytes | None:
    """Return the signature (32 bytes) of the chain at an entry or at the base, or None if the position is neither."""
    base = chain_base(connection)
    if position == base.position:
        return base.signature
    signature: bytes | None = connection.execute("SELECT signature FROM entry WHERE position = ?", (position,)).get
    return signature


def run_signature(connection: apsw.Connection, run_id: str) -> str:
    """Look up the signature of the chain over one run's own entries, 64 hex digits."""
    signature: bytes | None = connection.execute(_RUN_SIGNATURE, (run_id,)).get
    return digits(EMPTY if signature is None else signature)


_RUN_SIGNATURE: Final = f"SELECT {RUN.last('given', OWN_SIGNATURE)} FROM {RUN.given}"


def has_run(connection: Statements, run_id: str) -> bool:
    """Return whether anything was ever recorded of a run."""
    return connection.execute("SELECT 1 FROM run WHERE run_id = ?", (run_id,)).get is not None


def latest(connection: Statements, run_id: str | None, stage: str | None, as_of_ms: int | None = None) -> Checkpoint | None:
    """Return the last checkpoint with a wall clock up to `as_of_ms`, in any run and stage or in the given ones."""
    scope = scope_of(run_id, stage)
    if as_of_ms is None:
        row = connection.execute(_LATEST[scope], bindings_for(run_id, stage)).get
    else:
        row = connection.execute(_LATEST_AS_OF[scope], (*bindings_for(run_id, stage), as_of_ms)).get
    if row is None:
        return None
    found_run, found_stage, sequence, offset, event_time_ms, key, at_ms = row
    return checkpoint(run_id or found_run, stage or found_stage, sequence, offset, event_time_ms, key, at_ms)


# A given name is not looked up again.
_COLUMNS: Final[dict[Scope | None, str]] = {
    None: f"{RUN_ID}, {STAGE_NAME}, {FIELDS}",
    RUN: f"NULL, {STAGE_NAME}, {FIELDS}",
    STAGE: f"{RUN_ID}, NULL, {FIELDS}",
    RUN_STAGE: f"NULL, NULL, {FIELDS}",
}
_LATEST: Final[dict[Scope | None, str]] = {
    None: f"SELECT run_id, stage, {FIELDS} FROM entry {NAMES} WHERE position > 0 ORDER BY position DESC LIMIT 1",
    **{scope: f"SELECT {_COLUMNS[scope]} FROM {scope.last_given()}" for scope in SCOPES},
}
_LATEST_AS_OF: Final[dict[Scope | None, str]] = {
    None: f"SELECT {_COLUMNS[None]} FROM entry WHERE position > 0 AND at_ms <= ? ORDER BY position DESC LIMIT 1",
    **{
        scope: f"SELECT {_COLUMNS[scope]} FROM {scope.given} CROSS JOIN {scope.entries('given')} WHERE entry.at_ms <= ? "
        f"ORDER BY post.{scope.order} DESC, entry.position DESC LIMIT 1"
        for scope in SCOPES
    },
}


def get(connection: apsw.Connection, run_id: str, stage: str, sequence: int) -> Checkpoint | None:
    """Return the checkpoint with one sequence, or None."""
    row = connection.execute(_GET, (run_id, stage, sequence, sequence)).get
    if row is None or row[0] != sequence:
        return None
    _, offset, event_time_ms, key, at_ms = row
    return checkpoint(run_id, stage, sequence, offset, event_time_ms, key, at_ms)


# Find the last row whose sequence is not above the wanted one: the last such milepost, or a row close after it.
_GET: Final = (
    f"SELECT {FIELDS} FROM {RUN_STAGE.given} CROSS JOIN entry ON entry.position <= "
    f"{RUN_STAGE.milepost('given', 'AND post.sequence <= ?')} + {INTERVAL - 1} AND entry.sequence <= ? "
    f"AND {RUN_STAGE.equal('entry', 'given')} ORDER BY entry.position DESC LIMIT 1"
)


def find(connection: apsw.Connection, idempotency_key: str, run_id: str | None, stage: str | None) -> list[Checkpoint]:
    """Return the checkpoints with one key, in chain order: at most one in each stage of each run."""
    bindings = idempotency_key, *bindings_for(run_id, stage)
    found: list[tuple[Any, ...]] = connection.execute(_FIND[scope_of(run_id, stage)], bindings).fetchall()
    found.sort()  # by position, the first column; the index has them by run and stage
    return [checkpoint(*fields) for _, *fields in found]


_WITH_KEY: Final = (
    f"SELECT position, run_id, stage, {FIELDS} FROM entry INDEXED BY entry_by_key {NAMES} WHERE idempotency_key = ?"
)
_FIND: Final[dict[Scope | None, str]] = {
    None: _WITH_KEY,
    RUN: f"{_WITH_KEY} AND run_number = {RUN_NUMBER}",
    STAGE: f"{_WITH_KEY} AND stage_number = {STAGE_NUMBER}",
    RUN_STAGE: f"{_WITH_KEY} AND run_number = {RUN_NUMBER} AND stage_number = {STAGE_NUMBER}",
}


def resume_points(connection: apsw.Connection, run_id: str | None, as_of_ms: int | None = None) -> dict[str, ResumePoint]:
    """
    Return where every stage starts again: at its last checkpoint with a wall clock up to `as_of_ms`, in any run or in one.

    The stages are in the order of their first appearance.
    """
    found = connection.execute(
        _RESUME_POINTS[run_id is not None], (*bindings_for(run_id, None), MAX_INTEGER if as_of_ms is None else as_of_ms)
    )
    entries = [checkpoint(*row) for row in found]
    return {entry.stage: ResumePoint(entry.run_id, entry.stage, entry.sequence, entry.watermark) for entry in entries}


def _last_as_of(scope: Scope, of: str) -> str:
    """Return the position of the last row with a wall clock up to a given time, as SQL."""
    return (
        f"(SELECT entry.position FROM {scope.entries(of)} WHERE entry.at_ms <= ? "
        f"ORDER BY post.{scope.order} DESC, entry.position DESC LIMIT 1)"
    )


_RESUME_POINTS: Final = {
    False: f"{NAMED} FROM stage AS every CROSS JOIN entry ON entry.position = {_last_as_of(STAGE, 'every')} "
    f"WHERE every.stage_number > 0 AND every.stage {OWN_STAGE} ORDER BY every.stage_number",
    True: f"{NAMED} FROM {RUN.given} CROSS JOIN run_stage ON run_stage.run_number = given.run_number "
    "CROSS JOIN stage ON stage.stage_number = run_stage.stage_number "
    f"CROSS JOIN entry ON entry.position = {_last_as_of(RUN_STAGE, 'run_stage')} WHERE stage.stage {OWN_STAGE} "
    "ORDER BY run_stage.stage_number",
}


def cursor(connection: apsw.Connection, run_id: str | None, stage: str) -> Stored | None:
    """Return the stored cursor of a stage's last checkpoint, in any run or in one, or None if it has none."""
    stored: Stored | None = connection.execute(_CURSOR[scope_of(run_id, stage)], bindings_for(run_id, stage)).get
    return stored


_CURSOR: Final[dict[Scope | None, str]] = {
    scope: "SELECT (SELECT cursor FROM stage_cursor AS kept WHERE kept.run_number = entry.run_number "
    f"AND kept.stage_number = entry.stage_number AND kept.position = entry.position) FROM {scope.last_given()}"
    for scope in (STAGE, RUN_STAGE)
}


class ResumeState(NamedTuple):
    """Where a stage of a run stands: its last checkpoint, and what belongs to it."""

    watermark: Watermark
    detail: str | None
    cursor: Stored | None


def resume_state(connection: Statements, run_id: str, stage: str) -> ResumeState | None:
    """Return where a stage of a run stands, or None if it has no checkpoint."""
    row: tuple[Any, ...] | None = connection.execute(_RESUME_STATE, (run_id, stage)).get
    if row is None:
        return None
    offset, event_time_ms, detail, cursor = row
    if type(offset) is not int or type(event_time_ms) is not int:  # only in a damaged file
        raise apsw.CorruptError(f"the last checkpoint of stage {stage!a} of run {run_id!a} is not as an append leaves it")
    return ResumeState(Watermark(offset, event_time_ms), checked_detail(detail), checked_cursor(cursor))


_RESUME_STATE: Final = (
    "SELECT entry.offset, entry.event_time_ms, entry.detail, (SELECT cursor FROM stage_cursor AS kept "
    "WHERE kept.run_number = entry.run_number AND kept.stage_number = entry.stage_number "
    f"AND kept.position = entry.position) FROM {RUN_STAGE.last_given()}"
)


def recorded_keys(connection: Statements, run_id: str, stage: str, keys: Sequence[str]) -> set[str]:
    """Return those of some keys that a stage of a run has recorded."""
    found = connection.execute(_RECORDED_KEYS, (json.dumps(keys, ensure_ascii=False), run_id, stage))
    return {key for (key,) in found}


# CROSS JOIN: the keys first, and a search for each.
_RECORDED_KEYS: Final = (
    "SELECT entry.idempotency_key FROM json_each(?) AS given CROSS JOIN entry INDEXED BY entry_by_key "
    f"ON entry.idempotency_key = given.value AND entry.run_number = {RUN_NUMBER} AND entry.stage_number = {STAGE_NUMBER}"
)


def kept_as_of_now(connection: apsw.Connection, run_id: str | None) -> tuple[int, dict[int, Stored]]:
    """Return the last position, and the cursors kept at that moment, of all runs or of one, by position."""
    return at_one_moment(connection, _kept_as_of_now, run_id)


def _kept_as_of_now(connection: apsw.Connection, run_id: str | None) -> tuple[int, dict[int, Stored]]:
    found = connection.execute(_KEPT[run_id is not None], bindings_for(run_id, None))
    return tip(connection)[0], dict(found)


_EVERY_KEPT: Final = (
    "SELECT position, cursor FROM stage_cursor AS kept CROSS JOIN entry USING (run_number, stage_number, position)"
)
_KEPT: Final = {False: _EVERY_KEPT, True: f"{_EVERY_KEPT} WHERE kept.run_number = {RUN_NUMBER}"}

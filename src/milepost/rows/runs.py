"""Look up how the attempts of a run began and ended, and where another run can start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost import details
from milepost.checkpoint import MAX_INTEGER, Checkpoint
from milepost.mileposts import RUN, RUN_STAGE
from milepost.rows.columns import FIELDS, Statements, checked_cursor, checked_detail, checkpoint, digits

if TYPE_CHECKING:
    from milepost.cursors import Stored


class Attempt(NamedTuple):
    """An entry about a run's attempts: which attempt it was, and whether it began or how it ended."""

    attempt: int
    sequence: int
    state: str
    at_ms: int
    signature: str


def last_attempt(connection: Statements, run_id: str) -> Attempt | None:
    """Return the last entry about a run's attempts, or None if there was none."""
    row: tuple[Any, ...] | None = connection.execute(_LAST_ATTEMPT, (run_id, details.STAGE_OF_RUNS)).get
    if row is None:
        return None
    attempt, sequence, detail, at_ms, signature = row
    return Attempt(attempt, sequence, details.of_attempt(detail)[0], at_ms, digits(signature))


_LAST_ATTEMPT: Final = (
    f"SELECT entry.offset, entry.sequence, entry.detail, entry.at_ms, entry.signature FROM {RUN_STAGE.last_given()}"
)


class BranchPoint(NamedTuple):
    """The checkpoint where a stage of a run stood."""

    position: int
    entry: Checkpoint
    detail: str | None
    cursor: Stored | None


def archived_stages(connection: Statements, run_id: str, stage: str | None) -> list[str]:
    """Return the stages of a run, or the one of this name, whose first entries are in an archive, without milepost's own."""
    found: list[tuple[Any, ...]] = connection.execute(_ARCHIVED_STAGES, (run_id, stage)).fetchall()
    return [name for (name,) in found]


_ARCHIVED_STAGES: Final = (
    f"SELECT stage.stage FROM {RUN.given} CROSS JOIN run_stage ON run_stage.run_number = given.run_number "
    "CROSS JOIN stage ON stage.stage_number = run_stage.stage_number "
    f"WHERE stage.stage NOT GLOB '{details.RESERVED}*' AND (?2 IS NULL OR stage.stage = ?2) "
    f"AND {RUN_STAGE.milepost('run_stage', column='entries_so_far', last=False)} > 1 ORDER BY run_stage.stage_number"
)


def branch_points(connection: Statements, run_id: str, stage: str | None, as_of_ms: int | None) -> list[BranchPoint]:
    """Return where each stage of a run stood at a time, or one of them. Leave out milepost's own stages."""
    bindings = (run_id, MAX_INTEGER if as_of_ms is None else as_of_ms, stage)
    found: list[tuple[Any, ...]] = connection.execute(_BRANCH_POINTS, bindings).fetchall()
    return [
        BranchPoint(position, checkpoint(run_id, *fields), checked_detail(detail), checked_cursor(cursor))
        for position, detail, cursor, *fields in found
    ]


_AS_OF: Final = (
    f"(SELECT entry.position FROM {RUN_STAGE.entries('run_stage')} WHERE entry.at_ms <= ?2 "
    "ORDER BY post.sequence DESC, entry.position DESC LIMIT 1)"
)
_BRANCH_POINTS: Final = (
    "SELECT entry.position, entry.detail, (SELECT cursor FROM stage_cursor AS kept WHERE kept.run_number = entry.run_number "
    f"AND kept.stage_number = entry.stage_number AND kept.position = entry.position), stage.stage, {FIELDS} "
    f"FROM {RUN.given} CROSS JOIN run_stage ON run_stage.run_number = given.run_number "
    f"CROSS JOIN entry ON entry.position = {_AS_OF} CROSS JOIN stage ON stage.stage_number = run_stage.stage_number "
    f"WHERE stage.stage NOT GLOB '{details.RESERVED}*' AND (?3 IS NULL OR stage.stage = ?3) ORDER BY run_stage.stage_number"
)

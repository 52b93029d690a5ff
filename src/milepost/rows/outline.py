"""Find the few checkpoints of a stage of a run that a picture can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apsw

from milepost import details
from milepost.mileposts import BOUND, RUN_STAGE
from milepost.rows.columns import OWN_STAGE


@dataclass(frozen=True, slots=True)
class RunStage:
    """A stage of a run, and how many checkpoints it has."""

    run_number: int
    stage_number: int
    run_id: str
    stage: str
    entries: int


def _typed(row: tuple[Any, ...] | None, *types: type) -> tuple[Any, ...]:
    """Return a row if its values have these types. A damaged file may have anything in their place."""
    if row is None or tuple(map(type, row)) != types:
        raise apsw.CorruptError(f"a row is {row!a:.200}, which no append writes")
    return row


def count_of_runs(connection: apsw.Connection) -> int:
    """Return how many runs there are, without a run that has only milepost's own entries."""
    number: int | None = connection.execute(_COUNT_OF_RUNS).get
    return number or 0


_COUNT_OF_RUNS: Final = (
    f"SELECT max(run_number) - (SELECT count(*) FROM run WHERE run_id = '{details.RUN_OF_MILEPOST}' AND NOT EXISTS "
    "(SELECT 1 FROM run_stage CROSS JOIN stage USING (stage_number) "
    f"WHERE run_stage.run_number = run.run_number AND (stage {OWN_STAGE} OR stage = '{details.STAGE_OF_RUNS}'))) FROM run"
)


def ends_of_run_stage(connection: apsw.Connection, run_stage: RunStage) -> list[tuple[int, ...]]:
    """Return the sequence, offset, event_time_ms and at_ms of the first and the last checkpoint of a run_stage."""
    numbers = run_stage.run_number, run_stage.stage_number
    found = [connection.execute(statement, numbers).get for statement in (_FIRST_OF_RUN_STAGE, _LAST_OF_RUN_STAGE)]
    return [_typed(row, int, int, int, int) for row in found]


def between_in_run_stage(connection: apsw.Connection, run_stage: RunStage, low: int, high: int) -> tuple[int, ...] | None:
    """Return the same values of a checkpoint between two sequences, from about the middle, or None if there is none."""
    numbers, middle = (run_stage.run_number, run_stage.stage_number), (low + high) // 2
    if middle == low:
        return None
    row: tuple[Any, ...] | None = connection.execute(_FROM_MIDDLE, (*numbers, middle, high - 1)).get
    if row is None:
        row = connection.execute(_BELOW_MIDDLE, (*numbers, low + 1, middle - 1)).get
    return row and _typed(row, int, int, int, int)


_OF_RUN_STAGE: Final = (
    f"SELECT entry.sequence, entry.offset, entry.event_time_ms, entry.at_ms FROM {RUN_STAGE.entries(BOUND)}"
)
_MILEPOST_BELOW: Final = RUN_STAGE.milepost(BOUND, "AND post.sequence <= ?3", column="sequence")
_FIRST_OF_RUN_STAGE: Final = f"{_OF_RUN_STAGE} ORDER BY post.sequence, entry.position LIMIT 1"
_LAST_OF_RUN_STAGE: Final = f"{_OF_RUN_STAGE} ORDER BY post.sequence DESC, entry.position DESC LIMIT 1"
# Begin at the last milepost whose sequence is not above the least wanted one.
_BETWEEN: Final = (
    f"{_OF_RUN_STAGE} WHERE entry.sequence BETWEEN ?3 AND ?4 AND post.sequence <= ?4 AND post.sequence >= "
    f"ifnull({_MILEPOST_BELOW}, 0)"
)
_FROM_MIDDLE: Final = f"{_BETWEEN} ORDER BY post.sequence, entry.position LIMIT 1"
_BELOW_MIDDLE: Final = f"{_BETWEEN} ORDER BY post.sequence DESC, entry.position DESC LIMIT 1"

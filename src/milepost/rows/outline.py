"""Find the few checkpoints of a stage of a run that a picture can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw

from milepost import details
from milepost.checkpoint import MAX_INTEGER
from milepost.mileposts import BOUND, INTERVAL, RUN, RUN_STAGE
from milepost.rows.columns import OWN_STAGE, checked_detail


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


def ends_of_run_stage(connection: apsw.Connection, run_number: int, stage_number: int) -> list[tuple[int, ...]]:
    """Sequence, offset, event_time_ms and at_ms of the first and of the last checkpoint of a run_stage."""
    numbers = run_number, stage_number
    found = [connection.execute(statement, numbers).get for statement in (_FIRST_OF_RUN_STAGE, _LAST_OF_RUN_STAGE)]
    return [_typed(row, int, int, int, int) for row in found]


def between_in_run_stage(
    connection: apsw.Connection, run_number: int, stage_number: int, low: int, high: int
) -> tuple[int, ...] | None:
    """The same of a checkpoint of a run_stage between two sequences, from about the middle, or None if there is none."""
    numbers, middle = (run_number, stage_number), (low + high) // 2
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


def entries_through(connection: apsw.Connection, run_number: int, stage_number: int, sequence: int) -> int:
    """How many checkpoints a run_stage has up to a sequence, and with it."""
    row = connection.execute(_ENTRIES_THROUGH, (run_number, stage_number, sequence)).get
    return 0 if row is None else _typed((row,), int)[0]


_ENTRIES_THROUGH: Final = (
    "SELECT post.entries_so_far + (SELECT count(*) FROM entry AS behind WHERE behind.position "
    f"BETWEEN post.position + 1 AND post.position + {INTERVAL - 1} AND {RUN_STAGE.equal('behind', BOUND)} "
    f"AND behind.sequence <= ?3) FROM entry AS post INDEXED BY entry_by_sequence WHERE {RUN_STAGE.equal('post', BOUND)} "
    "AND post.entries_so_far IS NOT NULL AND post.sequence <= ?3 ORDER BY post.sequence DESC LIMIT 1"
)


def positions(connection: apsw.Connection) -> tuple[int, int]:
    """The positions of the first and of the last entry that is there; 1 and 0 where there is none."""
    least, most = connection.execute(_POSITIONS).get
    return (1, 0) if least is None else (least, most)


_POSITIONS: Final = (
    "SELECT (SELECT position FROM entry WHERE position > 0 ORDER BY position LIMIT 1), (SELECT max(position) FROM entry)"
)


def at_position(connection: apsw.Connection, position: int) -> int:
    """The wall clock of the first entry that is not before a position."""
    row = connection.execute("SELECT at_ms FROM entry WHERE position >= ? ORDER BY position LIMIT 1", (position,)).get
    return int(_typed((row,), int)[0])


def beginning_of_run(connection: apsw.Connection, run_number: int) -> tuple[int, int] | None:
    """Position and wall clock of the first entry of a run."""
    row: tuple[Any, ...] | None = connection.execute(_BEGINNING_OF_RUN, (run_number,)).get
    return None if row is None else _pair(row)


def end_of_run(connection: apsw.Connection, run_number: int, before: int = MAX_INTEGER) -> tuple[int, int] | None:
    """Position and wall clock of the last entry of a run before a position."""
    row: tuple[Any, ...] | None = connection.execute(_END_OF_RUN, (run_number, before)).get
    return None if row is None else _pair(row)


def _pair(row: tuple[Any, ...]) -> tuple[int, int]:
    position, at_ms = _typed(row, int, int)
    return position, at_ms


_OF_RUN: Final = {"run_number": "?1"}
_BEGINNING_OF_RUN: Final = (
    "SELECT position, at_ms FROM entry INDEXED BY entry_by_run WHERE run_number = ?1 AND entries_so_far IS NOT NULL "
    "ORDER BY position LIMIT 1"
)
_END_OF_RUN: Final = (
    "SELECT last.position, last.at_ms FROM entry AS last WHERE last.position <= "
    f"min(?2 - 1, {RUN.milepost(_OF_RUN, 'AND post.position < ?2')} + {INTERVAL - 1}) AND last.run_number = ?1 "
    "ORDER BY last.position DESC LIMIT 1"
)


class AttemptRow(NamedTuple):
    """What is recorded when an attempt of a run begins, or ends."""

    position: int
    attempt: int
    at_ms: int
    detail: str | None


def attempt_rows(connection: apsw.Connection, run_number: int, number: int) -> list[AttemptRow]:
    """The last rows of the attempts of a run, at most so many, in the order of the chain."""
    stage_number = connection.execute("SELECT stage_number FROM stage WHERE stage = ?", (details.STAGE_OF_RUNS,)).get
    found = connection.execute(_ATTEMPT_ROWS, (run_number, stage_number, number)).fetchall()
    for row in found:
        _typed(row[:3], int, int, int)
        checked_detail(row[3])
    return [AttemptRow(*row) for row in reversed(found)]


_ATTEMPT_ROWS: Final = (
    f"SELECT entry.position, entry.offset, entry.at_ms, entry.detail FROM {RUN_STAGE.entries(BOUND)} "
    "ORDER BY post.sequence DESC, entry.position DESC LIMIT ?3"
)

"""
Choose the runs and stages that a picture shows if it has no room for all: those active last.

The number of rows read here is bounded, however many runs, stages and entries there are. No index leads from a stage of a
run to its last entry. So these queries read the end of the chain and the last mileposts of a run. They order older runs and
stages by first appearance, last first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost import details, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

RECENT: Final = 2000
"""How many entries at the end of the chain are read, and how many of the last mileposts of a run."""

COUNTED: Final = 10_000
"""How many stages of a run are counted at most."""

# No picture shows milepost's own stages, or a run that has no others. Among the entries read here they count as 0, which is
# no number of a run or of a stage. The number of entries read therefore has a bound even if there are no others.
_DRAWN: Final = f"stage_number NOT IN (SELECT stage_number FROM stage WHERE stage GLOB '{details.RESERVED}*')"
_RECENT_RUNS: Final = f"SELECT iif({_DRAWN}, run_number, 0) FROM entry WHERE position > 0 ORDER BY position DESC LIMIT ?"
_NEWEST_RUNS: Final = (
    f"SELECT iif(EXISTS (SELECT 1 FROM run_stage WHERE run_stage.run_number = run.run_number AND {_DRAWN}), run_number, 0) "
    "FROM run WHERE run_number > 0 ORDER BY run_number DESC LIMIT ?"
)
_RECENT_STAGES: Final = (
    f"SELECT iif({_DRAWN}, stage_number, 0) FROM entry INDEXED BY entry_by_run "
    "WHERE run_number = ? AND entries_so_far IS NOT NULL ORDER BY position DESC LIMIT ?"
)
_NEWEST_STAGES: Final = (
    f"SELECT stage_number FROM run_stage WHERE run_number = ? AND {_DRAWN} ORDER BY stage_number DESC LIMIT ?"
)
_COUNT_OF_STAGES: Final = f"SELECT count(*) FROM (SELECT 1 FROM run_stage WHERE run_number = ? AND {_DRAWN} LIMIT ?)"
_STAGES_OF_FILE: Final = (
    f"SELECT max(stage_number) - (SELECT count(*) FROM stage WHERE stage GLOB '{details.RESERVED}*') FROM stage"
)
_RUN_NUMBER: Final = "SELECT run_number FROM run WHERE run_id = ?"
_STAGE_NUMBER: Final = "SELECT stage_number FROM stage WHERE stage = ?"
_NAMES: Final = (
    "SELECT run_id, stage FROM run_stage CROSS JOIN run USING (run_number) CROSS JOIN stage USING (stage_number) "
    "WHERE run_stage.run_number = ? AND run_stage.stage_number = ?"
)


class Excerpt(NamedTuple):
    """
    A picture's choice of the stages of some runs.

    Attributes:
        run_stages: The stages of runs that it shows, in order of first appearance.
        rest: How many it leaves out.
        or_more: True if it may leave out even more.
        rest_of_run: How many it leaves out of each run, by run number; a run shown whole is not in it.
    """

    run_stages: list[rows.RunStage]
    rest: int
    or_more: bool
    rest_of_run: dict[int, int]


def same_stages(connection: apsw.Connection, run_id: str | None, runs: int, stages: int) -> Excerpt:
    """Choose up to `stages` stages, of one run or of the last `runs` runs, for a picture with a look for each stage."""
    run_numbers = _runs(connection, run_id, runs)
    chosen: dict[int, None] = {}
    for run_number in run_numbers:
        if len(chosen) < stages:
            chosen |= dict.fromkeys(_stages(connection, run_number, stages))
    shown = sorted(list(chosen)[:stages])
    pairs = [(run_number, stage_number) for run_number in sorted(run_numbers) for stage_number in shown]
    excerpt = _excerpt(connection, pairs, _counts(connection, run_numbers))
    if run_id is None and excerpt.rest:  # a stage of two runs is one stage; the numbers of stages have no gaps
        of_file = _integer(connection.execute(_STAGES_OF_FILE).get)
        return excerpt._replace(rest=of_file - len(shown), or_more=False)
    return excerpt


def of_each_run(connection: apsw.Connection, runs: int, run_stages: int) -> Excerpt:
    """Choose stages of the last `runs` runs, evenly from each, for a picture with a row for each stage of a run."""
    run_numbers = _runs(connection, None, runs)
    counts = _counts(connection, run_numbers)
    shares = dict.fromkeys(run_numbers, 0)
    left = min(run_stages, sum(counts.values()))
    while left:
        for run_number in run_numbers:
            if left and shares[run_number] < counts[run_number]:
                shares[run_number] += 1
                left -= 1
    pairs = [
        (run_number, stage_number)
        for run_number in sorted(run_numbers)
        for stage_number in sorted(_stages(connection, run_number, shares[run_number]))
    ]
    return _excerpt(connection, pairs, counts)


def stage_of_run(connection: apsw.Connection, run_id: str, stage: str) -> rows.RunStage | None:
    """Find a stage of a run by its names, or None if the run does not have it."""
    run_number = connection.execute(_RUN_NUMBER, (run_id,)).get
    return _run_stage(connection, run_number, connection.execute(_STAGE_NUMBER, (stage,)).get)


def _runs(connection: apsw.Connection, run_id: str | None, number: int) -> list[int]:
    """Return the numbers of the runs active last, last first, or the number of one run."""
    if run_id is not None:
        return _distinct([connection.execute(_RUN_NUMBER, (run_id,)).fetchall()], 1)
    recent = connection.execute(_RECENT_RUNS, (RECENT,)).fetchall()
    return _distinct([recent, connection.execute(_NEWEST_RUNS, (number,)).fetchall()], number)


def _stages(connection: apsw.Connection, run_number: int, number: int) -> list[int]:
    """
    Return the numbers of the stages of a run that were active last, last first.

    They are ordered by their last mileposts. The last entry of a stage is less than 40 positions behind its last milepost.
    """
    recent = connection.execute(_RECENT_STAGES, (run_number, RECENT)).fetchall()
    return _distinct([recent, connection.execute(_NEWEST_STAGES, (run_number, number)).fetchall()], number)


def _distinct(found: Iterable[list[tuple[Any, ...]]], number: int) -> list[int]:
    distinct = dict.fromkeys(value for each in found for (value,) in each)
    return [_integer(value) for value in distinct if value != 0][:number]


def _counts(connection: apsw.Connection, run_numbers: list[int]) -> dict[int, int]:
    """Count the stages of each of these runs, up to `COUNTED`."""
    return {number: _integer(connection.execute(_COUNT_OF_STAGES, (number, COUNTED)).get) for number in run_numbers}


def _excerpt(connection: apsw.Connection, pairs: list[tuple[int, int]], counts: dict[int, int]) -> Excerpt:
    found = [_run_stage(connection, run_number, stage_number) for run_number, stage_number in pairs]
    run_stages = [run_stage for run_stage in found if run_stage is not None]
    shown = Counter(run_stage.run_number for run_stage in run_stages)
    rest_of_run = {number: count - shown[number] for number, count in counts.items() if count > shown[number]}
    return Excerpt(run_stages, sum(rest_of_run.values()), COUNTED in counts.values(), rest_of_run)


def _run_stage(connection: apsw.Connection, run_number: int, stage_number: int) -> rows.RunStage | None:
    row: tuple[Any, ...] | None = connection.execute(_NAMES, (run_number, stage_number)).get
    if row is None:
        return None
    run_id, stage = row
    if type(run_id) is not str or type(stage) is not str:
        raise apsw.CorruptError(f"a name is {row!a:.200}, which no append writes")
    entries = _integer(rows.entries_of_run_stage(connection, run_number, stage_number))
    return rows.RunStage(run_number, stage_number, run_id, stage, entries)


def _integer(value: object) -> int:
    """Return a number, and refuse anything else that a damaged file may have in its place."""
    if type(value) is not int:
        raise apsw.CorruptError(f"a number is {value!a:.200}, which no append writes")
    return value

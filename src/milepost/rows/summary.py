"""Summarize a file, at a cost that grows with the number of runs and stages only."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

import apsw

from milepost import details
from milepost.checkpoint import Checkpoint, ResumePoint, Watermark
from milepost.mileposts import BOUND, RUN, RUN_STAGE, STAGE, entries_so_far
from milepost.receipt import Head
from milepost.rows.columns import (
    FIELDS,
    OWN_SIGNATURE,
    OWN_STAGE,
    RUN_ID,
    STAGE_NAME,
    at_one_moment,
    checkpoint,
    digits,
    is_branch,
    require,
)
from milepost.rows.lookup import head, latest, resume_points
from milepost.rows.outline import count_of_runs
from milepost.summary import LAST, RECENT, RUNS_SEARCHED, RunSummary, StageSummary


def runs(connection: apsw.Connection, limit: int = -1, *, newest_first: bool = False) -> list[RunSummary]:
    """Return the first `limit` runs, or all with -1, in the order of first appearance or newest first."""
    found: list[tuple[Any, ...]] = connection.execute(_RUNS[newest_first], (limit,)).fetchall()
    return [_run_summary(*row) for row in found]


def _run_summary(
    run_id: str,
    entries: int | None,
    stages: str,
    first_at_ms: int,
    last_at_ms: int,
    signature: object,
    records: int | None,
    attempts: int | None,
    said: str | None,
    said_at_ms: int,
    ends: int,
    began_at_ms: int | None,
    chain_entries: int | None,
    began_elsewhere: int | None,
    recorded_before: int | None,
) -> RunSummary:
    try:
        names = tuple(json.loads(stages))
    except ValueError as error:
        raise apsw.CorruptError(f"run {run_id!a} has a stage whose name is no text") from error
    require(signature, "run")
    summary = RunSummary(
        run_id, entries or 0, names, first_at_ms, last_at_ms, digits(signature),
        records=records or 0, chain_entries=chain_entries or 0, begins_here=not began_elsewhere,
    )  # fmt: skip
    if attempts is None:
        return summary
    state, exception = details.of_attempt(said)
    ended = state != details.BEGAN
    return replace(
        summary,
        state=state if ended else "open",
        attempts=attempts,
        killed=max(0, attempts - ends - (not ended)),  # an import may have counted attempts in any way
        began_at_ms=began_at_ms,
        ended_at_ms=said_at_ms if ended else None,
        error=exception,
        recorded_before=bool(recorded_before),
    )


_FIRST_AND_LAST_OF_RUN: Final = f"{RUN.milepost('run', column='at_ms', last=False)}, {RUN.last('run', 'last.at_ms')}"
_STAGES_OF_RUN: Final = (
    f"run_stage CROSS JOIN stage USING (stage_number) WHERE run_stage.run_number = run.run_number AND stage {OWN_STAGE}"
)
# Milepost's own run, such as that of an archive, is not shown. A pipeline's run has other stages, or attempts.
_SHOWN: Final = (
    f"NOT (run_id = '{details.RUN_OF_MILEPOST}' AND NOT EXISTS "
    "(SELECT 1 FROM run_stage CROSS JOIN stage USING (stage_number) "
    f"WHERE run_stage.run_number = run.run_number AND (stage {OWN_STAGE} OR stage = '{details.STAGE_OF_RUNS}')))"
)
_ATTEMPTS: Final = {"run_number": "run.run_number", "stage_number": "of_runs.stage_number"}
_FIRST_OF_STAGE: Final = {
    column: RUN_STAGE.milepost("run_stage", column=column, last=False) for column in ("sequence", "entries_so_far")
}
_FIRST_OF_RUN: Final = {
    column: RUN.milepost("run", column=column, last=False) for column in ("stage_number", "entries_so_far")
}
# Whether an archive has the beginning of a run. A stage says so whose first entry here counts others before it. But if the
# first entry of the run here is that of its first attempt, it says when the run began, and sequences from 1 on that the
# stage is no branch. A branch at sequence 1 looks the same. Whether that attempt's entry is the first of the run's own chain
# would tell, but to compute that takes the key of a keyed chain.
_BEGAN_HERE: Final = f"{_FIRST_OF_RUN['stage_number']} = of_runs.stage_number AND {_FIRST_OF_RUN['entries_so_far']} = 1"
_BEGAN_ELSEWHERE: Final = (
    f"(SELECT max({_FIRST_OF_STAGE['entries_so_far']} > 1 AND "
    f"iif({_BEGAN_HERE}, {_FIRST_OF_STAGE['sequence']} > {_FIRST_OF_STAGE['entries_so_far']}, TRUE)) "
    "FROM run_stage WHERE run_stage.run_number = run.run_number)"
)
# Whether the last entry before the first attempt is that of no branch.
_RECORDED_BEFORE: Final = RUN.last(
    "run", f"NOT {is_branch('last.detail')}", f"{RUN_STAGE.milepost(_ATTEMPTS, last=False)} - 1"
)
_WITH_ATTEMPTS: Final = f"run LEFT JOIN stage AS of_runs ON of_runs.stage = '{details.STAGE_OF_RUNS}'"
_BRANCHED: Final = is_branch(RUN_STAGE.milepost("run_stage", column="detail", last=False))
_BEGAN: Final = f"'attempt-' || attempt.offset || ':{details.BEGAN}'"
_EVERY_RUN: Final = (
    f"SELECT run_id, (SELECT sum({entries_so_far('run_stage')}) FROM {_STAGES_OF_RUN}), "
    f"(SELECT json_group_array(stage) FROM (SELECT stage FROM {_STAGES_OF_RUN} ORDER BY stage_number)), "
    f"{_FIRST_AND_LAST_OF_RUN}, {RUN.last('run', OWN_SIGNATURE)}, "
    f"(SELECT max({RUN_STAGE.last('run_stage', 'last.offset')} - "
    f"iif({_BRANCHED}, {RUN_STAGE.milepost('run_stage', column='offset', last=False)}, 0)) FROM {_STAGES_OF_RUN}), "
    f"attempt.offset, attempt.detail, attempt.at_ms, {entries_so_far(_ATTEMPTS)} - attempt.offset, "
    f"(SELECT at_ms FROM entry AS began INDEXED BY entry_by_key WHERE began.idempotency_key = {_BEGAN} "
    "AND began.run_number = run.run_number AND began.stage_number = of_runs.stage_number), "
    f"(SELECT sum({entries_so_far('run_stage')}) FROM run_stage WHERE run_stage.run_number = run.run_number), "
    f"{_BEGAN_ELSEWHERE}, {_RECORDED_BEFORE} FROM {_WITH_ATTEMPTS} "
    f"LEFT JOIN entry AS attempt ON attempt.position = {RUN_STAGE.last(_ATTEMPTS, 'last.position')} "
    f"WHERE run.run_number > 0 AND {_SHOWN} ORDER BY run.run_number"
)
_RUNS: Final = {False: f"{_EVERY_RUN} LIMIT ?", True: f"{_EVERY_RUN} DESC LIMIT ?"}


def stages(connection: apsw.Connection) -> list[StageSummary]:
    """Return every stage, in the order of first appearance."""
    return [StageSummary(*row) for row in connection.execute(_STAGES)]


_STAGES: Final = (
    f"SELECT stage, counted.entries, counted.runs, {STAGE.milepost('stage', column='at_ms', last=False)}, "
    f"{STAGE.last('stage', 'last.at_ms')} FROM stage "
    f"JOIN (SELECT stage_number, sum({entries_so_far('run_stage')}) AS entries, count(*) AS runs FROM run_stage "
    f"GROUP BY stage_number) AS counted USING (stage_number) WHERE stage {OWN_STAGE} ORDER BY stage_number"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """
    The contents of a file at one moment.

    Attributes:
        head: The head of the chain.
        first_at_ms: The wall clock of the first entry.
        last: The last entry that is not of an archive.
        runs: How many runs there are.
        spans: For each of the last runs, its run_id, and the wall clocks of its first and its last entry. If the first is in
            an archive, it is that of the run that appeared before it.
        last_runs: Summaries of the last runs, newest first.
        stages: For each stage, where it starts again, how many entries it has in that run, its first sequence there,
            (at_ms, offset) of its last checkpoints there, newest first, and whether the last attempt of that run has ended.
        recent: Of the last entries in chain order: position, run_id, stage, wall clock.
        foremost: Where the first stage of the last entry's run starts again.
    """

    head: Head
    first_at_ms: int | None
    last: Checkpoint | None
    runs: int
    spans: list[tuple[str, int, int]]
    last_runs: tuple[RunSummary, ...]
    stages: list[tuple[ResumePoint, int, int, list[tuple[int, int]], bool]]
    recent: list[tuple[int, str, str, int]]
    foremost: ResumePoint | None


def contents(connection: apsw.Connection, last_runs: int) -> Contents:
    """Return the contents of the file, with summaries of up to `last_runs` runs."""
    return at_one_moment(connection, _contents, last_runs)


def _contents(connection: apsw.Connection, last_runs: int) -> Contents:
    last = _last_of_pipeline(connection)
    spans: list[tuple[str, int, int]] = []
    found: list[tuple[Any, ...]] = connection.execute(_SPANS, (RUNS_SEARCHED,)).fetchall()
    for run_id, first_at_ms, last_at_ms, began_elsewhere in reversed(found):
        unknown = began_elsewhere and spans
        spans.append((run_id, spans[-1][1] if unknown else require(first_at_ms, "run"), last_at_ms))
    return Contents(
        head(connection),
        connection.execute("SELECT at_ms FROM entry WHERE position > 0 ORDER BY position LIMIT 1").get,
        last,
        count_of_runs(connection),
        spans,
        tuple(runs(connection, last_runs, newest_first=True)),
        _stage_points(connection),
        _recent(connection),
        next(iter(resume_points(connection, last.run_id).values()), None) if last else None,
    )


def _last_of_pipeline(connection: apsw.Connection) -> Checkpoint | None:
    last = latest(connection, None, None)
    if last is None or (last.run_id, last.stage) != (details.RUN_OF_MILEPOST, details.STAGE_OF_ARCHIVES):
        return last
    row = connection.execute(_LAST_OF_PIPELINE, (details.RUN_OF_MILEPOST, details.STAGE_OF_ARCHIVES)).get
    return None if row is None else checkpoint(*row)


_LAST_OF_PIPELINE: Final = (
    f"SELECT {RUN_ID}, {STAGE_NAME}, {FIELDS} FROM {RUN_STAGE.given} CROSS JOIN entry WHERE entry.position > 0 "
    f"AND NOT ({RUN_STAGE.equal('entry', 'given')}) ORDER BY entry.position DESC LIMIT 1"
)
_SPANS: Final = (
    f"SELECT run_id, {_FIRST_AND_LAST_OF_RUN}, {_BEGAN_ELSEWHERE} FROM {_WITH_ATTEMPTS} "
    f"WHERE run_number > 0 AND {_SHOWN} ORDER BY run_number DESC LIMIT ?"
)


def _recent(connection: apsw.Connection) -> list[tuple[int, str, str, int]]:
    found: list[Any] = connection.execute(_RECENT, (RECENT,)).fetchall()
    return found[::-1]


_RECENT: Final = (  # behind the base, as entries between those that stayed before it are in an archive
    "SELECT position, run_id, stage, at_ms FROM (SELECT * FROM entry WHERE position > "
    "ifnull((SELECT max(position) FROM chain_base), 0) ORDER BY position DESC LIMIT ?) "
    f"CROSS JOIN run USING (run_number) CROSS JOIN stage USING (stage_number) WHERE stage {OWN_STAGE} ORDER BY position DESC"
)


def _stage_points(connection: apsw.Connection) -> list[tuple[ResumePoint, int, int, list[tuple[int, int]], bool]]:
    found: list[tuple[Any, ...]] = connection.execute(_STAGE_POINTS).fetchall()
    return [
        (
            ResumePoint(require(run_id, "stage"), stage, sequence, Watermark(*mark)),
            require(entries, "stage"),
            first_sequence,
            _last_of_run_stage(connection, numbers),
            details.of_attempt(said)[0] != details.BEGAN,
        )
        for run_id, stage, sequence, *mark, entries, first_sequence, said, numbers in (
            (*row[:-2], row[-2:]) for row in found
        )
    ]


def _last_of_run_stage(connection: apsw.Connection, numbers: tuple[int, int]) -> list[tuple[int, int]]:
    found: list[Any] = connection.execute(_LAST_OF_RUN_STAGE, (*numbers, LAST)).fetchall()
    return found


_LAST_OF_RUN_STAGE: Final = (
    f"SELECT entry.at_ms, entry.offset FROM {RUN_STAGE.entries(BOUND)} "
    "ORDER BY post.sequence DESC, entry.position DESC LIMIT ?3"
)
# Where entries are in an archive, the first sequence is as if none were missing among those.
_FIRST: Final = {column: RUN_STAGE.milepost("entry", column=column, last=False) for column in ("sequence", "entries_so_far")}
_ATTEMPTS_THERE: Final = {"run_number": "entry.run_number", "stage_number": "of_runs.stage_number"}
_STAGE_POINTS: Final = (
    f"SELECT {RUN_ID}, every.stage, sequence, offset, event_time_ms, {entries_so_far('entry')}, "
    f"{_FIRST['sequence']} - {_FIRST['entries_so_far']} + 1, {RUN_STAGE.last(_ATTEMPTS_THERE, 'last.detail')}, "
    "entry.run_number, entry.stage_number "
    f"FROM stage AS every LEFT JOIN stage AS of_runs ON of_runs.stage = '{details.STAGE_OF_RUNS}' "
    f"CROSS JOIN entry ON entry.position = {STAGE.last('every', 'last.position')} "
    f"WHERE every.stage_number > 0 AND every.stage {OWN_STAGE} ORDER BY every.stage_number"
)

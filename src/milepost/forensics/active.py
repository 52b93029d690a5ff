"""
Which runs and stages a picture shows if it has no room for all.

Of runs it shows those that recorded something last. Of stages it shows the most telling: the caller says what that is.

The number of rows read here is bounded, however many runs, stages and entries there are. No index leads from a stage of a
run to its last entry. So these queries read the end of the chain and the last mileposts of a run. They order older runs and
stages by first appearance, last first. A span of time is searched for by halving, as if the clock had never jumped.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost import details, rows
from milepost.checkpoint import MAX_INTEGER
from milepost.forensics.outline import Mark
from milepost.mileposts import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from milepost.rows import Filter

RECENT: Final = 2000
"""How many entries at the end of the chain are read, and how many of the last mileposts of a run."""

COUNTED: Final = 10_000
"""Up to how many stages of a run are counted, and runs of a stage."""

LOOKED_AT: Final = 2000
"""Up to how many stages of runs are looked at for the most telling."""

_EVERY: Final = range(MAX_INTEGER)

# No picture shows milepost's own stages, or a run that has no others. Among the entries read here they count as 0, which is
# no number of a run or of a stage. The number of entries read therefore has a bound even if there are no others.
_DRAWN: Final = f"stage_number NOT IN (SELECT stage_number FROM stage WHERE stage GLOB '{details.RESERVED}*')"
_BEGUN: Final = (  # for a picture of attempts, which a run may have without a checkpoint
    f"stage_number NOT IN (SELECT stage_number FROM stage WHERE stage GLOB '{details.RESERVED}*' "
    f"AND stage <> '{details.STAGE_OF_RUNS}')"
)
_RECENT_RUNS: Final = {
    shown: f"SELECT iif({shown}, run_number, 0) FROM entry WHERE position > 0 AND position BETWEEN ? AND ? "
    "ORDER BY position DESC LIMIT ?"
    for shown in (_DRAWN, _BEGUN)
}
_NEWEST_RUNS: Final = {
    shown: "SELECT iif(EXISTS (SELECT 1 FROM run_stage WHERE run_stage.run_number = run.run_number "
    f"AND {shown}), run_number, 0) FROM run WHERE run_number BETWEEN 1 AND ? ORDER BY run_number DESC LIMIT ?"
    for shown in (_DRAWN, _BEGUN)
}
_RECENT_RUNS_OF_STAGE: Final = (
    "SELECT run_number FROM entry INDEXED BY entry_by_stage WHERE stage_number = ? AND entries_so_far IS NOT NULL "
    "AND position BETWEEN ? AND ? ORDER BY position DESC LIMIT ?"
)
_NEWEST_RUNS_OF_STAGE: Final = (
    "SELECT run_number FROM (SELECT run_number, stage_number FROM run_stage WHERE run_number BETWEEN ? AND ? "
    "ORDER BY run_number DESC LIMIT ?) WHERE stage_number = ? LIMIT ?"
)
_COUNT_OF_RUNS: Final = (
    f"SELECT count(DISTINCT iif(ifnull(stage_number = ?, {_DRAWN}), run_number, NULL)), count(*) FROM (SELECT run_number, "
    "stage_number FROM run_stage WHERE run_number BETWEEN ? AND ? ORDER BY run_number DESC LIMIT ?)"
)
_LAST_RUN: Final = "SELECT max(run_number) FROM run"
_RECENT_STAGES: Final = (
    f"SELECT iif({_DRAWN}, stage_number, 0) FROM entry INDEXED BY entry_by_run "
    "WHERE run_number = ? AND entries_so_far IS NOT NULL AND position <= ? ORDER BY position DESC LIMIT ?"
)
_NEWEST_STAGES: Final = (
    f"SELECT stage_number FROM run_stage WHERE run_number = ? AND {_DRAWN} ORDER BY stage_number DESC LIMIT ?"
)
_COUNT_OF_STAGES: Final = f"SELECT count(*) FROM (SELECT 1 FROM run_stage WHERE run_number = ? AND {_DRAWN} LIMIT ?)"
_STAGES_OF_FILE: Final = (
    f"SELECT max(stage_number) - (SELECT count(*) FROM stage WHERE stage GLOB '{details.RESERVED}*') FROM stage"
)
_RUN_NUMBER: Final = "SELECT run_number FROM run WHERE run_id = ?"
_STAGE_NUMBER: Final = f"SELECT stage_number FROM stage WHERE stage = ? AND {_DRAWN}"
_RUN_ID: Final = "SELECT run_id FROM run WHERE run_number = ?"
_NAMES: Final = (
    "SELECT run_id, stage FROM run_stage CROSS JOIN run USING (run_number) CROSS JOIN stage USING (stage_number) "
    "WHERE run_stage.run_number = ? AND run_stage.stage_number = ?"
)


Ends = tuple[Mark, Mark]
"""The first and the last mark of a stage of a run, in the span of time that is asked for."""

if TYPE_CHECKING:
    _Telling = Callable[[Mapping[int, Ends]], Mapping[int, float]]


def unusual(ends: Mapping[int, Ends]) -> Mapping[int, float]:
    """Stages are telling whose time differs from that of the others: the long ones, and one that stopped early."""
    took = {number: abs(last.at_ms - first.at_ms) for number, (first, last) in ends.items()}
    usual = median(took.values()) if took else 0
    return {number: abs(each - usual) for number, each in took.items()}


def behind(ends: Mapping[int, Ends]) -> Mapping[int, float]:
    """Stages are telling whose event time is far behind the clock; least so are those without event times."""
    return {
        number: last.at_ms - last.event_time_ms if last.event_time_ms else -MAX_INTEGER for number, (_, last) in ends.items()
    }


class Span(NamedTuple):
    """
    A stage of a run in a span of time.

    Attributes:
        run_stage: The stage, and how many checkpoints it has there.
        first: Its first mark there.
        last: Its last mark there.
    """

    run_stage: rows.RunStage
    first: Mark
    last: Mark


@dataclass(frozen=True, slots=True)
class Excerpt:
    """
    A picture's choice of the stages of some runs.

    Attributes:
        spans: The stages of runs that it shows, in order of first appearance.
        starts: When each run that it shows began, in ms since the epoch, by run number.
        runs: How many runs there are in all.
        more_runs: Whether there may be more than that.
        rest: How many stages it leaves out.
        or_more: Whether it may leave out more than that.
        rest_of_run: How many it leaves out of each run, by run number; a run shown whole is not in it.
    """

    spans: list[Span]
    starts: dict[int, int]
    runs: int = 0
    more_runs: bool = False
    rest: int = 0
    or_more: bool = False
    rest_of_run: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of the chain that a span of time is: positions, and the numbers of the runs that began in it."""

    least: int
    most: int
    first_run: int
    last_run: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The stages of a run that were looked at: those that have marks, those active last first; and how many it has."""

    ends: dict[int, Ends]
    count: int
    all_looked_at: bool

    def rest(self, shown: int, *, whole: bool) -> tuple[int, bool]:
        """How many are not shown, and whether there may be more."""
        if whole or self.all_looked_at:
            return (self.count if whole else len(self.ends)) - shown, self.count >= COUNTED
        return len(self.ends) - shown, True


def same_stages(connection: apsw.Connection, chosen: Filter, runs: int, stages: int, telling: _Telling = unusual) -> Excerpt:
    """At most `stages` stages, of one run or of the last `runs` runs, for a picture with a look for each stage."""
    window = _window(connection, chosen)
    found = _candidates(connection, chosen, window, _runs(connection, chosen, window, runs), stages)
    best = _most_telling(found, telling)
    shown = sorted(best[:stages])
    pairs = [(run_number, stage_number) for run_number in sorted(found) for stage_number in shown]
    excerpt = _excerpt(connection, chosen, window, pairs, found, runs)
    if chosen.run_id is None and chosen.stage is None and excerpt.rest:  # a stage of two runs is one stage
        if window.whole:  # the numbers of stages have no gaps
            rest, or_more = _integer(connection.execute(_STAGES_OF_FILE).get) - len(shown), False
        else:
            rest, or_more = len(best) - len(shown), excerpt.or_more
        return replace(excerpt, rest=rest, or_more=or_more)
    return excerpt


def of_each_run(
    connection: apsw.Connection, chosen: Filter, runs: int, run_stages: int, telling: _Telling = unusual
) -> Excerpt:
    """
    Stages of the last runs, as evenly as possible from each, for a picture with a row for each stage of a run.

    There are `runs` runs, or up to twice as many if there is room for three stages of each, or for all that it has.
    """
    window = _window(connection, chosen)
    run_numbers = _runs(connection, chosen, window, 2 * runs)
    found = _candidates(connection, chosen, window, run_numbers, run_stages)
    while len(found) > runs and sum(min(3, len(each.ends)) for each in found.values()) > run_stages:
        found.popitem()
    shares = dict.fromkeys(found, 0)
    left = min(run_stages, sum(len(each.ends) for each in found.values()))
    while left:
        for run_number, candidates in found.items():
            if left and shares[run_number] < len(candidates.ends):
                shares[run_number] += 1
                left -= 1
    best = _most_telling(found, telling)
    pairs = []
    for run_number in sorted(found):
        shown = [stage_number for stage_number in best if stage_number in found[run_number].ends][: shares[run_number]]
        pairs += [(run_number, stage_number) for stage_number in sorted(shown)]
    return _excerpt(connection, chosen, window, pairs, found, runs)


def _most_telling(found: dict[int, _Candidates], telling: _Telling) -> list[int]:
    """The numbers of the stages, the most telling of any run first: in each run the same, so that they can be compared."""
    best: dict[int, float] = {}
    for candidates in found.values():
        for stage_number, score in telling(candidates.ends).items():
            best[stage_number] = max(score, best.get(stage_number, score))
    return sorted(best, key=lambda number: -best[number])


def stage_of_run(connection: apsw.Connection, run_id: str, stage: str) -> Span | None:
    """A stage of a run by its names; None if the run does not have it."""
    run_number = connection.execute(_RUN_NUMBER, (run_id,)).get
    stage_number = connection.execute(_STAGE_NUMBER, (stage,)).get
    run_stage = _run_stage(connection, run_number, stage_number)
    return None if run_stage is None else Span(run_stage, *_marks(connection, run_number, stage_number))


def last_runs(connection: apsw.Connection, chosen: Filter, runs: int) -> tuple[list[tuple[int, str]], int, bool]:
    """
    The last runs, for a picture of attempts: also one that has no checkpoint.

    Returns:
        Number and name of each, in order of first appearance; how many runs there are in all; whether there may be more.
    """
    window = _window(connection, chosen)
    found = sorted(_runs(connection, chosen, window, runs, _BEGUN))
    named = [(number, _text(connection.execute(_RUN_ID, (number,)).get)) for number in found]
    return named, *_count_of_runs(connection, chosen, window, found, runs)


def ends_of_stage(connection: apsw.Connection, chosen: Filter, run_number: int) -> Ends | None:
    """The first and the last mark of the stage that is asked for, in a run."""
    return _ends(connection, chosen, run_number, connection.execute(_STAGE_NUMBER, (chosen.stage,)).get)


# The span of time that is asked for


def _window(connection: apsw.Connection, chosen: Filter) -> _Window:
    if not chosen.since_ms and chosen.until_ms == MAX_INTEGER:
        return _Window(1, MAX_INTEGER, 1, MAX_INTEGER, whole=True)
    at_ms, (least, most) = partial(rows.at_position, connection), rows.positions(connection)
    last_run = _integer(connection.execute(_LAST_RUN).get or 0)
    first = bisect_left(_EVERY, chosen.since_ms, least, most + 1, key=at_ms) if chosen.since_ms else least
    last = bisect_right(_EVERY, chosen.until_ms, least, most + 1, key=at_ms) - 1 if chosen.until_ms < MAX_INTEGER else most

    def begun(run_number: int) -> int:
        found = rows.beginning_of_run(connection, run_number)
        return 0 if found is None else found[0]

    return _Window(
        first,
        last,
        bisect_left(_EVERY, first, 1, last_run + 1, key=begun),
        bisect_right(_EVERY, last, 1, last_run + 1, key=begun) - 1,
        whole=False,
    )


def _ends(connection: apsw.Connection, chosen: Filter, run_number: int, stage_number: int | None) -> Ends | None:
    """The first and the last mark of a stage of a run in the span of time; None if it has none there."""
    if stage_number is None or _names(connection, run_number, stage_number) is None:
        return None
    first, last = _marks(connection, run_number, stage_number)
    if first.at_ms < chosen.since_ms:
        if last.at_ms < chosen.since_ms:
            return None
        first = _cut(connection, run_number, stage_number, first, last, lambda mark: mark.at_ms < chosen.since_ms)[1]
    if last.at_ms > chosen.until_ms:
        if first.at_ms > chosen.until_ms:
            return None
        last = _cut(connection, run_number, stage_number, first, last, lambda mark: mark.at_ms <= chosen.until_ms)[0]
    return first, last


def _cut(
    connection: apsw.Connection, run_number: int, stage_number: int, low: Mark, high: Mark, before: Callable[[Mark], bool]
) -> Ends:
    """Two neighbouring marks, the first of which is before a time and the second not."""
    while (
        found := rows.between_in_run_stage(connection, run_number, stage_number, low.sequence, high.sequence)
    ) is not None:
        mark = Mark(*found)
        low, high = (mark, high) if before(mark) else (low, mark)
    return low, high


def _marks(connection: apsw.Connection, run_number: int, stage_number: int) -> Ends:
    first, last = rows.ends_of_run_stage(connection, run_number, stage_number)
    return Mark(*first), Mark(*last)


# The runs and the stages


def _runs(connection: apsw.Connection, chosen: Filter, window: _Window, number: int, shown: str = _DRAWN) -> list[int]:
    """The numbers of the runs that recorded something last, last first; or the number of one run."""
    if chosen.run_id is not None:
        return _distinct([connection.execute(_RUN_NUMBER, (chosen.run_id,)).fetchall()], 1)
    if chosen.stage is None:
        recent = connection.execute(_RECENT_RUNS[shown], (window.least, window.most, RECENT)).fetchall()
        newest = connection.execute(_NEWEST_RUNS[shown], (window.last_run, number)).fetchall()
    else:
        stage = connection.execute(_STAGE_NUMBER, (chosen.stage,)).get
        # The last entry of a stage is less than 40 positions behind its last milepost.
        reach = max(1, window.least - INTERVAL), window.most
        recent = connection.execute(_RECENT_RUNS_OF_STAGE, (stage, *reach, RECENT)).fetchall()
        newest = connection.execute(_NEWEST_RUNS_OF_STAGE, (1, window.last_run, COUNTED, stage, number)).fetchall()
    if not window.whole:
        newest = [(run,) for (run,) in newest if run and _end(connection, run) >= window.least]
    return _distinct([recent, newest], number)


def _end(connection: apsw.Connection, run_number: object) -> int:
    found = rows.end_of_run(connection, _integer(run_number))
    return 0 if found is None else found[0]


def _candidates(
    connection: apsw.Connection, chosen: Filter, window: _Window, run_numbers: list[int], stages: int
) -> dict[int, _Candidates]:
    """What there is to choose from in each of these runs that has something in the window."""
    number = max(stages, LOOKED_AT // max(1, len(run_numbers)))
    found = {}
    for run_number in run_numbers:
        if chosen.stage is None:
            count = _integer(connection.execute(_COUNT_OF_STAGES, (run_number, COUNTED)).get)
            stage_numbers = _stages(connection, run_number, window, min(number, count))
        else:
            count, stage_numbers = 1, [connection.execute(_STAGE_NUMBER, (chosen.stage,)).get]
        ends = {each: _ends(connection, chosen, run_number, each) for each in stage_numbers}
        in_window = {each: pair for each, pair in ends.items() if pair is not None}
        if in_window:
            found[run_number] = _Candidates(in_window, count, all_looked_at=len(stage_numbers) >= count)
    return found


def _stages(connection: apsw.Connection, run_number: int, window: _Window, number: int) -> list[int]:
    """
    Return the numbers of the stages of a run that were active last, last first.

    They are ordered by their last mileposts. The last entry of a stage is less than 40 positions behind its last milepost.
    """
    recent = connection.execute(_RECENT_STAGES, (run_number, window.most, RECENT)).fetchall()
    return _distinct([recent, connection.execute(_NEWEST_STAGES, (run_number, number)).fetchall()], number)


def _distinct(found: Iterable[list[tuple[Any, ...]]], number: int) -> list[int]:
    distinct = dict.fromkeys(value for each in found for (value,) in each)
    return [_integer(value) for value in distinct if value != 0][:number]


def _excerpt(
    connection: apsw.Connection,
    chosen: Filter,
    window: _Window,
    pairs: list[tuple[int, int]],
    found: dict[int, _Candidates],
    runs: int,
) -> Excerpt:
    spans = [
        _span(connection, window, run_number, stage_number, found[run_number].ends[stage_number])
        for run_number, stage_number in pairs
        if stage_number in found[run_number].ends
    ]
    starts = {}
    for run_number in found:
        beginning = rows.beginning_of_run(connection, run_number)
        starts[run_number] = beginning[1] if beginning else 0
    shown = Counter(span.run_stage.run_number for span in spans)
    rests = {number: each.rest(shown[number], whole=window.whole) for number, each in found.items()}
    rest_of_run = {number: rest for number, (rest, _) in rests.items() if rest}
    of_all, more_runs = _count_of_runs(connection, chosen, window, list(found), runs)
    or_more = any(more for _, more in rests.values())
    return Excerpt(spans, starts, of_all, more_runs, sum(rest_of_run.values()), or_more, rest_of_run)


def _span(connection: apsw.Connection, window: _Window, run_number: int, stage_number: int, ends: Ends) -> Span:
    run_stage = _run_stage(connection, run_number, stage_number)
    if run_stage is None:
        raise apsw.CorruptError(f"stage {stage_number} of run {run_number} is gone")
    first, last = ends
    if not window.whole:
        through = partial(rows.entries_through, connection, run_number, stage_number)
        entries = through(last.sequence) - (through(first.sequence - 1) if first.sequence else 0)
        run_stage = replace(run_stage, entries=entries)
    return Span(run_stage, first, last)


def _count_of_runs(
    connection: apsw.Connection, chosen: Filter, window: _Window, shown: list[int], most: int
) -> tuple[int, bool]:
    """How many runs there are of what is asked for, and whether there may be more."""
    if chosen.run_id is not None:
        return len(shown), False
    if window.whole and chosen.stage is None:
        return rows.count_of_runs(connection), False
    stage = None if chosen.stage is None else connection.execute(_STAGE_NUMBER, (chosen.stage,)).get
    bindings = stage, window.first_run, window.last_run, COUNTED
    counted, looked_at = map(_integer, connection.execute(_COUNT_OF_RUNS, bindings).get)
    began_before = sum(number < window.first_run for number in shown)
    more = looked_at >= COUNTED or (window.first_run > 1 and len(shown) >= most)
    return max(len(shown), counted + began_before), more


def _run_stage(connection: apsw.Connection, run_number: int | None, stage_number: int | None) -> rows.RunStage | None:
    if run_number is None or stage_number is None:
        return None
    names = _names(connection, run_number, stage_number)
    if names is None:
        return None
    entries = _integer(rows.entries_of_run_stage(connection, run_number, stage_number))
    return rows.RunStage(run_number, stage_number, *names, entries)


def _names(connection: apsw.Connection, run_number: int, stage_number: int) -> tuple[str, str] | None:
    row: tuple[Any, ...] | None = connection.execute(_NAMES, (run_number, stage_number)).get
    if row is None:
        return None
    run_id, stage = row
    if type(run_id) is not str or type(stage) is not str:
        raise apsw.CorruptError(f"a name is {row!a:.200}, which no append writes")
    return run_id, stage


def _text(value: object) -> str:
    if type(value) is not str:
        raise apsw.CorruptError(f"a name is {value!a:.200}, which no append writes")
    return value


def _integer(value: object) -> int:
    """Return a number, and refuse anything else that a damaged file may have in its place."""
    if type(value) is not int:
        raise apsw.CorruptError(f"a number is {value!a:.200}, which no append writes")
    return value

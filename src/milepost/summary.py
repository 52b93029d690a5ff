"""The contents of a store: one line for each run and each stage, and the whole store on one page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from milepost import html
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import shown
from milepost.readable import age, count, duration, event_time, iso, rate, shorten, size, visible
from milepost.receipt import Head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from milepost.checkpoint import ResumePoint

RUNS_SHOWN: Final = 10
"""How many of the last runs a summary lists. It counts the rest."""

STAGES_SHOWN: Final = 20
"""How many stages a summary shows when you print it. It counts the rest."""

RUNS_SEARCHED: Final = 1_000
"""Between how many of the last runs a summary looks for silences."""

LINES_SHOWN: Final = 8
"""How many lines a summary has about what stands out; it counts the rest."""

LAST: Final = 21
"""How many of its last checkpoints tell the usual pace of a stage."""

RECENT: Final = 1_000
"""How many of the last entries a summary searches for gaps and clock jumps."""

STALL: Final = 5
"""A stage is stalled after so many times its usual pace."""

STALL_LEAST_MS: Final = 60_000
"""No stage is stalled before so many ms."""

NOTHING: Final = "nothing recorded yet"

_GAP: Final = 20  # times the median distance of the last entries
_GAP_LEAST_MS: Final = 60_000
_JUMP_MS: Final = 1_000  # the clocks of several processes differ by less

SILENCES_SHOWN: Final = 3
"""How many of the longest silences a summary lists."""


ERROR_SHOWN: Final = 60
"""How many characters a summary shows of the name of an error."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """
    One run.

    Attributes:
        run_id: Its name.
        entries: How many checkpoints it has.
        stages: Its stages, in order of first appearance in the file.
        first_at_ms: The wall clock of its first checkpoint or attempt, in ms since the epoch.
        last_at_ms: The wall clock of its last entry.
        signature: The signature of the chain over its own entries, 64 hex digits.
        state: The state of its last attempt: `"finished"`, `"failed"` or `"open"`. An open attempt goes on, or was killed.
            None for a run that `run()` did not begin.
        attempts: How many attempts began.
        killed: How many attempts were killed: they have no recorded end, and another one began.
        began_at_ms: When the last attempt began; None without attempts.
        ended_at_ms: When it ended; None while it is open.
        error: The type of the exception that it failed with, or None.
        records: The greatest offset of its stages. For a branched stage, the offset where it started is subtracted.
        chain_entries: How many entries its own chain has: its checkpoints, and the entries about its attempts.
        begins_here: False if an archive has the beginning of one of its stages, or its first attempt: when the run began, or
            where a branch did. Then `first_at_ms` is that of what is here, and so is `duration_ms` without attempts.
            `records` may count from offset 0, and there is no `rate`. It is True by mistake if an archive has all that
            came before the first attempt, and leaves that attempt: a branch at sequence 1, or the first checkpoints of a
            stage. No trace of them stays, and `records` and `rate` count from offset 0.
        recorded_before: Whether the last entry before its first attempt is one that did work, and no first checkpoint of a
            branch. If so, there is no `rate`.
    """

    run_id: str
    entries: int
    stages: tuple[str, ...]
    first_at_ms: int
    last_at_ms: int
    signature: str
    state: str | None = None
    attempts: int = 0
    killed: int = 0
    began_at_ms: int | None = None
    ended_at_ms: int | None = None
    error: str | None = None
    records: int = 0
    chain_entries: int = 0
    begins_here: bool = True
    recorded_before: bool = False

    @property
    def head(self) -> Head:
        """The head of its own chain. Keep it elsewhere, for `verify(run_id=…, expected=…)`."""
        return Head(self.chain_entries, self.signature)

    @property
    def duration_ms(self) -> int:
        """The time of the last attempt, up to its end or the run's last entry. Without attempts, that of the whole run."""
        began = self.first_at_ms if self.began_at_ms is None else self.began_at_ms
        ended = self.last_at_ms if self.ended_at_ms is None else self.ended_at_ms
        return max(0, ended - began)

    @property
    def rate(self) -> float | None:
        """
        Records per second over that time.

        None if the clock has not moved, or after a second attempt, because earlier attempts did a part of the records. None
        too if a part was recorded before the first attempt, or if the beginning of the run is in an archive.
        """
        known = self.duration_ms and self.attempts <= 1 and self.begins_here and not self.recorded_before
        return self.records * 1000 / self.duration_ms if known else None


@dataclass(frozen=True, slots=True)
class StageSummary:
    """
    One stage over all runs.

    Attributes:
        stage: Its name.
        entries: How many checkpoints it has.
        runs: How many runs have it.
        first_at_ms: The wall clock of its first checkpoint in this file, in ms since the epoch. An archive may have earlier
            ones.
        last_at_ms: The wall clock of its last checkpoint.
    """

    stage: str
    entries: int
    runs: int
    first_at_ms: int
    last_at_ms: int


@dataclass(frozen=True, slots=True)
class StageState:
    """
    Where one stage stands.

    Attributes:
        point: Where it resumes, in the run that recorded it last.
        entries: How many checkpoints it has in that run.
        missing: How many sequences between its first and its last checkpoint there have none.
        lag_offset: How far its offset is behind the first stage of the latest run. It is negative if the stage is ahead,
            and None if it resumes in another run.
        lag_ms: How far its event time is behind that stage, in ms. It is negative or None for the same reasons, and None too
            if one of the two has given no event time (0).
        last_at_ms: The wall clock of its last checkpoint, in ms since the epoch.
        pace_ms: The usual time between two of its last checkpoints, in ms: the median. None if it has one checkpoint.
        rate: Records a second over its last checkpoints, or None if the clock has not moved.
        run_ended: Whether the last attempt of that run has ended, so that nobody expects another checkpoint.
    """

    point: ResumePoint
    entries: int
    missing: int
    lag_offset: int | None
    lag_ms: int | None
    last_at_ms: int = 0
    pace_ms: int | None = None
    rate: float | None = None
    run_ended: bool = False

    def is_stalled(self, at_ms: int) -> bool:
        """Return whether it has recorded nothing for much longer than usual, though its run has not ended."""
        if self.run_ended or self.pace_ms is None:
            return False
        return at_ms - self.last_at_ms > max(STALL * self.pace_ms, STALL_LEAST_MS)


@dataclass(frozen=True, slots=True)
class Silence:
    """
    A time between runs, without a checkpoint.

    Attributes:
        after: The run whose last checkpoint comes before it.
        before: The run whose first checkpoint comes after it.
        since_ms: When it began, in ms since the epoch.
        until_ms: When it ended.
    """

    after: str
    before: str
    since_ms: int
    until_ms: int

    @property
    def lasted_ms(self) -> int:
        """How long it was, in ms."""
        return self.until_ms - self.since_ms


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """
    A store on one page: `str()` gives text for a terminal, and a notebook shows tables.

    Attributes:
        path: The file.
        size_bytes: How large it is together with its WAL.
        durability: `"full"` or `"normal"`; None for a store that only reads.
        at_ms: When you asked, in ms since the epoch.
        head: How many entries the chain has, and its signature.
        first_at_ms: The wall clock of the first entry, in ms since the epoch; None for an empty store.
        last_at_ms: The wall clock of the last entry that is not about an archive.
        latest_run_id: The run of the last entry that is not about an archive.
        runs: How many runs there are.
        last_runs: The last of them by first appearance, newest first.
        stages: Every stage, in order of first appearance.
        silences: The longest times between two of the last 1,000 runs, longest first. To find them within a run would mean
            reading every entry.
        stands_out: A sentence for each thing that stands out: a kill, a failure, a gap, a clock jump, a stalled stage.
    """

    path: str
    size_bytes: int
    durability: str | None
    at_ms: int
    head: Head
    first_at_ms: int | None
    last_at_ms: int | None
    latest_run_id: str | None
    runs: int
    last_runs: tuple[RunSummary, ...]
    stages: tuple[StageState, ...]
    silences: tuple[Silence, ...]
    stands_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return summary_page(self)


# The words for a terminal and for a notebook


def contents(summary: StoreSummary) -> str:
    """Return how many entries there are. It shows no names."""
    if summary.first_at_ms is None:
        return NOTHING
    counts = f"{count(summary.head.entries, 'entry')} in {count(summary.runs, 'run')}"
    return f"{counts} and {count(len(summary.stages), 'stage')}"


def span(summary: StoreSummary) -> str:
    """Return from when to when the entries are, to the second."""
    first, last = _whole_s(summary.first_at_ms or 0), _whole_s(summary.last_at_ms or 0)
    return f"{iso(first)} to {iso(last)}, {age(_whole_s(summary.at_ms - (summary.last_at_ms or 0)))}"


def how_opened(summary: StoreSummary) -> str:
    """Name the durability, or say that the store only reads."""
    return "opened to read" if summary.durability is None else f"durability {summary.durability}"


def run_state(run: RunSummary, at_ms: int) -> str:
    """Say how the last attempt of a run ended, or how old an open one's last entry is. Without attempts, say nothing."""
    if run.state == "open":
        return f"open, last entry {age(_whole_s(at_ms - run.last_at_ms))}"
    return f"{run.state}: {shorten(run.error, ERROR_SHOWN)}" if run.error is not None else run.state or ""


def run_attempts(run: RunSummary) -> str:
    """Say how many attempts a run had, and how many were killed. Without attempts, say nothing."""
    return f"{run.attempts:,}{f' ({run.killed:,} killed)' if run.killed else ''}" if run.attempts else ""


def run_rate(run: RunSummary) -> str:
    """Return how many records per second a run did, or a dash if that is unknown."""
    return "–" if run.rate is None else rate(run.rate)


Columns = tuple[tuple[str, Literal["name", "number", "time"], bool], ...]
"""The headings of a table, each with the kind of its cells and whether a narrow terminal may leave it out."""


class Section(NamedTuple):
    """
    A table of a summary, for a terminal, a notebook and a page alike.

    Attributes:
        title: What it shows.
        columns: The headings.
        rows: The cells of each row.
        rest: A sentence about the rows that are left out, or nothing.
    """

    title: str
    columns: Columns
    rows: list[tuple[str, ...]]
    rest: str = ""


def sections(found: StoreSummary) -> list[Section]:
    """Return the tables of a summary, without those that would be empty."""
    return [section for section in (_runs(found), _stages(found)) if section.rows]


def _runs(found: StoreSummary) -> Section:
    more = found.runs - len(found.last_runs)
    return Section(
        "Last runs",
        RUN_COLUMNS,
        [run_cells(run, found.at_ms) for run in found.last_runs],
        f"and {count(more, 'earlier run')}" if more > 0 else "",
    )


RUN_COLUMNS: Final[Columns] = (
    ("run", "name", False), ("state", "name", False), ("attempts", "number", True), ("began", "time", True),
    ("took", "number", False), ("checkpoints", "number", True), ("records", "number", False), ("records/s", "number", True),
)  # fmt: skip


def run_cells(run: RunSummary, at_ms: int) -> tuple[str, ...]:
    """Return the cells of a run, for the columns of `RUN_COLUMNS`."""
    return (
        run.run_id,
        run_state(run, at_ms) or "–",
        run_attempts(run) or "–",
        *_time_of(run),
        f"{run.entries:,}",
        f"{run.records:,}",
        run_rate(run),
    )


def _time_of(run: RunSummary) -> tuple[str, str]:
    """Return when a run began, and how long it took; dashes if only an archive knows."""
    if run.began_at_ms is None and not run.begins_here:
        return "–", "–"
    return iso(_whole_s(run.first_at_ms if run.began_at_ms is None else run.began_at_ms)), duration(run.duration_ms)


def _stages(found: StoreSummary) -> Section:
    stages = _active(found)
    more = len(found.stages) - len(stages)
    runs = {stage.point.run_id for stage in stages}
    where, with_run = "", True
    if len(runs) == 1:  # as a rule, and then nobody needs it in each row
        where, with_run = f" in run {shown(runs.pop())}", False
    run: Columns = (("run", "name", True),) if with_run else ()
    columns: Columns = (
        ("stage", "name", False), *run, ("sequence", "number", True), ("offset", "number", False),
        ("event time", "time", True), ("last checkpoint", "number", False), ("usually every", "number", True),
        ("records/s", "number", True), ("behind", "number", True),
    )  # fmt: skip
    rows = [
        (
            stage.point.stage,
            *([stage.point.run_id] if with_run else []),
            f"{stage.point.sequence:,}",
            f"{stage.point.watermark.offset:,}",
            event_time(_whole_s(stage.point.watermark.event_time_ms)),
            age(_whole_s(found.at_ms - stage.last_at_ms)),
            "–" if stage.pace_ms is None else _every(stage.pace_ms),
            "–" if stage.rate is None else rate(stage.rate),
            _lag(stage),
        )
        for stage in stages
    ]
    rest = f"and {count(more, 'more stage')}" if more > 0 else ""
    return Section(f"Where each stage starts again{where}", columns, rows, rest)


def _every(pace_ms: int) -> str:
    """Format a pace. Of a pace below 1 ms the clock shows no more than that."""
    return duration(pace_ms) if pace_ms else "1 ms or less"


def _whole_s(ms: int) -> int:
    return ms // 1000 * 1000 if ms >= 1000 else ms


def heading(found: StoreSummary) -> list[str]:
    """Return what a summary says before its tables, a line each."""
    facts = [f"{found.path}, {size(found.size_bytes)}, {how_opened(found)}", contents(found)]
    return [*facts, *([span(found)] if found.first_at_ms is not None else []), f"head {found.head}"]


def as_text(found: StoreSummary) -> str:
    """Return a summary as plain text, its tables aligned."""
    lines = list(map(visible, heading(found)))
    for section in sections(found):
        lines += ["", *section_lines(section)]
    if found.stands_out:
        lines += ["", "What stands out", *(f"  {visible(line)}" for line in found.stands_out)]
    return "\n".join(lines)


def section_lines(section: Section) -> list[str]:
    """Return a table as plain text, aligned, a line each."""
    rest = [f"  {section.rest}"] if section.rest else []
    return [section.title, *_aligned(section), *rest]


def _aligned(section: Section) -> list[str]:
    titles = tuple(title for title, _, _ in section.columns)
    rows = [titles, *(tuple(shorten(cell, html.NAME_LENGTH) for cell in row) for row in section.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if holds == "number" else cell.ljust(width)
            for cell, width, (_, holds, _) in zip(row, widths, section.columns, strict=True)
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


# The page that a notebook shows


def summary_page(found: StoreSummary) -> str:
    """Return a store on one page, as HTML."""
    facts = html.text(f"{size(found.size_bytes)} · {how_opened(found)}")
    parts = [
        html.paragraph(html.name(PurePath(found.path).name), "mp-title"),
        html.paragraph(html.Html(f"{html.text(found.path)} · {facts}"), "mp-muted"),
        html.paragraph(f"{contents(found)}, {span(found)}" if found.first_at_ms is not None else contents(found)),
        html.labelled("head", str(found.head)),
    ]
    parts += [part for section in sections(found) for part in section_parts(section)]
    if found.stands_out:
        parts.append(html.listing("What stands out", found.stands_out))
    return html.page(parts)


def section_parts(section: Section) -> list[html.Html]:
    """Return a table as the parts of a page."""
    columns = [html.Column(f"{title[0].upper()}{title[1:]}", _STYLES[holds]) for title, holds, _ in section.columns]
    table = html.table(section.title, columns, [[html.name(cell) for cell in row] for row in section.rows])
    return [table, *([html.paragraph(section.rest, "mp-muted")] if section.rest else [])]


_STYLES: Final = {"name": "mp-name", "number": "mp-number", "time": ""}


def _active(found: StoreSummary) -> Sequence[StageState]:
    """Choose the stages that fit on a page: of the latest runs first, and within a run by latest event time."""
    if len(found.stages) <= STAGES_SHOWN:
        return found.stages
    order = {run.run_id: place for place, run in enumerate(found.last_runs, 1)}
    if found.latest_run_id is not None:
        order[found.latest_run_id] = 0  # even if other runs began after it

    def staleness(stage: StageState) -> tuple[int, int]:
        return order.get(stage.point.run_id, len(order)), -stage.point.watermark.event_time_ms

    return sorted(found.stages, key=staleness)[:STAGES_SHOWN]


def _lag(stage: StageState) -> str:
    """Say how far a stage is behind the first one in records and in event time, or ahead."""
    if stage.lag_offset is None:
        return "in another run"
    lag_ms = stage.lag_ms or 0
    parts = [(f"{abs(stage.lag_offset):,}", stage.lag_offset), (duration(abs(lag_ms)), lag_ms)]
    told = [(text, lag < 0) for text, lag in parts if lag]
    if all(is_ahead for _, is_ahead in told):
        return f"{' · '.join(text for text, _ in told)} ahead" if told else "–"
    return " · ".join(f"{text} ahead" if is_ahead else text for text, is_ahead in told)


# From rows to values


def stage_states(
    stages: Iterable[tuple[ResumePoint, int, int, Sequence[tuple[int, int]], bool]],
    latest_run_id: str | None,
    first: ResumePoint | None,
) -> tuple[StageState, ...]:
    """
    Return where stages stand.

    Args:
        stages: For each stage its resume point, its number of entries in that run, its first sequence there, the
            (at_ms, offset) of its last checkpoints there, newest first, and whether the last attempt of that run has ended.
        latest_run_id: The run of the last entry.
        first: How far the first stage of that run has come.
    """
    return tuple(
        StageState(
            point,
            entries,
            point.sequence - first_sequence + 1 - entries,
            *_lags(point, first if point.run_id == latest_run_id else None),
            last[0][0] if last else 0,
            _pace_ms(last),
            _rate(last),
            run_ended,
        )
        for point, entries, first_sequence, last, run_ended in stages
    )


def _lags(point: ResumePoint, first: ResumePoint | None) -> tuple[int | None, int | None]:
    """Return how far a stage is behind the first one, in offset and in event time."""
    if first is None:
        return None, None
    mark, of_first = point.watermark, first.watermark
    lag_ms = of_first.event_time_ms - mark.event_time_ms if of_first.event_time_ms and mark.event_time_ms else None
    return of_first.offset - mark.offset, lag_ms


def _pace_ms(last: Sequence[tuple[int, int]]) -> int | None:
    gaps = [max(0, later - earlier) for (later, _), (earlier, _) in pairwise(last)]
    return int(_median(gaps)) if gaps else None


def _median(values: Iterable[int]) -> float:
    from statistics import median  # noqa: PLC0415 - takes 3 ms, and only a summary needs it

    return median(values)


def _rate(last: Sequence[tuple[int, int]]) -> float | None:
    if len(last) < 2 or last[0][0] <= last[-1][0]:
        return None
    return (last[0][1] - last[-1][1]) * 1000 / (last[0][0] - last[-1][0])


def what_stands_out(
    runs: Sequence[RunSummary],
    stages: Sequence[StageState],
    silences: Sequence[Silence],
    recent: Sequence[tuple[int, str, str, int]],
    at_ms: int,
) -> tuple[str, ...]:
    """
    Return a sentence for each thing that stands out, the runs first.

    Args:
        runs: The last runs, newest first.
        stages: Where each stage stands.
        silences: The longest times between two runs.
        recent: Of the last entries in chain order: position, run_id, stage, wall clock.
        at_ms: The time of the question, in ms since the epoch.
    """
    lines = [*_of_runs(runs), *_of_stages(stages, at_ms), *_of_silences(silences), *_of_recent(recent)]
    more = len(lines) - LINES_SHOWN
    return (*lines[:LINES_SHOWN], *([f"and {more} more"] if more > 0 else []))


def _of_runs(runs: Sequence[RunSummary]) -> Iterator[str]:
    for run in runs:
        if run.killed:
            yield f"run {shown(run.run_id)}: {count(run.killed, 'attempt')} killed"
        if run.state == "failed":
            why = "" if run.error is None else f" with {shorten(run.error, ERROR_SHOWN)}"
            yield f"run {shown(run.run_id)} failed{why} in attempt {run.attempts:,}"


def _of_stages(stages: Sequence[StageState], at_ms: int) -> Iterator[str]:
    for stage in stages:
        name = f"stage {shown(stage.point.stage)} of run {shown(stage.point.run_id)}"
        if stage.is_stalled(at_ms):
            since, pace = age(_whole_s(at_ms - stage.last_at_ms)), _every(stage.pace_ms or 0)
            yield f"{name}: the last checkpoint was {since}, and usually there is one every {pace}"
        if stage.missing:
            yield f"{name}: {count(stage.missing, 'sequence')} missing"


def _of_silences(silences: Sequence[Silence]) -> Iterator[str]:
    """Describe the silences that are longer than others. Between nightly runs there is one each day."""
    usual = _median(silence.lasted_ms for silence in silences) if len(silences) > 1 else 0
    for silence in silences:
        if silence.lasted_ms > max(2 * usual, _GAP_LEAST_MS):
            between = f"run {shown(silence.after)} and run {shown(silence.before)}"
            yield f"nothing recorded for {duration(silence.lasted_ms)} from {iso(silence.since_ms)}, between {between}"


def _of_recent(recent: Sequence[tuple[int, str, str, int]]) -> Iterator[str]:
    gaps = [later[3] - earlier[3] for earlier, later in pairwise(recent)]
    usual = _median(gaps) if gaps else 0
    for (_, before_run_id, _, before_ms), (position, run_id, stage, at_ms) in pairwise(recent):
        if at_ms - before_ms > max(_GAP * usual, _GAP_LEAST_MS) and run_id == before_run_id:
            yield f"run {shown(run_id)} recorded nothing for {duration(at_ms - before_ms)} from {iso(before_ms)}"
        elif before_ms - at_ms > _JUMP_MS:
            where = f"position {position:,}, stage {shown(stage)} of run {shown(run_id)}"
            yield f"the clock went back by {duration(before_ms - at_ms)} at {where}"


def longest_silences(spans: Iterable[tuple[str, int, int]]) -> tuple[Silence, ...]:
    """Return the longest times outside every run, longest first. A span is a run_id with its first and last wall clock."""
    found: list[Silence] = []
    last, last_ms = "", MAX_INTEGER
    # A clock may jump back within a run, and runs may overlap.
    for begin_ms, end_ms, run_id in sorted((min(first, end), max(first, end), run_id) for run_id, first, end in spans):
        if begin_ms > last_ms:
            found.append(Silence(last, run_id, last_ms, begin_ms))
        if not last or end_ms >= last_ms:
            last, last_ms = run_id, end_ms
    found.sort(key=lambda silence: -silence.lasted_ms)
    return tuple(found[:SILENCES_SHOWN])

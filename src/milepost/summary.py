"""The contents of a store: one line for each run and each stage, and the whole store on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import shown
from milepost.readable import age, count, duration, iso, rate, shorten, size
from milepost.receipt import Head

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from milepost.checkpoint import ResumePoint

RUNS_SHOWN: Final = 10
"""How many of the last runs a summary lists. It counts the rest."""

STAGES_SHOWN: Final = 20
"""How many stages a summary shows when you print it. It counts the rest."""

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

        None if the clock has not moved, or after a second attempt, because earlier attempts did a part of the records.
        """
        return self.records * 1000 / self.duration_ms if self.duration_ms and self.attempts <= 1 else None


@dataclass(frozen=True, slots=True)
class StageSummary:
    """
    One stage over all runs.

    Attributes:
        stage: Its name.
        entries: How many checkpoints it has.
        runs: How many runs have it.
        first_at_ms: The wall clock of its first checkpoint, in ms since the epoch.
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
        lag_ms: How far its event time is behind that stage, in ms. It is negative or None for the same reasons.
    """

    point: ResumePoint
    entries: int
    missing: int
    lag_offset: int | None
    lag_ms: int | None


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
        last_at_ms: The wall clock of the last entry.
        latest_run_id: The run of the last entry.
        runs: How many runs there are.
        last_runs: The last of them by first appearance, newest first.
        stages: Every stage, in order of first appearance.
        silences: The longest times between two runs, longest first. To find them within a run would mean reading every
            entry.
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

    def __str__(self) -> str:
        lines = [f"{shown(self.path)}, {size(self.size_bytes)}, {how_opened(self)}", contents(self), f"head {self.head}"]
        for stage in self.stages[:STAGES_SHOWN]:
            point = stage.point
            lines.append(
                f"stage {shown(point.stage)}: after sequence {point.sequence} of run {shown(point.run_id)}, offset "
                f"{point.watermark.offset}, event time {iso(point.watermark.event_time_ms)}{_state(stage)}"
            )
        if len(self.stages) > STAGES_SHOWN:
            lines.append(f"and {count(len(self.stages) - STAGES_SHOWN, 'more stage')}")
        lines += [
            f"run {shown(run.run_id)}: {count(run.entries, 'entry')} in {count(len(run.stages), 'stage')}, "
            f"{iso(run.first_at_ms)} to {iso(run.last_at_ms)}{_attempt(run, self.at_ms)}"
            for run in self.last_runs
        ]
        if self.runs > len(self.last_runs):
            lines.append(f"and {count(self.runs - len(self.last_runs), 'earlier run')}")
        lines += [
            f"silence of {duration(silence.lasted_ms)} from {iso(silence.since_ms)}, between run {shown(silence.after)} "
            f"and run {shown(silence.before)}"
            for silence in self.silences
        ]
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        return summary_page(self)


# The words for a terminal and for a notebook


def contents(summary: StoreSummary) -> str:
    """Say how many entries there are, and from when. It shows no names."""
    if summary.first_at_ms is None or summary.last_at_ms is None:
        return "empty"
    counts = f"{count(summary.head.entries, 'entry')} in {count(summary.runs, 'run')}"
    stages = count(len(summary.stages), "stage")
    span = f"{iso(summary.first_at_ms)} to {iso(summary.last_at_ms)}"
    return f"{counts} and {stages}, {span}, {age(summary.at_ms - summary.last_at_ms)}"


def how_opened(summary: StoreSummary) -> str:
    """Name the durability, or say that the store only reads."""
    return "opened to read" if summary.durability is None else f"durability {summary.durability}"


def run_state(run: RunSummary, at_ms: int) -> str:
    """Say how the last attempt of a run ended, or how old an open one's last entry is. Without attempts, say nothing."""
    if run.state == "open":
        return f"open, last entry {age(at_ms - run.last_at_ms)}"
    return f"{run.state}: {shorten(run.error, ERROR_SHOWN)}" if run.error is not None else run.state or ""


def run_attempts(run: RunSummary) -> str:
    """Say how many attempts a run had, and how many were killed. Without attempts, say nothing."""
    return f"{run.attempts:,}{f' ({run.killed:,} killed)' if run.killed else ''}" if run.attempts else ""


def run_rate(run: RunSummary) -> str:
    """Return how many records per second a run did, or a dash if that is unknown."""
    return "–" if run.rate is None else rate(run.rate)


def _attempt(run: RunSummary, at_ms: int) -> str:
    text = "" if run.state is None else f"; attempt {run.attempts:,} {run_state(run, at_ms)}"
    text += f"; {count(run.killed, 'attempt')} killed" if run.killed else ""
    text += f"; {duration(run.duration_ms)}" if run.duration_ms else ""
    return text if run.rate is None else f"{text}, {run_rate(run)} records/s"


def _state(stage: StageState) -> str:
    text = f"; {count(stage.missing, 'sequence')} missing" if stage.missing else ""
    if stage.lag_offset or stage.lag_ms:
        text += f"; behind the first stage by {stage.lag_offset:,} and {duration(stage.lag_ms or 0)}"
    return text


# The page that a notebook shows


def summary_page(found: StoreSummary) -> str:
    """Return a store on one page, as HTML."""
    facts = html.text(f"{size(found.size_bytes)} · {how_opened(found)}")
    parts = [
        html.paragraph(html.name(PurePath(found.path).name), "mp-title"),
        html.paragraph(html.Html(f"{html.text(found.path)} · {facts}"), "mp-muted"),
        html.paragraph(contents(found)),
        html.labelled("head", str(found.head)),
    ]
    if found.stages:
        parts += [_stages(_active(found)), html.rest(len(found.stages) - STAGES_SHOWN, "more stage")]
    if found.last_runs:
        parts += [_runs(found), html.rest(found.runs - len(found.last_runs), "earlier run")]
    if found.silences:
        parts.append(_silences(found))
    return html.page(parts)


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


def _stages(stages: Iterable[StageState]) -> html.Html:
    return html.table(
        "Where each stage starts again",
        [
            html.Column("Stage", "mp-name"),
            html.Column("Run", "mp-name"),
            html.Column("After sequence", "mp-number"),
            html.Column("Offset", "mp-number"),
            html.Column("Event time"),
            html.Column("Missing", "mp-number"),
            html.Column("Behind the first stage", "mp-number"),
        ],
        [
            [
                html.name(stage.point.stage),
                html.name(stage.point.run_id),
                f"{stage.point.sequence:,}",
                f"{stage.point.watermark.offset:,}",
                iso(stage.point.watermark.event_time_ms),
                f"{stage.missing:,}" if stage.missing else "–",
                _lag(stage),
            ]
            for stage in stages
        ],
    )


def _lag(stage: StageState) -> str:
    if stage.lag_offset is None or stage.lag_ms is None:
        return "in another run"
    return f"{stage.lag_offset:,} · {duration(stage.lag_ms)}" if stage.lag_offset or stage.lag_ms else "–"


def _runs(found: StoreSummary) -> html.Html:
    return html.table(
        "The last runs",
        [
            html.Column("Run", "mp-name"),
            html.Column("Entries", "mp-number"),
            html.Column("Stages", "mp-number"),
            html.Column("First entry"),
            html.Column("Last entry"),
            html.Column("State"),
            html.Column("Attempts", "mp-number"),
            html.Column("Took", "mp-number"),
            html.Column("Records/s", "mp-number"),
        ],
        [
            [
                html.name(run.run_id),
                f"{run.entries:,}",
                f"{len(run.stages):,}",
                iso(run.first_at_ms),
                iso(run.last_at_ms),
                run_state(run, found.at_ms) or "–",
                run_attempts(run) or "–",
                duration(run.duration_ms),
                run_rate(run),
            ]
            for run in found.last_runs
        ],
    )


def _silences(found: StoreSummary) -> html.Html:
    return html.table(
        "The longest silences between runs",
        [
            html.Column("Lasted", "mp-number"),
            html.Column("From"),
            html.Column("After run", "mp-name"),
            html.Column("Before run", "mp-name"),
        ],
        [
            [duration(each.lasted_ms), iso(each.since_ms), html.name(each.after), html.name(each.before)]
            for each in found.silences
        ],
    )


# From rows to values


def stage_states(
    stages: Iterable[tuple[ResumePoint, int, int]], latest_run_id: str | None, first: ResumePoint | None
) -> tuple[StageState, ...]:
    """
    Return where stages stand.

    Args:
        stages: For each stage its resume point, its number of entries in that run, and its first sequence there.
        latest_run_id: The run of the last entry.
        first: How far the first stage of that run has come.
    """
    return tuple(
        StageState(
            point,
            entries,
            point.sequence - first_sequence + 1 - entries,
            first.watermark.offset - point.watermark.offset if first and point.run_id == latest_run_id else None,
            first.watermark.event_time_ms - point.watermark.event_time_ms
            if first and point.run_id == latest_run_id
            else None,
        )
        for point, entries, first_sequence in stages
    )


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

"""What a store returns several of: a list, a dict or an iterator as always, which a notebook shows as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.checkpoint import Checkpoint, ResumePoint
from milepost.errors import MilepostError
from milepost.readable import duration, event_time, iso
from milepost.summary import NOTHING, RunSummary, StageSummary, run_attempts, run_rate, run_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROWS_SHOWN: Final = 20
"""How many rows a notebook shows; it counts the rest."""

_NAME, _NUMBER = "mp-name", "mp-number"


class Runs(list[RunSummary]):
    """Summaries of runs."""

    def __init__(self, runs: Iterable[RunSummary], at_ms: int) -> None:
        super().__init__(runs)
        self._at_ms = at_ms

    def _repr_html_(self) -> str:
        columns = [("Run", _NAME), ("State", ""), ("Attempts", _NUMBER), ("Checkpoints", _NUMBER), ("Stages", _NUMBER),
                   ("First", ""), ("Last", ""), ("Took", _NUMBER), ("Records", _NUMBER), ("Records/s", _NUMBER)]  # fmt: skip
        rows = [
            [
                html.name(run.run_id),
                run_state(run, self._at_ms) or "–",
                run_attempts(run) or "–",
                f"{run.entries:,}",
                f"{len(run.stages):,}",
                _to_the_second(run.first_at_ms),
                _to_the_second(run.last_at_ms),
                duration(run.duration_ms),
                f"{run.records:,}",
                run_rate(run),
            ]
            for run in self[:ROWS_SHOWN]
        ]
        return _page("Runs", columns, rows, len(self))


class Stages(list[StageSummary]):
    """Summaries of stages."""

    def _repr_html_(self) -> str:
        columns = [("Stage", _NAME), ("Checkpoints", _NUMBER), ("Runs", _NUMBER), ("First", ""), ("Last", "")]
        rows = [
            [
                html.name(each.stage),
                f"{each.entries:,}",
                f"{each.runs:,}",
                _to_the_second(each.first_at_ms),
                _to_the_second(each.last_at_ms),
            ]
            for each in self[:ROWS_SHOWN]
        ]
        return _page("Stages", columns, rows, len(self))


class ResumePoints(dict[str, ResumePoint]):
    """Resume points by stage."""

    def _repr_html_(self) -> str:
        columns = [("Stage", _NAME), ("Run", _NAME), ("Sequence", _NUMBER), ("Offset", _NUMBER), ("Event time", "")]
        rows = [
            [
                html.name(point.stage),
                html.name(point.run_id),
                f"{point.sequence:,}",
                f"{point.watermark.offset:,}",
                event_time(point.watermark.event_time_ms),
            ]
            for point in list(self.values())[:ROWS_SHOWN]
        ]
        return _page("Where each stage starts again", columns, rows, len(self))


class History:
    """
    An iterator over checkpoints.

    Args:
        entries: The iterator.
        look: Reads the first so many of them anew, so that showing them takes none from the iterator.
    """

    def __init__(self, entries: Iterator[Checkpoint], look: Callable[[int], list[Checkpoint]]) -> None:
        self._entries, self._look = entries, look

    def __iter__(self) -> Iterator[Checkpoint]:
        return self._entries  # itself, so that a loop pays nothing for this class

    def __next__(self) -> Checkpoint:
        return next(self._entries)

    def __repr__(self) -> str:
        return "<History: iterate over it>"

    def _repr_html_(self) -> str:
        try:
            found = self._look(ROWS_SHOWN + 1)
        except MilepostError as error:  # closed, damaged …: a notebook shows that as well
            return html.error_page("History", error)
        more = "and more: iterate over it, or take frame()" if len(found) > ROWS_SHOWN else ""
        return html.page(
            [_table("Checkpoints", CHECKPOINT, map(checkpoint_row, found[:ROWS_SHOWN])), html.paragraph(more, "mp-muted")]
        )


CHECKPOINT: Final = [
    ("Run", _NAME), ("Stage", _NAME), ("Sequence", _NUMBER), ("Offset", _NUMBER), ("Event time", ""), ("Key", _NAME),
    ("At", ""),
]  # fmt: skip


def checkpoint_row(entry: Checkpoint) -> list[str]:
    """Return the cells of a checkpoint, for the columns of `CHECKPOINT`."""
    return [
        html.name(entry.run_id),
        html.name(entry.stage),
        f"{entry.sequence:,}",
        f"{entry.watermark.offset:,}",
        event_time(entry.watermark.event_time_ms),
        html.name(entry.idempotency_key),
        iso(entry.at_ms),
    ]


def _to_the_second(ms: int) -> str:
    return iso(ms // 1000 * 1000)


def _table(title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> html.Html:
    return html.table(title, [html.Column(*column) for column in columns], rows)


def _page(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], number: int) -> str:
    if not rows:
        return html.page([html.paragraph(NOTHING)])
    return html.page([_table(title, columns, rows), html.rest(number - len(rows), "more row")])

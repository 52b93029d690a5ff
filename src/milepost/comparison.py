"""The result of `CheckpointStore.compare`: two runs side by side, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from milepost import html
from milepost.errors import shown
from milepost.readable import count, event_time, shorten_middle
from milepost.summary import STAGES_SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Divergence:
    """
    The first sequence at which two runs differ in a stage.

    Attributes:
        sequence: The sequence.
        one: The checkpoint of the first run there; None if it has none.
        other: The checkpoint of the other run there; None if it has none.
    """

    sequence: int
    one: Checkpoint | None
    other: Checkpoint | None


@dataclass(frozen=True, slots=True)
class StageComparison:
    """
    One stage of two runs.

    Attributes:
        stage: Its name.
        entries: How many checkpoints it has in the first run; 0 if only the other run has the stage.
        other_entries: How many checkpoints it has in the other run.
        common: How many sequences both runs have.
        different: At how many of those the offset, the event time or the idempotency key differs.
        first_only: The first sequence that only the first run has, or None.
        other_first_only: The first sequence that only the other run has, or None.
        divergence: Where the two runs first part, or None.
    """

    stage: str
    entries: int
    other_entries: int
    common: int
    different: int
    first_only: int | None
    other_first_only: int | None
    divergence: Divergence | None

    @property
    def identical(self) -> bool:
        """True if both runs have the same sequences with the same watermarks and keys."""
        return self.divergence is None

    @property
    def only(self) -> int:
        """How many sequences only the first run has."""
        return self.entries - self.common

    @property
    def other_only(self) -> int:
        """How many sequences only the other run has."""
        return self.other_entries - self.common


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Two runs side by side. `run_id` and `at_ms` do not count, because they differ in any two runs.

    Attributes:
        run_id: The first run.
        other_run_id: The other run.
        stages: Every stage of either run, in order of first appearance in the file, or in the first run's file.
        file: The first run's file if the runs are of two files of a fleet, or None.
        other_file: The other run's file, or None.
    """

    run_id: str
    other_run_id: str
    stages: tuple[StageComparison, ...]
    file: str | None = None
    other_file: str | None = None

    @property
    def identical(self) -> bool:
        """True if both runs have the same stages, and every stage is identical."""
        return all(stage.identical for stage in self.stages)

    @property
    def only(self) -> tuple[str, ...]:
        """The stages that only the first run has."""
        return tuple(stage.stage for stage in self.stages if not stage.other_entries)

    @property
    def other_only(self) -> tuple[str, ...]:
        """The stages that only the other run has."""
        return tuple(stage.stage for stage in self.stages if not stage.entries)

    def excerpt(self, number: int) -> tuple[tuple[StageComparison, ...], str]:
        """
        Choose the stages to show, and describe the others in a sentence. Without others, the sentence is empty.

        If there are too many, the stages that part at the lowest sequence come first, and identical stages come last.

        Args:
            number: How many stages to show at most.
        """
        if len(self.stages) <= number:
            return self.stages, ""
        parting_first = sorted(self.stages, key=_parting)
        rest = parting_first[number:]
        identical = sum(stage.identical for stage in rest)
        kinds = [(len(rest) - identical, "different"), (identical, "identical")]
        kinds_of_rest = ", ".join(f"{how_many:,} {kind}" for how_many, kind in kinds if how_many)
        return tuple(parting_first[:number]), f"and {count(len(rest), 'more stage')}: {kinds_of_rest}"

    def __str__(self) -> str:
        one, other = _label(shown(self.run_id), self.file), _label(shown(self.other_run_id), self.other_file)
        lines = [f"run {one} and run {other} {'are identical' if self.identical else 'differ'}"]
        stages, rest = self.excerpt(STAGES_SHOWN)
        for stage in stages:
            lines.append(f"  stage {shown(stage.stage)}: {_verdict(stage, one, other)}")
            if stage.divergence is not None:
                lines += [
                    f"    {run}: {'nothing' if entry is None else _content(entry)}"
                    for run, entry in ((one, stage.divergence.one), (other, stage.divergence.other))
                ]
        if rest:
            lines.append(f"  {rest}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        one, other = _label(html.name(self.run_id), self.file), _label(html.name(self.other_run_id), self.other_file)
        stages, rest = self.excerpt(STAGES_SHOWN)
        return html.page(
            [
                html.paragraph(html.Html(f"{html.text(one)} and {html.text(other)}"), "mp-title"),
                html.paragraph(html.verdict(self.identical, "identical" if self.identical else "they differ")),
                _table(stages, one, other),
                html.paragraph(rest, "mp-muted") if rest else html.Html(),
                _table_of_divergences(stages, one, other),
            ]
        )


def _label(run: str, file: str | None) -> str:
    """Name a run, and its file if the other run is in another one. The end of a path tells it from its neighbours."""
    return run if file is None else f"{run} of {shorten_middle(file, html.NAME_LENGTH)}"


def _parting(stage: StageComparison) -> tuple[bool, int]:
    """Return the key by which an excerpt sorts the stages."""
    return (True, 0) if stage.divergence is None else (False, stage.divergence.sequence)


def _verdict(stage: StageComparison, one: str, other: str) -> str:
    if stage.divergence is None:
        return f"identical, {count(stage.entries, 'entry')}"
    parts = [f"parts at sequence {stage.divergence.sequence}"]
    if stage.common:
        parts.append(f"{stage.different:,} of {stage.common:,} in common differ")
    for run, number, first in ((one, stage.only, stage.first_only), (other, stage.other_only, stage.other_first_only)):
        if first is not None:
            parts.append(f"{number:,} only in {run}, from sequence {first} on")
    return "; ".join(parts)


def _content(entry: Checkpoint) -> str:
    mark = entry.watermark
    key = shown(entry.idempotency_key)
    return f"offset {mark.offset}, event time {event_time(mark.event_time_ms)}, idempotency_key {key}"


# The page that a notebook shows


def _table(stages: Iterable[StageComparison], one: str, other: str) -> html.Html:
    return html.table(
        "Stage by stage, without run_id and at_ms",
        [
            html.Column("Stage", "mp-name"),
            html.Column("Verdict"),
            html.Column("In common", "mp-number"),
            html.Column("Of these differ", "mp-number"),
            html.Column(f"Only in {one}", "mp-name"),
            html.Column(f"Only in {other}", "mp-name"),
        ],
        [
            [
                html.name(stage.stage),
                html.verdict(stage.identical, "identical" if stage.divergence is None else _parts_where(stage)),
                f"{stage.common:,}",
                f"{stage.different:,}" if stage.different else "–",
                _only(stage.only, stage.first_only),
                _only(stage.other_only, stage.other_first_only),
            ]
            for stage in stages
        ],
    )


def _parts_where(stage: StageComparison) -> str:
    if not stage.common:
        return "only in one run" if not stage.entries or not stage.other_entries else "nothing in common"
    return f"parts at sequence {stage.divergence.sequence:,}" if stage.divergence else ""


def _only(number: int, first: int | None) -> str:
    return "–" if first is None else f"{number:,}, from sequence {first:,} on"


def _table_of_divergences(stages: Iterable[StageComparison], one: str, other: str) -> html.Html:
    lines = [
        [html.name(stage.stage), f"{stage.divergence.sequence:,}", run, *_cells(entry)]
        for stage in stages
        if stage.divergence
        for run, entry in ((one, stage.divergence.one), (other, stage.divergence.other))
    ]
    columns = [
        html.Column("Stage", "mp-name"),
        html.Column("Sequence", "mp-number"),
        html.Column("Run", "mp-name"),
        html.Column("Offset", "mp-number"),
        html.Column("Event time"),
        html.Column("Idempotency key", "mp-name"),
    ]
    return html.table("Where they part first", columns, lines) if lines else html.Html()


def _cells(entry: Checkpoint | None) -> list[str]:
    if entry is None:
        return ["nothing", "", ""]
    return [f"{entry.watermark.offset:,}", event_time(entry.watermark.event_time_ms), html.name(entry.idempotency_key)]

"""Pictures of the stages of runs: progress, lag, when each was active, and where two runs part."""

from __future__ import annotations

from dataclasses import replace
from math import log10
from typing import TYPE_CHECKING, Final

from milepost import rows
from milepost.errors import NoCheckpointError
from milepost.forensics import active, scales
from milepost.forensics.outline import Mark
from milepost.forensics.picture import COLOURS, FAULT, GREY, PLAIN, add_note, empty, new_picture, nothing, short, whose
from milepost.forensics.stage_lines import (
    LABEL,
    RUNS,
    Line,
    about,
    clock_axis,
    counted,
    day,
    draw,
    entries_of,
    excerpt_of,
    label_runs,
    label_stages,
    last_lines,
    lines_of,
    mark_jump,
    markers,
    title_points,
    whole_name,
)
from milepost.readable import count, duration, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes

    from milepost.comparison import Comparison, Divergence
    from milepost.database import Read
    from milepost.forensics.picture import Picture
    from milepost.rows import Filter

STAGES: Final = 20  # each has its own look and label; of more, a picture shows those active last
BARS: Final = 60  # one below the other: three stages of each run
PANELS: Final = 8  # one below the other; of more stages, a picture shows those that part first
_HIGHEST: Final = 15.8  # inches, and so less than 1,600 pixels at 100 to the inch
_VARIED: Final = 4  # if no lag is more than so many times another one, the scale is not logarithmic


def progress(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.progress`."""
    excerpt = excerpt_of(read, chosen, active.same_stages, RUNS, STAGES)
    lines = lines_of(read, excerpt, lambda mark: (mark.at_ms, mark.offset, mark.event_time_ms), aligned=aligned)
    height = max(7.2, 1.3 + 2 * LABEL * len(last_lines(lines)))
    timed = any(mark.event_time_ms for line in lines for mark in line.outline.marks)
    figure, (above, *below) = new_picture(f"Progress of {whose(chosen)}", height if timed else height * 0.6, 1 + timed)
    if not lines:
        return nothing(figure, chosen)
    first_offsets = _since_begin(lines, lambda mark: mark.offset)
    draw(above, lines, lambda line, mark: mark.offset - first_offsets.get(line.run_stage, 0))
    above.set_ylabel("offset since the run began" if first_offsets else "offset")
    scales.whole_numbers(above.yaxis)
    label_stages(above, lines, lambda line, mark: mark.offset - first_offsets.get(line.run_stage, 0))
    if chosen.run_id is None and lines[0].start_ms is None:
        label_runs(above, lines)
    for axes in below:
        _draw_event_times(axes, [line for line in lines if line.outline.marks[-1].event_time_ms])
    clock_axis(figure.axes[-1], lines)
    add_note(figure, counted(chosen, lines, excerpt, "dotted: nothing recorded"), about(lines))
    return figure


def _draw_event_times(axes: Axes, lines: list[Line]) -> None:
    events = _since_begin(lines, lambda mark: mark.event_time_ms)
    if not events:
        axes.set_ylabel("event time (UTC)")
        draw(axes, lines, lambda _, mark: day(mark.event_time_ms), _timed)
        scales.calendar(axes.yaxis, [mark.event_time_ms for line in lines for mark in _timed(line.outline.marks)])
        return

    def since_begin(line: Line, mark: Mark) -> int:
        return mark.event_time_ms - events[line.run_stage]

    axes.set_ylabel("event time since the run's first")
    draw(axes, lines, since_begin, _timed)
    scales.spans(axes.yaxis, [since_begin(line, mark) for line in lines for mark in _timed(line.outline.marks)])


def lag(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.lag`."""
    excerpt = excerpt_of(read, chosen, active.same_stages, RUNS, STAGES, active.behind)
    lines = lines_of(read, excerpt, lambda mark: (mark.at_ms, log10(_lag_ms(mark))), _lag_apart, aligned=aligned)
    with_times = [line for line in lines if line.outline.marks[-1].event_time_ms]
    figure, (axes,) = new_picture(f"Lag of {whose(chosen)}", max(4.2, 1.3 + LABEL * len(last_lines(with_times))), 1)
    if not lines:
        return nothing(figure, chosen)
    if not with_times:
        return empty(figure, f"no event times were given: of {count(entries_of(lines), 'checkpoint')} the lag is not known")
    ahead = sum(mark.at_ms < mark.event_time_ms for line in with_times for mark in line.outline.marks)
    draw(axes, with_times, lambda _, mark: _lag_ms(mark), _timed, dotted=False)
    axes.set_ylabel("wall clock minus event time")
    lags = [_lag_ms(mark) for line in with_times for mark in _timed(line.outline.marks)]
    if max(lags) > _VARIED * min(lags):
        scales.logarithmic_spans(axes.yaxis, lags)
    else:
        scales.spans(axes.yaxis, lags, from_zero=False)
    label_stages(axes, with_times, lambda _, mark: _lag_ms(mark))
    if chosen.run_id is None and lines[0].start_ms is None:
        label_runs(axes, with_times)
    clock_axis(axes, with_times)
    note = counted(chosen, lines, excerpt, "a gap: nothing recorded", telling="farthest behind")
    add_note(figure, note + (" · at 1 ms: event time is ahead of the wall clock" if ahead else ""), about(lines))
    return figure


def runs(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.runs`."""
    excerpt = excerpt_of(read, chosen, active.of_each_run, RUNS, BARS)
    lines = lines_of(read, excerpt, lambda mark: (mark.at_ms, mark.sequence), aligned=aligned)
    last_of_run = {line.run_stage.run_number: line for line in lines}
    rows_high = len(lines) + 0.6 * len(last_of_run)  # with some air between two runs
    title = "Runs and their stages" if chosen.run_id is None and chosen.stage is None else f"Activity of {whose(chosen)}"
    figure, (axes,) = new_picture(title, min(1.5 + 0.24 * rows_high, _HIGHEST), 1)
    if not lines:
        return nothing(figure, chosen)
    places, names, place = [], [], 0.0
    run_number = None
    for line in lines:
        if line.run_stage.run_number != run_number:
            place += 0.6
            run_number = line.run_stage.run_number
            names.append(short(line.run_stage.run_id))
            places.append(place)
        _draw_bar(figure, axes, line, place)
        told = f"{short(line.run_stage.stage)} · {line.run_stage.entries:,}"
        if line is last_of_run[run_number] and run_number in excerpt.rest_of_run:
            told += f" · and {excerpt.rest_of_run[run_number]:,} more"
        axes.annotate(
            told, (max(line.xs(line.outline.marks)), place), (6, 0), textcoords="offset points",
            va="center", color=GREY, fontsize=8, annotation_clip=False, **PLAIN,
        )  # fmt: skip
        place += 1
    axes.set_ylim(place + 0.2, -0.4)
    axes.set_yticks(places, names, **PLAIN)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    clock_axis(axes, lines)
    add_note(figure, counted(chosen, lines, excerpt, "dotted: nothing recorded", "bar"), about(lines, event_times=False))
    return figure


def _draw_bar(figure: Picture, axes: Axes, line: Line, place: float) -> None:
    """Draw when a stage was active. Behind a jump of the clock the bar goes on in the next lane."""
    marks, jumps = line.outline.marks, line.outline.jumps
    lanes = min(len(jumps), 3) + 1
    height = 0.8 / lanes
    begun = 0
    for stretch in line.outline.stretches():
        lane = sum(jump < begun for jump in jumps) % lanes
        begun += len(stretch)
        xs = line.xs(stretch)
        bar = axes.broken_barh(
            [(min(xs), max(xs) - min(xs))], (place - 0.4 + lane * height, height),
            facecolor=line.colour, edgecolor=line.colour, linewidth=1,
        )  # fmt: skip
        figure.titles.bar(bar, _told_of_stretch(line, stretch))
    if len(marks) == 1 or marks[0].at_ms == marks[-1].at_ms:  # no bar has this width
        axes.plot([line.x(marks[0])], [place], color=line.colour, marker="o", markersize=4, label="_moment")
    for silence in line.outline.silences:
        axes.plot(
            line.xs(marks[silence : silence + 2]), [place, place],
            color=line.colour, linewidth=0.8, linestyle=":", label="_silence",
        )  # fmt: skip
    for jump in jumps:
        mark_jump(axes, line.xs(marks[jump : jump + 2]), [place, place])


def _told_of_stretch(line: Line, stretch: Sequence[Mark]) -> str:
    first, last = stretch[0], stretch[-1]
    took = duration(last.at_ms - first.at_ms)
    return (
        f"{whole_name(line)} · {iso(first.at_ms)} to {iso(last.at_ms)}, {took} · offset {first.offset:,} to {last.offset:,}"
    )


def compare(read: Read, found: Comparison, stage: str | None) -> Picture:
    """See `CheckpointStore.plot.compare`."""
    run_ids = found.run_id, found.other_run_id
    if stage is not None:
        found = replace(found, stages=tuple(each for each in found.stages if each.stage == stage))
        if not found.stages:
            raise NoCheckpointError(found.run_id, stage)
    stages, rest = found.excerpt(PANELS)
    one_run, other_run = (_by_stage(read, run_id, [compared.stage for compared in stages]) for run_id in run_ids)
    title = " and ".join(map(short, run_ids))
    figure, panels = new_picture(title, min(1.2 + 2.1 * len(stages), _HIGHEST), len(stages), share=False)
    for compared, axes in zip(stages, panels, strict=True):
        pair = one_run.get(compared.stage), other_run.get(compared.stage)
        for line, colour, width in ((pair[0], COLOURS[4], 6), (pair[1], COLOURS[0], 1.5)):
            if line is not None:
                marks = line.outline.marks
                title_points(figure, axes, line, marks, lambda _, mark: (mark.sequence, mark.offset), 2 * len(stages))
                axes.plot(
                    [mark.sequence for mark in marks], [mark.offset for mark in marks], color=colour, linewidth=width,
                    solid_capstyle="round", label="_run", **markers(marks, [line]),
                )  # fmt: skip
        told = f"{short(compared.stage)}: {compared.entries:,} and {compared.other_entries:,} checkpoints"
        axes.set_title(told, loc="left", fontsize=9, color=GREY, **PLAIN)
        axes.set_ylabel("offset")
        for axis in (axes.xaxis, axes.yaxis):
            scales.whole_numbers(axis)
        if compared.divergence is None:
            axes.annotate("identical", (0.99, 0.06), xycoords="axes fraction", ha="right", color=GREY, fontsize=9)
            continue
        sequence = compared.divergence.sequence
        axes.axvline(sequence, color=FAULT, linewidth=1.2, label="divergence")
        # An offset never falls: there is room above the line at its left half, and below at its right.
        left = sequence < sum(axes.get_xlim()) / 2
        axes.annotate(
            f" they part at sequence {sequence:,}: {_difference(found, compared.divergence)} ",
            (sequence, 0.88 if left else 0.05), xycoords=("data", "axes fraction"), color=FAULT, fontsize=9,
            ha="left" if left else "right", annotation_clip=False, **PLAIN,
        )  # fmt: skip
    panels[-1].set_xlabel("sequence")
    note = f"wide, light: {short(found.run_id)} · narrow, dark: {short(found.other_run_id)}"
    add_note(figure, f"{note} · {rest}" if rest else note)
    return figure


def _difference(found: Comparison, divergence: Divergence) -> str:
    one, other = divergence.one, divergence.other
    if one is None or other is None:
        return f"only {short(found.run_id if one else found.other_run_id)} has it"
    if one.watermark.offset != other.watermark.offset:
        return f"offset {one.watermark.offset:,}, not {other.watermark.offset:,}"
    return "another event time" if one.watermark != other.watermark else "another idempotency key"


def _by_stage(read: Read, run_id: str, stages: Iterable[str]) -> dict[str, Line]:
    """Outline those of these stages that the run has, for a picture of offsets by sequence."""
    spans = [span for stage in stages if (span := read(active.stage_of_run, run_id, stage)) is not None]
    excerpt = active.Excerpt(spans, {span.run_stage.run_number: 0 for span in spans})
    return {line.run_stage.stage: line for line in lines_of(read, excerpt, lambda mark: (mark.sequence, mark.offset))}


def _since_begin(lines: list[Line], value: Callable[[Mark], int]) -> dict[rows.RunStage, int]:
    """
    What to take from a value of each line where runs are laid over each other, and each goes on where another one ended.

    Nothing if they are not laid over each other, or if most begin low.
    """
    if not lines or lines[0].start_ms is None:
        return {}
    firsts = {line.run_stage: next(filter(None, map(value, line.outline.marks)), 0) for line in lines}
    gains = [value(line.outline.marks[-1]) - firsts[line.run_stage] for line in lines]
    return firsts if max(firsts.values()) - min(firsts.values()) > max(gains) else {}


def _timed(marks: Iterable[Mark]) -> list[Mark]:
    """The marks with an event time: one that was never given is 0."""
    return [mark for mark in marks if mark.event_time_ms]


def _lag_ms(mark: Mark) -> int:
    return max(1, mark.at_ms - mark.event_time_ms)


def _lag_apart(one: Mark, two: Mark) -> tuple[float, float]:
    """Return the largest distances between two marks: the clock runs on while event time stands still, or the reverse."""
    most, least = max(1, two.at_ms - one.event_time_ms), max(1, one.at_ms - two.event_time_ms)
    return two.at_ms - one.at_ms, log10(most / least)

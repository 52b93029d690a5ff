"""
The lines of a picture: a stage of a run each, outlined by as few entries as one can see, and named at its end.

However much a file holds, a picture reads and draws only as much as you can read. It says how much it leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import sub
from typing import TYPE_CHECKING, Any, Final

from milepost import rows
from milepost.forensics import active, hover, scales
from milepost.forensics.outline import Mark, Outline, outline
from milepost.forensics.picture import COLOURS, GREY, PLAIN, TITLE, refuse_unknown, short
from milepost.readable import count, duration, iso, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import apsw
    from matplotlib.axes import Axes

    from milepost.database import Read
    from milepost.forensics.picture import Picture
    from milepost.rows import Filter

_DASHES: Final = ("-", "--", ":", "-.")  # with five colours, a look of its own for each of twenty stages
RUNS: Final = 20  # of more runs, a picture shows those active last
_POINTS: Final = 12_000  # marks in a picture, at most: 200 for each of the most lines, every 4 pixels
LABEL: Final = 0.17  # inches from one label to the next, at least


@dataclass(frozen=True, slots=True)
class Line:
    """A stage of a run, and how to draw it. Where runs are aligned, `start_ms` is when its run began."""

    run_stage: rows.RunStage
    outline: Outline
    colour: str
    dash: str
    width: float  # the first of a few stages have wider lines, so that all show where they coincide
    start_ms: int | None
    alpha: float

    def x(self, mark: Mark) -> float:
        """Where a mark is: in days since the epoch, or in ms since the run began."""
        return day(mark.at_ms) if self.start_ms is None else mark.at_ms - self.start_ms

    def xs(self, marks: Iterable[Mark]) -> list[float]:
        """Where marks are."""
        return list(map(self.x, marks))


def excerpt_of(read: Read, chosen: Filter, query: Callable[..., active.Excerpt], *given: Any) -> active.Excerpt:
    """
    What a picture shows of what is asked for.

    Raises:
        NoCheckpointError: The run, or the stage, was never recorded.
    """
    refuse_unknown(read, chosen)
    return read(query, chosen, *given)


def lines_of(
    read: Read,
    excerpt: active.Excerpt,
    place: Callable[[Mark], tuple[float, ...]],
    apart: Callable[[Mark, Mark], tuple[float, ...]] | None = None,
    *,
    aligned: bool | None = False,
) -> list[Line]:
    """
    Outline stages of runs for a picture in which each mark is at `place`.

    `apart` returns the largest distance along each axis between two marks and all marks between them. Without it, the
    distance of the two marks counts, which is right for values that do not fall.
    """
    ends = [(span.first, span.last) for span in excerpt.spans]
    run_stages = [span.run_stage for span in excerpt.spans]
    starts = excerpt.starts if _are_aligned(excerpt, aligned) else {}
    last_run = max((run_stage.run_number for run_stage in run_stages), key=lambda number: excerpt.starts[number], default=0)
    corners = [place(mark) for pair in ends for mark in pair]
    sizes = [max(values) - min(values) or 1 for values in zip(*corners, strict=True)]

    def distance(one: Mark, two: Mark) -> float:
        if apart is None:
            lengths: Iterable[float] = map(sub, place(two), place(one))
        else:
            lengths = apart(one, two)
        return max(abs(length) / size for length, size in zip(lengths, sizes, strict=True))

    points = min(2000, _POINTS // max(1, len(run_stages)))

    def outlined(connection: apsw.Connection, run_stage: rows.RunStage, first: Mark, last: Mark) -> Outline:
        def between(low: int, high: int) -> Mark | None:
            found = rows.between_in_run_stage(connection, run_stage.run_number, run_stage.stage_number, low, high)
            return None if found is None else Mark(*found)

        return outline(first, last, run_stage.entries, between, distance, points=points)

    numbered = sorted((run_stage.stage_number, run_stage.stage) for run_stage in run_stages)
    stages = {stage: index for index, stage in enumerate(dict.fromkeys(stage for _, stage in numbered))}
    found = []
    for run_stage, (first, last) in zip(run_stages, ends, strict=True):
        number = stages[run_stage.stage]
        is_bold = not starts or run_stage.run_number == last_run
        width = (2.4 if is_bold else 0.9) if starts else max(4.2 - 1.4 * number, 1.2) if len(stages) <= len(COLOURS) else 1.2
        found.append(
            Line(
                run_stage,
                read(outlined, run_stage, first, last),  # at once: each read looks whether the file was replaced
                COLOURS[number % len(COLOURS)],
                _DASHES[number // len(COLOURS) % len(_DASHES)],
                width,
                starts.get(run_stage.run_number),
                1 if is_bold else 0.45,
            )
        )
    return found


def _are_aligned(excerpt: active.Excerpt, aligned: bool | None) -> bool:
    """By themselves, runs are laid over each other if they would be slivers on one clock: most of that time nothing ran."""
    if aligned is not None:
        return aligned
    ends: dict[int, int] = {}
    for span in excerpt.spans:
        number = span.run_stage.run_number
        ends[number] = max(span.last.at_ms, ends.get(number, 0))
    took = sum(max(0, end - excerpt.starts[number]) for number, end in ends.items())
    whole = max(ends.values(), default=0) - min((excerpt.starts[number] for number in ends), default=0)
    return len(ends) > 1 and 0 < 5 * took < whole


def entries_of(lines: Iterable[Line]) -> int:
    """Return how many checkpoints the stages have, drawn or not."""
    return sum(line.run_stage.entries for line in lines)


def day(ms: int) -> float:
    """A time in matplotlib's unit: days since the epoch."""
    return ms / scales.DAY_MS


def _style(line: Line) -> dict[str, Any]:
    look = {"color": line.colour, "linestyle": line.dash, "linewidth": line.width, "alpha": line.alpha}
    return {**look, "label": f"_{line.run_stage.stage}", "zorder": 2 + line.alpha}


def markers(marks: Sequence[Mark], lines: Sequence[Line]) -> dict[str, Any]:
    """Return markers for single checkpoints. Among many lines, only a checkpoint with no other beside it gets one."""
    return {"marker": "o", "markersize": 3} if len(marks) < (30 if len(lines) <= RUNS else 2) else {}


def draw(
    axes: Axes,
    lines: Sequence[Line],
    height: Callable[[Line, Mark], float],
    marks_of: Callable[[Iterable[Mark]], list[Mark]] = list,
    *,
    dotted: bool = True,
) -> None:
    """Draw each line, with its silences if they are dotted, and with the jumps of its clock."""
    figure: Picture = axes.figure  # type: ignore[assignment]
    for line in lines:
        for stretch in map(marks_of, line.outline.stretches()):
            heights = [height(line, mark) for mark in stretch]
            axes.plot(line.xs(stretch), heights, **_style(line), **markers(stretch, lines))
        marks, jumps = line.outline.marks, line.outline.jumps
        for index in [*(line.outline.silences if dotted else ()), *jumps]:
            pair = marks_of(marks[index : index + 2])
            if len(pair) == 2:
                heights = [height(line, mark) for mark in pair]
                if index in jumps:
                    mark_jump(axes, line.xs(pair), heights)
                else:
                    look: dict[str, Any] = {"color": line.colour, "linewidth": 0.8, "linestyle": ":", "alpha": line.alpha}
                    axes.plot(line.xs(pair), heights, label="_silence", **look)
        title_points(figure, axes, line, marks_of(marks), lambda line, mark: (line.x(mark), height(line, mark)), len(lines))


def mark_jump(axes: Axes, xs: list[float], heights: list[float]) -> None:
    """Mark where the clock jumped back."""
    axes.plot(xs, heights, color=GREY, linewidth=0.8, label="_jump", zorder=4)
    axes.plot(xs[1:], heights[1:], color=GREY, marker="<", markersize=5, label="_jump", zorder=4)


def title_points(
    figure: Picture,
    axes: Axes,
    line: Line,
    marks: Sequence[Mark],
    place: Callable[[Line, Mark], tuple[float, float]],
    lines: int,
) -> None:
    """Give some marks of a line titles: as many as there is room for, evenly."""
    chosen = marks[:: -(-len(marks) * lines // hover.POINTS) or 1]
    if chosen:
        xs, ys = zip(*(place(line, mark) for mark in chosen), strict=True)
        figure.titles.points(axes, xs, ys, [_told_of_mark(line, mark) for mark in chosen])


def _told_of_mark(line: Line, mark: Mark) -> str:
    event = f"event time {iso(mark.event_time_ms)}" if mark.event_time_ms else "no event time"
    since = "" if line.start_ms is None else f", {duration(mark.at_ms - line.start_ms)} since the run began"
    return (
        f"{whole_name(line)} · sequence {mark.sequence:,} · offset {mark.offset:,} · {event} · at {iso(mark.at_ms)}{since}"
    )


def whole_name(line: Line) -> str:
    """Return the names of its run and its stage, for a title."""
    return f"{shorten(line.run_stage.run_id, TITLE)} · {shorten(line.run_stage.stage, TITLE)}"


def last_lines(lines: list[Line]) -> list[Line]:
    """The line of the last run of each stage."""
    return list({line.run_stage.stage: line for line in sorted(lines, key=lambda line: line.alpha)}.values())


def label_stages(axes: Axes, lines: list[Line], height: Callable[[Line, Mark], float]) -> None:
    """
    Put the name of each stage at the right, as high as its last line ends, or as near as there is room.

    If there are more stages than colours, a bit of the line goes with the name.
    """
    lasts = last_lines(lines)
    axes.get_xlim(), axes.get_ylim()  # has matplotlib settle them
    to_share = axes.transData + axes.transAxes.inverted()
    ends = [(each.x(each.outline.marks[-1]), height(each, each.outline.marks[-1])) for each in lasts]
    heights = [to_share.transform(end)[1] for end in ends]
    ordered = sorted(zip(heights, lasts, strict=True), key=lambda pair: -pair[0])
    room = min(0.08, 1 / len(lasts))
    tops = [min(share, 1.0) for share, _ in ordered]
    for i in range(1, len(tops)):
        tops[i] = min(tops[i], tops[i - 1] - room)
    floor = 0.0
    for i in reversed(range(len(tops))):  # no label goes below the axes, where the picture would grow by it
        tops[i] = floor = max(tops[i], floor)
        floor += room
    many = len(lasts) > len(COLOURS)
    for top, (_, line) in zip(tops, ordered, strict=True):
        look = {"color": line.colour, "linestyle": line.dash, "linewidth": 1.4}
        sample = {**look, "arrowstyle": "-", "shrinkA": 4, "shrinkB": 0} if many else None
        axes.annotate(
            short(line.run_stage.stage), (1.01, top), (1.06 if many else 1.01, top), xycoords="axes fraction",
            textcoords="axes fraction", arrowprops=sample, color=line.colour, va="center", fontsize=9,
            annotation_clip=False, **PLAIN,
        )  # fmt: skip


def label_runs(axes: Axes, lines: list[Line]) -> None:
    """Put the name of each run over its beginning, where there is room."""
    starts: dict[str, int] = {}
    for line in lines:
        at_ms = line.outline.marks[0].at_ms
        starts[line.run_stage.run_id] = min(at_ms, starts.get(line.run_stage.run_id, at_ms))
    to_share = axes.transData + axes.transAxes.inverted()
    free = 0.0
    for run_id, at_ms in sorted(starts.items(), key=lambda item: item[1]):
        share = to_share.transform((day(at_ms), 0))[0]
        if share >= free:
            axes.annotate(short(run_id), (share, 1.02), xycoords="axes fraction", color=GREY, fontsize=8, **PLAIN)
            free = share + 0.013 * (len(short(run_id)) + 1)


def clock_axis(axes: Axes, lines: list[Line]) -> None:
    """Write the wall clock below, or the time since the runs began if they are laid over each other."""
    if lines[0].start_ms is not None:
        axes.set_xlabel("since the run began")
        scales.spans(axes.xaxis, [mark.at_ms - (line.start_ms or 0) for line in lines for mark in line.outline.marks])
        return
    axes.set_xlabel("wall clock (UTC)")
    scales.calendar(axes.xaxis, [mark.at_ms for line in lines for mark in line.outline.marks])


def counted(
    chosen: Filter,
    lines: list[Line],
    excerpt: active.Excerpt,
    legend: str,
    drawn: str = "stage",
    telling: str = "that differ most",
) -> str:
    """Say how many checkpoints, runs and stages are drawn and left out, and how long a stage was silent."""
    found = count(entries_of(lines), "checkpoint") + (f" of the stages {telling}" if excerpt.rest else "")
    if chosen.run_id is None:
        found += of_all(" in " if excerpt.rest else " of ", len(excerpt.starts), excerpt.runs, excerpt.more_runs)
    if excerpt.rest:
        found += f" · and {'at least ' if excerpt.or_more else ''}{count(excerpt.rest, f'more {drawn}')}"
    silent = [
        two.at_ms - one.at_ms
        for line in lines
        for one, two in (line.outline.marks[index : index + 2] for index in line.outline.silences)
    ]
    return f"{found} · {legend}, for {duration(max(silent))} at the longest" if silent else found


def of_all(joint: str, shown: int, runs: int, more: bool) -> str:
    """Say how many of all runs are shown."""
    least = "at least " if more else ""
    return f"{joint}{'' if shown == runs and not more else f'the last {shown:,} of {least}'}{count(runs, 'run')}"


def about(lines: list[Line], *, event_times: bool = True) -> str:
    """What else one has to know of the lines: which run is which, jumps of the clock, event times that were not given."""
    said = []
    runs = {line.run_stage.run_number for line in lines}
    if lines[0].start_ms is not None and len(runs) > 1 and event_times:
        (last,) = {line.run_stage.run_id for line in lines if line.alpha == 1}
        said.append(f"bold: {short(last)}, which began last; thin: {count(len(runs) - 1, 'run')} before")
    jumps = [
        one.at_ms - two.at_ms
        for line in lines
        for one, two in (line.outline.marks[index : index + 2] for index in line.outline.jumps)
    ]
    if jumps:
        said.append(f"grey arrow: the clock jumped back, by {duration(max(jumps))} at most")
    without = {line.run_stage.stage for line in lines if not line.outline.marks[-1].event_time_ms}
    if event_times and without:
        of_all = len(without) == len({line.run_stage.stage for line in lines})
        said.append("no event times were given" + ("" if of_all else f" in {count(len(without), 'stage')}"))
    return " · ".join(said)

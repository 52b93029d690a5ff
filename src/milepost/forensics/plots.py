"""
Pictures of what happened: progress, runs, lag, and where two runs part.

You can read them on a white and on a dark page: they have no background, and their text is grey. They use the colours of
Okabe and Ito, which colour-blind people can tell apart; red is for faults alone. Names are hostile data: matplotlib never
reads them as formulas.

However much a file holds, a picture reads and draws only as much as you can read. It says how much it leaves out.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache, partial
from io import BytesIO
from math import log10
from operator import sub
from typing import TYPE_CHECKING, Any, Final

from milepost import rows
from milepost.forensics import active
from milepost.forensics.extra import extra
from milepost.forensics.outline import Mark, Outline, outline
from milepost.readable import count, duration, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from matplotlib import dates, textpath, ticker
    from matplotlib import font_manager as fonts
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from milepost.comparison import Comparison, Divergence
    from milepost.database import Read
else:
    dates, ticker = extra("matplotlib.dates"), extra("matplotlib.ticker")
    fonts, textpath = extra("matplotlib.font_manager"), extra("matplotlib.textpath")
    Figure = extra("matplotlib.figure").Figure

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
FAULT: Final = "#D55E00"
GREY: Final = "#808080"  # 4 to 1 on white, 5 to 1 on black
_DASHES: Final = ("-", "--", ":", "-.")  # with five colours, a look of its own for each of twenty stages

RUNS: Final = 20  # of more runs, a picture shows those active last
STAGES: Final = 20  # each has its own look and label; of more, a picture shows those active last
BARS: Final = 60  # one below the other: three stages of each run
PANELS: Final = 8  # one below the other; of more stages, a picture shows those that part first
_HIGHEST: Final = 15.8  # inches, and so less than 1,600 pixels at 100 to the inch
_POINTS: Final = 20_000  # marks in a picture, at most
_LABEL: Final = 0.17  # inches from one label to the next, at least
_LONGEST: Final = 32  # characters of a name
_WIDEST: Final = 20  # times the size of the font, which is about as wide as so many letters
_TALLEST: Final = 1.35  # times the size of the font: a letter with two accents and a tail
_PLAIN: Final[dict[str, Any]] = {"parse_math": False, "usetex": False}  # a name is no formula
_DAY_MS: Final = 86_400_000
_LAST_DATE_MS: Final = 253_402_214_400_000  # the last day of the year 9999, where Python's calendar ends
_UNITS: Final = {  # of a span of time: in ms, and how many of it are marked on an axis
    "ms": (1, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    "s": (1000, (1, 2, 5, 10, 20, 30)),
    "min": (60_000, (1, 2, 5, 10, 20, 30)),
    "h": (3_600_000, (1, 2, 3, 6, 12)),
    "d": (_DAY_MS, (1, 2, 4, 7, 14, 30, 60, 90, 180)),
    "y": (365 * _DAY_MS, (1, 2, 3, 5, 10, 15, 20, 30, 50, 100)),
}
_SPANS: Final = {number * size: f"{number} {unit}" for unit, (size, counts) in _UNITS.items() for number in counts}


class Picture(Figure):
    """A matplotlib Figure without pyplot and its state; a notebook shows it as the last line of a cell."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save it as matplotlib does, without a background. A character that the font lacks is drawn as a box."""
        with _any_characters():
            ours: dict[str, Any] = {"transparent": True, "bbox_inches": "tight", "dpi": 120}
            super().savefig(fname, **ours | options)

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


@dataclass(frozen=True, slots=True)
class _Line:
    """A stage of a run, and how to draw it."""

    run_stage: rows.RunStage
    outline: Outline
    colour: str
    dash: str
    width: float  # the first of a few stages have wider lines, so that all show where they coincide


def progress(read: Read, run_id: str | None) -> Picture:
    """See `CheckpointStore.plot.progress`."""
    excerpt = read(active.same_stages, run_id, RUNS, STAGES)
    lines = _lines(read, excerpt.run_stages, lambda mark: (mark.at_ms, mark.offset, mark.event_time_ms))
    height = max(7.2, 1.3 + 2 * _LABEL * len(_last_lines(lines)))
    figure, (above, below) = _figure(f"Progress of {_whose(run_id)}", height, 2)
    if not lines:
        return _nothing(figure, run_id)
    for axes, height_of in ((above, _offset), (below, _event_day)):
        for line in lines:
            for stretch in line.outline.stretches():
                axes.plot(_days(stretch), list(map(height_of, stretch)), **_style(line), **_points(stretch, lines))
            _mark_silences(axes, line, height_of)
    above.set_ylabel("offset")
    above.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    _label_stages(above, lines, _offset)
    if run_id is None:
        _label_runs(above, lines)
    below.set_ylabel("event time (UTC)")
    _time_axis(below.yaxis, [mark.event_time_ms for line in lines for mark in line.outline.marks])
    _clock_axis(below, lines)
    _note(figure, _counted(read, run_id, lines, excerpt, "dotted: nothing recorded"))
    return figure


def lag(read: Read, run_id: str | None) -> Picture:
    """See `CheckpointStore.plot.lag`."""
    excerpt = read(active.same_stages, run_id, RUNS, STAGES)
    lines = _lines(read, excerpt.run_stages, lambda mark: (mark.at_ms, log10(_lag_ms(mark))), _lag_apart)
    figure, (axes,) = _figure(f"Lag of {_whose(run_id)}", max(4.2, 1.3 + _LABEL * len(_last_lines(lines))), 1)
    if not lines:
        return _nothing(figure, run_id)
    ahead = sum(mark.at_ms < mark.event_time_ms for line in lines for mark in line.outline.marks)
    for line in lines:
        for stretch in line.outline.stretches():
            axes.plot(_days(stretch), [_lag_ms(mark) for mark in stretch], **_style(line), **_points(stretch, lines))
    axes.set_yscale("log")
    axes.set_ylabel("wall clock minus event time")
    lags = [_lag_ms(mark) for line in lines for mark in line.outline.marks]
    low = max((span for span in _SPANS if span <= min(lags)), default=1)
    high = min((span for span in _SPANS if span > max(lags)), default=max(lags))
    axes.set_ylim(low * 0.9, high * 1.1)
    spans = [span for span in _SPANS if low <= span <= high]
    axes.yaxis.set_major_locator(ticker.FixedLocator(spans[:: len(spans) // 12 + 1]))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda span, _: _SPANS.get(round(span), "")))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    _label_stages(axes, lines, _lag_ms)
    if run_id is None:
        _label_runs(axes, lines)
    _clock_axis(axes, lines)
    note = _counted(read, run_id, lines, excerpt, "a gap: nothing recorded")
    _note(figure, note + (" · at 1 ms: event time is ahead of the wall clock" if ahead else ""))
    return figure


def runs(read: Read) -> Picture:
    """See `CheckpointStore.plot.runs`."""
    excerpt = read(active.of_each_run, RUNS, BARS)
    lines = _lines(read, excerpt.run_stages, lambda mark: (mark.at_ms,))
    last_of_run = {line.run_stage.run_number: line for line in lines}
    rows_high = len(lines) + 0.6 * len(last_of_run)  # with some air between two runs
    figure, (axes,) = _figure("Runs and their stages", min(1.5 + 0.24 * rows_high, _HIGHEST), 1)
    if not lines:
        return _nothing(figure, None)
    places, names, place = [], [], 0.0
    run_number = None
    for line in lines:
        if line.run_stage.run_number != run_number:
            place += 0.6
            run_number = line.run_stage.run_number
            names.append(_short(line.run_stage.run_id))
            places.append(place)
        stretches = [(start := _day(each[0].at_ms), _day(each[-1].at_ms) - start) for each in line.outline.stretches()]
        axes.broken_barh(stretches, (place - 0.4, 0.8), facecolor=line.colour, edgecolor=line.colour, linewidth=1)
        for silence in line.outline.silences():
            axes.plot(
                [_day(mark.at_ms) for mark in line.outline.marks[silence : silence + 2]], [place, place],
                color=line.colour, linewidth=0.8, linestyle=":", label="_silence",
            )  # fmt: skip
        told = f"{_short(line.run_stage.stage)} · {line.run_stage.entries:,}"
        if line is last_of_run[run_number] and run_number in excerpt.rest_of_run:
            told += f" · and {excerpt.rest_of_run[run_number]:,} more"
        axes.annotate(
            told, (_day(max(mark.at_ms for mark in line.outline.marks)), place), (6, 0), textcoords="offset points",
            va="center", color=GREY, fontsize=8, annotation_clip=False, **_PLAIN,
        )  # fmt: skip
        place += 1
    axes.set_ylim(place + 0.2, -0.4)
    axes.set_yticks(places, names, **_PLAIN)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    _clock_axis(axes, lines)
    _note(figure, _counted(read, None, lines, excerpt, "dotted: nothing recorded", "bar"))
    return figure


def compare(read: Read, found: Comparison) -> Picture:
    """See `CheckpointStore.plot.compare`."""
    run_ids = found.run_id, found.other_run_id
    stages, rest = found.excerpt(PANELS)
    one_run, other_run = (_by_stage(read, run_id, [compared.stage for compared in stages]) for run_id in run_ids)
    title = " and ".join(map(_short, run_ids))
    figure, panels = _figure(title, min(1.2 + 2.1 * len(stages), _HIGHEST), len(stages), share=False)
    for compared, axes in zip(stages, panels, strict=True):
        stage = compared.stage
        for line, colour, width in ((one_run.get(stage), COLOURS[4], 6), (other_run.get(stage), COLOURS[0], 1.5)):
            if line is not None:
                marks = line.outline.marks
                axes.plot(
                    [mark.sequence for mark in marks], [mark.offset for mark in marks], color=colour, linewidth=width,
                    solid_capstyle="round", label="_run", **_points(marks, [line]),
                )  # fmt: skip
        told = f"{_short(stage)}: {compared.entries:,} and {compared.other_entries:,} checkpoints"
        axes.set_title(told, loc="left", fontsize=9, color=GREY, **_PLAIN)
        axes.set_ylabel("offset")
        axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticker.EngFormatter(sep=""))
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
            ha="left" if left else "right", annotation_clip=False, **_PLAIN,
        )  # fmt: skip
    panels[-1].set_xlabel("sequence")
    note = f"wide, light: {_short(found.run_id)} · narrow, dark: {_short(found.other_run_id)}"
    _note(figure, f"{note} · {rest}" if rest else note)
    return figure


def _difference(found: Comparison, divergence: Divergence) -> str:
    one, other = divergence.one, divergence.other
    if one is None or other is None:
        return f"only {_short(found.run_id if one else found.other_run_id)} has it"
    if one.watermark.offset != other.watermark.offset:
        return f"offset {one.watermark.offset:,}, not {other.watermark.offset:,}"
    return "another event time" if one.watermark != other.watermark else "another idempotency key"


# The lines to draw


def _lines(
    read: Read,
    run_stages: Sequence[rows.RunStage],
    place: Callable[[Mark], tuple[float, ...]],
    apart: Callable[[Mark, Mark], tuple[float, ...]] | None = None,
) -> list[_Line]:
    """
    Outline stages of runs for a picture in which each mark is at `place`.

    `apart` returns the largest distance along each axis between two marks and all marks between them. Without it, the
    distance of the two marks counts, which is right for values that do not fall.
    """
    ends = [[Mark(*end) for end in read(rows.ends_of_run_stage, run_stage)] for run_stage in run_stages]
    corners = [place(mark) for pair in ends for mark in pair]
    sizes = [max(values) - min(values) or 1 for values in zip(*corners, strict=True)]

    def distance(one: Mark, two: Mark) -> float:
        if apart is None:
            lengths: Iterable[float] = map(sub, place(two), place(one))
        else:
            lengths = apart(one, two)
        return max(abs(length) / size for length, size in zip(lengths, sizes, strict=True))

    def between(run_stage: rows.RunStage, low: int, high: int) -> Mark | None:
        found = read(rows.between_in_run_stage, run_stage, low, high)
        return None if found is None else Mark(*found)

    points = _POINTS // max(1, len(run_stages))  # 50 for each line, where there are most
    numbered = sorted((run_stage.stage_number, run_stage.stage) for run_stage in run_stages)
    stages = {stage: index for index, stage in enumerate(dict.fromkeys(stage for _, stage in numbered))}
    return [
        _Line(
            run_stage,
            outline(first, last, run_stage.entries, partial(between, run_stage), distance, points=min(points, 2000)),
            COLOURS[stages[run_stage.stage] % len(COLOURS)],
            _DASHES[stages[run_stage.stage] // len(COLOURS) % len(_DASHES)],
            max(4.2 - 1.4 * stages[run_stage.stage], 1.2) if len(stages) <= len(COLOURS) else 1.2,
        )
        for run_stage, (first, last) in zip(run_stages, ends, strict=True)
    ]


def _by_stage(read: Read, run_id: str, stages: Iterable[str]) -> dict[str, _Line]:
    """Outline those of these stages that the run has, for a picture of offsets by sequence."""
    run_stages = [run_stage for stage in stages if (run_stage := read(active.stage_of_run, run_id, stage)) is not None]
    return {line.run_stage.stage: line for line in _lines(read, run_stages, lambda mark: (mark.sequence, mark.offset))}


def _offset(mark: Mark) -> float:
    return mark.offset


def _event_day(mark: Mark) -> float:
    return _day(mark.event_time_ms)


def _lag_ms(mark: Mark) -> int:
    return max(1, mark.at_ms - mark.event_time_ms)


def _lag_apart(one: Mark, two: Mark) -> tuple[float, float]:
    """Return the largest distances between two marks: the clock runs on while event time stands still, or the reverse."""
    most, least = max(1, two.at_ms - one.event_time_ms), max(1, one.at_ms - two.event_time_ms)
    return two.at_ms - one.at_ms, log10(most / least)


def _day(ms: int) -> float:
    """Convert a time to matplotlib's unit: days since the epoch."""
    return ms / _DAY_MS


def _days(marks: Iterable[Mark]) -> list[float]:
    return [_day(mark.at_ms) for mark in marks]


# The drawing


def _figure(title: str, height: float, panels: int, *, share: bool = True) -> tuple[Picture, Sequence[Axes]]:
    figure = Picture(figsize=(9, height), layout="constrained")
    figure.patch.set_alpha(0)
    all_axes = figure.subplots(panels, 1, sharex=share, squeeze=False)[:, 0]
    figure.suptitle(title, x=0.01, ha="left", color=GREY, fontsize=11, **_PLAIN)
    for axes in all_axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=GREY, which="both", labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=GREY, size=9)
            axis.offsetText.set(color=GREY, size=8)
        for side, spine in axes.spines.items():
            spine.set_color(GREY)
            spine.set_visible(side in {"left", "bottom"})
        axes.grid(color=GREY, alpha=0.2, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, list(all_axes)


def _style(line: _Line) -> dict[str, Any]:
    return {"color": line.colour, "linestyle": line.dash, "linewidth": line.width, "label": f"_{line.run_stage.stage}"}


def _points(marks: Sequence[Mark], lines: Sequence[_Line]) -> dict[str, Any]:
    """Return markers for single checkpoints. Among many lines, only a checkpoint with no other beside it gets one."""
    return {"marker": "o", "markersize": 3} if len(marks) < (30 if len(lines) <= RUNS else 2) else {}


def _mark_silences(axes: Axes, line: _Line, height: Callable[[Mark], float]) -> None:
    for silence in line.outline.silences():
        pair = line.outline.marks[silence : silence + 2]
        axes.plot(
            _days(pair), list(map(height, pair)), color=line.colour, linewidth=0.8, linestyle=":", label="_silence"
        )  # fmt: skip


def _last_lines(lines: list[_Line]) -> list[_Line]:
    """Return the line of the last run of each stage."""
    return list({line.run_stage.stage: line for line in lines}.values())


def _label_stages(axes: Axes, lines: list[_Line], height: Callable[[Mark], float]) -> None:
    """
    Put the name of each stage at the right, as high as its last line ends, or as near as there is room.

    If there are more stages than colours, a bit of the line goes with the name.
    """
    lasts = _last_lines(lines)
    axes.get_xlim(), axes.get_ylim()  # has matplotlib settle them
    to_share = axes.transData + axes.transAxes.inverted()
    heights = [
        to_share.transform((_day(mark.at_ms), height(mark)))[1] for mark in (each.outline.marks[-1] for each in lasts)
    ]
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
            _short(line.run_stage.stage), (1.01, top), (1.06 if many else 1.01, top), xycoords="axes fraction",
            textcoords="axes fraction", arrowprops=sample, color=line.colour, va="center", fontsize=9,
            annotation_clip=False, **_PLAIN,
        )  # fmt: skip


def _label_runs(axes: Axes, lines: list[_Line]) -> None:
    """Put the name of each run over its beginning, where there is room."""
    starts: dict[str, int] = {}
    for line in lines:
        at_ms = line.outline.marks[0].at_ms
        starts[line.run_stage.run_id] = min(at_ms, starts.get(line.run_stage.run_id, at_ms))
    to_share = axes.transData + axes.transAxes.inverted()
    free = 0.0
    for run_id, at_ms in sorted(starts.items(), key=lambda item: item[1]):
        share = to_share.transform((_day(at_ms), 0))[0]
        if share >= free:
            axes.annotate(_short(run_id), (share, 1.02), xycoords="axes fraction", color=GREY, fontsize=8, **_PLAIN)
            free = share + 0.013 * (len(_short(run_id)) + 1)


def _clock_axis(axes: Axes, lines: list[_Line]) -> None:
    times = [mark.at_ms for line in lines for mark in line.outline.marks]
    axes.set_xlabel("wall clock (UTC)")
    _time_axis(axes.xaxis, times)


def _time_axis(axis: Axis, times_ms: list[int]) -> None:
    if max(times_ms) < _LAST_DATE_MS:
        locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
        axis.set_major_locator(locator)
        axis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    else:
        axis.set_major_formatter(ticker.FuncFormatter(lambda day, _: f"{day:.4g} days since 1970"))


def _note(figure: Picture, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", color=GREY, fontsize=8, **_PLAIN)


def _counted(
    read: Read, run_id: str | None, lines: list[_Line], excerpt: active.Excerpt, legend: str, drawn: str = "stage"
) -> str:
    entries = sum(line.run_stage.entries for line in lines)
    found = count(entries, "checkpoint") + (" of the stages active last" if excerpt.rest else "")
    if run_id is None:
        shown_runs, all_runs = len({line.run_stage.run_number for line in lines}), read(rows.count_of_runs)
        found += " in " if excerpt.rest else " of "
        found += "" if shown_runs == all_runs else f"the last {shown_runs:,} of "
        found += count(all_runs, "run")
    if excerpt.rest:
        found += f" · and {'at least ' if excerpt.or_more else ''}{count(excerpt.rest, f'more {drawn}')}"
    silent = [
        two.at_ms - one.at_ms
        for line in lines
        for one, two in (line.outline.marks[index : index + 2] for index in line.outline.silences())
    ]
    return f"{found} · {legend}, for {duration(max(silent))} at the longest" if silent else found


def _nothing(figure: Picture, run_id: str | None) -> Picture:
    for axes in figure.axes:
        axes.set_axis_off()
    figure.axes[0].annotate(
        f"nothing is recorded in {_whose(run_id)}", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY, **_PLAIN
    )  # fmt: skip
    return figure


def _whose(run_id: str | None) -> str:
    return "all runs" if run_id is None else _short(run_id)


@lru_cache(maxsize=1000)
def _short(name: str) -> str:
    """
    Shorten a name to one line that a picture has room for.

    It is measured, since a letter of some scripts is as wide as eight of others, and accents pile up to any height.
    """
    text = shorten(name, _LONGEST)
    while not _has_room(text):
        text = f"{text.removesuffix('…')[:-1]}…"
    return shorten(ascii(name)[1:-1], _LONGEST) if text == "…" != name else text


def _has_room(text: str) -> bool:
    one_point = fonts.FontProperties(size=1)
    with _any_characters():
        width, height, _ = textpath.text_to_path.get_text_width_height_descent(text, one_point, ismath=False)
    return bool(width <= _WIDEST and height <= _TALLEST)


@contextmanager
def _any_characters() -> Iterator[None]:
    """Draw without a warning of characters that the font lacks, or of scripts whose letters matplotlib does not join."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from|.* does not support .* natively")
        yield

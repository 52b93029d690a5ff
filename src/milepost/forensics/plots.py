"""
Pictures of what happened: progress, runs, durations, lag, and where two runs part.

You can read them on a white and on a dark page: they have no background, and their text is grey. They use the colours of
Okabe and Ito, which colour-blind people can tell apart; red is for faults alone. Names are hostile data: matplotlib never
reads them as formulas. An SVG tells in titles what is under the mouse.

However much a file holds, a picture reads and draws only as much as you can read. It says how much it leaves out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO, TextIOBase
from math import log10
from operator import sub
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from milepost import details, rows
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import NoCheckpointError
from milepost.forensics import active, hover, scales
from milepost.forensics.extra import extra
from milepost.forensics.outline import Mark, Outline, outline
from milepost.readable import count, duration, iso, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import apsw
    from matplotlib import font_manager as fonts
    from matplotlib import patches, textpath
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from milepost.comparison import Comparison, Divergence
    from milepost.database import Read
    from milepost.rows import Filter
else:
    fonts, textpath = extra("matplotlib.font_manager"), extra("matplotlib.textpath")
    patches = extra("matplotlib.patches")
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
_POINTS: Final = 12_000  # marks in a picture, at most: 200 for each of the most lines, every 4 pixels
_LABEL: Final = 0.17  # inches from one label to the next, at least
_LONGEST: Final = 32  # characters of a name
_TITLE: Final = 200  # likewise, in a title
_WIDEST: Final = 20  # times the size of the font, which is about as wide as so many letters
_TALLEST: Final = 1.35  # times the size of the font: a letter with two accents and a tail
_PLAIN: Final[dict[str, Any]] = {"parse_math": False, "usetex": False}  # a name is no formula
_ATTEMPTS: Final = 8  # of a run: the last ones
_TEXT: Final = 0.013  # the width of a letter beside a bar, as a part of the longest bar
_NAMED_BARS: Final = 50  # durations with a name at each; more stand side by side, without names
_DURATIONS: Final = 400  # of more runs, likewise
_UNEVEN: Final = 30  # if the longest takes so many times as long as usual, the scale is logarithmic
_VARIED: Final = 4  # if no lag is more than so many times another one, the scale is not
_STATES: Final = {  # of an attempt: its colour, its hatch, and the mark at its end
    details.FINISHED: ("#009E73", "", ""),
    details.FAILED: (FAULT, "xxxx", "X"),
    "killed": ("#CC79A7", "////", "v"),
    "open": ("#56B4E9", "....", ">"),
    "no state": ("#A0A0A0", "", ""),
}


class Picture(Figure):
    """A matplotlib Figure without pyplot and its state; a notebook shows it as the last line of a cell."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.titles: hover.Titles = hover.Titles()

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save it as matplotlib does, without a background. A character that the font lacks is drawn as a box."""
        with _any_characters():
            ours: dict[str, Any] = {"transparent": True, "bbox_inches": "tight", "dpi": 120}
            options = ours | options
            if str(options.get("format") or _ending(fname)).lower() != "svg":
                super().savefig(fname, **options)
                return
            image = BytesIO()
            with self.titles.drawn():
                super().savefig(image, **options | {"format": "svg"})
        svg = self.titles.put_into(image.getvalue().decode())
        if not hasattr(fname, "write"):
            Path(fname).write_text(svg, encoding="utf-8")
        elif isinstance(fname, TextIOBase):
            fname.write(svg)
        else:
            fname.write(svg.encode())

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


def _ending(fname: Any) -> str:
    return "" if hasattr(fname, "write") else Path(fname).suffix.removeprefix(".")


@dataclass(frozen=True, slots=True)
class _Line:
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
        return _day(mark.at_ms) if self.start_ms is None else mark.at_ms - self.start_ms

    def xs(self, marks: Iterable[Mark]) -> list[float]:
        """Where marks are."""
        return list(map(self.x, marks))


def progress(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.progress`."""
    excerpt = _recorded(read, chosen, active.same_stages, RUNS, STAGES)
    lines = _lines(read, excerpt, lambda mark: (mark.at_ms, mark.offset, mark.event_time_ms), aligned=aligned)
    height = max(7.2, 1.3 + 2 * _LABEL * len(_last_lines(lines)))
    timed = any(mark.event_time_ms for line in lines for mark in line.outline.marks)
    figure, (above, *below) = _figure(f"Progress of {_whose(chosen)}", height if timed else height * 0.6, 1 + timed)
    if not lines:
        return _nothing(figure, chosen)
    first_offsets = _since_begin(lines, lambda mark: mark.offset)
    _draw(above, lines, lambda line, mark: mark.offset - first_offsets.get(line.run_stage, 0))
    above.set_ylabel("offset since the run began" if first_offsets else "offset")
    scales.whole_numbers(above.yaxis)
    _label_stages(above, lines, lambda line, mark: mark.offset - first_offsets.get(line.run_stage, 0))
    if chosen.run_id is None and lines[0].start_ms is None:
        _label_runs(above, lines)
    for axes in below:
        _draw_event_times(axes, [line for line in lines if line.outline.marks[-1].event_time_ms])
    _clock_axis(figure.axes[-1], lines)
    _note(figure, _counted(chosen, lines, excerpt, "dotted: nothing recorded"), _about(lines))
    return figure


def _draw_event_times(axes: Axes, lines: list[_Line]) -> None:
    events = _since_begin(lines, lambda mark: mark.event_time_ms)
    if not events:
        axes.set_ylabel("event time (UTC)")
        _draw(axes, lines, lambda _, mark: _day(mark.event_time_ms), _timed)
        scales.calendar(axes.yaxis, [mark.event_time_ms for line in lines for mark in _timed(line.outline.marks)])
        return

    def since_begin(line: _Line, mark: Mark) -> int:
        return mark.event_time_ms - events[line.run_stage]

    axes.set_ylabel("event time since the run's first")
    _draw(axes, lines, since_begin, _timed)
    scales.spans(axes.yaxis, [since_begin(line, mark) for line in lines for mark in _timed(line.outline.marks)])


def lag(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.lag`."""
    excerpt = _recorded(read, chosen, active.same_stages, RUNS, STAGES, active.behind)
    lines = _lines(read, excerpt, lambda mark: (mark.at_ms, log10(_lag_ms(mark))), _lag_apart, aligned=aligned)
    with_times = [line for line in lines if line.outline.marks[-1].event_time_ms]
    figure, (axes,) = _figure(f"Lag of {_whose(chosen)}", max(4.2, 1.3 + _LABEL * len(_last_lines(with_times))), 1)
    if not lines:
        return _nothing(figure, chosen)
    if not with_times:
        return _empty(figure, f"no event times were given: of {count(_entries(lines), 'checkpoint')} the lag is not known")
    ahead = sum(mark.at_ms < mark.event_time_ms for line in with_times for mark in line.outline.marks)
    _draw(axes, with_times, lambda _, mark: _lag_ms(mark), _timed, dotted=False)
    axes.set_ylabel("wall clock minus event time")
    lags = [_lag_ms(mark) for line in with_times for mark in _timed(line.outline.marks)]
    if max(lags) > _VARIED * min(lags):
        scales.logarithmic_spans(axes.yaxis, lags)
    else:
        scales.spans(axes.yaxis, lags, from_zero=False)
    _label_stages(axes, with_times, lambda _, mark: _lag_ms(mark))
    if chosen.run_id is None and lines[0].start_ms is None:
        _label_runs(axes, with_times)
    _clock_axis(axes, with_times)
    note = _counted(chosen, lines, excerpt, "a gap: nothing recorded", telling="farthest behind")
    _note(figure, note + (" · at 1 ms: event time is ahead of the wall clock" if ahead else ""), _about(lines))
    return figure


def runs(read: Read, chosen: Filter, aligned: bool | None) -> Picture:
    """See `CheckpointStore.plot.runs`."""
    excerpt = _recorded(read, chosen, active.of_each_run, RUNS, BARS)
    lines = _lines(read, excerpt, lambda mark: (mark.at_ms, mark.sequence), aligned=aligned)
    last_of_run = {line.run_stage.run_number: line for line in lines}
    rows_high = len(lines) + 0.6 * len(last_of_run)  # with some air between two runs
    title = "Runs and their stages" if chosen.run_id is None and chosen.stage is None else f"Activity of {_whose(chosen)}"
    figure, (axes,) = _figure(title, min(1.5 + 0.24 * rows_high, _HIGHEST), 1)
    if not lines:
        return _nothing(figure, chosen)
    places, names, place = [], [], 0.0
    run_number = None
    for line in lines:
        if line.run_stage.run_number != run_number:
            place += 0.6
            run_number = line.run_stage.run_number
            names.append(_short(line.run_stage.run_id))
            places.append(place)
        _draw_bar(figure, axes, line, place)
        told = f"{_short(line.run_stage.stage)} · {line.run_stage.entries:,}"
        if line is last_of_run[run_number] and run_number in excerpt.rest_of_run:
            told += f" · and {excerpt.rest_of_run[run_number]:,} more"
        axes.annotate(
            told, (max(line.xs(line.outline.marks)), place), (6, 0), textcoords="offset points",
            va="center", color=GREY, fontsize=8, annotation_clip=False, **_PLAIN,
        )  # fmt: skip
        place += 1
    axes.set_ylim(place + 0.2, -0.4)
    axes.set_yticks(places, names, **_PLAIN)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    _clock_axis(axes, lines)
    _note(figure, _counted(chosen, lines, excerpt, "dotted: nothing recorded", "bar"), _about(lines, event_times=False))
    return figure


def _draw_bar(figure: Picture, axes: Axes, line: _Line, place: float) -> None:
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
        _mark_jump(axes, line.xs(marks[jump : jump + 2]), [place, place])


def _told_of_stretch(line: _Line, stretch: Sequence[Mark]) -> str:
    first, last = stretch[0], stretch[-1]
    took = duration(last.at_ms - first.at_ms)
    return (
        f"{_whole_name(line)} · {iso(first.at_ms)} to {iso(last.at_ms)}, {took} · offset {first.offset:,} to {last.offset:,}"
    )


def durations(read: Read, chosen: Filter) -> Picture:
    """See `CheckpointStore.plot.durations`."""
    _refuse_unknown(read, chosen)
    run_ids, all_runs, more_runs = read(active.last_runs, chosen, _DURATIONS)
    attempts = [
        attempt
        for run_number, run_id in run_ids
        for attempt in _attempts(read, chosen, run_number, run_id)
        if attempt.ended_ms >= chosen.since_ms and attempt.began_ms <= chosen.until_ms
    ]
    side_by_side = len(attempts) > _NAMED_BARS
    what = f"Durations of {_whose(chosen)}" if chosen.run_id is not None or chosen.stage is not None else "Durations"
    figure, (axes,) = _figure(what, 4.6 if side_by_side else 1.6 + 0.24 * len(attempts), 1)
    if not attempts:
        return _nothing(figure, chosen)
    lengths = [attempt.length_ms for attempt in attempts]
    usual = median(lengths)
    uneven = max(lengths) > _UNEVEN * max(1, usual)
    if side_by_side:
        _draw_columns(figure, axes, attempts)
    else:
        _draw_named(figure, axes, attempts, 0 if uneven else usual)
    axis = axes.yaxis if side_by_side else axes.xaxis
    if uneven:
        scales.logarithmic_spans(axis, [max(1, length) for length in lengths])
    else:
        scales.spans(axis, [*lengths, 0 if any(lengths) else 1000])
    (axes.axhline if side_by_side else axes.axvline)(usual, color=GREY, linewidth=0.8, linestyle="--", label="_median")
    (axes.set_ylabel if side_by_side else axes.set_xlabel)("duration (logarithmic)" if uneven else "duration")
    axes.grid(visible=False, axis="x" if side_by_side else "y")
    _legend(axes, attempts)
    shown = len({attempt.run_id for attempt in attempts})
    parts = [_of_all("", shown, all_runs, more_runs)]
    if len(attempts) > shown:
        parts.append(count(len(attempts), "attempt"))
    found = []
    if len(attempts) > 1:
        longest, last = max(attempts, key=lambda each: each.length_ms), attempts[-1]
        parts.append(f"dashed: the median, {duration(round(usual))}")
        found.append(f"longest: {_short(longest.run_id)}, {duration(longest.length_ms)}")
        if longest is not last:
            found.append(f"last: {_short(last.run_id)}, {duration(last.length_ms)}")
    _note(figure, " · ".join(parts), " · ".join(found))
    return figure


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt of a run, or all of a run without attempts, or a stage of a run; and how it ended."""

    run_id: str
    number: int
    state: str
    error: str | None
    began_ms: int
    ended_ms: int

    @property
    def length_ms(self) -> int:
        """How long it took; 0 if the clock jumped back behind its beginning, as nobody knows how long it took then."""
        return max(0, self.ended_ms - self.began_ms)

    def __str__(self) -> str:
        back_ms = self.began_ms - self.ended_ms
        took = f"the clock jumped back by {duration(back_ms)}" if back_ms > 0 else duration(self.length_ms)
        state = "" if self.state == "no state" else f" · {self.state}"
        return f"{took}{state}{f': {shorten(self.error, _LONGEST)}' if self.error else ''}"

    def title(self) -> str:
        attempt = f", attempt {self.number:,}" if self.number > 1 else ""
        return f"{shorten(self.run_id, _TITLE)}{attempt} · {self} · {iso(self.began_ms)} to {iso(self.ended_ms)}"


def _attempts(read: Read, chosen: Filter, run_number: int, run_id: str) -> list[_Attempt]:
    """The last attempts of a run; if a stage is asked for, the time that it took in the run, as one."""
    begun: dict[int, rows.AttemptRow] = {}
    ended: dict[int, tuple[str, str | None, int]] = {}
    for row in read(rows.attempt_rows, run_number, 2 * _ATTEMPTS):
        state, error = details.of_attempt(row.detail)
        if state == details.BEGAN:
            begun[row.attempt] = row
        elif row.attempt in begun:
            ended[row.attempt] = state, error, row.at_ms
    if chosen.stage is not None:
        ends = read(active.ends_of_stage, chosen, run_number)
        if read(rows.has_archived, run_id, chosen.stage):  # asked last: it may have been archived just now
            return []  # only the archive knows when it began
        state, error, _ = ended.get(max(begun), ("open", None, 0)) if begun else ("no state", None, 0)
        return [] if ends is None else [_Attempt(run_id, 1, state, error, ends[0].at_ms, ends[1].at_ms)]
    beginning, end = read(rows.beginning_of_run, run_number), read(rows.end_of_run, run_number)
    if beginning is None or end is None:
        return []
    if not begun:
        if beginning[0] <= read(rows.chain_base).position:
            return []
        return [_Attempt(run_id, 1, "no state", None, beginning[1], end[1])]
    found = []
    numbers = sorted(begun)[-_ATTEMPTS:]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        began_ms = begun[number].at_ms
        if number in ended:
            found.append(_Attempt(run_id, number, *ended[number][:2], began_ms, ended[number][2]))
        elif following is None:
            found.append(_Attempt(run_id, number, "open", None, began_ms, end[1]))
        else:
            last = read(rows.end_of_run, run_number, begun[following].position)
            found.append(_Attempt(run_id, number, "killed", None, began_ms, began_ms if last is None else last[1]))
    return found


def _draw_named(figure: Picture, axes: Axes, attempts: Sequence[_Attempt], marked_ms: float) -> None:
    """A row for each, with its name and what it took. What would cross a line at `marked_ms` begins behind the line."""
    names = []
    room_ms = max(attempt.length_ms for attempt in attempts) * _TEXT
    for place, attempt in enumerate(attempts):
        colour, hatch, mark = _STATES[attempt.state]
        look: dict[str, Any] = {"color": colour, "edgecolor": GREY, "linewidth": 0.5, "hatch": hatch}
        (bar,) = axes.barh([place], [attempt.length_ms], height=0.72, **look)
        figure.titles.bar(bar, attempt.title())
        if mark:
            axes.plot([attempt.length_ms], [place], color=colour, marker=mark, markersize=6, clip_on=False)
        beside = attempt.length_ms
        if beside < marked_ms < beside + room_ms * len(str(attempt)):
            beside = round(marked_ms)
        axes.annotate(
            str(attempt), (beside, place), (8, 0), textcoords="offset points", va="center",
            color=GREY, fontsize=8, annotation_clip=False, **_PLAIN,
        )  # fmt: skip
        again = bool(place) and attempts[place - 1].run_id == attempt.run_id
        names.append(f"attempt {attempt.number:,}" if again else _short(attempt.run_id))
    axes.set_yticks(range(len(attempts)), names, **_PLAIN)
    axes.set_ylim(len(attempts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _draw_columns(figure: Picture, axes: Axes, attempts: Sequence[_Attempt]) -> None:
    """A column for each, and when some of them began."""
    for place, attempt in enumerate(attempts):
        colour, _, mark = _STATES[attempt.state]
        (bar,) = axes.bar([place], [attempt.length_ms], width=0.8, color=colour)
        figure.titles.bar(bar, attempt.title())
        if mark:
            axes.plot([place], [attempt.length_ms], color=colour, marker=mark, markersize=5, clip_on=False)
    places = range(0, len(attempts), -(-len(attempts) // 8))
    begins = [iso(attempts[place].began_ms) for place in places]
    by_day = begins[0][:10] != begins[-1][:10]
    axes.set_xticks(places, [each[:10] if by_day else each[11:16] for each in begins], **_PLAIN)
    axes.set_xlim(-1, len(attempts))
    axes.set_xlabel("runs in the order of their beginning" + ("" if by_day else f", on {begins[0][:10]} (UTC)"))


def _legend(axes: Axes, attempts: Sequence[_Attempt]) -> None:
    """Name the states that there are, by colour and by hatch or mark, if they are more than one."""
    counts = Counter(attempt.state for attempt in attempts)
    if set(counts) == {"no state"}:
        return
    marked = len(attempts) > _NAMED_BARS
    handles: list[Any] = []
    for state, (colour, hatch, mark) in _STATES.items():
        if not counts[state]:
            continue
        label = f"{state} {counts[state]:,}"
        if marked and mark:
            handles += axes.plot([], [], color=colour, marker=mark, linestyle="none", markersize=6, label=label)
        else:
            handles.append(patches.Patch(facecolor=colour, hatch=hatch, edgecolor=GREY, linewidth=0.5, label=label))
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), frameon=False, fontsize=8,
        labelcolor=GREY, borderaxespad=0.2,
    )  # fmt: skip


def compare(read: Read, found: Comparison, stage: str | None) -> Picture:
    """See `CheckpointStore.plot.compare`."""
    run_ids = found.run_id, found.other_run_id
    if stage is not None:
        found = replace(found, stages=tuple(each for each in found.stages if each.stage == stage))
        if not found.stages:
            raise NoCheckpointError(found.run_id, stage)
    stages, rest = found.excerpt(PANELS)
    one_run, other_run = (_by_stage(read, run_id, [compared.stage for compared in stages]) for run_id in run_ids)
    title = " and ".join(map(_short, run_ids))
    figure, panels = _figure(title, min(1.2 + 2.1 * len(stages), _HIGHEST), len(stages), share=False)
    for compared, axes in zip(stages, panels, strict=True):
        pair = one_run.get(compared.stage), other_run.get(compared.stage)
        for line, colour, width in ((pair[0], COLOURS[4], 6), (pair[1], COLOURS[0], 1.5)):
            if line is not None:
                marks = line.outline.marks
                _title_points(figure, axes, line, marks, lambda _, mark: (mark.sequence, mark.offset), 2 * len(stages))
                axes.plot(
                    [mark.sequence for mark in marks], [mark.offset for mark in marks], color=colour, linewidth=width,
                    solid_capstyle="round", label="_run", **_points(marks, [line]),
                )  # fmt: skip
        told = f"{_short(compared.stage)}: {compared.entries:,} and {compared.other_entries:,} checkpoints"
        axes.set_title(told, loc="left", fontsize=9, color=GREY, **_PLAIN)
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


def _recorded(read: Read, chosen: Filter, query: Callable[..., active.Excerpt], *given: Any) -> active.Excerpt:
    """
    What a picture shows of what is asked for.

    Raises:
        NoCheckpointError: The run, or the stage, was never recorded.
    """
    _refuse_unknown(read, chosen)
    return read(query, chosen, *given)


def _refuse_unknown(read: Read, chosen: Filter) -> None:
    named = chosen.run_id is not None or chosen.stage is not None
    if named and read(rows.latest, chosen.run_id, chosen.stage) is None:
        raise NoCheckpointError(chosen.run_id, chosen.stage)


def _lines(
    read: Read,
    excerpt: active.Excerpt,
    place: Callable[[Mark], tuple[float, ...]],
    apart: Callable[[Mark, Mark], tuple[float, ...]] | None = None,
    *,
    aligned: bool | None = False,
) -> list[_Line]:
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
            _Line(
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


def _by_stage(read: Read, run_id: str, stages: Iterable[str]) -> dict[str, _Line]:
    """Outline those of these stages that the run has, for a picture of offsets by sequence."""
    spans = [span for stage in stages if (span := read(active.stage_of_run, run_id, stage)) is not None]
    excerpt = active.Excerpt(spans, {span.run_stage.run_number: 0 for span in spans})
    return {line.run_stage.stage: line for line in _lines(read, excerpt, lambda mark: (mark.sequence, mark.offset))}


def _since_begin(lines: list[_Line], value: Callable[[Mark], int]) -> dict[rows.RunStage, int]:
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


def _entries(lines: Iterable[_Line]) -> int:
    return sum(line.run_stage.entries for line in lines)


def _lag_ms(mark: Mark) -> int:
    return max(1, mark.at_ms - mark.event_time_ms)


def _lag_apart(one: Mark, two: Mark) -> tuple[float, float]:
    """Return the largest distances between two marks: the clock runs on while event time stands still, or the reverse."""
    most, least = max(1, two.at_ms - one.event_time_ms), max(1, one.at_ms - two.event_time_ms)
    return two.at_ms - one.at_ms, log10(most / least)


def _day(ms: int) -> float:
    """A time in matplotlib's unit: days since the epoch."""
    return ms / scales.DAY_MS


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
    look = {"color": line.colour, "linestyle": line.dash, "linewidth": line.width, "alpha": line.alpha}
    return {**look, "label": f"_{line.run_stage.stage}", "zorder": 2 + line.alpha}


def _points(marks: Sequence[Mark], lines: Sequence[_Line]) -> dict[str, Any]:
    """Return markers for single checkpoints. Among many lines, only a checkpoint with no other beside it gets one."""
    return {"marker": "o", "markersize": 3} if len(marks) < (30 if len(lines) <= RUNS else 2) else {}


def _draw(
    axes: Axes,
    lines: Sequence[_Line],
    height: Callable[[_Line, Mark], float],
    marks_of: Callable[[Iterable[Mark]], list[Mark]] = list,
    *,
    dotted: bool = True,
) -> None:
    """Draw each line, with its silences if they are dotted, and with the jumps of its clock."""
    figure: Picture = axes.figure  # type: ignore[assignment]
    for line in lines:
        for stretch in map(marks_of, line.outline.stretches()):
            heights = [height(line, mark) for mark in stretch]
            axes.plot(line.xs(stretch), heights, **_style(line), **_points(stretch, lines))
        marks, jumps = line.outline.marks, line.outline.jumps
        for index in [*(line.outline.silences if dotted else ()), *jumps]:
            pair = marks_of(marks[index : index + 2])
            if len(pair) == 2:
                heights = [height(line, mark) for mark in pair]
                if index in jumps:
                    _mark_jump(axes, line.xs(pair), heights)
                else:
                    look: dict[str, Any] = {"color": line.colour, "linewidth": 0.8, "linestyle": ":", "alpha": line.alpha}
                    axes.plot(line.xs(pair), heights, label="_silence", **look)
        _title_points(figure, axes, line, marks_of(marks), lambda line, mark: (line.x(mark), height(line, mark)), len(lines))


def _mark_jump(axes: Axes, xs: list[float], heights: list[float]) -> None:
    """Mark where the clock jumped back."""
    axes.plot(xs, heights, color=GREY, linewidth=0.8, label="_jump", zorder=4)
    axes.plot(xs[1:], heights[1:], color=GREY, marker="<", markersize=5, label="_jump", zorder=4)


def _title_points(
    figure: Picture,
    axes: Axes,
    line: _Line,
    marks: Sequence[Mark],
    place: Callable[[_Line, Mark], tuple[float, float]],
    lines: int,
) -> None:
    """Give some marks of a line titles: as many as there is room for, evenly."""
    chosen = marks[:: -(-len(marks) * lines // hover.POINTS) or 1]
    if chosen:
        xs, ys = zip(*(place(line, mark) for mark in chosen), strict=True)
        figure.titles.points(axes, xs, ys, [_told_of_mark(line, mark) for mark in chosen])


def _told_of_mark(line: _Line, mark: Mark) -> str:
    event = f"event time {iso(mark.event_time_ms)}" if mark.event_time_ms else "no event time"
    since = "" if line.start_ms is None else f", {duration(mark.at_ms - line.start_ms)} since the run began"
    return (
        f"{_whole_name(line)} · sequence {mark.sequence:,} · offset {mark.offset:,} · {event} · at {iso(mark.at_ms)}{since}"
    )


def _whole_name(line: _Line) -> str:
    return f"{shorten(line.run_stage.run_id, _TITLE)} · {shorten(line.run_stage.stage, _TITLE)}"


def _last_lines(lines: list[_Line]) -> list[_Line]:
    """The line of the last run of each stage."""
    return list({line.run_stage.stage: line for line in sorted(lines, key=lambda line: line.alpha)}.values())


def _label_stages(axes: Axes, lines: list[_Line], height: Callable[[_Line, Mark], float]) -> None:
    """
    Put the name of each stage at the right, as high as its last line ends, or as near as there is room.

    If there are more stages than colours, a bit of the line goes with the name.
    """
    lasts = _last_lines(lines)
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
    if lines[0].start_ms is not None:
        axes.set_xlabel("since the run began")
        scales.spans(axes.xaxis, [mark.at_ms - (line.start_ms or 0) for line in lines for mark in line.outline.marks])
        return
    axes.set_xlabel("wall clock (UTC)")
    scales.calendar(axes.xaxis, [mark.at_ms for line in lines for mark in line.outline.marks])


def _note(figure: Picture, *sentences: str) -> None:
    figure.supxlabel("\n".join(filter(None, sentences)), x=0.01, ha="left", color=GREY, fontsize=8, **_PLAIN)


def _counted(
    chosen: Filter,
    lines: list[_Line],
    excerpt: active.Excerpt,
    legend: str,
    drawn: str = "stage",
    telling: str = "that differ most",
) -> str:
    found = count(_entries(lines), "checkpoint") + (f" of the stages {telling}" if excerpt.rest else "")
    if chosen.run_id is None:
        found += _of_all(" in " if excerpt.rest else " of ", len(excerpt.starts), excerpt.runs, excerpt.more_runs)
    if excerpt.rest:
        found += f" · and {'at least ' if excerpt.or_more else ''}{count(excerpt.rest, f'more {drawn}')}"
    silent = [
        two.at_ms - one.at_ms
        for line in lines
        for one, two in (line.outline.marks[index : index + 2] for index in line.outline.silences)
    ]
    return f"{found} · {legend}, for {duration(max(silent))} at the longest" if silent else found


def _of_all(joint: str, shown: int, runs: int, more: bool) -> str:
    least = "at least " if more else ""
    return f"{joint}{'' if shown == runs and not more else f'the last {shown:,} of {least}'}{count(runs, 'run')}"


def _about(lines: list[_Line], *, event_times: bool = True) -> str:
    """What else one has to know of the lines: which run is which, jumps of the clock, event times that were not given."""
    said = []
    runs = {line.run_stage.run_number for line in lines}
    if lines[0].start_ms is not None and len(runs) > 1 and event_times:
        (last,) = {line.run_stage.run_id for line in lines if line.alpha == 1}
        said.append(f"bold: {_short(last)}, which began last; thin: {count(len(runs) - 1, 'run')} before")
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


def _nothing(figure: Picture, chosen: Filter) -> Picture:
    if chosen.since_ms or chosen.until_ms < MAX_INTEGER:
        return _empty(figure, f"nothing is recorded in {_whose(chosen)} in this time")
    of_all = chosen.run_id is None and chosen.stage is None
    return _empty(figure, "nothing is recorded yet" if of_all else f"nothing is recorded in {_whose(chosen)} yet")


def _empty(figure: Picture, text: str) -> Picture:
    for axes in figure.axes:
        axes.set_axis_off()
    figure.axes[0].annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY, **_PLAIN)
    return figure


def _whose(chosen: Filter) -> str:
    stage = "" if chosen.stage is None else f"{_short(chosen.stage)} in "
    return f"{stage}{'all runs' if chosen.run_id is None else _short(chosen.run_id)}"


@lru_cache(maxsize=1000)
def _short(name: str) -> str:
    """
    Shorten a name to one line that a picture has room for.

    It is measured, since a letter of some scripts is as wide as eight of others, and accents pile up to any height.
    """
    text = shorten(name, _LONGEST)
    while not _has_room(text):
        text = f"{text.removesuffix('…')[:-1]}…"
    if not text.strip():  # blanks alone would not be seen
        return f"'{text}'"
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

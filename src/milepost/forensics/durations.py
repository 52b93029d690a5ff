"""The picture of how long runs took, attempt by attempt, and how each ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from milepost import details, rows
from milepost.forensics import active, scales
from milepost.forensics.extra import extra
from milepost.forensics.picture import (
    FAULT,
    GREY,
    LONGEST,
    PLAIN,
    TITLE,
    add_note,
    new_picture,
    nothing,
    refuse_unknown,
    short,
    whose,
)
from milepost.forensics.stage_lines import of_all
from milepost.readable import count, duration, iso, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib import patches
    from matplotlib.axes import Axes

    from milepost.database import Read
    from milepost.forensics.picture import Picture
    from milepost.rows import Filter
else:
    patches = extra("matplotlib.patches")

_ATTEMPTS: Final = 8  # of a run: the last ones
_TEXT: Final = 0.013  # the width of a letter beside a bar, as a part of the longest bar
_NAMED_BARS: Final = 50  # durations with a name at each; more stand side by side, without names
_DURATIONS: Final = 400  # of more runs, a picture shows those that began last
_UNEVEN: Final = 30  # if the longest takes so many times as long as usual, the scale is logarithmic
_STATES: Final = {  # of an attempt: its colour, its hatch, and the mark at its end
    details.FINISHED: ("#009E73", "", ""),
    details.FAILED: (FAULT, "xxxx", "X"),
    "killed": ("#CC79A7", "////", "v"),
    "open": ("#56B4E9", "....", ">"),
    "no state": ("#A0A0A0", "", ""),
}


def durations(read: Read, chosen: Filter) -> Picture:
    """See `CheckpointStore.plot.durations`."""
    refuse_unknown(read, chosen)
    run_ids, all_runs, more_runs = read(active.last_runs, chosen, _DURATIONS)
    attempts = [
        attempt
        for run_number, run_id in run_ids
        for attempt in _attempts(read, chosen, run_number, run_id)
        if attempt.ended_ms >= chosen.since_ms and attempt.began_ms <= chosen.until_ms
    ]
    side_by_side = len(attempts) > _NAMED_BARS
    what = f"Durations of {whose(chosen)}" if chosen.run_id is not None or chosen.stage is not None else "Durations"
    figure, (axes,) = new_picture(what, 4.6 if side_by_side else 1.6 + 0.24 * len(attempts), 1)
    if not attempts:
        return nothing(figure, chosen)
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
    parts = [of_all("", shown, all_runs, more_runs)]
    if len(attempts) > shown:
        parts.append(count(len(attempts), "attempt"))
    found = []
    if len(attempts) > 1:
        longest, last = max(attempts, key=lambda each: each.length_ms), attempts[-1]
        parts.append(f"dashed: the median, {duration(round(usual))}")
        found.append(f"longest: {short(longest.run_id)}, {duration(longest.length_ms)}")
        if longest is not last:
            found.append(f"last: {short(last.run_id)}, {duration(last.length_ms)}")
    add_note(figure, " · ".join(parts), " · ".join(found))
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
        return f"{took}{state}{f': {shorten(self.error, LONGEST)}' if self.error else ''}"

    def title(self) -> str:
        attempt = f", attempt {self.number:,}" if self.number > 1 else ""
        return f"{shorten(self.run_id, TITLE)}{attempt} · {self} · {iso(self.began_ms)} to {iso(self.ended_ms)}"


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
        end = max(1, attempt.length_ms)  # a logarithmic scale has no place for 0
        (bar,) = axes.barh([place], [end], height=0.72, **look)
        figure.titles.bar(bar, attempt.title())
        if mark:
            axes.plot([end], [place], color=colour, marker=mark, markersize=6, clip_on=False)
        beside = end
        if beside < marked_ms < beside + room_ms * len(str(attempt)):
            beside = round(marked_ms)
        axes.annotate(
            str(attempt), (beside, place), (8, 0), textcoords="offset points", va="center",
            color=GREY, fontsize=8, annotation_clip=False, **PLAIN,
        )  # fmt: skip
        again = bool(place) and attempts[place - 1].run_id == attempt.run_id
        names.append(f"attempt {attempt.number:,}" if again else short(attempt.run_id))
    axes.set_yticks(range(len(attempts)), names, **PLAIN)
    axes.set_ylim(len(attempts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _draw_columns(figure: Picture, axes: Axes, attempts: Sequence[_Attempt]) -> None:
    """A column for each, and when some of them began."""
    for place, attempt in enumerate(attempts):
        colour, _, mark = _STATES[attempt.state]
        end = max(1, attempt.length_ms)  # as in a row
        (bar,) = axes.bar([place], [end], width=0.8, color=colour)
        figure.titles.bar(bar, attempt.title())
        if mark:
            axes.plot([place], [end], color=colour, marker=mark, markersize=5, clip_on=False)
    places = range(0, len(attempts), -(-len(attempts) // 8))
    begins = [iso(attempts[place].began_ms) for place in places]
    by_day = begins[0][:10] != begins[-1][:10]
    axes.set_xticks(places, [each[:10] if by_day else each[11:16] for each in begins], **PLAIN)
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

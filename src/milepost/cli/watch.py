"""The command `watch`: a live view of a pipeline."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

import click
from rich.cells import cell_len

from milepost.cli import argument, output
from milepost.cli.exit_code import ExitCode
from milepost.errors import StoreBusyError
from milepost.readable import age, count, duration, rate, shorten
from milepost.store import CheckpointStore
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, RenderableType

    from milepost.checkpoint import Checkpoint

_STAGES: Final = 20  # that a screen shows; more are counted
_AROUND: Final = 4  # lines of a screen besides those of the stages
_NAME: Final = 40  # characters of the name of the file
_RUN: Final = 80  # likewise of the run in the heading
_LEAST: Final = 12  # cells that a name keeps before a column is left out
_GAP: Final = "  "
_SOONEST_MS: Final = 100  # from one look to the next
_LOOKS: Final = 30  # how many looks a rate is measured over
_STALL: Final = 5  # a stage is stalled after so many times its usual pace,
_STALL_LEAST_MS: Final = 10_000  # and this


class _Look(NamedTuple):
    """Where a stage stood when it had moved, by this machine's clock."""

    at_ms: int
    offset: int


class _Watched:
    """One stage, and how it moves while somebody watches."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self._looks: deque[_Look] = deque(maxlen=_LOOKS)

    def see(self, entry: Checkpoint, now_ms: int) -> None:
        """Note where the stage is now."""
        if self.last is not None and entry.run_id != self.last.run_id:
            self._looks.clear()
        if self.last is None or entry != self.last:
            self._looks.append(_Look(now_ms, entry.watermark.offset))
        self.last = entry

    def rate(self, now_ms: int) -> float | None:
        """Return records a second over the last looks, or None if it has not moved yet."""
        if len(self._looks) < 2:
            return None
        first, last = self._looks[0], self._looks[-1]
        span_ms = max(last.at_ms, now_ms) - first.at_ms
        return (last.offset - first.offset) * 1000 / span_ms if span_ms > 0 else None

    def stalled(self, now_ms: int) -> bool:
        """Return whether it has stood still for much longer than between its last checkpoints."""
        if len(self._looks) < 2:
            return False
        pace_ms = (self._looks[-1].at_ms - self._looks[0].at_ms) / (len(self._looks) - 1)
        return now_ms - self._looks[-1].at_ms > max(_STALL * pace_ms, _STALL_LEAST_MS)


@click.command(short_help="Watch a pipeline live: where it is, its rate, its lag.")
@argument.file
@argument.run
@argument.stage
@click.option("--total", type=click.IntRange(1), metavar="N", help="How many records there are, to show when it will end.")
@click.option("--interval", type=argument.span_ms, default="1s", metavar="SPAN", help="Look so often.  [default: 1s]")
def watch(file: str, run_id: str | None, stage: str | None, total: int | None, interval: int) -> None:
    """
    Watch a pipeline: where each stage is, how fast it moves, how far it is behind, and when it will end.

    It needs a terminal. Ctrl-C ends it. A stage is stalled after five times its usual pace, and 10 seconds. Of many stages,
    the screen shows those that are stalled, and those that were recorded last.
    """
    from rich.console import Console  # noqa: PLC0415 - takes 0.1 s, and only this command needs it
    from rich.live import Live  # noqa: PLC0415

    if interval < _SOONEST_MS:
        raise click.UsageError("--interval is at least 0.1s, because each look costs the machine something")
    console = Console(color_system="auto" if output.colored() else None)
    watched: dict[str, _Watched] = {}
    with CheckpointStore.open_readonly(file) as store:
        if not console.is_terminal:
            raise click.UsageError("watch needs a terminal: use `milepost check` or `milepost resume --json` in a script")
        try:
            with Live(console=console, auto_refresh=False, screen=False) as live:
                while True:
                    now_ms = time.time_ns() // 1_000_000
                    with suppress(StoreBusyError):  # somebody keeps replacing the file: look again
                        _look(store, watched, run_id, stage, now_ms)
                    live.update(_screen(store.path, watched, now_ms, total, console.size), refresh=True)
                    time.sleep(interval / 1000)
        except KeyboardInterrupt:  # the intended end, and no error
            raise click.exceptions.Exit(ExitCode.SUCCESS) from None


def _look(store: CheckpointStore, watched: dict[str, _Watched], run_id: str | None, stage: str | None, now_ms: int) -> None:
    for name in [stage] if stage else list(store.resume_points(run_id)):
        entry = store.latest_for_stage(name, run_id=run_id)
        if entry is not None:
            watched.setdefault(name, _Watched()).see(entry, now_ms)


class _Shown(NamedTuple):
    """A column of the screen: its cells, and in which turn a narrow screen leaves it out."""

    title: str
    cells: list[str]
    is_name: bool = False
    turn: int = 0  # 0: never

    @property
    def width(self) -> int:
        """How many cells of the screen it takes."""
        return max(map(cell_len, [self.title, *self.cells]))


def _screen(
    path: str, watched: dict[str, _Watched], now_ms: int, total: int | None, size: ConsoleDimensions
) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not watched:
        return Text(f"{NOTHING}; waiting for the first checkpoint (Ctrl-C to quit)", style="dim")
    rows = _chosen(watched, now_ms, min(_STAGES, max(1, size.height - _AROUND)))
    runs = {last.run_id for _, _, last in rows}
    columns = _columns(rows, now_ms, total, with_run=len(runs) > 1)
    widths = _fit(columns, size.width)
    stalled = [each.stalled(now_ms) for _, each, _ in rows]
    table = Table(box=None, pad_edge=False, expand=False, padding=(0, len(_GAP), 0, 0))
    for column in columns:
        width = widths[column.title]
        table.add_column(
            column.title, no_wrap=True, width=width, overflow="ellipsis", justify="left" if column.is_name else "right"
        )
    for index, is_stalled in enumerate(stalled):
        table.add_row(*(Text(column.cells[index], style="bold red" if is_stalled else "") for column in columns))
    heading = shorten(PurePath(path).name, _NAME) + (f", run {shorten(runs.pop(), _RUN)}" if len(runs) == 1 else "")
    more = len(watched) - len(rows)
    lines: list[RenderableType] = [Text(heading, style="dim", no_wrap=True, overflow="ellipsis"), table]
    if more:
        lines.append(Text(f"and {count(more, 'more stage')}", style="dim"))
    return Group(*lines)


def _chosen(watched: dict[str, _Watched], now_ms: int, most: int) -> list[tuple[str, _Watched, Checkpoint]]:
    """Choose the stages that stand still, and those that were recorded last. It seldom chooses anew, and keeps the order."""
    found = [(name, each, each.last) for name, each in watched.items() if each.last is not None]
    urgent = sorted(found, key=lambda row: (not row[1].stalled(now_ms), (now_ms - row[2].at_ms) // _STALL_LEAST_MS))
    names = {name for name, _, _ in urgent[:most]}
    return [row for row in found if row[0] in names]


def _columns(
    rows: list[tuple[str, _Watched, Checkpoint]], now_ms: int, total: int | None, *, with_run: bool
) -> list[_Shown]:
    marks = [last.watermark for _, _, last in rows]
    speeds = [each.rate(now_ms) for _, each, _ in rows]
    stalls = ["stalled" if each.stalled(now_ms) else "" for _, each, _ in rows]
    lags = [duration(_rounded(now_ms - mark.event_time_ms)) if mark.event_time_ms else "–" for mark in marks]
    columns = [
        _Shown("stage", [output.printed(name) for name, _, _ in rows], is_name=True),
        _Shown("run", [output.printed(last.run_id) for _, _, last in rows], is_name=True, turn=2),
        _Shown("offset", [f"{mark.offset:,}" for mark in marks]),
        _Shown("records/s", ["–" if speed is None else rate(speed) for speed in speeds], turn=3),
        _Shown("last", [age(_rounded(now_ms - last.at_ms)) for _, _, last in rows], turn=4),
        _Shown("lag", lags, turn=1),
    ]
    if not with_run:
        del columns[1]
    if total:
        left = [_left(mark.offset, total, speed) for mark, speed in zip(marks, speeds, strict=True)]
        columns.append(_Shown("left", left))
    return [*columns, _Shown("state", stalls)] if any(stalls) else columns


def _fit(columns: list[_Shown], room: int) -> dict[str, int]:
    """
    Leave out columns until the others fit, and return the width of each.

    Numbers are never cut. Names share the room that they leave.
    """
    while True:
        widths = {column.title: column.width for column in columns}
        names = [column.title for column in columns if column.is_name]
        excess = sum(widths.values()) + len(_GAP) * (len(columns) - 1) - room
        while excess > 0 and (widest := max(names, key=widths.__getitem__)) and widths[widest] > _LEAST:
            widths[widest] -= 1
            excess -= 1
        spare = [column for column in columns if column.turn]
        if excess <= 0 or not spare:
            return widths
        columns.remove(min(spare, key=lambda column: column.turn))


def _left(offset: int, total: int, speed: float | None) -> str:
    if offset >= total:
        return "done"
    return duration(_rounded(int((total - offset) / speed * 1000))) if speed else "–"


def _rounded(ms: int) -> int:
    """Whole seconds, as nobody reads ms that change each second."""
    return ms // 1000 * 1000

"""The command `watch`: a live view of a pipeline."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from milepost.cli import argument, output
from milepost.cli.exit_code import ExitCode
from milepost.errors import StoreBusyError
from milepost.readable import age, count, duration, rate, shorten
from milepost.store import CheckpointStore
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from milepost.checkpoint import Checkpoint

_STAGES: Final = 20  # that a screen shows; more are counted
_NAME: Final = 20  # characters of a name
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


@click.command()
@argument.file
@argument.run
@argument.stage
@click.option("--total", type=click.IntRange(1), metavar="N", help="How many records there are, to show when it will end.")
@click.option("--interval", type=argument.span_ms, default="1s", metavar="SPAN", help="Look so often.  [default: 1s]")
def watch(file: str, run_id: str | None, stage: str | None, total: int | None, interval: int) -> None:
    """
    Watch a pipeline: where each stage is, how fast it moves, how far it is behind, and when it will end.

    It needs a terminal. Ctrl-C ends it.
    """
    from rich.console import Console  # noqa: PLC0415 - takes 0.1 s, and only this command needs it
    from rich.live import Live  # noqa: PLC0415

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
                    live.update(_screen(watched, now_ms, total), refresh=True)
                    time.sleep(interval / 1000)
        except KeyboardInterrupt:  # the intended end, and no error
            raise click.exceptions.Exit(ExitCode.SUCCESS) from None


def _look(store: CheckpointStore, watched: dict[str, _Watched], run_id: str | None, stage: str | None, now_ms: int) -> None:
    for name in [stage] if stage else list(store.resume_points(run_id)):
        entry = store.latest_for_stage(name, run_id=run_id)
        if entry is not None:
            watched.setdefault(name, _Watched()).see(entry, now_ms)


def _screen(watched: dict[str, _Watched], now_ms: int, total: int | None) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not watched:
        return Text(f"{NOTHING}; waiting for the first checkpoint (Ctrl-C to quit)", style="dim")
    table = Table(box=None, pad_edge=False, expand=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("run", no_wrap=True, overflow="ellipsis")
    for title in ("offset", "records/s", "last", "lag", *(["left"] if total else [])):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    newest = sorted(watched.items(), key=lambda each: -(each[1].last.at_ms if each[1].last else 0))[:_STAGES]
    shown = {name for name, _ in newest}
    for name, each in watched.items():
        last = each.last
        if name not in shown or last is None:
            continue
        speed = each.rate(now_ms)
        mark = last.watermark
        stalled = each.stalled(now_ms)
        table.add_row(
            Text(shorten(name, _NAME)),
            Text(shorten(last.run_id, _NAME)),
            f"{mark.offset:,}",
            rate(speed) if speed is not None else "–",
            age(_rounded(now_ms - last.at_ms)),
            duration(_rounded(now_ms - mark.event_time_ms)) if mark.event_time_ms else "–",
            *([_left(mark.offset, total, speed)] if total else []),
            Text("stalled", style="bold red") if stalled else "",
        )
    if len(watched) > len(newest):
        table.caption = f"and {count(len(watched) - len(newest), 'more stage')}"
        table.caption_justify = "left"
    return table


def _left(offset: int, total: int, speed: float | None) -> str:
    if offset >= total:
        return "done"
    return duration(_rounded(int((total - offset) / speed * 1000))) if speed else "–"


def _rounded(ms: int) -> int:
    """Whole seconds, as nobody reads ms that change each second."""
    return ms // 1000 * 1000

"""Print the demo, with bars and colours on a terminal, or as plain lines of at most 80 columns in a log."""

from __future__ import annotations

import io
import sys
import time
from textwrap import indent
from typing import TYPE_CHECKING, Final, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.cells import chop_cells
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from milepost.demo.pipeline import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from rich.console import RenderableType

_LOG_COLUMNS: Final = 80
_INDENT: Final = "  "
_STEPS: Final = 200  # how often a bar moves


def console() -> Console:
    """Return standard output as a console. It may be a terminal, a log, or a device that knows ASCII only."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _LOG_COLUMNS
    return made


def title(to: Console, text: str) -> None:
    """Print the title."""
    to.print(Text(text, style="bold", overflow="fold"))


def heading(to: Console, text: str) -> None:
    """Print a heading, with a blank line before it."""
    to.print()
    title(to, text)


def say(to: Console, text: str, style: str = "") -> None:
    """Print a line under its heading, and wrap it if it is too long."""
    for line in Text(text, style=style, overflow="fold").wrap(to, to.width - len(_INDENT)):
        line.rstrip()
        to.print(Text(_INDENT) + line)


def table(to: Console, columns: Sequence[tuple[str, bool]], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under `columns`. A column is its name, and whether it holds numbers."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name, numeric in columns:
        made.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    _indented(to, made)


def facts(to: Console, named: Mapping[str, str]) -> None:
    """Print values with their names before them."""
    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(overflow="fold")
    for name, value in named.items():
        made.add_row(Text(name, style="bold"), Text(value))
    _indented(to, made)


def code(to: Console, text: str) -> None:
    """Print code to copy. A terminal gets each line in one piece, however long."""
    for line in indent(text, 2 * _INDENT).splitlines():
        for part in [line] if to.is_terminal else chop_cells(line, to.width) or [""]:
            to.print(Text(part), soft_wrap=True)


def _indented(to: Console, what: RenderableType) -> None:
    to.print(Padding(what, (0, 0, 0, len(_INDENT)), expand=False))


class Progress(Protocol):
    """Shows how far each stage has come. Call it with the stage and the number of every finished record."""

    def __call__(self, stage: str, number: int) -> None:
        """Note that record `number` of the stage is done."""

    def now(self, stage: str, number: int) -> None:
        """Show the progress of the stage at once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def progress(to: Console, records: int, done: Mapping[str, int]) -> Progress:
    """
    Show progress as bars on a terminal, or else as lines.

    Args:
        to: The console.
        records: The number of records of each stage.
        done: The number of finished records, by stage.
    """
    return Bars(to, records, done) if to.is_terminal and not to.is_dumb_terminal else Lines(to, records, done)


class Bars:
    """Progress as a bar for each stage."""

    def __init__(self, to: Console, records: int, done: Mapping[str, int]) -> None:
        self._step = max(1, records // _STEPS)
        self._records = records
        self._bars = RichProgress(
            TextColumn(_INDENT + "{task.description:<9}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.completed:>11,} of {task.total:,}"),
            console=to,
        )
        self._tasks = {stage: self._bars.add_task(stage, total=records, completed=done.get(stage, 0)) for stage in STAGES}

    def __call__(self, stage: str, number: int) -> None:
        """Do the same as `Progress`."""
        if number % self._step == 0 or number == self._records:
            self._bars.update(self._tasks[stage], completed=number)

    def now(self, stage: str, number: int) -> None:
        """Do the same as `Progress`."""
        self._bars.update(self._tasks[stage], completed=number, refresh=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()


class Lines:
    """Progress as a line at each quarter of each stage."""

    def __init__(self, to: Console, records: int, done: Mapping[str, int]) -> None:
        self._to, self._records, self._done = to, records, done
        self._next = {stage: self._quarter_after(done.get(stage, 0)) for stage in STAGES}
        self._shown = "", 0
        self._began = time.monotonic()

    def __call__(self, stage: str, number: int) -> None:
        """Do the same as `Progress`."""
        if number >= self._next[stage]:
            self.now(stage, number)

    def now(self, stage: str, number: int) -> None:
        """Do the same as `Progress`."""
        self._next[stage] = self._quarter_after(number)
        if self._shown != (stage, number):
            self._shown = stage, number
            self._line(stage, number, f"{time.monotonic() - self._began:.1f} s")

    def _quarter_after(self, number: int) -> int:
        quarter = 4 * number // self._records + 1
        return -(-quarter * self._records // 4)

    def _line(self, stage: str, number: int, remark: str) -> None:
        percent = 100 * number // self._records
        say(self._to, f"{stage:<9} {percent:>4} %  {number:>11,} of {self._records:,}  {remark}")

    def __enter__(self) -> Self:
        for stage, number in self._done.items():
            self._line(stage, number, "done before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

"""Print tables and facts for people, and JSON for programs. No name in them can control a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

import click
from rich.cells import cell_len, chop_cells

from milepost.cli import wrapping
from milepost.readable import iso, iso_with_ms, visible
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_GAP: Final = "  "
_PADDED: Final = 48  # cells, so that one long name in a pipe does not push all else to the right
_MIN_WIDTH: Final = 8  # cells of a column, however narrow the terminal is
_NAME: Final = 28  # cells that a name keeps before a column is left out for it


class Column(NamedTuple):
    """
    A column of a table.

    Attributes:
        title: Its heading.
        holds: Names, which may wrap, or numbers or times, which never do.
        spare: Whether a narrow terminal may leave it out. It leaves out the widest of these first.
    """

    title: str
    holds: Literal["name", "number", "time"] = "name"
    spare: bool = False


class Table:
    """
    Rows under a heading, printed as they come, so that a table may have any length.

    The first rows decide the width of the columns. A narrow terminal wraps long names, leaves out `spare` columns, and then
    wraps all names. A pipe gets everything, unwrapped.

    Args:
        columns: The columns.
        tells_what_is_left_out: Whether to name columns that are left out.
        below_each_other: Whether to print a value a line if some names would have to wrap, as there may be many columns.
    """

    def __init__(self, *columns: Column, tells_what_is_left_out: bool = True, below_each_other: bool = False) -> None:
        self._columns = columns
        self._tells = tells_what_is_left_out
        self._may_turn = below_each_other
        self._turned = False
        self._kept: list[int] = []
        self._widths: list[int] = []
        self._room = shutil.get_terminal_size().columns if on_terminal() else None

    def print(self, rows: Sequence[Sequence[str]]) -> None:
        """Print more rows, each with a text for every column. The texts may hold anything."""
        shown = [[printed(cell) for cell in row] for row in rows]
        if not self._widths:
            names = [printed(column.title) for column in self._columns]
            self._set_widths([names, *shown])
            if self._turned:
                for row in shown:
                    facts(dict(zip(names, row, strict=True)))
                    click.echo()
                return
            click.echo(click.style(self._line(names), bold=True) if styled() else self._line(names))
        write("".join(f"{self._line(row)}\n" for row in shown))

    def _set_widths(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(_cells, cells)) for cells in zip(*rows, strict=True)]
        kept = list(range(len(self._columns)))
        if self._room is None:
            widths = [min(width, _PADDED) for width in widths]
        else:
            whole = list(widths)
            self._turned = self._may_turn and len(rows) > 1 and _total(widths, kept) > self._room
            self._narrow(widths, kept, _NAME)
            for spare in sorted((index for index in kept if self._columns[index].spare), key=lambda index: -widths[index]):
                if _total(widths, kept) > self._room:
                    kept.remove(spare)
            self._narrow(widths, kept, _MIN_WIDTH)
            self._widen(widths, kept, whole)
            left_out = [self._columns[index].title for index in range(len(widths)) if index not in kept]
            if left_out and self._tells:
                note(f"no room for {', '.join(left_out)}: use a wider terminal or --json")
        self._kept, self._widths = kept, widths

    def _narrow(self, widths: list[int], kept: Sequence[int], least: int) -> None:
        """Narrow the widest names until everything fits."""
        names = [index for index in kept if self._columns[index].holds == "name"]
        while names and _total(widths, kept) > (self._room or 0):
            widest = max(names, key=widths.__getitem__)
            if widths[widest] <= least:
                return
            widths[widest] -= 1

    def _widen(self, widths: list[int], kept: Sequence[int], whole: Sequence[int]) -> None:
        """Give names the room that is left."""
        for index in kept:
            room = (self._room or 0) - _total(widths, kept)
            widths[index] += max(0, min(room, whole[index] - widths[index]))

    def _line(self, row: Sequence[str]) -> str:
        """Format a row as one line or, on a terminal, as many lines as its longest cell needs."""
        parts = {index: self._parts(row[index], self._widths[index]) for index in self._kept}
        lines = []
        for number in range(max(map(len, parts.values()))):
            cells = [
                _padded(
                    parts[index][number] if number < len(parts[index]) else "", self._widths[index], self._columns[index]
                )
                for index in self._kept
            ]
            lines.append(_GAP.join(cells).rstrip())
        return "\n".join(lines)

    def _parts(self, cell: str, width: int) -> list[str]:
        """Break a cell that is too long, after a blank if there is one in the second half of a line."""
        parts = []
        while self._room is not None and _cells(cell) > width:
            part = chop_cells(cell, width)[0]
            end = part.rfind(" ") + 1
            parts.append(part[:end] if end > len(part) // 2 else part)
            cell = cell[len(parts[-1]) :]
        return [*parts, cell]


def printed(text: str) -> str:
    """Return a cell as it is shown; one of blanks alone in quotes, because nobody would see it."""
    return visible(f"'{text}'" if text and not text.strip() else text)


def facts(named: Mapping[str, str]) -> None:
    """Print values with their names before them."""
    width = max(map(len, named))
    for name, value in named.items():
        click.echo(f"{click.style(name, bold=True) if styled() else name}{' ' * (width - len(name))}  {visible(value)}")


def item(text: str) -> None:
    """Print one item of a list, indented."""
    click.echo(f"  {visible(text)}")


def sentence(text: str, indent: str = _GAP) -> None:
    """Print one sentence. On a terminal it breaks between words."""
    for each in wrapping.lines(text, on_terminal(), indent, f"{indent}{_GAP}" if indent else ""):
        click.echo(each)


def document(value: object) -> None:
    """Print one JSON document."""
    write(f"{_json(value, indent=2)}\n")


def text(lines: str) -> None:
    """Print text of the library for people, line by line."""
    for each in lines.split("\n"):
        indent = each[: len(each) - len(each.lstrip())]
        for line in wrapping.lines(each.lstrip(), on_terminal(), indent, f"{indent}{_GAP}" if indent else ""):
            click.echo(line)


def line(value: object) -> str:
    """Format a value as one line of JSON Lines, with its line end."""
    return f"{_json(value)}\n"


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent)  # ASCII, with every control character escaped


def cell(text: str) -> str:
    """Return text that a spreadsheet does not run as a formula."""
    return visible(f"'{text}" if text.startswith(_FORMULA) else text)


_FORMULA: Final = tuple("=+-@\t\r＝＋－＠")


def write(text: str) -> None:
    """Write data to standard output, unchanged."""
    sys.stdout.write(text)


def note(sentence: str) -> None:
    """Print a remark to standard error, because standard output is for data only."""
    for each in wrapping.lines(f"milepost: {sentence}", sys.stderr.isatty()):
        click.echo(each, err=True)


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def styled() -> bool:
    """Return whether standard output may have escape codes."""
    return on_terminal() and colored()


def colored() -> bool:
    """Return whether the terminal supports escape codes, and its user wants them (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def set_zone(zone: tzinfo) -> None:
    """Show times in this zone from now on."""
    _zone[0] = zone


def zone() -> tzinfo:
    """Return the zone in which times are shown, and in which those are that the user gives without a zone."""
    return _zone[0]


_zone: Final[list[tzinfo]] = [UTC]


def time(at_ms: int, *, precise: bool = True) -> str:
    """Format a time for a column of a table, to the ms or to the second: as in JSON, or in the zone of `--tz`."""
    if not precise:
        at_ms = at_ms // 1000 * 1000
    if zone() is not UTC:
        with suppress(OverflowError, ValueError):  # after the year 9999
            found = datetime.fromtimestamp(at_ms // 1000, zone()).replace(microsecond=at_ms % 1000 * 1000)
            return found.isoformat(timespec="milliseconds" if precise else "seconds")
    return (iso_with_ms(at_ms) if precise else None) or iso(at_ms)


def event_time(at_ms: int) -> str:
    """Format an event time for a column of a table, or a dash if none was given."""
    return time(at_ms) if at_ms else "–"


def _padded(cell: str, width: int, column: Column) -> str:
    space = " " * (width - _cells(cell))
    return space + cell if column.holds == "number" else cell + space


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + len(_GAP) * (len(kept) - 1)


def listing(
    found: Sequence[T],
    form: Callable[[T], object],
    columns: Sequence[Column],
    row: Callable[[T], tuple[str, ...]],
    *,
    as_json: bool,
    rest: str = "",
) -> None:
    """
    Print values as a table, a row each, or as JSON.

    Args:
        found: The values.
        form: Turns a value into its JSON form.
        columns: The columns of the table.
        row: Turns a value into its cells.
        as_json: Whether to print JSON.
        rest: What to say of the values that are left out.
    """
    if as_json:
        document([form(each) for each in found])
    elif found:
        Table(*columns).print([row(each) for each in found])
    else:
        note(NOTHING)
    if rest and not as_json:
        note(rest)

"""Read the columns of a CSV that the job needs. An error names the file, the line and the value."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost.errors import InvalidArgumentError, shown
from milepost.readable import count

if TYPE_CHECKING:
    from _csv import Reader
    from collections.abc import Iterator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_IN_MS: Final = 10**11
"""Whole numbers from here on are milliseconds (1973), and smaller ones are seconds (until the year 5138)."""

_COLUMNS_SHOWN: Final = 12


class Row(NamedTuple):
    """One record of a CSV, as text; `number` is 1 for the first."""

    number: int
    event_time: str
    category: str
    amount: str


class Moment(NamedTuple):
    """A point in time, in ms since the epoch, and its day (YYYY-MM-DD, UTC)."""

    ms: int
    day: str


@dataclass(frozen=True, slots=True)
class Source:
    """
    A CSV, and the columns that the job takes from it.

    Attributes:
        path: The CSV, or a zip that contains it.
        event_time: The column with the time of a record.
        by: The column to total by; without one, all records have the category "".
        summed: The column to add up; without one, every amount is 0.
        member: The name of the CSV within a zip.
        title: A short description of the records.
    """

    path: str
    event_time: str
    by: str | None = None
    summed: str | None = None
    member: str | None = None
    title: str | None = None

    def __iter__(self) -> Iterator[Row]:
        """
        Iterate over every record from the beginning, in the order of the file. Blank lines are skipped.

        Raises:
            InvalidArgumentError: The file, its columns or one of its lines is wrong.
        """
        with self._text() as text:
            reader = csv.reader(text)
            try:
                yield from self._rows(reader)
            except csv.Error as error:
                raise InvalidArgumentError(
                    "--input", self.path, f"line {reader.line_num} is not CSV ({error}): correct it"
                ) from error
            except UnicodeDecodeError as error:
                problem = f"text after line {reader.line_num} is not UTF-8: convert the file first"
                raise InvalidArgumentError("--input", self.path, problem) from error

    def _rows(self, lines: Reader) -> Iterator[Row]:
        header = next(lines, [])
        at_time = self._place(header, "--event-time", self.event_time)
        at_category = None if self.by is None else self._place(header, "--by", self.by)
        at_amount = None if self.summed is None else self._place(header, "--sum", self.summed)
        number = 0
        for line in lines:
            if not line:
                continue
            if len(line) != len(header):
                problem = f"it has {count(len(line), 'field')}, but the header has {len(header)}"
                raise InvalidArgumentError(self._where(lines), ",".join(line), problem)
            number += 1
            row = Row(
                number,
                line[at_time],
                "" if at_category is None else line[at_category],
                "" if at_amount is None else line[at_amount],
            )
            try:
                event_time(row.event_time)
            except (ValueError, OverflowError):
                problem = "must be ISO 8601, or whole seconds or milliseconds since 1970, and not before 1970"
                raise InvalidArgumentError(self._where(lines, self.event_time), row.event_time, problem) from None
            try:
                amount(row.amount)
            except ValueError:
                raise InvalidArgumentError(
                    self._where(lines, self.summed), row.amount, "must be a number, or empty"
                ) from None
            yield row

    def _place(self, header: list[str], option: str, column: str) -> int:
        found = header.count(column)
        if found == 1:
            return header.index(column)
        if found > 1:
            raise InvalidArgumentError(option, column, f"{shown(self.path)} has {found} columns of this name: rename one")
        names = ", ".join(map(shown, header[:_COLUMNS_SHOWN])) + (" …" if len(header) > _COLUMNS_SHOWN else "")
        raise InvalidArgumentError(
            option,
            column,
            f"it is no column of {shown(self.path)}: choose one of {names}"
            if names
            else f"{shown(self.path)} has no header line: add one",
        )

    def _where(self, lines: Reader, column: str | None = None) -> str:
        place = f"{shown(self.path)} line {lines.line_num}"
        return place if column is None else f"{place}, column {shown(column)}"

    @contextmanager
    def _text(self) -> Iterator[io.TextIOBase]:
        path = Path(self.path)
        if path.exists() and not path.is_file():
            # A pipe can be read only once, but the job reads its source on every start.
            raise InvalidArgumentError("--input", self.path, "it is not a regular file: save it as one first")
        try:
            if self.member is None:
                with path.open(encoding="utf-8-sig", newline="") as text:
                    yield text
            else:
                with zipfile.ZipFile(path) as archive, archive.open(self.member) as data:
                    yield io.TextIOWrapper(data, "utf-8-sig", newline="")
        except OSError as error:
            raise InvalidArgumentError(
                "--input", self.path, f"it cannot be read ({error.strerror}): check the path and its permissions"
            ) from error


@lru_cache(maxsize=4096)  # neighbouring records often share a time: a flight's time is its hour
def event_time(text: str) -> Moment:
    """
    Parse a time: ISO 8601 (UTC without a zone), or whole seconds or milliseconds since 1970.

    Raises:
        ValueError: It is none of these, or before 1970, which no watermark allows.
        OverflowError: It is after the year 9999.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) != 8:  # eight digits are a date (YYYYMMDD)
        since = timedelta(milliseconds=int(text) * (1 if int(text) >= _FIRST_IN_MS else 1000))
    else:
        moment = datetime.fromisoformat(text)
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    ms = since // timedelta(milliseconds=1)
    if ms < 0:
        raise ValueError(text)
    return Moment(ms, (_EPOCH + since).date().isoformat())


def amount(text: str) -> float:
    """
    Parse the number in a cell. An empty cell is 0.

    Raises:
        ValueError: It is not a finite number.
    """
    number = float(text.strip() or 0)
    if not math.isfinite(number):
        raise ValueError(text)
    return number

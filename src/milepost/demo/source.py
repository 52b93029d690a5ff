"""A CSV and the columns that the job takes of it: read row by row, refused with file, line and value where it is wrong."""

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
"""Whole numbers from here on are milliseconds (1973), below it seconds (until the year 5138)."""

_COLUMNS_SHOWN: Final = 12


class Row(NamedTuple):
    """One record of a CSV, as text; `number` is 1 for the first."""

    number: int
    event_time: str
    category: str
    amount: str


class Moment(NamedTuple):
    """When something happened: in ms since the epoch, and on which day (YYYY-MM-DD, UTC)."""

    ms: int
    day: str


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where the records come from.

    Attributes:
        path: The CSV, or a zip with it.
        event_time: The column with the time of a record.
        by: The column to total by; without one everything is one category, "".
        summed: The column to add up; without one every amount is 0.
        member: The name of the CSV within a zip.
        title: What the records are, in a few words.
    """

    path: str
    event_time: str
    by: str | None = None
    summed: str | None = None
    member: str | None = None
    title: str | None = None

    def __iter__(self) -> Iterator[Row]:
        """
        Every record, in the order of the file and from its beginning each time; blank lines are none.

        Raises:
            InvalidArgumentError: The file, its columns or one of its lines is not as it must be.
        """
        with self._text() as text:
            reader = csv.reader(text)
            try:
                yield from self._rows(reader)
            except csv.Error as error:
                raise InvalidArgumentError("--input", self.path, f"line {reader.line_num} is no CSV: {error}") from error
            except UnicodeDecodeError as error:
                problem = f"after line {reader.line_num} there is text that is not UTF-8: convert the file first"
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
                problem = f"it has {count(len(line), 'field')}, and the header {len(header)}"
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
        raise InvalidArgumentError(option, column, f"no column of {shown(self.path)}, which has {names or 'no header line'}")

    def _where(self, lines: Reader, column: str | None = None) -> str:
        place = f"{shown(self.path)} line {lines.line_num}"
        return place if column is None else f"{place}, column {shown(column)}"

    @contextmanager
    def _text(self) -> Iterator[io.TextIOBase]:
        path = Path(self.path)
        if path.exists() and not path.is_file():
            # A pipe could be read once only, and the job reads its source on every start.
            raise InvalidArgumentError("--input", self.path, "not a regular file: save it as one first")
        try:
            if self.member is None:
                with path.open(encoding="utf-8-sig", newline="") as text:
                    yield text
            else:
                with zipfile.ZipFile(path) as archive, archive.open(self.member) as data:
                    yield io.TextIOWrapper(data, "utf-8-sig", newline="")
        except OSError as error:
            raise InvalidArgumentError("--input", self.path, f"cannot be read: {error.strerror}") from error


@lru_cache(maxsize=4096)  # records that are near in time often share it: a flight's time is its hour
def event_time(text: str) -> Moment:
    """
    The time that a cell tells: ISO 8601, UTC where it has no zone, or whole seconds or milliseconds since 1970.

    Raises:
        ValueError: It is none of these, or before 1970, where a watermark cannot be.
        OverflowError: It is after the year 9999.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) != 8:  # eight digits are a date, YYYYMMDD
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
    The number in a cell; an empty one adds nothing.

    Raises:
        ValueError: It is not a finite number.
    """
    number = float(text.strip() or 0)
    if not math.isfinite(number):
        raise ValueError(text)
    return number

"""Read the columns of a CSV that the job needs. An error names the file, the line and the value."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import math
import re
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from milepost.errors import InvalidArgumentError, shown
from milepost.readable import count

if TYPE_CHECKING:
    from _csv import Reader
    from collections.abc import Iterator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = ((10**11, 10**6), (10**14, 10**3), (10**17, 1), (10**19, 0))
"""
Since 1970, numbers below the first of each pair are in units of so many microseconds: seconds until the year 5138, then
milliseconds from 1973 on, then microseconds, and nanoseconds until 2286.
"""

_WHOLE: Final = re.compile(r"[+-]?[0-9]+")
_SECONDS: Final = re.compile(r"([0-9]{9,11})\.([0-9]+)")  # with fewer digits it may be a date of a spreadsheet
_MAX_INTEGER: Final = 2**63 - 1
_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_WINDOWS: Final = "cp1252"  # Latin-1, with printable characters where that has controls which no CSV has
_NAMES: Final = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", _WINDOWS: "Latin-1 (Windows-1252)"}
_NEWLINE: Final = b"\n"
_CHUNK: Final = 2**20

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


class Form(NamedTuple):
    """How a CSV is written: its encoding and the character between two fields."""

    encoding: str
    delimiter: str

    @property
    def remark(self) -> str:
        """How the file was read, if it is not UTF-8 with commas."""
        if self == ("utf-8-sig", ","):
            return ""
        return f"as {_NAMES[self.encoding]}, with {_DELIMITERS[self.delimiter]} between the fields"


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
        form = self.form()
        with self._text(form.encoding) as text:
            reader = csv.reader(text, delimiter=form.delimiter)
            try:
                yield from self._rows(reader)
            except csv.Error as error:
                raise InvalidArgumentError(
                    "--input", self.path, f"line {reader.line_num} is not CSV ({error}): correct it"
                ) from error
            except UnicodeDecodeError as error:
                problem = f"text after line {reader.line_num} is not {_NAMES[form.encoding]}: save the file as UTF-8"
                raise InvalidArgumentError("--input", self.path, problem) from error

    def form(self) -> Form:
        """
        Recognize the encoding and the delimiter: the one with which the header has the columns that are asked for.

        Raises:
            InvalidArgumentError: The file cannot be read, or is in no encoding that is known.
        """
        encoding = "utf-8-sig" if self.member else self._encoding()
        wanted = {self.event_time, self.by, self.summed} - {None}
        columns: dict[str, int] = {}
        for delimiter in _DELIMITERS:
            with self._text(encoding) as text, contextlib.suppress(csv.Error, UnicodeDecodeError):
                header = next(csv.reader(text, delimiter=delimiter), [])
                if wanted <= set(header):
                    return Form(encoding, delimiter)
                columns[delimiter] = len(header)
        return Form(encoding, max(columns, key=columns.__getitem__, default=","))

    def _encoding(self) -> str:
        decoder = codecs.getincrementaldecoder("utf-8")()
        lines, is_ascii = 1, True
        with self._bytes() as file:
            part = file.read(_CHUNK)
            if part.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            has_mark = part.startswith(codecs.BOM_UTF8)
            while True:
                try:
                    is_ascii = decoder.decode(part, final=not part).isascii() and is_ascii
                except UnicodeDecodeError as error:
                    before = error.object[: error.start]
                    if is_ascii and before.isascii() and not has_mark:
                        return _WINDOWS
                    where = f"{shown(self.path)} line {lines + before.count(_NEWLINE):,}"
                    problem = "this is not UTF-8, but what comes before it is: correct the line, or save the file as UTF-8"
                    raise InvalidArgumentError(where, error.object[error.start : error.end], problem) from None
                if not part:
                    return "utf-8-sig"
                lines += part.count(_NEWLINE)
                part = file.read(_CHUNK)

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
                raise InvalidArgumentError(self._where(lines), lines.dialect.delimiter.join(line), problem)
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
                problem = (
                    "must be ISO 8601 (2013-01-31T10:00:00Z) or seconds since 1970, and not before 1970: "
                    "convert the column, or choose another one"
                )
                raise InvalidArgumentError(self._where(lines, self.event_time), row.event_time, problem) from None
            try:
                amount(row.amount)
            except ValueError:
                raise InvalidArgumentError(
                    self._where(lines, self.summed), row.amount, _fault_of_amount(row.amount)
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
    def _text(self, encoding: str) -> Iterator[io.TextIOBase]:
        with self._bytes() as data:
            yield io.TextIOWrapper(data, encoding, newline="")

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        path = Path(self.path)
        if path.exists() and not path.is_file():
            # A pipe can be read only once, but the job reads its source on every start.
            raise InvalidArgumentError("--input", self.path, "it is not a regular file: save it as one first")
        try:
            if self.member is None:
                with path.open("rb") as data:
                    yield data
            else:
                with zipfile.ZipFile(path) as archive, archive.open(self.member) as data:
                    yield data
        except OSError as error:
            raise InvalidArgumentError(
                "--input", self.path, f"it cannot be read ({error.strerror}): check the path and its permissions"
            ) from error


@lru_cache(maxsize=4096)  # neighbouring records often share a time: a flight's time is its hour
def event_time(text: str) -> Moment:
    """
    Parse a time: ISO 8601 (UTC without a zone), or a number since 1970, of seconds to nanoseconds.

    Raises:
        ValueError: It is none of these, or before 1970, which no watermark allows.
        OverflowError: It is after the year 9999.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) != 8:  # eight digits are a date (YYYYMMDD)
        since = _since_epoch(text)
    elif seconds := _SECONDS.fullmatch(text):
        since = timedelta(seconds=int(seconds[1]), microseconds=int(f"{seconds[2]:0<6.6}"))
    else:
        moment = datetime.fromisoformat(text)
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    ms = since // timedelta(milliseconds=1)
    if ms < 0:
        raise ValueError(text)
    return Moment(ms, (_EPOCH + since).date().isoformat())


def _since_epoch(digits: str) -> timedelta:
    number = int(digits)
    for end, microseconds in _UNITS:
        if number < end:
            return timedelta(microseconds=number * microseconds if microseconds else number // 1000)
    raise ValueError(digits)


def amount(text: str) -> int | float:
    """
    Parse the number in a cell. A whole number stays one, however large, and an empty cell is 0.

    Raises:
        ValueError: It is not a finite number, or a whole number of more than 64 bits.
    """
    text = text.strip()
    number = int(text) if _WHOLE.fullmatch(text) else float(text or 0)
    if not fits(number):
        raise ValueError(text)
    return number


def fits(number: float) -> bool:
    """Whether SQLite holds a number as it is: a whole number in 64 bits, or one with a decimal point that is finite."""
    return abs(number) <= _MAX_INTEGER if isinstance(number, int) else math.isfinite(number)


def _fault_of_amount(text: str) -> str:
    if _WHOLE.fullmatch(text.strip()):
        return "must be a whole number of at most 64 bits, or have a decimal point: add one to accept rounding"
    if "," in text:
        return "must be a number with a decimal point, without commas: convert the column"
    return "must be a number, or empty"

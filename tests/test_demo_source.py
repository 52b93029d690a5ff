"""The source of the demo: a CSV, its times and its amounts."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from milepost import InvalidArgumentError
from milepost.demo.source import Row, Source, amount, event_time

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "ms", "day"),
    [
        ("1970-01-01T00:00:00Z", 0, "1970-01-01"),
        ("2013-01-01T10:00:00Z", 1357034400000, "2013-01-01"),
        ("2013-01-01 10:00", 1357034400000, "2013-01-01"),
        ("2013-01-01T23:30:00-05:00", 1357101000000, "2013-01-02"),
        ("2013-01-01T10:00:00.0019", 1357034400001, "2013-01-01"),
        ("2013-01-01", 1356998400000, "2013-01-01"),
        ("20130101", 1356998400000, "2013-01-01"),
        ("0", 0, "1970-01-01"),
        ("1357034400", 1357034400000, "2013-01-01"),
        ("99999999999", 99999999999000, "5138-11-16"),
        ("100000000000", 100000000000, "1973-03-03"),
        (" 1357034400000 ", 1357034400000, "2013-01-01"),
        ("1357034400.0", 1357034400000, "2013-01-01"),
        ("1357034400.1239", 1357034400123, "2013-01-01"),
        ("99999999999999", 99999999999999, "5138-11-16"),
        ("1357034400000999", 1357034400000, "2013-01-01"),
        ("1357034400000999999", 1357034400000, "2013-01-01"),
    ],
)  # fmt: skip
def test_a_time_is_read_in_every_form(text: str, ms: int, day: str) -> None:
    """ISO 8601 with and without a zone, dates, and seconds since 1970, or what is a thousandth of the one before."""
    assert event_time(text) == (ms, day)


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "1.5", "1969-12-31T23:59:59.999Z", "2013-13-01", "١٢٣", "9" * 30, "9" * 5000, "41275.5", "31.01.2013"],
)
def test_a_cell_that_tells_no_time_is_refused(text: str) -> None:
    """What is no time, or none that a watermark can hold, raises one of the two errors that the source explains."""
    with pytest.raises((ValueError, OverflowError)):
        event_time(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0.0), (" ", 0.0), ("7", 7), (" -2.5 ", -2.5), ("1e3", 1000.0), ("+007", 7), ("9007199254740993", 2**53 + 1),
     (str(2**63 - 1), 2**63 - 1), (str(1 - 2**63), 1 - 2**63), (f"{2**63}.0", float(2**63))],
)  # fmt: skip
def test_an_amount_is_a_number_or_nothing(text: str, number: float) -> None:
    """An empty cell adds nothing; a whole number is one, and no float."""
    found = amount(text)
    assert (found, type(found)) == (number, type(number))


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63)), "9" * 5000, "1e400", "1,5", "nan"])
def test_a_number_that_sqlite_would_change_is_refused(text: str) -> None:
    """An integer of more than 64 bits would become a float."""
    with pytest.raises(ValueError, match=r".*"):
        amount(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encoding_and_delimiter_are_recognized(tmp_path: Path, encoding: str, delimiter: str) -> None:
    """By the bytes, and by the columns that are asked for; other delimiters within a field change nothing."""
    lines = [["Zeit", "Größe"], ["1", "größer; kleiner,\tgleich"], ["2", "5 €" if encoding == "cp1252" else "é"]]
    with (tmp_path / "x.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    source = Source(str(tmp_path / "x.csv"), "Zeit", "Größe")
    assert [(row.event_time, row.category) for row in source] == [tuple(line) for line in lines[1:]]
    named = {"latin-1": "Latin-1", "cp1252": "Latin-1", "utf-16": "UTF-16"}.get(encoding, "UTF-8")
    plain = (named, delimiter) == ("UTF-8", ",")
    assert source.form().remark.startswith(f"as {named}" if not plain else "")
    assert (source.form().remark == "") == plain


@pytest.mark.parametrize("more", [0, 1, 2])
def test_the_encoding_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """However late the first character that tells it, and wherever a piece ends that is read of it."""
    monkeypatch.setattr("milepost.demo.source._CHUNK", 10)
    for text, encoding in (("é", "latin-1"), ("é", "utf-8"), ("€", "utf-8")):
        (tmp_path / "x.csv").write_bytes(f"t,who\n1,a{'b' * more}{text}\n2,{text}".encode(encoding))
        assert [row.category for row in Source(str(tmp_path / "x.csv"), "t", "who")] == [f"a{'b' * more}{text}", text]


def test_columns_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    """Without --by and --sum all is one category without an amount."""
    (tmp_path / "x.csv").write_text("when,who\n1,a\n2,b\n", encoding="utf-8")
    assert list(Source(str(tmp_path / "x.csv"), "when")) == [Row(1, "1", "", ""), Row(2, "2", "", "")]


def test_a_source_that_is_no_file_of_the_zip_is_refused(tmp_path: Path) -> None:
    """A CSV that is not there is told as such also where it is to be in a zip."""
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        next(iter(Source(str(tmp_path / "no.zip"), "when", member="x.csv")))

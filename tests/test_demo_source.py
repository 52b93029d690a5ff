"""The source of the demo: a CSV, its times and its amounts."""

from __future__ import annotations

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
    ],
)  # fmt: skip
def test_a_time_is_read_in_every_form(text: str, ms: int, day: str) -> None:
    """ISO 8601 with and without a zone, dates, and whole seconds or milliseconds since 1970."""
    assert event_time(text) == (ms, day)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5", "1969-12-31T23:59:59.999Z", "2013-13-01", "١٢٣", "9" * 30, "9" * 5000]
)
def test_a_cell_that_tells_no_time_is_refused(text: str) -> None:
    """What is no time, or none that a watermark can hold, raises one of the two errors that the source explains."""
    with pytest.raises((ValueError, OverflowError)):
        event_time(text)


@pytest.mark.parametrize(("text", "number"), [("", 0.0), (" ", 0.0), ("7", 7.0), (" -2.5 ", -2.5), ("1e3", 1000.0)])
def test_an_amount_is_a_number_or_nothing(text: str, number: float) -> None:
    """An empty cell adds nothing."""
    assert amount(text) == number


def test_columns_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    """Without --by and --sum all is one category without an amount."""
    (tmp_path / "x.csv").write_text("when,who\n1,a\n2,b\n", encoding="utf-8")
    assert list(Source(str(tmp_path / "x.csv"), "when")) == [Row(1, "1", "", ""), Row(2, "2", "", "")]


def test_a_source_that_is_no_file_of_the_zip_is_refused(tmp_path: Path) -> None:
    """A CSV that is not there is told as such also where it is to be in a zip."""
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        next(iter(Source(str(tmp_path / "no.zip"), "when", member="x.csv")))

"""Times, counts, sizes, durations and names as people read them; nothing in a name is obeyed or overlooked."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.readable import age, count, duration, iso, iso_with_ms, shorten, shorten_middle, size, visible

MARCH = 1362107520000


@pytest.mark.parametrize("text", ["", "load:0-499", "Zürich 東京 🚲", "e\u0301", "<b>&\"'", "a\\x1b", "  two  spaces "])
def test_a_harmless_text_is_left_as_it_is(text: str) -> None:
    """Whatever its script."""
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]8;;http://x\x07", "\\x1b]8;;http://x\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\r\nb\tc\x7f", "a\\r\\nb\\tc\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\u2066c\ufeff", "a\\u200bb\\u2066c\\ufeff"),
        ("a\u3164b\ufe0f", "a\\u3164b\\ufe0f"),
        ("a\u2028b\u00a0c", "a\\u2028b\\xa0c"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_written_out(text: str, shown: str) -> None:
    """As Python writes it in a string."""
    assert visible(text) == shown


@given(st.text())
def test_no_control_no_format_and_no_line_end_is_left(text: str) -> None:
    """Of any text there is."""
    assert {unicodedata.category(each) for each in visible(text)}.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@given(st.text(), st.integers(0, 100))
def test_a_short_text_is_whole_and_a_long_one_is_cut(text: str, length: int) -> None:
    """By what is shown of it; never within an escape."""
    found = shorten(text, length)
    if len(visible(text)) <= length:
        assert found == visible(text)
    else:
        assert len(found) <= length + 1
        kept = found.removesuffix("…")
        assert kept in {visible(text[:number]) for number in range(len(text))}


def test_of_a_long_message_the_begin_and_the_end_are_shown() -> None:
    """The middle is left out."""
    assert shorten_middle("no such column: x", 160) == "no such column: x"
    assert shorten_middle(f"near {'x' * 200}: syntax error", 16) == "near xxxxx… error"
    assert shorten_middle("a\nb", 16) == "a\\nb"


def test_a_time_in_a_sentence_has_no_more_digits_than_it_needs() -> None:
    """ISO 8601 in UTC; after the year 9999, a number."""
    assert iso(MARCH) == "2013-03-01T03:12:00Z"
    assert iso(MARCH + 7) == "2013-03-01T03:12:00.007Z"
    assert iso(2**63 - 1) == "9223372036854775807 ms"
    assert iso(253402300800000) == "253402300800000 ms"


def test_a_time_in_a_column_always_has_the_same_width() -> None:
    """ISO 8601 in UTC; after the year 9999, there is none."""
    assert iso_with_ms(MARCH) == "2013-03-01T03:12:00.000Z"
    assert iso_with_ms(253402300799999) == "9999-12-31T23:59:59.999Z"
    assert iso_with_ms(253402300800000) is None


def test_a_length_of_time_has_its_two_largest_units() -> None:
    """Without zeros."""
    lengths = [0, 7, 1000, 1007, 61_000, 3_600_000, 3_600_007, 100_000_000, 86_400_000, -7, 10**15]
    expected = ["0 s", "7 ms", "1 s", "1 s 7 ms", "1 min 1 s", "1 h", "1 h", "1 d 3 h", "1 d", "-7 ms", "11,574,074 d 1 h"]
    assert [duration(ms) for ms in lengths] == expected


def test_an_age_may_be_in_the_future() -> None:
    """Where a clock went back."""
    assert [age(ms) for ms in (3_600_000, 0, -61_000)] == ["1 h ago", "0 s ago", "1 min 1 s in the future"]


def test_a_count_has_its_noun_in_singular_or_plural() -> None:
    """With commas."""
    assert [count(number, "entry") for number in (0, 1, 2000)] == ["0 entries", "1 entry", "2,000 entries"]
    assert [count(number, "run") for number in (1, 2)] == ["1 run", "2 runs"]


def test_a_size_is_told_in_three_digits() -> None:
    """From bytes to terabytes."""
    sizes = [0, 1, 999, 1000, 28_672, 999_499, 999_500, 307_404_800, 5 * 10**9, 2 * 10**12]
    expected = ["0 bytes", "1 byte", "999 bytes", "1 kB", "28.7 kB", "999 kB", "1 MB", "307 MB", "5 GB", "2 TB"]
    assert [size(number) for number in sizes] == expected

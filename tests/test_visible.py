"""A name on a screen: nothing in it is obeyed, nothing is overlooked, and what is harmless is left alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.visible import visible


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

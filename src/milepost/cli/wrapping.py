"""Break a sentence between words, for a terminal."""

from __future__ import annotations

import re
import shutil
from textwrap import wrap
from typing import Final

from milepost.readable import visible

_LEAST: Final = 16  # cells, however narrow the terminal is
_BEFORE_UNIT: Final = re.compile(r"(?<=[0-9]) (?=(?:d|h|min|s|ms)\b)")
_TIE: Final = "\xa0"


def lines(text: str, wraps: bool, first: str = "", rest: str = "") -> list[str]:
    """
    Return a sentence as one line or, for a terminal, as lines that break between words.

    Args:
        text: The sentence; it may hold anything.
        wraps: Whether it is for a terminal.
        first: What stands before the first line.
        rest: What stands before the others.
    """
    shown = first + visible(text)
    if not wraps:
        return [shown]
    width = max(shutil.get_terminal_size().columns, _LEAST)
    tied = _BEFORE_UNIT.sub(_TIE, shown)  # no line ends between a number and its unit
    found = wrap(tied, width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_TIE, " ") for line in found] or [""]

"""Escape text from outside, so that a terminal obeys nothing in it and a reader sees every character."""

from __future__ import annotations

from typing import Final

# Unicode calls these printable, but they are invisible: fillers, joiners, blanks and variation selectors.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)


def visible(text: str) -> str:
    r"""
    Make text from outside safe to print on one line.

    It escapes control characters (C0 and C1, and so every escape sequence), line ends, marks of writing direction and
    characters without width. They come out as in a Python string, such as `\x1b` or `\u202e`. All other text is unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() and each not in _UNSEEN else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

"""Names come from outside: show one so that a terminal obeys nothing in it, and a reader overlooks nothing."""

from __future__ import annotations

from typing import Final

# Unicode calls these printable, and shows nothing for them: fillers, joiners, blanks and variation selectors.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)


def visible(text: str) -> str:
    r"""
    A text from outside as it may stand on a screen, on one line.

    Controls (C0, C1, and so every escape sequence), line ends, marks that turn the writing direction, and characters of
    no width come out as Python writes them in a string, like `\x1b` or `\u202e`; everything else is as it was.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() and each not in _UNSEEN else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

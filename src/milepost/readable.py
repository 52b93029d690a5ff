"""Format times, counts, sizes, durations and names for people, each by one function for every place that shows one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# Unicode calls these printable, but they show nothing: fillers, joiners, blanks and variation selectors.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)


# Times


def iso(ms: int) -> str:
    """Format a time for a sentence, as ISO 8601 in UTC: `2013-03-01T03:12:00Z`, or `253402300800000 ms` after year 9999."""
    return _iso(ms, "milliseconds" if ms % 1000 else "seconds") or f"{ms} ms"


def event_time(ms: int) -> str:
    """Format an event time as `iso` does, or as a dash if none was given (0)."""
    return iso(ms) if ms else "–"


def iso_with_ms(ms: int) -> str | None:
    """Format a time as ISO 8601 in UTC with 24 characters: `2013-03-01T03:12:00.000Z`. Return None after the year 9999."""
    return _iso(ms, "milliseconds")


def _iso(ms: int, precision: str) -> str | None:
    found = moment(ms)
    return None if found is None else found.isoformat(timespec=precision).replace("+00:00", "Z")


def moment(ms: int) -> datetime | None:
    """Return a time as a `datetime` in UTC, or None after the year 9999: ISO 8601 has four digits for a year, as Python."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None


def duration(ms: int) -> str:
    """Format a length of time in its two largest units, as in `2 d 3 h`."""
    if ms < 0:
        return f"-{duration(-ms)}"
    parts = []
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)):
        number, ms = divmod(ms, unit_ms)
        if number:
            parts.append(f"{number:,} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def age(ms: int) -> str:
    """Say how long ago something was, as in `2 d 3 h ago`. A negative age is in the future."""
    return f"{duration(ms)} ago" if ms >= 0 else f"{duration(-ms)} in the future"


# Counts and sizes


def count(number: int, noun: str) -> str:
    """Format a number of things, in singular or plural, as in `1 entry` or `2,000 entries`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"


def size(number: int) -> str:
    """Format a number of bytes in three digits, as in `28.7 kB`. A kB has 1,000 bytes."""
    if number < 1000:
        return count(number, "byte")
    amount = float(number)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount / 1000:,.3g} TB"


def rate(per_second: float) -> str:
    """Format a number of records per second, as in `0.125` or `12,345`. Below 1,000 it has up to three digits."""
    return f"{per_second:,.0f}" if per_second >= 999.5 else f"{per_second:.3g}"


# Names and other texts from outside


def visible(text: str) -> str:
    r"""
    Return a text from outside on one line, so that no terminal obeys it and no reader overlooks a part of it.

    Python's escapes, like `\x1b` or `\u202e`, replace controls (C0, C1), line ends, marks that turn the writing direction
    and characters of no width. Everything else stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() and each not in _UNSEEN else _escape(each) for each in text)


def shorten(text: str, length: int) -> str:
    """
    Return a text from outside as `visible` shows it, cut to at most `length` characters and an ellipsis.

    The limit counts shown characters, since one hidden character may take ten to show. No escape is cut in two.
    """
    pieces: list[str] = []
    left = length
    for each in map(visible, text[: length + 1]):
        left -= len(each)
        if left < 0:
            return f"{''.join(pieces)}…"
        pieces.append(each)
    return "".join(pieces)


def shorten_middle(text: str, length: int) -> str:
    """Return a text from outside as `visible` shows it. If it is longer than `length`, keep the beginning and the end."""
    if len(text) > length:
        end = length * 3 // 8
        text = f"{text[: length - end]}…{text[-end:]}"
    return visible(text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

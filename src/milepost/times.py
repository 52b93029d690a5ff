"""Times as people and programs give them, as ms since the epoch."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from typing import Final, SupportsIndex

from milepost.arguments import check_integer, plain_integer
from milepost.errors import InvalidArgumentError

Time = SupportsIndex | str | datetime
"""ms since the epoch; ISO 8601 text, in UTC if it has no zone; or a `datetime` with a zone."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
# `fromisoformat` takes any character between date and time, and so it takes digits that you meant as ms. This does not.
_ISO: Final = re.compile(r"[0-9]{4}-?([0-9]{2}-?[0-9]{2}|W[0-9]{2}(-?[0-9])?)([T ][0-9:.,+Z-]{1,40})?")
_YEAR_OR_MONTH: Final = re.compile(r"[0-9]{4}(-[0-9]{2})?")  # ISO 8601 has them, and `fromisoformat` has not


def ms(time: Time) -> int:
    """
    Convert a time to ms since the epoch, for a `Watermark`. It drops a fraction of a ms.

    Args:
        time: ms since the epoch, a `datetime` with a zone, or ISO 8601 text such as `2013-03-01T03:12Z`. Text without a
            zone is in UTC.

    Raises:
        InvalidArgumentError: `time` is none of these, or is before 1970.
    """
    return to_ms("time", time)


def to_ms(argument: str, value: object, *, round_up: bool = False) -> int:
    """
    Convert an argument to ms since the epoch.

    A date without a time is its first moment, and so is a year, `2026`, or a month, `2026-01`. Text without a zone is in
    UTC, like every time that milepost shows. A `datetime` without a zone is refused: to Python it is local time, and to many
    programs it is UTC.

    Args:
        argument: The name of the argument, for the error.
        value: A `Time`.
        round_up: Whether to round a fraction of a ms up, as for the start of a span, or down, as for its end.

    Raises:
        InvalidArgumentError: `value` is no `Time`, or is before 1970.
    """
    value = plain_integer(value)
    if issubclass(type(value), datetime):  # pandas has its own datetime; isinstance() would ask a hostile __class__
        moment: datetime = value  # type: ignore[assignment]
    elif type(value) is str:
        moment = _parsed(argument, value)
    elif type(value) is int:
        check_integer(argument, value)
        return value
    else:
        rule = 'must be ms since the epoch as an int, a datetime, or ISO 8601 text like "2013-03-01T03:12Z"'
        raise InvalidArgumentError(argument, value, rule)
    try:
        ms, fraction = _since_epoch(moment)
    except ValueError as error:
        raise InvalidArgumentError(argument, value, str(error)) from error
    if ms < 0:
        raise InvalidArgumentError(argument, value, "is before 1970, where no checkpoint can be: give a later time")
    return ms + (round_up and fraction)


def _since_epoch(moment: datetime) -> tuple[int, bool]:
    """
    Count the whole ms since the epoch, and tell whether a fraction of one remains.

    The class may come from pandas, or from anybody. `NaT` is a datetime, but not a moment. A Timestamp after the year 9999
    has one year for Python and another for pandas. pandas also counts nanoseconds.
    """
    try:
        zoned = moment.utcoffset() is not None
        same = moment.year == datetime.year.__get__(moment)
        since = datetime.__sub__(moment, _EPOCH) if zoned and same else None
        finer = bool(getattr(moment, "nanosecond", 0))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        # Any other comes of the caller's code, or a signal handler.
        raise ValueError("is no moment in time: give ms since the epoch, or a datetime with a UTC offset") from error
    if since is not None:
        ms, fraction = divmod(since, _MS)
        return ms, finer or bool(fraction)
    if zoned:
        raise ValueError("is out of Python's years, 1 to 9999: give ms since the epoch as an int")
    raise ValueError("has no time zone: give it one, for instance .replace(tzinfo=datetime.UTC) or .astimezone()")


def _parsed(argument: str, text: str) -> datetime:
    moment = None
    if _YEAR_OR_MONTH.fullmatch(text):
        text += "-01-01" if len(text) == 4 else "-01"
    if _ISO.fullmatch(text):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(text)
    if moment is None:
        rule = 'must be ISO 8601 like "2013-03-01T03:12Z", "2013-03-01 04:12+01:00" or "2013-03-01", or an int of ms'
        raise InvalidArgumentError(argument, text, rule)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

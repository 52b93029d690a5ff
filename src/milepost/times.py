"""Times as people and programs give them, as ms since the epoch."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from typing import Final, SupportsIndex

from milepost.arguments import check_integer, plain_integer
from milepost.errors import InvalidArgumentError

Time = SupportsIndex | str | datetime
"""ms since the epoch; ISO 8601 text, UTC where it has no zone; or a `datetime` with a zone."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
# Narrower than `fromisoformat`, which takes any character between date and time, and so digits that were meant as ms.
_ISO: Final = re.compile(r"[0-9]{4}-?([0-9]{2}-?[0-9]{2}|W[0-9]{2}(-?[0-9])?)([T ][0-9:.,+Z-]{1,40})?")


def ms(time: Time) -> int:
    """
    The ms since the epoch of a time, for a `Watermark`; a fraction of a ms is cut off.

    Args:
        time: ms since the epoch, a `datetime` with a zone, or ISO 8601 text such as `2013-03-01T03:12Z`, UTC where it has
            no zone.

    Raises:
        InvalidArgumentError: It is none of these, or before 1970.
    """
    return to_ms("time", time)


def to_ms(argument: str, value: object, *, round_up: bool = False) -> int:
    """
    The ms since the epoch of a time that was given as an argument.

    A date without a time is its first moment. Text without a zone is UTC, as is all that milepost shows; a `datetime`
    without a zone is refused, because to Python it is local time, and to many programs it is UTC.

    Args:
        argument: What the error calls it.
        value: A `Time`.
        round_up: What to do with a fraction of a ms: up, as for the begin of a span, or down, as for its end.

    Raises:
        InvalidArgumentError: It is none of these, or before 1970.
    """
    value = plain_integer(value)
    if issubclass(type(value), datetime):  # pandas has a datetime of its own; isinstance would ask a hostile __class__
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
        raise InvalidArgumentError(argument, value, "is before 1970, where no checkpoint can be")
    return ms + (round_up and fraction)


def _since_epoch(moment: datetime) -> tuple[int, bool]:
    """
    The whole ms since the epoch, and whether there is a fraction of one besides.

    The class may be one of pandas, or of anybody: `NaT` is a datetime and no moment, and a Timestamp after the year 9999
    has another year for Python than for pandas. pandas counts nanoseconds, too.
    """
    try:
        zoned = moment.utcoffset() is not None
        same = moment.year == datetime.year.__get__(moment)
        since = datetime.__sub__(moment, _EPOCH) if zoned and same else None
        finer = bool(getattr(moment, "nanosecond", 0))
    except Exception as error:
        raise ValueError("is no moment in time: give ms since the epoch, or a datetime that tells its UTC offset") from error
    if since is not None:
        ms, fraction = divmod(since, _MS)
        return ms, finer or bool(fraction)
    if zoned:
        raise ValueError("is out of Python's years, 1 to 9999: give ms since the epoch as an int")
    raise ValueError("has no time zone: give it one, for instance .replace(tzinfo=datetime.UTC) or .astimezone()")


def _parsed(argument: str, text: str) -> datetime:
    moment = None
    if _ISO.fullmatch(text):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(text)
    if moment is None:
        rule = 'must be ISO 8601 like "2013-03-01T03:12Z", "2013-03-01 04:12+01:00" or "2013-03-01", or an int of ms'
        raise InvalidArgumentError(argument, text, rule)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

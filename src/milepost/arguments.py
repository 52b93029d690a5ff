"""Check arguments, and refuse one that breaks a rule by its name, before anything is done."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from milepost.checkpoint import MAX_INTEGER, MAX_NAME_BYTES, Watermark, name_fault
from milepost.errors import InvalidArgumentError, kind
from milepost.signature import hmac_sha256

if TYPE_CHECKING:
    from milepost.signature import Hash


def check_name(argument: str, value: object) -> None:
    """Refuse a run_id, stage or idempotency_key that no checkpoint may have."""
    # A short path for nearly every name: a lookup is so fast that one more call shows. `name_fault` has all the rules.
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_NAME_BYTES and "\0" not in value:
        return
    wrong = name_fault(argument, value)
    if wrong is not None:
        raise InvalidArgumentError(*wrong)


def check_optional_name(argument: str, value: object) -> None:
    """Do the same as `check_name`, and also allow None."""
    if value is not None:
        check_name(argument, value)


def check_integer(argument: str, value: object, least: int = 0, most: int = MAX_INTEGER) -> None:
    """Refuse anything but an int from `least` to `most`; a bool is refused too."""
    if type(value) is int and least <= value <= most:
        return
    widest = f"{most} (2^63-1)" if most == MAX_INTEGER else str(most)
    rule = f"must be from {least} to {widest}" if type(value) is int else f"must be an int, not {kind(value)}"
    raise InvalidArgumentError(argument, value, rule)


def check_seconds(argument: str, value: object) -> None:
    """Refuse anything but a finite number of seconds above 0."""
    if (type(value) is int or type(value) is float) and 0 < value < math.inf:
        return
    raise InvalidArgumentError(argument, value, "must be a finite int or float above 0, in seconds")


def check_bool(argument: str, value: object) -> None:
    """Refuse anything but True and False."""
    if type(value) is not bool:
        raise InvalidArgumentError(argument, value, "must be True or False")


def plain_integer(value: object) -> object:
    """Turn another integer type, such as NumPy's, into an int. Return a bool and any other value unchanged."""
    kind = type(value)
    if kind is int or kind is bool:  # not `in`, which would call the hash of a foreign metaclass
        return value
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # any other comes of the caller's code, or a signal handler
        return value


def with_plain_integers(mark: Any) -> Any:
    """Turn the integers of a watermark into ints. Return any other value unchanged."""
    if type(mark) is not Watermark or len(mark) != 2:  # made without its constructor
        return mark
    return Watermark(plain_integer(mark.offset), plain_integer(mark.event_time_ms))  # type: ignore[arg-type]


def check_callable(argument: str, value: object, takes: str) -> None:
    """Refuse anything that cannot be called. `takes` describes the parameters and the result, for the message."""
    if not callable(value):
        raise InvalidArgumentError(argument, value, f"must be callable: {takes}")


def hash_for_key(key: object) -> Hash | None:
    """Return the hash function with a key, or None without one. An error never shows the key."""
    if key is None:
        return None
    if type(key) is not bytes or not key:
        found = "<empty bytes>" if type(key) is bytes else f"<a {kind(key)}>"
        raise InvalidArgumentError("hmac_key", found, "must be bytes, at best 32 random ones (secrets.token_bytes(32))")
    return hmac_sha256(key)

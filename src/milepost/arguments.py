"""Refuse an argument that breaks a rule, by name, before anything is done."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from milepost.checkpoint import MAX_INTEGER, MAX_NAME_BYTES, Watermark, integer_fault, name_fault
from milepost.errors import InvalidArgumentError, kind
from milepost.signature import hmac_sha256

if TYPE_CHECKING:
    from milepost.signature import Hash


def check_name(argument: str, value: object) -> None:
    """A run_id, stage or idempotency_key that a checkpoint may have."""
    # What nearly every name is can be told at once, and without a call, of which a lookup feels each; for any other,
    # `name_fault` has the rules, one by one.
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_NAME_BYTES and "\0" not in value:
        return
    wrong = name_fault(argument, value)
    if wrong is not None:
        raise InvalidArgumentError(*wrong)


def check_optional_name(argument: str, value: object) -> None:
    """As `check_name`, or None."""
    if value is not None:
        check_name(argument, value)


def check_integer(argument: str, value: object, least: int = 0, most: int = MAX_INTEGER) -> None:
    """An int (not a bool) from `least` to `most`."""
    if type(value) is int and least <= value <= most:
        return
    raise InvalidArgumentError(*(integer_fault(argument, value) or (argument, value, f"must be from {least} to {most}")))


def check_bool(argument: str, value: object) -> None:
    """True or False."""
    if type(value) is not bool:
        raise InvalidArgumentError(argument, value, "must be True or False")


def plain_integer(value: object) -> object:
    """What Python takes as an integer, such as NumPy's, as an int; a bool and everything else as it is, to be refused."""
    kind = type(value)
    if kind is int or kind is bool:  # not `in`: the class of a class may be a stranger's, and be asked for its hash
        return value
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - whatever a stranger's __index__ raises: it is none
        return value


def with_plain_integers(mark: Any) -> Any:
    """A watermark with its integers as Python's; everything else as it is."""
    if type(mark) is not Watermark or len(mark) != 2:  # one that was made past its constructor
        return mark
    return Watermark(plain_integer(mark.offset), plain_integer(mark.event_time_ms))  # type: ignore[arg-type]


def check_callable(argument: str, value: object, takes: str) -> None:
    """Something to call; `takes` says with what, and what it returns."""
    if not callable(value):
        raise InvalidArgumentError(argument, value, f"must be callable: {takes}")


def hash_for_key(key: object) -> Hash | None:
    """The hash that a caller's key gives; an error that does not show what may be a secret."""
    if key is None:
        return None
    if type(key) is not bytes or not key:
        found = "<empty bytes>" if type(key) is bytes else f"<a {kind(key)}>"
        raise InvalidArgumentError("hmac_key", found, "must be bytes, at best 32 random ones (secrets.token_bytes(32))")
    return hmac_sha256(key)

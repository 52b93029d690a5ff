"""Values that raise when they are looked at in the wrong way, and values of classes that are almost the right ones."""

from __future__ import annotations

from typing import Any, NoReturn

from milepost import Checkpoint, Head, Watermark

MEGABYTE = "x" * 1_000_000


class HostileError(Exception):
    """What a hostile object raises when it is looked at in the wrong way."""


def hostile(*_: object) -> NoReturn:
    """What they do then."""
    raise HostileError


class HostileRepr:
    """Cannot be shown."""

    __repr__ = __str__ = __format__ = hostile


class HostileComparison:
    """Cannot be compared, hashed or asked for its truth."""

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = __len__ = hostile


class HostileClass:
    """Does not say what it is."""

    __class__ = property(hostile)


class HostileAttributes:
    """Has no attribute that can be looked at."""

    __getattribute__ = hostile


class _NamelessType(type):
    __name__ = property(hostile)
    __repr__ = __eq__ = __hash__ = hostile


class HostileType(metaclass=_NamelessType):
    """Its type cannot be shown, compared or hashed either."""

    __repr__ = hostile


class Text(str):
    """A str that could be one thing when it is signed and another when it is stored."""

    __slots__ = ()


class Number(int):
    """An int that could be one thing when it is signed and another when it is stored."""

    __slots__ = ()


class Mark(Watermark):
    """A Watermark with powers of its own."""

    __slots__ = ()


class Entry(Checkpoint):
    """A Checkpoint with powers of its own."""

    __slots__ = ()


class Kept(Head):
    """A Head with powers of its own."""

    __slots__ = ()


HOSTILE: dict[str, Any] = {
    "hostile repr": HostileRepr(),
    "hostile comparison": HostileComparison(),
    "hostile class": HostileClass(),
    "hostile attributes": HostileAttributes(),
    "hostile type": HostileType(),
    "endless type name": type(MEGABYTE, (), {})(),
    "type name that steers a terminal": type("x\x1b[2J\n", (), {})(),
}

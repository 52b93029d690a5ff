"""
A cursor says where a source goes on after a checkpoint, if two integers cannot say it.

A cursor is JSON or bytes, such as a page token, a log sequence number or a `state_dict`. It is encoded at once, so nobody
can change it afterwards. The detail of its entry has its SHA-256, so a changed cursor shows.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any, Final

from milepost.errors import DamagedStoreError, InvalidArgumentError, kind, shown
from milepost.signature import json_string

MAX_CURSOR_BYTES: Final = 65_536
"""The greatest length of a stored cursor: JSON in UTF-8, or bytes."""

MAX_CURSOR_LEVELS: Final = 100
"""How deep lists and dicts of a cursor may be nested. Python reads a few hundred levels, and fewer deep within its stack."""

_BRACKETS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')  # and strings, to pass over what is in them


def _refuse(value: object) -> None:
    raise TypeError(f"JSON has no {kind(value)}")  # json asks a value for its __class__, which may raise anything


_encode_list: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse).encode

Stored = str | bytes
"""A cursor in its stored form: JSON as text, bytes as a blob."""


def encode(cursor: object) -> Stored | None:
    """
    Return a cursor in its stored form, or None for None.

    Raises:
        InvalidArgumentError: It is neither JSON nor bytes, or it is too long or nested too deeply.
    """
    if cursor is None:
        return None
    stored: Stored
    try:
        if type(cursor) is bytes or type(cursor) is bytearray or type(cursor) is memoryview:
            stored = bytes(cursor)
            length = len(stored)
        else:
            stored = _to_json(cursor)
            length = len(stored.encode())
    except InvalidArgumentError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # any other comes of the caller's code, or a signal handler
        raise InvalidArgumentError("cursor", cursor, f"must be bytes, or fit into JSON ({kind(error)})") from error
    if length > MAX_CURSOR_BYTES:
        raise InvalidArgumentError("cursor", cursor, f"must have at most {MAX_CURSOR_BYTES:,} bytes, but has {length:,}")
    return stored


def _to_json(cursor: object) -> str:
    """
    Return a cursor as JSON, as `json` writes it.

    Most cursors are an object of a few strings and integers. It is written here, because `json` makes a new encoder at each
    call, which would take a sixtieth of a durable append.
    """
    if type(cursor) is not dict:
        return _any_to_json(cursor)
    members = []
    for name, value in list(cursor.items()):  # in one step, as another thread may change it meanwhile
        if type(name) is str and type(value) is str:
            members.append(f"{json_string(name)}:{json_string(value)}")
        elif type(name) is str and type(value) is int:
            members.append(f"{json_string(name)}:{value}")
        else:
            return _any_to_json(cursor)
    return f"{{{','.join(members)}}}"


def _any_to_json(cursor: object) -> str:
    text = _encode_list([cursor])[1:-1]  # of a list: json would ask any other value for its __class__
    if text.count("[") + text.count("{") > MAX_CURSOR_LEVELS and (levels := _levels(text)) > MAX_CURSOR_LEVELS:
        rule = f"must have at most {MAX_CURSOR_LEVELS} levels of lists and dicts, but has {levels:,}"
        raise InvalidArgumentError("cursor", cursor, rule)
    return text


def _levels(text: str) -> int:
    """Return how deep the arrays and objects of a JSON text are nested."""
    level = deepest = 0
    for found in _BRACKETS.finditer(text):
        bracket = found[0]
        if bracket in "[{":
            level += 1
            deepest = max(deepest, level)
        elif bracket in "]}":
            level -= 1
    return deepest


def decode(stored: Stored | None) -> Any:
    """
    Return the cursor of a stored form.

    Raises:
        ValueError: It is no cursor. That happens only in an import, or in a file that somebody changed.
    """
    if isinstance(stored, str):
        try:
            return json.loads(stored, parse_constant=_no_json)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if stored is None or isinstance(stored, bytes):
        return stored
    raise ValueError(f"neither text nor bytes, but {kind(stored)}")  # SQLite returns any type that it finds


def of_stage(stored: Stored | None, path: str, stage: str) -> Any:
    """
    Return the cursor of the last checkpoint of a stage, as it is stored in a file.

    Raises:
        DamagedStoreError: It is no cursor.
    """
    try:
        return decode(stored)
    except ValueError as error:
        problem = f"the cursor of stage {shown(stage)} is none ({error}): verify the file, and restore it from a copy"
        raise DamagedStoreError(path, problem) from error


def check_stored(stored: Stored) -> None:
    """
    Check that `encode` could have made a cursor from elsewhere.

    Raises:
        ValueError: It could not.
    """
    if decode(stored) is None:
        raise ValueError("null is no cursor")
    if len(stored if isinstance(stored, bytes) else stored.encode()) > MAX_CURSOR_BYTES:
        raise ValueError(f"longer than {MAX_CURSOR_BYTES:,} bytes")


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def digest(stored: Stored) -> str:
    """Return the SHA-256 of a stored cursor, 64 hex digits: over the bytes, or over the UTF-8 of the JSON."""
    return sha256(stored if isinstance(stored, bytes) else stored.encode()).hexdigest()

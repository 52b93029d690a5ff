"""
A cursor: where a source goes on behind a checkpoint, where two integers cannot say it.

A page token, a log sequence number, a `state_dict`: JSON, or bytes. It is taken as bytes at once, so that nobody changes it
behind the store's back, and its SHA-256 stands in the detail of its entry, so that a changed one shows.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

from milepost.errors import InvalidArgumentError, kind

MAX_CURSOR_BYTES: Final = 65_536
"""Of a cursor as it is stored: JSON in UTF-8, or bytes."""

# Made once: json.dumps makes an encoder at each call, for as long as it takes to use it.
_to_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

Stored = str | bytes
"""A cursor as SQLite has it: JSON as a text, bytes as a blob."""


def encode(cursor: object) -> Stored | None:
    """
    A cursor as it is stored; None for none.

    Raises:
        InvalidArgumentError: It is neither JSON nor bytes, or too long.
    """
    if cursor is None:
        return None
    if type(cursor) is bytes or type(cursor) is bytearray or type(cursor) is memoryview:
        stored: Stored = bytes(cursor)
        length = len(stored)
    else:
        try:
            stored = _to_json(cursor)
            length = len(stored.encode())
        except Exception as error:  # noqa: BLE001 - whatever an object of the caller's does while it is looked at
            raise InvalidArgumentError("cursor", cursor, f"must be bytes, or what JSON can hold ({kind(error)})") from None
    if length > MAX_CURSOR_BYTES:
        raise InvalidArgumentError("cursor", cursor, f"must have at most {MAX_CURSOR_BYTES:,} bytes, and has {length:,}")
    return stored


def decode(stored: Stored | None) -> Any:
    """
    The cursor that was stored.

    Raises:
        ValueError: It is none; only in a file that was tampered with, or in an import.
    """
    if isinstance(stored, str):
        try:
            return json.loads(stored, parse_constant=_no_json)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if stored is None or isinstance(stored, bytes):
        return stored
    raise ValueError(f"neither text nor bytes, but {kind(stored)}")  # SQLite gives what it finds, whatever is declared


def check_stored(stored: Stored) -> None:
    """
    A cursor from elsewhere is one that `encode` may have made.

    Raises:
        ValueError: It is none.
    """
    if decode(stored) is None:
        raise ValueError("null is no cursor")
    if len(stored if isinstance(stored, bytes) else stored.encode()) > MAX_CURSOR_BYTES:
        raise ValueError(f"longer than {MAX_CURSOR_BYTES:,} bytes")


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def digest(stored: Stored) -> str:
    """Its SHA-256, 64 hex digits: over the bytes, or over the UTF-8 of the JSON."""
    return sha256(stored if isinstance(stored, bytes) else stored.encode()).hexdigest()

"""
The chain's arithmetic: the canonical bytes of a checkpoint, and one link over them.

Anyone can recompute it with a JSON writer and SHA-256, in any language (tests/vectors.json has the proof).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

# The C string writer behind json.dumps(…, ensure_ascii=False), without the encoder around it (0.1 µs against 1.5 µs).
# It escapes what RFC 8785 section 3.2.2.2 escapes, and in the same way: \" \\ \b \t \n \f \r, other controls as \u00xx.
from json.encoder import encode_basestring
from typing import Protocol


class _Hashed(Protocol):
    def digest(self) -> bytes: ...


Hash = Callable[[bytes], _Hashed]
"""Hashes a message: `sha256`, or in a keyed chain what `keyed` gives."""

quoted = encode_basestring
"""A string as it stands in the canonical bytes, quotes included."""

EMPTY = bytes(32)
"""The signature of the empty chain."""


def prefix(run_id: str, stage: str) -> str:
    """How the canonical text of every checkpoint of one stage of one run begins."""
    return f"[{quoted(run_id)},{quoted(stage)},"


def canonical(before: str, sequence: int, offset: int, event_time_ms: int, idempotency_key: str, at_ms: int) -> bytes:
    """
    The bytes that are signed for one checkpoint.

    Args:
        before: The `prefix` of its run and stage.
        sequence: Its sequence, 0 … 2^63-1.
        offset: The offset of its watermark.
        event_time_ms: The event time of its watermark, in ms since the epoch.
        idempotency_key: Its key.
        at_ms: Its wall clock, in ms since the epoch.

    Returns:
        UTF-8 of `["run","stage",sequence,[offset,event_time_ms],"key",at_ms]` without white space.

    Source:
        RFC 8785, JSON Canonicalization Scheme, section 3.2.2.2 (strings). Numbers are written in full as decimal
        integers, also above 2^53, where RFC 8785 would fall back on a double and lose digits.
    """
    return f"{before}{sequence},[{offset},{event_time_ms}],{quoted(idempotency_key)},{at_ms}]".encode()


def link(signature: bytes, signed: bytes, hashed: Hash = sha256) -> bytes:
    """The signature (32 bytes) of a chain with `signature` after one more entry, whose canonical bytes are `signed`."""
    return hashed(signature + signed).digest()


def keyed(key: bytes) -> Hash:
    """
    HMAC-SHA-256 with a key, to be used in place of SHA-256: who does not have the key cannot make a link.

    The key stays in here: a function shows nothing of what it closes over, and cannot be pickled.

    Source:
        RFC 2104.
    """

    def hashed(message: bytes) -> hmac.HMAC:
        return hmac.new(key, message, "sha256")

    return hashed


def key_check(hashed: Hash) -> bytes:
    """What a file keeps of a key, to tell a wrong one before it is used: 32 bytes, and no link of any chain."""
    return hashed(b"milepost: key check").digest()


def same(one: object, other: bytes) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return isinstance(one, bytes) and hmac.compare_digest(one, other)

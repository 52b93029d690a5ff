"""
The chain's arithmetic: the canonical bytes of a checkpoint, and one link over them.

Anyone can recompute it with a JSON writer and SHA-256, in any language (tests/vectors.json has the proof).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from hashlib import sha256

# The C string writer behind json.dumps(…, ensure_ascii=False), without the encoder around it (0.1 µs against 1.5 µs).
# It escapes what RFC 8785 section 3.2.2.2 escapes, and in the same way: \" \\ \b \t \n \f \r, other controls as \u00xx.
from json.encoder import encode_basestring
from typing import Final, NamedTuple, Protocol


class _Hashed(Protocol):
    def digest(self) -> bytes: ...


Hash = Callable[[bytes], _Hashed]
"""Hashes a message: `sha256`, or in a keyed chain what `hmac_sha256` gives."""

json_string = encode_basestring
"""A string as it stands in the canonical bytes, quotes included."""

EMPTY: Final = bytes(32)
"""The signature of the empty chain."""

MAX_DETAIL_BYTES: Final = 4096
"""Of an entry's detail, in UTF-8."""


class ChainBase(NamedTuple):
    """
    Where the chain in a file begins: behind this position, where it has this signature (32 bytes).

    The entries up to there are in an archive, or there are none.
    """

    position: int
    signature: bytes


START: Final = ChainBase(0, EMPTY)
"""The base of a chain of which nothing was archived."""


def prefix(run_id: str, stage: str) -> str:
    """How the canonical text of every checkpoint of one stage of one run begins."""
    return f"[{json_string(run_id)},{json_string(stage)},"


def canonical_bytes(
    prefix: str,
    sequence: int,
    offset: int,
    event_time_ms: int,
    idempotency_key: str,
    at_ms: int,
    detail: str | None = None,
) -> bytes:
    """
    The bytes that are signed for one entry.

    Args:
        prefix: What `prefix` gives for its run and stage.
        sequence: Its sequence, 0 … 2^63-1.
        offset: The offset of its watermark.
        event_time_ms: The event time of its watermark, in ms since the epoch.
        idempotency_key: Its key.
        at_ms: Its wall clock, in ms since the epoch.
        detail: Its detail, a JSON text; None where it has none.

    Returns:
        UTF-8 of `["run","stage",sequence,[offset,event_time_ms],"key",at_ms]` without white space, and with the detail as
        a seventh element, a string, if there is one.

    Source:
        RFC 8785, JSON Canonicalization Scheme, section 3.2.2.2 (strings). Numbers are written in full as decimal
        integers, also above 2^53, where RFC 8785 would fall back on a double and lose digits.
    """
    last = "" if detail is None else f",{json_string(detail)}"
    return f"{prefix}{sequence},[{offset},{event_time_ms}],{json_string(idempotency_key)},{at_ms}{last}]".encode()


def fault_of_detail(detail: object) -> str | None:
    """The rule that an entry's detail breaks, or None."""
    try:
        if type(detail) is not str or len(detail.encode()) > MAX_DETAIL_BYTES:
            return f"must be a text of at most {MAX_DETAIL_BYTES:,} bytes of UTF-8"
        json.loads(detail)
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError, for a lone surrogate, is one
        return f"must be JSON in UTF-8 ({error})"
    return None


def link(signature: bytes, canonical: bytes, hash_function: Hash = sha256) -> bytes:
    """The signature (32 bytes) of a chain with `signature` after one more entry, whose canonical bytes these are."""
    return hash_function(signature + canonical).digest()


def hmac_sha256(key: bytes) -> Hash:
    """
    HMAC-SHA-256 with a key, to be used in place of SHA-256: who does not have the key cannot make a link.

    The key stays in here: a function shows nothing of what it closes over, and cannot be pickled.

    Source:
        RFC 2104.
    """

    def hashed(message: bytes) -> hmac.HMAC:
        return hmac.new(key, message, "sha256")

    return hashed


def key_check(hash_function: Hash) -> bytes:
    """What a file keeps of a key, to tell a wrong one before it is used: 32 bytes, and no link of any chain."""
    return hash_function(b"milepost: key check").digest()


def same(one: object, other: bytes) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return isinstance(one, bytes) and hmac.compare_digest(one, other)

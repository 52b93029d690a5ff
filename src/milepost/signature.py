"""
The arithmetic of the chain: the canonical bytes of a checkpoint, and one link over them.

You can recompute it in any language with a JSON writer and SHA-256. tests/vectors.json has examples to check against.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from hashlib import sha256

# The C string writer behind json.dumps(…, ensure_ascii=False), without the encoder around it (0.1 µs against 1.5 µs).
# It escapes the characters of RFC 8785 section 3.2.2.2 in the same way: \" \\ \b \t \n \f \r, other controls as \u00xx.
from json.encoder import encode_basestring
from typing import Final, NamedTuple, Protocol


class _Hashed(Protocol):
    def digest(self) -> bytes: ...


Hash = Callable[[bytes], _Hashed]
"""A function that hashes a message: `sha256`, or in a keyed chain the result of `hmac_sha256`."""

json_string = encode_basestring
"""Return a string as the canonical bytes have it, quotes included."""

EMPTY: Final = bytes(32)
"""The signature of the empty chain."""

MAX_DETAIL_BYTES: Final = 4096
"""The greatest length of an entry's detail, in UTF-8."""


class ChainBase(NamedTuple):
    """
    Where the chain in a file begins: after this position, where it has this signature (32 bytes).

    The entries up to there are in an archive, or there are none.
    """

    position: int
    signature: bytes


START: Final = ChainBase(0, EMPTY)
"""The base of a chain without archived entries."""


def prefix(run_id: str, stage: str) -> str:
    """Return the beginning of the canonical text of every checkpoint of one stage of one run."""
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
    Return the bytes that the chain signs for one entry.

    Args:
        prefix: The result of `prefix` for its run and stage.
        sequence: Its sequence, 0 … 2^63-1.
        offset: The offset of its watermark.
        event_time_ms: The event time of its watermark, in ms since the epoch.
        idempotency_key: Its key.
        at_ms: Its wall clock, in ms since the epoch.
        detail: Its detail, a JSON text, or None.

    Returns:
        UTF-8 of `["run","stage",sequence,[offset,event_time_ms],"key",at_ms]` without white space. A detail is a seventh
        element, a string.

    Source:
        RFC 8785, JSON Canonicalization Scheme, section 3.2.2.2 (strings). Numbers are decimal integers with all digits,
        even above 2^53, where RFC 8785 would use a double and lose digits.
    """
    last = "" if detail is None else f",{json_string(detail)}"
    return f"{prefix}{sequence},[{offset},{event_time_ms}],{json_string(idempotency_key)},{at_ms}{last}]".encode()


def fault_of_detail(detail: object) -> str | None:
    """Return the rule that an entry's detail breaks, or None."""
    try:
        if type(detail) is not str or len(detail.encode()) > MAX_DETAIL_BYTES:
            return f"must be a text of at most {MAX_DETAIL_BYTES:,} bytes of UTF-8"
        json.loads(detail)
    except (ValueError, RecursionError) as error:  # a UnicodeEncodeError, for a lone surrogate, is a ValueError
        return f"must be JSON in UTF-8 ({error})"
    return None


def link(signature: bytes, canonical: bytes, hash_function: Hash = sha256) -> bytes:
    """Return the signature (32 bytes) of a chain with `signature`, after one more entry with these canonical bytes."""
    return hash_function(signature + canonical).digest()


def hmac_sha256(key: bytes) -> Hash:
    """
    Return HMAC-SHA-256 with a key, to use in place of SHA-256. Nobody without the key can make a link.

    The function keeps the key in its closure. It neither shows the key nor can be pickled.

    Source:
        RFC 2104.
    """

    def hashed(message: bytes) -> hmac.HMAC:
        return hmac.new(key, message, "sha256")

    return hashed


def key_check(hash_function: Hash) -> bytes:
    """Return the 32 bytes that a file keeps to detect a wrong key before use. They are no link of any chain."""
    return hash_function(b"milepost: key check").digest()


def same(one: object, other: bytes) -> bool:
    """Return whether two secrets are equal, in a time that does not reveal where they differ."""
    return isinstance(one, bytes) and hmac.compare_digest(one, other)

"""What an archive leaves in the file, as text and as a digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import rows
from milepost.errors import shown
from milepost.signature import EMPTY, canonical_bytes, prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milepost.rows import Kept
    from milepost.signature import Hash


def digest_of_kept(kept: Iterable[Kept], hash_function: Hash) -> tuple[int, bytes]:
    """
    Return how many entries stay, and the digest of them.

    An entry's line is which one of its stage in the run it is (a milepost says so), a comma, and `_line`. The digest is
    chained over the lines as the signature of a chain is over its entries, and in a keyed chain it is keyed.
    """
    number, digest = 0, EMPTY
    for number, (each, row, place) in enumerate(places(kept), 1):  # noqa: B007 - how many there were
        digest = hash_function(digest + f"{place},{_line(prefix(each.run_id, each.stage), row)}".encode()).digest()
    return number, digest


def places(kept: Iterable[Kept]) -> Iterator[tuple[Kept, rows.EntryRow, int]]:
    """Yield each entry that stays, with which one of its stage in the run it is, as the file says."""
    for each in kept:
        place = each.ordinal - 1 if type(each.ordinal) is int else -1
        for row in each.rows:
            place = row.entries_so_far if type(row.entries_so_far) is int else place + 1
            yield each, row, place


def line_of(names: rows.Snapshot, row: rows.EntryRow | None) -> str:
    """Return the line of an entry, with the names that its file has, or "none" if there is no entry."""
    if row is None:
        return "none"
    run_id, stage = names.run_names.get(row.run_number, ""), names.stage_names.get(row.stage_number, "")
    return _line(prefix(run_id, stage), row)


def _line(begins: str, row: rows.EntryRow) -> str:
    """Return position, signatures of the chain and of its run's own chain (hex digits), and canonical text of an entry."""
    own = row.signature if row.run_signature is None else row.run_signature
    try:
        canonical = canonical_bytes(
            begins, row.sequence, row.offset, row.event_time_ms, row.idempotency_key, row.at_ms, row.detail
        ).decode()
    except (TypeError, UnicodeEncodeError):  # no append writes such a row, so it equals none
        canonical = shown(tuple(row))
    return f"{row.position},{_hex(row.signature)},{_hex(own)},{canonical}"


def _hex(signature: object) -> str:
    return signature.hex() if isinstance(signature, bytes) else "none"

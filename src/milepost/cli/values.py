"""Turn the store's answers into plain values by name for programs, with times in ms and in ISO 8601."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from milepost.readable import iso_with_ms

if TYPE_CHECKING:
    from milepost.checkpoint import Checkpoint, ResumePoint
    from milepost.receipt import BatchReceipt, Head, Receipt
    from milepost.summary import RunSummary, StageSummary
    from milepost.transfer import Entry

Record = dict[str, Any]

FIELDS: Final = ("run_id", "stage", "sequence", "offset", "event_time_ms", "idempotency_key", "at_ms")
"""The seven values of a checkpoint, in one flat record."""


def exact(entry: Checkpoint) -> Record:
    """Return the seven values of a checkpoint, each once."""
    run_id, stage, sequence, (offset, event_time_ms), key, at_ms = entry
    return dict(zip(FIELDS, (run_id, stage, sequence, offset, event_time_ms, key, at_ms), strict=True))


def checkpoint(entry: Checkpoint) -> Record:
    """Return a checkpoint."""
    return {**resume_point(entry), "idempotency_key": entry.idempotency_key, **time("at", entry.at_ms)}


def exported(entry: Entry) -> Record:
    """
    Return an entry for export: exact, with no value twice, and no detail or cursor if there is none.

    A cursor is its JSON as text, or its bytes in base64. The detail says which.
    """
    more = {"detail": entry.detail, "cursor": entry.cursor}
    if isinstance(entry.cursor, bytes):
        more["cursor"] = b64encode(entry.cursor).decode()
    return exact(entry.checkpoint) | {name: value for name, value in more.items() if value is not None}


def recorded(receipt: Receipt, entry: Checkpoint, detail: str | None) -> Record:
    """Return a checkpoint with its place in the chain, as the columns of the view `checkpoint`."""
    return {
        "position": receipt.position,
        **checkpoint(entry),
        "signature": receipt.signature,
        "detail": detail,
    }


def resume_point(point: ResumePoint | Checkpoint) -> Record:
    """Return a resume point, or what a checkpoint has of one."""
    return {
        "run_id": point.run_id,
        "stage": point.stage,
        "sequence": point.sequence,
        "offset": point.watermark.offset,
        **time("event_time", point.watermark.event_time_ms),
    }


def run(found: RunSummary) -> Record:
    """Return a run."""
    return {
        "run_id": found.run_id,
        "entries": found.entries,
        "stages": found.stages,
        **time("first_at", found.first_at_ms),
        **time("last_at", found.last_at_ms),
        "signature": found.signature,
        "head": str(found.head),
        "state": found.state,
        "attempts": found.attempts,
        "killed": found.killed,
        **time("began_at", found.began_at_ms),
        **time("ended_at", found.ended_at_ms),
        "error": found.error,
        "records": found.records,
        "duration_ms": found.duration_ms,
        "rate": found.rate,
    }


def stage(found: StageSummary) -> Record:
    """Return a stage, over all runs."""
    return {
        "stage": found.stage,
        "entries": found.entries,
        "runs": found.runs,
        **time("first_at", found.first_at_ms),
        **time("last_at", found.last_at_ms),
    }


def head(found: Head) -> Record:
    """Return a head."""
    return {"entries": found.entries, "signature": found.signature}


def batch(found: BatchReceipt) -> Record:
    """Return the result of a batch, with the head after it."""
    return {
        "appended": found.appended,
        "duplicates": found.duplicates,
        "position": found.position,
        "signature": found.signature,
    }


def time(name: str, at_ms: int | None) -> Record:
    """Return a time, or None, twice: as `name_ms` in ms since the epoch, and as `name` in ISO 8601."""
    return {f"{name}_ms": at_ms, name: None if at_ms is None else iso_with_ms(at_ms)}

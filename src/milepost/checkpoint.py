"""
The contract: three values, their rules and labels, and the pure functions over a chain.

A chain is the checkpoints of one file in the order in which they were recorded. There is no other order. `at_ms` is
evidence and not an order, because clocks jump, and a resume point must not jump with them.

Everything here is pure, and is the model that the store is tested against. `CheckpointStore.latest()` and the other
lookups answer in SQL what the functions of the same name answer over the list of all entries.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost import html
from milepost.errors import InvalidCheckpointError, NoCheckpointError, kind
from milepost.readable import event_time, iso, moment
from milepost.signature import EMPTY, canonical_bytes, link, prefix

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

MAX_INTEGER: Final = 2**63 - 1
"""The largest sequence, offset or time: what SQLite stores in 8 bytes."""

MAX_NAME_BYTES: Final = 1024
"""The longest run_id, stage or idempotency_key, in bytes of UTF-8."""


# Named tuples, because a history of millions builds two of these per row: 0.2 µs, against 1.1 µs for frozen dataclasses.
class Watermark(NamedTuple):
    """How far one source has been read: `offset`, a position in it, and `event_time_ms`, in ms since the epoch."""

    offset: int
    event_time_ms: int

    @property
    def event_time(self) -> datetime | None:
        """The event time as a `datetime` in UTC. None if none was given (it is 0), or if it is after the year 9999."""
        return moment(self.event_time_ms) if self.event_time_ms else None


class Checkpoint(NamedTuple):
    """One stage transition, as persisted; `at_ms` is the wall clock, in ms since the epoch."""

    run_id: str
    stage: str
    sequence: int
    watermark: Watermark
    idempotency_key: str
    at_ms: int

    @property
    def at(self) -> datetime | None:
        """The wall clock as a `datetime` in UTC, or None if it is after the year 9999."""
        return moment(self.at_ms)

    def _repr_html_(self) -> str:
        offset, event_time_ms = self.watermark
        facts = {
            "run": self.run_id, "stage": self.stage, "sequence": f"{self.sequence:,}", "offset": f"{offset:,}",
            "event time": event_time(event_time_ms), "key": self.idempotency_key, "at": iso(self.at_ms),
        }  # fmt: skip
        return html.facts(facts)


class ResumePoint(NamedTuple):
    """Where a stage starts again: after the checkpoint with this `sequence`, from this `watermark`."""

    run_id: str
    stage: str
    sequence: int
    watermark: Watermark


def watermark(offset: int, event_time_ms: int) -> Watermark:
    """Build a watermark; no check is made, as with the class: ask `valid_watermark`."""
    return Watermark(offset, event_time_ms)


def checkpoint(run_id: str, stage: str, sequence: int, watermark: Watermark, idempotency_key: str, at_ms: int) -> Checkpoint:
    """Build a checkpoint; no check is made, as with the class: ask `valid`."""
    return Checkpoint(run_id, stage, sequence, watermark, idempotency_key, at_ms)


def valid_watermark(mark: object) -> bool:
    """Whether `mark` is a Watermark whose two fields are `int` (not `bool`), 0 … 2^63-1. Never raises."""
    return _watermark_fault(mark) is None


def valid(entry: object) -> bool:
    """
    Whether `entry` is a Checkpoint that a store may record. Never raises, whatever it is given.

    `run_id`, `stage` and `idempotency_key` are non-empty `str` of at most 1,024 bytes of UTF-8, without NUL and without
    lone surrogates; `sequence` and `at_ms` are `int` (not `bool`), 0 … 2^63-1; the watermark is valid. Types are exact:
    a subclass of `str` or `int` could be one thing when it is hashed and another when it is stored.
    """
    return fault(entry) is None


def fault(entry: object) -> tuple[str, object, str] | None:
    """The first rule that `entry` breaks, as (field, value, rule), or None if it is `valid`. Never raises."""
    if type(entry) is not Checkpoint or len(entry) != 6:
        return "entry", entry, "must be a milepost.Checkpoint"
    run_id, stage, sequence, mark, key, at_ms = entry
    return (
        name_fault("run_id", run_id)
        or name_fault("stage", stage)
        or integer_fault("sequence", sequence)
        or _watermark_fault(mark)
        or name_fault("idempotency_key", key)
        or integer_fault("at_ms", at_ms)
    )


def name_fault(field: str, value: object) -> tuple[str, object, str] | None:
    """The rule that a run_id, stage or idempotency_key breaks, as in `fault`."""
    if type(value) is not str:
        return field, value, f"must be a str, not {kind(value)}"
    if not value:
        return field, value, "must not be empty"
    # The length in characters comes first: it is known, while a string of 10 MB would have to be encoded to be measured.
    size = len(value)
    if size <= MAX_NAME_BYTES and not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return field, value, "must not have a lone surrogate: decode it with the encoding it was written in"
    if size > MAX_NAME_BYTES:
        return field, value, f"must have at most {MAX_NAME_BYTES:,} bytes of UTF-8: shorten it, or use a digest of it"
    if "\0" in value:
        return field, value, "must not have a NUL character"
    return None


def integer_fault(field: str, value: object) -> tuple[str, object, str] | None:
    """The rule that a sequence, offset or time breaks, as in `fault`."""
    if type(value) is not int:
        return field, value, f"must be an int, not {kind(value)}"
    if not 0 <= value <= MAX_INTEGER:
        return field, value, f"must be from 0 to {MAX_INTEGER} (2^63-1)"
    return None


def _watermark_fault(mark: object) -> tuple[str, object, str] | None:
    if type(mark) is not Watermark or len(mark) != 2:
        return "watermark", mark, "must be a milepost.Watermark(offset, event_time_ms)"
    offset, event_time_ms = mark
    return integer_fault("offset", offset) or integer_fault("event_time_ms", event_time_ms)


# Labels: ascii() quotes a string so that any two differ, and leaves nothing that would break a line or steer a terminal.


def watermark_label(mark: Watermark) -> str:
    """One line for logs and tests; it never changes between versions."""
    return f"offset={mark.offset!a} event_time_ms={mark.event_time_ms!a}"


def checkpoint_label(entry: Checkpoint) -> str:
    """One line for logs and tests; it never changes between versions, and two checkpoints never share one."""
    return (
        f"checkpoint run_id={entry.run_id!a} stage={entry.stage!a} sequence={entry.sequence!a} "
        f"{watermark_label(entry.watermark)} idempotency_key={entry.idempotency_key!a} at_ms={entry.at_ms!a}"
    )


def resume_point_label(point: ResumePoint) -> str:
    """One line for logs and tests; it never changes between versions, and two resume points never share one."""
    return (
        f"resume run_id={point.run_id!a} stage={point.stage!a} sequence={point.sequence!a} "
        f"{watermark_label(point.watermark)}"
    )


def latest(entries: Iterable[Checkpoint]) -> Checkpoint | None:
    """The last checkpoint of a chain, or None if it is empty."""
    last = deque(entries, maxlen=1)
    return last[0] if last else None


def latest_for_stage(entries: Iterable[Checkpoint], stage: str) -> Checkpoint | None:
    """The last checkpoint of a stage in a chain, or None if there is none."""
    return latest(entry for entry in entries if entry.stage == stage)


def resume_point_for_stage(entries: Iterable[Checkpoint], stage: str) -> ResumePoint:
    """
    Where a stage starts again: at its last checkpoint.

    Raises:
        NoCheckpointError: The chain has none of that stage.
    """
    return resume_point(latest_for_stage(entries, stage), None, stage)


def resume_point(last: Checkpoint | None, run_id: str | None, stage: str, as_of_ms: int | None = None) -> ResumePoint:
    """The resume point that the last checkpoint of a stage gives; NoCheckpointError, with what was asked, for None."""
    if last is None:
        raise NoCheckpointError(run_id, stage, as_of_ms)
    return tuple.__new__(ResumePoint, last[:4])  # its fields are the first four of a checkpoint


def chain_signature(entries: Iterable[Checkpoint]) -> str:
    """
    The signature of a chain, computed from all of its entries.

    Returns:
        64 lower-case hex digits; of the empty chain, zeros.

    Raises:
        InvalidCheckpointError: One of the entries is not `valid`; the error carries its `index`.
    """
    signature = EMPTY
    for index, entry in enumerate(entries):
        wrong = fault(entry)
        if wrong is not None:
            raise InvalidCheckpointError(*wrong, index)
        signature = link(signature, signed(entry))
    return signature.hex()


def signed(entry: Checkpoint) -> bytes:
    """The canonical bytes of a valid checkpoint (`milepost.signature.canonical_bytes`)."""
    run_id, stage, sequence, mark, key, at_ms = entry
    return canonical_bytes(prefix(run_id, stage), sequence, mark[0], mark[1], key, at_ms)

"""Make the rows of the benchmarks. A row depends on its number only, so every run has the same."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from milepost import Checkpoint, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable

SEED: Final = b"milepost"

RUN_ID: Final = "run-2026-11-24"  # 14 characters
STAGE: Final = "transform"  # 9 characters
STAGES: Final = ("extracted", "transform", "persisted")  # 9 characters each
RUN_ENTRIES: Final = 10_000  # checkpoints in each run of a file with many runs
RECORDS: Final = 50  # records between two checkpoints
FIRST_OFFSET: Final = 1_000_000  # 7 digits, so that a key of two offsets has 15 characters in the first 180,000 entries
FIRST_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
EVENT_STEP_MS: Final = 1000
CLOCK_STEP_MS: Final = 1003

BATCH: Final = 100_000  # entries of the append_many, history, verify and size benchmarks
CHUNK: Final = 10_000  # entries of one append_many, to fill a large store in constant memory

Row = tuple[str, str, int, int, int, str, int]
"""A checkpoint as the floor stores it: run, stage, sequence, offset, event_time_ms, key, at_ms."""


def offset_key(number: int) -> str:
    """Make a key of 15 characters from the offsets that a step covers, similar to the keys of `checkpointed`."""
    first = FIRST_OFFSET + number * RECORDS
    return f"{first}-{first + RECORDS - 1}"


def random_key(number: int) -> str:
    """Make a key of 32 hex digits without an order, like a UUID."""
    return blake2b(number.to_bytes(8), digest_size=16, key=SEED).hexdigest()


def one_run(number: int, key: Callable[[int], str] = offset_key) -> Row:
    """Make row `number` (1, 2, 3 …) of a pipeline with one stage and one run."""
    return _row(RUN_ID, STAGE, number, number, key)


def many_runs(number: int, key: Callable[[int], str] = offset_key) -> Row:
    """Make row `number` (1, 2, 3 …) of a pipeline with three stages in turns, and 10,000 entries in each run."""
    run, within = divmod(number - 1, RUN_ENTRIES)
    return _row(f"run-{run:010}", STAGES[within % len(STAGES)], within // len(STAGES) + 1, number, key)


def _row(run_id: str, stage: str, sequence: int, number: int, key: Callable[[int], str]) -> Row:
    offset = FIRST_OFFSET + (number + 1) * RECORDS
    return (
        run_id,
        stage,
        sequence,
        offset,
        FIRST_MS + number * EVENT_STEP_MS,
        key(number),
        FIRST_MS + number * CLOCK_STEP_MS,
    )


def checkpoint(row: Row) -> Checkpoint:
    """Return a row as a Checkpoint."""
    run_id, stage, sequence, offset, event_time_ms, key, at_ms = row
    return Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)

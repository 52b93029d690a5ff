"""What a file holds, a line for each run and each stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunSummary:
    """
    One run.

    Attributes:
        run_id: Its name.
        entries: How many checkpoints it has.
        stages: Its stages, in the order in which the file first saw them.
        first_at_ms: The wall clock of its first checkpoint, ms since the epoch.
        last_at_ms: The wall clock of its last checkpoint.
        signature: The chain over its own entries, 64 hex digits.
    """

    run_id: str
    entries: int
    stages: tuple[str, ...]
    first_at_ms: int
    last_at_ms: int
    signature: str


@dataclass(frozen=True, slots=True)
class StageSummary:
    """
    One stage, over all runs.

    Attributes:
        stage: Its name.
        entries: How many checkpoints it has.
        runs: How many runs have it.
        first_at_ms: The wall clock of its first checkpoint, ms since the epoch.
        last_at_ms: The wall clock of its last checkpoint.
    """

    stage: str
    entries: int
    runs: int
    first_at_ms: int
    last_at_ms: int

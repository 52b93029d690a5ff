"""What tests make chains from. Programs that tests start import it too: it imports nothing that is slow."""

from __future__ import annotations

from milepost import Checkpoint, Watermark

MAX = 2**63 - 1

EVENT_MS = 1767225600000  # 2026-01-01T00:00:00Z


def entry(
    sequence: int = 1,
    *,
    run_id: str = "run-7",
    stage: str = "load",
    offset: int | None = None,
    event_time_ms: int | None = None,
    key: str | None = None,
    at_ms: int = EVENT_MS,
) -> Checkpoint:
    """A checkpoint whose watermark and key follow from its sequence, where they are not given."""
    mark = Watermark(
        sequence * 500 if offset is None else offset,
        EVENT_MS + sequence * 1000 if event_time_ms is None else event_time_ms,
    )
    return Checkpoint(run_id, stage, sequence, mark, f"{stage}:{sequence}" if key is None else key, at_ms)


def chain(length: int, **same: str) -> list[Checkpoint]:
    """A chain of one stage with sequences 1 … length."""
    return [entry(sequence, **same) for sequence in range(1, length + 1)]  # type: ignore[arg-type]


def mixed(length: int) -> list[Checkpoint]:
    """A chain in which runs and stages take turns, unevenly, and the clock jumps."""
    turns = [(f"run-{i % 3}", ("extract", "transform", "load")[i * 7 // 3 % 3], i) for i in range(length)]
    return [entry(i, run_id=run, stage=stage, key=f"step-{i}", at_ms=(i * 7919) % 1000) for run, stage, i in turns]

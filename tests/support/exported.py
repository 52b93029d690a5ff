"""The lines of an export, and what a file holds that was made of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost import Checkpoint, CheckpointStore, Head

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = ["run_id", "stage", "sequence", "offset", "event_time_ms", "idempotency_key", "at_ms"]


def values(entry: Checkpoint) -> dict[str, Any]:
    """A line of an export, as an object."""
    return dict(zip(FIELDS, (*entry[:3], *entry.watermark, *entry[4:]), strict=True))


def recorded(path: Path) -> tuple[list[Checkpoint], Head]:
    """What a file holds."""
    with CheckpointStore.open_readonly(path) as store:
        store.verify().raise_if_broken()
        return list(store.history()), store.head()

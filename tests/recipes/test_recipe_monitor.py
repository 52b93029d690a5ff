"""The recipe that monitors a pipeline: a stage that is dead is told, whatever else was recorded since."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore, Watermark
from support.command import run
from support.recipes import Recipe

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000


def _record(file: Path, age_ms: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    with CheckpointStore(file, clock=lambda: now_ms - age_ms) as store:
        for batch in range(1, 6):
            store.advance("run-7", "load", Watermark(batch * 500, 0), idempotency_key=f"load:{batch}")


def _complaint(file: Path) -> str:
    with Recipe("Monitor a pipeline", file.parent).started() as life:
        return life.end_badly()


def test_a_pipeline_that_moves_is_well(path: Path) -> None:
    """The program ends without a word, and so does the command."""
    _record(path, age_ms=0)
    Recipe("Monitor a pipeline", path.parent).run()
    assert run("check", path, "--within", "1h").exit_code == 0


@pytest.mark.parametrize("since", ["nothing", "an archive", "starts that died"])
def test_a_pipeline_that_is_dead_is_told(path: Path, since: str) -> None:
    """Milepost's own entries about archives and attempts are no sign of life."""
    _record(path, age_ms=30 * DAY_MS)
    with CheckpointStore(path) as store:
        if since == "an archive":
            store.archive(path.with_name("archive.milepost"), before=store.head())
        for _ in range(3 * (since == "starts that died")):
            store.run("run-7").__enter__()
    assert "stage load of run run-7 recorded nothing for 2,592,00" in _complaint(path)
    assert run("check", path, "--within", "1h").exit_code == 1


def test_a_pipeline_that_has_recorded_nothing_is_told(path: Path) -> None:
    """In a sentence."""
    CheckpointStore(path).close()
    assert _complaint(path) == "nothing is recorded yet\n"
    assert run("check", path, "--within", "1h").exit_code == 5

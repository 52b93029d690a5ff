"""When memory runs out, a verb raises or succeeds, never half; the store verifies afterwards."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.programs import PROGRAMS, environment

if TYPE_CHECKING:
    from pathlib import Path


def _starve(path: Path, steps: int, *broken: str) -> tuple[int, int, list[str]]:
    """How many verbs succeeded, how many raised, and what went wrong."""
    run = subprocess.run(
        [sys.executable, PROGRAMS / "starved_writer.py", path, str(steps), *broken],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert run.returncode == 0, run.stderr
    succeeded, raised, *problems = run.stdout.splitlines()
    print(f"{steps} steps: {succeeded} verbs succeeded, {raised} raised, {len(problems)} problems")
    return int(succeeded), int(raised), problems


@pytest.mark.parametrize("steps", [15, pytest.param(500, marks=pytest.mark.long)])
def test_a_store_that_runs_out_of_memory_raises_or_succeeds(path: Path, steps: int) -> None:
    """Promise A12: SQLite's heap is limited a step lower each time, and each time everything is appended in every way."""
    succeeded, raised, problems = _starve(path, steps)
    assert problems == []
    assert raised > steps
    assert succeeded > steps
    with CheckpointStore(path) as store:
        assert store.verify().ok


def test_a_store_that_swallows_an_error_is_caught(path: Path) -> None:
    """An acknowledgement without its row."""
    assert _starve(path, 15, "swallow")[2] != []

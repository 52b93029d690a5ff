"""The command `check`: does the pipeline move?"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from milepost import Checkpoint, CheckpointStore, Watermark
from support.chains import entry
from support.command import answer, on_terminal, run

if TYPE_CHECKING:
    from pathlib import Path

MINUTE = 60_000


@pytest.fixture
def checked(path: Path) -> Path:
    """A stage that was recorded a minute ago with fresh events, and one of two hours ago."""
    now = time.time_ns() // 1_000_000
    with CheckpointStore(path, durability="normal") as store:
        store.append(Checkpoint("run-1", "old", 1, Watermark(5, 0), "a", now - 120 * MINUTE))
        store.append(Checkpoint("run-1", "new", 1, Watermark(9, now - 30 * MINUTE), "a", now - MINUTE))
    return path


@pytest.mark.parametrize(
    ("options", "exit_code", "first"),
    [
        (["--within", "3h"], 0, "ok: 2 stages"),
        (["--within", "10m"], 1, "stalled: 'old' for 2 h"),
        (["--within", "10m", "--stage", "new"], 0, "ok: 1 stage"),
        (["--lag", "1h", "--stage", "new"], 0, "ok: 1 stage"),
        (["--lag", "10m", "--stage", "new"], 1, "behind: 'new' by 30 min"),
        (["--lag", "10m"], 1, "behind: 'old' has no event times, 'new' by 30 min"),
        (["--within", "3h", "--stage", "never"], 5, "nothing yet: "),
        (["--within", "10m", "--stage", "never", "--stage", "old"], 1, "stalled: 'old' for 2 h"),
    ],
)
def test_the_first_line_and_the_exit_code_say_it(checked: Path, options: list[str], exit_code: int, first: str) -> None:
    """The worst of all stages counts."""
    result = run("check", checked, *options)
    assert result.exit_code == exit_code
    assert result.stdout.splitlines()[0].startswith(first)


def test_nothing_yet_is_no_stall(path: Path) -> None:
    """A pipeline that is about to begin has an exit code of its own."""
    CheckpointStore(path).close()
    result = run("check", path, "--within", "1s")
    assert (result.exit_code, result.stdout) == (5, "nothing yet: nothing recorded yet\n")
    assert run("check", path.with_name("missing"), "--within", "1s").exit_code == 3


def test_a_stage_whose_clock_was_ahead_does_not_pass_for_fresh(path: Path) -> None:
    """For a year nobody would learn that it is dead. A clock that differs by less than --within is ok."""
    now = time.time_ns() // 1_000_000
    with CheckpointStore(path) as store:
        store.append(Checkpoint("run-1", "load", 1, Watermark(5, 0), "a", now + 5 * MINUTE))
        assert run("check", path, "--within", "10m").exit_code == 0
        store.append(Checkpoint("run-1", "load", 2, Watermark(6, 0), "b", now + 365 * 24 * 60 * MINUTE))
    result = run("check", path, "--within", "10m")
    assert result.exit_code == 1
    assert result.stdout.startswith("stalled: 'load' has its last checkpoint 364 d 23 h in the future\n")


def test_a_check_of_nothing_is_refused(checked: Path) -> None:
    """It would always be ok."""
    assert run("check", checked).exit_code == 2
    assert run("check", checked, "--within", "soon").exit_code == 2


def test_a_program_gets_json(checked: Path) -> None:
    """A status for all, and one for each stage."""
    found = json.loads(answer("check", checked, "--within", "10m", "--json", exit_code=1))
    assert found["status"] == "stalled"
    assert {each["stage"]: each["status"] for each in found["stages"]} == {"old": "stalled", "new": "ok"}
    assert found["stages"][1]["last"]["offset"] == 9


def test_the_lag_that_is_asked_for_has_a_column(path: Path) -> None:
    """On a terminal of 80 columns too; the time of the last checkpoint makes room for it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id="nightly-2026-01-31", stage="load-to-warehouse", offset=10**9))
    for columns in (60, 80, 120):
        screen = on_terminal("check", path, "--lag", "1s", columns=columns, NO_COLOR="1")[1]
        (head,) = (line for line in screen.splitlines() if line.startswith("stage"))
        assert "lag" in head
        assert "ago" in head

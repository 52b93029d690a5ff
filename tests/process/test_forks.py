"""Forks: the parent goes on, a child's own store works, and what cannot be made safe is refused before it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import milepost
from milepost import CheckpointStore
from support.programs import PROGRAMS

PROGRAM = PROGRAMS / "forking_program.py"
OTHER_PYTHONS = list(filter(None, os.environ.get("MILEPOST_PYTHONS", "").split(os.pathsep)))
"""Interpreters that can import apsw, such as those of 3.12 and 3.13, which warn of a fork beside threads."""

SCENES = [
    ("beside_threads", 8, 200),
    ("parent_closes", 4, 25),
    ("parent_dies", 4, 25),
    ("refuses_every_method", 1, 1),
    ("half_made", 1, 1),
    ("inside_a_block", 1, 1),
    ("inside_a_loop", 1, 1),
    ("beside_a_connection", 1, 1),
    ("by_c_code", 1, 1),
    ("then_exec", 1, 1),
    ("child_that_unwinds", 20, 200),
    ("child_that_goes_on", 20, 200),
    ("child_that_writes_in_the_block", 1, 10),
    ("within_sqlite", 1, 10),
    ("during_a_verification", 4, 40),
    ("on_connect", 1, 1),
    ("pools", 2, 8),
    ("threads_that_fork", 3, 40),
]


def _play(path: Path, scene: str, children: int, *options: str, python: str = sys.executable) -> tuple[int, str, list[str]]:
    """Play a scene: the exit code, what it complained of, and the runs that lack what was acknowledged to them."""
    command = [python, "-W", "error", str(PROGRAM), str(path), scene, str(children), *options]
    where = {**os.environ, "PYTHONPATH": str(Path(milepost.__file__).parents[1])}
    played = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=where)
    with CheckpointStore(path, busy_timeout_ms=60_000) as store:
        found = {run.run_id: run.entries for run in store.runs()}
        store.verify().raise_if_broken()
    told = dict(line.split(":") for line in played.stdout.splitlines())
    lost = [run for run, entries in told.items() if found.get(run, 0) < int(entries)]
    return played.returncode, played.stderr, lost + [run for run in found if run == "bad"]


@pytest.mark.parametrize(("scene", "children", "_many"), SCENES, ids=[scene for scene, _, _ in SCENES])
def test_nothing_acknowledged_is_lost_by_a_fork_and_nothing_hangs(path: Path, scene: str, children: int, _many: int) -> None:
    """What each process was told is in the file, and the chain holds."""
    assert _play(path, scene, children) == (0, "", [])


@pytest.mark.long
@pytest.mark.parametrize(("scene", "_few", "children"), SCENES, ids=[scene for scene, _, _ in SCENES])
def test_nothing_is_lost_by_many_forks(path: Path, scene: str, _few: int, children: int) -> None:
    """The full dose: two hundred children beside five threads."""
    assert _play(path, scene, children) == (0, "", [])


@pytest.mark.long
@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=str)
@pytest.mark.parametrize(("scene", "children", "_many"), SCENES, ids=[scene for scene, _, _ in SCENES])
def test_nothing_is_lost_by_a_fork_of_another_python(path: Path, scene: str, children: int, _many: int, python: str) -> None:
    """Of those that MILEPOST_PYTHONS names; every other warning is an error."""
    assert _play(path, scene, children, python=python) == (0, "", [])


def test_a_store_that_hears_of_no_fork_is_caught(path: Path) -> None:
    """So the tests above can tell: the child writes through what it has inherited."""
    code, complaints, _ = _play(path, "refuses_every_method", 1, "no-hooks")
    assert code != 0
    assert "not refused" in complaints

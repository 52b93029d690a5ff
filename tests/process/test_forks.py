"""Forks: the parent goes on, a child's own store works, and what cannot be made safe is refused before it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import milepost
from milepost import CheckpointStore
from support.chains import entry
from support.other_process import other_process
from support.programs import PROGRAMS

PROGRAM = PROGRAMS / "forking_program.py"
OTHER_PYTHONS = list(filter(None, os.environ.get("MILEPOST_PYTHONS", "").split(os.pathsep)))
"""Interpreters that can import apsw, such as those of 3.12 and 3.13, which warn of a fork beside threads."""

SCENES = [
    ("beside_threads", 4, 200),
    ("beside_a_thread_that_opens", 1, 1),
    ("parent_closes", 2, 25),
    ("parent_dies", 2, 25),
    ("refuses_every_method", 1, 1),
    ("half_made", 1, 1),
    ("inside_a_block", 1, 1),
    ("inside_a_loop", 1, 1),
    ("beside_a_connection", 1, 1),
    ("by_c_code", 1, 1),
    ("by_c_code_while_reading", 1, 1),
    ("then_exec", 1, 1),
    ("child_that_unwinds", 20, 200),
    ("child_that_goes_on", 20, 200),
    ("child_that_writes_in_the_block", 1, 10),
    ("child_that_goes_on_as_it_opens", 1, 1),
    ("child_that_goes_on_as_a_file_is_made", 1, 1),
    ("child_that_goes_on_as_a_store_is_filled", 1, 1),
    ("within_sqlite", 1, 10),
    ("during_a_long_lookup", 1, 1),
    ("during_a_verification", 4, 40),
    ("on_connect", 1, 1),
    ("pools", 2, 8),
    ("threads_that_fork", 2, 40),
]


def _play(
    path: Path, scenes: list[str], children: int, *options: str, python: str = sys.executable
) -> tuple[int, str, list[str]]:
    """Play scenes: the exit code, what it complained of, and the runs that lack what was acknowledged to them."""
    command = [python, "-W", "error", str(PROGRAM), str(path), ",".join(scenes), str(children), *options]
    where = {**os.environ, "PYTHONPATH": str(Path(milepost.__file__).parents[1])}
    played = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=where)
    told = [line.split(":") for line in played.stdout.splitlines()]
    lost: list[str] = []
    for scene in scenes:
        with CheckpointStore(f"{path}-{scene}", busy_timeout_ms=60_000) as store:
            found = {run.run_id: run.entries for run in store.runs()}
            store.verify().raise_if_broken()
        lost += [run for of, run, entries in told if of == scene and found.get(run, 0) < int(entries)]
        lost += [run for run in found if run == "bad"]
    return played.returncode, played.stderr, lost


@pytest.mark.parametrize("children", sorted({few for _, few, _ in SCENES}))
def test_nothing_acknowledged_is_lost_by_a_fork_and_nothing_hangs(path: Path, children: int) -> None:
    """What each process was told is in the file, and the chain holds."""
    scenes = [scene for scene, few, _ in SCENES if few == children]  # in one process, for it takes a while to start
    assert _play(path, scenes, children) == (0, "", [])


@pytest.mark.long
@pytest.mark.parametrize(("scene", "_few", "children"), SCENES, ids=[scene for scene, _, _ in SCENES])
def test_nothing_is_lost_by_many_forks(path: Path, scene: str, _few: int, children: int) -> None:
    """The full dose: two hundred children beside five threads."""
    assert _play(path, [scene], children) == (0, "", [])


@pytest.mark.long
@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=str)
@pytest.mark.parametrize(("scene", "children", "_many"), SCENES, ids=[scene for scene, _, _ in SCENES])
def test_nothing_is_lost_by_a_fork_of_another_python(path: Path, scene: str, children: int, _many: int, python: str) -> None:
    """Of those that MILEPOST_PYTHONS names; every other warning is an error."""
    assert _play(path, [scene], children, python=python) == (0, "", [])


def test_a_store_that_hears_of_no_fork_is_caught(path: Path) -> None:
    """So the tests above can tell: the child writes through what it has inherited."""
    code, complaints, _ = _play(path, ["refuses_every_method"], 1, "no-hooks")
    assert code != 0
    assert "not refused" in complaints


@pytest.mark.parametrize("stays_open", [True, False])
def test_a_store_whose_file_a_reader_opens_first_after_a_fork_writes_on(path: Path, stays_open: bool) -> None:
    """The reader maps the shared memory read-only, and the store's own lookups join in, before it writes again."""
    with (
        CheckpointStore(path) as store,
        CheckpointStore.open_readonly(path) as readonly,
        other_process("write", path) as other,  # it keeps the WAL, which would go with the last connection
    ):
        assert other.hear() == "ready"
        store.append(entry(1))
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert readonly.latest() == entry(1)
        assert store.latest() == entry(1)
        if not stays_open:
            readonly.close()
        assert store.append(entry(2)).position == 2
        assert store.latest() == entry(2)

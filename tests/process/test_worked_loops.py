"""Bags and tracked sources whose process is killed, interrupted or forked at random moments: nothing is lost or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.programs import PROGRAMS, environment

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))
LONG: Final = pytest.mark.long


def _run(scene: str, directory: Path, rounds: int) -> list[dict[str, Any]]:
    """What each round came to. It ends in time, with whatever it has begun: a session of its own."""
    program = [sys.executable, str(PROGRAMS / "worked_loops.py"), scene, str(directory), str(rounds), str(SEED)]
    said = subprocess.run(
        program, env=environment(), stdout=subprocess.PIPE, check=True, timeout=120 + 10 * rounds, text=True
    ).stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=LONG)])
def test_of_a_shared_bag_nothing_is_lost_or_doubled_by_kills(tmp_path: Path, rounds: int) -> None:
    """Four processes at a time run `once(…).map(…)` with transaction=True, and are killed; with the same order too."""
    found = _run("kill_bags", tmp_path, rounds)
    assert len(found) == rounds
    assert [each for each in found if each["lost"] or each["doubled"] or not (each["sound"] and each["alike"])] == []
    assert sum(each["killed"] for each in found) > rounds


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=LONG)])
def test_of_a_tracked_source_nothing_is_lost_by_kills(tmp_path: Path, rounds: int) -> None:
    """Under asyncio: what is below the watermark is in the sink."""
    found = _run("kill_tracked", tmp_path, rounds)
    assert len(found) == rounds
    assert [each for each in found if each["lost"] or not each["sound"]] == []
    assert sum(each["killed"] for each in found) > rounds
    assert sum(each["again"] for each in found) > 0  # or no kill came while records were under way


@pytest.mark.parametrize("rounds", [50, pytest.param(10_000, marks=LONG)])
def test_a_tracked_source_goes_on_after_interrupts_and_loses_nothing(tmp_path: Path, rounds: int) -> None:
    """A handler that raises, caught around the `with` or inside it; the ticker at work or not."""
    *found, end = _run("interrupt_tracked", tmp_path, rounds)
    assert len(found) == rounds
    assert [each for each in found if each["lost"]] == []
    # An interrupt may come between track() and the call that hands its `done` over: then nobody can finish the record.
    assert [each for each in found if each["told"] and "nobody can finish" not in each["told"]] == []
    assert sum(each["interrupted"] for each in found) > rounds / 4
    offsets = [each["offset"] for each in found]
    assert offsets == sorted(offsets)
    assert end == {"sound": True}


@pytest.mark.parametrize("rounds", [1, pytest.param(200, marks=LONG)])
def test_a_fork_inside_leaves_the_parent_alone_and_the_child_is_told(tmp_path: Path, rounds: int) -> None:
    """Beside busy tickers, whose locks the child may inherit."""
    found = _run("fork_within", tmp_path, rounds)
    assert len(found) == rounds
    assert [each for each in found if not each["sound"] or each["offsets"] != {"fetch": 60, "load": 60}] == []
    assert sum(each["forks"] for each in found) >= 2 * rounds


FORKING_WORK: Final = """
import os, sys, threading, time
from milepost import CheckpointStore

parent, done, children = os.getpid(), [], []

def work(record):
    if record == 3:
        child = os.fork()
        if child == 0:
            return "in the child"  # as a library that forks and returns does; nobody ends the process
        children.append(child)
    time.sleep(0.02)
    with open(sys.argv[2], "a", encoding="ascii") as file:
        file.write(f"{record} {os.getpid() == parent}\\n")

with CheckpointStore(sys.argv[1], durability="normal") as store:
    for _ in store.checkpointed(range(20), run_id="r", stage="s", every=5).map(work, workers=2, in_flight=20):
        pass
for child in children:
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            print("still there")
            break
        time.sleep(0.01)
"""


def test_a_child_that_work_has_forked_does_none_of_its_parents_records_and_ends(tmp_path: Path) -> None:
    """It has a copy of the queue."""
    done = tmp_path / "done"
    program = [sys.executable, "-c", FORKING_WORK, str(tmp_path / "store"), str(done)]
    said = subprocess.run(program, env=environment(), stdout=subprocess.PIPE, check=True, timeout=60, text=True).stdout
    assert said == ""
    lines = done.read_text(encoding="ascii").splitlines()
    assert sorted(int(line.split()[0]) for line in lines) == list(range(20))
    assert {line.split()[1] for line in lines} == {"True"}

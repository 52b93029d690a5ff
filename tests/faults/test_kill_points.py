"""SIGKILL at every VFS call of forty appends, and halfway through a write: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from support.fault_workload import Plan, Session, content, fast_directory
from support.killed_pipeline import Death, plan_to_die_in
from support.programs import PROGRAMS
from support.told_process import ToldProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))
APPENDS: Final = 40
NEVER: Final = 10**9
SAME: Final = ("xFileControl", "xRead", "xFileSize", "xAccess", "xLock", "xUnlock", "xClose")
"""Calls that change no byte; the default dose takes fewer of them."""


class Server:
    """The program that runs the pipeline and has it killed; see killed_pipeline.py."""

    def __init__(self, directory: Path, *, together: bool = True, appends: int = APPENDS) -> None:
        self.directory, self.plan = directory, plan_to_die_in(SEED, appends)
        directory.mkdir()
        program = PROGRAMS / "killed_pipeline.py"
        arguments = [directory, SEED, appends, *([] if together else ["apart"])]
        self._process = ToldProcess(program, *arguments)

    def kill(self, call: int, *, half: bool = False) -> Death:
        """Run the pipeline and kill it at a call."""
        return Death(*json.loads(self._process.tell(f"{call} {'half' if half else 'whole'}")))

    def close(self) -> None:
        """Let the program end."""
        self._process.end()


@contextlib.contextmanager
def _server(*, together: bool = True, appends: int = APPENDS) -> Iterator[Server]:
    with fast_directory() as directory:
        server = Server(directory / "work", together=together, appends=appends)
        try:
            yield server
        finally:
            server.close()


@dataclass
class Tally:
    """What many kills have shown."""

    kills: int = 0
    unacknowledged: int = 0  # kills that left a committed step whose answer had not come
    problems: list[str] = field(default_factory=list)


def _examine(plan: Plan, server: Server, call: int, tally: Tally, *, half: bool) -> None:
    """Kill, open what is left, and do the step again that was under way."""
    death = server.kill(call, half=half)
    if not death.killed:
        return
    tally.kills += 1
    where = f"killed {'halfway through' if half else 'before'} call {call}, step {death.begun} under way"
    session = Session(server.directory, plan.autocheckpoint, None)
    try:
        existed = session.path.exists()
        store = session.open()
        step = plan.last_alike(content(store)) if existed else -1
        if step is None:
            tally.problems.append(f"{where}: no state between two steps")
            return
        if step < death.acknowledged or (step >= 0 and plan.first_alike(step) > death.begun):
            tally.problems.append(f"{where}: {death.acknowledged} was answered, the file is as after {step}")
        tally.unacknowledged += max(death.acknowledged, 0) < step
        for again in (max(death.begun, 0), min(max(death.begun, 0) + 1, len(plan.steps) - 1)):
            session.do(plan.steps[again])
            if content(session.store or store) != plan.contents[again]:
                tally.problems.append(f"{where}: step {again} done again is not there once")
        if not (session.store or store).verify().ok:
            tally.problems.append(f"{where}: {(session.store or store).verify().faults[0]}")
    except Exception as error:  # noqa: BLE001 - whatever milepost raises is the finding
        tally.problems.append(f"{where}: {type(error).__name__}: {error}")
    finally:
        session.close()


def _points(server: Server) -> tuple[list[tuple[int, bool]], list[tuple[int, bool]]]:
    """Every call, and every write again for its half: those that change a byte, and the others."""
    methods = server.kill(NEVER).methods
    whole = [(call, False) for call, method in enumerate(methods) if method not in SAME]
    half = [(call, True) for call, method in enumerate(methods) if method == "xWrite"]
    return whole + half, [(call, False) for call, method in enumerate(methods) if method in SAME]


def _kill(points: Sequence[tuple[int, bool]], tally: Tally, server: Server) -> None:
    for call, half in points:
        _examine(server.plan, server, call, tally, half=half)


def _report(tally: Tally, began: float) -> None:
    print(
        f"MILEPOST_FAULT_SEED={SEED}: {tally.kills} kills, {tally.unacknowledged} of them with a step committed but not "
        f"answered, {len(tally.problems)} problems in {time.monotonic() - began:.0f} s"
    )


def test_a_kill_at_a_sample_of_vfs_calls_loses_and_doubles_nothing() -> None:
    """Before a call, and halfway through a write, anywhere from the creation of the store to its closing."""
    began, tally, rng = time.monotonic(), Tally(), random.Random(SEED)
    with _server() as server:
        changing, others = _points(server)
        _kill([*rng.sample(changing, 22), *rng.sample(others, 4)], tally, server)
    _report(tally, began)
    assert tally.problems == []
    assert tally.kills == 26


def test_a_sink_that_commits_apart_from_its_checkpoint_is_caught() -> None:
    """A kill between the two transactions leaves a row without its checkpoint."""
    tally, rng = Tally(), random.Random(SEED)
    with _server(together=False, appends=20) as server:  # half as many: each kill is sooner there
        changing, _ = _points(server)
        for call, half in rng.sample(changing, 200):
            _kill([(call, half)], tally, server)
            if any("no state between two steps" in problem for problem in tally.problems):
                break
    assert any("no state between two steps" in problem for problem in tally.problems)


@pytest.mark.long
def test_a_kill_at_every_vfs_call_loses_and_doubles_nothing() -> None:
    """Promise A5: every call of forty appends, and every write halfway."""
    began, tallies = time.monotonic(), [Tally(), Tally()]
    with _server() as one, _server() as two, ThreadPoolExecutor() as pool:
        points = [point for part in _points(one) for point in part]
        list(pool.map(_kill, (points[::2], points[1::2]), tallies, (one, two)))
    tally = Tally(
        sum(tally.kills for tally in tallies),
        sum(tally.unacknowledged for tally in tallies),
        [problem for tally in tallies for problem in tally.problems],
    )
    _report(tally, began)
    assert tally.problems == []
    assert tally.kills == len(points)

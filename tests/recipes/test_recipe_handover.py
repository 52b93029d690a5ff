"""The recipe that hands over to another machine: the target knows all that the last one did, and the next one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.recipes import CHANCE, DOSES, Recipe, directories, program

if TYPE_CHECKING:
    from pathlib import Path

    from milepost import RunSummary

HEADING = "Hand over to another machine"


def _shipped(directory: Path) -> RunSummary:
    """The run, as a machine that takes over finds it in the target."""
    look = directory / f"look-{CHANCE.random()}"
    with CheckpointStore.restore(look, directory / "shared", "orders") as store:
        store.verify().raise_if_broken()
        assert store.resume_point_for_stage("load").watermark.offset == 5000
        (run,) = store.runs()
        return run


def _lose(directory: Path) -> None:
    """Leave nothing of the machine's own file."""
    for file in directory.glob("orders.milepost*"):
        file.unlink()


def test_a_run_that_is_finished_is_finished_in_the_target_and_is_not_done_again(tmp_path: Path) -> None:
    """Not on this machine, when it is started again, nor on a new one, whose disk is empty."""
    recipe = Recipe(HEADING, tmp_path)
    recipe.run()
    first = _shipped(tmp_path)
    assert (first.state, first.attempts, first.killed) == ("finished", 1, 0)
    recipe.run()
    assert _shipped(tmp_path) == first
    _lose(tmp_path)
    recipe.run()
    assert _shipped(tmp_path) == first


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_run_that_is_killed_is_finished_by_the_next_machine(tmp_path: Path, rounds: int, kills: int) -> None:
    """Or by this one, if its disk is left; the target knows the end."""
    for directory in directories(tmp_path, rounds):
        recipe = Recipe(HEADING, directory)
        for _ in range(kills):
            recipe.kill(within_s=0.05)
            if CHANCE.random() < 0.5:
                _lose(directory)
        recipe.run()
        assert _shipped(directory).state == "finished"


def test_the_end_of_a_run_that_fails_is_shipped_too(tmp_path: Path) -> None:
    """A machine that takes over does not count it as killed."""
    failing = program(HEADING).replace("order % 1000 == 999", "1 / (3210 - order) and order % 1000 == 999")
    with Recipe(HEADING, tmp_path, broken=failing).started() as life:
        assert "ZeroDivisionError" in life.end_badly()
    with CheckpointStore.restore(tmp_path / "look", tmp_path / "shared", "orders") as store:
        (run,) = store.runs()
    assert (run.state, run.error, run.killed) == ("failed", "ZeroDivisionError", 0)

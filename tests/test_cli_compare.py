"""The command `compare`: 0 if a replay repeated the original, 1 if not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.chains import entry
from support.command import answer, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(path: Path) -> Path:
    """A run, a replay that did the same at another time, and one that parted from it at its second step."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(i, run_id="one") for i in (1, 2, 3))
        store.append_many(entry(i, run_id="same", at_ms=i) for i in (1, 2, 3))
        store.append_many(entry(i, run_id="other", offset=i * 501 if i > 1 else None) for i in (1, 2))
    return path


def test_a_replay_that_did_the_same_is_exit_code_0(file: Path) -> None:
    """In the words of the library."""
    with CheckpointStore.open_readonly(file) as store:
        assert answer("compare", file, "one", "same") == f"{store.compare('one', 'same')}\n"
    found = json.loads(answer("compare", file, "one", "same", "--json"))
    assert (found["run_id"], found["other_run_id"], found["identical"]) == ("one", "same", True)
    assert [(stage["stage"], stage["identical"], stage["common"]) for stage in found["stages"]] == [("load", True, 3)]


def test_one_that_did_not_is_exit_code_1(file: Path) -> None:
    """With where they part, and what both recorded there."""
    with CheckpointStore.open_readonly(file) as store:
        assert answer("compare", file, "one", "other", exit_code=1) == f"{store.compare('one', 'other')}\n"
    found = json.loads(answer("compare", file, "one", "other", "--json", exit_code=1))
    [stage] = found["stages"]
    assert found["identical"] is stage["identical"] is False
    assert (stage["entries"], stage["other_entries"], stage["common"], stage["different"]) == (3, 2, 2, 1)
    assert (stage["first_only"], stage["other_first_only"]) == (3, None)
    divergence = stage["divergence"]
    assert (divergence["sequence"], divergence["one"]["offset"], divergence["other"]["offset"]) == (2, 1000, 1002)
    assert list(divergence["one"]) == [
        "run_id", "stage", "sequence", "offset", "event_time_ms", "event_time", "idempotency_key", "at_ms", "at"
    ]  # fmt: skip


def test_a_run_that_is_not_there_is_an_error_and_not_a_difference(file: Path) -> None:
    """One sentence, and nothing on standard output."""
    result = run("compare", file, "one", "typo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no checkpoint in run 'typo'")

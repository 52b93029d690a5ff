"""The command `runs`: those of the store, a line each."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from conftest import Clock
from milepost import CheckpointStore, Watermark
from support.chains import entry
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_runs_are_those_of_the_store(file: Path, reader: CheckpointStore) -> None:
    """A line each, and everything in JSON."""
    found = json.loads(answer("runs", file, "--json"))
    kept = (
        "run_id", "entries", "first_at_ms", "last_at_ms", "signature", "state", "attempts", "killed", "began_at_ms",
        "ended_at_ms", "error", "records", "duration_ms", "rate",
    )  # fmt: skip
    assert [tuple(run[name] for name in kept) for run in found] == [
        tuple(getattr(run, name) for name in kept) for run in reader.runs()
    ]
    assert [tuple(run["stages"]) for run in found] == [run.stages for run in reader.runs()]
    table = answer("runs", file).splitlines()
    assert table[0].split() == [
        "run", "state", "attempts", "checkpoints", "stages", "first", "last", "duration", "records/s", "signature",
    ]  # fmt: skip
    assert [line.split()[0] for line in table[1:]] == [run.run_id for run in reader.runs()]


def test_runs_tell_how_their_attempts_ended(path: Path) -> None:
    """How many there were, how long the last one took, and how fast it was."""
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        with store.run("done") as run:
            run.advance("load", Watermark(12_000, 0), idempotency_key="a")
        with pytest.raises(ValueError, match="why"), store.run("broken"):
            raise ValueError("why")
        store.run("open").__enter__()
        store.run("open").__enter__()
        store.append(entry(1, run_id="plain"))
    head, *lines = answer("runs", path).splitlines()
    cells = {line.split()[0]: re.split(r"  +", line) for line in lines}
    assert cells["done"][1:4] == ["finished", "1", "1"]
    assert cells["done"][-3:-1] == ["2 s", "6,000"]
    assert cells["broken"][1:4] == ["failed: ValueError", "1", "0"]
    assert re.fullmatch(r"open, last entry \d.* (ago|in the future)", cells["open"][1])
    assert cells["open"][2:4] == ["2 (1 killed)", "0"]
    assert cells["plain"][1:4] == ["–", "–", "1"], "neither state nor attempts"
    assert len(cells["plain"]) == len(re.split(r"  +", head))
    found = {each["run_id"]: each for each in json.loads(answer("runs", path, "--json"))}
    assert (found["done"]["duration_ms"], found["done"]["rate"], found["done"]["state"]) == (2000, 6000.0, "finished")
    assert found["done"]["began_at"] == "2026-01-01T00:00:01.000Z"
    assert (found["broken"]["error"], found["broken"]["records"], found["broken"]["rate"]) == ("ValueError", 0, 0.0)
    assert (found["open"]["killed"], found["open"]["ended_at"], found["open"]["rate"]) == (1, None, None)
    assert (found["plain"]["state"], found["plain"]["attempts"], found["plain"]["began_at_ms"]) == (None, 0, None)


def test_an_error_with_a_hostile_name_is_shown_in_one_short_line(path: Path) -> None:
    """Nothing in it is obeyed."""
    error = type("E", (Exception,), {"__qualname__": "\x1b[31m\n" * 50, "__module__": "<b>"})
    with CheckpointStore(path, durability="normal") as store:
        with pytest.raises(error), store.run("nightly"):
            raise error
        page, shown = store.summary()._repr_html_(), str(store.summary())
    assert len(answer("runs", path).splitlines()) == 2
    for text in (answer("runs", path), answer("summary", path), shown, page):
        assert "\x1b" not in text
        assert "\\x1b[31m\\n" in text
    assert len([line for line in shown.splitlines() if "nightly" in line]) == 2, "the run, and that it stands out"
    assert "&lt;b&gt;" in page

"""The command `summary`: the page that the library makes, and all of it for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore
from support.chains import EVENT_MS, entry
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_summary_is_that_of_the_store(path: Path) -> None:
    """Line by line on a screen; every number in JSON."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(i, run_id="one", at_ms=EVENT_MS + i) for i in (1, 2, 4))
        store.append(entry(1, run_id="two", at_ms=EVENT_MS + 3_600_000))
    with CheckpointStore.open_readonly(path) as store:
        expected = store.summary()
        shown = answer("summary", path)
        words = [word for word in str(expected).split() if not word.isdigit()]
        assert [word for word in words if word not in shown] == []
        found = json.loads(answer("summary", path, "--json"))
        assert found["head"] == {"entries": 4, "signature": store.head().signature}
        assert [run["run_id"] for run in found["last_runs"]] == ["two", "one"]
        assert (found["runs"], found["latest_run_id"], found["last_at_ms"]) == (2, "two", EVENT_MS + 3_600_000)
        [stage] = found["stages"]
        assert (stage["run_id"], stage["sequence"], stage["entries"], stage["missing"]) == ("two", 1, 1, 0)
        assert [(s["after"], s["before"], s["since_ms"]) for s in found["silences"]] == [("one", "two", EVENT_MS + 4)]


def test_an_empty_store_has_a_summary(path: Path) -> None:
    """With no times."""
    CheckpointStore(path).close()
    assert "nothing recorded yet" in answer("summary", path)
    found = json.loads(answer("summary", path, "--json"))
    assert (found["first_at_ms"], found["first_at"], found["stages"], found["runs"]) == (None, None, [], 0)

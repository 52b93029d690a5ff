"""The command `runs`: those of the store, a line each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_runs_are_those_of_the_store(file: Path, reader: CheckpointStore) -> None:
    """A line each, and everything in JSON."""
    found = json.loads(answer("runs", file, "--json"))
    kept = ("run_id", "entries", "first_at_ms", "last_at_ms", "signature")
    assert [tuple(run[name] for name in kept) for run in found] == [
        tuple(getattr(run, name) for name in kept) for run in reader.runs()
    ]
    assert [tuple(run["stages"]) for run in found] == [run.stages for run in reader.runs()]
    table = answer("runs", file).splitlines()
    assert table[0].split() == ["run", "entries", "stages", "first", "last", "signature"]
    assert [line.split()[0] for line in table[1:]] == [run.run_id for run in reader.runs()]

"""The command `stages`: those of the store, a line each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_stages_are_those_of_the_store(file: Path, reader: CheckpointStore) -> None:
    """A line each, and everything in JSON."""
    found = json.loads(answer("stages", file, "--json"))
    assert [(each["stage"], each["entries"], each["runs"], each["first_at_ms"], each["last_at_ms"]) for each in found] == [
        (each.stage, each.entries, each.runs, each.first_at_ms, each.last_at_ms) for each in reader.stages()
    ]
    assert [line.split()[0] for line in answer("stages", file).splitlines()[1:]] == [s.stage for s in reader.stages()]

"""The command `resume`: where each stage stands, or one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from milepost import CheckpointStore, Watermark
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_resume_gives_every_stage_or_one(file: Path, reader: CheckpointStore) -> None:
    """As resume_points() and resume_point_for_stage()."""

    def shown(*options: str) -> list[tuple[Any, ...]]:
        found = json.loads(answer("resume", file, *options, "--json"))
        return [(p["run_id"], p["stage"], p["sequence"], Watermark(p["offset"], p["event_time_ms"])) for p in found]

    assert shown() == list(reader.resume_points().values())
    assert shown("--run", "run-2") == list(reader.resume_points("run-2").values())
    assert shown("--stage", "load") == [reader.resume_point_for_stage("load")]
    assert shown("--as-of", "500") == list(reader.resume_points(as_of=500).values()) != shown()
    expected = reader.resume_point_for_stage("load", as_of="1970-01-01T00:00:00.500Z")
    assert shown("--stage", "load", "--as-of", "1970-01-01T00:00:00.500Z") == [expected]
    assert shown("--stage", "load", "--run", "run-0") == [reader.resume_point_for_stage("load", run_id="run-0")]
    assert len(answer("resume", file).splitlines()) == 1 + len(reader.resume_points())

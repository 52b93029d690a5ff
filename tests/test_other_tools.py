"""
Other tools read the file as it is: names as text and times in ISO 8601, in the view `checkpoint`.

Each in a process of its own: closing the file through a second SQLite library would drop the locks of the first.
A process is forked from one that has imported the tools, which takes them longer than their answer.
"""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import Checkpoint, CheckpointStore, Watermark
from support.chains import entry
from support.warm import WarmPython

if TYPE_CHECKING:
    from collections.abc import Callable

SQLITE3 = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.row_factory = sqlite3.Row
print(json.dumps([dict(row) for row in connection.execute("SELECT * FROM checkpoint")]))
"""
TOOLS: dict[str, Callable[[Path], list[str]]] = {
    "sqlite3": lambda path: ["-c", SQLITE3, str(path)],
    "sqlite-utils": lambda path: ["-m", "sqlite_utils", "rows", str(path), "checkpoint"],
    "datasette": lambda path: ["-m", "datasette", str(path), "--get", f"/{path.stem}/checkpoint.json?_shape=array"],
    "datasette --immutable": lambda path: [*TOOLS["datasette"](path), "--immutable", str(path)],
}
ENTRIES = [
    Checkpoint("run-7", "load", 1, Watermark(500, 1767225600000), "load:0-499", 1767225601000),
    Checkpoint("run-7", "<b>Umsätze</b>", 7, Watermark(2**63 - 1, 0), "'; DROP TABLE entry; --", 1),
    Checkpoint("2026\n🚀", "load", 2**63 - 1, Watermark(0, 253402300799999), "=1+1", 951827696789),
]


def _as_in_the_view(checkpoint: Checkpoint) -> dict[str, Any]:
    (offset, event_time_ms), at_ms = checkpoint.watermark, checkpoint.at_ms
    return {
        "run_id": checkpoint.run_id,
        "stage": checkpoint.stage,
        "sequence": checkpoint.sequence,
        "offset": offset,
        "event_time_ms": event_time_ms,
        "event_time": _iso(event_time_ms),
        "idempotency_key": checkpoint.idempotency_key,
        "at_ms": at_ms,
        "at": _iso(at_ms),
    }


def _iso(ms: int) -> str:
    seconds = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


@functools.cache
def _tools() -> WarmPython:
    return WarmPython("sqlite_utils.cli", "datasette.cli", warnings=None)


def _read(tool: str, path: Path) -> list[dict[str, Any]]:
    run = _tools().run(*TOOLS[tool](path))
    assert run.returncode == 0, run.stderr
    rows: list[dict[str, Any]] = json.loads(run.stdout)
    return rows


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_reads_every_checkpoint_as_it_was_recorded(path: Path, tool: str) -> None:
    """Whatever the names, every integer, and the times; afterwards the file has the same bytes, and takes more."""
    with CheckpointStore(path) as store:
        signatures = [store.append(each).signature for each in ENTRIES]
    before = path.read_bytes()
    recorded = zip(ENTRIES, signatures, strict=True)
    expected = [
        {"position": position, **_as_in_the_view(each), "signature": signature, "detail": None}
        for position, (each, signature) in enumerate(recorded, 1)
    ]
    assert _read(tool, path) == expected
    assert path.read_bytes() == before
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == ENTRIES
    with CheckpointStore(path) as store:
        store.append(entry(2))
        assert store.verify().ok


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if "--immutable" not in tool])
def test_a_tool_reads_beside_a_store_that_is_open(path: Path, tool: str) -> None:
    """It sees what was acknowledged, and the store goes on after the tool has gone."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        assert [row["sequence"] for row in _read(tool, path)] == [1]
        store.append(entry(2))
        assert [row["sequence"] for row in _read(tool, path)] == [1, 2]
        assert store.verify().ok

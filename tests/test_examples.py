"""The notebook of the examples runs from top to bottom, and what it shows was kept."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from milepost.demo.flights import flights
from support.quick_demo import quick_demo

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "forensics.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def _execute(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "execute.py"), str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """On the demo's file over every hundredth flight; it leaves nothing behind."""
    source = flights()
    with zipfile.ZipFile(source.path) as archive, archive.open(source.member or "") as data:
        header, *lines = data.read().splitlines(keepends=True)
    (tmp_path / "sample.csv").write_bytes(header + b"".join(lines[::100]))
    columns = ["--event-time", "time_hour", "--by", "carrier", "--sum", "distance"]
    assert quick_demo(tmp_path, "--input", "sample.csv", *columns, "--output", "flights.milepost").returncode == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    run = _execute(tmp_path)
    assert run.returncode == 0, run.stderr
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_cell_that_raises_fails_the_run(tmp_path: Path) -> None:
    """The first one does, where the file is none of ours."""
    (tmp_path / "flights.milepost").write_text("no database")
    run = _execute(tmp_path)
    assert run.returncode == 1
    assert "NotAStoreError" in run.stderr


def test_what_every_cell_showed_is_kept() -> None:
    """Executed once, in order, without an error or a warning."""
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"execute_result", "stream"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


@pytest.mark.parametrize("trace", ["/tmp", "/var", "/root", "/Users", "/home/", "C:"])
def test_no_trace_of_a_machine_is_kept(trace: str) -> None:
    """What was shown has no path but that of a reader called "you", and is small enough to look at on a code host."""
    outputs = [
        {**output, "data": {**output.get("data", {}), "image/png": ""}} for cell in CELLS for output in cell["outputs"]
    ]
    assert trace not in json.dumps(outputs).replace("/home/you", "")
    assert NOTEBOOK.stat().st_size < 300_000

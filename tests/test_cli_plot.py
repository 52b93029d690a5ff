"""The commands under `plot`: a picture in a new file, of whatever there is to draw."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from milepost import CheckpointStore
from milepost.cli.plot import plot
from support.chains import entry, mixed
from support.command import run
from support.warm import warm_commands
from test_cli_hostile_names import HOSTILE

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml "}
RUNS = {"progress": [], "runs": [], "durations": [], "lag": [], "compare": ["run-1", "run-2"]}


@pytest.fixture
def file(path: Path) -> Path:
    """A file with three runs of three stages."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(mixed(60))
    return path


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        pytest.param(ending, kind, marks=() if (ending == ".svg") == (kind in {"runs", "lag"}) else pytest.mark.long)
        for ending in SIGNATURES  # every kind, and both endings; in the long dose every kind with both
        for kind in RUNS
    ],
)
def test_a_picture_is_drawn_into_a_new_file(file: Path, kind: str, ending: str) -> None:
    """PNG or SVG, by its ending; and nothing else changes."""
    before = file.read_bytes()
    picture = file.parent / f"picture{ending}"
    result = run("plot", kind, file, *RUNS[kind], picture)
    assert (result.exit_code, result.output) == (0, "")
    assert picture.read_bytes().startswith(SIGNATURES[ending])
    assert sorted(each.name for each in file.parent.iterdir()) == ["orders.milepost", picture.name]
    assert file.read_bytes() == before
    assert run("plot", kind, file, *RUNS[kind], picture).exit_code == 3


@pytest.mark.parametrize(
    "kind", ["compare", *(pytest.param(kind, marks=pytest.mark.long) for kind in RUNS if kind != "compare")]
)
def test_overwriting_is_asked_for(file: Path, kind: str) -> None:
    """And replaces a picture, but never a database; a mistake leaves what was there."""
    picture = file.parent / "picture.svg"
    picture.write_text("mine", encoding="utf-8")
    refused = run("plot", kind, file, *RUNS[kind], picture)
    assert (refused.exit_code, picture.read_text(encoding="utf-8")) == (3, "mine")
    assert "give --overwrite" in refused.stderr
    assert run("plot", kind, file, *RUNS[kind], picture, "--overwrite", "--stage", "typo").exit_code == 1
    assert picture.read_text(encoding="utf-8") == "mine"
    small = ["--overwrite", "--stage", "load"]  # of one stage, which is drawn sooner than three
    result = run("plot", kind, file, *RUNS[kind], picture, *small)
    assert (result.exit_code, result.output) == (0, "")
    assert picture.read_bytes().startswith(SIGNATURES[".svg"])
    store = file.rename(file.parent / "store.svg")
    before = store.read_bytes()
    result = run("plot", kind, store, *RUNS[kind], store, *small)
    assert (result.exit_code, store.read_bytes()) == (3, before)
    assert run("plot", kind, store, *RUNS[kind], file.parent / "new.svg", *small).exit_code == 0
    (file.parent / "folder.svg").mkdir()
    assert run("plot", kind, store, *RUNS[kind], file.parent / "folder.svg", *small).exit_code == 3


@pytest.mark.parametrize("kind", [kind for kind in RUNS if kind != "compare"])
def test_a_picture_is_of_what_is_asked_for(file: Path, kind: str) -> None:
    """A run, a stage, a span of time; what was never recorded is exit code 1."""
    picture = file.parent / "a.svg"
    asked = ["--run", "run-1", "--stage", "load", "--since", "100", "--until", "1970-01-01T00:00:00.900Z", "--overwrite"]
    for aligned in ([],) if kind == "durations" else (["--aligned"], ["--by-clock"]):
        result = run("plot", kind, file, picture, *asked, *aligned)
        assert (result.exit_code, result.output) == (0, "")
        shown = picture.read_text(encoding="utf-8")
        assert "load in run-1" in shown
        assert ("since the run began" in shown) == (aligned == ["--aligned"])
    for wrong in (["--run", "typo"], ["--stage", "typo"]):
        assert run("plot", kind, file, picture, "--overwrite", *wrong).exit_code == 1


def test_every_kind_is_tested() -> None:
    """A new one has to be entered here."""
    assert set(RUNS) == set(plot.commands)


FIRST = range(0, len(HOSTILE), 9)


@pytest.mark.parametrize(
    ("kind", "first"),
    [  # every kind, and every name; in the long dose every name in every kind
        pytest.param(kind, first, marks=() if number % len(FIRST) == place else pytest.mark.long)
        for number, kind in enumerate(RUNS)
        for place, first in enumerate(FIRST)
    ],
)
def test_names_in_a_picture_are_text(path: Path, kind: str, first: int) -> None:
    """An SVG of hostile names, nine at a time, is well-formed, with nothing in it that a screen would obey."""
    names = HOSTILE[first : first + 9]
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(1, run_id=name, stage=name, key=name) for name in names)
    picture = path.parent / "a.svg"
    result = run("plot", kind, "--", path, *(names[:2] if kind == "compare" else []), picture)
    assert (result.exit_code, result.output) == (0, "")
    text = picture.read_text(encoding="utf-8")
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert {each for each in text if unicodedata.category(each) in kinds} == {"\n"}
    assert "{http://www.w3.org/2000/svg}script" not in {each.tag for each in ET.fromstring(text).iter()}


@pytest.mark.parametrize(
    "kind", ["progress", *(pytest.param(kind, marks=pytest.mark.long) for kind in RUNS if kind != "progress")]
)
def test_matplotlib_says_nothing_on_stderr(path: Path, kind: str) -> None:
    """Not of its cache, which it cannot keep here, nor of fonts, nor of names that leave no room for a picture."""
    with CheckpointStore(path, durability="normal") as store:
        for run_id in ("run-1", "run-2"):
            store.append_many(entry(1, run_id=run_id, stage=f"{i}{'שלום🚀' * 50}", at_ms=1) for i in range(24))
    picture = path.parent / "a.png"
    command = [sys.executable, "-W", "always", "-m", "milepost", "plot", kind, str(path), *RUNS[kind], str(picture)]
    fonts = path.parent / "matplotlibrc"
    fonts.write_text("font.family: no such font", encoding="utf-8")
    surroundings = {**os.environ, "MPLCONFIGDIR": str(path), "MATPLOTLIBRC": str(fonts)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert picture.read_bytes().startswith(SIGNATURES[".png"])


@pytest.mark.parametrize("picture", ["a.txt", "a", "a.pdf"])
def test_another_ending_is_exit_code_2(file: Path, picture: str) -> None:
    """Before anything is drawn."""
    result = run("plot", "runs", file, file.parent / picture)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must end in .png or .svg" in result.stderr


def test_without_matplotlib_one_sentence_gives_the_pip_command(file: Path) -> None:
    """And leaves no file behind."""
    program = "import sys\nsys.modules['matplotlib'] = None\nfrom milepost.cli import commands\ncommands()"
    ended = warm_commands(warnings=None).run("-c", program, "plot", "runs", file, file.parent / "a.png")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Error: ")
    assert 'pip install "milepost[notebook]"' in ended.stderr
    assert [each.name for each in file.parent.iterdir()] == ["orders.milepost"]

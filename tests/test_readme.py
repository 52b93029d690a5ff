"""The README tells the truth: every Python block runs, and its commands are those that CI runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.cli import commands
from milepost.cli.exit_code import EXIT_CODES

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CONSOLE = re.findall(r"^\$ (milepost .*)$", README, re.MULTILINE)
LINE = re.findall(r"^```json\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_every_program_runs_as_it_stands(program: str, tmp_path: Path) -> None:
    """In a directory of its own, with every warning an error."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_every_command_of_the_console_runs_as_it_stands(tmp_path: Path) -> None:
    """One after the other, on the file that the first program makes; none fails, and none says a word of warning."""
    subprocess.run([sys.executable, "-c", PROGRAMS[0]], cwd=tmp_path, capture_output=True, check=True)
    milepost = f'milepost() {{ {shlex.quote(sys.executable)} -W error -m milepost "$@"; }}\n'
    for command in CONSOLE:
        run = subprocess.run(["sh", "-c", milepost + command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, ""), command
    named = {command.split()[1] for command in CONSOLE}
    assert {*named, "demo"} == set(commands.commands)
    assert (tmp_path / "orders.jsonl").read_text().startswith(LINE)


def test_the_exit_codes_are_those_of_the_help() -> None:
    """Number for number, word for word."""
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE))
    helped = dict(re.findall(r"^ +(\d+)  (.*)$", EXIT_CODES, re.MULTILINE))
    assert table == {number: meaning for number, meaning in helped.items() if int(number) < 128}


def test_every_promise_names_tests_that_exist() -> None:
    """In the README and on the page of faults, whose commands all choose at least one test."""
    faults = (TOP / "docs" / "faults.md").read_text(encoding="utf-8")
    named = {name.removeprefix("tests/") for name in re.findall(r"[\w/]*test_\w+\.py", README + faults)}
    assert len(named) > 20
    assert [name for name in named if not (TOP / "tests" / name).exists()] == []


def test_every_command_of_the_page_of_faults_chooses_tests() -> None:
    """A word after -k that is in no test's name would choose none, and pass."""
    faults = (TOP / "docs" / "faults.md").read_text(encoding="utf-8")
    commands = [shlex.split(command) for command in re.findall(r"`pytest (tests/[^`]+)`", faults)]
    assert len(commands) > 30
    for command in commands:
        words = re.findall(r"\w+", command[command.index("-k") + 1]) if "-k" in command else []
        files = [name for name in command if name.endswith(".py")]
        tests = "\n".join(re.findall(r"def (test_\w+)", "".join((TOP / name).read_text(encoding="utf-8") for name in files)))
        assert [word for word in words if word not in {"and", "or"} and word not in tests] == [], command


def test_every_link_within_the_repository_leads_somewhere() -> None:
    """Pictures and pages."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (TOP / link).exists()] == []


def test_the_two_commands_do_all_the_set_up() -> None:
    """The first runs the demo, the second the tests; `.ci/run` runs both, word for word."""
    demo, tests = COMMANDS
    assert demo.startswith("python3 -m venv")
    assert demo.endswith("milepost demo\n")
    assert tests.startswith("python3 -m venv")
    assert tests.endswith("pytest\n")
    assert "README.md" in (TOP / ".ci/run").read_text(encoding="utf-8")


def test_every_file_that_the_readme_names_is_there() -> None:
    """Links and names of tests."""
    for name in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (TOP / name).exists(), name
    for name in re.findall(r"`((?:tests/)?(?:(?:faults/)?test_\w+\.py|vectors\.json))`", README):
        assert (TOP / "tests" / name.removeprefix("tests/")).exists(), name

"""The command line as such: what it says without its extra, its help, its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest
from click.testing import CliRunner

import milepost
from milepost import InvalidArgumentError, MilepostError, StoreBusyError, StoreError
from milepost.cli import commands
from milepost.cli.exit_code import ExitCode, explain_errors
from milepost.cli.plot import plot
from support.warm import warm_commands

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder to import from that has milepost and what it needs, and nothing else."""
    folder = tmp_path / "site"
    folder.mkdir()
    for package in (milepost, apsw):
        home = Path(str(package.__file__)).parent
        (folder / home.name).symlink_to(home)
    return folder


def run_without_extras(bare: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m milepost` where neither click nor rich is installed."""
    environment = {**os.environ, "PYTHONPATH": str(bare)}
    command: Sequence[str] = [sys.executable, "-S", "-m", "milepost", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("arguments", "extra"), [((), "cli"), (("--help",), "cli"), (("demo",), "demo")])
def test_without_click_and_rich_one_sentence_gives_the_pip_command(
    bare: Path, arguments: tuple[str, ...], extra: str
) -> None:
    """The sentence names what is missing and the extra that brings it; no traceback."""
    ended = run_without_extras(bare, *arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == f'milepost: the command line needs click and rich: run  pip install "milepost[{extra}]"\n'


def test_only_what_is_missing_is_named(bare: Path) -> None:
    """With click there and rich not, the sentence is about rich."""
    (bare / "click").mkdir()
    (bare / "click" / "__init__.py").touch()
    ended = run_without_extras(bare, "demo")
    assert ended.returncode == 2
    assert "needs rich: run" in ended.stderr


def test_python_m_milepost_is_the_command() -> None:
    """`python -m milepost` runs, and calls itself milepost."""
    ended = subprocess.run(
        [sys.executable, "-m", "milepost", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("Usage: milepost ")
    assert "demo" in ended.stdout


def test_the_version_is_told() -> None:
    """`milepost --version` answers."""
    result = CliRunner().invoke(commands, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("milepost, version ")


def test_the_help_of_every_command_fits_80_columns() -> None:
    """Nobody has to scroll sideways to read how a command is used."""
    for name in ("", *commands.commands, *(f"plot {kind}" for kind in plot.commands)):
        result = CliRunner().invoke(commands, [*name.split(), "--help"])
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines())) <= 80


def test_every_exit_code_is_in_the_help() -> None:
    """With what it means."""
    result = CliRunner().invoke(commands, ["--help"])
    listed = re.findall(r"^ +(\d+)  \S", result.output.partition("Exit codes:")[2], re.MULTILINE)
    assert [int(number) for number in listed] == list(ExitCode)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    """Through click: the line that the reference gives writes a script, and that script asks us."""
    environment = {**os.environ, "_MILEPOST_COMPLETE": f"{shell}_source"}
    command = "-c", "from milepost.__main__ import main; main()"
    script = warm_commands(warnings=None).run(*command, env=environment)
    if shell == "bash" and "bash" in script.stderr.lower():
        pytest.skip("click wants a newer bash")
    assert (script.returncode, "_MILEPOST_COMPLETE" in script.stdout) == (0, True)
    word = "hi" if shell == "fish" else "1"
    environment |= {"_MILEPOST_COMPLETE": f"{shell}_complete", "COMP_WORDS": "milepost hi", "COMP_CWORD": word}
    asked = warm_commands(warnings=None).run(*command, env=environment)
    assert "history" in asked.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("history FILE --run ", "run-2 run-1 run-0"),
        ("history FILE --run run-1", "run-1"),
        ("history --stage tr FILE", ""),
        ("resume FILE --stage t", "transform"),
        ("check FILE --stage l", "load"),
        ("verify FILE --run run-0", "run-0"),
    ],
)
def test_a_shell_completes_the_runs_and_stages_of_the_file(file: Path, words: str, found: str) -> None:
    """FILE stands before the option, which has no value yet; a shell asks with the cursor at the last word."""
    line = f"milepost {words.replace('FILE', str(file))}"
    environment = {**os.environ, "_MILEPOST_COMPLETE": "bash_complete", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(line.split(" ")) - 1)
    program = "from milepost.__main__ import main; main()"
    asked = warm_commands(warnings=None).run("-c", program, env=environment)
    assert " ".join(line.partition(",")[2] for line in asked.stdout.splitlines() if line.startswith("plain")) == found


def test_help_imports_neither_tables_nor_bars() -> None:
    """What is heavy comes with the command that needs it."""
    program = (
        "import sys\nfrom milepost.cli import commands\n"
        "heavy = {'rich.console', 'rich.progress', 'matplotlib', 'pandas', 'arro3', 'milepost.demo.run'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (InvalidArgumentError("--by", "x", "no column"), 2, "Error: --by is 'x': no column\n"),
        (StoreError("/a", "no such file"), 3, "Error: /a: no such file\n"),
        (StoreBusyError("/a", 5), 3, "Error: /a: another writer held the lock for 5 ms: try again"),
        (PermissionError(13, "Permission denied", "/a"), 3, "Error: /a: Permission denied\n"),
        (MilepostError("odd"), 1, "Error: odd\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    error: BaseException, exit_code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each family of errors has its exit code, and none shows a traceback."""

    def fail(*arguments: object, **options: object) -> bool:
        raise error

    monkeypatch.setattr("milepost.demo.run.run_demo", fail)
    result = CliRunner().invoke(commands, ["demo", "--input", "x.csv", "--event-time", "time"])
    assert result.exit_code == exit_code
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_error_that_nobody_foresaw_is_not_hidden() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError), explain_errors():
        raise ZeroDivisionError

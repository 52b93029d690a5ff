"""The exit codes of commands that answer: nothing there, no store, an answer that cannot be written."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from milepost import CheckpointStore
from milepost.cli import commands
from support.chains import chain
from support.command import COMMAND, ENVIRONMENT, process, run, warm_process


@pytest.mark.parametrize(
    "arguments",
    [
        ("latest", "--run", "run-x"),
        ("latest", "--stage", "x"),
        ("resume", "--stage", "x"),
        ("head", "--run", "run-x"),
        ("latest", "--as-of", "1960-01-01"),
        ("record", "--run", "run-1", "--stage", "milepost:run", "--offset", "1"),
        ("record", "--run", "run-1", "--stage", "load", "--offset", str(2**63)),
    ],
)
def test_nothing_recorded_there_is_exit_code_1_or_2(file: Path, arguments: tuple[str, ...]) -> None:
    """One sentence, and nothing on standard output; a time that no checkpoint can have is a wrong argument."""
    command, *options = arguments
    result = run(command, file, *options)
    assert result.exit_code == (2 if "--as-of" in options or command == "record" else 1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("command", ["runs", "stages", "latest", "resume", "history", "head", "verify"])
def test_a_file_that_is_no_store_is_exit_code_3(tmp_path: Path, command: str) -> None:
    """Missing, of something else, a directory: a sentence, and nothing is made."""
    (tmp_path / "notes.txt").write_text("not a store, but long enough to have a header of one hundred bytes " * 2)
    for name in ("missing", "notes.txt", "."):
        result = run(command, tmp_path / name)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: ")
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions")
def test_a_file_that_may_not_be_read_is_no_wrong_argument(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like any other file that cannot be opened, the command refuses it itself, with exit code 3. Root may read it."""
    looked = [(name, each) for name, command in commands.commands.items() for each in command.params]
    assert [name for name, each in looked if isinstance(each.type, click.Path) and each.type.readable] == []
    file.chmod(0)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    result = run("verify", file)
    assert result.exit_code == (0 if os.geteuid() == 0 else 3), result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [(("verify",), 0), (("export",), 0), (("latest", "--run", "run-x"), 1)],
)
def test_the_exit_code_is_the_answer_where_the_streams_are_closed(
    file: Path, arguments: tuple[str, ...], exit_code: int
) -> None:
    """As a cron job of a daemon may close them: no traceback, whose exit code would say that a check failed."""
    line = shlex.join([*COMMAND, arguments[0], str(file), *arguments[1:]])
    seen = subprocess.run(["sh", "-c", f"{line} >&-"], check=False, capture_output=True, env=ENVIRONMENT, timeout=60)
    assert (seen.returncode, b"Traceback" in seen.stderr, bool(seen.stderr)) == (exit_code, False, exit_code > 0)
    blind = subprocess.run(["sh", "-c", f"{line} <&- >&- 2>&-"], check=False, env=ENVIRONMENT, timeout=60)
    assert blind.returncode == exit_code


ANSWERS = {
    "runs": 0,
    "--help": 0,
    "--version": 0,
    "verify --help": 0,
    "check --json --within 1ms": 1,
    "latest --stage load --run run-1": 0,
}
"""Of each kind, with its exit code where it can be written."""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ANSWERS)
def test_an_answer_that_cannot_be_written_is_exit_code_3(file: Path, command: str) -> None:
    """One sentence, no traceback; also where the answer has another exit code."""
    arguments = [*command.split(), *([] if command.endswith(("help", "version")) else [str(file)])]
    assert warm_process(*arguments).returncode == ANSWERS[command]
    with Path("/dev/full").open("wb") as full:
        ended = process(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 3
    assert ended.stderr == b"Error: [Errno 28] No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that says that its reader has gone")
@pytest.mark.parametrize("command", ANSWERS)
def test_an_answer_that_nobody_reads_is_exit_code_141(file: Path, command: str) -> None:
    """Nothing on standard error."""
    arguments = [*command.split(), *([] if command.endswith(("help", "version")) else [str(file)])]
    reader, writer = os.pipe()
    os.close(reader)
    ended = process(*arguments, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


LONG_ANSWERS = [
    ("export",),
    ("export", "--format", "csv"),
    ("export", "--format", "parquet"),
    ("history", "--json"),
    ("sql", "SELECT * FROM checkpoint", "--json"),
    ("sql", "SELECT * FROM checkpoint", "--csv"),
]
UNBUFFERED = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # which would be cut off as well


@pytest.mark.skipif(os.name == "nt", reason="needs a limit for the size of a file")
@pytest.mark.parametrize("arguments", LONG_ANSWERS, ids=" ".join)
def test_an_answer_that_is_written_in_part_is_exit_code_3(path: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Also where Python does not buffer it: each write then is a system call, which says how much it has written."""
    import resource  # noqa: PLC0415 - not on Windows

    if "parquet" in arguments:
        pytest.importorskip("arro3.io")
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(1000))
    command, *options = arguments
    with (tmp_path / "answer").open("wb") as short:
        ended = process(
            command, path, *options, env=UNBUFFERED, capture_output=False, stdout=short, stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        )  # fmt: skip
    assert (ended.returncode, (tmp_path / "answer").stat().st_size) == (3, 8192)
    assert ended.stderr == b"Error: [Errno 27] File too large\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that says that its reader has gone")
def test_an_answer_that_is_read_in_part_is_exit_code_141(path: Path) -> None:
    """As `head` does it, of an answer longer than a pipe; also where Python does not buffer it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(2000))
    for environment in (ENVIRONMENT, UNBUFFERED):
        child = subprocess.Popen(
            [*COMMAND, "export", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
        )
        assert child.stdout is not None
        child.stdout.read(1)
        child.stdout.close()
        child.stdout = None
        assert (child.communicate(timeout=60)[1], child.returncode) == (b"", 141)

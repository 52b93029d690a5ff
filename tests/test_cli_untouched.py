"""No command that reads changes a byte of the file or of its directory, whatever is going on around it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from milepost.cli import commands
from support.chains import chain, entry
from support.command import READING, reading, run, watching
from support.warm import warm_commands, warm_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

Listing = dict[str, tuple[str, int, int]]


def listing(directory: Path) -> Listing:
    """Every file of a directory: what is in it, its mode, and when it was last written."""
    return {
        each.name: (hashlib.sha256(each.read_bytes()).hexdigest(), each.stat().st_mode, each.stat().st_mtime_ns)
        for each in directory.iterdir()
    }


def closed(path: Path) -> Iterator[None]:
    """Nobody else has it."""
    CheckpointStore(path).close()
    with CheckpointStore(path) as store:
        store.append_many(chain(20))
    yield


def written(path: Path) -> Iterator[None]:
    """A writer holds it, with entries that are in its WAL only."""
    program = (
        "import sys\nfrom support.chains import chain\nfrom milepost import CheckpointStore\n"
        "store = CheckpointStore(sys.argv[1])\nstore.append_many(chain(20))\nprint('ready', flush=True)\n"
        "input()\nstore.close()"
    )
    writer = warm_programs().talk("-c", program, path, cwd=Path(__file__).parent)
    assert writer.stdout.readline() == b"ready\n"
    yield
    writer.communicate(b"\n")


def killed(path: Path) -> Iterator[None]:
    """Its writer was killed, and nobody has tidied up."""
    program = (
        "import os, sys\nfrom support.chains import chain\nfrom milepost import CheckpointStore\n"
        "store = CheckpointStore(sys.argv[1])\nstore.append_many(chain(20))\nos.kill(os.getpid(), 9)"
    )
    ended = warm_programs().run("-c", program, path, cwd=Path(__file__).parent)
    assert ended.returncode == -signal.SIGKILL
    yield


def test_every_command_is_known_to_read_or_to_write() -> None:
    """A new one has to be entered here."""
    others = {
        "plot",
        "report",
        "import",
        "backup",
        "archive",
        "ship",
        "restore",
        "branch",
        "record",
        "watch",
        "demo",
    }
    assert {command[0] for command in READING} | others == set(commands.commands)


@pytest.mark.parametrize("around", [closed, written, killed])
def test_a_command_that_reads_changes_nothing(path: Path, around: object) -> None:
    """Not a byte, a mode or a time of the file or of anything beside it; and every entry is read."""
    assert callable(around)
    for _ in around(path):
        before = listing(path.parent)
        assert (len(before) == 1) == (around is closed)
        for command in reading(path):
            result = run(*command)
            assert result.exit_code == 0, (command, result.output)
            assert listing(path.parent) == before, command
        assert len(run("history", path).stdout.splitlines()) == 21
        assert warm_commands().run("-m", "milepost", "verify", path).returncode == 0
        assert listing(path.parent) == before


@pytest.mark.parametrize("around", [*(pytest.param(each, marks=pytest.mark.long) for each in (closed, written)), killed])
def test_a_report_and_a_watch_change_nothing(path: Path, tmp_path_factory: pytest.TempPathFactory, around: object) -> None:
    """What they make is somewhere else, or on the screen."""
    assert callable(around)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for _ in around(path):
        before = listing(path.parent)
        assert run("report", path, elsewhere / "report.html", "--verify").exit_code == 0
        assert listing(path.parent) == before
        with watching(path, "--interval", "100ms") as wait_for:
            wait_for("load")
            time.sleep(0.3)
        assert listing(path.parent) == before


def test_a_backup_changes_nothing_but_adds_the_copy(path: Path) -> None:
    """Of a file that a writer has just closed."""
    for _ in closed(path):
        before = listing(path.parent)
        assert run("backup", path, path.parent / "copy").exit_code == 0
        after = listing(path.parent)
        del after["copy"]
        assert after == before


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_directory_is_enough(path: Path) -> None:
    """No command that reads needs to write anywhere near the file."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        for command in reading(path):
            if "3" not in command:  # a history that is followed to its third entry
                assert run(*command).exit_code == 0, command
    finally:
        path.parent.chmod(0o700)

"""The command `branch`: the one that writes to a file that is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore, Watermark
from milepost.cli.exit_code import ExitCode
from support.chains import entry
from support.command import answer, run

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))


@pytest.fixture
def branched(path: Path) -> Path:
    """A run with two stages, one of them with cursors, of which the first is gone."""
    with CheckpointStore(path, durability="normal", clock=iter(range(1, 99)).__next__) as store:
        for number in (1, 2, 3):
            store.advance("old", "load", Watermark(number, 0), idempotency_key=f"step-{number}", cursor=number)
        store.advance("old", "sort", Watermark(7, 0), idempotency_key="sort")
    return path


def test_branch_does_what_the_store_does(branched: Path) -> None:
    """It says how many stages, and a second time that they were there."""
    assert answer("branch", branched, "old", "new") == "run 'new': 2 stages branched from run 'old'\n"
    again = answer("branch", branched, "old", "new")
    assert again == "run 'new': 0 stages branched from run 'old', 2 stages branched before\n"
    with CheckpointStore.open_readonly(branched) as store:
        assert [(e.stage, e.sequence) for e in store.history("new")] == [("load", 3), ("sort", 1)]
        assert store.cursor("load", run_id="new") == 3
        store.verify().raise_if_broken()


def test_branch_takes_a_stage_and_a_time(branched: Path) -> None:
    """And gives a receipt to programs."""
    found = json.loads(answer("branch", branched, "old", "new", "--stage", "load", "--as-of", "2", "--json"))
    with CheckpointStore.open_readonly(branched) as store:
        head = store.head()
        assert found == {"appended": 1, "duplicates": 0, "position": head.entries, "signature": head.signature}
        assert [(e.stage, e.sequence) for e in store.history("new")] == [("load", 2)]
    answer("branch", branched, "old", "newer", "--stage", "load", "--as-of", "1970-01-01T00:00:00.003Z")
    with CheckpointStore.open_readonly(branched) as store:
        assert [(e.stage, e.sequence) for e in store.history("newer")] == [("load", 3)]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "why"),
    [
        (("none", "new"), ExitCode.CHECK_FAILED, "no checkpoint in run 'none'"),
        (("old", "old"), ExitCode.WRONG_INPUT, "new run is 'old': must be another run than the one to branch from\n"),
        (("old", "new", "--stage", "none"), ExitCode.CHECK_FAILED, "no checkpoint of stage 'none'"),
        (("old", "new", "--stage", "milepost:run"), ExitCode.WRONG_INPUT, "must not begin with 'milepost:'"),
        (("old", "new", "--as-of", "1"), ExitCode.CHECK_FAILED, "the cursor of stage 'load'"),
        (("old", "new", "--as-of", "noon"), ExitCode.WRONG_INPUT, "'noon' is no time"),
        (("old", "taken"), ExitCode.CHECK_FAILED, "run 'taken' has stage 'sort' already"),
    ],
)
def test_a_branch_that_cannot_be_made_is_explained(
    branched: Path, arguments: tuple[str, ...], exit_code: ExitCode, why: str
) -> None:
    """In one sentence, and nothing is written."""
    with CheckpointStore(branched, durability="normal") as store:
        store.append(entry(1, run_id="taken", stage="sort"))
    found = run("branch", branched, *arguments)
    assert (found.exit_code, found.stdout) == (exit_code, "")
    assert found.stderr.startswith("Error: ")
    assert why in found.stderr
    assert found.stderr.count("\n") == 1
    with CheckpointStore.open_readonly(branched) as store:
        assert len(store) == 5


def test_branch_makes_no_file(path: Path) -> None:
    """A name with a typo is no new store."""
    found = run("branch", path, "old", "new")
    assert found.exit_code == ExitCode.NO_FILE
    assert list(path.parent.iterdir()) == []


def test_branch_takes_the_key_of_a_keyed_chain(path: Path, tmp_path: Path) -> None:
    """Without it, or with another one, nothing is written."""
    with CheckpointStore(path, durability="normal", hmac_key=KEY) as store:
        store.append(entry(1, run_id="old"))
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "other").write_bytes(KEY[::-1])
    for options in ((), ("--key-file", tmp_path / "other")):
        assert run("branch", path, "old", "new", *options).exit_code == ExitCode.WRONG_KEY
    answer("branch", path, "old", "new", "--key-file", tmp_path / "key")
    with CheckpointStore.open_readonly(path, hmac_key=KEY) as store:
        assert store.verify().ok
        assert len(store) == 2


def test_names_that_a_terminal_would_obey_are_written_out(path: Path) -> None:
    """As everywhere."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id="\x1b[31m"))
    printed = answer("branch", path, "\x1b[31m", "a\nb")
    assert printed == r"run 'a\nb': 1 stage branched from run '\x1b[31m'" + "\n"

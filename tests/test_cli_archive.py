"""The command `archive`: a dry run, unless it is told to go on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore
from milepost.cli.exit_code import ExitCode
from support.chains import entry
from support.command import answer, run

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000


@pytest.fixture
def month(path: Path) -> Path:
    """A checkpoint a day in January 1970."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([entry(day, at_ms=(day - 1) * DAY_MS) for day in range(1, 32)])
    return path


def test_without_yes_it_only_tells_what_it_would_do(month: Path) -> None:
    """No byte is changed, and no file is made."""
    before = month.read_bytes()
    told = answer("archive", month, month.with_name("a"), "--before", "1970-01-11")
    assert told.splitlines()[0].split("  ")[-1].strip() == "10 entries until 1970-01-10T00:00:00Z"
    assert "nothing was changed: add --yes to do it" in told
    assert month.read_bytes() == before
    assert [file.name for file in month.parent.iterdir()] == [month.name]


def test_with_yes_it_does_what_the_store_does(month: Path) -> None:
    """And says what it has moved, in words and for programs."""
    target = month.with_name("a")
    told = answer("archive", month, target, "--before", "1970-01-11", "--yes")
    assert told.startswith("archived  10 entries until 1970-01-10T00:00:00Z\n")
    with CheckpointStore.open_readonly(month) as store, CheckpointStore.open_readonly(target) as archived:
        assert store.base == archived.head()
        assert (store.base.entries, len(store), len(archived)) == (10, 23, 10)  # with the archive's own entry
        head = store.head()
    found = json.loads(answer("archive", month, month.with_name("b"), "--before", str(head), "--yes", "--json"))
    assert found == {"archived": True, "moved": 21, "kept": 2, "base": str(head)}


def test_a_dry_run_counts_what_moves_and_what_stays(month: Path) -> None:
    """Before the first archive, behind one, and without anything to do."""
    with CheckpointStore(month) as store:
        store.append_many(entry(day, run_id="other", at_ms=(day % 31) * DAY_MS) for day in range(32, 40))
    for number, before in enumerate(("1970-01-11", "1970-01-11", "1970-01-21", "1970-01-21")):
        said = json.loads(answer("archive", month, month.with_name(f"{number}"), "--before", before, "--json"))
        with CheckpointStore.open_readonly(month) as store:
            entries = len(store)
        done = json.loads(answer("archive", month, month.with_name(f"{number}"), "--before", before, "--yes", "--json"))
        with CheckpointStore.open_readonly(month) as store:
            kept = sum(receipt.position <= store.base.entries for receipt, _, _ in store.receipts())
            moved = entries + (number % 2 == 0) - len(store)  # with the archive's own entry
        assert (said["moved"], said["kept"]) == (done["moved"], done["kept"]) == (moved, kept)


def test_verify_says_how_much_is_in_archives_and_reads_them(month: Path) -> None:
    """A number of entries is a state and no failure."""
    target = month.with_name("a")
    answer("archive", month, target, "--before", "1970-01-11", "--yes")
    assert "not read  10 of them, in archives: give each with --archive\n" in answer("verify", month)
    assert "not read" not in answer("verify", month, "--archive", target)
    assert json.loads(answer("verify", month, "--json"))["elsewhere"] == 10
    found = run("verify", month, "--archive", month.with_name("b"), "--json")
    assert found.exit_code == ExitCode.CHECK_FAILED
    assert [fault["file"] for fault in json.loads(found.stdout)["faults"]] == [str(month.with_name("b"))]


def test_runs_whose_entries_are_archived_are_not_said_to_differ(month: Path) -> None:
    """They cannot be compared, which is another exit code than that of a difference."""
    answer("archive", month, month.with_name("a"), "--before", "1970-01-11", "--yes")
    result = run("compare", month, "run-7", "run-7")
    assert (result.exit_code, result.stdout) == (ExitCode.WRONG_INPUT, "")
    assert "are in an archive" in result.stderr


def test_an_archive_that_cannot_be_read_is_told_in_words_of_the_command_line(month: Path) -> None:
    """No class of Python; and its name stays as it is, also if it looks like an argument."""
    answer("archive", month, month.with_name("a"), "--before", "1970-01-11", "--yes")
    missing = month.with_name("new_run_id")
    told = answer("verify", month, "--archive", missing, exit_code=1)
    assert f"  {missing}: the archive cannot be read: no such file: check the path\n" in told
    (fault,) = json.loads(answer("verify", month, "--archive", missing, "--json", exit_code=1))["faults"]
    assert fault["explanation"] == "the archive cannot be read: no such file: check the path"


def test_nothing_to_archive_is_told_and_is_no_failure(month: Path) -> None:
    """As for a job that runs each month."""
    answer("archive", month, month.with_name("a"), "--before", "1970-01-11", "--yes")
    told = answer("archive", month, month.with_name("b"), "--before", "1970-01-11", "--yes")
    assert told == "nothing to archive: no entry was recorded before, or all of them are archived already\n"
    assert not month.with_name("b").exists()


@pytest.mark.parametrize(
    ("target", "before", "exit_code", "why"),
    [
        ("a", "noon", ExitCode.WRONG_INPUT, "'noon' is no time"),
        ("a", f"31:{'ab' * 32}", ExitCode.WRONG_INPUT, "is no head of this chain"),
        ("orders.milepost", "1970-01-11", ExitCode.NO_FILE, "the file exists already"),
        ("missing/a", "1970-01-11", ExitCode.NO_FILE, "No such file or directory"),
    ],
)
def test_an_archive_that_cannot_be_made_is_explained(
    month: Path, target: str, before: str, exit_code: ExitCode, why: str
) -> None:
    """In one sentence, and nothing is moved."""
    found = run("archive", month, month.parent / target, "--before", before, "--yes")
    assert why in found.stderr
    assert (found.exit_code, found.stdout) == (exit_code, "")
    with CheckpointStore.open_readonly(month) as store:
        assert len(store) == 31


@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_workers_are_refused_as_by_verify_also_in_a_dry_run(month: Path, yes: tuple[str, ...]) -> None:
    """A sentence, and nothing is done; any sound number does what one does."""
    wrong = run("archive", month, month.with_name("a"), "--before", "1970-01-11", "--workers", "0", *yes)
    assert (wrong.exit_code, wrong.stdout) == (ExitCode.WRONG_INPUT, "")
    assert wrong.stderr == run("verify", month, "--workers", "0").stderr
    told = answer("archive", month, month.with_name("a"), "--before", "1970-01-11", "--workers", "2", *yes)
    assert "10 entries until 1970-01-10T00:00:00Z" in told
    assert month.with_name("a").exists() == bool(yes)


def test_what_is_recorded_while_the_command_runs_stays_as_it_was_told(month: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a time means is settled once."""
    plan = CheckpointStore._plan_archive

    def overtaken(store: CheckpointStore, before: Any) -> Any:
        found = plan(store, before)
        with CheckpointStore(month) as other:
            other.append(entry(32, at_ms=40 * DAY_MS))
        return found

    monkeypatch.setattr(CheckpointStore, "_plan_archive", overtaken)
    found = json.loads(answer("archive", month, month.with_name("a"), "--before", "2000", "--yes", "--json"))
    with CheckpointStore.open_readonly(month) as store, CheckpointStore.open_readonly(month.with_name("a")) as archived:
        assert (str(store.base), found["moved"], found["kept"]) == (found["base"], 30, 1)
        assert (len(archived), len(store)) == (31, 3)

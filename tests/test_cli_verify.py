"""The command `verify`: intact is 0, a fault is 1, and on a terminal one sees it work."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, Head
from support.chains import chain, entry
from support.command import answer, on_terminal, run, warm_process
from support.tampering import tamper

if TYPE_CHECKING:
    from pathlib import Path

NOTE = "note  a row changed together with its signature shows at the row after it"


def test_an_intact_chain_is_exit_code_0_and_says_its_head(file: Path) -> None:
    """For people and for programs."""
    head = Head.parse(answer("head", file))
    assert answer("verify", file) == f"intact  30 entries\nhead    {head}\n"
    assert json.loads(answer("verify", file, "--json", "--workers", "2")) == {
        "ok": True,
        "entries": 30,
        "elsewhere": 0,
        "signature": head.signature,
        "faults": [],
        "unchecked": [],
    }


def test_every_fault_is_named_with_exit_code_1(file: Path) -> None:
    """In the words of the library; programs get the whole signatures too."""
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position IN (4, 20)")
    with CheckpointStore.open_readonly(file) as store:
        faults = store.verify().faults
    assert [fault.position for fault in faults] == [4, 20]
    shown = answer("verify", file, exit_code=1).splitlines()
    assert shown == ["broken  2 faults in 30 entries", *[f"  {fault}" for fault in faults], NOTE]
    assert not re.search("[0-9a-f]{64}", " ".join(shown))
    found = json.loads(answer("verify", file, "--json", exit_code=1))
    assert found["ok"] is False
    assert found["faults"] == [
        {
            "kind": "link",
            "position": fault.position,
            "run_id": fault.run_id,
            "stage": fault.stage,
            "sequence": fault.sequence,
            "explanation": fault.explanation,
            "expected": fault.expected,
            "found": fault.found,
            "file": None,
        }
        for fault in faults
    ]


def test_a_changed_row_is_told_by_run_stage_and_sequence(path: Path) -> None:
    """In a sentence that a person understands; on a terminal it breaks between words."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(4000, run_id="nightly"))
    tamper(path, "UPDATE entry SET offset = offset + 1 WHERE position = 3141")
    said = "position 3,141: the row of run 'nightly', stage 'load', sequence 3,141 was changed after it was recorded"
    assert answer("verify", path, exit_code=1).splitlines() == ["broken  1 fault in 4,000 entries", f"  {said}", NOTE]
    exit_code, screen = on_terminal("verify", path, columns=60)
    assert exit_code == 1
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[\d;?]*\w", "", screen).splitlines()]
    first = next(index for index, line in enumerate(lines) if line.startswith("  position"))
    assert max(map(len, lines[first : first + 2])) <= 60
    assert " ".join(" ".join(lines[first : first + 2]).split()).startswith(said)


def test_of_many_faults_the_first_are_told_and_the_rest_is_counted(path: Path) -> None:
    """A run that was renamed has one for each entry; a program gets them all."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(300, run_id="nightly"))
    tamper(path, "UPDATE run SET run_id = 'other'")
    lines = answer("verify", path, exit_code=1).splitlines()
    assert lines[0] == "broken  300 faults in 300 entries"
    assert len([line for line in lines if line.startswith("  position")]) == 20
    assert "  and 280 more faults: --json lists them all" in lines
    assert len(json.loads(answer("verify", path, "--json", exit_code=1))["faults"]) == 300


def test_a_head_kept_elsewhere_is_looked_for(file: Path, tmp_path: Path) -> None:
    """The chain may have grown since; another chain, or a shorter one, is a fault."""
    kept = answer("head", file)
    with CheckpointStore(file, durability="normal") as store:
        store.append(entry(1, run_id="later"))
    answer("verify", file, "--expected", kept)
    assert answer("verify", file, "--trusted", kept).startswith("intact  31 entries")
    other = tmp_path / "other"
    with CheckpointStore(other, durability="normal") as store:
        store.append_many(chain(30))
    for option in ("--expected", "--trusted"):
        told = answer("verify", other, option, kept, exit_code=1)
        assert re.search(r"position 30: the chain has the signature \w{12}… here, and the expected head \w{12}…: ", told)
    told = answer("verify", file, "--run", "run-1", "--expected", kept, exit_code=1)
    assert "position 30: the chain of run 'run-1' itself has 10 entries, and the expected head is that of 30 entries" in told


def test_a_keyed_chain_is_judged_with_its_key_only(path: Path, tmp_path: Path) -> None:
    """Without it, or with another, 4; with it 0, or 1 where a fault is found."""
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_bytes(b"\x00hunter2\n")
    other.write_bytes(b"\x00hunter2")
    with CheckpointStore(path, durability="normal", hmac_key=key.read_bytes()) as store:
        store.append_many(chain(10))
        head = store.head()
    assert answer("verify", path, "--key-file", key, "--expected", str(head)).startswith("intact  10 entries\n")
    unjudged = run("verify", path)
    assert (unjudged.exit_code, unjudged.stderr) == (4, "")
    assert unjudged.stdout.startswith("not verified  10 entries\n  its chain is keyed, and no key was given: ")
    assert "--key-file" in unjudged.stdout
    judged = run("verify", path, "--json")
    assert judged.exit_code == 4
    assert [fault["kind"] for fault in json.loads(judged.stdout)["faults"]] == ["key"]
    wrong = run("verify", path, "--key-file", other)
    assert (wrong.exit_code, wrong.stdout) == (4, "")
    tamper(path, "UPDATE entry SET offset = offset + 1 WHERE position = 4")
    judged_with_key = answer("verify", path, "--key-file", key, exit_code=1)
    assert "position 4: the row of run 'run-7', stage 'load', sequence 4 was changed" in judged_with_key
    assert NOTE not in judged_with_key  # nobody computes a signature without the key


def test_a_key_file_has_to_be_there_and_have_a_key(file: Path, tmp_path: Path) -> None:
    """Exit code 3 and 2; and 4 where a chain without a key is given one."""
    (tmp_path / "empty").touch()
    (tmp_path / "key").write_bytes(b"hunter2")
    for name, exit_code in (("none", 3), ("empty", 2), ("key", 4)):
        result = run("verify", file, "--key-file", tmp_path / name)
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert "hunter2" not in result.stderr


def test_tables_that_cannot_be_checked_are_named_and_no_fault(file: Path) -> None:
    """A terminal obeys nothing in their names."""
    connection = apsw.Connection(str(file))
    connection.create_collation("german", lambda one, other: (one > other) - (one < other))
    for name in ("sink", "\x1b[31m\u202esink"):
        connection.execute(f'CREATE TABLE "{name}" (x TEXT COLLATE german PRIMARY KEY)')
    connection.close()
    assert answer("verify", file).splitlines()[2:] == [
        "not checked  2 tables that only another program can check",
        "  sink",
        "  \\x1b[31m\\u202esink",
    ]
    found = answer("verify", file, "--json", "--workers", "2")
    assert found.isascii()
    assert json.loads(found)["ok"] is True
    assert json.loads(found)["unchecked"] == ["sink", "\x1b[31m\u202esink"]
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position = 4")
    assert answer("verify", file, exit_code=1).splitlines()[-3].startswith("not checked  2 tables")


@pytest.mark.parametrize(
    "options",
    [
        ["--expected", "12:abc"],
        ["--trusted", ""],
        ["--workers", "0"],
        ["--trusted", f"0:{'0' * 64}", "--run", "a"],
        ["--expected", f"9:{'f' * 64}", "--expected", f"0:{'0' * 64}"],  # of which the first was passed over
    ],
)
def test_a_wrong_option_is_exit_code_2(file: Path, options: list[str]) -> None:
    """One sentence, before any output."""
    result = run("verify", file, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_a_terminal_shows_how_fast_it_goes(path: Path) -> None:
    """On standard error, with a rate; a pipe, or a file, sees nothing of it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3000))
    exit_code, screen = on_terminal("verify", path)
    assert exit_code == 0
    assert re.search(r"3,000 of 3,000 .*[1-9][\d,]* a second", screen)
    assert warm_process("verify", path).stderr == b""
    assert "a second" not in on_terminal("verify", path, "--run", "typo")[1], "nothing of what was not begun"
    assert "\x1b[3" not in on_terminal("verify", path, NO_COLOR="1")[1]


@pytest.mark.parametrize(
    "command",
    [["verify", "FILE", "--run"], ["history", "FILE", "--run"], ["latest", "FILE", "--run"], ["resume", "FILE", "--run"],
     ["export", "FILE", "--run"], ["history", "FILE", "--stage"], ["resume", "FILE", "--stage"]],
)  # fmt: skip
def test_a_name_that_was_never_recorded_is_exit_code_1(path: Path, command: list[str]) -> None:
    """And a sentence; nothing on standard output."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    result = run(*[str(path) if word == "FILE" else word for word in command], "TYPO")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "TYPO" in result.stderr

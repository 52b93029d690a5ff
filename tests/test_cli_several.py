"""The commands that take several files: a row for each, one JSON document, and the worst exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from milepost import Checkpoint, CheckpointStore, Watermark
from milepost.cli import argument
from milepost.cli.check import check
from support.chains import chain, entry
from support.command import answer, on_terminal, run
from support.tampering import tamper
from test_cli_hostile_names import HOSTILE, obeyed

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE = 60_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of each kind: fresh, stalled, empty, forged, keyed, not a store."""
    folder = tmp_path_factory.mktemp("made")
    now = time.time_ns() // 1_000_000
    for name, age in (("fresh", MINUTE), ("other", MINUTE), ("stalled", 120 * MINUTE)):
        with CheckpointStore(folder / name, durability="normal") as store:
            store.append(Checkpoint("nightly", "load", 1, Watermark(500, now - age), "a", now - age))
            store.append(Checkpoint("nightly", "send", 1, Watermark(400, 0), "a", now - age))
    CheckpointStore(folder / "empty", durability="normal").close()
    with CheckpointStore(folder / "forged", durability="normal") as store:
        store.append_many([entry(number, at_ms=now - MINUTE) for number in range(1, 9)])
    tamper(folder / "forged", "UPDATE entry SET offset = 9999 WHERE position = 5")
    with CheckpointStore(folder / "keyed", durability="normal", hmac_key=b"secret") as store:
        store.append_many([entry(number, at_ms=now - MINUTE) for number in range(1, 4)])
    (folder / "notes").write_text("not a store, but long enough to have a header of one hundred bytes " * 2)
    (folder / "key").write_bytes(b"secret")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a copy of them, and one that is missing."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


WITHIN = ("--within", "1h")


@pytest.mark.parametrize(
    ("command", "files", "exit_code"),
    [
        (("summary",), "fresh other", 0),
        (("summary",), "fresh stalled empty forged keyed", 0),
        (("summary",), "fresh missing", 3),
        (("summary",), "notes fresh missing", 3),
        (("check", *WITHIN), "fresh other", 0),
        (("check", *WITHIN), "fresh empty", 5),
        (("check", *WITHIN), "fresh stalled empty", 1),
        (("check", *WITHIN), "fresh missing", 3),
        (("check", *WITHIN), "empty missing", 3),
        (("check", *WITHIN), "missing stalled", 1),
        (("check", *WITHIN), "missing notes", 3),
        (("check", *WITHIN, "--stage", "send"), "fresh keyed", 5),
        (("check", "--lag", "1h"), "fresh other", 1),
        (("check",), "fresh other", 2),
        (("verify",), "fresh empty stalled", 0),
        (("verify",), "fresh forged", 1),
        (("verify",), "fresh keyed", 4),
        (("verify",), "fresh missing", 3),
        (("verify",), "keyed missing", 3),
        (("verify",), "keyed missing forged", 1),
        (("verify", "--key-file", "key"), "keyed fresh", 4),
        (("verify", "--key-file", "key"), "keyed keyed", 0),
        (("verify", "--run", "nightly"), "fresh other", 2),
        (("verify", "--trusted", f"0:{'0' * 64}"), "fresh other", 2),
    ],
)
def test_the_exit_code_is_the_worst_of_all(here: Path, command: tuple[str, ...], files: str, exit_code: int) -> None:
    """Also as JSON, which is one document with a record for each file in order."""
    del here
    name, *options = command
    result = run(name, *files.split(), *options)
    assert result.exit_code == exit_code, result.output
    if exit_code != 2:
        document = json.loads(run(name, "--json", *files.split(), *options).stdout)
        assert [record["file"] for record in document["files"]] == list(dict.fromkeys(files.split()))
        broken = [record["file"] for record in document["files"] if record["error"] is not None]
        assert broken == [
            file for file in files.split() if file in {"missing", "notes"} or (file == "fresh" and "key" in command)
        ]
        for file in files.split():
            assert re.search(rf"^{file} ", result.stdout, re.MULTILINE), "each has a row"
        for file in broken:
            assert re.search(rf"^{file} .*unreadable", result.stdout, re.MULTILINE)
            assert len(re.findall(rf"^{file} ", result.stdout, re.MULTILINE)) == 2, "with the reason below"


def test_one_file_is_shown_as_always(here: Path) -> None:
    """In each command: no table of files, and no list in JSON."""
    del here
    assert answer("summary", "fresh").startswith(str(Path("fresh").resolve()))
    assert "files" not in json.loads(answer("summary", "fresh", "--json"))
    assert answer("check", "fresh", *WITHIN).startswith("ok: 2 stages\n")
    assert set(json.loads(answer("check", "fresh", *WITHIN, "--json"))) == {"status", "stages"}
    assert answer("verify", "fresh").startswith("intact  2 entries\n")
    assert "file" not in json.loads(answer("verify", "fresh", "--json"))
    result = run("summary", "missing")
    assert (result.exit_code, result.stdout) == (3, "")


def test_each_record_is_that_of_its_file_alone(here: Path) -> None:
    """With the name of the file and no error before it."""
    del here
    for command in (("summary",), ("check", *WITHIN), ("verify",)):
        files = json.loads(run(*command, "--json", "fresh", "stalled", "forged").stdout)["files"]
        for record in files:
            alone = json.loads(run(*command, "--json", record["file"]).stdout)
            del record["file"], record["error"]
            assert _timeless(record) == _timeless(alone)


def _timeless(record: Any) -> Any:
    """Without what depends on the moment."""
    if isinstance(record, dict):
        return {name: _timeless(each) for name, each in record.items() if name not in {"age_ms", "lag_ms", "stands_out"}}
    return [_timeless(each) for each in record] if isinstance(record, list) else record


@pytest.mark.parametrize(
    ("files", "first"),
    [
        ("fresh other", "ok: 4 stages in 2 files"),
        ("fresh stalled", "stalled: 'load' of 'stalled' for 2 h, 'send' of 'stalled' for 2 h"),
        (
            "fresh stalled missing notes",
            "stalled: 'load' of 'stalled' for 2 h, 'send' of 'stalled' for 2 h; 2 files unreadable",
        ),
        ("fresh empty", "nothing yet: 'empty'"),
        ("empty missing", "unreadable: 'missing'"),
        ("missing a b c d", "unreadable: 'missing', 'a', 'b' and 2 more files"),
        ("missing notes", "unreadable: 'missing', 'notes'"),
    ],
)
def test_the_first_line_of_a_check_says_the_worst(here: Path, files: str, first: str) -> None:
    """And which file it is."""
    del here
    assert run("check", *WITHIN, *files.split()).stdout.splitlines()[0] == first


def test_heads_are_given_with_their_files(here: Path) -> None:
    """One that its chain does not contain is told; one of no file, or without its file, is refused."""
    del here
    head, no_head = answer("head", "fresh").strip(), f"2:{'ab' * 32}"
    given = ("--expected", f"fresh={head}", "--expected")
    assert run("verify", "fresh", "other", *given, f"other={no_head}").exit_code == 1
    assert run("verify", "fresh", "other", *given[:2], "--workers", "2").exit_code == 0
    for wrong in (f"missing={head}", head, "other=nonsense"):
        assert run("verify", "fresh", "other", *given, wrong).exit_code == 2
    assert run("verify", "fresh", "--expected", f"fresh={head}").exit_code == 0
    assert run("verify", "fresh", "--expected", f"other={head}").exit_code == 2


def test_faults_and_what_stands_out_are_told_with_the_file(here: Path) -> None:
    """Below the table, each in a sentence."""
    del here
    assert "forged: position 5" in run("verify", "fresh", "forged").stdout
    shown = run("verify", "fresh", "keyed").stdout
    assert shown.startswith("2 files, 1 of them not verified\n")
    assert "BROKEN" not in shown
    assert "  keyed: its chain is keyed, and no key was given: give the one it was made with, by --key-file\n" in shown
    with CheckpointStore("nightly", durability="normal") as store:
        run_ = store.run("night")
        with pytest.raises(KeyError), run_:
            store.append_many(chain(2))
            raise KeyError
    assert "nightly: run 'night' failed with KeyError" in answer("summary", "nightly", "fresh")


def test_a_report_of_several_files_is_one_page(here: Path) -> None:
    """With all in a table, and the pictures of each; one that cannot be read is named on it, and ends it with its code."""
    del here
    result = run("report", "fresh", "missing", "forged", "page.html")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "missing: no such file" in result.stderr
    page = Path("page.html").read_text()
    assert page.count("<svg") == 8
    for part in ("no such file", "BROKEN, 1 fault", "forged: position 5"):
        assert page.count(part) == 1
    assert page.count("✗ 3 files, 1 of them unreadable, 1 broken") == 1, "at the top, and not what the summaries say alone"
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)), "each id once"
    assert page.index("forged</p>") < page.index("fresh</p>"), "what is wrong comes first"
    assert run("report", "empty", "./empty", "page.html").exit_code == 3
    assert answer("report", "empty", "./empty", "page.html", "--overwrite", "--no-verify") == ""
    assert "Not verified" in Path("page.html").read_text()
    assert run("report", "missing", "notes", "none.html").exit_code == 3
    assert "2 files, 2 of them unreadable" in Path("none.html").read_text()


def test_a_report_of_many_files_shows_some_and_counts_the_rest(here: Path) -> None:
    """It stays a page that one can send."""
    for number in range(12):
        (here / f"node-{number}").write_bytes(Path("empty").read_bytes())
    answer("report", *(f"node-{number}" for number in range(12)), "page.html")
    page = Path("page.html").read_text()
    assert "and 2 more files" in page
    assert page.count('class="mp-title"') == 1 + 10, "of the page, and of each file that is shown"


COMMANDS: list[Callable[..., list[str]]] = [
    lambda *files: ["summary", *files],
    lambda *files: ["check", "--within", "36500d", *files],
    lambda *files: ["verify", *files],
]


@pytest.mark.parametrize("command", COMMANDS, ids=["summary", "check", "verify"])
def test_a_table_of_files_fits_80_columns(here: Path, command: Callable[..., list[str]]) -> None:
    """Long names wrap, and no line is wider than the screen."""
    long = here / ("a-directory-with-a-long-name/" * 3) / "orders.milepost"
    long.parent.mkdir(parents=True)
    long.write_bytes(Path("fresh").read_bytes())
    exit_code, screen = on_terminal(*command("fresh", str(long), "missing", "stalled"), NO_COLOR="1")
    assert exit_code == 3
    screen = screen[screen.rindex("\r") :] if "\r" in screen else screen
    lines = [line for line in screen.splitlines() if not line.startswith(("milepost: no room", "\x1b"))]
    assert [line for line in lines if len(line) > 80] == []
    assert "unreadable" in screen


@pytest.mark.parametrize("command", COMMANDS, ids=["summary", "check", "verify"])
def test_nothing_in_the_name_of_a_file_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., list[str]]
) -> None:
    """Sound or broken, in a pipe or as JSON, which has it as it is."""
    monkeypatch.chdir(tmp_path)
    names = [name for name in HOSTILE if "/" not in name and len(os.fsencode(name)) <= 200 and name != " "]
    for name in names:
        with CheckpointStore(Path(name), durability="normal") as store:
            store.append(entry(1))
    broken = f"{names[0]}-broken\u202e"
    Path(broken).touch()
    name, *rest = command("--", *names, broken)
    for result in (run(name, *rest), run(name, "--json", *rest)):
        assert result.exit_code == 3
        assert obeyed(result.output) <= {"\n"}
    found = json.loads(result.stdout)["files"]
    assert [record["file"] for record in found] == [*names, broken]
    assert result.stdout.isascii()


def test_nothing_in_the_name_of_a_file_is_obeyed_by_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page of several files."""
    monkeypatch.chdir(tmp_path)
    for name in ("<script>alert(1)<", '"><img src=x onerror=alert(1)>', "\x1b[2J\u202e"):
        CheckpointStore(Path(name), durability="normal").close()
    Path("<svg onload=alert(1)>").touch()
    files = sorted(each.name for each in tmp_path.iterdir())
    assert run("report", *files, "page.html").exit_code == 3
    page = Path("page.html").read_text()
    assert re.findall(r"<(?:script|img|a|iframe|link)\b", page) == []
    assert "onload=alert(1)>" not in page
    assert obeyed(page) <= {"\n"}


def test_a_shell_is_given_the_names_of_the_first_file(here: Path) -> None:
    """For --run and --stage behind several files."""
    del here
    context = click.Context(check)
    context.params = {"files": ("fresh", "missing")}
    assert [item.value for item in argument.complete_stage(context, check.params[0], "s")] == ["send"]

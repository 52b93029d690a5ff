"""Names are hostile: whatever they are, a terminal obeys nothing in them, and a program gets all of them."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.chains import entry
from support.command import READING, answer, on_terminal, reading, warm_process
from support.tampering import tamper

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [
    "\x1b[2J\x1b[H",  # clear the screen
    "\x1b]0;owned\x07",  # the window's title
    "\x1b]8;;https://example.org\x1b\\click\x1b]8;;\x1b\\",  # a link
    "\x1b]52;c;b3duZWQ=\x07",  # the clipboard
    "\x9b31m\x9d0;x\x9c",  # the same in C1
    "\x1bP1$r\x1b\\\x1b_x\x1b\\\x1b^x\x1b\\",  # DCS, APC, PM
    "ok\rFAIL",
    "a\nposition  1",
    "a\x0b\x0c\x08\x7fb",
    "\u202egnp.exe\u202c",  # right to left
    "\u2066a\u2069\u200e\u061c",
    "a\u200bb\u200c\u200d\u2060\ufeff",  # no width
    "\u115f\u3164\uffa0\u2800\u034f\ufe0f",  # nothing to see
    "\u2028\u2029\x85",
    "\U000e0041\U000e0042",  # tags
    "[bold red]rich[/]",
    "[link=https://example.org]x[/link]",
    "%s %d {0} {run_id}",
    "<script>alert(1)</script>",
    "'; DROP TABLE entry; --",
    "=HYPERLINK(1)",
    "-1+1",
    "--help",
    " ",
    "e\u0301\u0301",
    "東京🚲",
    "x" * 1024,
]


@pytest.fixture
def file(path: Path) -> Path:
    """A file in which every name is each of them once."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(1, run_id=name, stage=name, key=name) for name in HOSTILE)
    return path


def obeyed(screen: str) -> set[str]:
    """The characters of a screen that are no text."""
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return {each for each in screen if unicodedata.category(each) in kinds or each in "\u115f\u3164\uffa0\u2800\u034f\ufe0f"}


def test_nothing_in_a_name_is_obeyed_in_a_pipe(file: Path) -> None:
    """By any command; JSON is ASCII as well."""
    for command in reading(file, HOSTILE[0]):
        shown = warm_process(*command).stdout.decode() if command[0] == "export" else answer(*command)
        assert obeyed(shown.replace("\r\n", "\n")) <= {"\n"}, command
        assert shown.isascii() or "--json" not in command
    for other in HOSTILE[1:]:
        assert obeyed(answer("compare", file, "--", HOSTILE[0], other, exit_code=1)) <= {"\n"}


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.long)])
@pytest.mark.parametrize("command", [command for command in READING if "--newest-first" not in command], ids=" ".join)
def test_nothing_in_a_name_is_obeyed_on_a_terminal(file: Path, command: list[str], columns: int) -> None:
    """What is left, once our own bold type and the bar of verify are taken away, is text."""
    given = {"FILE": str(file), "RUN": HOSTILE[0]}
    exit_code, screen = on_terminal(*[given.get(word, word) for word in command], columns=columns)
    assert exit_code == 0
    if command[0] == "verify":
        screen = screen[screen.index("intact") :]
    assert obeyed(re.sub(r"\x1b\[[01]m|\r(?=\n)", "", screen)) <= {"\n"}  # the rows of CSV end in CR LF


def test_a_row_stays_a_row(file: Path) -> None:
    """A name with line ends makes no line of its own."""
    assert len(answer("history", file).splitlines()) == 1 + len(HOSTILE)
    assert len(answer("runs", file).splitlines()) == 1 + len(HOSTILE)
    assert len(answer("export", file).splitlines()) == len(HOSTILE)
    assert len(warm_process("export", file, "--format", "csv").stdout.splitlines()) == 1 + len(HOSTILE)


def test_json_has_every_name_as_it_is(file: Path) -> None:
    """To the last character."""
    assert [run["run_id"] for run in json.loads(answer("runs", file, "--json"))] == HOSTILE
    for text in (answer("history", file, "--json"), answer("export", file)):
        lines = [json.loads(line) for line in text.splitlines()]
        assert [(line["run_id"], line["stage"], line["idempotency_key"]) for line in lines] == [
            (name, name, name) for name in HOSTILE
        ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_asked_for_is_found(file: Path, name: str) -> None:
    """Also one that looks like an option; and it is shown as text."""
    found = json.loads(answer("latest", file, f"--run={name}", f"--stage={name}", "--json"))
    assert (found["run_id"], found["stage"]) == (name, name)
    for command in ("latest", "resume"):
        assert obeyed(answer(command, file, f"--run={name}", f"--stage={name}")) <= {"\n"}


def test_nothing_in_a_name_is_obeyed_in_an_error(file: Path) -> None:
    """Or in a fault."""
    tamper(file, "UPDATE entry SET entries_so_far = 2", 'CREATE TABLE "\x1b[2J\u202e" (a)')
    for command in (["verify", file], ["latest", file, "--run", "\x1b[2J\u200b"], ["runs", f"{file}\x1b[2J\u202e"]):
        ended = warm_process(*command)
        said = (ended.stdout + ended.stderr).decode()
        assert ended.returncode in {1, 3}
        assert obeyed(said) <= {"\n"}, command

"""How an answer is shown: exact JSON, whole tables in a pipe, tables that fit a terminal, colour where it is wanted."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore, Watermark
from support.chains import MAX, entry
from support.command import ENVIRONMENT, answer, on_terminal, reading, run, warm_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JUMPING_MS = 1767225600123


def test_json_is_exact_and_ascii(path: Path) -> None:
    """Integers up to 2^63-1, every character, and times also in words, as far as there are any."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(MAX, run_id="Zürich\x1b\x7f\u202e", offset=MAX, event_time_ms=MAX, at_ms=JUMPING_MS))
    text = answer("history", path, "--json")
    assert text.isascii()
    assert text.removesuffix("\n").isprintable()
    found = json.loads(text)
    assert found["run_id"] == "Zürich\x1b\x7f\u202e"
    assert (found["sequence"], found["offset"], found["event_time_ms"]) == (MAX, MAX, MAX)
    assert (found["event_time"], found["at"]) == (None, "2026-01-01T00:00:00.123Z")
    assert "9223372036854775807 ms" in answer("history", path)


def test_every_moment_in_json_is_in_ms_and_in_iso_8601(path: Path) -> None:
    """Whichever command answers; a length of time is in ms alone."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(
            entry(1, run_id=run_id, offset=offset, at_ms=JUMPING_MS) for run_id, offset in (("a", 1), ("b", 2))
        )
    seen = set()
    for command, *options in [*reading(path, "a"), ["compare", "--json", str(path), "a", "b"]]:
        if "--json" in options and "--follow" not in options:
            for line in re.split(r"\n(?=[{\[])", run(command, *options).stdout):
                for record in records_in(json.loads(line)):
                    times = {name for name in record if re.fullmatch(r"(.*_)?(at|time)_ms", name)}
                    assert {name.removesuffix("_ms") for name in times} <= set(record), (command, record)
                    seen |= {command} if times else set()
    assert seen >= {"check", "compare", "history", "latest", "resume", "runs", "stages", "summary"}


def records_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a value of JSON."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from records_in(each)


def test_a_table_in_a_pipe_leaves_nothing_out(path: Path) -> None:
    """Not a column, not an end of a name, not a row: and no escape codes, also with FORCE_COLOR."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([entry(1, run_id="r" * 1000, key="k" * 1000), entry(2)])
    text = warm_process("history", path, env={**ENVIRONMENT, "FORCE_COLOR": "1", "COLUMNS": "40"}).stdout.decode()
    assert len(text.splitlines()) == 3
    assert "r" * 1000 in text
    assert "k" * 1000 in text
    assert "\x1b" not in text


@pytest.mark.parametrize("columns", [60, pytest.param(80, marks=pytest.mark.long), 120])
@pytest.mark.parametrize("command", ["runs", "stages", "resume", "history"])
def test_a_table_fits_the_terminal(file: Path, command: str, columns: int) -> None:
    """No line is wider than the screen; a column that is left out is named, on standard error."""
    exit_code, screen = on_terminal(command, file, columns=columns, NO_COLOR="1")
    assert exit_code == 0
    notes = [line for line in screen.splitlines() if line.startswith("milepost: no room for ")]
    assert [line for line in screen.splitlines() if len(line) > columns] == []
    narrow = {("runs", 60), ("runs", 80), ("runs", 120), ("stages", 60), ("history", 60), ("history", 80)}
    assert len(notes) == ((command, columns) in narrow)


def test_a_name_that_is_too_long_for_the_terminal_goes_on_below(path: Path) -> None:
    """All of it is there; wide characters are counted as two cells."""
    name = "東京" * 40
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id=name))
    screen = on_terminal("history", path, NO_COLOR="1")[1]
    assert screen.count("東京") >= 30
    assert screen.count("東") == 40


def test_a_long_name_costs_no_other_column_its_place(path: Path) -> None:
    """It goes on below first. How a run ended is never left out."""
    with CheckpointStore(path, durability="normal") as store:
        with store.run("n" * 300) as nightly:
            nightly.advance("load", Watermark(7, 0), idempotency_key="a")
        store.append(entry(1, run_id="short"))
    for columns, kept in ((60, "duration"), (80, "last"), (120, "checkpoints")):
        screen = on_terminal("runs", path, NO_COLOR="1", columns=columns)[1]
        assert re.search(rf"^run .* state .*{kept}", screen, re.MULTILINE), screen
        assert "finished" in screen
        assert screen.count("n") >= 300


def test_a_sentence_breaks_between_words_and_never_before_a_unit(path: Path) -> None:
    """Also a cell with several words, such as a state; what goes into a pipe is one line."""
    with CheckpointStore(path, durability="normal", clock=lambda: 1_767_225_600_000) as store:
        for number in range(6):
            store.run(f"open-{number}").__enter__()
            store.append(entry(1, run_id=f"open-{number}", stage=f"stage-{number} with a long name", at_ms=number))
    whole = answer("check", path, "--within", "1s", exit_code=1).splitlines()[0]
    assert whole.endswith("and 3 more stages")
    for columns in (40, 61, 82):
        screen = on_terminal("check", path, "--within", "1s", NO_COLOR="1", columns=columns)[1]
        told = " ".join(re.split(r"\n(?=milepost:|stage )", screen)[0].split())
        assert re.sub(r"[0-9]+ h", "", told) == re.sub(r"[0-9]+ h", "", whole), columns
        assert not re.search(r"[0-9]\n *(d|h|min|s)\b", screen)
    rows = on_terminal("runs", path, NO_COLOR="1", columns=44)[1]
    assert {"open,", "last", "entry"} <= set(rows.split())


def test_an_error_and_a_comparison_break_between_words(path: Path) -> None:
    """On a terminal; in a pipe each is one line."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number, run_id=run_id, at_ms=5) for run_id in ("one", "other") for number in (1, 2))
        store.append(entry(3, run_id="other", offset=10**9, key="a key with several words in it"))
    missing = f"{path}-missing"
    back = ("record", path, "--run", "one", "--stage", "load", "--offset", "1")
    for command in (("summary", missing), ("compare", path, "one", "other"), back):
        screen = on_terminal(*command, NO_COLOR="1", columns=60)[1]
        whole = run(*command)
        assert " ".join(screen.split()) == " ".join((whole.stderr + whole.stdout).split())
        longest = max(map(len, screen.split()))
        assert max(map(len, screen.splitlines())) <= max(60, longest + 6)


def test_the_command_line_speaks_no_python(path: Path) -> None:
    """It names commands and options, not classes and methods; an event time that was never given is no 1970."""
    assert "CheckpointStore" not in run("summary", path).stderr
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, offset=500, event_time_ms=0, run_id="run-1"))
    told = run("sql", path, "DELETE FROM entry").stderr
    assert "transaction()" not in told
    told = run("record", path, "--run", "run-1", "--stage", "load", "--offset", "5").stderr
    assert "would go back from offset 500 to offset 5:" in told


@pytest.mark.parametrize("name", ["new_run_id", "it's run_id", "give hmac_key", 'a "run_id" b', "verify() it"])
def test_a_name_in_an_error_stays_as_it_is(file: Path, name: str) -> None:
    """It is no argument of a method, even if it looks like one."""
    assert (
        f"no checkpoint in run {name!r}: see `milepost runs`, which has what each run recorded"
        in run("compare", file, name, "run-1").stderr
    )


def test_a_path_in_an_error_stays_as_it_is(tmp_path: Path, file: Path) -> None:
    """In one file's error, and in the table of several."""
    missing = tmp_path / "new_run_id backup() of hmac_key"
    said = f"{missing}: no such file: check the path"
    assert run("summary", missing).stderr == f"Error: {said}\n"
    assert json.loads(run("summary", missing, file, "--json").stdout)["files"][0]["error"] == said


def test_of_a_damaged_file_the_advice_is_another_command(file: Path) -> None:
    """Those that do not verify name `milepost verify`, and that one does not send people to itself."""
    file.write_bytes(file.read_bytes()[:5000])
    assert run("runs", file).stderr.endswith(": run `milepost verify`, and restore it from a copy\n")
    assert run("verify", file).stderr.endswith("malformed (SQLite): restore it from a copy\n")


def test_a_name_of_blanks_is_seen(path: Path) -> None:
    """In quotes, in a table."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id="  "))
    for command in ("runs", "resume", "history"):
        assert "'  '" in answer(command, path)


def test_colour_is_for_terminals_whose_user_wants_it(file: Path) -> None:
    """A bold heading on a terminal; nothing with NO_COLOR, on a dumb one, or in a pipe."""
    assert "\x1b[1m" in on_terminal("runs", file)[1]
    assert "\x1b" not in on_terminal("runs", file, NO_COLOR="1")[1]
    assert "\x1b" not in on_terminal("runs", file, TERM="dumb")[1]
    assert b"\x1b" not in warm_process("runs", file).stdout


def test_a_terminal_that_knows_ascii_only_gets_ascii(path: Path) -> None:
    """A name is written out rather than lost."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id="Zürich"))
    assert b"Z\\xfcrich" in warm_process("runs", path, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}).stdout


def test_an_empty_store_has_empty_answers(path: Path) -> None:
    """And say so; a program gets an empty list."""
    CheckpointStore(path).close()
    for command in ("runs", "stages", "resume", "history"):
        result = run(command, path)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "milepost: nothing recorded yet\n")
    for command in ("runs", "stages", "resume"):
        assert json.loads(answer(command, path, "--json")) == []
    assert answer("history", path, "--json") == ""
    assert answer("verify", path).startswith("intact  0 entries")

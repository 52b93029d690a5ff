"""The command `import`: a file of these lines, or none at all, and the number of the line that is wrong."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from milepost import CheckpointStore, Watermark, transfer
from support.chains import MAX, chain, mixed
from support.command import answer, run, talk
from support.exported import recorded, values


def test_a_keyed_chain_is_imported_with_its_key(path: Path, tmp_path: Path) -> None:
    """To the same signature, which nobody without the key can make."""
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    with CheckpointStore(path, durability="normal", hmac_key=b"secret") as store:
        store.append_many(chain(3))
        head = store.head()
    exported = answer("export", path).encode()
    assert run("import", "-", tmp_path / "keyed", "--key-file", key, stdin=exported).stdout == f"{head}\n"
    assert run("verify", tmp_path / "keyed", "--key-file", key).exit_code == 0
    assert run("import", "-", tmp_path / "plain", stdin=exported).stdout != f"{head}\n"


GOOD = [json.dumps(values(each)) for each in mixed(30)]


def _with(**changes: object) -> str:
    return json.dumps({**values(mixed(30)[17]), **changes})


def _without(name: str) -> str:
    return json.dumps({key: value for key, value in values(mixed(30)[17]).items() if key != name})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "no JSON object in UTF-8 (Expecting value, column 1)"),
        ("{", "no JSON"),
        ("[" * 50_000, "no JSON"),
        ("[1]", "must be a JSON object, not [1]"),
        ("null", "must be a JSON object, not None"),
        (_without("at_ms"), "at_ms is missing: a line has run_id, stage,"),
        (_with(watermark=1), "'watermark' is not a value of a checkpoint"),
        (_with(**{"\x1b[2J": 1}), "'\\x1b[2J' is not a value of a checkpoint"),
        (_with()[:-1] + ', "at_ms": 1}', "no JSON object in UTF-8 (a name occurs twice"),
        (_with(offset=1.0), "offset is 1.0: must be an int"),
        (_with(sequence=True), "sequence is True: must be an int"),
        (_with(at_ms="5"), "at_ms is '5': must be an int"),
        (_with(offset=MAX + 1), "offset is 9223372036854775808: must be"),
        (_with(at_ms=-1), "at_ms is -1: must be"),
        (_with(at_ms=float("nan")), "at_ms is nan: must be an int"),
        (_with(at_ms=[]), "at_ms is []: must be an int"),
        (_with(offset=1).replace(": 1,", f": {'1' * 5000},"), "no JSON object in UTF-8 (Exceeds the limit"),
        (_with(run_id=""), "run_id is '': must not be empty"),
        (_with(stage="a\0"), "stage is 'a\\x00': must not have a NUL"),
        (_with(idempotency_key="\ud800"), "idempotency_key is '\\ud800': must not have a lone surrogate"),
        (_with(run_id="x" * 1025), "run_id is 'xxx"),
        (_with(run_id="x" * 500_001), "it has more than 500,000 bytes, the limit for a checkpoint"),
        (_with(sequence=1, idempotency_key="new"), "sequence 1 of run"),
        (_with(offset=0, sequence=40, idempotency_key="new"), "the watermark of run"),
        (_with(idempotency_key="step-8", sequence=40), "idempotency_key 'step-8' is already recorded"),
        (GOOD[3], "an earlier line has this checkpoint already: remove one of them"),
        (GOOD[16], "an earlier line has this checkpoint already: remove one of them"),
        ("\ufeff" + GOOD[17], "no JSON"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_nothing_appears(tmp_path: Path, line: str, fault: str) -> None:
    """Line 18 of 31, for every way in which a line can be wrong."""
    (tmp_path / "a.jsonl").write_text("\n".join([*GOOD[:17], line, *GOOD[17:], ""]), encoding="utf-8")
    result = run("import", tmp_path / "a.jsonl", tmp_path / "new")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: line 18: {fault}")
    assert result.stderr.removesuffix("\n").isprintable()
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_line_of_no_utf_8_is_named_too(tmp_path: Path) -> None:
    """As the others are; a last line without its end is a line."""
    lines = "\n".join(GOOD[:3]).encode()
    result = run("import", "-", tmp_path / "new", stdin=lines + b"\n\xff")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: line 4: no JSON object in UTF-8 ('utf-8' codec")
    assert run("import", "-", tmp_path / "new", stdin=lines).exit_code == 0
    assert recorded(tmp_path / "new")[0] == mixed(30)[:3]


@pytest.mark.parametrize(
    ("batch", "at"),
    [
        (100, 99),
        (100, 100),
        *(pytest.param(10_000, at, marks=pytest.mark.long) for at in (9_999, 10_000, 20_500)),
    ],
)
def test_a_wrong_line_of_a_later_batch_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, at: int
) -> None:
    """Rejected, invalid or recorded before."""
    monkeypatch.setattr(transfer, "_BATCH", batch)
    lines = [json.dumps(values(each)) for each in chain(at + 10)]  # some lines more than are right
    for wrong, fault in (
        (lines[4], "an earlier line has this checkpoint already"),
        (lines[at].replace(f": {at + 1},", ": 2,", 1), "sequence 2 of run"),
        (lines[at].replace('"load"', "5"), "stage is 5"),
    ):
        text = "\n".join([*lines[:at], wrong, *lines[at + 1 :]])
        result = run("import", "-", tmp_path / "new", stdin=text.encode())
        assert result.stderr.startswith(f"Error: line {at + 1}: {fault}")
    assert list(tmp_path.iterdir()) == []


def test_an_import_never_overwrites(file: Path, tmp_path: Path) -> None:
    """It says so before it reads a line; a missing source, or directory, is exit code 3 as well."""
    before = file.read_bytes()
    for source, new in (("-", file), (tmp_path / "none.jsonl", tmp_path / "new"), ("-", tmp_path / "no" / "new")):
        result = run("import", source, new, stdin=b"wrong")
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: ")
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["orders.milepost"]


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while it waits for more."""
    child = talk("import", "-", tmp_path / "new")
    child.stdin.write((GOOD[0] + "\n").encode())
    child.stdin.flush()
    while not list(tmp_path.glob(".milepost*/new")):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert (child.returncode, said) == (130, b"Error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_stayed_beside_an_archive_is_exported_with_a_note_and_never_imported(path: Path, tmp_path: Path) -> None:
    """It would make a chain of its own, in which what was archived counts as not done."""
    archive, text, new = (tmp_path / name for name in ("archive", "export.jsonl", "new"))
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(30))
        store.archive(archive, before=store.head())
        store.append_many(chain(40)[30:])
    exported = run("export", path, "--output", text)
    assert exported.exit_code == 0
    assert "the entries up to position 30 are in archives" in exported.stderr
    assert len(text.read_text().splitlines()) == 12
    imported = run("import", text, new)
    assert imported.exit_code == 2
    assert "line 2: it records that the entries up to position 30 are in an archive" in imported.stderr
    assert not new.exists()
    whole = run("export", archive)
    assert whole.stderr == ""
    assert run("import", "-", new, stdin=whole.stdout.encode()).exit_code == 0


def test_a_line_that_comes_again_is_named_also_where_the_last_line_has_a_cursor(path: Path, tmp_path: Path) -> None:
    """Its own entry does not stand where it would without the line before."""
    with CheckpointStore(path, durability="normal") as store:
        for number in range(1, 4):
            store.advance("run-7", "load", Watermark(number, 0), idempotency_key=f"step-{number}", cursor=f"page-{number}")
    lines = answer("export", path).splitlines()
    result = run("import", "-", tmp_path / "new", stdin="\n".join([*lines[:2], *lines[1:]]).encode())
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: line 3: an earlier line has this checkpoint already")

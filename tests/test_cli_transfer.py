"""The commands export, import and backup: exact where it is promised, whole or not there at all."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, Head, RejectedCheckpointError
from support.chains import MAX, chain, checkpoints, entry, mixed
from support.command import COMMAND, answer, on_terminal, process, run

FIELDS = ["run_id", "stage", "sequence", "offset", "event_time_ms", "idempotency_key", "at_ms"]


@pytest.fixture
def file(path: Path) -> Path:
    """A file with three runs of three stages."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(mixed(30))
    return path


def values(entry: Checkpoint) -> dict[str, Any]:
    """A line of an export, as an object."""
    return dict(zip(FIELDS, (*entry[:3], *entry.watermark, *entry[4:]), strict=True))


def recorded(path: Path) -> tuple[list[Checkpoint], Head]:
    """What a file holds."""
    with CheckpointStore.open_readonly(path) as store:
        store.verify().raise_if_broken()
        return list(store.history()), store.head()


@settings(max_examples=20)  # each makes three files, durably
@given(st.lists(checkpoints, max_size=20))
def test_an_export_is_imported_to_the_same_signature(entries: list[Checkpoint]) -> None:
    """Whatever the names and numbers are; each line is ASCII, one JSON object, with its values in their order."""
    with tempfile.TemporaryDirectory() as folder:
        path, text, copy = (Path(folder, name) for name in ("a.milepost", "a.jsonl", "b.milepost"))
        with CheckpointStore(path, durability="normal") as store:
            for each in entries:
                try:
                    store.append(each)
                except RejectedCheckpointError:
                    continue
        answer("export", path, "--output", text)
        lines = text.read_text(encoding="ascii").split("\n")
        assert lines.pop() == ""
        assert [json.loads(line) for line in lines] == [values(each) for each in recorded(path)[0]]
        assert all(line.isprintable() and list(json.loads(line)) == FIELDS for line in lines)
        assert answer("import", text, copy) == f"{recorded(path)[1]}\n"
        assert recorded(copy) == recorded(path)


def test_the_widest_integers_are_exact(path: Path, tmp_path: Path) -> None:
    """2^63-1, which a double cannot hold."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(MAX, offset=MAX, event_time_ms=MAX, at_ms=MAX))
    text = answer("export", path)
    assert text.count(f": {MAX}") == 4
    assert run("import", "-", tmp_path / "new", stdin=text.encode()).exit_code == 0
    assert recorded(tmp_path / "new") == recorded(path)


def test_a_long_chain_goes_through_in_batches(path: Path, tmp_path: Path) -> None:
    """More than one batch each way, through a pipe."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(25_000))
    exported = process("export", path).stdout
    assert exported.count(b"\n") == 25_000
    assert process("import", "-", tmp_path / "new", input=exported).returncode == 0
    assert recorded(tmp_path / "new") == recorded(path)


def test_the_export_of_a_run_is_a_chain_of_its_own(file: Path, tmp_path: Path) -> None:
    """With the signature that the run has."""
    with CheckpointStore.open_readonly(file) as store:
        signature = store.chain_signature("run-1")
    imported = run("import", "-", tmp_path / "new", "--json", stdin=answer("export", file, "--run", "run-1").encode())
    assert json.loads(imported.stdout) == {"entries": 10, "signature": signature}


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


HOSTILE_CELLS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    '="a"&"b"',
    "a\n=1",
    "x;=1",
    "x,=1",
    "'=1",
    "\x1b[2J",
]


def test_a_cell_of_csv_never_starts_a_formula(path: Path) -> None:
    """Also not where another separator, or a line end in a name, would begin a cell; numbers stay numbers."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(1, run_id=name, stage=name, key=name) for name in HOSTILE_CELLS)
    text = process("export", path, "--format", "csv").stdout.decode()
    assert text.count("\r\n") == text.count("\n") == len(HOSTILE_CELLS) + 1
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for name, row in zip(HOSTILE_CELLS, rows, strict=True):
        for column in ("run_id", "stage", "idempotency_key"):
            assert row[column][0] not in "=+-@\t\r\n＝"
            assert row[column].isprintable()
        if name.isprintable() and name[0] not in "=+-@＝":
            assert row["run_id"] == name
    assert [row["position"] for row in rows] == [str(number + 1) for number in range(len(rows))]
    assert ',"x;=1",1,500,' in text


def test_csv_has_the_columns_of_the_view(file: Path, tmp_path: Path) -> None:
    """And is chosen by the ending of the file, too."""
    answer("export", file, "--output", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with CheckpointStore.open_readonly(file) as store:
        assert [(row["position"], row["signature"], row["idempotency_key"], row["at_ms"]) for row in rows] == [
            (str(receipt.position), receipt.signature, e.idempotency_key, str(e.at_ms)) for receipt, e, _ in store.receipts()
        ]
    assert rows[0]["at"] == "1970-01-01T00:00:00.000Z"
    assert list(rows[0]) == ["position", *FIELDS, "event_time", "at", "signature", "detail"]


@pytest.mark.parametrize("arguments", [("export", "{file}", "--output", "{new}"), ("backup", "{file}", "{new}")])
def test_nothing_is_ever_overwritten(file: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Neither a file nor a link that leads nowhere's place; and a missing directory is said."""
    (tmp_path / "there").write_text("mine")
    for new in ("there", "no/such", "orders.milepost"):
        before = file.read_bytes()
        result = run(*(argument.format(file=file, new=tmp_path / new) for argument in arguments))
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith(f"Error: {tmp_path / new}: ")
        assert file.read_bytes() == before
    assert (tmp_path / "there").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["orders.milepost", "there"]


def test_an_export_to_a_full_disk_leaves_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, or not there."""

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(__import__("milepost.cli.export", fromlist=["_WRITERS"])._WRITERS, "jsonl", full)
    assert run("export", file, "--output", tmp_path / "a.jsonl").exit_code == 3
    assert [each.name for each in tmp_path.iterdir()] == ["orders.milepost"]


def test_backup_is_a_copy_with_the_head_it_prints(file: Path, tmp_path: Path) -> None:
    """Also while a writer holds the file."""
    with CheckpointStore(file, durability="normal") as store:
        store.append(entry(1, run_id="later"))
        printed = answer("backup", file, tmp_path / "copy")
    assert recorded(tmp_path / "copy") == recorded(file)
    assert Head.parse(printed) == recorded(file)[1]
    assert json.loads(answer("backup", file, tmp_path / "copy-2", "--json"))["entries"] == 31


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
        (_with(watermark=1), "'watermark' is no value of a checkpoint"),
        (_with(**{"\x1b[2J": 1}), "'\\x1b[2J' is no value of a checkpoint"),
        (_with()[:-1] + ', "at_ms": 1}', "no JSON object in UTF-8 (a name stands twice"),
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
        (_with(run_id="x" * 70_000), "longer than the 65,536 bytes"),
        (_with(sequence=1, idempotency_key="new"), "sequence 1 of run"),
        (_with(offset=0, sequence=40, idempotency_key="new"), "the watermark of run"),
        (_with(idempotency_key="step-8", sequence=40), "idempotency_key 'step-8' is already recorded"),
        (GOOD[3], "this checkpoint is in the file already, further up"),
        (GOOD[16], "this checkpoint is in the file already, further up"),
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


@pytest.mark.parametrize("at", [9_999, 10_000, pytest.param(20_500, marks=pytest.mark.long)])
def test_a_wrong_line_of_a_later_batch_has_its_number(tmp_path: Path, at: int) -> None:
    """Rejected, invalid or recorded before."""
    lines = [json.dumps(values(each)) for each in chain(21_000)]
    for wrong, fault in (
        (lines[4], "this checkpoint is in the file already"),
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
    with subprocess.Popen(
        [*COMMAND, "import", "-", tmp_path / "new"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        child.stdin.write((GOOD[0] + "\n").encode())
        child.stdin.flush()
        while not list(tmp_path.glob(".milepost*/new")):
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, b"Error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_export_is_an_empty_chain(path: Path, tmp_path: Path) -> None:
    """There and back."""
    CheckpointStore(path).close()
    assert answer("export", path) == ""
    assert run("import", "-", tmp_path / "new", stdin=b"").stdout == f"{recorded(path)[1]}\n"


def test_parquet_has_the_columns_of_the_view(path: Path, tmp_path: Path) -> None:
    """Exact, to the widest integer; in a pipe as in a file."""
    io_ = pytest.importorskip("arro3.io")
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([*mixed(30), entry(MAX, run_id="\x1b=1", offset=MAX, event_time_ms=MAX)])
        receipts = list(store.receipts())
    answer("export", path, "--output", tmp_path / "a.parquet")
    (tmp_path / "b").write_bytes(process("export", path, "--format", "parquet").stdout)
    for name in ("a.parquet", "b"):
        table = io_.read_parquet(tmp_path / name).read_all()
        columns = {column: table[column].to_pylist() for column in table.column_names if column not in {"at", "event_time"}}
        assert columns == {
            "position": [receipt.position for receipt, *_ in receipts],
            "run_id": [each.run_id for _, each, _ in receipts],
            "stage": [each.stage for _, each, _ in receipts],
            "sequence": [each.sequence for _, each, _ in receipts],
            "offset": [each.watermark.offset for _, each, _ in receipts],
            "idempotency_key": [each.idempotency_key for _, each, _ in receipts],
            "signature": [receipt.signature for receipt, *_ in receipts],
            "detail": [None] * len(receipts),
        }
    assert io_.read_parquet(tmp_path / "b").read_all().num_rows == 31


def test_without_arro3_one_sentence_gives_the_pip_command(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no file behind."""
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    result = run("export", file, "--output", tmp_path / "a.parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith('Error: parquet needs arro3-io: run  pip install "milepost[parquet]"\n')
    assert [each.name for each in tmp_path.iterdir()] == ["orders.milepost"]


def test_parquet_is_not_for_a_terminal(file: Path) -> None:
    """It would be obeyed."""
    exit_code, screen = on_terminal("export", file, "--format", "parquet")
    assert exit_code == 2
    assert screen.endswith("parquet is nothing to read on a terminal: give --output FILE\n")

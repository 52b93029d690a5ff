"""The command `export`: JSON Lines that are imported to the same signature, CSV and Parquet; whole, or not there at all."""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, RejectedCheckpointError
from support.chains import MAX, chain, entry, mixed
from support.command import answer, on_terminal, run, warm_process
from support.exported import FIELDS, recorded, values
from support.strategies import checkpoints
from support.warm import warm_commands


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


IN_BATCHES = """
import sys
from milepost import transfer
from milepost.cli import commands, export
sys.modules["milepost.cli.export"]._BATCH = transfer._BATCH = int(sys.argv.pop(1))
commands()
"""


@pytest.mark.parametrize(("entries", "batch"), [(1200, 1000), pytest.param(12_000, 10_000, marks=pytest.mark.long)])
def test_a_long_chain_goes_through_in_batches(path: Path, tmp_path: Path, entries: int, batch: int) -> None:
    """More than one batch each way, through a pipe."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(entries))
    warm = warm_commands()
    exported, _ = warm.talk("-c", IN_BATCHES, str(batch), "export", path).communicate()
    assert exported.count(b"\n") == entries
    importing = warm.talk("-c", IN_BATCHES, str(batch), "import", "-", tmp_path / "new")
    importing.communicate(exported)
    assert importing.returncode == 0
    assert recorded(tmp_path / "new") == recorded(path)


def test_the_export_of_a_run_is_a_chain_of_its_own(file: Path, tmp_path: Path) -> None:
    """With the signature that the run has."""
    with CheckpointStore.open_readonly(file) as store:
        signature = store.chain_signature("run-1")
    imported = run("import", "-", tmp_path / "new", "--json", stdin=answer("export", file, "--run", "run-1").encode())
    assert json.loads(imported.stdout) == {"entries": 10, "signature": signature}


def test_an_empty_export_is_an_empty_chain(path: Path, tmp_path: Path) -> None:
    """There and back."""
    CheckpointStore(path).close()
    assert answer("export", path) == ""
    assert run("import", "-", tmp_path / "new", stdin=b"").stdout == f"{recorded(path)[1]}\n"


def test_an_export_to_a_full_disk_leaves_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, or not there."""

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(__import__("milepost.cli.export", fromlist=["_WRITERS"])._WRITERS, "jsonl", full)
    assert run("export", file, "--output", tmp_path / "a.jsonl").exit_code == 3
    assert [each.name for each in tmp_path.iterdir()] == ["orders.milepost"]


# CSV

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
    text = warm_process("export", path, "--format", "csv").stdout.decode()
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


# Parquet


def test_parquet_has_the_columns_of_the_view(path: Path, tmp_path: Path) -> None:
    """Exact, to the widest integer; in a pipe as in a file."""
    io_ = pytest.importorskip("arro3.io")
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([*mixed(30), entry(MAX, run_id="\x1b=1", offset=MAX, event_time_ms=MAX)])
        receipts = list(store.receipts())
    answer("export", path, "--output", tmp_path / "a.parquet")
    (tmp_path / "b").write_bytes(warm_process("export", path, "--format", "parquet").stdout)
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
            "cursor_sha256": [None] * len(receipts),
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
    assert screen.endswith("parquet is binary, and standard output is a terminal: give --output FILE\n")

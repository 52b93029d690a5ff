"""The file format: what schema.sql creates, what a file says about itself, and how others see it."""

from __future__ import annotations

import ast
import sqlite3
from pathlib import Path
from typing import Any

import apsw
import pytest

from milepost import CheckpointStore, schema
from support.chains import EVENT_MS, entry
from support.doors import connections

TOP = Path(__file__).parents[1] / "schema.sql"


def test_schema_sql_is_the_only_place_that_creates_anything() -> None:
    """It stands at the top of the repository and is what the library reads; but for upgrades, and a view for a reader."""
    assert schema.text() == TOP.read_text(encoding="utf-8")
    for source in Path(schema.__file__).parent.glob("*.py"):
        texts = [
            node.value
            for statement in ast.parse(source.read_text(encoding="utf-8")).body
            if not (isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "UPGRADES")
            for node in ast.walk(statement)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        made = [text for text in texts if text.lstrip().upper().startswith("CREATE ")]
        assert made == (["CREATE VIEW", "CREATE TEMP VIEW IF NOT EXISTS"] if source.name == "schema.py" else []), source.name


def test_every_table_is_strict_and_every_column_has_its_comment() -> None:
    """The file reads as the documentation of the format."""
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    assert {name: strict for name, strict in tables if not name.startswith("sqlite_")} == dict.fromkeys(
        ("keyed", "run", "stage", "run_stage", "entry", "stage_cursor", "chain_base"), 1
    )
    lines = [line.split() for line in schema.text().splitlines()]
    for (column,) in connection.execute(
        "SELECT p.name FROM sqlite_schema AS s, pragma_table_info(s.name) AS p WHERE s.type = 'table'"
    ):
        assert any(line[:1] == [column] and "--" in line for line in lines), column
    connection.close()


def test_the_header_says_whose_file_it_is(store: CheckpointStore) -> None:
    """application_id and user_version, in WAL mode."""
    with store.transaction() as connection:
        assert connection.pragma("application_id") == schema.APPLICATION_ID == 0x4D495450
        assert connection.pragma("user_version") == schema.VERSION == 2
        assert connection.pragma("journal_mode") == "wal"


def test_others_read_the_rows_through_a_readable_view(store: CheckpointStore, path: Path) -> None:
    """The standard library's sqlite3, from a copy: names instead of numbers, ISO times, the signature in hex digits."""
    receipt = store.append(entry(1, event_time_ms=EVENT_MS + 1, at_ms=EVENT_MS + 2))
    store.append(entry(2, event_time_ms=2**63 - 1, at_ms=2**63 - 1))
    copy = path.with_name("copy")
    with store.transaction() as connection:
        connection.execute("SELECT 1")
    target = apsw.Connection(str(copy))
    with target.backup("main", connections(store)[-1], "main") as backup:
        backup.step(-1)
    target.pragma("journal_mode", "delete")
    target.close()
    other = sqlite3.connect(copy)
    try:
        other.row_factory = sqlite3.Row
        first, second = other.execute("SELECT * FROM checkpoint ORDER BY position").fetchall()
    finally:
        other.close()
    assert dict(first) == {
        "position": 1,
        "run_id": "run-7",
        "stage": "load",
        "sequence": 1,
        "offset": 500,
        "event_time_ms": EVENT_MS + 1,
        "idempotency_key": "load:1",
        "at_ms": EVENT_MS + 2,
        "event_time": "2026-01-01T00:00:00.001Z",
        "at": "2026-01-01T00:00:00.002Z",
        "signature": receipt.signature,
        "detail": None,
    }
    assert (second["at_ms"], second["at"]) == (2**63 - 1, None)


def test_connections_are_hardened(store: CheckpointStore) -> None:
    """What a hostile file could use is off."""
    with store.transaction() as connection:
        off = (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, apsw.SQLITE_DBCONFIG_DQS_DML, apsw.SQLITE_DBCONFIG_DQS_DDL,
               apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION)  # fmt: skip
        assert [connection.config(option, -1) for option in off] == [0, 0, 0, 0]
        on = (apsw.SQLITE_DBCONFIG_DEFENSIVE, apsw.SQLITE_DBCONFIG_ENABLE_QPSG)
        assert [connection.config(option, -1) for option in on] == [1, 1]
        assert connection.pragma("cell_size_check") == 1
        assert connection.pragma("mmap_size") == 0
        with pytest.raises(apsw.SQLError):
            connection.execute('SELECT "a string in double quotes"')


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_durability_is_sqlites_synchronous(path: Path, durability: Any, synchronous: int) -> None:
    """FULL syncs the WAL at each commit."""
    with CheckpointStore(path, durability=durability) as store, store.transaction() as connection:
        assert connection.pragma("synchronous") == synchronous
        assert store.durability == durability

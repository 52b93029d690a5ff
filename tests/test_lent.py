"""What a block may do on the connection that it is lent, and what is refused at the statement."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, StoreError, Watermark, schema
from support.chains import chain, entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFUSED = [
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT milepost_1",
    "RELEASE milepost_0",
    "ROLLBACK TO milepost_0",
    "PRAGMA synchronous = off",
    "PRAGMA Journal_Mode = delete",
    "PRAGMA wal_checkpoint",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA foreign_keys = on",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "INSERT INTO run (run_id) VALUES ('mine')",
    "UPDATE Entry SET offset = 0",
    "DELETE FROM run_stage",
    "DROP TABLE keyed",
    "DROP INDEX entry_by_key",
    "DROP TRIGGER entry_is_never_updated",
    "CREATE INDEX mine ON entry (offset)",
    "CREATE TRIGGER mine AFTER INSERT ON entry BEGIN SELECT 1; END",
    "CREATE TEMP TRIGGER mine AFTER INSERT ON entry BEGIN SELECT 1; END",
    "CREATE TEMP TABLE entry (x)",
    "CREATE TEMP VIEW run AS SELECT 1 AS run_id",
    "ALTER TABLE entry ADD COLUMN mine",
    "ALTER TABLE run RENAME TO mine",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_what_would_break_the_chain_by_mistake_is_refused_at_the_statement(store: CheckpointStore, statement: str) -> None:
    """And the block goes on."""
    store.append(entry(1))
    with store.transaction() as connection:
        with pytest.raises(StoreError, match="refused"):
            connection.execute(statement)
        with pytest.raises(StoreError, match="refused"):
            connection.executemany(statement, [()])
        store.append(entry(2))
    assert list(store.history()) == chain(2)


METHODS: dict[str, Callable[[apsw.Connection], object]] = {
    "close": lambda connection: connection.close(),
    "close by force": lambda connection: connection.close(True),
    "set_authorizer": lambda connection: connection.set_authorizer(None),
    "blob_open": lambda connection: connection.blob_open("main", "entry", "signature", 1, True),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_sqlite_asks_no_authorizer_for_is_refused_as_well(store: CheckpointStore, method: str) -> None:
    """Closing the connection, taking the rules off it, and writing past them."""
    store.append(entry(1))
    with store.transaction() as connection:
        with pytest.raises(StoreError, match="refused"):
            METHODS[method](connection)
        with connection.blob_open("main", "entry", "signature", 1, False) as blob:
            assert blob.read().hex() == store.chain_signature()
        with pytest.raises(StoreError, match="refused"):
            connection.execute("DELETE FROM entry")
        store.append(entry(2))
    assert len(store) == 2


def test_what_is_the_blocks_own_is_allowed(store: CheckpointStore) -> None:
    """Tables, indexes, triggers, savepoints and temporary tables of its own, and to read everything."""
    store.append(entry(1))
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (x INTEGER PRIMARY KEY, y BLOB, z); CREATE INDEX sink_by_z ON sink (z)")
        connection.execute("CREATE TRIGGER of_sink AFTER INSERT ON sink BEGIN DELETE FROM sink WHERE x < 0; END")
        connection.execute("SAVEPOINT mine; INSERT INTO sink VALUES (1, zeroblob(3), 0); RELEASE mine")
        connection.execute("SAVEPOINT mine; DELETE FROM sink; ROLLBACK TO mine; RELEASE mine")
        connection.executemany("INSERT INTO sink VALUES (?, ?, 0)", [(2, b"a"), (-3, b"b")])
        connection.execute("CREATE TEMP TABLE scratch (x); CREATE TEMP VIEW seen AS SELECT * FROM main.entry")
        with connection.blob_open("main", "sink", "y", 1, True) as blob:
            blob.write(b"abc")
        connection.execute("PRAGMA defer_foreign_keys = on; PRAGMA case_sensitive_like = on; PRAGMA table_info(entry)")
        assert connection.execute("PRAGMA user_version").get == schema.VERSION
        assert connection.execute("SELECT count(*) FROM seen JOIN sink").get == 2
        connection.execute("ALTER TABLE sink RENAME TO drain; DROP TABLE drain")


def test_nothing_runs_in_a_block_that_sqlite_has_rolled_back(store: CheckpointStore) -> None:
    """Each statement would be a transaction of its own, and stay."""
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (x INTEGER PRIMARY KEY); INSERT INTO sink VALUES (1)")
    with pytest.raises(StoreError, match="SQLite rolled the transaction back"), store.transaction() as connection:
        with contextlib.suppress(apsw.ConstraintError):
            connection.execute("INSERT OR ROLLBACK INTO sink VALUES (1)")
        with pytest.raises(StoreError, match="SQLite rolled the transaction back"):
            connection.execute("INSERT INTO sink VALUES (2)")
        with pytest.raises(StoreError, match="SQLite rolled the transaction back"):
            connection.executemany("INSERT INTO sink VALUES (?)", [(3,)])
    with store.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM sink").get == 1


class OwnCursor(apsw.Cursor):
    """One of the caller's."""


ATTRIBUTES: dict[str, object] = {
    "authorizer": None,
    "cursor_factory": OwnCursor,  # whose statements SQLite takes from its cache, and asks nobody
    "convert_jsonb": lambda *_: "not the bytes",
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_that_would_take_the_rules_off_is_refused_as_well(store: CheckpointStore, attribute: str) -> None:
    """Or would change what milepost reads; the statement after it is judged as before."""
    cursor = apsw.jsonb_encode({"page": [1, 2]})
    store.advance("run-7", "load", Watermark(1, 1), idempotency_key="a", cursor=cursor)
    with store.transaction() as connection:
        before = getattr(connection, attribute)
        with pytest.raises(StoreError, match=f"refused: another {attribute} would change how the store itself reads"):
            setattr(connection, attribute, ATTRIBUTES[attribute])
        assert getattr(connection, attribute) == before
        for statement in ("COMMIT", "DELETE FROM entry"):
            with pytest.raises(StoreError, match="refused"):
                connection.execute(statement)
        assert store.cursor("load", run_id="run-7") == cursor
        store.advance("run-7", "load", Watermark(2, 1), idempotency_key="b")
    assert len(store) == 2
    with pytest.raises(StoreError, match="only valid inside its block"):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_such_an_attribute_is_refused_to_on_connect_too(path: Path, attribute: str) -> None:
    """It would be lost, or stay for every block."""
    with pytest.raises(StoreError, match=f"another {attribute} would"):
        CheckpointStore(path, on_connect=lambda connection: setattr(connection, attribute, ATTRIBUTES[attribute]))


def test_a_cursor_of_the_blocks_own_may_convert_jsonb(store: CheckpointStore) -> None:
    """As the refusal says."""
    with store.transaction() as connection:
        cursor = connection.cursor()
        cursor.convert_jsonb = lambda _cursor, _column, value: apsw.jsonb_decode(value)
        assert cursor.execute("SELECT jsonb('[1, 2]')").get == [1, 2]

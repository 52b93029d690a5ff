"""A transaction block's connection: what may not be done through it is refused, and what was set on it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, ClosedStoreError, MilepostError, Receipt, StoreBusyError, StoreError, Watermark
from milepost.block import BlockTurn
from support.chains import entry
from support.doors import writer
from support.patience import begin, in_time, result
from support.slow_disk import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.block import Block


@pytest.fixture
def sink(store: CheckpointStore) -> CheckpointStore:
    """A store with three checkpoints, whose file has a table of the sink's own."""
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (amount INTEGER NOT NULL) STRICT")
    for sequence in (1, 2, 3):
        store.append(entry(sequence))
    return store


def _amounts(store: CheckpointStore) -> list[int]:
    with store.transaction() as connection:
        return [amount for (amount,) in connection.execute("SELECT amount FROM sink ORDER BY rowid")]


def _sound(store: CheckpointStore, sequences: list[int]) -> None:
    """The chain is what was appended, the store goes on, and the file is taken by the next one that opens it."""
    assert [e.sequence for e in store.history()] == sequences
    assert store.append(entry(100)) == Receipt(len(sequences) + 1, store.chain_signature())
    store.verify().raise_if_broken()
    with CheckpointStore(store.path, durability="normal") as again:
        assert again.append(entry(101)).position == len(sequences) + 2
        again.verify().raise_if_broken()


# What is refused at the statement

OURS: Final = [
    "INSERT INTO entry SELECT 4, 1, 1, 4, offset, event_time_ms, 'me', 9, signature, NULL, NULL, NULL FROM entry LIMIT 1",
    "INSERT OR REPLACE INTO entry SELECT * FROM entry",
    "REPLACE INTO entry SELECT * FROM entry",
    "WITH first AS (SELECT * FROM entry) INSERT INTO main.entry SELECT * FROM first WHERE true ON CONFLICT DO NOTHING",
    'INSERT INTO "ENTRY" SELECT * FROM entry',
    "UPDATE entry SET offset = 0",
    "UPDATE OR IGNORE entry SET offset = 0 WHERE position = 1",
    "DELETE FROM entry",
    "DELETE FROM entry WHERE position = 3",
    "INSERT INTO run VALUES (9, 'run-9')",
    "UPDATE run SET run_id = 'run-8'",
    "DELETE FROM run",
    "INSERT INTO stage VALUES (9, 'forged')",
    "UPDATE stage SET stage = 'extract'",
    "DELETE FROM stage",
    "INSERT INTO run_stage VALUES (9, 9)",
    "UPDATE run_stage SET stage_number = 9",
    "DELETE FROM run_stage",
    "INSERT INTO keyed VALUES (zeroblob(32))",
    "INSERT INTO stage_cursor VALUES (1, 1, 1, 'forged')",
    "INSERT INTO chain_base VALUES (1, zeroblob(32))",
    "DROP TABLE entry",
    "DROP TABLE IF EXISTS main.run_stage",
    "DROP TABLE keyed",
    "DROP INDEX entry_by_key",
    "DROP TRIGGER entry_is_never_updated",
    "DROP TRIGGER IF EXISTS entry_is_never_deleted",
    "DROP VIEW checkpoint",
    "ALTER TABLE entry RENAME TO old_entry",
    "ALTER TABLE entry RENAME COLUMN at_ms TO at",
    "ALTER TABLE entry ADD COLUMN note TEXT",
    "ALTER TABLE entry DROP COLUMN run_signature",
    "ALTER TABLE run ADD COLUMN note TEXT",
    "CREATE INDEX mine ON entry (at_ms)",
    "CREATE UNIQUE INDEX mine ON run (run_id)",
    "CREATE TRIGGER mine AFTER INSERT ON entry BEGIN INSERT INTO sink VALUES (1); END",
    "CREATE TRIGGER mine AFTER INSERT ON stage BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TEMP TRIGGER mine BEFORE INSERT ON main.entry BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TEMP TRIGGER mine AFTER INSERT ON run BEGIN DELETE FROM sink; END",
    "CREATE TEMP TABLE entry (position INTEGER PRIMARY KEY, signature BLOB)",
    "CREATE TABLE temp.run (run_number INTEGER PRIMARY KEY, run_id TEXT)",
    "CREATE TEMP TABLE Stage AS SELECT 1 AS stage_number, 'load' AS stage",
    "CREATE TEMP VIEW run_stage AS SELECT 1 AS run_number, 1 AS stage_number",
    "CREATE VIEW temp.keyed AS SELECT zeroblob(32) AS key_check",
]
"""Statements that would change tables of milepost's, what hangs on them, or what their names stand for."""

TRANSACTION: Final = [
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "END",
    "END TRANSACTION",
    "ROLLBACK",
    "ROLLBACK; BEGIN IMMEDIATE",
    "INSERT INTO sink VALUES (7); COMMIT; BEGIN",
    " /* not now */ commit",
]
"""Statements that would end the transaction, or begin another."""

SETTINGS: Final = [
    "PRAGMA query_only = 1",
    "PRAGMA query_only(true)",
    "PRAGMA writable_schema = 1",
    "PRAGMA writable_schema = RESET",
    "PRAGMA user_version = 7",
    "PRAGMA main.user_version = 7",
    "PRAGMA application_id = 7",
    "PRAGMA synchronous = OFF",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA wal_autocheckpoint = 1",
    "PRAGMA busy_timeout = 1",
    "PRAGMA trusted_schema = 1",
    "PRAGMA cell_size_check = 0",
    "PRAGMA schema_version = 1",
    "PRAGMA mmap_size = 1000000",
    "PRAGMA max_page_count = 1",
    "PRAGMA secure_delete = 1",
    "PRAGMA hard_heap_limit = 100000",
]
"""Statements that would change how the store itself reads and writes."""

FILES: Final = ["ATTACH ':memory:' AS other", "ATTACH (SELECT file FROM pragma_database_list) AS twin", "DETACH main"]
"""Statements about files: one under a second name could be written past every rule."""

WAYS: Final[dict[str, Callable[[apsw.Connection, str], object]]] = {
    "execute": lambda connection, statement: connection.execute(statement),
    "executemany": lambda connection, statement: connection.executemany(statement, [()]),
    "cursor": lambda connection, statement: connection.cursor().execute(statement),
    "explained": lambda connection, statement: [list(connection.execute(f"EXPLAIN {statement}"))],
}


def _refuse(sink: CheckpointStore, statement: str, way: str = "execute") -> None:
    """In the middle of a block; what stands around it is kept."""
    with sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (5)")
        sink.append(entry(4))
        with pytest.raises(StoreError) as refused:
            WAYS[way](connection, statement)
        assert refused.value.path == sink.path
        connection.execute("INSERT INTO sink VALUES (6)")
        sink.append(entry(5))
    assert [amount for amount in _amounts(sink) if amount != 7] == [5, 6]
    _sound(sink, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("statement", OURS)
def test_a_block_cannot_change_a_table_of_mileposts(sink: CheckpointStore, statement: str) -> None:
    """Nor an index, a trigger or a view, nor put anything else in their place; the block goes on."""
    _refuse(sink, statement)


@pytest.mark.parametrize("statement", TRANSACTION)
def test_a_block_cannot_end_its_transaction_or_begin_another(sink: CheckpointStore, statement: str) -> None:
    """The block itself does; it goes on."""
    _refuse(sink, statement)


@pytest.mark.parametrize("statement", SETTINGS)
def test_a_block_cannot_change_the_settings_of_the_store(sink: CheckpointStore, statement: str) -> None:
    """They would hold beyond the block; it goes on."""
    _refuse(sink, statement)


@pytest.mark.parametrize("statement", FILES)
def test_a_block_cannot_attach_or_detach_a_file(sink: CheckpointStore, statement: str) -> None:
    """Not the store's own under another name either; the block goes on."""
    _refuse(sink, statement)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "execute"])
@pytest.mark.parametrize("statement", ["INSERT INTO run VALUES (9, 'run-9')", "DROP TABLE run_stage", "COMMIT"])
def test_what_a_block_cannot_do_it_cannot_do_in_another_way(sink: CheckpointStore, statement: str, way: str) -> None:
    """By a cursor, or as many at once."""
    _refuse(sink, statement, way)


def test_what_milepost_has_just_run_itself_a_block_still_cannot(sink: CheckpointStore) -> None:
    """Statements that are kept ready for milepost are none of the block's, however often it has used its own."""
    seen: list[str] = []

    def note(_cursor: object, statement: str, _bindings: object) -> bool:
        seen.append(statement)
        return True

    with sink.transaction() as connection:
        connection.exec_trace = note
        sink.append(entry(1, run_id="run-8"))
        connection.exec_trace = None
        for statement in ["INSERT INTO run (run_id) VALUES (?)", "INSERT INTO stage (stage) VALUES (?)", *seen]:
            if not statement.upper().startswith(("SELECT", "PRAGMA", "WITH")):
                with contextlib.suppress(apsw.Error), pytest.raises(StoreError):
                    connection.execute(statement, ("forged",))
    assert [run.run_id for run in sink.runs()] == ["run-7", "run-8"]
    _sound(sink, [1, 2, 3, 1])


@pytest.mark.parametrize("table", ["entry", "run", "Stage", "keyed"])
def test_a_block_cannot_write_into_a_value_of_mileposts(sink: CheckpointStore, table: str) -> None:
    """By `blob_open`, of which SQLite asks no authorizer; to read one is allowed."""
    column = {"entry": "signature", "run": "run_id", "Stage": "stage", "keyed": "key_check"}[table]
    with sink.transaction() as connection:
        with pytest.raises(StoreError):
            connection.blob_open("main", table, column, 1, True)
        sink.append(entry(4))
        with connection.blob_open("main", "entry", "signature", 1, False) as blob:
            assert blob.read().hex() == next(sink.receipts())[0].signature
    _sound(sink, [1, 2, 3, 4])


def test_a_trigger_of_the_sinks_own_cannot_write_for_it_what_it_cannot(sink: CheckpointStore) -> None:
    """Refused where it would fire, if not where it is made."""
    with sink.transaction() as connection:
        with pytest.raises(StoreError):
            connection.execute(
                "CREATE TEMP TRIGGER forge AFTER INSERT ON sink BEGIN INSERT INTO run VALUES (9, 'run-9'); END"
            )
            connection.execute("INSERT INTO sink VALUES (1)")
        sink.append(entry(4))
    assert [run.run_id for run in sink.runs()] == ["run-7"]
    _sound(sink, [1, 2, 3, 4])


TRICKS: Final = [
    ["CREATE TEMP TABLE mine (position INTEGER PRIMARY KEY, offset)", "ALTER TABLE temp.mine RENAME TO entry"],
    ["CREATE TEMP TABLE mine AS SELECT * FROM run", "ALTER TABLE mine RENAME TO run", "DELETE FROM temp.run"],
    ["CREATE TEMP VIEW mine AS SELECT 1", "UPDATE sqlite_temp_schema SET name = 'entry', tbl_name = 'entry'"],
    ["UPDATE sqlite_schema SET sql = replace(sql, 'position', 'place') WHERE name = 'entry'"],
    ["DELETE FROM sqlite_schema WHERE name = 'entry_by_key'"],
    ["INSERT INTO sqlite_schema VALUES ('trigger', 't', 'run', 0, 'CREATE TRIGGER t INSERT ON run BEGIN SELECT 1; END')"],
    ["SAVEPOINT mine", "ROLLBACK TO mine", "RELEASE mine"],
    ["VACUUM"],
    ["REINDEX"],
    ["ANALYZE"],
    ["SELECT * FROM pragma_wal_checkpoint('truncate')"],
    ["SELECT * FROM pragma_user_version(7)"],
    ["CREATE VIRTUAL TABLE temp.entry USING fts5(position)"],
    ["CREATE VIRTUAL TABLE near USING fts5(words)", "INSERT INTO near VALUES ('a b')"],
]


@pytest.mark.parametrize("statements", TRICKS, ids=lambda statements: statements[-1])
def test_what_a_block_tries_leaves_the_store_right_whether_it_is_refused_or_not(
    sink: CheckpointStore, statements: list[str]
) -> None:
    """Inside the block, after it, and for the next one that opens the file."""
    with sink.transaction() as connection:
        sink.append(entry(4))
        with contextlib.suppress(StoreError, apsw.Error):
            for statement in statements:
                connection.execute(statement)
        sink.append(entry(5))
        assert (len(sink), sink.latest()) == (5, entry(5))
        assert [run.run_id for run in sink.runs()] == ["run-7"]
    assert sink.get("run-7", "load", 4) == entry(4)
    sink.append(entry(1, run_id="run-8"))
    _sound(sink, [1, 2, 3, 4, 5, 1])


def test_a_savepoint_of_the_blocks_own_may_undo_an_append_and_the_chain_goes_on_from_before_it(
    sink: CheckpointStore,
) -> None:
    """Whatever milepost remembers of the end of the chain."""
    with sink.transaction() as connection:
        connection.execute("SAVEPOINT mine")
        sink.append(entry(4))
        sink.append(entry(1, run_id="undone", stage="undone"))
        connection.execute("ROLLBACK TO mine")
        assert sink.append(entry(4, key="another")).position == 4
        sink.append(entry(1, run_id="kept"))
        connection.execute("RELEASE mine")
        sink.append(entry(5))
    assert [run.run_id for run in sink.runs()] == ["run-7", "kept"]
    _sound(sink, [1, 2, 3, 4, 1, 5])


@pytest.mark.parametrize("end", ["ROLLBACK TO mine", "RELEASE mine"])
def test_an_append_that_a_savepoint_undoes_last_leaves_the_next_one_right(sink: CheckpointStore, end: str) -> None:
    """After the block too."""
    with sink.transaction() as connection:
        connection.execute("SAVEPOINT mine")
        sink.append(entry(4))
        connection.execute(end)
    _sound(sink, [1, 2, 3] if end.startswith("ROLLBACK") else [1, 2, 3, 4])


def test_a_savepoint_by_apsws_own_with_may_undo_an_append(sink: CheckpointStore) -> None:
    """`with connection:` inside the block, whose exception the block catches."""
    with sink.transaction() as connection:
        with pytest.raises(KeyError), connection:
            connection.execute("INSERT INTO sink VALUES (1)")
            sink.append(entry(4))
            raise KeyError
        with connection:
            connection.execute("INSERT INTO sink VALUES (2)")
            sink.append(entry(4, key="another"))
    assert _amounts(sink) == [2]
    _sound(sink, [1, 2, 3, 4])


@pytest.mark.parametrize("end", ["RELEASE", "ROLLBACK TO"])
def test_a_block_inside_a_block_is_not_ended_by_a_savepoint_around_it(sink: CheckpointStore, end: str) -> None:
    """Refused at the statement, or told at the end of the inner block; in either case the chain and the sink agree."""
    with contextlib.suppress(StoreError, apsw.Error), sink.transaction() as connection:
        connection.execute("SAVEPOINT mine")
        with contextlib.suppress(StoreError), sink.transaction() as inner:
            sink.append(entry(4))
            inner.execute("INSERT INTO sink VALUES (4)")
            with contextlib.suppress(StoreError):
                inner.execute(f"{end} mine")
        sink.append(entry(5))
        connection.execute("INSERT INTO sink VALUES (5)")
    amounts = _amounts(sink)
    assert amounts in ([], [5], [4, 5])
    _sound(sink, [1, 2, 3, *amounts])


@pytest.mark.parametrize("name", ["milepost_0", "milepost_1", "MILEPOST_1", '"Milepost_1"'])
@pytest.mark.parametrize("statement", ["SAVEPOINT {}", "RELEASE {}", "ROLLBACK TO {}"])
def test_a_savepoint_of_mileposts_own_is_not_the_blocks(sink: CheckpointStore, statement: str, name: str) -> None:
    """SQLite takes the names of savepoints in any case; a name that nobody has is no harm."""
    with sink.transaction():
        with sink.transaction() as inner:
            sink.append(entry(4))
            with pytest.raises((StoreError, apsw.SQLError)):
                inner.execute(statement.format(name))
                inner.execute("SELECT * FROM nowhere")
        sink.append(entry(5))
    _sound(sink, [1, 2, 3, 4, 5])


def test_a_block_may_do_with_its_own_tables_whatever_sqlite_can(sink: CheckpointStore) -> None:
    """What is refused is milepost's; tables, indexes, triggers, views and TEMP tables of the sink's own are not."""
    with sink.transaction() as connection:
        for statement in (
            "CREATE TABLE other (id INTEGER PRIMARY KEY, entry TEXT, run TEXT REFERENCES sink)",
            "CREATE INDEX other_by_run ON other (run)",
            "CREATE TRIGGER other_fires AFTER INSERT ON other BEGIN INSERT INTO sink VALUES (new.id); END",
            "CREATE VIEW known AS SELECT position, other.entry FROM entry JOIN other ON position = id",
            "CREATE TEMP TABLE seen (id INTEGER PRIMARY KEY)",
            "SAVEPOINT mine",
            "INSERT INTO other VALUES (1, 'x', NULL) ON CONFLICT DO NOTHING",
            "INSERT OR REPLACE INTO other VALUES (1, 'y', NULL)",
            "RELEASE mine",
            "INSERT INTO seen SELECT id FROM other",
            "UPDATE other SET entry = (SELECT stage FROM checkpoint WHERE position = 1)",
            "ALTER TABLE other ADD COLUMN note TEXT",
            "DROP INDEX other_by_run",
            "DELETE FROM sink WHERE amount > 1000",
            "PRAGMA table_info(other)",
            "DROP TRIGGER other_fires",
        ):
            connection.execute(statement)
        assert connection.execute("SELECT * FROM known").fetchall() == [(1, "load")]
        connection.execute("DROP VIEW known")
        connection.execute("DROP TABLE other")
    assert _amounts(sink) == [1, 1]
    _sound(sink, [1, 2, 3])


# What was set on the connection is gone at the end of the block


def _fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


SET: Final[dict[str, Callable[[apsw.Connection], object]]] = {
    "row_trace": lambda connection: setattr(connection, "row_trace", _fail),
    "exec_trace": lambda connection: setattr(connection, "exec_trace", lambda *_: False),
    "cursor_factory": lambda connection: setattr(connection, "cursor_factory", _fail),
    "convert_binding": lambda connection: setattr(connection, "convert_binding", _fail),
    "authorizer": lambda connection: setattr(connection, "authorizer", lambda *_: apsw.SQLITE_DENY),
    "set_authorizer": lambda connection: connection.set_authorizer(lambda *_: apsw.SQLITE_DENY),
    "busy timeout": lambda connection: connection.set_busy_timeout(1),
    "busy handler": lambda connection: connection.set_busy_handler(lambda _: False),
    "progress handler": lambda connection: connection.set_progress_handler(lambda: True, 1),
    "a second progress handler": lambda connection: connection.set_progress_handler(lambda: True, 1, id=object()),
    "commit hook": lambda connection: connection.set_commit_hook(lambda: True),
    "a second commit hook": lambda connection: connection.set_commit_hook(lambda: True, id=object()),
    "rollback hook": lambda connection: connection.set_rollback_hook(_fail),
    "a second rollback hook": lambda connection: connection.set_rollback_hook(_fail, id=object()),
    "update hook": lambda connection: connection.set_update_hook(_fail),
    "wal hook": lambda connection: connection.set_wal_hook(_fail),
    "trace": lambda connection: connection.trace_v2(apsw.SQLITE_TRACE_STMT, _fail),
    "profile": lambda connection: connection.set_profile(_fail),
    "autovacuum pages": lambda connection: connection.autovacuum_pages(_fail),
    "limit of a value": lambda connection: connection.limit(apsw.SQLITE_LIMIT_LENGTH, 30),
    "limit of parameters": lambda connection: connection.limit(apsw.SQLITE_LIMIT_VARIABLE_NUMBER, 1),
    "automatic checkpoint": lambda connection: connection.wal_autocheckpoint(1),
    "transaction mode": lambda connection: setattr(connection, "transaction_mode", "DEFERRED"),
}


@pytest.mark.parametrize("setting", SET)
def test_what_a_block_sets_on_the_connection_does_not_outlast_it(path: Path, setting: str) -> None:
    """Refused, or reset: neither milepost's own statements nor the next block know of it; nor do other blocks' ends."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as sink:
        with sink.transaction() as connection:
            connection.execute("CREATE TABLE sink (amount INTEGER NOT NULL) STRICT")
        with contextlib.suppress(ZeroDivisionError, StoreError, apsw.Error), sink.transaction() as connection:
            SET[setting](connection)
        assert sink.append(entry(1)).position == 1
        sink.append_many([entry(2), entry(3)])
        with pytest.raises(KeyError), sink.transaction() as connection:
            connection.execute("INSERT INTO sink VALUES (1)")
            sink.append(entry(4))
            raise KeyError
        with sink.transaction() as connection:
            connection.execute("INSERT INTO sink VALUES (?)", (2,))
            sink.append(entry(4))
        assert _amounts(sink) == [2]
        _sound(sink, [1, 2, 3, 4])


@pytest.mark.parametrize(
    "name", ["DEFENSIVE", "TRUSTED_SCHEMA", "DQS_DML", "ENABLE_TRIGGER", "ENABLE_VIEW", "ENABLE_QPSG", "NO_CKPT_ON_CLOSE"]
)
def test_what_a_block_configures_does_not_outlast_it(sink: CheckpointStore, path: Path, name: str) -> None:
    """Refused, or reset: the next block finds it as it was."""
    option = getattr(apsw, f"SQLITE_DBCONFIG_{name}")
    with sink.transaction() as connection:
        before = connection.config(option, -1)
        with contextlib.suppress(StoreError):
            connection.config(option, 1 - before)
    with sink.transaction() as connection:
        assert connection.config(option, -1) == before
    _sound(sink, [1, 2, 3])


def test_a_lock_is_waited_for_as_long_as_before_whatever_a_block_has_set(path: Path) -> None:
    """A busy timeout of the block's own is the block's."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
        with contextlib.suppress(StoreError), store.transaction() as connection:
            connection.set_busy_timeout(0)
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with contextlib.closing(other):
            waiting = begin(lambda: store.append(entry(1)))
            assert not _ends_within(waiting, 0.2)
            other.execute("ROLLBACK")
            assert result(waiting).position == 1


def _ends_within(future: Any, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(seconds)
    return bool(future.done())


def test_a_trace_of_the_blocks_own_sees_the_blocks_statements_only(sink: CheckpointStore) -> None:
    """Milepost's own rows are not run through what the caller makes of rows."""
    rows: list[object] = []
    with sink.transaction() as connection:
        connection.row_trace = lambda _cursor, row: rows.append(row) or {"amount": row[0]}  # type: ignore[func-returns-value]
        connection.execute("INSERT INTO sink VALUES (5)")
        sink.append(entry(4))
        assert sink.latest() == entry(4)
        found: list[object] = list(connection.execute("SELECT amount FROM sink"))
        assert found == [{"amount": 5}]
    assert rows == [(5,)]
    _sound(sink, [1, 2, 3, 4])


# Outside of the block

USES: Final[dict[str, Callable[[apsw.Connection, apsw.Cursor], object]]] = {
    "execute": lambda connection, _: connection.execute("INSERT INTO sink VALUES (9)"),
    "executemany": lambda connection, _: connection.executemany("INSERT INTO sink VALUES (?)", [(9,)]),
    "cursor": lambda connection, _: connection.cursor().execute("INSERT INTO sink VALUES (9)"),
    "pragma": lambda connection, _: connection.pragma("user_version"),
    "BEGIN": lambda connection, _: connection.execute("BEGIN IMMEDIATE"),
    "a cursor's execute": lambda _, cursor: cursor.execute("INSERT INTO sink VALUES (9)"),
    "a cursor's executemany": lambda _, cursor: cursor.executemany("INSERT INTO sink VALUES (?)", [(9,)]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("left", ["in order", "by an exception"])
def test_the_connection_and_its_cursors_are_refused_outside_of_the_block(sink: CheckpointStore, use: str, left: str) -> None:
    """What they wrote would be committed at once, with nothing that it belongs to."""
    with contextlib.suppress(KeyError), sink.transaction() as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO sink VALUES (5)")
        if left == "by an exception":
            raise KeyError
    with pytest.raises(StoreError, match="block"):
        USES[use](connection, cursor)
    with sink.transaction() as second, pytest.raises(StoreError, match="block"):
        assert second is not None
        USES["a cursor's execute"](connection, cursor)
    assert _amounts(sink) == ([5] if left == "in order" else [])
    _sound(sink, [1, 2, 3])


def test_the_connection_cannot_be_closed_in_a_block(sink: CheckpointStore) -> None:
    """It is the store's; the block goes on."""
    with sink.transaction() as connection:
        with pytest.raises(StoreError):
            connection.close()
        with pytest.raises(StoreError):
            connection.close(True)
        sink.append(entry(4))
    _sound(sink, [1, 2, 3, 4])


def test_a_cursor_left_open_is_closed_or_told_and_what_is_read_is_new(sink: CheckpointStore, path: Path) -> None:
    """It would keep the connection in the past: reads stale in silence, and no append."""
    with sink.transaction() as connection:
        connection.executemany("INSERT INTO sink VALUES (?)", [(n,) for n in range(1000)])
    with contextlib.suppress(StoreError), sink.transaction() as connection:
        half_read = iter(connection.execute("SELECT amount FROM sink"))
        assert next(half_read) == (0,)
    with CheckpointStore(path, durability="normal") as other:
        other.append(entry(4))
    assert sink.latest() == entry(4)
    with pytest.raises((MilepostError, apsw.Error, StopIteration)):
        next(half_read)
    assert sink.append(entry(5)).position == 5
    with sink.transaction() as connection:
        assert connection.execute("SELECT max(position) FROM entry").get == 5
    _sound(sink, [1, 2, 3, 4, 5])


# Durable when it ends


@pytest.mark.parametrize("change", ["nothing", "a TEMP table", "an attached file"])
def test_a_block_that_changes_nothing_of_the_file_still_syncs_for_its_duplicate(path: Path, change: str) -> None:
    """Whoever recorded it first may have been killed before the sync: what is acknowledged again is durable."""
    syncs: list[str] = []

    def attach(connection: apsw.Connection) -> None:
        connection.execute("ATTACH ':memory:' AS other; CREATE TABLE other.seen (id INTEGER)")

    with disk(on_sync=syncs.append) as vfs, CheckpointStore(path, vfs=vfs, on_connect=attach) as store:
        store.append(entry(1))
        syncs.clear()
        with store.transaction() as connection:
            if change == "a TEMP table":
                connection.execute("CREATE TEMP TABLE seen (id INTEGER)")
                connection.execute("INSERT INTO temp.seen VALUES (1)")
            elif change == "an attached file":
                connection.execute("INSERT INTO other.seen VALUES (1)")
            assert store.append(entry(1)).duplicate
        assert f"{path}-wal" in syncs


# on_connect


def _twice(*amounts: Any) -> int:
    return sum(map(int, amounts)) * 2


def test_what_on_connect_puts_on_the_connection_is_there_in_every_block(path: Path) -> None:
    """Functions, collations and attached files of the sink's own; called once for each opening of the file to write."""
    opened: list[apsw.Connection] = []

    def prepare(connection: apsw.Connection) -> None:
        opened.append(connection)
        connection.create_scalar_function("twice", _twice)
        connection.create_collation("backwards", lambda one, two: (one < two) - (one > two))
        connection.execute("ATTACH ':memory:' AS other")

    for opening in (1, 2):
        with CheckpointStore(path, durability="normal", on_connect=prepare) as store:
            for block in (1, 2):
                with store.transaction() as connection:
                    assert connection is opened[-1]
                    connection.execute("CREATE TABLE IF NOT EXISTS sink (word TEXT COLLATE backwards, amount INTEGER)")
                    connection.execute("INSERT INTO sink VALUES (?, twice(?))", (f"{opening}{block}", opening))
                    connection.execute("CREATE TABLE IF NOT EXISTS other.seen (id)")
                    store.append(entry(2 * opening + block))
            assert len(opened) == opening
    with CheckpointStore(path, durability="normal", on_connect=prepare) as store, store.transaction() as connection:
        found = connection.execute("SELECT word, amount FROM sink ORDER BY word").fetchall()
        assert found == [("22", 4), ("21", 4), ("12", 2), ("11", 2)]
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 4
    assert len(opened) == 3


def test_on_connect_that_raises_leaves_nothing_open(path: Path) -> None:
    """The exception is the caller's own; the file is taken by the next one."""
    with pytest.raises(ZeroDivisionError):
        CheckpointStore(path, on_connect=_fail)
    with pytest.raises(MilepostError), CheckpointStore(path, on_connect=lambda connection: connection.execute("BEGIN")):
        pass
    assert not path.with_name(f"{path.name}-wal").exists()
    with CheckpointStore(path, busy_timeout_ms=0) as store:
        store.append(entry(1))


def test_on_connect_must_be_callable(path: Path) -> None:
    """Told before anything is made."""
    with pytest.raises(MilepostError, match="on_connect is 'sink'"):
        CheckpointStore(path, on_connect="sink")  # type: ignore[arg-type]
    assert list(path.parent.iterdir()) == []


# A close that was interrupted


@contextlib.contextmanager
def _interrupted(at_call: int) -> Iterator[None]:
    """Raise KeyboardInterrupt as a Python function begins, which is where signal handlers run: of so many, the last."""
    left = at_call

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal left
        if event == "call":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def test_a_close_that_was_interrupted_is_closed_by_the_next_one(path: Path) -> None:
    """Wherever the interrupt came: the WAL is written back, and nothing keeps the file."""
    for at_call in range(1, 200):
        store = CheckpointStore(path, durability="normal")
        store.append(entry(at_call))
        try:
            with _interrupted(at_call):
                store.close()
            break
        except KeyboardInterrupt:
            in_time(store.close)
            assert [file.name for file in path.parent.iterdir()] == [path.name], f"interrupted at call {at_call}"
    assert 3 < at_call < 199
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == at_call
        assert reader.verify().ok


def test_a_block_that_is_ended_twice_is_ended_once(path: Path) -> None:
    """As by an exit stack and a `with`; another block that is open then stays open."""
    with CheckpointStore(path, durability="normal") as store:
        block = store.transaction()
        block.__enter__()
        store.append(entry(1))
        block.__exit__(None, None, None)
        block.__exit__(None, None, None)
        with store.transaction():
            store.append(entry(2))
            block.__exit__(ValueError, ValueError(), None)
            store.append(entry(3))
        assert len(store) == 3


def test_a_block_that_is_ended_again_after_the_store_was_closed_is_told_unless_an_exception_ends_it(path: Path) -> None:
    """The exception then comes out as it is."""
    store = CheckpointStore(path, durability="normal")
    block = store.transaction()
    block.__enter__()
    block.__exit__(None, None, None)
    store.close()
    block.__exit__(ValueError, ValueError(), None)
    with pytest.raises(ClosedStoreError):
        block.__exit__(None, None, None)


def test_a_handler_that_closes_the_store_in_a_block_and_ends_the_program_ends_it(path: Path) -> None:
    """As a handler of SIGTERM does: the block is undone, and SystemExit comes out, from an inner block too."""
    for inner in (False, True):
        store = CheckpointStore(path, durability="normal")
        with pytest.raises(SystemExit), store.transaction(), store.transaction() if inner else contextlib.nullcontext():
            store.append(entry(1))
            store.close()
            raise SystemExit
        with CheckpointStore(path, busy_timeout_ms=0) as another:
            assert len(another) == 0


@pytest.mark.parametrize("call", ["write", "read"])
def test_a_handler_that_closes_the_store_within_a_call_in_a_block_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The call would go on with a closed connection. The block is kept."""
    with CheckpointStore(path, durability="normal") as store:
        told: list[MilepostError] = []

        def close(*_: object) -> int:
            try:
                store.close()
            except MilepostError as error:
                told.append(error)
            return 0

        with store.transaction():
            store.append(entry(1))
            if call == "write":
                monkeypatch.setattr(store, "_clock", close)
                store.advance("run-8", "load", Watermark(1, 1), idempotency_key="1")
            else:
                writer(store).read(close)
        assert len(told) == 1
        assert "signal handler" in str(told[0])
        assert len(store) == (2 if call == "write" else 1)


def test_an_interrupt_in_an_inner_block_that_sqlite_has_undone_comes_out_as_it_is(sink: CheckpointStore) -> None:
    """Only an exception of SQLite's becomes one of ours."""
    with pytest.raises(SystemExit), sink.transaction() as connection, sink.transaction():
        with pytest.raises(apsw.ConstraintError):
            connection.execute("INSERT OR ROLLBACK INTO sink VALUES (NULL)")
        raise SystemExit
    _sound(sink, [1, 2, 3])


def test_what_reads_while_a_block_ends_sees_what_is_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler, say: before the commit nothing of the block, after it all; and it is told nothing untrue."""
    with CheckpointStore(path, durability="normal") as store:
        seen: list[int] = []
        for owner, moment in ((writer(store)._file_lock, "let_others_in"), (writer(store), "_before_acknowledging")):
            original = getattr(owner, moment)

            def and_read(*given: Any, original: Any = original) -> None:
                seen.append(len(store))
                original(*given)

            monkeypatch.setattr(owner, moment, and_read)
        with store.transaction():
            store.append(entry(1))
            assert len(store) == 1
        assert seen == [0, 1]


def test_a_block_is_not_taken_for_one_of_a_new_thread_that_has_the_number_of_its_own(path: Path) -> None:
    """Its thread has ended, and Python gives the number to the next: that one waits, as any other thread does."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=30) as store:

        def enter(block: Block) -> int:
            block.__enter__()
            return threading.get_ident()

        def write() -> int:
            with pytest.raises(StoreBusyError):
                store.append(entry(1))
            return threading.get_ident()

        for _ in range(20):
            block = store.transaction()
            with_ = [block.__exit__]
            try:
                number = in_time(lambda block=block: enter(block))  # type: ignore[misc]
                time.sleep(0.005)  # in which the thread ends
                if in_time(write) == number:
                    return
            finally:
                with_.pop()(None, None, None)
    pytest.skip("no thread has got the number of one before it")


# The end of a block that others look at, or that an exit stack holds


def test_looking_at_an_open_block_changes_nothing(sink: CheckpointStore) -> None:
    """As a debugger does, and whoever asks whether it is a context manager."""

    async def main() -> None:
        block = sink.transaction()
        async with block as connection:
            connection.execute("INSERT INTO sink VALUES (2)")
            assert hasattr(block, "__aexit__")
            assert inspect.getmembers(block)
            await sink.append_async(entry(5))

    block = sink.transaction()
    with block as connection:
        connection.execute("INSERT INTO sink VALUES (1)")
        assert hasattr(block, "__exit__")
        assert inspect.getmembers(block)
        sink.append(entry(4))
    asyncio.run(main())
    assert _amounts(sink) == [1, 2]
    _sound(sink, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_an_exit_stack_ends_a_block(sink: CheckpointStore, looked_at: bool, fails: bool) -> None:
    """It commits, or an exception undoes it, though somebody has looked at its end before; `async with` too."""

    def given() -> Block:
        block = sink.transaction()
        assert not looked_at or (hasattr(block, "__exit__") and hasattr(block, "__aexit__"))
        return block

    def write(connection: apsw.Connection, amount: int) -> None:
        connection.execute("INSERT INTO sink VALUES (?)", (amount,))
        sink.append(entry(3 + amount))
        gc.collect()
        connection.execute("INSERT INTO sink VALUES (?)", (amount,))
        if fails:
            raise ValueError(amount)

    async def main() -> None:
        with contextlib.suppress(ValueError):
            async with contextlib.AsyncExitStack() as stack:
                write(await stack.enter_async_context(given()), 2)
        await asyncio.wait_for(sink.append_async(entry(6)), 10)

    with contextlib.suppress(ValueError), contextlib.ExitStack() as stack:
        write(stack.enter_context(given()), 1)
    asyncio.run(main())
    assert _amounts(sink) == ([] if fails else [1, 1, 2, 2])
    _sound(sink, [1, 2, 3, 6] if fails else [1, 2, 3, 4, 5, 6])


def test_a_block_that_was_undone_before_its_end_tells_so_at_its_end(sink: CheckpointStore) -> None:
    """Entered by hand, with an `__exit__` that was taken and then dropped; used once more, it is as any."""
    block = sink.transaction()
    end = block.__exit__
    block.__enter__().execute("INSERT INTO sink VALUES (1)")
    sink.append(entry(4))
    del end
    with pytest.raises(StoreError, match="undone before its end"):
        block.__exit__(None, None, None)
    with block as connection:
        connection.execute("INSERT INTO sink VALUES (2)")
    assert _amounts(sink) == [2]
    _sound(sink, [1, 2, 3])


def test_the_connection_of_a_threads_block_refuses_other_threads(sink: CheckpointStore) -> None:
    """Also one that was kept from a block before: what it wrote would be undone with another thread's block."""
    with sink.transaction() as kept:
        kept.execute("INSERT INTO sink VALUES (1)")

    def write() -> None:
        with pytest.raises(StoreError, match="belongs to the thread that has opened the block"):
            kept.execute("INSERT INTO sink VALUES (2)")
        with pytest.raises(StoreError, match="belongs to the thread"):
            kept.cursor().executemany("INSERT INTO sink VALUES (?)", [(2,)])

    with sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (3)")
        in_time(write)
    assert _amounts(sink) == [1, 3]


# What the body leaves open


@pytest.mark.parametrize("writeable", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_blob_that_the_body_has_left_open_is_closed_with_the_block(
    sink: CheckpointStore, writeable: bool, fails: bool
) -> None:
    """As a cursor is: it would keep the transaction from ending, and every call after it."""
    with sink.transaction() as connection:
        connection.execute("CREATE TABLE blobs (content BLOB)")
        connection.execute("INSERT INTO blobs VALUES (zeroblob(9))")
    kept: list[apsw.Blob] = []
    with contextlib.suppress(ZeroDivisionError), sink.transaction() as connection:
        sink.append(entry(4))  # a blob that is open to write keeps it from being appended after that
        kept.append(connection.blob_open("main", "blobs", "content", 1, writeable))
        kept[0].read(1)
        if fails:
            raise ZeroDivisionError
    with pytest.raises(ValueError, match="closed"):
        kept[0].read(1)
    _sound(sink, [1, 2, 3] if fails else [1, 2, 3, 4])


def test_what_an_interrupt_has_left_open_of_a_block_is_closed_before_the_next_write(
    sink: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that stays active would hold back the WAL, and the answers of commits that stand."""
    kept: list[apsw.Cursor] = []

    def interrupted(turn: BlockTurn, timeout_s: float, *, interrupt: bool) -> None:
        patch.undo()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockTurn, "close", interrupted)
        with pytest.raises(KeyboardInterrupt), sink.transaction() as connection:
            kept.append(connection.execute("SELECT position FROM entry"))
            next(kept[0])
    assert sink.append(entry(4)).position == 4
    with pytest.raises(apsw.CursorClosedError):
        kept[0].fetchall()
    _sound(sink, [1, 2, 3, 4])


def test_a_commit_beside_a_statement_that_stays_active_is_answered(sink: CheckpointStore) -> None:
    """It stands: only the WAL cannot be written back meanwhile."""
    statements = writer(sink)._lent
    statements.rules.ours = True
    active = apsw.Cursor(statements)
    active.execute("SELECT position FROM entry")
    next(active)
    before = len(sink)
    with contextlib.suppress(StoreError):  # of the snapshot that the statement reads
        sink.append(entry(4))
    active.close(True)
    assert len(sink) in {before, before + 1}
    sink.append(entry(5))
    sink.verify().raise_if_broken()


def test_a_function_of_sql_that_writes_within_an_insert_is_told_what_is_in_its_way(sink: CheckpointStore) -> None:
    """No other writer is: a retry would not help."""
    told: list[MilepostError] = []

    def write(*_: Any) -> int:
        try:
            sink.append(entry(4))
        except MilepostError as error:
            told.append(error)
        return 1

    with sink.transaction() as connection:
        connection.create_scalar_function("write", write)
        connection.execute("INSERT INTO sink SELECT write()")
    assert len(told) == 1
    assert not isinstance(told[0], StoreBusyError)
    assert "a statement of the block is not over" in str(told[0])
    _sound(sink, [1, 2, 3])

"""The sink's own tables commit with the checkpoints, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import apsw
import pytest

from milepost import CheckpointStore, ClosedStoreError, Receipt, SequenceError, StoreError, StoreFullError, bound
from milepost.append import Appender
from support.chains import chain, entry

if TYPE_CHECKING:
    from pathlib import Path


def _total(store: CheckpointStore) -> int:
    with store.transaction() as connection:
        total: int = connection.execute("SELECT coalesce(sum(amount), 0) FROM sink").get
        return total


@pytest.fixture
def sink(store: CheckpointStore) -> CheckpointStore:
    """A store whose file has a table of the sink's own."""
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (amount INTEGER NOT NULL) STRICT")
    return store


def test_writes_and_checkpoints_of_a_block_are_there_together(sink: CheckpointStore, path: Path) -> None:
    """Both are on disk when the block has ended, for other processes too."""
    with sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (5)")
        receipt = sink.append(entry(1))
        assert sink.latest() == entry(1)
        with CheckpointStore.open_readonly(path) as reader:
            assert reader.latest() is None
    assert receipt == Receipt(1, sink.chain_signature())
    assert _total(sink) == 5
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.latest() == entry(1)


def test_an_exception_undoes_the_writes_and_the_checkpoints(sink: CheckpointStore) -> None:
    """It passes through, and neither is there."""
    with pytest.raises(ZeroDivisionError), sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (5)")
        sink.append_many(chain(3))
        raise ZeroDivisionError
    assert _total(sink) == 0
    assert len(sink) == 0
    assert sink.runs() == []


def test_an_error_in_the_blocks_own_sql_passes_through_unchanged(sink: CheckpointStore) -> None:
    """The block talks to APSW, so APSW's exceptions are its own."""
    with pytest.raises(apsw.SQLError, match="no such table: nowhere"), sink.transaction() as connection:
        sink.append(entry(1))
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert len(sink) == 0


def test_a_rejection_that_the_block_catches_undoes_only_itself(sink: CheckpointStore) -> None:
    """What the block did before and after it stays."""
    with sink.transaction():
        sink.append(entry(2))
        with pytest.raises(SequenceError, match="is not above the last one"):
            sink.append_many([entry(3), entry(1, key="late")])
        sink.append(entry(4))
    assert list(sink.history()) == [entry(2), entry(4)]


def test_a_block_inside_a_block_is_undone_alone(sink: CheckpointStore) -> None:
    """An inner block is a savepoint of the outer one."""
    with sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (1)")
        with pytest.raises(ZeroDivisionError), sink.transaction() as inner:
            assert inner is connection
            inner.execute("INSERT INTO sink VALUES (10)")
            sink.append(entry(1, run_id="undone"))
            raise ZeroDivisionError
        sink.append(entry(1))
    assert _total(sink) == 1
    assert list(sink.history()) == [entry(1)]
    assert [run.run_id for run in sink.runs()] == ["run-7"]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "END", "BEGIN", "ROLLBACK; BEGIN IMMEDIATE"])
def test_a_block_cannot_end_its_own_transaction(sink: CheckpointStore, statement: str) -> None:
    """It is refused at the statement, and the block goes on: half of what belongs together is never committed."""
    with sink.transaction() as connection:
        connection.execute("INSERT INTO sink VALUES (5)")
        sink.append(entry(1))
        with pytest.raises(StoreError, match="which begins and ends the transaction itself"):
            connection.execute(statement)
        connection.execute("INSERT INTO sink VALUES (6)")
    assert _total(sink) == 11
    assert list(sink.history()) == [entry(1)]


def _rolled_back_by_sqlite(store: CheckpointStore, connection: apsw.Connection) -> None:
    """As a constraint of the sink's own may do, or a disk that is full."""
    connection.execute("INSERT INTO sink VALUES (5)")
    store.append(entry(1))
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT OR ROLLBACK INTO sink VALUES (NULL)")


def test_a_block_that_sqlite_has_rolled_back_keeps_nothing_and_is_told(sink: CheckpointStore) -> None:
    """The store goes on afterwards."""
    with pytest.raises(StoreError, match="SQLite rolled the transaction back"), sink.transaction() as connection:
        _rolled_back_by_sqlite(sink, connection)
    assert _total(sink) == 0
    sink.append(entry(1))
    assert list(sink.history()) == [entry(1)]


def test_a_write_with_which_sqlite_rolls_a_block_back_is_told_by_its_own_error(
    sink: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say; and the block by another one, once it ends."""

    def full(end: Appender, *given: object) -> NoReturn:
        end.statements.execute("ROLLBACK")
        raise apsw.FullError

    monkeypatch.setattr(Appender, "append_many", full)
    rolled_back = pytest.raises(StoreError, match="SQLite rolled the transaction back")
    with rolled_back, sink.transaction(), pytest.raises(StoreFullError):
        sink.append_many([entry(1)])
    assert sink.append(entry(1)).position == 1


def test_what_has_rolled_a_block_back_is_the_cause_of_what_its_end_tells(sink: CheckpointStore) -> None:
    """Who reads the traceback sees which constraint it was."""
    with pytest.raises(StoreError, match="SQLite rolled the transaction back") as told, sink.transaction() as connection:
        connection.execute("INSERT OR ROLLBACK INTO sink VALUES (NULL)")
    assert isinstance(told.value.__cause__, apsw.ConstraintError)
    assert "NOT NULL constraint failed: sink.amount" in str(told.value)


def test_a_full_disk_that_has_rolled_a_block_back_is_told_as_that(sink: CheckpointStore) -> None:
    """In a statement of the block's own too."""
    with pytest.raises(StoreFullError), sink.transaction() as connection:
        _rolled_back_by_sqlite(sink, connection)
        raise apsw.FullError
    assert _total(sink) == 0


def test_nothing_is_done_in_a_block_that_sqlite_has_rolled_back(sink: CheckpointStore) -> None:
    """An append, a read or a statement of the caller's would be in autocommit, so each is refused."""
    with pytest.raises(StoreError, match="SQLite rolled the transaction back"), sink.transaction() as connection:
        _rolled_back_by_sqlite(sink, connection)
        for use in (
            lambda: sink.append(entry(1)),
            lambda: connection.execute("INSERT INTO sink VALUES (6)"),
            lambda: len(sink),
            lambda: sink.transaction().__enter__(),
        ):
            with pytest.raises(StoreError, match="SQLite rolled the transaction back"):
                use()
    assert (_total(sink), len(sink)) == (0, 0)


@pytest.mark.parametrize("statement", ["UPDATE entry SET offset = 0", "DELETE FROM entry"])
def test_recorded_checkpoints_cannot_be_changed_by_mistake(sink: CheckpointStore, path: Path, statement: str) -> None:
    """In a block the statement is refused; through another program, triggers stop it."""
    sink.append(entry(1))
    with sink.transaction() as connection, pytest.raises(StoreError, match="only milepost writes"):
        connection.execute(statement)
    other = apsw.Connection(str(path))
    with pytest.raises(apsw.ConstraintError, match="a recorded checkpoint is never"):
        other.execute(statement)
    other.close()
    assert list(sink.history()) == [entry(1)]


def test_a_store_closed_within_a_block_keeps_nothing_of_it(path: Path) -> None:
    """The block's end says that the store is closed."""
    store = CheckpointStore(path)

    def run() -> None:
        with store.transaction():
            store.append(entry(1))
            store.close()

    with pytest.raises(ClosedStoreError):
        run()
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 0


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(), apsw.SQLError("no such table: nowhere")])
def test_an_error_after_a_store_was_closed_within_a_block_passes_through_unchanged(path: Path, error: BaseException) -> None:
    """Whatever the block raises."""
    store = CheckpointStore(path)
    with pytest.raises(type(error)) as caught, store.transaction():
        store.close()
        raise error
    assert caught.value is error
    assert error.__cause__ is None


def test_what_a_block_runs_may_take_as_long_as_it_takes(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the store's own queries are bounded by the size of the file; nor is its check of a sink with many rules."""
    monkeypatch.setattr(bound, "_STEPS_PER_BYTE", 0)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT {} FROM n"
    checks = ", ".join(f"CHECK (amount < {1000 + n})" for n in range(20))
    with store.transaction() as connection:
        assert connection.execute(many.format(400_000, "count(*)")).get == 400_000
        store.append(entry(1))
        assert connection.execute(many.format(400_000, "max(i)")).get == 400_000
        connection.execute(f"CREATE TABLE sink (amount INTEGER NOT NULL, {checks}) STRICT")
        connection.execute(f"INSERT INTO sink {many.format(50_000, 0)}")
    assert store.verify().ok


def test_a_batch_may_be_as_long_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds the store's own queries by the size of the file does not count what goes on writing rows."""
    monkeypatch.setattr(bound, "_STEPS_PER_BYTE", 0)
    monkeypatch.setattr(bound, "STEPS", 20_000)  # a tenth, for a batch that need not be so long
    with CheckpointStore(path, durability="normal") as store:
        assert store.append_many(chain(5_000)).appended == 5_000

"""`store.sql`: any question, one statement, nothing but reading; its answer is a frame that holds nothing open."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointStore, ClosedStoreError, InvalidArgumentError, StoreError
from support.chains import chain, entry, mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with a chain of runs and stages in turns, and a table of the sink's."""
    with CheckpointStore(tmp_path_factory.mktemp("sql") / "store", durability="normal") as store:
        store.append_many(mixed(100))
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (number INTEGER, name TEXT, share REAL, raw BLOB)")
            connection.execute("INSERT INTO sink VALUES (1, 'one', 0.5, x'00ff'), (NULL, NULL, NULL, NULL)")
        yield store


def _answer(store: CheckpointStore, statement: str, parameters: Any = ()) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.sql(statement, parameters).to_arrow().to_pylist()
    return rows


def test_the_view_of_checkpoints_can_be_asked(recorded: CheckpointStore) -> None:
    """It counts what a list comprehension counts."""
    found = _answer(recorded, "SELECT stage, count(*) AS entries FROM checkpoint GROUP BY stage ORDER BY stage")
    stages = [e.stage for e in mixed(100)]
    assert found == [{"stage": stage, "entries": stages.count(stage)} for stage in sorted(set(stages))]


def test_other_tables_can_be_asked_and_null_fits_every_type(recorded: CheckpointStore) -> None:
    """Integers, floats, text and bytes arrive as what they are."""
    frame = recorded.sql("SELECT * FROM sink")
    assert frame.to_arrow().schema.types == [pa.int64(), pa.string(), pa.float64(), pa.binary()]
    assert frame.to_arrow().to_pylist() == [
        {"number": 1, "name": "one", "share": 0.5, "raw": b"\x00\xff"},
        dict.fromkeys(("number", "name", "share", "raw")),
    ]


def test_parameters_are_bound_by_place_or_by_name(recorded: CheckpointStore) -> None:
    """Never put into the text: a hostile value is a value."""
    hostile = "'; DROP TABLE entry; --"
    assert _answer(recorded, "SELECT ? AS a, ? AS b", (hostile, 2)) == [{"a": hostile, "b": 2}]
    assert _answer(recorded, "SELECT :a AS a", {"a": hostile}) == [{"a": hostile}]
    assert _answer(recorded, "SELECT ? AS a", [None]) == [{"a": None}]


values = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False))),
    st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))),
    st.lists(st.one_of(st.none(), st.binary())),
)


def test_a_column_of_one_type_comes_back_as_it_is(recorded: CheckpointStore) -> None:
    """Whatever the values; SQLite itself gives them."""

    @given(values)
    def check(column: list[Any]) -> None:
        statement = " UNION ALL ".join(["SELECT ? AS a"] * len(column)) or "SELECT 1 AS a WHERE false"
        assert [row["a"] for row in _answer(recorded, statement, column)] == column

    check()


def test_an_answer_without_a_value_has_the_declared_types(recorded: CheckpointStore) -> None:
    """An empty answer can be joined with others; where nothing is declared, it is text."""
    schema = recorded.sql("SELECT *, 1 + number AS free FROM sink WHERE number > 9").to_arrow().schema
    assert schema.types == [pa.int64(), pa.string(), pa.float64(), pa.binary(), pa.string()]


def test_an_int_beside_a_float_is_a_float(recorded: CheckpointStore) -> None:
    """As long as that changes no value."""
    assert _answer(recorded, "VALUES (1), (0.5)") == [{"column1": 1.0}, {"column1": 0.5}]
    with pytest.raises(InvalidArgumentError, match="column 'column1' has float and int: CAST it to one type"):
        recorded.sql("VALUES (9007199254740993), (0.5)")


@pytest.mark.parametrize("mixture", ["1), ('one'", "'one'), (x'00'", "0.5), (x'00'"])
def test_a_column_of_several_types_is_refused(recorded: CheckpointStore, mixture: str) -> None:
    """It names the column, and what to do."""
    with pytest.raises(InvalidArgumentError, match=r"column 'column1' has .* and .*: CAST it to one type"):
        recorded.sql(f"VALUES ({mixture})")


def test_columns_of_one_name_get_names_of_their_own(recorded: CheckpointStore) -> None:
    """Also where only case differs, which DuckDB does not see, and where the new name is taken."""
    frame = recorded.sql("SELECT 1 AS a, 2 AS a, 3 AS A, 4 AS a_2")
    assert frame.columns == ["a", "a_2", "A_3", "a_2_2"]
    assert duckdb.sql("SELECT * FROM frame").fetchall() == [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO sink VALUES (2, 'two', 0, NULL)",
        "UPDATE sink SET number = 2",
        "DELETE FROM sink",
        "WITH w AS (SELECT 1) INSERT INTO sink (number) SELECT * FROM w",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "DROP TABLE sink",
        "ALTER TABLE sink ADD COLUMN more",
        "PRAGMA query_only = 0",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = delete",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "ATTACH ':memory:' AS other",
        "VACUUM INTO 'copy'",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT mine",
    ],
)
def test_what_does_not_only_read_is_refused(recorded: CheckpointStore, statement: str) -> None:
    """And nothing changes."""
    before = recorded.head(), _answer(recorded, "SELECT * FROM sink"), _answer(recorded, "SELECT * FROM sqlite_schema")
    with pytest.raises(InvalidArgumentError, match="must only read") as caught:
        recorded.sql(statement)
    assert (caught.value.argument, caught.value.value) == ("statement", statement)
    after = recorded.head(), _answer(recorded, "SELECT * FROM sink"), _answer(recorded, "SELECT * FROM sqlite_schema")
    assert after == before


@pytest.mark.parametrize("statement", ["SELECT 1; SELECT 2", "SELECT 1; DELETE FROM sink", "SELECT 1; ; SELECT 2 -- two"])
def test_several_statements_are_refused(recorded: CheckpointStore, statement: str) -> None:
    """Rather than answering one of them."""
    with pytest.raises(InvalidArgumentError, match=r"must be one statement|must only read"):
        recorded.sql(statement)


@pytest.mark.parametrize("statement", ["SELECT 1 AS a;", "SELECT 1 AS a -- one", "-- one\nSELECT 1 AS a; /* done */ ;"])
def test_a_semicolon_and_comments_make_no_second_statement(recorded: CheckpointStore, statement: str) -> None:
    """One statement is one statement."""
    assert _answer(recorded, statement) == [{"a": 1}]


@pytest.mark.parametrize(
    ("statement", "parameters", "argument", "message"),
    [
        ("", (), "statement", "must be a SELECT"),
        ("-- nothing", (), "statement", "must be a SELECT"),
        (7, (), "statement", "must be a str"),
        ("SELEC 1", (), "statement", 'near "SELEC": syntax error'),
        ("SELECT nowhere FROM checkpoint", (), "statement", "no such column: nowhere"),
        ("SELECT * FROM nowhere", (), "statement", "no such table: nowhere"),
        ('SELECT "\x1b[2J"', (), "statement", r"no such column: .*\\x1b\[2J"),
        ("SELECT abs(-9223372036854775807 - 1)", (), "statement", "integer overflow"),
        ("SELECT CAST(x'ff' AS TEXT)", (), "statement", "is not UTF-8"),
        ("SELECT load_extension('mine')", (), "statement", "not authorized to use function: load_extension"),
        ("SELECT ?", (), "parameters", "uses 1 and there are 0 supplied"),
        ("SELECT ?", (1, 2), "parameters", "uses 1 and there are 2 supplied"),
        ("SELECT :a", {"b": 1}, "parameters", "has no value for 'a'"),
        ("SELECT ?", (object(),), "parameters", "must be int of 64 bits, float, str, bytes or None"),
        ("SELECT ?", (2**64,), "parameters", "must be int of 64 bits, float, str, bytes or None"),
        ("SELECT ?", ("\ud800",), "parameters", "must be int of 64 bits, float, str, bytes or None"),
        ("SELECT ?", "a", "parameters", "must be a tuple or a list"),
    ],
)
def test_a_wrong_question_is_refused_with_the_message_of_sqlite(
    recorded: CheckpointStore, statement: Any, parameters: Any, argument: str, message: str
) -> None:
    """Naming the argument, on one line."""
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        recorded.sql(statement, parameters)
    assert caught.value.argument == argument
    assert str(caught.value).isprintable()


TAKERS: list[Callable[[Any], int]] = [
    lambda frame: pl.DataFrame(frame).height,
    lambda frame: pa.table(frame).num_rows,
    lambda frame: len(pd.DataFrame.from_arrow(frame)),
    lambda frame: len(duckdb.sql("SELECT * FROM frame").fetchall()),
]


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize(
    ("statement", "length"),
    [
        ("SELECT * FROM checkpoint", 100),
        ("SELECT * FROM checkpoint WHERE stage = 'none'", 0),
        ("SELECT NULL AS a", 1),
        ("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 25000) SELECT i FROM n", 25_000),
    ],
)
def test_each_library_takes_an_answer_as_it_is(
    recorded: CheckpointStore, take: Callable[[Any], int], statement: str, length: int
) -> None:
    """Twice, since it is in memory."""
    frame = recorded.sql(statement)
    assert [take(frame), take(frame)] == [length, length]


def test_inside_a_transaction_block_it_sees_what_was_committed(store: CheckpointStore) -> None:
    """Its connection is its own."""
    store.append(entry(1))
    with store.transaction():
        store.append(entry(2))
        assert _answer(store, "SELECT count(*) AS n FROM checkpoint") == [{"n": 1}]
    assert _answer(store, "SELECT count(*) AS n FROM checkpoint") == [{"n": 2}]


def test_an_answer_outlives_the_store_and_holds_nothing(path: Path) -> None:
    """The WAL is gone when the store is closed, and the answer is still there."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5))
        frame = store.sql("SELECT position FROM checkpoint")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert frame.to_polars()["position"].to_list() == [1, 2, 3, 4, 5]
    with pytest.raises(ClosedStoreError):
        store.sql("SELECT 1")


def test_a_readonly_store_answers_too(path: Path) -> None:
    """And its directory stays as it is."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5))
    with CheckpointStore.open_readonly(path) as store:
        assert _answer(store, "SELECT max(position) AS last FROM checkpoint") == [{"last": 5}]
    assert [path] == list(path.parent.iterdir())


def test_a_file_that_is_gone_is_a_store_error(path: Path) -> None:
    """Not a fault of the statement."""
    with CheckpointStore(path) as store:
        store.append(entry())
    with CheckpointStore.open_readonly(path) as store:
        path.rename(path.with_suffix(".away"))
        with pytest.raises(StoreError, match="no such file"):
            store.sql("SELECT 1")


def test_ctrl_c_stops_a_query_without_end(recorded: CheckpointStore) -> None:
    """And the store goes on."""
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        recorded.sql("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
    timer.join()
    assert _answer(recorded, "SELECT 1 AS a") == [{"a": 1}]


def test_a_virtual_table_of_the_file_can_be_read(store: CheckpointStore) -> None:
    """Full text search asks SQLite for its data version behind the scenes."""
    with store.transaction() as connection:
        connection.execute("CREATE VIRTUAL TABLE note USING fts5 (text)")
        connection.execute("INSERT INTO note VALUES ('the disk was full')")
    assert _answer(store, "SELECT text FROM note WHERE note MATCH 'full'") == [{"text": "the disk was full"}]

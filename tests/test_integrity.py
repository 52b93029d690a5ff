"""verify() has SQLite check the file: beside the pipeline, whatever tables others keep in it, and always to an end."""

from __future__ import annotations

import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, StoreError, Verification, rows, workers
from milepost.checkpoint import chain_signature
from support.chains import chain, entry
from support.command import warm_process
from support.tampering import empty_index, tamper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LENGTH: Final = 60
OPENERS: Final[tuple[Any, ...]] = (CheckpointStore, CheckpointStore.open_readonly)
PATIENCE_S: Final = 20.0
NODE_BYTES: Final = 820  # of an R-Tree with one dimension, whatever the page size is
COLUMNS: Final = ", ".join(f"c{n} INT NOT NULL AS ({' + '.join(['a'] * 500)})" for n in range(10))
CHECKS: Final = ", ".join(f"c{n} CHECK (c{n} IN ({', '.join(map(str, range(400)))}))" for n in range(5))


@pytest.fixture
def file(path: Path) -> Path:
    """A closed file with sixty entries."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
    return path


def run(file: Path, *statements: str) -> None:
    """Do something to the file that its pipeline does, with what only that knows."""
    connection = apsw.Connection(str(file))
    connection.create_collation("german", lambda one, other: (one > other) - (one < other))
    connection.create_scalar_function("netto", lambda *price: price[0], 1, deterministic=True)
    module: Any = _Csv()
    connection.create_module("csv", module)
    for statement in statements:
        connection.execute(statement)
    connection.close()


class _Csv:
    def Create(self, *_: object) -> tuple[str, object]:  # noqa: N802 - APSW's name
        return "CREATE TABLE t (x)", self

    Connect = Create

    def Disconnect(self) -> None:  # noqa: N802
        pass


NEEDING: Final = {
    "a collation": "CREATE TABLE sink (x TEXT COLLATE german PRIMARY KEY); INSERT INTO sink VALUES ('a')",
    "a function in an index": "CREATE TABLE sink (x); INSERT INTO sink VALUES (1); CREATE INDEX i ON sink (netto(x))",
    "a function in a column": "CREATE TABLE sink (x, y INT NOT NULL AS (netto(x))); INSERT INTO sink (x) VALUES (1)",
    "a longer text than SQLite has": (
        "CREATE TABLE sink (x INT, y BLOB NOT NULL AS (zeroblob(x))); INSERT INTO sink (x) VALUES (1000000); "
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '(x)', '(x * x)') WHERE name = 'sink'"
    ),
    "a module": "CREATE VIRTUAL TABLE sink USING csv(a)",
    "a tokenizer": (
        "CREATE VIRTUAL TABLE sink USING fts5(a); INSERT INTO sink VALUES ('x'); PRAGMA writable_schema = ON; "
        "UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE sink USING fts5(a, tokenize=german)' WHERE name = 'sink'"
    ),
}


def verify(file: Path, opener: Any = CheckpointStore.open_readonly, **options: Any) -> Verification:
    """What is found."""
    with opener(file) as store:
        found: Verification = store.verify(**options)
    return found


# Beside the pipeline


@pytest.fixture
def hook() -> Iterator[Callable[[Callable[[apsw.Connection], None]], None]]:
    """Do something with each connection that is made from now on, until the test ends."""
    kept = list(apsw.connection_hooks)
    yield apsw.connection_hooks.append
    apsw.connection_hooks[:] = kept


@pytest.mark.parametrize("options", [{}, {"run_id": "run-7"}])
def test_appends_and_lookups_go_on_while_the_file_is_checked(
    path: Path, hook: Callable[[Callable[[apsw.Connection], None]], None], options: dict[str, Any]
) -> None:
    """SQLite's check of a large file takes seconds, for which nothing of the store is held."""
    checking, appended, in_time = threading.Event(), threading.Event(), list[bool]()

    def trace(_cursor: object, statement: str, _bindings: object) -> bool:
        if "integrity_check" in statement:
            checking.set()
            in_time.append(appended.wait(PATIENCE_S))
        return True

    hook(lambda connection: setattr(connection, "exec_trace", trace))
    found: list[Verification] = []
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
        verifying = threading.Thread(target=lambda: found.append(store.verify(**options)))
        verifying.start()
        assert checking.wait(PATIENCE_S)
        store.append(entry(LENGTH + 1))
        assert store.latest() == entry(LENGTH + 1)
        appended.set()
        verifying.join()
    assert in_time == [True]
    assert found == [Verification(True, LENGTH, chain_signature(chain(LENGTH)), ())]


def test_a_block_that_is_open_is_judged_and_so_is_the_file_as_it_was_before(path: Path) -> None:
    """SQLite checks what is committed; the chain is the one that the block sees."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (x)")
            store.append(entry(LENGTH + 1))
            assert store.verify() == Verification(True, LENGTH + 1, chain_signature(chain(LENGTH + 1)), ())
        store.verify().raise_if_broken()


# Tables that only their own program can check


@pytest.mark.parametrize("statement", NEEDING.values(), ids=NEEDING.keys())
@pytest.mark.parametrize("opener", OPENERS)
def test_a_table_that_cannot_be_checked_is_named_and_the_chain_is_judged(file: Path, statement: str, opener: Any) -> None:
    """By who reads, and by who writes: neither knows what the sink's own program has put on its connection."""
    run(file, statement)
    sound = Verification(True, LENGTH, chain_signature(chain(LENGTH)), (), ("sink",))
    assert verify(file, opener) == sound
    assert verify(file, opener, run_id="run-7") == sound


@pytest.mark.parametrize("opener", OPENERS)
def test_what_another_demands_of_his_rows_is_his_own_affair(file: Path, opener: Any) -> None:
    """Nobody evaluates a CHECK here: it takes no function that is unknown, and says nothing about the file."""
    run(file, "CREATE TABLE sink (x CHECK (netto(x) > 0)); INSERT INTO sink VALUES (1)")
    assert verify(file, opener) == Verification(True, LENGTH, chain_signature(chain(LENGTH)), ())


@pytest.mark.usefixtures("warm_workers")
def test_workers_name_the_table_as_well(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And do not do their work for nothing."""
    monkeypatch.setattr(workers, "LEAST", 10)
    run(file, NEEDING["a collation"], NEEDING["a module"].replace("sink", "other"))
    alone = verify(file)
    monkeypatch.setattr(rows, "rows_after", None)  # of this process: it does not walk
    assert verify(file, workers=2) == alone
    assert set(alone.unchecked) == {"sink", "other"}


def test_a_fault_of_the_chain_is_found_beside_such_a_table(file: Path) -> None:
    """The table is named then, too."""
    run(file, NEEDING["a collation"])
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position = 30")
    found = verify(file)
    assert [(fault.kind, fault.position) for fault in found.faults] == [("link", 30)]
    assert found.unchecked == ("sink",)


@pytest.mark.parametrize("beside", [(), (NEEDING["a collation"],)], ids=["alone", "beside such a table"])
@pytest.mark.parametrize("index", ["entry_by_run", "entry_by_key"])
def test_an_index_of_ours_that_lacks_an_entry_is_found(file: Path, beside: tuple[str, ...], index: str) -> None:
    """Also where SQLite cannot check the file as a whole."""
    run(file, *beside)
    empty_index(file, index, "position <> 1")
    found = verify(file)
    assert {fault.kind for fault in found.faults} == {"file"}
    assert index in str(found.faults[0])
    assert found.unchecked == (("sink",) if beside else ())


def test_a_table_that_sqlite_takes_for_a_number_is_named_rather_than_called_sound(file: Path) -> None:
    """A sound table with such a name is checked with the whole file; where that cannot be, it cannot be checked."""
    run(file, 'CREATE TABLE "2026_orders" (x)', 'CREATE TABLE "; DROP TABLE entry; --\'" (x)')
    assert verify(file).unchecked == ()
    run(file, NEEDING["a function in an index"])
    assert set(verify(file).unchecked) == {"sink", "2026_orders"}
    run(file, 'DROP TABLE sink; CREATE VIRTUAL TABLE "7" USING fts5(a); INSERT INTO "7" VALUES (1)')
    assert verify(file).unchecked == ("7",)


def test_a_broken_table_of_another_is_told_beside_such_a_table(file: Path) -> None:
    """It is the file that is damaged; the chain in it is sound."""
    run(file, NEEDING["a collation"], "CREATE TABLE t (x NOT NULL); INSERT INTO t VALUES (1)")
    connection = apsw.Connection(str(file))
    connection.pragma("writable_schema", True)
    connection.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE t (x NOT NULL, y NOT NULL)' WHERE name = 't'")
    connection.close()
    found = verify(file)
    assert [(fault.kind, fault.found) for fault in found.faults] == [("file", "NULL value in t.y")]
    assert found.unchecked == ("sink",)


# Tables that take long


@pytest.mark.parametrize(
    ("columns", "opener"),
    [
        pytest.param(
            columns, opener, marks=pytest.mark.long if kind == "checks" or number == 0 else (), id=f"{kind}-{number}"
        )
        for kind, columns in {"generated columns": COLUMNS, "checks": CHECKS}.items()
        for number, opener in enumerate(OPENERS)
    ],
)
def test_a_table_whose_check_takes_many_steps_is_judged(file: Path, columns: str, opener: Any) -> None:
    """Some 400 steps of SQLite's for each byte of the file: its tree is sound, so the check comes to an end."""
    some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
    run(file, f"CREATE TABLE sink (a INT, {columns})", f"{some} INSERT INTO sink (a) SELECT i % 100 FROM n")
    assert verify(file, opener) == Verification(True, LENGTH, chain_signature(chain(LENGTH)), ())


def test_a_table_whose_check_is_too_long_a_program_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated columns of a hostile file: each doubles the program that SQLite makes, and forty would fill any memory."""
    monkeypatch.setattr(
        sys.modules["milepost.rows.integrity"], "_MOST_OPERATIONS", 100_000
    )  # else the test itself would have to wait
    doubling = ", ".join(f"c{n} INT NOT NULL AS (c{n - 1} + c{n - 1})" for n in range(1, 18))
    run(file, f"CREATE TABLE sink (c0 INT, {doubling})")
    assert verify(file) == Verification(True, LENGTH, chain_signature(chain(LENGTH)), (), ("sink",))


def test_a_table_of_ours_is_never_passed_over(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite has no memory to check it, that is an error and no verdict."""
    monkeypatch.setattr(sys.modules["milepost.rows.integrity"], "_MOST_OPERATIONS", 200)
    with pytest.raises(StoreError, match="ran out of memory"):
        verify(file)


def test_a_virtual_table_that_leads_in_circles_ends(file: Path) -> None:
    """An R-Tree whose nodes are their own children: SQLite's module would go through them 50 to the power of 30 times."""
    connection = apsw.Connection(str(file))
    connection.execute("CREATE VIRTUAL TABLE r USING rtree(id, x, y); DELETE FROM r_node; DELETE FROM r_parent")
    for node in range(1, 32):
        children = [node + 1 if node < 31 else 5, *[2] * 49]
        data = struct.pack(">HH", 30 if node == 1 else 0, 50)
        data += b"".join(struct.pack(">qff", child, -1e9, 1e9) for child in children)
        connection.execute("INSERT INTO r_node (nodeno, data) VALUES (?, ?)", (node, data.ljust(NODE_BYTES, b"\0")))
        connection.execute("INSERT INTO r_parent VALUES (?, ?)", (node + 1, node))
    connection.close()
    ended = warm_process("verify", file)  # which waits for a minute
    assert ended.returncode == 1
    assert b"a query on it does not end" in ended.stdout
    assert b"link" not in ended.stdout


@pytest.mark.parametrize(
    ("table", "beside"),
    [
        pytest.param("entry", "CREATE TABLE t (x)", id="entry-alone"),
        pytest.param("entry", NEEDING["a collation"], id="entry-beside such a table", marks=pytest.mark.long),
        pytest.param("other", "CREATE TABLE t (x)", id="other-alone", marks=pytest.mark.long),
        pytest.param("other", NEEDING["a collation"], id="other-beside such a table"),
    ],
)
def test_a_table_that_leads_in_circles_ends(file: Path, beside: str, table: str) -> None:
    """The last child of its root is the root: SQLite itself would walk along it for ever, with no step but the next row."""
    some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
    run(file, beside, f"CREATE TABLE other (x); {some} INSERT INTO other SELECT i FROM n")
    connection = apsw.Connection(str(file))
    size: Any = connection.pragma("page_size")
    root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    content = bytearray(file.read_bytes())
    assert content[(root - 1) * size] == 5  # a page that has children
    content[(root - 1) * size + 8 : (root - 1) * size + 12] = root.to_bytes(4, "big")
    file.write_bytes(content)
    ended = warm_process("verify", file)  # which waits for a minute
    assert ended.returncode == 1
    assert f"page {root}".encode() in ended.stdout


def test_a_problem_of_a_virtual_table_is_told_once_beside_others(file: Path) -> None:
    """Its module checks it, and nobody else."""
    run(file, "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('lost and found')")
    run(file, "UPDATE f_content SET c0 = 'found and lost again'")
    (of_module,) = verify(file).faults
    empty_index(file, "entry_by_key", "position <> 1")
    assert [fault for fault in verify(file).faults if fault.kind == "file"].count(of_module) == 1


def test_a_search_index_is_checked_by_its_module(file: Path) -> None:
    """Sound as long as it is; a fault of the file if what it was made from is another text."""
    run(file, "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('lost and found')")
    assert verify(file) == Verification(True, LENGTH, chain_signature(chain(LENGTH)), ())
    run(file, "UPDATE f_content SET c0 = 'found and lost again'")
    assert [fault.kind for fault in verify(file).faults] == ["file"]

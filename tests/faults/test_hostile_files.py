"""A file is untrusted input: damaged, or made by somebody who means ill, it is refused in words or answered rightly."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, DamagedStoreError, Head, MilepostError, NotAStoreError, Watermark, rows, schema
from milepost.checkpoint import chain_signature
from support.chains import chain, entry
from support.doors import wal
from support.fault_workload import NAME, fast_directory, lay
from support.programs import PROGRAMS, environment
from support.tampering import (
    ENTRIES,
    NEXT,
    PAGE_BYTES,
    Dose,
    Tally,
    answers,
    closed_store,
    cut,
    examine,
    mutate,
    tamper,
    with_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "7000"))
OPENERS: Final[tuple[Any, ...]] = (CheckpointStore.open_readonly, CheckpointStore)
HEAD: Final = Head(len(ENTRIES), chain_signature(ENTRIES))

ENDLESS: Final = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@pytest.fixture(scope="module")
def template() -> Iterator[tuple[Path, bytes]]:
    """A small store, to be laid anew for each deed."""
    with fast_directory() as directory:
        yield directory, closed_store(directory)[NAME]


def _laid(template: tuple[Path, bytes], *statements: str | tuple[str, tuple[Any, ...]], loose: bool = False) -> Path:
    """The store after somebody has run these statements on it."""
    directory, content = template
    lay(directory, {NAME: content})
    tamper(directory / NAME, *statements, loose=loose, triggers=False)
    return directory / NAME


def _probe(path: Path, where: str, tally: Tally) -> None:
    """Ask everything, to read and to write."""
    for writable in (False, True):
        examine(path, where, TRUTH, HEAD, Dose(notice=with_head, writable=writable), tally)
    for opener in OPENERS:
        try:
            with opener(path) as store:
                for verb in VERBS:
                    try:
                        verb(store)
                    except MilepostError:
                        continue
        except MilepostError:
            continue
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            tally.problems.append(f"{where}: {type(error).__name__}: {error}")


VERBS: Final[tuple[Callable[[CheckpointStore], object], ...]] = (
    lambda store: list(store.history("run-1", "load", after=3, limit=5)),
    lambda store: list(store.history(since=5, until=900, newest_first=True)),
    lambda store: [
        store.latest(as_of=500),
        store.latest("run-2", as_of=500),
        store.latest_for_stage("load", run_id="run-2"),
    ],
    lambda store: [store.verify(run_id=run_id) for run_id in ("run-0", "run-1", "run-2", "nobody")],
    lambda store: store.verify(trusted=HEAD),
    lambda store: store.append(ENTRIES[3]),
    lambda store: store.append_many([NEXT, NEXT._replace(run_id="new", stage="new")]),
    lambda store: store.advance("run-0", "load", Watermark(10**9, 2 * 10**12), idempotency_key="x"),
    lambda store: store.advance("run-0", "extract", Watermark(10**9, 2 * 10**12), idempotency_key="x"),
)


def _truth() -> list[object]:
    with fast_directory() as directory:
        lay(directory, closed_store(directory))
        with CheckpointStore.open_readonly(directory / NAME) as store:
            return answers(store)


TRUTH: Final = _truth()


# What is refused

SET: Final = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET"

REFUSED: Final = {
    "a trigger of our name": (
        "DROP TRIGGER IF EXISTS entry_is_never_deleted; "
        "CREATE TRIGGER entry_is_never_deleted AFTER INSERT ON entry BEGIN UPDATE entry SET entries_so_far = NULL; END"
    ),
    "a trigger before an insert": "CREATE TRIGGER x BEFORE INSERT ON run_stage BEGIN DELETE FROM entry; END",
    "a trigger instead of the view": "CREATE TRIGGER x INSTEAD OF INSERT ON checkpoint BEGIN DELETE FROM entry; END",
    "a view for a table": f"DROP TABLE run; CREATE VIEW run AS {ENDLESS}",
    "a virtual table for a table": "DROP TABLE stage; CREATE VIRTUAL TABLE stage USING fts5(x)",
    "a generated column": "ALTER TABLE entry ADD COLUMN x TEXT GENERATED ALWAYS AS (hex(signature))",
    "a column more": "ALTER TABLE run_stage ADD COLUMN x TEXT",
    "a column less": "DROP VIEW checkpoint; DROP INDEX entry_by_key; ALTER TABLE entry DROP COLUMN idempotency_key",
    "an index on an expression": "CREATE INDEX x ON entry (abs(offset))",
    "an index of our name on less": "DROP INDEX entry_by_key; CREATE INDEX entry_by_key ON entry (idempotency_key)",
    "a table that is not strict": "DROP TABLE run; CREATE TABLE run (run_number INTEGER PRIMARY KEY, run_id TEXT UNIQUE)",
    "schema text that is none": f"{SET} sql = 'CREATE nothing' WHERE name = 'run'",
    "schema text that is a number": f"{SET} sql = 7 WHERE name = 'run'",
    "schema text that is not UTF-8": (f"{SET} sql = CAST(x'ff00ff' AS TEXT) WHERE name = 'run'"),
    "a name that is not UTF-8": (f"{SET} name = CAST(x'ff' AS TEXT) WHERE name = 'entry_by_run'"),
    "no name": f"{SET} name = NULL WHERE name = 'entry_by_run'",
    "two trees in one place": f"{SET} rootpage = 2 WHERE name = 'entry_by_run'",
    "a tree beyond the file": f"{SET} rootpage = 1e6 WHERE name = 'entry_by_run'",
    "a tree on the first page": f"{SET} rootpage = 1 WHERE name = 'entry'",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_schema_is_refused_or_its_faults_are_found(template: tuple[Path, bytes], statement: str) -> None:
    """Promise E2: nothing that its maker wrote is run; where the schema is ours, verify() sees what it leads to."""
    path = _laid(template, statement)
    tally = Tally()
    _probe(path, statement, tally)
    assert (tally.missed, tally.problems) == ([], [])
    for opener in OPENERS:
        try:
            store = opener(path)
        except (NotAStoreError, DamagedStoreError) as error:
            assert str(path) in str(error)  # noqa: PT017 - either is right
            continue
        with store:
            assert "rootpage" in statement
            assert not store.verify().ok


# What is welcome: whatever it is, it is left alone and nothing of it runs


def _tables(number: int) -> str:
    return f"BEGIN; {''.join(f'CREATE TABLE t{n} (a, b, c);' for n in range(number))} COMMIT"


WELCOME: Final = {
    "an endless view": f"CREATE VIEW endless AS {ENDLESS}",
    "an endless view of our name": f"DROP VIEW checkpoint; CREATE VIEW checkpoint AS {ENDLESS}",
    "five hundred tables": _tables(500),
    "five thousand tables": _tables(5000),  # which SQLite reads anew on each connection: in the long dose
    "a table of two thousand columns": f"CREATE TABLE wide ({', '.join(f'c{n}' for n in range(1999))})",
    "a view of a thousand joins": f"CREATE VIEW wide AS {' UNION ALL '.join(['SELECT position FROM entry'] * 400)}",
    "a trigger of a stranger on his own table": (
        "CREATE TABLE t (x); CREATE TRIGGER y AFTER INSERT ON t BEGIN DELETE FROM entry; DELETE FROM run_stage; END"
    ),
    "generated columns": "CREATE TABLE g (a, b AS (a || a), c AS (b || b) STORED); INSERT INTO g VALUES ('x')",
    "a search index": "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('x')",
    "a table named to look like SQL": 'CREATE TABLE "entry; DROP TABLE entry; --" (x)',
    "statistics that lie": (
        "ANALYZE; UPDATE sqlite_stat1 SET stat = '1 1 1 1'; INSERT INTO sqlite_stat1 VALUES ('entry', 'entry_by_run', 'x y')"
    ),
    "foreign keys to ours": "CREATE TABLE k (p REFERENCES entry (position) ON DELETE CASCADE); INSERT INTO k VALUES (1)",
    "our triggers gone": "SELECT 1",
}


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(statement, marks=pytest.mark.long if name == "five thousand tables" else (), id=name)
        for name, statement in WELCOME.items()
    ],
)
def test_what_strangers_keep_beside_the_chain_changes_no_answer(template: tuple[Path, bytes], statement: str) -> None:
    """Promise E2: it is not run, and the chain goes on."""
    path = _laid(template, statement)
    for opener in OPENERS:
        with opener(path) as store:
            assert answers(store) == TRUTH
            assert store.verify(expected=HEAD).ok
    with CheckpointStore(path) as store:
        store.append(NEXT)
        store.verify(expected=HEAD).raise_if_broken()


def _make_with(path: Path, pragma: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA {pragma}")
    with connection:
        schema.create(connection)
    connection.close()


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("opener", OPENERS)
def test_a_file_whose_text_is_not_stored_as_utf8_is_refused(
    path: Path, encoding: str, opener: Callable[[Path], object]
) -> None:
    """It would be read rightly and verified wrongly."""
    _make_with(path, f"encoding = '{encoding}'")
    with pytest.raises(NotAStoreError, match="UTF-8"):
        opener(path)


@pytest.mark.parametrize("pragma", ["page_size = 65536", "auto_vacuum = full", "secure_delete = on"])
def test_a_file_with_other_settings_is_as_good(path: Path, pragma: str) -> None:
    """As somebody's VACUUM INTO, or another maker, may leave it."""
    _make_with(path, pragma)
    odd = [entry(1, run_id="ü-日本-\U0001f600", key="<b>"), entry(2, run_id="ü-日本-\U0001f600", key="\u202e\x1b[2J")]
    with CheckpointStore(path) as store:
        store.append_many([*ENTRIES, *odd])
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == [*ENTRIES, *odd]
        store.verify(expected=Head(42, chain_signature([*ENTRIES, *odd]))).raise_if_broken()


# Rows that no append would write

COLUMNS: Final = {
    "entry": ("position", "run_number", "stage_number", "sequence", "offset", "event_time_ms", "idempotency_key", "at_ms",
              "signature", "run_signature", "entries_so_far", "detail"),
    "run": ("run_number", "run_id"),
    "stage": ("stage_number", "stage"),
    "run_stage": ("run_number", "stage_number"),
}  # fmt: skip
VALUES: Final = (None, 1.5, float("inf"), "", "text", "7", "x" * 100_000, "\0", b"", b"\xff", bytes(32), -1, 0, 2**63 - 1,
                 -(2**63))  # fmt: skip


CELLS: Final = [(table, column) for table, columns in COLUMNS.items() for column in columns]


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])
@pytest.mark.parametrize(("table", "column"), CELLS)
def test_a_value_of_a_wrong_kind_is_an_error_of_ours_or_a_fault(
    template: tuple[Path, bytes], table: str, column: str, everywhere: bool
) -> None:
    """Promise F2: three kinds of values that SQLite has, in the first, a middle or the last row; in the end, all in each."""
    tally = Tally()
    some = VALUES[CELLS.index((table, column)) % 5 :: 5]  # of five columns in a row, every value comes into one
    for number, value in enumerate(VALUES if everywhere else some):
        places = ("min(rowid)", "7", "max(rowid)") if table != "run_stage" else ("",)
        for place in places if everywhere else (places[number % len(places)],):
            where = f"WHERE rowid = (SELECT {place} FROM {table})" if place else "WHERE run_number = 1 AND stage_number = 1"
            try:
                path = _laid(template, (f"UPDATE {table} SET {column} = ? {where}", (value,)), loose=True)
            except (apsw.ConstraintError, apsw.MismatchError):  # a rowid is an integer, in any table, and unique
                continue
            _probe(path, f"{table}.{column} = {value!r:.20} {place}", tally)
    print(f"{tally.tried} stores, {tally.changed} with a changed answer")
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.tried > 0


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])
def test_a_tree_that_leads_in_circles_ends(template: tuple[Path, bytes], everywhere: bool) -> None:
    """Promise E3: every root as its own child, and one as that of each other; SQLite itself would walk for ever."""
    tally = Tally()
    directory, content = template
    connection = apsw.Connection(str(_laid(template)))
    roots: list[Any] = [root for (root,) in connection.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0")]
    connection.close()
    interior, number = 0, 0
    for root in roots:
        start = (root - 1) * PAGE_BYTES
        if content[start] not in {2, 5}:  # the kinds of page that have children
            continue
        interior += 1
        cells = [start + int.from_bytes(content[start + 12 + 2 * n : start + 14 + 2 * n], "big") for n in range(2)]
        for pointer in (start + 8, *cells):
            number += 1
            for target in roots if everywhere else {root, roots[number % len(roots)]}:
                changed = content[:pointer] + target.to_bytes(4, "big") + content[pointer + 4 :]
                lay(directory, {NAME: changed})
                _probe(directory / NAME, f"page {root}, pointer at {pointer}, to {target}", tally)
    print(f"{interior} trees, {tally.tried} stores")
    assert (tally.missed, tally.problems) == ([], [])
    assert interior > 1


@pytest.mark.parametrize("place", [0, -5])
def test_a_chain_whose_last_entry_stands_below_1_has_no_end(template: tuple[Path, bytes], place: int) -> None:
    """No append assigns such a position, and no count of entries could be told by it."""
    last = f"UPDATE entry SET position = {place} WHERE position = {len(ENTRIES)}"
    path = _laid(template, f"DELETE FROM entry WHERE position < {len(ENTRIES)}", last)
    for opener in OPENERS:
        with opener(path) as store:
            for ask in (store.head, store.chain_signature, store.__len__):
                with pytest.raises(DamagedStoreError):
                    ask()


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_walk_over_a_tree_that_leads_back_ends(path: Path, newest_first: bool) -> None:
    """Each page of rows would end where the one before it had ended, or before; the walk would never reach an end."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(1000))
    connection = apsw.Connection(str(path))
    size: Any = connection.pragma("page_size")
    root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entry'").get
    connection.close()
    content, start = bytearray(path.read_bytes()), (root - 1) * size
    assert content[start] == 5  # a page that has children, each of them with rows
    cells = int.from_bytes(content[start + 3 : start + 5], "big")
    pointers = [start + int.from_bytes(content[start + 12 + 2 * n : start + 14 + 2 * n], "big") for n in range(cells)]
    first, *others = reversed(pointers) if newest_first else pointers
    for pointer in others[cells // 10 : -cells // 10]:
        content[pointer : pointer + 4] = content[first : first + 4]
    path.write_bytes(content)
    with CheckpointStore.open_readonly(path) as store, pytest.raises(DamagedStoreError):
        list(itertools.islice(store.history(newest_first=newest_first), 5000))


# Cut and spoilt files


def _every(hunt: Callable[[Dose], Tally], *doses: Dose) -> Tally:
    began = time.monotonic()
    if len(doses) > 8:
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            tally = sum(pool.map(hunt, doses), Tally())
    else:
        tally = sum(map(hunt, doses), Tally())
    print(
        f"{hunt.__name__}, MILEPOST_FAULT_SEED={SEED}: {tally.tried:,} stores, {tally.refused:,} refused, {tally.changed:,} "
        f"with a changed answer, {len(tally.missed)} of these unnoticed, {len(tally.problems)} raw errors "
        f"in {time.monotonic() - began:.0f} s"
    )
    return tally


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("writable", [False, True])
def test_a_file_cut_at_any_page_is_told(wal: bool, writable: bool, every: int) -> None:
    """Promise E1: the file or its WAL, at the end of each page and a byte before and after; one in four, or all of these."""
    tally = _every(cut, Dose(wal=wal, writable=writable, notice=with_head, part=(0, every)))
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.tried > 50 // every


@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.long)])
def test_files_of_different_times_and_stores_are_told_apart(tmp_path: Path, both: bool) -> None:
    """Promise E4: a file, a WAL and a shm, each of its own moment, missing, empty, garbage, or of another store."""
    files: list[bytes] = []
    wals: list[bytes | None] = [None, b"", bytes(5000)]
    shms: list[bytes | None] = [None, b"", b"\xa5" * 32768]
    for name, entries in ((NAME, ENTRIES), ("other", [each._replace(at_ms=1) for each in ENTRIES])):
        with CheckpointStore(tmp_path / name, durability="normal") as store:
            for start, write_back_pages in ((0, 1000), (10, 1), (20, 1000), (30, 1000)):  # the WAL begins anew at 20
                wal(store).write_back_pages = write_back_pages
                for each in entries[start : start + 10]:
                    store.append(each)
                files.append((tmp_path / name).read_bytes())
                wals.append((tmp_path / f"{name}-wal").read_bytes())
                shms.append((tmp_path / f"{name}-shm").read_bytes())
    tally = Tally()
    with fast_directory() as directory:
        for number, combination in enumerate(itertools.product(dict.fromkeys(files), wals, shms)):
            laid = dict(zip((NAME, f"{NAME}-wal", f"{NAME}-shm"), combination, strict=True))
            if number % 5 and not both:  # of each two of the three files, every pair still comes together
                continue
            for writable in (False, True) if both else (number % 2 == 1,):
                lay(directory, {name: bytes(data) for name, data in laid.items() if data is not None})
                examine(directory / NAME, f"{number}", TRUTH, HEAD, Dose(notice=with_head, writable=writable), tally)
    print(f"{tally.tried} combinations, {tally.refused} refused, {tally.changed} with a changed answer")
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.tried - tally.refused - tally.changed > 0


def _mutations(sample: int, seeds: range) -> list[Dose]:
    return [
        Dose(wal=wal, writable=writable, notice=with_head, sample=sample, seed=seed)
        for seed in seeds
        for wal in (False, True)
        for writable in (False, True)
    ]


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # a spoilt WAL is told of
def test_a_sample_of_spoilt_files_raises_nothing_raw_and_lies_in_nothing() -> None:
    """Promise E3: bytes, blocks and pages overwritten, exchanged, taken out, put in."""
    tally = _every(mutate, *_mutations(25, range(SEED, SEED + 1)))
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.changed > 20


@pytest.mark.long
def test_no_spoilt_file_raises_anything_raw_or_lies() -> None:
    """The full dose."""
    tally = _every(mutate, *_mutations(4000, range(SEED, SEED + 8)))
    assert (tally.missed, tally.problems) == ([], [])


@pytest.mark.long
def test_atheris_finds_no_file_that_raises_anything_raw(tmp_path: Path) -> None:
    """Two minutes of fuzzing guided by what the library's own code does with the file."""
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with fast_directory() as directory:
        (corpus / "store").write_bytes(closed_store(directory)[NAME])
    run = subprocess.run(
        [sys.executable, PROGRAMS / "fuzz_file.py", corpus, "-max_total_time=120", f"-seed={SEED}",
         "-max_len=20000", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )  # fmt: skip
    print(*run.stderr.splitlines()[-3:], sep="\n")
    assert run.returncode == 0, run.stderr[-3000:]


# A broken variant: what the harness is worth


def test_a_store_that_does_not_look_at_the_shape_of_a_file_is_caught(
    template: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger of a stranger rewrites what an append records."""
    monkeypatch.setattr(schema, "refuse_another_shape", lambda connection, path: None)
    path = _laid(template, "CREATE TRIGGER x AFTER INSERT ON entry BEGIN UPDATE entry SET at_ms = 1; END")
    with CheckpointStore(path) as store:
        store.append(NEXT)
        assert store.latest() != NEXT


def test_a_raw_error_is_caught(template: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness sees what is none of ours."""
    monkeypatch.setattr(rows, "runs", lambda connection: random.choice([]))
    tally = Tally()
    examine(_laid(template), "sound", TRUTH, HEAD, Dose(), tally)
    assert len(tally.problems) == 1

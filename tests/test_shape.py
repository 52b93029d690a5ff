"""
A file's tables and indexes are ours if they say what schema.sql says, and nothing of others hangs on them.

How they are written, comments, white space, case and the quotes of names, is no part of the format; a comment that only
looks like one is.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from milepost import CheckpointStore, DamagedStoreError, MilepostError, NotAStoreError, SchemaVersionError, schema
from milepost.sql_tokens import tokens
from support.chains import chain, entry, mixed

if TYPE_CHECKING:
    from collections.abc import Callable

OPENERS: Final[tuple[Any, ...]] = (CheckpointStore, CheckpointStore.open_readonly)
Fingerprint = tuple[object, ...]


def _objects() -> dict[str, str]:
    """The CREATE text of each table, index and trigger that a new file has."""
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    compared = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND type <> 'view'"
    objects = {str(name): str(text) for name, text in connection.execute(compared)}
    connection.close()
    return objects


def _names() -> frozenset[str]:
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    columns = "SELECT p.name FROM sqlite_schema AS s, pragma_table_info(s.name) AS p"
    names = frozenset(str(name) for (name,) in connection.execute(f"SELECT name FROM sqlite_schema UNION {columns}"))
    connection.close()
    return names


OBJECTS: Final = _objects()
NAMES: Final = _names()
NEW_ENTRY: Final = "INSERT INTO entry VALUES (1, 2, 3, 4, 5, 6, 'k', 8, x'00', NULL, 1, NULL)"
QUESTIONS: Final = (
    "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' ORDER BY name COLLATE NOCASE",
    "SELECT s.name, p.* FROM sqlite_schema AS s, pragma_table_xinfo(s.name) AS p ORDER BY s.name COLLATE NOCASE, p.rowid",
    "SELECT s.name, p.* FROM sqlite_schema AS s, pragma_index_xinfo(s.name) AS p ORDER BY s.name COLLATE NOCASE, p.rowid",
    f"EXPLAIN {NEW_ENTRY}",
    "EXPLAIN INSERT INTO run VALUES (1, 'r'); EXPLAIN INSERT INTO stage VALUES (1, 's')",
    "EXPLAIN INSERT INTO run_stage VALUES (1, 1); EXPLAIN INSERT INTO keyed VALUES (x'00')",
    "EXPLAIN INSERT INTO stage_cursor VALUES (1, 1, 1, x'00'); EXPLAIN INSERT INTO chain_base VALUES (1, x'00')",
    "EXPLAIN UPDATE entry SET at_ms = 1; EXPLAIN DELETE FROM entry",
    "EXPLAIN SELECT * FROM entry WHERE run_number = 1 AND entries_so_far IS NOT NULL ORDER BY position",
)


def _with(changed: dict[str, str]) -> apsw.Connection:
    """A database in memory whose schema says this instead, loaded as from a file."""
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    connection.pragma("writable_schema", True)
    for name, text in changed.items():
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ? AND sql IS NOT NULL", (text, name))
    connection.execute("PRAGMA writable_schema = RESET")
    return connection


def _meaning(connection: apsw.Connection) -> Fingerprint:
    """What SQLite has made of the schema: its columns and indexes, and the program of statements that meet every rule."""
    answers = [connection.execute(question).fetchall() for question in QUESTIONS]
    # A Trace quotes a statement of a trigger as it is written.
    return tuple(str([row for row in rows if row[1] != "Trace"]).casefold() for rows in answers)


def _accepted(connection: apsw.Connection) -> bool:
    try:
        schema.refuse_another_shape(connection, "file")
    except NotAStoreError:
        return False
    return True


def _same_to_us(name: str, text: str) -> bool:
    """Whether a schema with this text is ours, without SQLite, which might not even load it."""
    ours = schema._expected(schema.VERSION)[name]
    return schema._is_ours(ours._replace(create=text), ours, schema.VERSION)


def _meaning_with(name: str, text: str) -> Fingerprint | None:
    """None if SQLite cannot load it."""
    connection: apsw.Connection | None = None
    try:
        connection = _with({name: text})
        return _meaning(connection)
    except (apsw.Error, UnicodeError):
        return None
    finally:
        if connection is not None:
            connection.close()


OURS: Final = _meaning(_with({}))


# What is no part of the format

HIDDEN: Final = [
    "CHECK (0)",
    ", CHECK (0)",
    "'",
    '"',
    "--",
    "/*",
    "[",
    "`",
    "milepost's",
    "\r, x",
    "é\u2028\U0001f600",
    ";",
    "?",
    "",
]
GAPS: Final = [" ", "\n", "\t", "\r\n", "\f", " \ufeff", " \v", "/**/", "/***/", "/*/ CHECK (0) */", "--\n",
               *(f"--{each}\n" for each in HIDDEN), *(f"/*{each}*/" for each in HIDDEN)]  # fmt: skip
ENDINGS: Final = ["", " ", "--", "-- CHECK (0)", "/* never closed", "/**/", "\n"]


def _rewritten(text: str, chance: random.Random) -> str:
    """The same tokens, written otherwise."""
    written, before = "", ""
    for kind, value in tokens(text, NAMES):
        marks = chance.choice(["", '""', "``", "[]"]) if kind == "name" else ""
        if kind in {"word", "name"} and not marks:
            token = "".join(chance.choice([each.upper(), each.lower()]) for each in value)
        else:
            token = f"{marks[:1]}{value}{marks[1:]}"
        gap = "".join(chance.choices(GAPS, k=chance.randint(1, 3)))
        may_touch = not written or "operator" in {kind, before}
        written += token if may_touch and (not written or chance.random() < 0.5) else gap + token
        before = kind
    return written + chance.choice(ENDINGS)


def _all_rewritten(seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    return {name: _rewritten(text, chance) for name, text in OBJECTS.items()}


@given(st.integers(0, 2**64))
def test_the_same_tokens_are_the_same_schema_however_they_are_written(seed: int) -> None:
    """Comments, white space, case and the quotes of names, at random in all of it: SQLite and we find what was there."""
    connection = _with(_all_rewritten(seed))
    assert _meaning(connection) == OURS
    assert _accepted(connection)
    connection.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_file_that_is_written_otherwise_is_read_and_goes_on(path: Path, seed: int) -> None:
    """All of it, for reading and for writing."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(50))
    connection = apsw.Connection(str(path))
    connection.pragma("writable_schema", True)
    connection.executemany("UPDATE sqlite_schema SET sql = ?2 WHERE name = ?1", _all_rewritten(seed).items())
    connection.close()
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == chain(50)
    with CheckpointStore(path, durability="normal") as store:
        assert store.append(entry(51)).position == 51
        store.verify().raise_if_broken()


@pytest.mark.parametrize("name", ["keyed", "run", "stage", "run_stage", "entry"])
def test_a_table_that_was_renamed_and_back_is_still_ours(path: Path, name: str) -> None:
    """ALTER TABLE puts the name in quotes: in the table, and wherever its indexes and triggers name it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(50))
    connection = apsw.Connection(str(path))
    connection.execute("DROP VIEW checkpoint")
    connection.execute(f"ALTER TABLE {name} RENAME TO other; ALTER TABLE other RENAME TO {name.upper()}")
    connection.close()
    for opener in OPENERS:
        with opener(path) as store:
            assert list(store.history()) == chain(50)
            assert store.verify().ok


def test_a_column_that_was_renamed_and_back_is_still_ours(path: Path) -> None:
    """Also one whose name is a keyword elsewhere."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(50))
    connection = apsw.Connection(str(path))
    connection.execute("DROP VIEW checkpoint")
    for column in ("offset", "entries_so_far", "idempotency_key"):
        connection.execute(f'ALTER TABLE entry RENAME {column} TO other; ALTER TABLE entry RENAME other TO "{column}"')
    connection.close()
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(51))
        assert store.verify().ok


# What is

# Words in lower case: `tokens` folds those of the schema, and the same one in capitals is no other.
OTHER_TOKENS: Final = ["check", "(", ")", ",", ".", ";", "0", "1.0", "x'00'", "'milepost'", '"not"', "[null]", "collate",
                       "é", "default", "as", "stored", "unique", "entry", "run_id", "offset", "||", "-", "references",
                       "temp", "any", "$", "?", "\u00a0", "'", '"', "/*", "nocase"]  # fmt: skip


def _written(tokens_: list[tuple[str, str]]) -> str:
    return " ".join(value for _, value in tokens_)


@given(st.sampled_from(sorted(OBJECTS)), st.data())
def test_any_other_token_makes_another_schema(name: str, data: st.DataObject) -> None:
    """One taken away, one put in, one in place of another, two in another order."""
    ours = list(tokens(OBJECTS[name], NAMES))
    changed = list(ours)
    at = data.draw(st.integers(0, len(ours) - 1))
    other = ("", data.draw(st.sampled_from(OTHER_TOKENS)))
    match data.draw(st.sampled_from(["less", "more", "other", "order", "twice"])):
        case "less":
            del changed[at]
        case "more":
            changed.insert(at + 1, other)
        case "other":
            changed[at] = other
        case "order":
            changed.insert(0, changed.pop(at))
        case "twice":
            changed.insert(at, changed[at])
    # An unclosed comment behind the last token says nothing, and SQLite takes it.
    assume([value for _, value in changed] not in ([value for _, value in ours], [*(value for _, value in ours), "/*"]))
    text = _written(changed)
    assert not _same_to_us(name, text)


@pytest.mark.parametrize("name", OBJECTS)
def test_quotes_around_a_keyword_or_a_type_are_not_ours(name: str) -> None:
    """`x INTEGER "NOT" NULL` may be NULL."""
    ours = list(tokens(OBJECTS[name], NAMES))
    for at, (kind, value) in enumerate(ours):
        if kind == "word":
            for quoted in (f'"{value}"', f"[{value}]", f"`{value}`", f"'{value}'"):
                assert not _same_to_us(name, _written([*ours[:at], ("name", quoted), *ours[at + 1 :]])), quoted


PIECES: Final = ["--", "/*", "*/", "/", "*", "-", "\n", "\r", "\v", "\f", " ", "\0", "\ufeff", "\u00a0", "\u2028", "'", '"',
                 "`", "[", "]", "x'", "''", "CHECK (0)", ", CHECK (offset > 0)", "NULL", "NOT", "CREATE", ";", "(", ")", ",",
                 ".", "0", "1", "e", "_", "$", "?", ":a", "\\", "é", "K", "\u212a", "STRICT", "DEFAULT 1", "AS (1)",
                 "COLLATE NOCASE", "ON CONFLICT IGNORE", "REFERENCES run"]  # fmt: skip


@given(st.sampled_from(sorted(OBJECTS)), st.data())
def test_what_we_take_for_ours_sqlite_takes_for_ours(name: str, data: st.DataObject) -> None:
    """Whatever is put into the text or cut out of it, between tokens or within one: nothing that matters gets past us."""
    text = OBJECTS[name]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(6, len(text)))
        until = at + data.draw(st.sampled_from([0, 0, 0, 1, 2]))
        text = text[:at] + data.draw(st.sampled_from(PIECES)) + text[until:]
    if _same_to_us(name, text):
        assert _meaning_with(name, text) == OURS


# Behind the last column of `entry`; whether it is then still ours.
TRICKS: Final = {
    "/* , CHECK (0) */": True,
    "-- , CHECK (0)\n": True,
    "-- a carriage return ends no comment\r, CHECK (0)\n": True,
    "-- a line separator neither\u2028, CHECK (0)\n": True,
    "/* -- */": True,
    "/* ' \" ` [ */": True,
    "-- ' /*\n": True,
    "/*/ , CHECK (0) */": True,
    "/**/": True,
    "/***/": True,
    "/* /* they do not nest */": True,
    " \ufeff": True,
    " \v": True,
    "-- the end of the line closes it": True,
    "-- a comment\n, CHECK (0)": False,
    "/**/, CHECK (0)": False,
    "/*/**/, CHECK (0)": False,
    "/* /* */, CHECK (0) -- */\n": False,
    "/* -- */, CHECK (0)": False,
    "-- /*\n, CHECK (0) -- */\n": False,
    "/* ' */, CHECK ('' = ' /* ') -- '\n": False,
    ', "/*" INTEGER, "*/" INTEGER': False,
    ", [--] INTEGER\n": False,
    ", `/*` INTEGER CHECK (0) /* ` */": False,
    " CHECK ('--' = '--')": False,
    " CHECK (x'' IS NULL)": False,
    " DEFAULT '/*' -- */": False,
    "\u00a0": False,
    "\u2003": False,
    "\u3000": False,
    "\x85": False,
    "\v": False,
    "\x1c": False,
    "\0": False,
    "/* \0 */": False,
    "-- \0\n": False,
    "'": False,
    "/* never closed": False,
    "\ufeff": False,
    "*/": False,
    ", generated INTEGER AS (1)": False,
    " DEFAULT 7": False,
    " /**/NOT/**/NULL/**/": False,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_a_trick_with_comments_does_to_a_table_is_what_we_see(trick: str) -> None:
    """SQLite is the judge: it loads the same table, or another one, or none."""
    end = OBJECTS["entry"].rindex("\n)")
    before = OBJECTS["entry"][:end].rsplit("--", 1)[0].rstrip()
    text = before + trick + "\n) STRICT"
    assert _same_to_us("entry", before + "\n) STRICT")
    assert _same_to_us("entry", text) == TRICKS[trick]
    assert (_meaning_with("entry", text) == OURS) == TRICKS[trick]


ENDS: Final = {
    " -- ": True,
    "--": True,
    "\n-- , WITHOUT ROWID": True,
    " /**/": True,
    " /* never closed": True,
    " /* WITHOUT ROWID '": True,
    " /*": False,
    " /": False,
    ", WITHOUT ROWID": False,
    "\n, /* x */ WITHOUT ROWID": False,
    " '": False,
    ' "': False,
    " [": False,
    " ''": False,
    ";": False,
    "; --": False,
    "; CREATE TABLE x (y)": False,
    "\0": False,
    "\0, WITHOUT ROWID": False,
    " -- \0": False,
}


@pytest.mark.parametrize("end", ENDS)
def test_what_stands_behind_the_last_token_is_seen(end: str) -> None:
    """Comments and quotes that are never closed. SQLite stops at the first semicolon or NUL; we refuse both."""
    text = OBJECTS["entry"] + end
    assert _same_to_us("entry", text) == ENDS[end]
    assert _meaning_with("entry", text) == OURS or not ENDS[end]


def test_a_text_without_end_is_not_read() -> None:
    """However much of it is comment: no file keeps us reading."""
    assert _same_to_us("entry", OBJECTS["entry"] + " " * 90_000)
    assert not _same_to_us("entry", OBJECTS["entry"] + " " * 100_000)


# What hangs on our tables

SPOIL: Final = "BEGIN UPDATE run SET run_id = 7; END"
SET: Final = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET"
ADD: Final = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema"
HANGERS: Final = {
    "a trigger": f"CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}",
    "a trigger on the name in capitals": f"CREATE TRIGGER x AFTER INSERT ON ENTRY {SPOIL}",
    "a trigger on the name in quotes": f"CREATE TRIGGER x AFTER INSERT ON [Entry] {SPOIL}",
    "a trigger on the name and a NUL": (
        f"CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}; {SET} tbl_name = 'entry' || char(0, 1) WHERE name = 'x'"
    ),
    "a trigger on the name as a BLOB": (
        f"CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}; {SET} tbl_name = CAST('entry' AS BLOB) WHERE name = 'x'"
    ),
    "a trigger on another table by its row": (
        f"CREATE TABLE t (x); CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}; {SET} tbl_name = 't' WHERE name = 'x'"
    ),
    "a trigger on no table by its row": (
        f"CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}; {SET} tbl_name = NULL WHERE name = 'x'"
    ),
    "a trigger that is a table by its row": (
        f"CREATE TABLE t (x); CREATE TRIGGER x AFTER INSERT ON entry {SPOIL}; {SET} type = 'table' WHERE name = 'x'"
    ),
    "a trigger with the name of a table that comes after it": (
        f"CREATE TRIGGER run AFTER INSERT ON entry {SPOIL}; {SET} rowid = rowid + 100 "
        "WHERE tbl_name = 'run' AND type <> 'trigger'"
    ),
    "a temporary trigger in the file": (
        f"{ADD} VALUES ('trigger', 'x', 'entry', 0, 'CREATE TEMP TRIGGER x AFTER INSERT ON entry {SPOIL}')"
    ),
    "a temporary trigger on the name and a NUL": (
        f"{ADD} VALUES ('trigger', 'x', 'entry' || char(0), 0, 'CREATE TEMP TRIGGER x AFTER INSERT ON entry {SPOIL}')"
    ),
    "a temporary view before a table": (
        f"{ADD} (rowid, type, name, tbl_name, rootpage, sql) "
        "VALUES (-1, 'view', 'run', 'run', 0, 'CREATE TEMP VIEW run AS SELECT 1 AS run_number, ''lie'' AS run_id')"
    ),
    "a view before sqlite_schema": (
        f"{ADD} VALUES ('view', 'sqlite_schema', 'sqlite_schema', 0, 'CREATE VIEW sqlite_schema AS SELECT 1 AS name')"
    ),
    "a trigger of our name that does more": (
        "DROP TRIGGER entry_is_never_updated; "
        f"CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry {SPOIL.replace('BEGIN', 'BEGIN SELECT 1;')}"
    ),
    "a trigger of our name in capitals": (
        f"DROP TRIGGER entry_is_never_updated; CREATE TRIGGER ENTRY_IS_NEVER_UPDATED AFTER INSERT ON entry {SPOIL}"
    ),
    "an index": "CREATE INDEX x ON entry (at_ms)",
    "an index on an expression, in capitals": "CREATE INDEX X ON ENTRY (abs(offset))",
    "our index twice": (
        f"{ADD} SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'sqlite_autoindex_run_1'"
    ),
    "a trigger instead of our view": f"CREATE TRIGGER x INSTEAD OF INSERT ON Checkpoint {SPOIL}",
    "a table in place of our view": "DROP VIEW checkpoint; CREATE TABLE Checkpoint (position)",
    "a virtual table in place of our view": "DROP VIEW checkpoint; CREATE VIRTUAL TABLE checkpoint USING fts5(x)",
    "a temporary view in place of ours": (
        f"DROP VIEW checkpoint; {ADD} VALUES ('view', 'checkpoint', 'checkpoint', 0, "
        "'CREATE/*x*/Temp VIEW checkpoint AS SELECT 1 AS x')"
    ),
    "a generated column behind a comment": (
        f"{SET} sql = substr(sql, 1, length(sql) - 8) || '-- x' || char(10) || ', x AS (1)) STRICT' WHERE name = 'stage'"
    ),
    "a CHECK behind a comment": (
        f"{SET} sql = substr(sql, 1, length(sql) - 8) || '/* /* */, CHECK (1) --*/' || char(10) || ') STRICT' "
        "WHERE name = 'run'"
    ),
    "no STRICT": f"{SET} sql = replace(sql, 'STRICT', '/*STRICT*/') WHERE name = 'run'",
    "a text that is a BLOB": f"{SET} sql = CAST(sql AS BLOB) WHERE name = 'run'",
    "a text and a NUL": f"{SET} sql = sql || char(0) WHERE name = 'run'",
    "a view for a table": "DROP VIEW checkpoint; ALTER TABLE stage RENAME TO s; CREATE VIEW Stage AS SELECT * FROM s",
    "a virtual table for a table": "DROP TABLE keyed; CREATE VIRTUAL TABLE Keyed USING fts5(key_check)",
}


@cache
def _file_of_fifty() -> bytes:
    """The file of a store with fifty entries: many tests begin with it, each with a copy."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "orders.milepost")
        with CheckpointStore(path, durability="normal") as store:
            store.append_many(mixed(50))
        return path.read_bytes()


def _store_then(path: Path, statements: str) -> None:
    path.write_bytes(_file_of_fifty())
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("statements", HANGERS.values(), ids=HANGERS.keys())
def test_what_hangs_on_our_tables_is_refused_however_it_is_hidden(
    path: Path, statements: str, opener: Callable[[Path], object]
) -> None:
    """By us, or by SQLite where a row of its schema and the text in it disagree; and no byte is changed."""
    _store_then(path, statements)
    before = path.read_bytes()
    with pytest.raises((NotAStoreError, DamagedStoreError), match=r"do not trust this file|malformed database schema"):
        opener(path)
    assert path.read_bytes() == before


SWAPS: Final = [("run", "stage"), ("entry_by_run", "entry_by_stage"), ("run_stage", "entry_by_sequence"), ("entry", "run"),
                ("sqlite_autoindex_run_1", "sqlite_autoindex_stage_1")]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SWAPS)
def test_a_text_that_is_not_about_its_tree_is_found(path: Path, one: str, other: str) -> None:
    """The shape is ours and the rows are not: it is refused, or verify() says so."""
    roots = "SELECT rootpage FROM sqlite_schema WHERE name"
    swap = (
        f"{SET} rootpage = (SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('{one}', '{other}')) - rootpage "
        f"WHERE name IN ('{one}', '{other}')"
    )
    _store_then(path, swap)
    connection = apsw.Connection(str(path))
    assert len(connection.execute(f"{roots} IN ('{one}', '{other}')").fetchall()) == 2
    connection.close()
    for opener in OPENERS:
        try:
            store = opener(path)
        except MilepostError as error:
            assert str(path) in str(error)  # noqa: PT017 - either is right
            continue
        with store:
            assert not store.verify().ok


def test_our_triggers_may_be_missing_and_written_otherwise_but_not_say_something_else(path: Path) -> None:
    """They keep accidents away, and no answer depends on them."""
    _store_then(path, "DROP TRIGGER entry_is_never_updated")
    for opener in OPENERS:
        with opener(path) as store:
            assert store.verify().ok
    connection = apsw.Connection(str(path))
    connection.execute(_all_rewritten(0)["entry_is_never_updated"])
    connection.close()
    for opener in OPENERS:
        with opener(path) as store:
            assert store.verify().ok
    connection = apsw.Connection(str(path))
    connection.execute("DROP TRIGGER entry_is_never_updated")
    connection.execute(OBJECTS["entry_is_never_updated"].replace("ABORT", "IGNORE, /* ABORT */").replace("IGNORE,", "FAIL"))
    connection.close()
    for opener in OPENERS:
        with pytest.raises(NotAStoreError, match="'entry_is_never_updated' is not the one"):
            opener(path)


# The view

LIES: Final = {
    "values": "CREATE VIEW checkpoint AS SELECT position, 'lie' AS stage, 10 AS offset FROM entry",
    "rows": "CREATE VIEW Checkpoint AS SELECT position, 'load' AS stage, offset FROM entry WHERE position < 3",
    "an endless one": (
        "CREATE VIEW checkpoint AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS position, 'x' AS stage, i AS offset FROM n"
    ),
    "one that cannot be asked": "CREATE VIEW checkpoint AS SELECT * FROM gone",
    "none": "SELECT 1",
}
ASKED: Final = "SELECT count(*) AS entries, max(offset) AS offset FROM checkpoint"


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("lie", LIES)
def test_sql_asks_our_view_whatever_the_file_has_under_that_name(
    path: Path, lie: str, opener: Callable[[Path], Any]
) -> None:
    """No signature covers what a view says, so the file's own is never asked; it stays where it is, for other tools."""
    _store_then(path, f"DROP VIEW checkpoint; {LIES[lie]}")
    before = path.read_bytes()
    with opener(path) as store:
        for _ in range(2):
            assert store.sql(ASKED).to_arrow().to_pylist() == [{"entries": 50, "offset": 49 * 500}]
        assert store.verify().ok
    assert path.read_bytes() == before


# The version

MESSAGES: Final = {
    2**31 - 1: "install a newer milepost",
    schema.VERSION + 1: "install a newer milepost",
    0: "no milepost ever wrote it: do not trust this file",
    -1: "no milepost ever wrote it: do not trust this file",
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("version", MESSAGES)
def test_another_version_is_told_with_what_to_do(path: Path, version: int, opener: Callable[[Path], object]) -> None:
    """Newer, or one that there never was."""
    _store_then(path, f"PRAGMA user_version = {version}")
    told = f"file format version {version}, this milepost writes version {schema.VERSION}: {MESSAGES[version]}"
    with pytest.raises(SchemaVersionError) as caught:
        opener(path)
    assert str(caught.value) == f"{path}: {told}"
    assert (caught.value.found, caught.value.supported) == (version, schema.VERSION)


def test_an_older_version_is_told_with_what_to_do() -> None:
    """By whatever cannot upgrade the file itself."""
    error = SchemaVersionError("orders.milepost", 1, 3)
    told = "version 1, this milepost writes version 3: open it with CheckpointStore(), which upgrades it"
    assert str(error) == f"orders.milepost: file format {told}"


@pytest.mark.parametrize("opener", OPENERS)
def test_a_newer_version_that_only_the_wal_knows_of_is_refused(path: Path, opener: Callable[[Path], object]) -> None:
    """The file's first bytes still say the old one, until the WAL is written back."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3))
    other = apsw.Connection(str(path))
    other.pragma("user_version", schema.VERSION + 1)
    assert path.read_bytes()[60:64] == schema.VERSION.to_bytes(4, "big")
    with pytest.raises(SchemaVersionError, match="install a newer milepost"):
        opener(path)
    other.execute("ALTER TABLE run_stage RENAME TO lane")
    with pytest.raises(SchemaVersionError, match="install a newer milepost"):
        opener(path)
    other.close()

"""Read schema.sql: make the tables of a new file, tell whether a file has them, or bring an older one's up to them."""

from __future__ import annotations

import errno
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import apsw

from milepost import sql_tokens
from milepost.errors import NotAStoreError, SchemaVersionError, StoreError, WrongKeyError, shown
from milepost.signature import key_check, same
from milepost.sql_tokens import folded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

    from milepost.signature import Hash

APPLICATION_ID: Final = 0x4D495450
VERSION: Final = 2
HEADER_BYTES: Final = 100

UPGRADES: Final[dict[int, str]] = {
    1: """
        DROP VIEW IF EXISTS checkpoint;
        ALTER TABLE lane RENAME TO run_stage;
        ALTER TABLE entry RENAME COLUMN milepost TO entries_so_far;
        ALTER TABLE entry ADD COLUMN detail TEXT;
        CREATE TABLE stage_cursor (
            run_number   INTEGER NOT NULL,
            stage_number INTEGER NOT NULL,
            position     INTEGER NOT NULL,
            cursor       ANY     NOT NULL,
            PRIMARY KEY (run_number, stage_number, position)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE chain_base (position INTEGER PRIMARY KEY, signature BLOB NOT NULL) STRICT;
        DROP TRIGGER IF EXISTS entry_is_never_deleted;
        CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
        WHEN old.position > (SELECT ifnull(max(position), 0) FROM chain_base)
        BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never deleted'); END;
        CREATE VIEW checkpoint AS
        SELECT entry.position, run.run_id, stage.stage, entry.sequence, entry.offset, entry.event_time_ms,
               entry.idempotency_key, entry.at_ms,
               strftime('%Y-%m-%dT%H:%M:%fZ', entry.event_time_ms / 1000.0, 'unixepoch') AS event_time,
               strftime('%Y-%m-%dT%H:%M:%fZ', entry.at_ms / 1000.0, 'unixepoch') AS at,
               lower(hex(entry.signature)) AS signature, entry.detail
        FROM entry JOIN run USING (run_number) JOIN stage USING (stage_number);
        PRAGMA user_version = 2;
    """,
}
"""
The steps of `upgrade`: from each older version the SQL that makes the next one of it. None is ever changed or left out.

- A step sets `PRAGMA user_version`, ends in exactly the tables and indexes of the next version, and begins and ends no
  transaction.
- It drops the view `checkpoint` first and makes the next version's last.
- A column more is added last in schema.sql, by an ADD COLUMN that does not end in a comment ("incomplete input"). A table
  that changes otherwise is made anew under another name, filled, and renamed, its indexes and triggers after that: a RENAME
  changes nothing else that names the table (https://sqlite.org/lang_altertable.html#otheralter; `legacy_alter_table` is on).
  A RENAME COLUMN changes the indexes too. It would refuse a file in which a view of somebody else's is broken, but not
  while `writable_schema` is on, which a step finds so.
- The schema.sql that it replaces stays beside this file as schema-1.sql, schema-2.sql …: a file is compared with it before
  the step runs.
"""

_LONGEST_CREATE: Final = 100_000  # characters, of which ours have 2,000: a comment may be long, and no file keeps us reading


@cache
def text(version: int | None = None) -> str:
    """
    The whole of schema.sql, or an older version's, from the wheel or, in a checkout, the top of the repository.

    Raises:
        StoreError: It is in neither, as in an application that was packed without it.
        OSError: Too many files are open.
    """
    name = "schema.sql" if version in {None, VERSION} else f"schema-{version}.sql"
    shipped: Traversable = files("milepost") / name
    try:
        found = shipped if shipped.is_file() else Path(__file__).parent / "../.." / name
        return found.read_text(encoding="utf-8")
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise
        what = f"this part of milepost cannot be read ({error.strerror})"
        remedy = "install milepost anew, or pack it with the application (PyInstaller: --collect-data milepost)"
        raise StoreError(str(shipped), f"{what}: {remedy}") from error


def create(connection: apsw.Connection, keyed: Hash | None = None) -> None:
    """Make everything of schema.sql in an empty database, for a keyed chain where a keyed hash is given."""
    connection.execute(text())
    if keyed is not None:
        connection.execute("INSERT INTO keyed (key_check) VALUES (?)", (key_check(keyed),))


def chosen_hash(connection: apsw.Connection, path: str, keyed: Hash | None) -> Hash:
    """
    What the links of the file's chain are made with: the keyed hash if it is the right one, or SHA-256 without a key.

    Returns:
        Where the chain is keyed and no key was given: what raises WrongKeyError as soon as a link is to be made.

    Raises:
        WrongKeyError: A key was given, and the chain has another one or none.
    """
    row = connection.execute("SELECT key_check FROM keyed").get
    if row is None:
        if keyed is None:
            return sha256
        raise WrongKeyError(
            path, "its chain is not keyed, and a key was given: open it without a key, or find out who replaced the file"
        )
    if keyed is not None and not same(row, key_check(keyed)):
        raise WrongKeyError(path, "its chain is keyed with another key: give the one it was made with")
    return keyed or _missing_key(path)


def _missing_key(path: str) -> Hash:
    def hashed(_message: bytes) -> NoReturn:
        raise WrongKeyError(path, "its chain is keyed, and no key was given: give the one it was made with")

    return hashed


def refuse_another_version(header: bytes, path: str) -> None:
    """
    Look at the first 100 bytes of a file, and at nothing else of it.

    They may be older than what its WAL holds: once the file is open, `refuse_another_version_now` knows.

    Raises:
        NotAStoreError: It is no SQLite database, or that of another application.
        SchemaVersionError: It has another version than this one, and none that `upgrade` knows a way from.

    Source:
        https://sqlite.org/fileformat2.html#the_database_header
    """
    if len(header) < HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        raise NotAStoreError(path, "not an SQLite database: choose another path for the checkpoints")
    version, application_id = int.from_bytes(header[60:64], "big", signed=True), int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID:
        problem = f"an SQLite database of another application (application_id {application_id}, not {APPLICATION_ID})"
        raise NotAStoreError(path, f"{problem}: choose another path for the checkpoints")
    if header[56:60] != b"\0\0\0\1":
        raise NotAStoreError(path, "its text is not stored as UTF-8, as in every file of milepost: do not trust this file")
    if version != VERSION and version not in UPGRADES:
        raise SchemaVersionError(path, version, VERSION)


def refuse_another_version_now(connection: apsw.Connection | apsw.Cursor, path: str) -> None:
    """
    Ask an open file which version it has by now: another process may have upgraded it meanwhile.

    For a writer that has the write lock, before it writes, whenever `data_version()` is not what it was: it takes 1 µs.

    Raises:
        SchemaVersionError: It has another version than this one.
    """
    found = _version(connection)
    if found != VERSION:
        raise SchemaVersionError(path, found, VERSION)


def _version(connection: apsw.Connection | apsw.Cursor) -> int:
    return int(connection.execute("PRAGMA main.user_version").get)


def upgrade(connection: apsw.Connection, path: str) -> None:
    """
    Bring a file of an older version up to this one, in one transaction: all steps, or none.

    A file of this version is compared with schema.sql, and not written to. Inside a transaction of the caller's this is
    a savepoint: where other threads must go on while it waits for the lock and for the disk, begin one by `execute`,
    IMMEDIATE, and commit it so.

    Args:
        connection: One that may write, hardened as `connect` does it, with no statement under way.
        path: The file's name, for messages.

    Raises:
        NotAStoreError: Before a step, or after the last, it has not exactly the tables and indexes of its version.
        SchemaVersionError: No step leads from its version to this one.
        StoreError: It has a table of somebody else under a name that a newer version needs.
    """
    if _version(connection) == VERSION:
        refuse_another_shape(connection, path)
        return
    connection.transaction_mode = "IMMEDIATE"  # no other process may upgrade it between our look and our step
    with connection:
        found = _version(connection)  # another process may have upgraded it while we waited for the lock
        if found not in UPGRADES and found != VERSION:
            raise SchemaVersionError(path, found, VERSION)
        for version in range(found, VERSION):
            _refuse_another_shape_than(version, connection, path)
            _refuse_names_in_the_way(version, connection, path)
            with _whatever_strangers_have(connection):
                connection.execute(UPGRADES[version]).fetchall()
        refuse_another_shape(connection, path)


@contextmanager
def _whatever_strangers_have(connection: apsw.Connection) -> Iterator[None]:
    """Let ALTER TABLE pass over a view or trigger of somebody else's that names something which is not there."""
    settings = {apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE: 1, apsw.SQLITE_DBCONFIG_DEFENSIVE: 0}
    before = {setting: connection.config(setting, -1) for setting in settings}
    try:
        for setting, value in settings.items():
            connection.config(setting, value)
        connection.execute("PRAGMA writable_schema = ON")
        yield
    finally:
        connection.execute("PRAGMA writable_schema = OFF")
        for setting, value in before.items():
            connection.config(setting, value)


def _refuse_names_in_the_way(version: int, connection: apsw.Connection, path: str) -> None:
    new = _expected(version + 1).keys() - _expected(version).keys()
    for kind, name in connection.execute("SELECT type, name FROM main.sqlite_schema"):
        if folded(name) in new:
            problem = f"its {kind} {shown(name)} has a name that file format version {version + 1} needs"
            raise StoreError(path, f"{problem}: rename it and open the store again")


def refuse_another_shape(connection: apsw.Connection, path: str) -> None:
    """
    A file is untrusted input: its tables and indexes say what ours say, and nothing of others hangs on them.

    What counts is the tokens, so that comments, white space, case and the quotes of names are nobody's format. A view in
    place of a table, a generated column or a trigger of somebody else would run what its maker wrote. Our own triggers
    and the view only help people, so a file that lacks them is still read and written. What the view says is not
    compared: no query of ours asks it, and `store.sql` asks its own (`use_own_view`).

    Raises:
        NotAStoreError: Something is missing, other than ours, or added to our tables.
        SchemaVersionError: By now the file has another version than this one.
    """
    try:
        _refuse_another_shape_than(VERSION, connection, path)
    except NotAStoreError:
        refuse_another_version_now(connection, path)  # another version has another shape: then that is what to say
        raise
    refuse_another_version_now(connection, path)


class _Object(NamedTuple):
    """A row of `sqlite_schema`; of ours, type, name and table are without case as they are."""

    kind: str
    name: str
    table: str
    create: str | None  # None for an index that a UNIQUE or a PRIMARY KEY makes


def _refuse_another_shape_than(version: int, connection: apsw.Connection, path: str) -> None:
    ours = _expected(version)
    tables = {each.table for each in ours.values()}  # the view too: nothing of others hangs on it
    missing = dict(ours)
    for row in connection.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema"):
        if row == missing.get(row[1]):
            del missing[row[1]]
            continue
        # SQLite takes a BLOB for the text that it holds, and a text to its first NUL.
        if not all(type(value) is str and "\0" not in value for value in row[:3]):
            problem = f"its schema has an entry {shown(row[1])} that is not as SQLite writes them"
            raise NotAStoreError(path, f"{problem}: do not trust this file")
        kind, name, table = map(folded, row[:3])
        if name in ours:
            # There is one of each: a trigger may have the name of a table.
            if not _is_ours(_Object(kind, name, table, row[3]), missing.pop(name, None), version):
                raise NotAStoreError(path, f"its {kind} {shown(name)} is not the one of schema.sql: do not trust this file")
        elif table in tables:
            raise NotAStoreError(path, f"its {kind} {shown(name)} hangs on a table of milepost: do not trust this file")
    for kind, name, _, _ in missing.values():
        if kind in {"table", "index"}:
            raise NotAStoreError(path, f"its {kind} {name} is missing: restore the file from a copy")


def _is_ours(found: _Object, ours: _Object | None, version: int) -> bool:
    if ours is None or found[:3] != ours[:3]:
        return False
    if ours.create is None or type(found.create) is not str or len(found.create) > _LONGEST_CREATE:
        return found.create == ours.create
    if ours.kind == "view":  # a temporary one would stand before ours for every query, and before that of `use_own_view`
        return sql_tokens.begins(found.create, "create", "view")
    return _says_the_same(found.create, ours.create, version)


@lru_cache(maxsize=64)  # reading them takes 0.3 ms where all tables differ, and a reader opens its file again and again
def _says_the_same(found: str, ours: str, version: int) -> bool:
    return sql_tokens.same(found, _tokens(ours, version), _names(version))


@cache
def _tokens(ours: str, version: int) -> tuple[sql_tokens.Token, ...]:
    return tuple(sql_tokens.tokens(ours, _names(version)))


@cache
def _expected(version: int) -> dict[str, _Object]:
    """What a version's schema.sql makes, by name."""
    with closing(_made(version)) as connection:
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
        return {name: _Object(kind, name, table, create) for kind, name, table, create in found}


@cache
def _names(version: int) -> frozenset[str]:
    """The names of all that, and of the columns."""
    with closing(_made(version)) as connection:
        columns = connection.execute("SELECT p.name FROM sqlite_schema AS s, pragma_table_xinfo(s.name) AS p")
        return frozenset(name for (name,) in columns).union(_expected(version))


def _made(version: int) -> apsw.Connection:
    statement = text(version)
    connection = apsw.Connection(":memory:")
    connection.execute(statement)
    return connection


def use_own_view(connection: apsw.Connection) -> None:
    """
    Let `checkpoint` be the view of schema.sql on a connection that only reads, whatever the file has under that name.

    Where the file has another one, ours is made among the temporary ones of the connection, which SQLite finds first;
    the file is not touched. So neither a view that lies, which no signature covers, nor that of an older version is what
    a query of the caller's asks.
    """
    (ours,) = (each for each in _expected(VERSION).values() if each.kind == "view")
    found = connection.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name = ?", (ours.name,))
    if found.fetchall() == [ours]:
        return
    statement = str(ours.create).replace("CREATE VIEW", "CREATE TEMP VIEW IF NOT EXISTS", 1)
    connection.pragma("query_only", False)  # it forbids the temporary ones too
    try:
        connection.execute(statement)
    finally:
        connection.pragma("query_only", True)


@cache
def names() -> frozenset[str]:
    """The names of everything in schema.sql, in lower case, in which SQLite compares them."""
    return frozenset(name.lower() for name in _expected(VERSION))

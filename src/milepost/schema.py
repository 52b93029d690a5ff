"""Read schema.sql: create the tables of a new file, check those of an existing file, and upgrade an older one."""

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
from milepost.errors import NotAStoreError, SchemaVersionError, StoreError, WrongKeyError, is_of_system, shown
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
The steps of `upgrade`: for each older version, the SQL that makes the next version of it. Never change or remove a step.

- A step sets `PRAGMA user_version`, and ends in exactly the tables and indexes of the next version. It begins and ends no
  transaction.
- It drops the view `checkpoint` first, and creates the next version's view last.
- To add a column, put it last in its table in schema.sql. The ADD COLUMN must not end in a comment ("incomplete input").
- To change a table otherwise, create it under another name, fill it and rename it, and then create its indexes and triggers.
  `legacy_alter_table` is on, so the RENAME changes nothing else that names the table
  (https://sqlite.org/lang_altertable.html#otheralter).
- A RENAME COLUMN changes the indexes too. It would refuse a file with somebody else's broken view, but not while
  `writable_schema` is on, as it is during a step.
- The replaced schema.sql stays beside this file as schema-1.sql, schema-2.sql and so on. A file is compared with it before
  the step runs.
"""

_LONGEST_CREATE: Final = 100_000  # characters, of which ours have 2,000: a comment may be long, but has a limit


@cache
def text(version: int | None = None) -> str:
    """
    Return the whole of schema.sql, or of an older version's.

    It comes from the wheel or, in a checkout, from the top of the repository.

    Raises:
        StoreError: It cannot be read, as in an application that was packed without it.
        OSError: Too many files are open.
    """
    name = "schema.sql" if version in {None, VERSION} else f"schema-{version}.sql"
    shipped: Traversable = files("milepost") / name
    try:
        found = shipped if shipped.is_file() else Path(__file__).parent / "../.." / name
        return found.read_text(encoding="utf-8")
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE} or not is_of_system(error):
            raise
        what = f"this part of milepost cannot be read ({error.strerror})"
        remedy = "reinstall milepost, or pack it with the application (PyInstaller: --collect-data milepost)"
        raise StoreError(str(shipped), f"{what}: {remedy}") from error


def create(connection: apsw.Connection, keyed: Hash | None = None) -> None:
    """Make everything of schema.sql in an empty database. With a keyed hash, its chain is keyed."""
    connection.execute(text())
    if keyed is not None:
        connection.execute("INSERT INTO keyed (key_check) VALUES (?)", (key_check(keyed),))


def chosen_hash(connection: apsw.Connection, path: str, keyed: Hash | None) -> Hash:
    """
    Return the hash function for the links of the file's chain: the keyed hash if it is the right one, or SHA-256.

    Returns:
        For a keyed chain without a given key, a function that raises WrongKeyError as soon as a link is made.

    Raises:
        WrongKeyError: A key was given, but the chain has another one or none.
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
    Refuse a file that is not milepost's, or has an unknown version, by its first 100 bytes alone.

    Its WAL may hold a newer header. Once the file is open, `refuse_another_version_now` sees that one.

    Raises:
        NotAStoreError: It is no SQLite database, or another application's.
        SchemaVersionError: It has another version than this one, and `upgrade` has no step from there.

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
        raise NotAStoreError(path, "its text is not stored as UTF-8, but milepost's always is: do not trust this file")
    if version != VERSION and version not in UPGRADES:
        raise SchemaVersionError(path, version, VERSION)


def is_sealed(header: bytes) -> bool:
    """
    Return whether the first 100 bytes of a file say that SQLite itself must not write to it.

    Source:
        https://sqlite.org/fileformat2.html#file_format_version_numbers
    """
    return len(header) >= HEADER_BYTES and header[18] > 2


SEAL: Final = bytes((3, 1))
"""The write version and the read version of a sealed file, at offset 18: no SQLite writes to it, and every one reads it."""


def refuse_another_version_now(connection: apsw.Connection | apsw.Cursor, path: str) -> None:
    """
    Refuse an open file that has another version by now, because another process may have upgraded it meanwhile.

    A writer calls this with the write lock held, before it writes, whenever `data_version()` has changed. It takes 1 µs.

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
    Upgrade a file of an older version to this one, in one transaction: all steps, or none.

    A file of this version is compared with schema.sql, and not written. Inside a transaction of yours, this is a savepoint.
    To let other threads go on while it waits for the lock and the disk, begin and commit that transaction by `execute`, and
    begin it IMMEDIATE.

    Args:
        connection: A connection that may write, hardened by `connect`, without a running statement.
        path: The file's name, for messages.

    Raises:
        NotAStoreError: Before a step, or after the last, the tables and indexes are not exactly those of the version.
        SchemaVersionError: No step leads from its version to this one.
        StoreError: Something in it has a name that a newer version needs.
    """
    if _version(connection) == VERSION:
        refuse_another_shape(connection, path)
        return
    connection.transaction_mode = "IMMEDIATE"  # no other process may upgrade it between the check and the step
    with connection:
        found = _version(connection)  # another process may have upgraded it during the wait for the lock
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
    """Let ALTER TABLE ignore somebody else's view or trigger that names a missing object."""
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
    Refuse a file whose tables and indexes differ from schema.sql, or have anything foreign attached to them.

    A file is untrusted input. A view in place of a table, a generated column or a foreign trigger would run its author's
    SQL. Only the tokens are compared, so comments, white space, case and quotes around names do not matter.

    The triggers and the view only help people, so a file without them is still read and written. The text of the view is
    not compared: no query of milepost reads it, and `store.sql` uses a view of its own (`use_own_view`).

    Raises:
        NotAStoreError: Something is missing, different, or added to the tables.
        SchemaVersionError: The file has another version by now.
    """
    try:
        _refuse_another_shape_than(VERSION, connection, path)
    except NotAStoreError:
        refuse_another_version_now(connection, path)  # another version explains another shape, so report the version
        raise
    refuse_another_version_now(connection, path)


class _Object(NamedTuple):
    """A row of `sqlite_schema`. In the rows that schema.sql makes, type, name and table are in lower case."""

    kind: str
    name: str
    table: str
    create: str | None  # None for an index that a UNIQUE or a PRIMARY KEY makes


def _refuse_another_shape_than(version: int, connection: apsw.Connection, path: str) -> None:
    ours = _expected(version)
    tables = {each.table for each in ours.values()}  # the view too, so that nothing foreign is attached to it
    missing = dict(ours)
    for row in connection.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema"):
        if row == missing.get(row[1]):
            del missing[row[1]]
            continue
        # SQLite reads a BLOB as text, and a text up to its first NUL.
        if not all(type(value) is str and "\0" not in value for value in row[:3]):
            problem = f"its schema has an entry {shown(row[1])} that SQLite would not write"
            raise NotAStoreError(path, f"{problem}: do not trust this file")
        kind, name, table = map(folded, row[:3])
        if name in ours:
            # Each name is ours only once, because a trigger may have the name of a table.
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
    if ours.kind == "view":  # a temporary view would hide ours from every query, and that of `use_own_view` too
        return sql_tokens.begins(found.create, "create", "view")
    return _says_the_same(found.create, ours.create, version)


@lru_cache(maxsize=64)  # it takes 0.3 ms if the text of all tables differs, and a reader reopens its file often
def _says_the_same(found: str, ours: str, version: int) -> bool:
    return sql_tokens.same(found, _tokens(ours, version), _names(version))


@cache
def _tokens(ours: str, version: int) -> tuple[sql_tokens.Token, ...]:
    return tuple(sql_tokens.tokens(ours, _names(version)))


@cache
def _expected(version: int) -> dict[str, _Object]:
    """Return the objects that a version's schema.sql creates, by name."""
    with closing(_made(version)) as connection:
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
        return {name: _Object(kind, name, table, create) for kind, name, table, create in found}


@cache
def _names(version: int) -> frozenset[str]:
    """Return the names of these objects and of their columns."""
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
    Make `checkpoint` the view of schema.sql on a read-only connection, whatever the file has under that name.

    If the file has another view, this creates a temporary one on the connection, which SQLite finds first. The file is not
    touched. The caller's query therefore never reads an older version's view, or a forged one, which no signature covers.
    """
    (ours,) = (each for each in _expected(VERSION).values() if each.kind == "view")
    found = connection.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name = ?", (ours.name,))
    if found.fetchall() == [ours]:
        return
    statement = str(ours.create).replace("CREATE VIEW", "CREATE TEMP VIEW IF NOT EXISTS", 1)
    connection.pragma("query_only", False)  # it forbids temporary views too
    try:
        connection.execute(statement)
    finally:
        connection.pragma("query_only", True)


@cache
def names() -> frozenset[str]:
    """Return the names of everything in schema.sql, in lower case, as SQLite compares them."""
    return frozenset(name.lower() for name in _expected(VERSION))

"""Read schema.sql: make the tables of a new file, or tell whether a file has them."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import apsw

from milepost.errors import NotAStoreError, SchemaVersionError, StoreError, WrongKeyError, shown
from milepost.signature import key_check, same

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from milepost.signature import Hash

APPLICATION_ID: Final = 0x4D495450
VERSION: Final = 1
HEADER_BYTES: Final = 100


def text() -> str:
    """
    The whole of schema.sql, from the wheel or, in a checkout, from the top of the repository.

    Raises:
        StoreError: It is in neither, as in an application that was packed without it.
    """
    shipped: Traversable = files("milepost") / "schema.sql"
    try:
        found = shipped if shipped.is_file() else Path(__file__).parent / "../../schema.sql"
        return found.read_text(encoding="utf-8")
    except OSError as error:
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
            path, "its chain is not keyed, and a key was given: open it without, or look who replaced the file"
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

    Raises:
        NotAStoreError: It is no SQLite database, or that of another application.
        SchemaVersionError: It was written by another version of milepost.

    Source:
        https://sqlite.org/fileformat2.html#the_database_header
    """
    if len(header) < HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        raise NotAStoreError(path, "not an SQLite database: choose another path for the checkpoints")
    version, application_id = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID:
        problem = f"an SQLite database of another application (application_id {application_id}, not {APPLICATION_ID})"
        raise NotAStoreError(path, f"{problem}: choose another path for the checkpoints")
    if header[56:60] != b"\0\0\0\1":
        raise NotAStoreError(path, "its text is not stored as UTF-8, as in every file of milepost: do not trust this file")
    if version != VERSION:
        raise SchemaVersionError(path, version, VERSION)


def refuse_another_shape(connection: apsw.Connection, path: str) -> None:
    """
    A file is untrusted input: its tables and indexes are ours to the letter, and nothing of others hangs on them.

    A view in place of a table, a generated column or a trigger of somebody else would run what its maker wrote. Our own
    triggers and the view only help people, so a file that lacks them is still read and written.

    Raises:
        NotAStoreError: Something is missing, other than ours, or added to our tables.
    """
    found = _objects(connection)
    ours = _expected()
    tables = {table for _, table, _ in ours.values()}
    for name, (kind, table, sql) in found.items():
        if name in ours and ours[name] != (kind, table, sql):
            raise NotAStoreError(path, f"its {kind} {shown(name)} is not the one of schema.sql: do not trust this file")
        if table in tables and name not in ours:
            raise NotAStoreError(path, f"its {kind} {shown(name)} hangs on a table of milepost: do not trust this file")
    for name, (kind, _, _) in ours.items():
        if name not in found and kind in {"table", "index"}:
            raise NotAStoreError(path, f"its {kind} {name} is missing: restore the file from a copy")


def _objects(connection: apsw.Connection) -> dict[str, tuple[str, str, str | None]]:
    return {
        name: (kind, table, sql)
        for name, kind, table, sql in connection.execute("SELECT name, type, tbl_name, sql FROM sqlite_schema")
    }


@cache
def _expected() -> dict[str, tuple[str, str, str | None]]:
    connection = apsw.Connection(":memory:")
    try:
        create(connection)
        return _objects(connection)
    finally:
        connection.close()

"""
The connection that a transaction block is lent: the caller's SQL runs on it, and cannot break the chain by mistake.

Refused at the statement, so that the block can go on: what would end the transaction, change a table of milepost's or what
hangs on it, put something of its name before it, or change how milepost's own statements run. It keeps accidents out, not
intent.

A statement is judged when SQLite prepares it. So the block's statements share no cache with milepost's own, which SQLite
would run again without asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import apsw

from milepost import schema
from milepost.errors import StoreError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

_TABLE_CHANGES: Final = {
    apsw.SQLITE_INSERT,
    apsw.SQLITE_UPDATE,
    apsw.SQLITE_DELETE,
    apsw.SQLITE_DROP_TABLE,
    apsw.SQLITE_DROP_VIEW,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_TRIGGER,
    apsw.SQLITE_DROP_VTABLE,
}
_SHADOWS: Final = {  # a name of milepost's in the temporary schema comes before its own
    apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_CREATE_VTABLE,
}
_HANGS_ON: Final = {  # index or trigger, and then the table that it hangs on
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_TRIGGER,
    apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_TRIGGER,
}
_PRAGMAS: Final = {  # what may be set in a block: it concerns the block's own statements only
    "case_sensitive_like",
    "defer_foreign_keys",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
}
_PRAGMAS_AT_FIRST: Final = {"cache_size", "foreign_keys", "recursive_triggers", "reverse_unordered_selects", "temp_store"}
_CALLS: Final = (  # methods of a connection that concern milepost's own statements, under both of their names in APSW
    "autovacuum_pages",
    "deserialize",
    "preupdate_hook",
    "set_authorizer",
    "set_busy_handler",
    "set_busy_timeout",
    "set_commit_hook",
    "set_profile",
    "set_progress_handler",
    "set_rollback_hook",
    "set_update_hook",
    "set_wal_hook",
    "setauthorizer",
    "setbusyhandler",
    "setbusytimeout",
    "setcommithook",
    "setlk_timeout",
    "setprofile",
    "setprogresshandler",
    "setrollbackhook",
    "setupdatehook",
    "setwalhook",
    "trace_v2",
    "wal_autocheckpoint",
    "wal_checkpoint",
)


class Rules:
    """
    Judges each statement that SQLite prepares for a writer's connection, as its authorizer.

    Args:
        path: The file.

    Source:
        https://sqlite.org/c3ref/set_authorizer.html; setting it anew would have every statement prepared again, so it stays
        and looks at `ours`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.ours = True
        """Whether the statements that are prepared now are milepost's own."""
        self.opening = False
        """Whether they are those of on_connect, which may do a little more than a block."""

    def judge(self, action: int, one: str | None, two: str | None, _database: str | None, _by: str | None) -> int:
        """Allow, or raise a StoreError that the statement raises."""
        if self.ours:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_TRANSACTION:
            self._refuse(f"{one} inside a transaction block: the block begins and ends the transaction itself")
        if action == apsw.SQLITE_SAVEPOINT and (two or "").lower().startswith(SAVEPOINT):
            self._refuse(f"savepoint {shown(two)} is milepost's own: give yours another name")
        if action == apsw.SQLITE_PRAGMA and (two is not None or one in {"wal_checkpoint", "incremental_vacuum", "optimize"}):
            allowed = _PRAGMAS | _PRAGMAS_AT_FIRST if self.opening else _PRAGMAS
            if (one or "").lower() not in allowed:
                self._refuse(f"PRAGMA {one} would change how the store itself reads and writes: leave it as it is")
        elif action in _TABLE_CHANGES and self._is_ours(one):
            self._refuse(f"{shown(one)} is written by milepost alone: use append() or advance(), and tables of your own")
        elif action in _SHADOWS and self._is_ours(one):
            self._refuse(f"{shown(one)} is a name of milepost's own: give your table another name")
        elif action == apsw.SQLITE_ALTER_TABLE and one == "temp":
            self._refuse(f"{shown(two)} is temporary, and could get a name of milepost's: make it as it is to be")
        elif (action in _HANGS_ON and self._is_ours(two)) or (action == apsw.SQLITE_ALTER_TABLE and self._is_ours(two)):
            self._refuse(f"nothing may be changed of {shown(two)} or hang on it: it is a table of milepost's")
        elif action in {apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH} and not self.opening:
            self._refuse("files are attached when the store is opened: do it in on_connect")
        return apsw.SQLITE_OK

    def refuse_call(self, method: str) -> None:
        """Refuse a method of the connection, unless milepost calls it."""
        if not self.ours:
            self._refuse(f"{method}() would change how the store itself reads and writes: leave it as it is")

    def _is_ours(self, name: str | None) -> bool:
        return name is not None and name.lower() in schema.names()

    def _refuse(self, problem: str) -> NoReturn:
        raise StoreError(self._path, f"refused: {problem}")


SAVEPOINT: Final = "milepost_"
"""How the names of milepost's own savepoints begin."""


class LentConnection(apsw.Connection):
    """A writer's connection. A block is lent it, and may not close it or write past the authorizer."""

    rules: Rules = Rules("")  # until the writer gives it its own: nothing is refused

    def close(self, force: bool = False) -> None:
        """Refuse, inside a block: the store closes it."""
        if not self.rules.ours:
            raise StoreError(self.filename, "refused: the connection is the store's: close the store")
        super().close(force)

    def blob_open(self, database: str, table: str, column: str, rowid: int, writeable: bool) -> apsw.Blob:
        """As APSW's, which SQLite asks no authorizer for."""
        if writeable:
            self.rules.judge(apsw.SQLITE_UPDATE, table, column, database, None)
        return super().blob_open(database, table, column, rowid, writeable)

    def config(self, op: int, *value: int) -> int:
        """As APSW's; inside a block it only tells."""
        if value and value[0] != -1:
            self.rules.refuse_call("config")
        return super().config(op, *value)

    def limit(self, id: int, newval: int = -1) -> int:  # noqa: A002 - as APSW has it
        """As APSW's; inside a block it only tells."""
        if newval != -1:
            self.rules.refuse_call("limit")
        return super().limit(id, newval)


def _refused_in_a_block(name: str) -> Callable[..., Any]:
    of_apsw = getattr(apsw.Connection, name)

    def method(connection: LentConnection, *arguments: Any, **options: Any) -> Any:
        connection.rules.refuse_call(name)
        return of_apsw(connection, *arguments, **options)

    method.__name__, method.__doc__ = name, f"As APSW's `{name}`; inside a block it is refused."
    return method


for _name in _CALLS:
    setattr(LentConnection, _name, _refused_in_a_block(_name))


class LentCursor(apsw.Cursor):
    """What the caller's statements run on: each is judged anew, and none outlives its block."""

    may_run: Callable[[], None]

    def execute(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
        """As APSW's, inside the block only."""
        self.may_run()
        options["can_cache"] = False
        return super().execute(statements, *arguments[:1], **options)

    def executemany(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
        """As APSW's, inside the block only."""
        self.may_run()
        options["can_cache"] = False
        return super().executemany(statements, *arguments[:1], **options)

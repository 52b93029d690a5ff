"""
The connection that a transaction block lends to the caller, whose SQL cannot break the chain by mistake on it.

It refuses four kinds of statements, and the block then continues:

- A statement that would end the transaction.
- A change of milepost's tables, or of an index or trigger on them.
- A new table or view with a name of milepost's, which could shadow the original.
- A setting that would change how milepost's own statements run.

This prevents accidents, not intent. SQLite asks for permission when it prepares a statement, but not when it runs a cached
one again. The caller's statements therefore share no cache with milepost's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import apsw

from milepost import schema
from milepost.errors import StoreError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.block import BlockTurn

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
_SHADOWS: Final = {  # SQLite finds a name in the temporary schema before milepost's own
    apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_CREATE_VTABLE,
}
_ON_A_TABLE: Final = {  # index or trigger, with its table as the second argument
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_TRIGGER,
    apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_TRIGGER,
}
_PRAGMAS: Final = {  # a block may use these, because they concern its own statements only
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
_PRAGMAS_ON_CONNECT: Final = {"cache_size", "foreign_keys", "recursive_triggers", "reverse_unordered_selects", "temp_store"}
_REFUSED_METHODS: Final = (  # methods that affect milepost's own statements, under both of their names in APSW
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

_REFUSED_ATTRIBUTES: Final = {  # which do so as well, and what to do instead
    "authorizer": "leave it as it is",
    "convert_jsonb": "set it on a cursor",
    "cursor_factory": "leave it as it is",
}


class Rules:
    """
    The authorizer of a writer's connection, which SQLite asks about each statement that it prepares.

    It stays installed and checks `ours`, because a new authorizer would make SQLite prepare every statement again.

    Args:
        path: The file.

    Source:
        https://sqlite.org/c3ref/set_authorizer.html
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.ours = True
        """Whether the statements are milepost's own just now."""
        self.opening = False
        """Whether they come from on_connect, which may do a little more than a block."""

    def judge(self, action: int, one: str | None, two: str | None, _database: str | None, _by: str | None) -> int:
        """Allow a statement, or raise the StoreError that the statement then raises."""
        if self.ours:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_TRANSACTION:
            self._refuse(
                f"{one} inside a transaction block, which begins and ends the transaction itself: leave the statement out"
            )
        if action == apsw.SQLITE_SAVEPOINT and (two or "").lower().startswith(SAVEPOINT):
            self._refuse(f"savepoint {shown(two)} has a name of milepost's own: choose another name")
        if action == apsw.SQLITE_PRAGMA and (two is not None or one in {"wal_checkpoint", "incremental_vacuum", "optimize"}):
            allowed = _PRAGMAS | _PRAGMAS_ON_CONNECT if self.opening else _PRAGMAS
            if (one or "").lower() not in allowed:
                self._refuse(f"PRAGMA {one} would change how the store itself reads and writes: leave it as it is")
        elif action in _TABLE_CHANGES and self._is_ours(one):
            self._refuse(f"only milepost writes {shown(one)}: use append() or advance(), or a table of your own")
        elif action in _SHADOWS and self._is_ours(one):
            self._refuse(f"{shown(one)} is a name of milepost's own: choose another name for your table")
        elif action == apsw.SQLITE_ALTER_TABLE and one == "temp":
            self._refuse(
                f"{shown(two)} is temporary, and an ALTER could give it a name of milepost's: create it in its final form"
            )
        elif (action in _ON_A_TABLE and self._is_ours(two)) or (action == apsw.SQLITE_ALTER_TABLE and self._is_ours(two)):
            self._refuse(f"{shown(two)} is a table of milepost's: leave it, its indexes and its triggers as they are")
        elif action in {apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH} and not self.opening:
            self._refuse("a block cannot attach or detach a file: do it in on_connect, when the store is opened")
        return apsw.SQLITE_OK

    def refuse_call(self, method: str) -> None:
        """Refuse a method of the connection if the caller uses it, and not milepost."""
        if not self.ours:
            self._refuse(f"{method}() would change how the store itself reads and writes: leave it as it is")

    def refuse_setting(self, attribute: str) -> None:
        """Refuse to set an attribute of the connection."""
        advice = _REFUSED_ATTRIBUTES[attribute]
        self._refuse(f"another {attribute} would change how the store itself reads and writes: {advice}")

    def _is_ours(self, name: str | None) -> bool:
        return name is not None and name.lower() in schema.names()

    def _refuse(self, problem: str) -> NoReturn:
        raise StoreError(self._path, f"refused: {problem}")


SAVEPOINT: Final = "milepost_"
"""The prefix of milepost's own savepoints."""


class LentConnection(apsw.Connection):
    """A writer's connection, lent to a block. The block cannot close it, or write past the authorizer."""

    rules: Rules = Rules("")  # allows everything, until the writer sets its own
    lent_to: BlockTurn | None = None
    """The last block that had it."""

    def close(self, force: bool = False) -> None:
        """Close it for milepost. Refuse to inside a block."""
        if not self.rules.ours:
            raise StoreError(self.filename, "refused: the connection belongs to the store: close the store instead")
        super().close(force)

    def blob_open(self, database: str, table: str, column: str, rowid: int, writeable: bool) -> apsw.Blob:
        """Do the same as APSW's method, and ask the authorizer, because SQLite does not."""
        if writeable:
            self.rules.judge(apsw.SQLITE_UPDATE, table, column, database, None)
        blob = super().blob_open(database, table, column, rowid, writeable)
        if self.lent_to is not None:
            self.lent_to.remember(blob)
        return blob

    def config(self, op: int, *value: int) -> int:
        """Do the same as APSW's method. Inside a block only queries are allowed."""
        if value and value[0] != -1:
            self.rules.refuse_call("config")
        return super().config(op, *value)

    def limit(self, id: int, newval: int = -1) -> int:  # noqa: A002 - as APSW has it
        """Do the same as APSW's method. Inside a block only queries are allowed."""
        if newval != -1:
            self.rules.refuse_call("limit")
        return super().limit(id, newval)


def _refused_in_a_block(name: str) -> Callable[..., Any]:
    of_apsw = getattr(apsw.Connection, name)

    def method(connection: LentConnection, *arguments: Any, **options: Any) -> Any:
        connection.rules.refuse_call(name)
        return of_apsw(connection, *arguments, **options)

    method.__name__, method.__doc__ = name, f"Do the same as APSW's `{name}`. Refuse to inside a block."
    return method


for _name in _REFUSED_METHODS:
    setattr(LentConnection, _name, _refused_in_a_block(_name))


def _refused_to_set(name: str) -> property:
    of_apsw = getattr(apsw.Connection, name)

    def found(connection: LentConnection) -> Any:
        return of_apsw.__get__(connection)

    def change(connection: LentConnection, value: Any) -> None:
        # After an interrupt milepost may put back what is there, while a block goes on.
        if not connection.rules.ours and value != found(connection):
            connection.rules.refuse_setting(name)
        of_apsw.__set__(connection, value)

    return property(found, change, doc=f"Do the same as APSW's `{name}`. Refuse to set another one inside a block.")


for _name in _REFUSED_ATTRIBUTES:
    setattr(LentConnection, _name, _refused_to_set(_name))


class LentCursor(apsw.Cursor):
    """The caller's cursor: the authorizer checks each statement again, and none outlives its block."""

    may_run: Callable[[], None]
    failed: Callable[[apsw.IOError], None]
    """Told of each error of the disk: the caller may well catch it, and the writer has to know of a sync that failed."""
    running: dict[object, int]
    """The block's statements in progress, each with the ident of its thread."""

    def execute(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
        """Do the same as APSW's method, inside the block only."""
        return self._run(super().execute, statements, arguments, options)

    def executemany(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
        """Do the same as APSW's method, inside the block only."""
        return self._run(super().executemany, statements, arguments, options)

    def _run(
        self, of_apsw: Callable[..., apsw.Cursor], statements: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> apsw.Cursor:
        statement = object()
        try:
            self.running[statement] = threading.get_ident()  # and then look: the end of the block looks here last
            self.may_run()
            options["can_cache"] = False
            return of_apsw(statements, *arguments[:1], **options)
        except apsw.IOError as error:
            self.failed(error)
            raise
        finally:
            self.running.pop(statement, None)

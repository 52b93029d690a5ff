"""The private doors that tests go through where there is no public one: all of them, in one place."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import apsw

from milepost import open_files, workers
from milepost.database import Database
from milepost.lent import LentConnection
from milepost.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from milepost import CheckpointStore
    from milepost.wal import Wal


def writer(store: CheckpointStore) -> Writer:
    """What a store writes with."""
    assert isinstance(store._database, Writer)
    return store._database


@contextlib.contextmanager
def opening_to_write(store: CheckpointStore) -> Iterator[None]:
    """As if the store were just opening its file to write, and had not mapped its shared memory."""
    for announced in (open_files.opening_to_write, open_files.mapping_to_write):
        announced[id(store._database)] = store.path
    try:
        yield
    finally:
        for announced in (open_files.opening_to_write, open_files.mapping_to_write):
            del announced[id(store._database)]


@contextlib.contextmanager
def fork_in_progress() -> Iterator[None]:
    """What a fork does to the stores of this process, without the fork."""
    open_files._before_fork()
    try:
        yield
    finally:
        open_files._end_of_fork()
        open_files._after_fork_in_parent()


def modes_of_write_backs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which each checkpoint of a writer's WAL adds its mode from now on."""
    modes: list[int] = []
    of_apsw = LentConnection.wal_checkpoint

    def noted(connection: LentConnection, *, mode: int) -> tuple[int, int]:
        modes.append(mode)
        return of_apsw(connection, mode=mode)

    monkeypatch.setattr(LentConnection, "wal_checkpoint", noted)
    return modes


def wal(store: CheckpointStore) -> Wal:
    """The WAL of the connection that a store writes with."""
    return writer(store)._wal


def connections(store: CheckpointStore) -> list[apsw.Connection]:
    """Those of a store: the one that it reads with first, and then the one that it writes with, if it does."""
    len(store)  # opens one to read with
    reads = [store._database._idle[-1].connection]
    return reads + ([writer(store)._lent] if isinstance(store._database, Writer) else [])


def unlocked(store: CheckpointStore) -> apsw.Connection:
    """The connection that a store writes with, for statements of a test that no caller may run on it."""
    connection = writer(store)._lent
    connection.rules.ours = True
    connection.cursor_factory = apsw.Cursor
    return connection


def traced(store: CheckpointStore, use: Callable[[CheckpointStore], object], trace: Callable[..., bool]) -> None:
    """Use a store while `trace(cursor, statement, bindings)` sees each statement that it gives to SQLite."""
    for connection in connections(store):
        connection.exec_trace = trace
    try:
        use(store)
    finally:
        for connection in connections(store):
            connection.exec_trace = None


def steps(store: CheckpointStore, use: Callable[[CheckpointStore], object]) -> int:
    """How many steps of its virtual machine SQLite makes while a store is used."""
    total = 0

    def count(report: dict[str, Any]) -> None:
        nonlocal total
        total += report["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    for connection in connections(store):
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, count)
    try:
        use(store)
    finally:
        for connection in connections(store):
            connection.trace_v2(0, None)
    return total


def walked(path: Path, after: int, through: int, signature: str, through_signature: str) -> list[dict[str, Any]]:
    """What a worker says of a part of the chain."""
    database = Database(str(path), None, None).open()
    try:
        return list(workers._walk(database, workers.Part(after, through, signature, through_signature)))
    finally:
        database.close()

"""
The floor: the least that a checkpoint in SQLite can cost from Python, with APSW.

It has one STRICT rowid table, prepared statements (APSW's statement cache) and a WAL. It has no hash, no rule, and only the
index that a lookup needs. QPSG is on as in milepost. Without it SQLite would plan each lookup again, and the floor would be
slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.workload import Row

CREATE: Final = (
    "CREATE TABLE checkpoint (run TEXT, stage TEXT, sequence INTEGER, offset INTEGER, event_time_ms INTEGER, key TEXT, "
    "at_ms INTEGER) STRICT"
)
INDEXES: Final = (  # each lookup uses one of them
    "CREATE INDEX by_sequence ON checkpoint (run, stage, sequence)",
    "CREATE INDEX by_run ON checkpoint (run)",
    "CREATE INDEX by_stage ON checkpoint (stage)",
    "CREATE INDEX by_key ON checkpoint (key)",
)
INSERT: Final = "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?)"
SCAN: Final = "SELECT run, stage, sequence, offset, event_time_ms, key, at_ms FROM checkpoint"

LATEST: Final = f"{SCAN} ORDER BY rowid DESC LIMIT 1"
LATEST_OF_RUN: Final = f"{SCAN} WHERE run = ? ORDER BY rowid DESC LIMIT 1"
LATEST_OF_STAGE: Final = f"{SCAN} WHERE stage = ? ORDER BY rowid DESC LIMIT 1"
LATEST_OF_RUN_AND_STAGE: Final = f"{SCAN} WHERE run = ? AND stage = ? ORDER BY sequence DESC LIMIT 1"
GET: Final = f"{SCAN} WHERE run = ? AND stage = ? AND sequence = ? ORDER BY sequence DESC LIMIT 1"
FIND: Final = f"{SCAN} WHERE key = ? ORDER BY rowid DESC LIMIT 1"


def connect(path: Path, synchronous: str) -> apsw.Connection:
    """Open a file like the floor. `synchronous` is "full" or "normal"."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", synchronous)
    return connection


def create(path: Path, synchronous: str = "full") -> apsw.Connection:
    """Make a file with the table and no index."""
    connection = connect(path, synchronous)
    connection.execute(CREATE)
    return connection


def append_many(connection: apsw.Connection, rows: Iterable[Row]) -> None:
    """Insert rows in one transaction."""
    with connection:
        connection.executemany(INSERT, rows)

"""One of several processes that open the same new file at the same moment: a path a line, answered with what came of it."""

from __future__ import annotations

import sys

import apsw

from milepost import CheckpointStore, MilepostError, create, schema
from support.chains import entry


def in_place(path: str, vfs: str | None, hmac: object) -> None:
    """Make a store where others may see it half made: what milepost must not do."""
    connection = apsw.Connection(path, vfs=vfs)
    try:
        connection.set_busy_timeout(10_000)
        connection.pragma("journal_mode", "wal")
        with connection:
            schema.create(connection)
    finally:
        connection.close()


if "in place" in sys.argv:
    create.create = in_place
for line in sys.stdin:
    try:
        with CheckpointStore(line.strip(), busy_timeout_ms=60_000) as store:
            store.append(entry(1, run_id=sys.argv[1]))
        print("appended", flush=True)
    except MilepostError as error:
        print(f"{type(error).__name__}: {error}", flush=True)

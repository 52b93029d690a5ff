"""
The job of the demo: three resumable stages over one file, as an example to copy.

extract writes the rows of a CSV unchanged, transform converts their types, and load adds them up. Each stage writes to a
table of the sink, in the file of its checkpoints. A batch and its checkpoint therefore commit together. After a kill at any
moment, `run` continues as if nothing had happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from milepost.demo.source import amount, event_time
from milepost.errors import RunFinishedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.demo.source import Source
    from milepost.run import Run
    from milepost.store import CheckpointStore

RUN_ID: Final = "demo"
STAGES: Final = ("extract", "transform", "load")

SINK: Final = """
CREATE TABLE IF NOT EXISTS staged (
    number     INTEGER PRIMARY KEY,  -- 1, 2, 3 … in the order of the CSV; after a checkpoint, its offset + 1 is next
    event_time TEXT NOT NULL,        -- as in the CSV
    category   TEXT NOT NULL,        -- likewise
    amount     TEXT NOT NULL         -- likewise
) STRICT;

CREATE TABLE IF NOT EXISTS cleaned (
    number        INTEGER PRIMARY KEY,  -- staged.number
    event_time_ms INTEGER NOT NULL,     -- ms since the Unix epoch, UTC
    day           TEXT    NOT NULL,     -- YYYY-MM-DD, UTC
    category      TEXT    NOT NULL,     -- what to total by
    amount        ANY     NOT NULL      -- what to add up: INTEGER, or REAL if it has a decimal point
) STRICT;

CREATE TABLE IF NOT EXISTS totals (
    category TEXT    NOT NULL,
    day      TEXT    NOT NULL,  -- YYYY-MM-DD, UTC
    records  INTEGER NOT NULL,  -- how many
    amount   ANY     NOT NULL,  -- their sum: INTEGER, and so exact, if all of them are
    PRIMARY KEY (category, day)
) STRICT, WITHOUT ROWID;
"""

_PUT_STAGED: Final = "INSERT INTO staged (number, event_time, category, amount) VALUES (?, ?, ?, ?)"
_PUT_CLEANED: Final = "INSERT INTO cleaned (number, event_time_ms, day, category, amount) VALUES (?, ?, ?, ?, ?)"
_ADD_TO_TOTALS: Final = (
    "INSERT INTO totals (category, day, records, amount) VALUES (?, ?, 1, ?) "
    "ON CONFLICT DO UPDATE SET records = records + 1, amount = amount + excluded.amount"
)
_READ_STAGED: Final = "SELECT number, event_time, category, amount FROM staged WHERE number > ? ORDER BY number LIMIT 1000"
_READ_CLEANED: Final = (
    "SELECT number, event_time_ms, day, category, amount FROM cleaned WHERE number > ? ORDER BY number LIMIT 1000"
)
_READ_TOTALS: Final = "SELECT category, day, records, amount FROM totals"

Watch = Callable[[str, int], None]
"""A function that takes the stage and the number of every finished record."""

Totals = dict[tuple[str, str], tuple[int, int | float]]
"""The number of records and their sum, by category and day."""


def run(store: CheckpointStore, source: Source, every: int, watch: Watch) -> None:
    """
    Run the job, or continue it. A job that has finished does nothing.

    Args:
        store: The file for the checkpoints and for the sink's tables.
        source: The CSV.
        every: How many records make a batch.
        watch: Called after each record.
    """
    with contextlib.suppress(RunFinishedError), store.run(RUN_ID) as attempt:
        with store.transaction() as connection:
            connection.execute(SINK)
        extract(attempt, source, every, watch)
        transform(attempt, store, every, watch)
        load(attempt, store, every, watch)


def extract(attempt: Run, source: Source, every: int, watch: Watch) -> None:
    """Copy the CSV to `staged`. A CSV has no index, so a restart reads and skips the finished rows."""
    loop = attempt.checkpointed(
        source,
        stage="extract",
        every=every,
        event_time=lambda row: event_time(row.event_time).ms,
        transaction=True,
    )
    for row in loop:
        loop.connection.execute(_PUT_STAGED, row)
        watch("extract", row.number)


def transform(attempt: Run, store: CheckpointStore, every: int, watch: Watch) -> None:
    """Convert `staged` to `cleaned`."""
    staged = partial(_rows, store, _READ_STAGED)
    loop = attempt.checkpointed(
        staged,
        stage="transform",
        every=every,
        event_time=lambda row: event_time(row[1]).ms,
        transaction=True,
    )
    for number, time, category, value in loop:
        moment = event_time(time)
        loop.connection.execute(_PUT_CLEANED, (number, moment.ms, moment.day, category, amount(value)))
        watch("transform", number)


def load(attempt: Run, store: CheckpointStore, every: int, watch: Watch) -> None:
    """Add `cleaned` to `totals`. This stage needs exactly once, because a record added twice would count twice."""
    cleaned = partial(_rows, store, _READ_CLEANED)
    loop = attempt.checkpointed(
        cleaned,
        stage="load",
        every=every,
        event_time=lambda row: row[1],
        transaction=True,
    )
    for number, _, day, category, value in loop:
        loop.connection.execute(_ADD_TO_TOTALS, (category, day, value))
        watch("load", number)


def _rows(store: CheckpointStore, statement: str, offset: int) -> Iterator[tuple[Any, ...]]:
    """
    Read the rows after an offset page by page, so that no statement stays open while a batch is written.

    They are read through the store's own connection, which is the caller's inside `transaction()` only.
    """
    while True:
        with store.transaction() as connection:
            page: list[tuple[Any, ...]] = connection.execute(statement, (offset,)).fetchall()
        if not page:
            return
        yield from page
        offset = page[-1][0]


def checkpoints(store: CheckpointStore) -> int:
    """Count the checkpoints of the stages."""
    return sum(stage.entries for stage in store.stages())


def totals(store: CheckpointStore) -> Totals:
    """Read the totals of the job."""
    with store.transaction() as connection:
        found: list[tuple[Any, ...]] = connection.execute(_READ_TOTALS).fetchall()
    return {(category, day): (records, value) for category, day, records, value in found}

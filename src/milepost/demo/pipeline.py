"""
The job itself: three resumable stages over one file, a model to copy from.

extract writes the rows of a CSV as they are, transform gives them types, load adds them up. Each stage writes to a table
of the sink, in the file that also holds its checkpoints, so that a batch and its checkpoint commit together: a process
may be killed at any instant, and when `run` is called again it goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from milepost.demo.source import amount, event_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.demo.source import Source
    from milepost.store import CheckpointStore

RUN_ID: Final = "demo"
STAGES: Final = ("extract", "transform", "load")

SINK: Final = """
CREATE TABLE IF NOT EXISTS staged (
    number     INTEGER PRIMARY KEY,  -- 1, 2, 3 … in the order of the CSV: after a checkpoint, its offset + 1 comes next
    event_time TEXT NOT NULL,        -- as the CSV has it
    category   TEXT NOT NULL,        -- likewise
    amount     TEXT NOT NULL         -- likewise
) STRICT;

CREATE TABLE IF NOT EXISTS cleaned (
    number        INTEGER PRIMARY KEY,  -- staged.number
    event_time_ms INTEGER NOT NULL,     -- ms since the Unix epoch, UTC
    day           TEXT    NOT NULL,     -- YYYY-MM-DD, UTC
    category      TEXT    NOT NULL,     -- what to total by
    amount        REAL    NOT NULL      -- what to add up
) STRICT;

CREATE TABLE IF NOT EXISTS totals (
    category TEXT    NOT NULL,
    day      TEXT    NOT NULL,  -- YYYY-MM-DD, UTC
    records  INTEGER NOT NULL,  -- how many
    amount   REAL    NOT NULL,  -- their sum
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
"""Told the stage and the number of every record that is done."""

Totals = dict[tuple[str, str], tuple[int, float]]
"""How many records, and their sum, by category and day."""


def run(store: CheckpointStore, source: Source, every: int, watch: Watch) -> None:
    """
    Do the job, or what is left of it.

    Args:
        store: The file for the checkpoints and for the sink's tables.
        source: The CSV.
        every: How many records make a batch.
        watch: Called after each record.
    """
    with store.transaction() as connection:
        connection.execute(SINK)
    extract(store, source, every, watch)
    transform(store, every, watch)
    load(store, every, watch)


def extract(store: CheckpointStore, source: Source, every: int, watch: Watch) -> None:
    """From the CSV to `staged`. A CSV has no index to seek with: started again, this reads over the rows that are done."""
    loop = store.checkpointed(
        source,
        run_id=RUN_ID,
        stage="extract",
        every=every,
        event_time=lambda row: event_time(row.event_time).ms,
        transaction=True,
    )
    for row in loop:
        loop.connection.execute(_PUT_STAGED, row)
        watch("extract", row.number)


def transform(store: CheckpointStore, every: int, watch: Watch) -> None:
    """From `staged` to `cleaned`."""
    staged = partial(_rows, store, _READ_STAGED)
    loop = store.checkpointed(
        staged(0),
        run_id=RUN_ID,
        stage="transform",
        every=every,
        event_time=lambda row: event_time(row[1]).ms,
        seek=staged,
        transaction=True,
    )
    for number, time, category, value in loop:
        moment = event_time(time)
        loop.connection.execute(_PUT_CLEANED, (number, moment.ms, moment.day, category, amount(value)))
        watch("transform", number)


def load(store: CheckpointStore, every: int, watch: Watch) -> None:
    """From `cleaned` to `totals`: a record that is added twice counts twice, so this is where exactly once is needed."""
    cleaned = partial(_rows, store, _READ_CLEANED)
    loop = store.checkpointed(
        cleaned(0),
        run_id=RUN_ID,
        stage="load",
        every=every,
        event_time=lambda row: row[1],
        seek=cleaned,
        transaction=True,
    )
    for number, _, day, category, value in loop:
        loop.connection.execute(_ADD_TO_TOTALS, (category, day, value))
        watch("load", number)


def _rows(store: CheckpointStore, statement: str, offset: int) -> Iterator[tuple[Any, ...]]:
    """
    The rows after an offset, page by page: no statement stays open while a batch is written.

    They are read through the store's own connection, which is the caller's inside `transaction()` only.
    """
    while True:
        with store.transaction() as connection:
            page: list[tuple[Any, ...]] = connection.execute(statement, (offset,)).fetchall()
        if not page:
            return
        yield from page
        offset = page[-1][0]


def totals(store: CheckpointStore) -> Totals:
    """What the job has come to."""
    with store.transaction() as connection:
        found: list[tuple[Any, ...]] = connection.execute(_READ_TOTALS).fetchall()
    return {(category, day): (records, value) for category, day, records, value in found}

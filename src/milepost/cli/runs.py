"""The command `runs`."""

from __future__ import annotations

import time
from typing import Final

import click

from milepost.cli import argument, output, record
from milepost.cli.output import Column
from milepost.readable import duration
from milepost.store import CheckpointStore
from milepost.summary import run_attempts, run_rate, run_state

_SIGNATURE: Final = 12  # hex digits of a signature in a table


@click.command()
@argument.file
@argument.as_json
def runs(file: str, as_json: bool) -> None:
    """
    List the runs, with their state, entries, stages and times.

    The state is that of the last attempt, and the duration is how long it took. For a run without attempts, the duration is
    the time from its first to its last entry. A run that is open and has recorded nothing for long was probably killed.
    """
    with CheckpointStore.open_readonly(file) as store:
        found = store.runs()
    now_ms = time.time_ns() // 1_000_000
    output.listing(
        found,
        record.run,
        [
            Column("run"),
            Column("state", spare=1),
            Column("attempts", "number", spare=4),
            Column("entries", "number"),
            Column("stages", spare=5),
            Column("first", "time", spare=6),
            Column("last", "time"),
            Column("duration", "number", spare=2),
            Column("records/s", "number", spare=3),
            Column("signature", spare=7),
        ],
        lambda each: (
            each.run_id,
            run_state(each, now_ms),
            run_attempts(each),
            f"{each.entries:,}",
            ", ".join(each.stages),
            output.time(each.first_at_ms),
            output.time(each.last_at_ms),
            duration(each.duration_ms),
            run_rate(each),
            each.signature[:_SIGNATURE],
        ),
        as_json=as_json,
    )

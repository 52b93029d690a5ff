"""The command `runs`."""

from __future__ import annotations

from typing import Final

import click

from milepost.cli import argument, output, record
from milepost.cli.output import Column
from milepost.store import CheckpointStore

_SIGNATURE: Final = 12  # hex digits of a signature in a table


@click.command()
@argument.file
@argument.as_json
def runs(file: str, as_json: bool) -> None:
    """List the runs, with their entries, stages and times."""
    with CheckpointStore.open_readonly(file) as store:
        found = store.runs()
    output.listing(
        found,
        record.run,
        [
            Column("run"),
            Column("entries", "number"),
            Column("stages", spare=1),
            Column("first", "time", spare=2),
            Column("last", "time"),
            Column("signature", spare=3),
        ],
        lambda each: (
            each.run_id,
            f"{each.entries:,}",
            ", ".join(each.stages),
            output.time(each.first_at_ms),
            output.time(each.last_at_ms),
            each.signature[:_SIGNATURE],
        ),
        as_json=as_json,
    )

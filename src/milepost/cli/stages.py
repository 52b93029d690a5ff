"""The command `stages`."""

from __future__ import annotations

import click

from milepost.cli import argument, output, record
from milepost.cli.output import Column
from milepost.store import CheckpointStore


@click.command()
@argument.file
@argument.as_json
def stages(file: str, as_json: bool) -> None:
    """List the stages, each over all runs."""
    with CheckpointStore.open_readonly(file) as store:
        found = store.stages()
    output.listing(
        found,
        record.stage,
        [
            Column("stage"),
            Column("entries", "number"),
            Column("runs", "number"),
            Column("first", "time", spare=1),
            Column("last", "time"),
        ],
        lambda each: (
            each.stage,
            f"{each.entries:,}",
            f"{each.runs:,}",
            output.time(each.first_at_ms),
            output.time(each.last_at_ms),
        ),
        as_json=as_json,
    )

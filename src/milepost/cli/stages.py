"""The command `stages`."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import click

from milepost.cli import argument, output, values
from milepost.cli.output import Column
from milepost.readable import count
from milepost.store import CheckpointStore

_SORTS: Final = {
    "first": attrgetter("first_at_ms"),
    "last": attrgetter("last_at_ms"),
    "entries": attrgetter("entries"),
    "runs": attrgetter("runs"),
    "name": attrgetter("stage"),
}


@click.command()
@argument.file
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Show the first N stages.")
@click.option("--sort", type=click.Choice(list(_SORTS)), help="Sort by this, the largest last.  [default: first appearance]")
@click.option("--newest-first", is_flag=True, help="Turn the order round.")
@argument.time_zone
@argument.as_json
def stages(file: str, limit: int | None, sort: str | None, newest_first: bool, as_json: bool) -> None:
    """List the stages, each over all runs."""
    with CheckpointStore.open_readonly(file) as store:
        found = store.stages()
    if sort is not None:
        found.sort(key=_SORTS[sort])
    if newest_first:
        found.reverse()
    left_out = 0 if limit is None else max(0, len(found) - limit)
    output.listing(
        found[:limit],
        values.stage,
        [
            Column("stage"),
            Column("checkpoints", "number"),
            Column("runs", "number"),
            Column("first", "time", spare=True),
            Column("last", "time"),
        ],
        lambda each: (
            each.stage,
            f"{each.entries:,}",
            f"{each.runs:,}",
            output.time(each.first_at_ms, precise=False),
            output.time(each.last_at_ms, precise=False),
        ),
        as_json=as_json,
        rest=f"and {count(left_out, 'more stage')}" if left_out else "",
    )

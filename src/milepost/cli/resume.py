"""The command `resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.cli.output import Column
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.times import Time


@click.command()
@argument.file
@argument.run
@argument.stage
@argument.as_of
@argument.time_zone
@argument.as_json
def resume(file: str, run_id: str | None, stage: str | None, as_of: Time | None, as_json: bool) -> None:
    """Show where each stage resumes."""
    with CheckpointStore.open_readonly(file) as store:
        if store.latest() is not None:
            argument.refuse_unrecorded(store, run_id, stage)
        if stage is None:
            points = list(store.resume_points(run_id, as_of=as_of).values())
        else:
            points = [store.resume_point_for_stage(stage, run_id=run_id, as_of=as_of)]
    output.listing(
        points,
        values.resume_point,
        [
            Column("stage"),
            Column("run"),
            Column("sequence", "number"),
            Column("offset", "number"),
            Column("event time", "time"),
        ],
        lambda each: (
            each.stage,
            each.run_id,
            str(each.sequence),
            str(each.watermark.offset),
            output.event_time(each.watermark.event_time_ms),
        ),
        as_json=as_json,
    )

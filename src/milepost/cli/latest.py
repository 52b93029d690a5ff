"""The command `latest`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.store import CheckpointStore
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from milepost.times import Time


@click.command()
@argument.file
@argument.run
@argument.stage
@argument.as_of
@argument.time_zone
@argument.as_json
def latest(file: str, run_id: str | None, stage: str | None, as_of: Time | None, as_json: bool) -> None:
    """Show the last checkpoint of the file, a run or a stage."""
    with CheckpointStore.open_readonly(file) as store:
        found = next(store.receipts(run_id, stage, until=as_of, newest_first=True, limit=1), None)
        if found is None:
            argument.refuse_unrecorded(store, run_id, stage)
    if found is None:
        raise click.ClickException(NOTHING if as_of is None else "nothing was recorded there at that time")
    if as_json:
        output.document(values.recorded(*found))
        return
    receipt, entry, detail = found
    output.facts(
        {
            "run": entry.run_id,
            "stage": entry.stage,
            "sequence": str(entry.sequence),
            "offset": str(entry.watermark.offset),
            "event time": output.event_time(entry.watermark.event_time_ms),
            "key": entry.idempotency_key,
            "at": output.time(entry.at_ms),
            "position": str(receipt.position),
            "signature": receipt.signature,
            **({} if detail is None else {"detail": detail}),
        }
    )

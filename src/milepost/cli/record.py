"""The command `record`."""

from __future__ import annotations

import click

from milepost.checkpoint import Watermark
from milepost.cli import argument, output
from milepost.errors import StageMovedError, shown
from milepost.store import CheckpointStore
from milepost.times import to_ms


@click.command()
@argument.file
@click.option("--run", "run_id", metavar="RUN", required=True, help="The run.")
@click.option("--stage", metavar="STAGE", required=True, help="The stage.")
@click.option("--offset", type=click.IntRange(0), required=True, metavar="N", help="How far the stage has come.")
@click.option(
    "--event-time",
    metavar="TIME",
    help="The latest event time, such as 2026-01-31T03:12.  [default: the last one]",
)
@click.option("--key", metavar="KEY", help="The idempotency key.  [default: STAGE:N]")
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="N",
    help="Fail if the stage is not at this offset. 0 also means: no checkpoint yet.",
)
@argument.key_file
@argument.time_zone_taken
@argument.as_json
def record(
    file: str,
    run_id: str,
    stage: str,
    offset: int,
    event_time: str | None,
    key: str | None,
    after: int | None,
    key_file: str | None,
    as_json: bool,
) -> None:
    """
    Record a checkpoint, from a shell pipeline.

    The command makes FILE if it is missing. It is durable when the command ends. The same command again writes nothing, so a
    script that was killed may repeat it. It is the same also if its event time is the default, or one such as now.
    """
    key = f"{stage}:{offset}" if key is None else key
    given_ms = None if event_time is None else to_ms("event_time", argument.time(event_time))
    with CheckpointStore(file, hmac_key=argument.key(key_file)) as store:
        last = store.latest_for_stage(stage, run_id=run_id)
        last_event_time_ms = last.watermark.event_time_ms if last else 0
        event_time_ms = last_event_time_ms if given_ms is None else given_ms
        if event_time is None or argument.is_relative(event_time):  # it was another one when this step was recorded
            for step in store.find(key, stage=stage, run_id=run_id):
                event_time_ms = step.watermark.event_time_ms
        expected = {} if after is None else {"after": Watermark(after, last_event_time_ms) if after or last else None}
        try:
            receipt = store.advance(
                run_id,
                stage,
                Watermark(offset, event_time_ms),
                idempotency_key=key,
                **expected,
            )
        except StageMovedError as error:
            if error.receipt is None:
                raise
            receipt = error.receipt  # this very step, recorded by a command that was killed before it could say so
    if as_json:
        output.document({"position": receipt.position, "signature": receipt.signature, "duplicate": receipt.duplicate})
    else:
        output.text(
            f"stage {shown(stage)} of run {shown(run_id)}: offset {offset:,} "
            f"{'was recorded before' if receipt.duplicate else 'recorded'}, at position {receipt.position:,}"
        )

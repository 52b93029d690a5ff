"""The command `branch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.errors import shown
from milepost.readable import count
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.times import Time


@click.command()
@argument.file
@click.argument("run_id", metavar="RUN")
@click.argument("new_run_id", metavar="NEW")
@argument.stage
@click.option(
    "--as-of", type=argument.time, metavar="TIME", help="Start where RUN stood at this time, such as yesterday or '2h ago'."
)
@argument.key_file
@argument.time_zone_taken
@argument.as_json
def branch(
    file: str,
    run_id: str,
    new_run_id: str,
    stage: str | None,
    as_of: Time | None,
    key_file: str | None,
    as_json: bool,
) -> None:
    """
    Let a new run start where another one stands, or stood.

    NEW gets one first checkpoint for each stage of RUN. RUN stays as it is, and nothing is overwritten: if NEW has a stage
    already, the command fails. The same command again writes nothing; without --as-of, it fails once RUN has moved on.

    This command writes to FILE, also while a pipeline does.
    """
    key = argument.key(key_file)
    CheckpointStore.open_readonly(file, hmac_key=key).close()  # FILE is never made here
    with CheckpointStore(file, hmac_key=key) as store:
        receipt = store.branch(run_id, new_run_id, stage=stage, as_of=as_of)
    if as_json:
        output.document(values.batch(receipt))
    else:
        known = f", {count(receipt.duplicates, 'stage')} branched before" if receipt.duplicates else ""
        branched = f"{count(receipt.appended, 'stage')} branched from run {shown(run_id)}"
        output.text(f"run {shown(new_run_id)}: {branched}{known}")

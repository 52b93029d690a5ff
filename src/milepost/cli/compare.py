"""The command `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.cli.exit_code import ExitCode
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.cli.values import Record
    from milepost.comparison import Comparison, Divergence


@click.command()
@argument.file
@click.argument("run_id", metavar="RUN")
@click.argument("other_run_id", metavar="OTHER")
@argument.as_json
def compare(file: str, run_id: str, other_run_id: str, as_json: bool) -> None:
    """
    Compare a replay with the original, stage by stage.

    The command compares offset, event time and idempotency key, sequence by sequence. It ignores the clock, because no two
    runs have the same. The exit code is 1 if the runs differ.
    """
    with CheckpointStore.open_readonly(file) as store:
        comparison = store.compare(run_id, other_run_id)
    if as_json:
        output.document(_record(comparison))
    else:
        output.text(str(comparison))
    if not comparison.identical:
        raise click.exceptions.Exit(ExitCode.CHECK_FAILED)


def _record(comparison: Comparison) -> Record:
    return {
        "run_id": comparison.run_id,
        "other_run_id": comparison.other_run_id,
        "identical": comparison.identical,
        "stages": [
            {
                "stage": stage.stage,
                "identical": stage.identical,
                "entries": stage.entries,
                "other_entries": stage.other_entries,
                "common": stage.common,
                "different": stage.different,
                "first_only": stage.first_only,
                "other_first_only": stage.other_first_only,
                "divergence": stage.divergence and _divergence(stage.divergence),
            }
            for stage in comparison.stages
        ],
    }


def _divergence(divergence: Divergence) -> Record:
    return {
        "sequence": divergence.sequence,
        "one": divergence.one and values.checkpoint(divergence.one),
        "other": divergence.other and values.checkpoint(divergence.other),
    }

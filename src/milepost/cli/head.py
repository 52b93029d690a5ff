"""The command `head`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.receipt import Head


@click.command()
@argument.file
@click.option("--run", "run_id", metavar="RUN", help="Print the head of this run's own chain.")
@argument.as_json
def head(file: str, run_id: str | None, as_json: bool) -> None:
    """
    Print the head, the state of the chain in one line.

    Keep it elsewhere, and give it to `milepost verify --expected`. A chain that contains the head was neither truncated,
    rolled back nor rewritten up to there.
    """
    with CheckpointStore.open_readonly(file) as store:
        found = store.head() if run_id is None else _head_of_run(store, run_id)
    show_head(found, as_json=as_json)


def show_head(found: Head, *, as_json: bool) -> None:
    """Print a head as its one line, or as JSON."""
    if as_json:
        output.document(values.head(found))
    else:
        click.echo(str(found))


def _head_of_run(store: CheckpointStore, run_id: str) -> Head:
    for run in store.runs():
        if run.run_id == run_id:
            return run.head
    raise click.ClickException("no checkpoint is recorded there: look for the run in `milepost runs`")

"""The command `backup`."""

from __future__ import annotations

import click

from milepost.cli import argument
from milepost.cli.head import show_head
from milepost.store import CheckpointStore


@click.command()
@argument.file
@click.argument("target", type=click.Path())
@argument.as_json
def backup(file: str, target: str, as_json: bool) -> None:
    """
    Make an exact copy, even while a pipeline writes.

    The copy is durable when the command ends, and can be used like the original. The command prints its head, and never
    overwrites a file.
    """
    with CheckpointStore.open_readonly(file) as store:
        head = store.backup(target)
    show_head(head, as_json=as_json)

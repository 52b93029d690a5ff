"""An exact copy."""

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
    Make an exact copy, also while a pipeline writes.

    It prints the head of the copy, which is a file like any other, and durable when this ends. Nothing is overwritten.
    """
    with CheckpointStore.open_readonly(file) as store:
        head = store.backup(target)
    show_head(head, as_json=as_json)

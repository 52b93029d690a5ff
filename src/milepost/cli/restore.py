"""The command `restore`."""

from __future__ import annotations

import click

from milepost.cli import argument
from milepost.cli.head import show_head
from milepost.store import CheckpointStore


@click.command()
@argument.target
@click.argument("new", metavar="NEW.milepost", type=argument.PATH)
@argument.target_name
@argument.key_file
@argument.as_json
def restore(target: str, new: str, name: str, key_file: str | None, as_json: bool) -> None:
    """
    Make a new file of what was shipped to TARGET under NAME.

    Everything is verified as it is read. If an object is missing or changed, the command names it, and no file appears. The
    command prints the head of the new file, and never overwrites one. It writes nothing to TARGET: run `milepost ship` next
    to take over.
    """
    with CheckpointStore.restore(new, target, name, hmac_key=argument.key(key_file)) as store:
        head = store.head()
    show_head(head, as_json=as_json)

"""The command `backup`."""

from __future__ import annotations

import click

from milepost.cli import argument
from milepost.cli.head import show_head
from milepost.errors import StoreError
from milepost.files import absolute, status
from milepost.replace import replaced
from milepost.store import CheckpointStore


@click.command()
@argument.file
@click.argument("target", type=argument.PATH)
@argument.overwrite
@argument.as_json
def backup(file: str, target: str, overwrite: bool, as_json: bool) -> None:
    """
    Make an exact copy, even while a pipeline writes.

    The copy is durable when the command ends, and can be used like the original. The command prints its head.

    With --overwrite, the complete copy replaces an older one: if you kill the command, you have the old copy or the new one.
    It replaces only an older copy of the same store that no program has open.
    """
    there = absolute(target)
    with CheckpointStore.open_readonly(file) as store:
        if status(there) is None:
            head = store.backup(target)
        elif overwrite:
            with replaced(there, store._database) as copy:  # noqa: SLF001 - the command is a part of the library
                head = store.backup(copy)
        else:
            raise StoreError(there, "the file exists already: choose another path, or give --overwrite")
    show_head(head, as_json=as_json)

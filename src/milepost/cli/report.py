"""The command `report`."""

from __future__ import annotations

import logging
from typing import Final

import click

from milepost.cli import argument
from milepost.cli.new_file import new_file
from milepost.store import CheckpointStore

_VERIFIED: Final = 200_000
"""Up to how many entries a report verifies the chain without being asked: half a second."""


@click.command()
@argument.file
@click.argument("target", metavar="OUT.html", type=click.Path())
@click.option("--verify/--no-verify", "verifies", default=None, help="Verify the chain.  [default: up to 200,000 entries]")
@argument.key_file
@argument.overwrite
def report(file: str, target: str, verifies: bool | None, key_file: str | None, overwrite: bool) -> None:
    """
    Make one page to send: summary, pictures, verification.

    OUT.html is a single file for any browser, light or dark. It has no script, and fetches nothing. This needs the extra
    `notebook`.
    """
    # matplotlib warns of its cache and of this machine's fonts, but draws the picture anyway.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from milepost.forensics.report import report as page  # noqa: PLC0415 - matplotlib takes a second

    with CheckpointStore.open_readonly(file, hmac_key=argument.key(key_file)) as store:
        wanted = len(store) <= _VERIFIED if verifies is None else verifies
        text = page(store, store.verify() if wanted else None)
    with new_file(target, overwrite=overwrite) as stream:
        stream.write(text.encode())

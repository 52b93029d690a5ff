"""The command `ship`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, values
from milepost.cli.head import show_head
from milepost.errors import DamagedTargetError, FencedError, StoreBusyError, TargetError
from milepost.shipper import ASK_AGAIN_S
from milepost.shipper import ship as begin
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.receipt import Head
    from milepost.shipper import Shipper


@click.command(short_help="Ship the checkpoints, so that another machine can go on.")
@argument.file
@argument.target
@argument.target_name
@click.option("--every", type=argument.span_ms, metavar="SPAN", help="Go on, and ship so often, such as 5s, until Ctrl-C.")
@argument.key_file
@argument.as_json
def ship(file: str, target: str, name: str, every: int | None, key_file: str | None, as_json: bool) -> None:
    """
    Ship the checkpoints to TARGET, so that another machine can go on from there.

    TARGET is a directory, or the URL of a folder in an object store, such as s3://bucket/folder. It takes over: whoever
    shipped under NAME before is refused from now on. Run it while a pipeline writes. It prints the head of what is shipped;
    with --every, each new one.

    Tables of your own in FILE are not shipped. A changed entry is refused; in a keyed chain, only with --key-file.
    """
    if every == 0:
        raise click.BadParameter("must be longer than 0: give a span such as 5s", param_hint="'--every'")
    with CheckpointStore.open_readonly(file, hmac_key=argument.key(key_file)) as store:
        shipper = begin(store, target, name)
        head = shipper.ship()
        if every is None:
            show_head(head, as_json=as_json)
        else:
            _show(head, as_json=as_json)
            _follow(shipper, head, every / 1000, as_json=as_json)


def _follow(shipper: Shipper, head: Head, every_s: float, *, as_json: bool) -> None:
    again = shipper._ship  # noqa: SLF001 - the command is a part of the library
    reachable = True
    try:
        while True:
            time.sleep(every_s)
            try:
                if again(ASK_AGAIN_S) != head:
                    head = shipper.shipped
                    _show(head, as_json=as_json)
                reachable = True
            except (FencedError, DamagedTargetError):
                raise
            except (TargetError, StoreBusyError) as error:
                if reachable:
                    output.note(f"{error}; trying again")
                reachable = False
    except KeyboardInterrupt:  # the intended end, wherever it comes: ship the rest
        if again(math.inf) != head:
            _show(shipper.shipped, as_json=as_json)


def _show(head: Head, *, as_json: bool) -> None:
    click.echo(output.line(values.head(head)) if as_json else str(head), nl=not as_json)

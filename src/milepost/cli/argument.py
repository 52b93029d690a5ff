"""The arguments that many commands take."""

from __future__ import annotations

from pathlib import Path

import click

from milepost.errors import InvalidArgumentError
from milepost.receipt import Head


def time(text: str) -> str | int:
    """A time as the store takes it: a whole number is ms since the epoch, anything else should be ISO 8601."""
    return int(text) if text.isascii() and text.isdigit() else text


def head(text: str) -> Head:
    """A head, from the one line that `milepost head` prints."""
    try:
        return Head.parse(text)
    except InvalidArgumentError:
        raise click.BadParameter(f"{text!a} is no head as `milepost head` prints it, like 12:<64 hex digits>") from None


def key(path: str | None) -> bytes | None:
    """The key of a keyed chain: all bytes of a file, so that it stands in no list of processes and no shell's history."""
    return None if path is None else Path(path).read_bytes()


file = click.argument("file", type=click.Path())
run = click.option("--run", "run_id", metavar="RUN", help="Only this run.")
stage = click.option("--stage", metavar="STAGE", help="Only this stage.")
key_file = click.option("--key-file", metavar="FILE", help="The key of a keyed chain: all of FILE's bytes.")
as_of = click.option(
    "--as-of", type=time, help="What the answer was at that time: ISO 8601 (UTC, unless it says) or ms since 1970."
)
as_json = click.option("--json", "as_json", is_flag=True, help="For programs: JSON, in ASCII.")

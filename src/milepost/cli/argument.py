"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from milepost.errors import InvalidArgumentError
from milepost.receipt import Head


def time(text: str) -> str | int:
    """Parse a time for the store: a whole number is ms since the epoch, and any other text should be ISO 8601."""
    return int(text) if text.isascii() and text.isdigit() else text


def head(text: str) -> Head:
    """Parse a head from the line that `milepost head` prints."""
    try:
        return Head.parse(text)
    except InvalidArgumentError:
        raise click.BadParameter(
            f"{text!a} is no head: give the line that `milepost head` prints, such as 12:<64 hex digits>"
        ) from None


def key(path: str | None) -> bytes | None:
    """Read a key from all bytes of a file, so that no process list and no shell history shows it."""
    return None if path is None else Path(path).read_bytes()


file = click.argument("file", type=click.Path())
run = click.option("--run", "run_id", metavar="RUN", help="Restrict to this run.")
stage = click.option("--stage", metavar="STAGE", help="Restrict to this stage.")
key_file = click.option("--key-file", metavar="FILE", help="Read the key of a keyed chain from FILE, all its bytes.")
as_of = click.option("--as-of", type=time, help="Answer as of this time: ISO 8601 (UTC without a zone) or ms since 1970.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON in ASCII, for programs.")

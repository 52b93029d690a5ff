"""The arguments that many commands take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from milepost.errors import InvalidArgumentError
from milepost.receipt import Head

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time(text: str) -> int:
    """Ms since the epoch, from what stands on the command line."""
    try:
        return milliseconds(text)
    except ValueError:
        raise click.BadParameter(f"{text!a} is neither ISO 8601, like 2026-01-31T12:00Z, nor ms since 1970") from None


def head(text: str) -> Head:
    """A head, from the one line that `milepost head` prints."""
    try:
        return Head.parse(text)
    except InvalidArgumentError:
        raise click.BadParameter(f"{text!a} is no head as `milepost head` prints it, like 12:<64 hex digits>") from None


def key(path: str | None) -> bytes | None:
    """The key of a keyed chain: all bytes of a file, so that it stands in no list of processes and no shell's history."""
    return None if path is None else Path(path).read_bytes()


def milliseconds(text: str) -> int:
    """Ms since the epoch, from a whole number of them or from ISO 8601; a time without a zone is UTC."""
    if text.isascii() and text.isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


file = click.argument("file", type=click.Path())
run = click.option("--run", "run_id", metavar="RUN", help="Only this run.")
stage = click.option("--stage", metavar="STAGE", help="Only this stage.")
key_file = click.option("--key-file", metavar="FILE", help="The key of a keyed chain: all of FILE's bytes.")
as_json = click.option("--json", "as_json", is_flag=True, help="For programs: JSON, in ASCII.")

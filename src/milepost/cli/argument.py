"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from milepost.errors import InvalidArgumentError
from milepost.receipt import Head

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")


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


file: Callable[[Command], Command] = click.argument("file", type=click.Path())
run: Callable[[Command], Command] = click.option("--run", "run_id", metavar="RUN", help="Restrict to this run.")
stage: Callable[[Command], Command] = click.option("--stage", metavar="STAGE", help="Restrict to this stage.")
key_file: Callable[[Command], Command] = click.option(
    "--key-file", metavar="FILE", help="Read the key of a keyed chain from FILE, all its bytes."
)
as_of: Callable[[Command], Command] = click.option(
    "--as-of", type=time, help="Answer as of this time: ISO 8601 (UTC without a zone) or ms since 1970."
)
as_json: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON in ASCII, for programs."
)

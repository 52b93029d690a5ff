"""The arguments that many commands take."""

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


file: Callable[[Command], Command] = click.argument("file", type=click.Path())
run: Callable[[Command], Command] = click.option("--run", "run_id", metavar="RUN", help="Only this run.")
stage: Callable[[Command], Command] = click.option("--stage", metavar="STAGE", help="Only this stage.")
key_file: Callable[[Command], Command] = click.option(
    "--key-file", metavar="FILE", help="The key of a keyed chain: all of FILE's bytes."
)
as_of: Callable[[Command], Command] = click.option(
    "--as-of", type=time, help="What the answer was at that time: ISO 8601 (UTC, unless it says) or ms since 1970."
)
as_json: Callable[[Command], Command] = click.option("--json", "as_json", is_flag=True, help="For programs: JSON, in ASCII.")

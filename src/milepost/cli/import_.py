"""A new file from what `export` wrote."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from milepost.checkpoint import Checkpoint, Watermark
from milepost.cli import argument, record
from milepost.cli.exit_code import ExitCode
from milepost.cli.head import show_head
from milepost.cli.new_file import not_there_yet
from milepost.creation import directory_beside, refuse_long_directory
from milepost.errors import InvalidCheckpointError, RejectedCheckpointError, shown
from milepost.files import absolute
from milepost.store import CheckpointStore
from milepost.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator


_BATCH: Final = 10_000  # entries that are read at a time
_LONGEST_LINE: Final = 65_536  # bytes; three names of 1,024 bytes, escaped, and four integers have 18,600


class WrongLine(click.ClickException):
    """A line of an import that is no checkpoint, or not one that may stand there."""

    exit_code = ExitCode.WRONG_INPUT

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(visible(f"line {number}: {fault}"))


@click.command("import")
@click.argument("source", metavar="FILE.jsonl", type=click.Path(allow_dash=True))
@click.argument("new", metavar="NEW.milepost", type=click.Path())
@argument.key_file
@argument.as_json
def import_(source: str, new: str, key_file: str | None, as_json: bool) -> None:
    """
    Make a new file from what `milepost export` wrote.

    It prints the head of the new file, whose chain is the same, to its signature (of a keyed chain, with its key).
    FILE.jsonl may be - for standard input.
    The new file appears when all of it is there; a line that is wrong is named by its number, and then nothing appears.
    """
    target = not_there_yet(absolute(new))
    refuse_long_directory(target, levels=2)  # the store that is filled is made within the directory that is made for it
    with (
        click.open_file(source, "rb") as lines,
        directory_beside(target) as aside,
        # The backup of this is what has to last.
        CheckpointStore(Path(aside, "new"), durability="normal", hmac_key=argument.key(key_file)) as store,
    ):
        checkpoints = _checkpoints(lines)
        while batch := list(islice(checkpoints, _BATCH)):
            _append(store, batch)
        head = store.backup(target)
    show_head(head, as_json=as_json)


def _append(store: CheckpointStore, batch: list[Checkpoint]) -> None:
    """Append the next lines of a file, of which every line before is in the store."""
    before = len(store)
    try:
        receipt = store.append_many(batch)
    except (InvalidCheckpointError, RejectedCheckpointError) as error:
        *facts, index = error.args
        raise WrongLine(before + index + 1, str(type(error)(*facts))) from None
    if receipt.duplicates:
        recorded = [*store.history(after=before), None]
        index = next(i for i, (entry, kept) in enumerate(zip(batch, recorded, strict=False)) if entry != kept)
        raise WrongLine(before + index + 1, "this checkpoint is in the file already, further up")


def _checkpoints(lines: IO[bytes]) -> Iterator[Checkpoint]:
    number = 0
    while line := lines.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise WrongLine(number, f"longer than the {_LONGEST_LINE:,} bytes that a checkpoint may take")
        try:
            values = json.loads(line.decode(), object_pairs_hook=_unambiguous)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise WrongLine(number, f"no JSON object in UTF-8 ({why})") from None
        yield _checkpoint(number, values)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return values


def _checkpoint(number: int, values: object) -> Checkpoint:
    """The checkpoint of `record.checkpoint`; whether it is a valid one is for the store to say."""
    if not isinstance(values, dict):
        raise WrongLine(number, f"must be a JSON object, not {shown(values)}")
    if values.keys() != set(record.FIELDS):
        wrong = [f"{name} is missing" for name in record.FIELDS if name not in values]
        wrong += [f"{shown(name)} is no value of a checkpoint" for name in values if name not in record.FIELDS]
        raise WrongLine(number, f"{wrong[0]}: a line has {', '.join(record.FIELDS)}")
    run_id, stage, sequence, offset, event_time_ms, key, at_ms = (values[name] for name in record.FIELDS)
    return Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)

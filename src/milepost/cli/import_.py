"""The command `import`."""

from __future__ import annotations

import base64
import json
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

import click

from milepost import details
from milepost.checkpoint import Checkpoint, Watermark
from milepost.cli import argument, values
from milepost.cli.exit_code import ExitCode
from milepost.cli.head import show_head
from milepost.cli.new_file import check_new_path
from milepost.cursors import check_stored, digest
from milepost.errors import shown
from milepost.files import absolute
from milepost.readable import visible
from milepost.signature import fault_of_detail
from milepost.store import CheckpointStore
from milepost.transfer import Entry, RefusedEntryError, restore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.cursors import Stored


_LONGEST_LINE: Final = 500_000  # bytes; three names of 1,024 bytes, a detail and a cursor, escaped, have 436,500


class WrongLine(click.ClickException):
    """A line of the input is no checkpoint, or does not fit the lines before it."""

    exit_code: ClassVar[int] = ExitCode.WRONG_INPUT

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(visible(f"line {number}: {fault}"))


@click.command("import")
@click.argument("source", metavar="FILE.jsonl", type=click.Path(allow_dash=True, readable=False))
@click.argument("new", metavar="NEW.milepost", type=argument.PATH)
@argument.key_file
@argument.as_json
def import_(source: str, new: str, key_file: str | None, as_json: bool) -> None:
    """
    Make a new file from an export in JSON Lines.

    The new file has the same chain and signature; for a keyed chain, give its key. The command prints the head of the new
    file. FILE.jsonl may be - for standard input.

    The new file appears as a whole. If a line is wrong, the command names its number, and no file appears.
    """
    target = check_new_path(absolute(new))
    with click.open_file(source, "rb") as lines:
        try:
            restore(target, _entries(lines), argument.key(key_file))
        except RefusedEntryError as error:
            raise WrongLine(error.index + 1, error.why) from None
    with CheckpointStore.open_readonly(target) as made:
        show_head(made.head(), as_json=as_json)


def _entries(lines: IO[bytes]) -> Iterator[Entry]:
    number = 0
    while line := lines.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise WrongLine(
                number,
                f"it has more than {_LONGEST_LINE:,} bytes, the limit for a checkpoint: check that FILE.jsonl is an export",
            )
        try:
            given = json.loads(line.decode(), object_pairs_hook=_unambiguous)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise WrongLine(number, f"no JSON object in UTF-8 ({why})") from None
        yield _entry(number, given)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _entry(number: int, given: object) -> Entry:
    """Turn a line's values into an entry. The store then checks whether its checkpoint is valid."""
    if not isinstance(given, dict):
        raise WrongLine(number, f"must be a JSON object, not {shown(given)}")
    if given.keys() - {"detail", "cursor"} != set(values.FIELDS):
        wrong = [f"{name} is missing" for name in values.FIELDS if name not in given]
        wrong += [f"{shown(name)} is not a value of a checkpoint" for name in given if name not in values.FIELDS]
        raise WrongLine(number, f"{wrong[0]}: a line has {', '.join(values.FIELDS)}, and optionally detail and cursor")
    run_id, stage, sequence, offset, event_time_ms, key, at_ms = (given[name] for name in values.FIELDS)
    checkpoint = Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)
    detail, cursor = given.get("detail"), given.get("cursor")
    if "detail" in given:
        fault = fault_of_detail(detail)
        if fault is not None:
            raise WrongLine(number, f"detail {shown(detail)}: {fault}")
    return Entry(checkpoint, detail, _cursor(number, cursor, detail) if "cursor" in given else None)


def _cursor(number: int, cursor: object, detail: str | None) -> Stored:
    """Return the cursor of a line. The detail must have its type and its SHA-256."""
    said = details.parse(detail)
    if not isinstance(cursor, str) or said.get("cursor_type") not in ("json", "bytes"):
        raise WrongLine(number, f"cursor {shown(cursor)}: must be a text, and the detail must have its type and its SHA-256")
    try:
        stored: Stored = base64.b64decode(cursor, validate=True) if said["cursor_type"] == "bytes" else cursor
        check_stored(stored)
    except ValueError as error:
        raise WrongLine(number, f"cursor {shown(cursor)}: it is no cursor ({error})") from None
    if digest(stored) != said.get("cursor"):
        raise WrongLine(number, f"cursor {shown(cursor)}: its SHA-256 is not the one in the detail")
    return stored

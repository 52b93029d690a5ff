"""The commands that carry a chain elsewhere: export, import, backup."""

from __future__ import annotations

import csv
import io
import json
import sys
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from milepost.checkpoint import Checkpoint, Watermark
from milepost.cli import argument, output, record
from milepost.cli.exit_code import ExitCode
from milepost.cli.new_file import new_file, not_there_yet
from milepost.cli.reading import show_head
from milepost.creation import directory_beside, refuse_long_directory
from milepost.errors import InvalidCheckpointError, RejectedCheckpointError, StoreError, shown
from milepost.files import absolute
from milepost.store import CheckpointStore
from milepost.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Writer = Callable[[IO[bytes], CheckpointStore, str | None, str | None], None]

_BATCH: Final = 10_000  # entries that are written or read at a time
_LONGEST_LINE: Final = 65_536  # bytes; three names of 1,024 bytes, escaped, and four integers have 18,600
_FORMULA: Final = tuple("=+-@\t\r＝＋－＠")


class WrongLine(click.ClickException):
    """A line of an import that is no checkpoint, or not one that may stand there."""

    exit_code = ExitCode.WRONG_INPUT

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(visible(f"line {number}: {fault}"))


@click.command()
@argument.file
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="What to write.  [default: by FILE's ending, or jsonl]",
)
@click.option("--output", "target", metavar="FILE", default="-", help="A new file.  [default: standard output]")
@argument.run
@argument.stage
def export(file: str, form: str | None, target: str, run_id: str | None, stage: str | None) -> None:
    r"""
    Write the checkpoints down for other programs.

    jsonl is exact: a line of JSON for each checkpoint, in the order of the chain, with its seven values (run_id, stage,
    sequence, offset, event_time_ms, idempotency_key, at_ms). `milepost import` reads it back to the same signature.

    csv is for spreadsheets, with the columns of the view `checkpoint`, in UTF-8. It is not exact: a name that would start
    a formula has an apostrophe before it, and characters that a screen obeys or hides are written out, like \x1b.

    parquet has the same columns, exact, with times as timestamps of 64 bits in ms. It needs the extra `parquet`.
    """
    ending = Path(target).suffix.removeprefix(".")
    write = _WRITERS[form or (ending if ending in _WRITERS else "jsonl")]
    with CheckpointStore.open_readonly(file) as store:
        if target == "-":
            write(sys.stdout.buffer, store, run_id, stage)
        else:
            with new_file(target) as stream:
                write(stream, store, run_id, stage)


def _write_jsonl(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    entries = store.history(run_id, stage)
    while page := list(islice(entries, _BATCH)):
        stream.write("".join(output.line(record.checkpoint(entry)) for entry in page).encode("ascii"))


def _write_csv(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    entries = store.receipts(run_id, stage)
    text = io.StringIO(newline="")
    # Every name in quotes: a program that takes another separator, as some do by their language, finds none inside.
    table = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    table.writerow(["position", *record.FIELDS, "event_time", "at", "signature"])
    while True:
        stream.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
        page = list(islice(entries, _BATCH))
        if not page:
            return
        for receipt, entry in page:
            times = output.iso(entry.watermark.event_time_ms), output.iso(entry.at_ms)
            cells = (receipt.position, *record.checkpoint(entry).values(), *times, receipt.signature)
            table.writerow([_cell(cell) if isinstance(cell, str) else cell for cell in cells])


def _write_parquet(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    try:
        from arro3.io import write_parquet  # noqa: PLC0415 - an extra; 9 MB to fetch, where pyarrow has 55
    except ModuleNotFoundError:
        raise click.UsageError('parquet needs arro3-io: run  pip install "milepost[parquet]"') from None
    if stream is sys.stdout.buffer and output.on_terminal():
        raise click.UsageError("parquet is nothing to read on a terminal: give --output FILE")
    unbroken = _Unbroken(stream)
    try:
        write_parquet(store.frame(run_id, stage), unbroken, compression="snappy")  # type: ignore[arg-type]
    except Exception as error:  # what happened in ours while it read, in arro3's own words and with no class of its own
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        raise StoreError(store.path, str(error).removeprefix("C Data interface error: External error: ")) from error
    if unbroken.error is not None:
        raise unbroken.error


class _Unbroken(io.RawIOBase):
    """A stream that keeps its first error to itself: arro3 0.9 would panic, and print a trace of its own."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any, /) -> int:
        """Write it, or nothing more."""
        try:
            if self.error is None:
                self._stream.write(data)
        except OSError as error:
            self.error = error
        return len(memoryview(data))


_WRITERS: Final[dict[str, _Writer]] = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}


def _cell(text: str) -> str:
    """A text that a spreadsheet takes for a text."""
    return visible(f"'{text}" if text.startswith(_FORMULA) else text)


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


@click.command()
@argument.file
@click.argument("target", type=click.Path())
@argument.as_json
def backup(file: str, target: str, as_json: bool) -> None:
    """
    Make an exact copy, also while a pipeline writes.

    It prints the head of the copy, which is a file like any other, and durable when this ends. Nothing is overwritten.
    """
    with CheckpointStore.open_readonly(file) as store:
        head = store.backup(target)
    show_head(head, as_json=as_json)

"""The command `export`."""

from __future__ import annotations

import csv
import io
import sys
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from milepost.cli import argument, output, values
from milepost.cli.new_file import new_file
from milepost.errors import StoreError
from milepost.readable import iso_with_ms
from milepost.store import CheckpointStore
from milepost.transfer import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

    _Writer = Callable[[IO[bytes], CheckpointStore, str | None, str | None], None]


_BATCH: Final = 10_000  # entries written at a time


@click.command()
@argument.file
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="Write this format.  [default: by FILE's ending, or jsonl]",
)
@click.option("--output", "target", metavar="FILE", default="-", help="Write to this new file.  [default: standard output]")
@argument.run
@argument.stage
@argument.overwrite
def export(file: str, form: str | None, target: str, run_id: str | None, stage: str | None, overwrite: bool) -> None:
    r"""
    Export the checkpoints for other programs.

    jsonl is exact: one line of JSON for each checkpoint, in the order of the chain. A line has run_id, stage, sequence,
    offset, event_time_ms, idempotency_key, at_ms, and the detail and the cursor if there are any. `milepost import` makes a
    file with the same signature from it. Of entries in archives an export has what stayed in FILE only. You are told so,
    and such an export cannot be imported: copy the file with `milepost backup`.

    csv is for spreadsheets, in UTF-8, with the columns of the view `checkpoint`. It is not exact: names that would start a
    formula get an apostrophe, and control or invisible characters are escaped, as in \x1b.

    parquet has the same columns, exactly, with times as 64-bit timestamps in ms. It needs the extra `parquet`.
    """
    ending = Path(target).suffix.removeprefix(".")
    write = _WRITERS[form or (ending if ending in _WRITERS else "jsonl")]
    with CheckpointStore.open_readonly(file) as store:
        argument.refuse_unrecorded(store, run_id, stage)
        archived = store.base.entries
        if archived:
            output.note(
                f"the entries up to position {archived:,} are in archives: of these the export has what stayed in FILE, "
                "and it cannot be imported"
            )
        if target == "-":
            write(sys.stdout.buffer, store, run_id, stage)
        else:
            with new_file(target, overwrite=overwrite) as stream:
                write(stream, store, run_id, stage)


def _write_jsonl(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    entries = entries_of(store.path, run_id, stage)
    while page := list(islice(entries, _BATCH)):
        stream.write("".join(output.line(values.exported(entry)) for entry in page).encode("ascii"))


def _write_csv(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    entries = store.receipts(run_id, stage)
    text = io.StringIO(newline="")
    # Every name is quoted. Some programs take another separator by their language, and would find it inside a name.
    table = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    table.writerow(["position", *values.FIELDS, "event_time", "at", "signature", "detail"])
    while True:
        stream.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
        page = list(islice(entries, _BATCH))
        if not page:
            return
        for receipt, entry, detail in page:
            times = iso_with_ms(entry.watermark.event_time_ms), iso_with_ms(entry.at_ms)
            cells = (receipt.position, *values.exact(entry).values(), *times, receipt.signature, detail)
            table.writerow([output.cell(cell) if isinstance(cell, str) else cell for cell in cells])


def _write_parquet(stream: IO[bytes], store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    try:
        from arro3.io import write_parquet  # noqa: PLC0415 - an extra of 9 MB, where pyarrow has 55
    except ModuleNotFoundError:
        raise click.UsageError('parquet needs arro3-io: run  pip install "milepost[parquet]"') from None
    if stream is sys.stdout.buffer and output.on_terminal():
        raise click.UsageError("parquet is binary, and standard output is a terminal: give --output FILE")
    unbroken = _Unbroken(stream)
    try:
        write_parquet(store.frame(run_id, stage), unbroken, compression="snappy")  # type: ignore[arg-type]
    except Exception as error:  # arro3 wraps milepost's errors, in its own words and without a class
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        raise StoreError(store.path, str(error).removeprefix("C Data interface error: External error: ")) from error
    if unbroken.error is not None:
        raise unbroken.error


class _Unbroken(io.RawIOBase):
    """A stream that keeps its first error for later, because arro3 0.9 would panic and print a trace."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write the data, or discard it after an error."""
        try:
            if self.error is None:
                self._stream.write(data)
        except OSError as error:
            self.error = error
        return len(memoryview(data))


_WRITERS: Final[dict[str, _Writer]] = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}

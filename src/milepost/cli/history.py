"""The command `history`."""

from __future__ import annotations

import os
import select
import stat
import sys
from itertools import islice
from time import sleep
from typing import TYPE_CHECKING, Final

import click

from milepost.checkpoint import MAX_INTEGER
from milepost.cli import argument, output, values
from milepost.cli.exit_code import ExitCode
from milepost.cli.output import Column
from milepost.errors import StoreBusyError, StoreError
from milepost.store import CheckpointStore
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.checkpoint import Checkpoint
    from milepost.receipt import Receipt
    from milepost.times import Time

    _Recorded = tuple[Receipt, Checkpoint, str | None]


_PAGE: Final = 1000
_TAIL: Final = 10
_POLL_MS: Final = 500


@click.command()
@argument.file
@argument.run
@argument.stage
@argument.since
@argument.until
@click.option("--after", type=int, default=0, metavar="POSITION", help="Start after this position of the chain.")
@click.option("--limit", type=int, metavar="N", help="Print at most N checkpoints.")
@click.option("--newest-first", is_flag=True, help="Print the newest first.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Start with the last N.  [default with --follow: 10]")
@click.option("--follow", is_flag=True, help="Continue with new checkpoints as they arrive, until Ctrl-C.")
@argument.time_zone
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON in ASCII for each, for programs.")
def history(
    file: str,
    run_id: str | None,
    stage: str | None,
    since: Time | None,
    until: Time | None,
    after: int,
    limit: int | None,
    newest_first: bool,
    tail: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """
    List the checkpoints in the order of the chain.

    That is the order of their commits. The times are those of the pipeline's clock, which may have jumped.
    """
    if follow and newest_first:
        raise click.UsageError("--follow lists the oldest first: leave out --newest-first")
    if tail is not None and (after or newest_first):
        raise click.UsageError("--tail says where to start: leave out --after and --newest-first")
    if follow and tail is None and not after and since is None:
        tail = _TAIL
    with CheckpointStore.open_readonly(file) as store:

        def recorded(after: int, limit: int | None) -> Iterator[_Recorded]:
            return store.receipts(
                run_id, stage, since=since, until=until, after=after, limit=limit, newest_first=newest_first
            )

        if not follow:  # a run may be about to begin
            argument.refuse_unrecorded(store, run_id, stage)
        if tail is not None:
            last = store.receipts(run_id, stage, since=since, until=until, newest_first=True, limit=max(tail, 1))
            first = min((receipt.position for receipt, _, _ in last), default=1)
            after = first - 1 if tail else store.head().entries
        pages = _follow(store, recorded, after, limit) if follow else _pages(recorded(after, limit))
        try:
            if not follow and not as_json and store.latest() is None:
                output.note(NOTHING)
                return
            _show_history(pages, run_id, stage, follows=follow, as_json=as_json)
        except KeyboardInterrupt:
            if not follow:
                raise
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None  # the intended end, and no error


def _show_history(
    pages: Iterator[list[_Recorded]], run_id: str | None, stage: str | None, *, follows: bool, as_json: bool
) -> None:
    table = _history_table(run_id, stage)
    for number, page in enumerate(pages):
        if not page:
            if number == 0 and not follows and not as_json:
                table.print([])
            continue  # the first rows decide how wide the columns are
        if as_json:
            output.write("".join(output.line(values.recorded(*found)) for found in page))
        else:
            table.print([_history_row(run_id, stage, *found) for found in page])
        sys.stdout.flush()


def _history_table(run_id: str | None, stage: str | None) -> output.Table:
    return output.Table(
        Column("position", "number"),
        Column("at", "time"),
        *([] if run_id else [Column("run")]),
        *([] if stage else [Column("stage")]),
        Column("sequence", "number", spare=True),
        Column("offset", "number"),
        Column("event time", "time", spare=True),
        Column("key", spare=True),
    )


def _history_row(
    run_id: str | None, stage: str | None, receipt: Receipt, entry: Checkpoint, _detail: str | None
) -> list[str]:
    """Return a row of the table, without the columns that are the same in all rows."""
    return [
        str(receipt.position),
        output.time(entry.at_ms),
        *([] if run_id else [entry.run_id]),
        *([] if stage else [entry.stage]),
        str(entry.sequence),
        str(entry.watermark.offset),
        output.event_time(entry.watermark.event_time_ms),
        entry.idempotency_key,
    ]


def _pages(recorded: Iterator[_Recorded]) -> Iterator[list[_Recorded]]:
    """Split entries into pages: at least one, which may be empty."""
    while True:
        page = list(islice(recorded, _PAGE))
        yield page
        if len(page) < _PAGE:
            return


def _follow(
    store: CheckpointStore, recorded: Callable[[int, int | None], Iterator[_Recorded]], after: int, limit: int | None
) -> Iterator[list[_Recorded]]:
    """Yield pages without end, or until `limit` entries. A page is empty if nothing is new."""
    remaining = MAX_INTEGER if limit is None else limit
    seen = 0
    while True:
        try:
            end = store.head().entries  # of the whole chain: an archive moves entries away, and cuts nothing off
            page = list(islice(recorded(after, remaining), _PAGE))
        except StoreBusyError:  # somebody keeps replacing the file: look again
            end, page = seen, []
        if end < seen:
            raise StoreError(
                store.path, f"the file had {seen} entries and now has {end}, so somebody replaced it: start again"
            )
        seen = end
        yield page
        remaining -= len(page)
        if remaining <= 0:
            return
        if page:
            after = page[-1][0].position
        if len(page) < _PAGE:
            after = max(after, end)  # skip entries that the filter has already rejected
            _wait()


def _wait() -> None:
    """Wait before the next look. Notice at once, not only at the next entry, that nobody reads the pipe."""
    if hasattr(select, "poll") and _is_pipe():
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if poll.poll(_POLL_MS):
            raise BrokenPipeError
    else:
        sleep(_POLL_MS / 1000)


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # not a file of the operating system
        return False

"""The command `runs`."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import click

from milepost.cli import argument, output, values
from milepost.cli.output import Column
from milepost.readable import count, duration
from milepost.store import CheckpointStore
from milepost.summary import run_attempts, run_rate, run_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.summary import RunSummary

_SIGNATURE: Final = 12  # hex digits of a signature in a table
_STAGES: Final = 3  # that a table names; more are counted

_SORTS: Final[dict[str, Callable[[RunSummary], Any]]] = {
    "first": attrgetter("first_at_ms"),
    "last": attrgetter("last_at_ms"),
    "duration": attrgetter("duration_ms"),
    "entries": attrgetter("entries"),
    "rate": lambda run: run.rate or 0.0,
    "name": attrgetter("run_id"),
}


@click.command()
@argument.file
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Show the N newest runs; with --sort, the first N.")
@click.option("--sort", type=click.Choice(list(_SORTS)), help="Sort by this, the largest last.  [default: first appearance]")
@click.option("--newest-first", is_flag=True, help="Turn the order round.")
@argument.time_zone
@argument.as_json
def runs(file: str, limit: int | None, sort: str | None, newest_first: bool, as_json: bool) -> None:
    """
    List the runs, with their state, checkpoints, stages and times.

    The state is that of the last attempt, and the duration is how long it took. For a run without attempts, the duration is
    the time from its first to its last entry. A run that is open and has recorded nothing for long was probably killed.
    """
    with CheckpointStore.open_readonly(file) as store:
        if sort is None:
            found = store.runs(limit=limit, newest_first=True)
            left_out = 0 if limit is None or len(found) < limit else max(0, store._count_runs() - len(found))  # noqa: SLF001
            if not newest_first:
                found.reverse()
        else:
            found = sorted(store.runs(), key=_SORTS[sort], reverse=newest_first)
            left_out = 0 if limit is None else max(0, len(found) - limit)
            found = found[:limit]
    now_ms = time.time_ns() // 1_000_000
    output.listing(
        found,
        values.run,
        [
            Column("run"),
            Column("state"),
            Column("attempts", "number", spare=True),
            Column("checkpoints", "number", spare=True),
            Column("stages", spare=True),
            Column("first", "time", spare=True),
            Column("last", "time"),
            Column("duration", "number"),
            Column("records/s", "number", spare=True),
            Column("signature", spare=True),
        ],
        lambda each: (
            each.run_id,
            run_state(each, now_ms) or "–",
            run_attempts(each) or "–",
            f"{each.entries:,}",
            ", ".join(each.stages) if len(each.stages) <= _STAGES else count(len(each.stages), "stage"),
            output.time(each.first_at_ms, precise=False),
            output.time(each.last_at_ms, precise=False),
            duration(each.duration_ms),
            run_rate(each),
            each.signature[:_SIGNATURE],
        ),
        as_json=as_json,
        rest=f"and {count(left_out, 'more run')}" if left_out else "",
    )

"""The command `verify`, with its progress."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output
from milepost.cli.exit_code import ExitCode
from milepost.readable import count
from milepost.receipt import Head
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.verification import Verification


@click.command()
@argument.file
@click.option("--run", "run_id", metavar="RUN", help="Only this run's entries; HEAD is then one of the run's own chain.")
@click.option("--expected", type=argument.head, help="A head kept elsewhere, which the chain must contain.")
@click.option("--trusted", type=argument.head, help="A trusted head: read only what came after it.")
@click.option("--workers", type=int, default=1, metavar="N", help="How many processes may share the work.  [default: 1]")
@argument.key_file
@argument.as_json
def verify(
    file: str,
    run_id: str | None,
    expected: Head | None,
    trusted: Head | None,
    workers: int,
    key_file: str | None,
    as_json: bool,
) -> None:
    """
    Recompute the chain from the rows, and name every fault.

    A chain cannot show by itself that its tail was cut off, that an older copy was put back, or that all of it was written
    anew: give a head that was kept elsewhere as --expected. A keyed chain cannot be judged without its key.
    """
    with CheckpointStore.open_readonly(file, hmac_key=argument.key(key_file)) as store, _progress() as progress:
        verification = store.verify(run_id=run_id, trusted=trusted, expected=expected, workers=workers, progress=progress)
    _show(verification, as_json=as_json)
    if not verification.ok:
        raise click.exceptions.Exit(ExitCode.UNJUDGED if _unjudged(verification) else ExitCode.UNPROVEN)


def _unjudged(verification: Verification) -> bool:
    """Whether nothing is wrong but that the key is missing."""
    return {fault.kind for fault in verification.faults} == {"key"}


def _show(verification: Verification, *, as_json: bool) -> None:
    faults = verification.faults
    if as_json:
        output.document(
            {
                "ok": verification.ok,
                "entries": verification.entries,
                "signature": verification.signature,
                "faults": [
                    {"kind": fault.kind, "position": fault.position, "expected": fault.expected, "found": fault.found}
                    for fault in faults
                ],
                "unchecked": list(verification.unchecked),
            }
        )
        return
    _show_verdict(verification)
    if verification.unchecked:
        tables = count(len(verification.unchecked), "table")
        output.facts({"not checked": f"{tables} of others, for want of what only their own program has"})
        for name in verification.unchecked:
            output.item(name)


def _show_verdict(verification: Verification) -> None:
    faults = verification.faults
    if verification.ok:
        output.facts(
            {
                "intact": count(verification.entries, "entry"),
                "head": str(Head(verification.entries, verification.signature)),
            }
        )
        return
    if _unjudged(verification):
        output.facts({"not judged": count(verification.entries, "entry")})
    else:
        how_many = count(len(faults), "fault")
        output.facts({"broken": f"{how_many} in {count(verification.entries, 'entry')}"})
    for fault in faults:
        output.item(str(fault))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's standard error, with how many entries a second it makes; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second, for a terminal only
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        TextColumn("verify"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,} of {task.total:,}"),
        TextColumn("{task.fields[rate]:,.0f} a second"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, color_system="auto" if output.colored() else None)
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("verify", total=0, rate=0.0)

        def progress(done: int, entries: int) -> None:
            elapsed = bars.tasks[0].elapsed or 0.0
            bars.update(task, completed=done, total=entries, rate=done / elapsed if elapsed else 0.0)

        yield progress

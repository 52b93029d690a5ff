"""The command `verify`, with its progress bar."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from milepost.cli import argument, output, several
from milepost.cli.exit_code import ExitCode, end_with_worst, in_words_of_the_command_line
from milepost.fleet import open_many
from milepost.readable import count
from milepost.receipt import Head
from milepost.store import CheckpointStore
from milepost.verification import key_is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.cli.values import Record
    from milepost.verification import Fault, Verification


_FAULTS: Final = 20  # that are told; a run that was renamed has one for each of its entries


@click.command()
@argument.files
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    shell_complete=argument.complete_run,
    help="Verify this run only; heads are then heads of its own chain.",
)
@click.option(
    "--expected",
    type=argument.expected,
    multiple=True,
    metavar="HEAD",
    help="Check that the chain contains this head, kept elsewhere. With several files give FILE=HEAD, once for each.",
)
@click.option(
    "--archive",
    "archives",
    type=argument.PATH,
    multiple=True,
    metavar="FILE",
    help="Verify across this archive too; give it once for each.",
)
@click.option("--trusted", type=argument.head, help="Trust this head, and verify only the entries after it.")
@click.option("--workers", type=int, default=1, metavar="N", help="Use up to N processes.  [default: 1]")
@argument.key_file
@argument.as_json
def verify(
    files: tuple[str, ...],
    run_id: str | None,
    expected: tuple[tuple[str | None, Head], ...],
    archives: tuple[str, ...],
    trusted: Head | None,
    workers: int,
    key_file: str | None,
    as_json: bool,
) -> None:
    """
    Recompute the chain from the rows, and list every fault.

    The file alone cannot reveal truncation, rollback to an older copy, or a complete rewrite. Keep a head elsewhere and pass
    it as --expected to detect all three. Verifying a keyed chain needs its key.

    A chain with archives is verified from its base on. With --archive it is verified from the first entry on, across files.
    """
    if len(files) > 1:
        if run_id is not None or trusted is not None or archives:
            raise click.UsageError("--run, --trusted and --archive go with one file: verify it alone")
        _verify_files(files, expected, workers, key_file, as_json=as_json)
        return
    (file,) = files
    heads = [head for named, head in expected if named in {None, file}]
    if len(heads) < len(expected):
        raise click.UsageError("--expected names another file")
    if len(heads) > 1:
        raise click.UsageError("give --expected once: the last head that you kept")
    head = heads[-1] if heads else None
    with CheckpointStore.open_readonly(file, hmac_key=argument.key(key_file)) as store, _progress() as progress:
        verification = store.verify(
            run_id=run_id, trusted=trusted, expected=head, archives=archives, workers=workers, progress=progress
        )
    _show(verification, keyed=key_file is not None, as_json=as_json)
    if not verification.ok:
        raise click.exceptions.Exit(_exit_code(verification))


def _verify_files(
    files: tuple[str, ...],
    expected: tuple[tuple[str | None, Head], ...],
    workers: int,
    key_file: str | None,
    *,
    as_json: bool,
) -> None:
    heads = {file: head for file, head in expected if file is not None}
    if len(heads) < len(expected):
        raise click.UsageError("with several files, give --expected FILE=HEAD, once for each file")
    with open_many(files, hmac_key=argument.key(key_file)) as fleet, _progress() as progress:
        answers = fleet.verify(expected=heads, workers=workers, progress=progress)
    if as_json:
        output.document({"ok": answers.ok, "files": several.records(answers, _record, {"ok": False})})
    else:
        several.show(answers)
    end_with_worst(several.exit_codes(answers, _exit_code))


def _exit_code(verification: Verification) -> ExitCode:
    if verification.ok:
        return ExitCode.SUCCESS
    return ExitCode.WRONG_KEY if key_is_missing(verification) else ExitCode.CHECK_FAILED


def _show(verification: Verification, *, keyed: bool, as_json: bool) -> None:
    if as_json:
        output.document(_record(verification))
        return
    _show_verdict(verification, keyed=keyed)
    if verification.elsewhere:
        output.facts({"not read": f"{verification.elsewhere:,} of them, in archives: give each with --archive"})
    if verification.unchecked:
        tables = count(len(verification.unchecked), "table")
        output.facts({"not checked": f"{tables} that only another program can check"})
        for name in verification.unchecked:
            output.item(name)


def _record(verification: Verification) -> Record:
    return {
        "ok": verification.ok,
        "entries": verification.entries,
        "elsewhere": verification.elsewhere,
        "signature": verification.signature,
        "faults": [
            {
                "kind": fault.kind,
                "position": fault.position,
                "run_id": fault.run_id,
                "stage": fault.stage,
                "sequence": fault.sequence,
                "explanation": _explained(fault),
                "expected": fault.expected,
                "found": fault.found,
                "file": fault.file,
            }
            for fault in verification.faults
        ],
        "unchecked": list(verification.unchecked),
    }


def _explained(fault: Fault) -> str:
    return in_words_of_the_command_line(fault.explanation)


def _show_verdict(verification: Verification, *, keyed: bool) -> None:
    faults = verification.faults
    if verification.ok:
        output.facts(
            {
                "intact": count(verification.entries, "entry"),
                "head": str(Head(verification.entries, verification.signature)),
            }
        )
        return
    if key_is_missing(verification):
        output.facts({"not verified": count(verification.entries, "entry")})
    else:
        how_many = count(len(faults), "fault")
        output.facts({"broken": f"{how_many} in {count(verification.entries, 'entry')}"})
    for fault in faults[:_FAULTS]:
        output.sentence(str(replace(fault, explanation=_explained(fault))))
    if len(faults) > _FAULTS:
        output.sentence(f"and {count(len(faults) - _FAULTS, 'more fault')}: --json lists them all")
    if any(fault.kind == "link" for fault in faults) and not keyed:
        output.facts({"note": "a row changed together with its signature shows at the row after it"})


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar with the rate on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - takes 0.1 s, and only a terminal needs it
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
        task = bars.add_task("verify", total=0, rate=0.0, visible=False)

        def progress(done: int, entries: int) -> None:
            elapsed = bars.tasks[0].elapsed or 0.0
            rate = done / elapsed if elapsed else 0.0
            bars.update(task, completed=done, total=entries, rate=rate, visible=entries > 0)

        yield progress

"""The command `archive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.arguments import check_integer
from milepost.cli import argument, output
from milepost.readable import count
from milepost.receipt import Head
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.archive import Plan
    from milepost.times import Time


def _before(text: str) -> Head | Time:
    """Parse a head, or else a time."""
    return argument.head(text) if ":" in text and len(text.partition(":")[2]) == 64 else argument.time(text)


@click.command()
@argument.file
@click.argument("target", type=argument.PATH)
@click.option(
    "--before",
    type=_before,
    required=True,
    metavar="TIME|HEAD",
    help="Archive what was recorded before this time, or up to this head.",
)
@click.option("--workers", type=int, default=1, metavar="N", help="Verify the copy with up to N processes.  [default: 1]")
@click.option("--yes", is_flag=True, help="Do it. Without this, only tell what would be done.")
@argument.key_file
@argument.time_zone
@argument.as_json
def archive(
    file: str, target: str, before: Head | Time, workers: int, yes: bool, key_file: str | None, as_json: bool
) -> None:
    """
    Move the beginning of a chain into a file of its own, TARGET.

    Without --yes this tells what would be moved, and changes nothing. With it, TARGET is made, verified and sealed, and then
    the entries are deleted from FILE in small commits, also while a pipeline writes. Of every stage of a run the last entry
    stays, so that it resumes where it would have. If the command is killed, give the same command again.

    Keep TARGET: `milepost verify FILE --archive TARGET` proves the whole chain.
    """
    check_integer("workers", workers, least=1)  # also in a dry run
    key = argument.key(key_file)
    with CheckpointStore.open_readonly(file, hmac_key=key) as store:  # FILE is never made here
        plan = store._plan_archive(before)  # noqa: SLF001 - what an archive would do is of use to this command only
        last = next(store.history(after=plan.cut.entries - 1, limit=1), None) if plan.moved else None
    if yes:
        with CheckpointStore(file, hmac_key=key) as writer:
            writer.archive(target, before=plan.cut, workers=workers)  # as told, whatever is recorded meanwhile
    if as_json:
        output.document({"archived": yes and plan.moved > 0, "moved": plan.moved, "kept": plan.kept, "base": str(plan.cut)})
    elif plan.moved == 0:
        output.text("nothing to archive: no entry was recorded before, or all of them are archived already")
    else:
        _show(plan, yes=yes, until=output.time(last.at_ms, precise=last.at_ms % 1000 > 0) if last else "–")


def _show(plan: Plan, *, yes: bool, until: str) -> None:
    output.facts(
        {
            "archived" if yes else "would archive": f"{count(plan.cut.entries - plan.base.entries, 'entry')} until {until}",
            "stays": f"{count(plan.kept, 'entry')} of them and of earlier archives, to resume from",
            "base": str(plan.cut),
        }
    )
    if not yes:
        output.facts({"note": "nothing was changed: add --yes to do it"})

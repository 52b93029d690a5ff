"""The command `report`."""

from __future__ import annotations

import logging
from typing import Final

import click

from milepost.answers import why
from milepost.cli import argument, output, several
from milepost.cli.exit_code import end_with_worst, in_words_of_the_command_line
from milepost.cli.new_file import new_file
from milepost.fleet import open_many
from milepost.store import CheckpointStore

_VERIFIED: Final = 100_000
"""Up to how many entries a report verifies the chain without being asked: a quarter of a second."""

_VERIFIED_RUNS: Final = 20_000
"""Up to how many runs it does so: each has a chain of its own, which costs as much as five entries."""


@click.command()
@argument.files
@click.argument("target", metavar="OUT.html", type=argument.PATH)
@click.option(
    "--verify/--no-verify",
    "verifies",
    default=None,
    help="Verify the chain.  [default: up to 100,000 entries and 20,000 runs]",
)
@argument.key_file
@argument.overwrite
def report(files: tuple[str, ...], target: str, verifies: bool | None, key_file: str | None, overwrite: bool) -> None:
    """
    Make one page to send: summary, pictures, verification.

    OUT.html is a single file for any browser, light or dark. It has no script, and fetches nothing. This needs the extra
    `notebook`. Several files share a page: a table of all, and the pictures of those in which most stands out.
    """
    # matplotlib warns of its cache and of this machine's fonts, but draws the picture anyway.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from milepost.forensics.report import report as page  # noqa: PLC0415 - matplotlib takes a second
    from milepost.forensics.report import report_of_files  # noqa: PLC0415

    if len(files) > 1:
        with open_many(files, hmac_key=argument.key(key_file)) as fleet:
            lengths = fleet.ask(len)
            entries = sum(answer.value for answer in lengths.values() if answer.error is None)
            wanted = entries <= _VERIFIED if verifies is None else verifies
            text = report_of_files(fleet, fleet.verify() if wanted else None)
        with new_file(target, overwrite=overwrite) as stream:
            stream.write(text.encode())
        for file, error in lengths.errors.items():
            output.note(f"{file}: {in_words_of_the_command_line(why(error))}")
        end_with_worst(several.exit_codes(lengths))
        return
    (file,) = files
    with CheckpointStore.open_readonly(file, hmac_key=argument.key(key_file)) as store:
        few = len(store) <= _VERIFIED and store._count_runs() <= _VERIFIED_RUNS  # noqa: SLF001
        wanted = few if verifies is None else verifies
        text = page(store, store.verify() if wanted else None)
    with new_file(target, overwrite=overwrite) as stream:
        stream.write(text.encode())

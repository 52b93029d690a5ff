"""
The command line: arguments in, text and an exit code out.

A command imports heavy modules only when it runs, so that `milepost --help` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from milepost.cli.archive import archive
from milepost.cli.backup import backup
from milepost.cli.branch import branch
from milepost.cli.check import check
from milepost.cli.compare import compare
from milepost.cli.demo import demo
from milepost.cli.exit_code import EXIT_CODES, explain_errors, explain_warnings
from milepost.cli.export import export
from milepost.cli.head import head
from milepost.cli.history import history
from milepost.cli.import_ import import_
from milepost.cli.latest import latest
from milepost.cli.plot import plot
from milepost.cli.record import record
from milepost.cli.report import report
from milepost.cli.restore import restore
from milepost.cli.resume import resume
from milepost.cli.runs import runs
from milepost.cli.ship import ship
from milepost.cli.sql import sql
from milepost.cli.stages import stages
from milepost.cli.summary import summary
from milepost.cli.verify import verify
from milepost.cli.watch import watch


class _Commands(click.Group):
    """The commands in the order of a first look. It explains every error and warning of every command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they were added."""
        del ctx
        return list(self.commands)

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        """Read the command line. `--help` and `--version` print their answer here."""
        with explain_errors():
            return super().make_context(*given, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one command."""
        with explain_errors(), explain_warnings():
            return super().invoke(ctx)


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="milepost", prog_name="milepost")
def commands() -> None:
    """
    Inspect, verify and copy the checkpoints that a data pipeline keeps in one SQLite file.

    Reading commands change no byte of FILE or its directory, even while a pipeline writes. Tables are for people; use --json
    for programs.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that knows ASCII only


for _command in (
    summary, runs, stages, check, watch, latest, resume, history, head, verify, compare, plot, report, sql, export, import_,
    backup, archive, ship, restore, branch, record, demo,
):  # fmt: skip
    commands.add_command(_command)

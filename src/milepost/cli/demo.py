"""The command `demo`."""

from __future__ import annotations

import click

from milepost.cli.exit_code import ExitCode


@click.command(short_help="Kill a pipeline, resume it, and prove that nothing was lost.")
@click.option("--input", "csv", metavar="FILE.csv", help="Run the job over this CSV instead of the flights.")
@click.option("--event-time", metavar="COLUMN", help="Its column with the time of each record.")
@click.option("--by", metavar="COLUMN", help="Its column to total by, beside the day.")
@click.option("--sum", "summed", metavar="COLUMN", help="Its column of numbers to add up; an empty cell adds nothing.")
@click.option("--output", metavar="FILE", help="The file to make.  [default: flights.milepost, or FILE.milepost]")
@click.option("--overwrite", is_flag=True, help="Replace the file to make, if it is there and a file of milepost.")
def demo(
    csv: str | None, event_time: str | None, by: str | None, summed: str | None, output: str | None, overwrite: bool
) -> None:
    """
    Kill a pipeline half way, resume it, and prove that nothing was lost or done twice.

    A job of three stages (extract, transform, load) takes the 336,776 flights that left New York in 2013 to totals per
    carrier and day. It is killed with SIGKILL, started again, and compared with a job that was never killed and with
    the CSV itself. The file stays, to look at.

    A time of your own CSV is ISO 8601 (without a zone it is UTC) or a whole number of seconds or milliseconds since 1970.
    """
    from milepost.demo.flights import flights  # noqa: PLC0415
    from milepost.demo.show import show  # noqa: PLC0415
    from milepost.demo.source import Source  # noqa: PLC0415

    if csv is None and (event_time, by, summed) != (None, None, None):
        raise click.UsageError("--event-time, --by and --sum name columns of an --input FILE.csv: give that too")
    if csv is not None and event_time is None:
        raise click.UsageError("with --input, --event-time COLUMN says when each record happened")
    source = flights() if csv is None or event_time is None else Source(csv, event_time, by, summed)
    if not show(source, output, overwrite=overwrite):
        raise click.exceptions.Exit(ExitCode.UNPROVEN)

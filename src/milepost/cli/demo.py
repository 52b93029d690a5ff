"""The command `demo`."""

from __future__ import annotations

import click

from milepost.cli.exit_code import ExitCode


@click.command(short_help="Kill a pipeline, resume it, and prove that nothing was lost.")
@click.option("--input", "csv", metavar="FILE.csv", help="Process this CSV instead of the flights.")
@click.option("--event-time", metavar="COLUMN", help="Take the time of each record from this column.")
@click.option("--by", metavar="COLUMN", help="Total by this column, and by day.")
@click.option("--sum", "summed", metavar="COLUMN", help="Add up this column of numbers; an empty cell adds nothing.")
@click.option(
    "--output",
    metavar="PATH",
    help="Make this file, or this directory's flights.milepost or FILE.milepost.  [default: .]",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file, if it is a file of milepost.")
def demo(
    csv: str | None, event_time: str | None, by: str | None, summed: str | None, output: str | None, overwrite: bool
) -> None:
    """
    Kill a pipeline half way, resume it, and prove that nothing was lost or done twice.

    A job of three stages (extract, transform, load) turns the 336,776 flights that left New York in 2013 into totals per
    carrier and day. The command kills the job with SIGKILL and starts it again. It then compares the result with a job that
    was never killed, and with the CSV itself. The output file stays, for you to explore.

    A CSV of your own is UTF-8, UTF-16 or Latin-1 (Windows-1252), with commas, semicolons or tabs. Times are ISO 8601 (UTC
    without a zone), or seconds, milliseconds, microseconds or nanoseconds since 1970. A sum of whole numbers is exact.
    """
    from milepost.demo.flights import flights  # noqa: PLC0415
    from milepost.demo.run import run_demo  # noqa: PLC0415
    from milepost.demo.source import Source  # noqa: PLC0415

    if csv is None and (event_time, by, summed) != (None, None, None):
        raise click.UsageError("--event-time, --by and --sum name columns of a CSV: give --input FILE.csv too")
    if csv is not None and event_time is None:
        raise click.UsageError("--input needs the column with the time of each record: give --event-time COLUMN")
    source = flights() if csv is None or event_time is None else Source(csv, event_time, by, summed)
    if not run_demo(source, output, overwrite=overwrite):
        raise click.exceptions.Exit(ExitCode.CHECK_FAILED)

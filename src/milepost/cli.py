"""
The command line: arguments in, text and an exit code out.

Exit codes: 0, all is well; 1, what was asked to be proven does not hold; 2, a wrong argument or input; 3, a file that
cannot be opened or written; 130, interrupted.

A command imports what it needs when it runs, so that `milepost --help` answers at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from milepost.errors import InvalidArgumentError, MilepostError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNPROVEN, WRONG_INPUT, NO_FILE, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error that a user can do something about into one sentence and an exit code."""
    try:
        yield
    except InvalidArgumentError as error:
        _leave(str(error), WRONG_INPUT)
    except StoreError as error:
        _leave(str(error), NO_FILE)
    except MilepostError as error:
        _leave(str(error), UNPROVEN)
    except BrokenPipeError:
        raise  # click ends without a word, as a command before `head` should
    except OSError as error:
        _leave(f"{error.filename}: {error.strerror}" if error.filename else str(error), NO_FILE)
    except KeyboardInterrupt:
        _leave("interrupted; what was recorded by then is in the file", INTERRUPTED)


def _leave(sentence: str, exit_code: int) -> NoReturn:
    click.echo(f"Error: {sentence}", err=True)
    raise click.exceptions.Exit(exit_code)


@click.group()
@click.version_option(package_name="milepost", prog_name="milepost")
def commands() -> None:
    """The flight recorder of a single-node data pipeline, in one SQLite file."""


@commands.command()
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
    with explained():
        source = flights() if csv is None or event_time is None else Source(csv, event_time, by, summed)
        if not show(source, output, overwrite=overwrite):
            raise click.exceptions.Exit(UNPROVEN)

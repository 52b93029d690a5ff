"""How a command ends: an exit code, and one sentence for an error that a user can do something about."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

import click

from milepost.errors import InvalidArgumentError, MilepostError, StoreError, WrongKeyError
from milepost.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitCode(IntEnum):
    """What the number says that a command leaves behind."""

    DONE = 0
    UNPROVEN = 1
    WRONG_INPUT = 2
    NO_FILE = 3
    UNJUDGED = 4
    INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
    NO_READER = 141  # 128 + SIGPIPE


EXIT_CODES = """\b
Exit codes:
    0  done; what was asked to hold holds
    1  a fault was found, two runs differ, or nothing is recorded there
    2  a wrong argument or input
    3  a file that cannot be opened or written
    4  cannot be judged: the chain is keyed, and this is not its key
  130  interrupted
  141  the reader of a pipe went away, as `head` does"""


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error that a user can do something about into one sentence and an exit code."""
    try:
        yield
        sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
    except InvalidArgumentError as error:
        _leave(str(error), ExitCode.WRONG_INPUT)
    except WrongKeyError as error:
        _leave(str(error), ExitCode.UNJUDGED)
    except StoreError as error:
        _leave(str(error), ExitCode.NO_FILE)
    except MilepostError as error:  # an ImportError of ours names an extra that is to be installed
        _leave(str(error), ExitCode.WRONG_INPUT if isinstance(error, ImportError) else ExitCode.UNPROVEN)
    except BrokenPipeError:
        _leave_stdout()
        raise click.exceptions.Exit(ExitCode.NO_READER) from None
    except OSError as error:
        _leave_stdout()
        _leave(f"{error.filename}: {error.strerror}" if error.filename else str(error), ExitCode.NO_FILE)
    except KeyboardInterrupt:
        _leave("interrupted", ExitCode.INTERRUPTED)


def _leave(sentence: str, exit_code: ExitCode) -> NoReturn:
    click.echo(f"Error: {visible(sentence)}", err=True)
    raise click.exceptions.Exit(exit_code)


def _leave_stdout() -> None:
    """
    Let what could not be written go nowhere: the interpreter would try again at its end, and complain.

    Source:
        https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

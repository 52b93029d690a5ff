"""How a command ends: an exit code, and one sentence for an error that a user can do something about."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NoReturn

import click

from milepost.errors import InvalidArgumentError, MilepostError, StoreError, WrongKeyError
from milepost.readable import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class ExitCode(IntEnum):
    """What the number says that a command leaves behind."""

    DONE = 0
    UNPROVEN = 1
    WRONG_INPUT = 2
    NO_FILE = 3
    UNJUDGED = 4
    HUNG_UP = 129  # 128 + SIGHUP, as a shell says it
    INTERRUPTED = 130  # 128 + SIGINT
    NO_READER = 141  # 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM


EXIT_CODES = """\b
Exit codes:
    0  done; what was asked to hold holds
    1  a fault was found, two runs differ, or nothing is recorded there
    2  a wrong argument or input
    3  a file that cannot be opened or written
    4  cannot be judged: the chain is keyed, and this is not its key
  129  the terminal went away
  130  interrupted
  141  the reader of a pipe went away, as `head` does
  143  terminated"""

_ENDS: Final = {
    getattr(signal, name): (sentence, exit_code)
    for name, sentence, exit_code in (
        ("SIGTERM", "terminated", ExitCode.TERMINATED),
        ("SIGHUP", "the terminal went away", ExitCode.HUNG_UP),
    )
    if hasattr(signal, name)
}


@contextmanager
def explained() -> Iterator[None]:
    """
    Turn an error that a user can do something about, and a signal that ends, into one sentence and an exit code.

    A signal that would end the process is heard as Ctrl-C is, so that what a command was making is removed first.
    """
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        if not heard:  # a second one does not disturb the tidying up
            heard.append(number)
            raise KeyboardInterrupt

    ours = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]  # else somebody has decided already
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, hear)
    try:
        yield
        sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
    except BaseException as error:
        if heard:  # whatever has become of the exception on its way
            _leave_stdout()
            _leave(*_ENDS[heard[0]])
        _explain(error)
        raise
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _explain(error: BaseException) -> None:
    """Leave, if it is an error that a user can do something about."""
    match error:
        case InvalidArgumentError():
            _leave(str(error), ExitCode.WRONG_INPUT)
        case WrongKeyError():
            _leave(str(error), ExitCode.UNJUDGED)
        case StoreError():
            _leave(str(error), ExitCode.NO_FILE)
        case MilepostError():  # an ImportError of ours names an extra that is to be installed
            _leave(str(error), ExitCode.WRONG_INPUT if isinstance(error, ImportError) else ExitCode.UNPROVEN)
        case BrokenPipeError():
            _leave_stdout()
            raise click.exceptions.Exit(ExitCode.NO_READER) from None
        case OSError():
            _leave_stdout()
            _leave(f"{error.filename}: {error.strerror}" if error.filename else str(error), ExitCode.NO_FILE)
        case KeyboardInterrupt():
            _leave("interrupted", ExitCode.INTERRUPTED)


def _leave(sentence: str, exit_code: ExitCode) -> NoReturn:
    with suppress(OSError):  # nobody is there to read it any more
        click.echo(f"Error: {visible(sentence)}", err=True)
    raise click.exceptions.Exit(exit_code) from None


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

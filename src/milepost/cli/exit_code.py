"""End a command with an exit code, and explain errors and warnings in one sentence if the user can act on them."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

import click

from milepost.cli import wrapping
from milepost.errors import (
    ArchivedStageError,
    DamagedTargetError,
    FencedError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    MilepostWarning,
    StoreError,
    TargetError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    SUCCESS = 0
    CHECK_FAILED = 1
    WRONG_INPUT = 2
    NO_FILE = 3
    WRONG_KEY = 4
    NOTHING_YET = 5
    FENCED = 6
    HUNG_UP = 129  # 128 + SIGHUP, as in a shell
    INTERRUPTED = 130  # 128 + SIGINT
    NO_READER = 141  # 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM


EXIT_CODES = """\b
Exit codes:
    0  success
    1  a check failed, two runs differ, or nothing is recorded there
    2  an argument or the input is wrong
    3  a file or a target cannot be opened or written
    4  the key is missing or wrong, so the chain cannot be verified
    5  nothing is recorded yet (check)
    6  another machine has taken over (ship)
  129  the terminal was closed
  130  interrupted
  141  the reader of the pipe has gone, as `head` does
  143  terminated

Of several files, the worst of their codes counts: 1, then 3, 4, 2 and 5."""

_ENDS: Final = {
    getattr(signal, name): (sentence, exit_code)
    for name, sentence, exit_code in (
        ("SIGTERM", "terminated", ExitCode.TERMINATED),
        ("SIGHUP", "the terminal was closed", ExitCode.HUNG_UP),
    )
    if hasattr(signal, name)
}


@contextmanager
def explain_errors() -> Iterator[None]:
    """
    Turn an error that the user can act on, or a terminating signal, into one sentence and an exit code.

    A terminating signal is handled like Ctrl-C, so that a command removes its unfinished files first.
    """
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        if not heard:  # a second one does not disturb the cleanup
            heard.append(number)
            raise KeyboardInterrupt

    ours = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]  # else somebody handles it already
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, hear)
    try:
        with _written():
            yield
    except BaseException as error:
        if heard:  # whatever exception it became on its way
            _leave(*_ENDS[heard[0]])
        _explain(error)
        raise
    finally:
        for number in ours:
            # A second one comes while the process ends, and must not change its exit code.
            signal.signal(number, signal.SIG_IGN if heard else signal.SIG_DFL)


@contextmanager
def _written() -> Iterator[None]:
    """Write what is still in the buffer, here, where a full disk or a lost reader can still be reported."""
    try:
        yield
    except click.exceptions.Exit:  # an answer as well, with an exit code of its own
        sys.stdout.flush()
        raise
    sys.stdout.flush()


@contextmanager
def explain_warnings() -> Iterator[None]:
    """Print a warning of milepost's as a remark, without the place in its source that Python shows."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def remark(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, MilepostWarning):
                _print(f"milepost: {in_words_of_the_command_line(str(message))}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = remark
        yield


def _explain(error: BaseException) -> None:
    """Print one sentence and exit, if the user can act on the error."""
    match error:
        case MilepostError():
            _leave(error, exit_code_of(error))
        case BrokenPipeError():
            _leave_stdout()
            raise click.exceptions.Exit(ExitCode.NO_READER) from None
        case OSError():
            _leave(f"{error.filename}: {error.strerror}" if error.filename else str(error), ExitCode.NO_FILE)
        case KeyboardInterrupt():
            _leave("interrupted", ExitCode.INTERRUPTED)


def exit_code_of(error: MilepostError) -> ExitCode:
    """Return the exit code that an error has, as the end of a command or as that of one of its files."""
    match error:
        # An ImportError of milepost's names an extra to install. With 1, runs that were not compared would differ.
        case InvalidArgumentError() | InvalidCheckpointError() | ImportError() | ArchivedStageError():
            return ExitCode.WRONG_INPUT
        case WrongKeyError():
            return ExitCode.WRONG_KEY
        case FencedError():
            return ExitCode.FENCED
        case DamagedTargetError():
            return ExitCode.CHECK_FAILED
        case StoreError() | TargetError():
            return ExitCode.NO_FILE
    return ExitCode.CHECK_FAILED


_WORST_FIRST: Final = (
    ExitCode.CHECK_FAILED,
    ExitCode.NO_FILE,
    ExitCode.WRONG_KEY,
    ExitCode.WRONG_INPUT,
    ExitCode.NOTHING_YET,
    ExitCode.SUCCESS,
)


def end_with_worst(exit_codes: Iterable[ExitCode]) -> None:
    """End a command about several files with the worst of their exit codes."""
    worst = min(exit_codes, key=_WORST_FIRST.index)
    if worst is not ExitCode.SUCCESS:
        raise click.exceptions.Exit(worst)


# Messages of the library say which method to call. Here is a command line.
_COMMANDS: Final = {
    "continue from resume_point_for_stage()": "see `milepost resume`",
    "resume from resume_point_for_stage(), or let advance() assign the sequence": "see `milepost resume`",
    "see runs(), which has": "see `milepost runs`, which has",
    "open it with CheckpointStore(), which upgrades it": "any program that writes to it upgrades it",
    "retry, or open with a longer busy_timeout_ms": "try again",
    "check the path, or create it with CheckpointStore()": "check the path",
    "write with the methods of the store, or in transaction()": "milepost never writes what you ask for in SQL",
    "go on from restore() into a new file": "go on from `milepost restore` into a new file",
    "give hmac_key": "give --key-file",
    "give the one it was made with": "give the one it was made with, by --key-file",
    "verify() it": "run `milepost verify`",
    " (milepost.ms() gives it)": "",
    "open it with open_readonly()": "read it with the other commands",
    "check its permissions, or use open_readonly()": "check its permissions",
    "is no head of this chain: give one that head() has returned": "is no head of this chain: give one of `milepost head`",
}
_ARGUMENTS: Final = re.compile(r"(?<![\w./\\-])(new_)?run_id(?![\w./\\-])")  # as a word, and not in a path
_METHODS: Final = re.compile(r"(?:milepost\.)?\b(backup|head|restore|runs|ship|verify)\(\)")
_QUOTED: Final = re.compile(r"""((?<!\w)'(?:[^'\\]|\\.)*'|(?<!\w)"(?:[^"\\]|\\.)*")""")


def in_words_of_the_command_line(said: MilepostError | str) -> str:
    """Say the same with commands and options instead of methods and arguments. The names in it stay as they are."""
    sentence, place = str(said), ""
    if isinstance(said, StoreError | TargetError):
        path = said.path if isinstance(said, StoreError) else said.target
        place = path if path.isprintable() else ascii(path)  # as both begin
        sentence = sentence.removeprefix(place)
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().invoked_subcommand == "verify":
        sentence = sentence.replace("verify() it, and restore it", "restore it")  # which is what just failed
    # Every second part is quoted: a name of a run, which may look like an argument.
    parts = [part if number % 2 else _translated(part) for number, part in enumerate(_QUOTED.split(sentence))]
    return place + "".join(parts)


def _translated(sentence: str) -> str:
    for method, command in _COMMANDS.items():
        sentence = sentence.replace(method, command)
    sentence = _METHODS.sub(lambda found: f"`milepost {found[1]}`", sentence)
    return _ARGUMENTS.sub(lambda found: "new run" if found[1] else "run", sentence)


def _leave(said: MilepostError | str, exit_code: ExitCode) -> NoReturn:
    _leave_stdout()
    _print(f"Error: {in_words_of_the_command_line(said)}")
    raise click.exceptions.Exit(exit_code) from None


def _print(sentence: str) -> None:
    with suppress(OSError):  # nobody may be there to read it
        for line in wrapping.lines(sentence, sys.stderr.isatty()):
            click.echo(line, err=True)


def _leave_stdout() -> None:
    """
    Discard unwritten output, because the interpreter would try to write it again at exit, and complain.

    Source:
        https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        sys.stdout.flush()
    except (OSError, KeyboardInterrupt):  # such as a second Ctrl-C, while the reader takes nothing
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

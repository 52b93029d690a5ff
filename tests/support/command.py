"""Run the command line in a test: in this process, as a process in a pipe, or on a terminal of a given width."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result

from milepost.cli import commands
from support.warm import warm_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from support.warm import WarmTalk

COMMAND = [sys.executable, "-m", "milepost"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""Of a process whose output is buffered, as it is for users: what cannot be written may be noticed at the very end."""


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """In this process, which is quick; standard output is no terminal."""
    return CliRunner().invoke(commands, [str(argument) for argument in arguments], input=stdin)


def answer(*arguments: str | Path, exit_code: int = 0) -> str:
    """What a command writes to standard output; nothing is on standard error if all is well."""
    result = run(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert (result.exit_code, result.stderr) == (exit_code, result.stderr if exit_code else "")
    return result.stdout


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """As a process of its own."""
    given = {"env": ENVIRONMENT, "capture_output": True, "timeout": 60, **options}
    return subprocess.run([*COMMAND, *arguments], check=False, **given)


def talk(*arguments: str | Path, env: Mapping[str, str] = ENVIRONMENT) -> WarmTalk[bytes]:
    """Begin it as a process of its own, with pipes, that is forked from a Python which has imported milepost."""
    return warm_commands(warnings=None).talk("-m", "milepost", *arguments, env=env)


def warm_process(*arguments: str | Path, env: Mapping[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess[bytes]:
    """The same, to its end."""
    child = talk(*arguments, env=env)
    output, errors = child.communicate()
    assert child.returncode is not None
    return subprocess.CompletedProcess(arguments, child.returncode, output, errors)


def on_terminal(*arguments: str | Path, columns: int = 80, **environment: str) -> tuple[int, str]:
    """On a terminal: the exit code, and everything that reached the screen."""
    import fcntl  # noqa: PLC0415 - not on Windows
    import pty  # noqa: PLC0415
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    given = {**kept, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    python = warm_commands(warnings=None)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(python.run_with, (terminal,) * 3, "-m", "milepost", *arguments, env=given)
        ended.add_done_callback(lambda _: os.close(terminal))
        seen = b""
        try:
            while part := os.read(screen, 1 << 16):
                seen += part
        except OSError:  # how Linux says that the last writer has closed it
            pass
        finally:
            os.close(screen)
        return ended.result(60), seen.decode().replace("\r\n", "\n")


@contextmanager
def watching(*arguments: str | Path, columns: int = 80) -> Iterator[Callable[[str], str]]:
    """
    `milepost watch` on a terminal, ended by Ctrl-C.

    Yields a function that waits until a text is on the screen, and returns all that reached it, without colours.
    """
    import fcntl  # noqa: PLC0415 - not on Windows
    import pty  # noqa: PLC0415
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    given = {**kept, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    child = warm_commands(warnings=None).start((terminal,) * 3, "-m", "milepost", "watch", *arguments, env=given)
    os.close(terminal)
    seen = b""

    def wait_for(text: str) -> str:
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in (shown := re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))):
            assert time.monotonic() < deadline, shown
            if select.select([screen], [], [], 0.2)[0]:
                try:
                    seen += os.read(screen, 1 << 16)
                except OSError:
                    assert text in shown, shown
        return shown.replace("\r\n", "\n")

    try:
        yield wait_for
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
        try:
            while part := os.read(screen, 1 << 16):
                seen += part
        except OSError:
            pass
        assert seen.endswith(b"\x1b[?25h") or b"\x1b[?25h" in seen[-40:], "the cursor is shown again"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        os.close(screen)


READING: list[list[str]] = [
    ["summary", "FILE"],
    ["runs", "FILE"],
    ["stages", "FILE"],
    ["latest", "FILE"],
    ["resume", "FILE"],
    ["history", "FILE"],
    ["history", "FILE", "--newest-first", "--limit", "3"],
    ["history", "FILE", "--follow", "--after", "1", "--limit", "3"],
    ["history", "FILE", "--follow", "--limit", "3"],
    ["check", "FILE", "--within", "36500d"],
    ["sql", "FILE", "SELECT * FROM checkpoint"],
    ["head", "FILE"],
    ["verify", "FILE"],
    ["compare", "FILE", "--", "RUN", "RUN"],
    ["export", "FILE"],
    ["export", "FILE", "--format", "csv"],
]
"""Every command that only reads, with FILE and RUN where these stand; those that take --json are shown without it."""


def reading(path: Path, run_id: str = "run-7") -> list[list[str]]:
    """Every command that only reads, on a file with that run, also as JSON."""
    given = {"FILE": str(path), "RUN": run_id}
    commands = [[given.get(word, word) for word in command] for command in READING]
    return commands + [[command[0], "--json", *command[1:]] for command in commands if command[0] != "export"]

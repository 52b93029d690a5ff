"""
Programs and commands, each in a process of its own, which is forked from a Python that has imported milepost already.

To begin a Python and to import milepost takes many times as long as most of what the tests ask a process.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support import warm_server

if TYPE_CHECKING:
    from collections.abc import Mapping

_SERVER: Final = warm_server.__file__


class WarmPython:
    """
    A Python that has imported modules, on POSIX.

    Args:
        modules: What it has imported. A program has to import them all the same before it can name them.
        warnings: What becomes of a warning, as behind -W; None: what becomes of it in any Python.
    """

    def __init__(self, *modules: str, warnings: str | None = "error") -> None:
        self._place: Final = str(Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp")) / "socket")  # not long: there is a limit
        self._process: Final = subprocess.Popen(
            [sys.executable, *(("-W", warnings) if warnings else ()), _SERVER, "serve", self._place, *modules],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # what forks has no threads
            stdin=subprocess.PIPE,  # it ends with this: when this process ends at the latest, in whatever way
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        atexit.register(self._process.communicate)

    def run(self, program: str, directory: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """`python -c PROGRAM`, and what it writes."""
        with (
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
            Path(os.devnull).open() as nothing,
        ):
            streams = nothing.fileno(), output.fileno(), errors.fileno()
            given = {"program": program, "directory": str(directory), "environment": dict(environment)}
            code = warm_server.ask(self._place, streams, **given)
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(program, code, output.read(), errors.read())

    def run_module(self, module: str, *arguments: str, stream: int, environment: Mapping[str, str]) -> int:
        """`python -m MODULE ARGUMENT…` with one stream as its standard streams; the exit code."""
        given = {"module": module, "arguments": arguments, "directory": str(Path.cwd()), "environment": dict(environment)}
        return warm_server.ask(self._place, (stream, stream, stream), **given)

    def in_a_shell(self, module: str) -> str:
        """What stands for `python -m MODULE` in a command of a shell, with the shell's own streams."""
        # A Python that imports next to nothing, and hands its streams over.
        return shlex.join([sys.executable, "-I", "-S", _SERVER, "ask", self._place, module])


@functools.cache
def warm_programs() -> WarmPython:
    """For programs that import milepost: with no more in it than that brings along."""
    return WarmPython("milepost")


@functools.cache
def warm_commands(warnings: str | None = "error") -> WarmPython:
    """For the command line: with what its tables need."""
    return WarmPython("milepost.cli", "rich.console", "rich.table", warnings=warnings)


@functools.cache
def warm_pictures() -> WarmPython:
    """For the commands that draw."""
    return WarmPython("milepost.cli", "rich.console", "rich.table", "matplotlib.figure", "matplotlib.backends.backend_svg")

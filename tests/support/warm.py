"""
Programs and commands, each in a process of its own, which is forked from a Python that has imported milepost already.

To begin a Python and to import milepost takes many times as long as most of what the tests ask a process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, AnyStr, BinaryIO, Final, Generic

from support import warm_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_SERVER: Final = warm_server.__file__


class WarmProcess:
    """A process that was forked, to be used as one of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid: Final = warm_server.answer(connection)
        self._connection: Final = connection
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self._code is None and select.select([self._connection], [], [], 0)[0]:
            return self.wait()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code."""
        if self._code is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            with self._connection:
                self._code = warm_server.answer(self._connection)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send it, if there is somebody to take it."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class WarmTalk(Generic[AnyStr]):
    """
    A process that was forked, with a pipe at each of its streams; to be used as one of `subprocess.Popen`.

    Args:
        streams: The first standard stream of this process, and what it reads of the other two: bytes or text.
        process: It.
    """

    def __init__(
        self, streams: tuple[IO[AnyStr], IO[AnyStr], IO[AnyStr]], process: WarmProcess | subprocess.Popen[bytes]
    ) -> None:
        self.stdin: IO[AnyStr] = streams[0]
        self.stdout: IO[AnyStr] = streams[1]
        self.stderr: IO[AnyStr] = streams[2]
        self.pid: Final = process.pid
        self.poll: Final = process.poll
        self.send_signal: Final = process.send_signal
        self.wait: Final = process.wait
        self.returncode: int | None = None
        self._written: tuple[AnyStr, AnyStr] | None = None

    def kill(self) -> None:
        """Without a chance to do anything more."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, last: AnyStr | None = None) -> tuple[AnyStr, AnyStr]:
        """Say the last that it is told; all that it writes, and that nobody has read yet."""
        if self._written is None:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                if last is not None:
                    self.stdin.write(last)
            with self.stdout, self.stderr:
                self._written = self.stdout.read(), self.stderr.read()
            self.returncode = self.wait(60)
        return self._written


class WarmPython:
    """
    A Python that has imported modules.

    Args:
        modules: What it has imported. A program has to import them all the same before it can name them.
        warnings: What becomes of a warning, as behind -W; None: what becomes of it in any Python.
    """

    def __init__(self, *modules: str, warnings: str | None = "error") -> None:
        self._modules: Final = modules
        self._warnings: Final = warnings

    @property
    def _place(self) -> str:
        return _place_of(*self._modules)

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`python -c PROGRAM ARGUMENT…` or `python -m MODULE ARGUMENT…`, and what it writes."""
        if os.name == "nt":  # nothing forks there
            command = [*self._python, *arguments]
            return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
        with (
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
            Path(os.devnull).open() as nothing,
        ):
            streams = nothing.fileno(), output.fileno(), errors.fileno()
            code = self.run_with(streams, *arguments, cwd=cwd, env=env)
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(arguments, code, output.read(), errors.read())

    def run_with(
        self,
        streams: tuple[int, int, int],
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """The same with these as its standard streams; the exit code."""
        return self.start(streams, *arguments, cwd=cwd, env=env).wait()

    def start(
        self,
        streams: tuple[int, int, int],
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        session: bool = False,
    ) -> WarmProcess:
        """Begin it, also `python FILE ARGUMENT…`, in a session of its own if that is wanted."""
        given = [str(argument) for argument in arguments]
        here = {"directory": str(cwd or Path.cwd()), "environment": dict(env or os.environ), "warnings": self._warnings}
        return WarmProcess(warm_server.ask(self._place, streams, arguments=given, session=session, **here))

    def talk(self, *arguments: str | Path, **options: Any) -> WarmTalk[bytes]:
        """Begin it as `start` does, to be told bytes and to be read. `stderr` is where its errors go, if not into a pipe."""
        streams, process = self._piped(*arguments, **options)
        return WarmTalk(streams, process)

    def talk_text(self, *arguments: str | Path, **options: Any) -> WarmTalk[str]:
        """Likewise, in text."""
        (stdin, stdout, stderr), process = self._piped(*arguments, **options)
        return WarmTalk((TextIOWrapper(stdin), TextIOWrapper(stdout), TextIOWrapper(stderr)), process)

    def _piped(
        self, *arguments: str | Path, stderr: int | None = None, **options: Any
    ) -> tuple[tuple[BinaryIO, BinaryIO, BinaryIO], WarmProcess | subprocess.Popen[bytes]]:
        (its_errors, errors), (itself, stdin), (output, its_output) = reversed(os.pipe()), os.pipe(), os.pipe()
        streams = os.fdopen(stdin, "wb"), os.fdopen(output, "rb"), os.fdopen(errors, "rb")
        said = its_errors if stderr is None else stderr
        process: WarmProcess | subprocess.Popen[bytes]
        if os.name == "nt":
            process = subprocess.Popen([*self._python, *arguments], stdin=itself, stdout=its_output, stderr=said, **options)
        else:
            process = self.start((itself, its_output, said), *arguments, **options)
        for end in (itself, its_output, its_errors):
            os.close(end)
        return streams, process

    @property
    def _python(self) -> list[str]:
        return [sys.executable, *(("-W", self._warnings) if self._warnings else ())]

    def in_a_shell(self, module: str) -> str:
        """What stands for `python -m MODULE` in a command of a shell, with the shell's own streams."""
        # A Python that imports next to nothing, and hands its streams over.
        return shlex.join([sys.executable, "-I", "-S", _SERVER, "ask", self._place, self._warnings or "", "-m", module])


@functools.cache
def _place_of(*modules: str) -> str:
    """Where a Python listens that has imported these, from the first request on."""
    place = str(Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp")) / "socket")  # not long: there is a limit
    process = subprocess.Popen(
        [sys.executable, _SERVER, "serve", place, *modules],
        # What forks has no threads.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        stdin=subprocess.PIPE,  # it ends with this: when this process ends at the latest, in whatever way
        stdout=subprocess.PIPE,
        start_new_session=True,  # else what ends a whole group, as Ctrl-C does, would let it leave its socket behind
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    atexit.register(process.communicate)
    return place


@functools.cache
def warm_programs(warnings: str | None = "error") -> WarmPython:
    """For programs that import milepost: with no more in it than that brings along."""
    return WarmPython("milepost", warnings=warnings)


@functools.cache
def warm_commands(warnings: str | None = "error") -> WarmPython:
    """For the command line: with what its tables need."""
    return WarmPython("milepost.cli", "rich.console", "rich.table", warnings=warnings)


@functools.cache
def warm_pictures() -> WarmPython:
    """For the commands that draw."""
    return WarmPython("milepost.cli", "rich.console", "rich.table", "matplotlib.figure", "matplotlib.backends.backend_svg")

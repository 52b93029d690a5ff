"""
What `support.warm` starts: a Python that imports what it is told, and then forks a process for each program it is asked for.

`serve SOCKET MODULE…` listens until its standard input ends; `ask SOCKET WARNINGS -m MODULE ARGUMENT…` has it run that here.
A request is a line of JSON with three standard streams. Its answers are the number of the process and later the exit code,
each in ten characters. The process that was forked ends as any Python does: with the end of this script.
"""

# It imports little, for what it has imported is there for every program.
# ruff: noqa: PTH106, PTH108, PTH109, PTH120, PTH123, SIM115

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import types
import warnings
from typing import Any


def ask(place: str, streams: tuple[int, int, int], **request: Any) -> socket.socket:
    """Have it begin what `arguments` say, in `directory` and `environment`, with `warnings` as of -W; where it answers."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place)
    line = json.dumps(request).encode() + b"\n"
    rest = line[socket.send_fds(connection, [line], streams) :]
    if rest:  # else the program may have ended already, and nobody is there to take nothing
        connection.sendall(rest)
    return connection


def answer(connection: socket.socket) -> int:
    """Wait for the next number that it answers."""
    return int(connection.recv(10, socket.MSG_WAITALL))


def serve(place: str) -> dict[str, Any] | None:
    """Fork for each request, whether others still run or not: in a child what it is asked for, and at the end None."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        print("ready", flush=True)
        waiting: set[int] = set()
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            with listener.accept()[0] as connection:
                line, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
                while not line.endswith(b"\n"):
                    line += connection.recv(1 << 16)
                waits = os.fork()
                if waits == 0:
                    child = os.fork()
                    if child == 0:
                        for number, stream in enumerate(streams):
                            os.dup2(stream, number)
                            os.close(stream)
                        request: dict[str, Any] = json.loads(line)
                        if request["session"]:
                            os.setsid()
                        connection.sendall(b"%10d" % os.getpid())
                        return request
                    _answer_when_it_ends(child, connection, streams)
                waiting.add(waits)
                for stream in streams:
                    os.close(stream)
            waiting = {each for each in waiting if os.waitpid(each, os.WNOHANG)[0] == 0}
    os.unlink(place)
    os.rmdir(os.path.dirname(place))
    return None


def _answer_when_it_ends(child: int, connection: socket.socket, streams: list[int]) -> None:
    for stream in (*streams, 0, 1, 2):  # a reader of them sees their end when the child has ended
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        connection.sendall(b"%10d" % code)
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """Run it as Python runs what is behind -m or -c, or a file."""
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    encoding = os.environ.get("PYTHONIOENCODING")
    buffering = 1 if "PYTHONUNBUFFERED" in os.environ else -1
    sys.stdin = open(0, encoding=encoding, closefd=False)
    sys.stdout = open(1, "w", buffering, encoding, closefd=False)
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)
    # Python itself looks there when it begins.
    sys.path += [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each not in sys.path]
    if request["warnings"]:
        warnings.simplefilter(request["warnings"])
    kind, *arguments = request["arguments"]
    what = arguments.pop(0) if kind in {"-c", "-m"} else ""
    if kind == "-m":
        sys.argv = ["", *arguments]
        sys.path[0] = os.getcwd()
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        if kind == "-c":
            name, text, sys.argv, sys.path[0] = "<string>", what, [kind, *arguments], ""
        else:
            name, sys.argv, sys.path[0] = kind, request["arguments"], os.path.dirname(kind)
            with open(name, encoding="utf-8") as file:
                text = file.read()
            program.__file__ = name
        exec(compile(text, name, "exec"), vars(program))


if __name__ == "__main__":
    _this = sys.modules["__main__"]  # it lives on when another takes its place
    if sys.argv[1] == "ask":
        _here = {"directory": os.getcwd(), "environment": dict(os.environ), "session": False, "warnings": sys.argv[3]}
        with ask(sys.argv[2], (0, 1, 2), arguments=sys.argv[4:], **_here) as _connection:
            answer(_connection)
            sys.exit(answer(_connection))
    for _name in sys.argv[3:]:
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()  # a child that touched all of it would copy it
    if (_request := serve(sys.argv[2])) is not None:
        run(_request)

"""
What `support.warm` starts: a Python that imports what it is told, and then forks a process for each program it is asked for.

`serve SOCKET MODULE…` listens until its standard input ends; `ask SOCKET -m MODULE ARGUMENT…` has it run that here.
A request is a line of JSON with three standard streams, its answer the exit code. The process that was forked ends as any
Python does: with the end of this script.
"""

# It imports little, for what it has imported is there for every program.
# ruff: noqa: PTH106, PTH108, PTH109, PTH120, SIM115

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import types
from typing import Any


def ask(place: str, streams: tuple[int, int, int], **request: Any) -> int:
    """Have it run `-m` or `-c`, as `arguments` say, in `directory` and `environment`; the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        line = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(connection, [line], streams)
        connection.sendall(line[sent:])
        return int(connection.recv(16))


def serve(place: str) -> dict[str, Any] | None:
    """Fork for each request, one after the other: in a child what it is asked for, and at the end None."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            with listener.accept()[0] as connection:
                line, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
                while not line.endswith(b"\n"):
                    line += connection.recv(1 << 16)
                child = os.fork()
                if child == 0:
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                for stream in streams:
                    os.close(stream)
                if child == 0:
                    return dict(json.loads(line))
                connection.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.unlink(place)
    os.rmdir(os.path.dirname(place))
    return None


def run(request: dict[str, Any]) -> None:
    """Run it as Python runs what is behind -m or -c."""
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    encoding = os.environ.get("PYTHONIOENCODING")
    sys.stdin = open(0, encoding=encoding, closefd=False)
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)
    kind, what, *arguments = request["arguments"]
    if kind == "-m":
        sys.argv = ["", *arguments]
        sys.path[0] = os.getcwd()
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c"
        sys.argv = ["-c", *arguments]
        sys.path[0] = ""
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(program))


if __name__ == "__main__":
    _this = sys.modules["__main__"]  # it lives on when another takes its place
    if sys.argv[1] == "ask":
        _here, _environment = os.getcwd(), dict(os.environ)
        sys.exit(ask(sys.argv[2], (0, 1, 2), arguments=sys.argv[3:], directory=_here, environment=_environment))
    for _name in sys.argv[3:]:
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()  # a child that touched all of it would copy it
    if (_request := serve(sys.argv[2])) is not None:
        run(_request)

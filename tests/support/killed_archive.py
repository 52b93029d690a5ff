"""
An archive that is killed at one call, run as a program: `killed_archive.py DIRECTORY`.

It reads lines of `CALL whole|half` and answers each with one line of JSON: what is wrong afterwards, or null, and the calls
that were made if it came to its end. For each it forks a child that archives, and, before call number CALL of the VFS or of
the directory (link, unlink, fsync …), or halfway through a write, kills itself with SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.archived_store import Archived, short_steps
from support.hooked_vfs import Call, hooked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OF_DIRECTORIES: Final = ("open", "link", "unlink", "mkdir", "rmdir", "fsync")


@contextlib.contextmanager
def _hooked_directory(hook: Callable[[Call], object]) -> Iterator[None]:
    real = {name: getattr(os, name) for name in _OF_DIRECTORIES}

    def replaced(name: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            hook(Call(f"os.{name}", str(args[0])))
            return real[name](*args, **more)

        return call

    for name in real:
        setattr(os, name, replaced(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def die(archived: Archived, number: int, *, half: bool) -> tuple[bool, list[str]]:
    """Fork a child, let it archive and die. Return whether it was killed, and else the calls that it made."""
    archived.lay()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        methods: list[str] = []

        def kill(made: Call) -> None:
            if len(methods) == number and (not half or made.method == "xWrite"):
                if half and made.file is not None:
                    made.file.write_unhooked(made.data[: len(made.data) // 2], made.offset)
                os.kill(os.getpid(), signal.SIGKILL)
            methods.append(made.method)

        try:
            with hooked(kill) as vfs, _hooked_directory(kill), short_steps():
                archived.run(vfs)
            os.write(writer, ",".join(methods).encode())
        except BaseException:  # noqa: BLE001 - whatever it is, the child must end with it
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status != 0:
        raise RuntimeError(f"the child ended with status {status}")
    return killed, said.split(",")


def main() -> None:
    """Serve deaths."""
    archived = Archived(Path(sys.argv[1]))
    for line in sys.stdin:
        number, how = line.split()
        killed, methods = die(archived, int(number), half=how == "half")
        print(json.dumps([killed, archived.problem(finished=not killed), methods]), flush=True)


if __name__ == "__main__":
    main()

"""The command `milepost`, also `python -m milepost`."""

from __future__ import annotations

import io
import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, or say which packages to install for it."""
    _open_closed_streams()
    _buffer_stdout()
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        extra = "demo" if sys.argv[1:2] == ["demo"] else "cli"
        sys.stderr.write(f'milepost: the command line needs {" and ".join(missing)}: run  pip install "milepost[{extra}]"\n')
        sys.exit(2)
    from milepost.cli import commands  # noqa: PLC0415 - the import needs the packages checked above

    commands(prog_name="milepost")


def _open_closed_streams() -> None:
    """
    Open a standard stream that the caller has closed, as `milepost verify FILE >&-` does: nobody wants what it would say.

    The exit code then still tells the answer, and no file that a command opens takes the descriptor of a stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # a file takes the lowest descriptor that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends


def _buffer_stdout() -> None:
    """
    Give standard output the buffer that PYTHONUNBUFFERED takes away. A buffer writes everything, or raises.

    Without it, a write that the disk or the pipe takes a part of would lose the rest, and tell nobody. Lines still go out at
    once, as who sets it wants.
    """
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), sys.stdout.encoding, sys.stdout.errors, newline="\n", line_buffering=True
        )


if __name__ == "__main__":
    main()

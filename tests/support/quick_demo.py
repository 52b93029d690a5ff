"""The demo where it is not asked how it starts its processes: they are forked, and need not import everything anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from support.warm import warm_commands

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

FORKED = """
import multiprocessing, os
from milepost.__main__ import main
if os.name != "nt":
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method: fork
main()
"""


def environment() -> dict[str, str]:
    """A process's environment, in another time zone, and without what would change how rich writes."""
    unset = {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "TERM"}
    return {**{name: value for name, value in os.environ.items() if name not in unset}, "TZ": "Asia/Tokyo", "TERM": "xterm"}


def quick_demo(folder: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `milepost demo` in a folder, with its output into a pipe; `before` is what its first process does first."""
    program = before + FORKED
    return warm_commands().run("-c", program, "demo", *arguments, cwd=folder, env={**environment(), "COLUMNS": "200"})

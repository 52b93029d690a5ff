"""Who is calling: a thread, and in it the task of asyncio or trio that is running, if one is."""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple


class Owner(NamedTuple):
    """
    A thread, and the task that it is running; None outside of tasks.

    Never a context variable: `asyncio.create_task` and `asyncio.to_thread` copy those, so that a child would look like its
    parent, and write into a block that is not its own.
    """

    thread: threading.Thread  # not its number, which another one gets when it has ended
    task: object | None


def current_owner() -> Owner:
    """Who is calling."""
    return Owner(threading.current_thread(), _asyncio_task() or _trio_task())


def _asyncio_task() -> object | None:
    # A program that has not imported it has no tasks of it; importing it here would cost such a program 30 ms.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        task: object | None = asyncio.current_task()
    except (RuntimeError, AttributeError):  # no loop runs in this thread; asyncio is still being imported
        return None
    return task


def _trio_task() -> object | None:
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        task: object = trio.lowlevel.current_task()
    except (RuntimeError, AttributeError):
        return None
    return task

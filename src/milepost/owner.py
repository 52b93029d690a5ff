"""Identify the caller: its thread, and its asyncio or trio task if there is one."""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple


class Owner(NamedTuple):
    """
    A thread, and the task that it runs, or None outside of tasks.

    A context variable would not do: `asyncio.create_task` and `asyncio.to_thread` copy it. A child task would look like its
    parent, and write into its parent's block.
    """

    thread: threading.Thread  # not its number, which Python reuses
    task: object | None


def current_owner() -> Owner:
    """Return the caller's thread and task."""
    return Owner(threading.current_thread(), _asyncio_task() or _trio_task())


def _asyncio_task() -> object | None:
    # A program that has not imported asyncio has no such task, and an import here would cost it 30 ms.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        task: object | None = asyncio.current_task()
    except (RuntimeError, AttributeError):  # no running loop in this thread, or asyncio is only half imported
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


def in_event_loop() -> bool:
    """Return whether the caller's thread runs an event loop of asyncio."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except (RuntimeError, AttributeError):  # as above
        return False
    return True

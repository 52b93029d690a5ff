"""Start threads so that no interrupt is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading


def start(thread: threading.Thread) -> None:
    """Start a thread. Raise an interrupt as such: it may make Python's own code release a lock that it does not have."""
    try:
        thread.start()
    except RuntimeError as error:
        if error.__context__ is None or isinstance(error.__context__, Exception):
            raise
        raise error.__context__ from None

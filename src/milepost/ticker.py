"""A thread that records what a loop has finished every so many seconds, also while the loop's source blocks."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from milepost.threads import start

if TYPE_CHECKING:
    from milepost.progress import Progress

_AT_EXIT_S: Final = 5.0
"""How long the end of the interpreter waits for a transaction of a ticker's."""

_LOOK_AGAIN_S: Final = 1.0
"""How often a ticker checks whether its pass was dropped, in seconds."""


class Ticker:
    """
    Records the progress of one pass of a loop every `every_s` seconds, until `stop`.

    It ends too when the pass is dropped, and with the interpreter, which it never keeps alive. It has no `__del__`, nor a
    weak reference with a callback: Python ignores an interrupt that comes inside one.

    Args:
        progress: What the pass has finished.
        every_s: Seconds from one tick to the next.
    """

    def __init__(self, progress: Progress[Any, Any], every_s: float) -> None:
        self._bell = threading.Lock()
        self._bell.acquire()
        self.thread: threading.Thread = threading.Thread(
            target=_tick,
            args=(weakref.ref(progress), weakref.ref(self), every_s, self._bell),
            name="milepost-ticker",
            daemon=True,
        )

    def start(self) -> None:
        """Begin. It is a step of its own, so that an interrupt within it finds a ticker that can be stopped."""
        start(self.thread)

    def stop(self) -> None:
        """Let the thread end. A transaction that it has begun goes on."""
        with suppress(RuntimeError):  # a second time
            self._bell.release()


def _tick(
    progress: weakref.ref[Progress[Any, Any]], ticker: weakref.ref[Ticker], every_s: float, bell: threading.Lock
) -> None:
    _tickers[threading.current_thread()] = bell
    try:
        due = time.monotonic() + every_s
        while not bell.acquire(timeout=max(0.0, min(due - time.monotonic(), _LOOK_AGAIN_S))):
            found = progress()
            if found is None or found.over or ticker() is None:
                return
            if time.monotonic() >= due:
                found.record_meanwhile()
                due = time.monotonic() + every_s
            del found
    finally:
        _tickers.pop(threading.current_thread(), None)


_tickers: dict[threading.Thread, threading.Lock] = {}


@atexit.register
def _at_exit() -> None:
    """Python ends a thread in the middle of a transaction, and the end of the store would wait for that."""
    deadline = time.monotonic() + _AT_EXIT_S
    for thread, bell in list(_tickers.items()):
        with suppress(RuntimeError):
            bell.release()
        thread.join(max(0.0, deadline - time.monotonic()))

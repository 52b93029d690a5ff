"""A thread that records what a loop has finished every so many seconds, also while the loop's source blocks."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from milepost.progress import Progress

_AT_EXIT_S: Final = 5.0
"""How long the end of the interpreter waits for a transaction of a ticker's."""


class Ticker:
    """
    Records the progress of one pass of a loop every `every_s` seconds, until `stop`.

    It ends too when the pass is dropped, and with the interpreter, which it never keeps alive.

    Args:
        progress: What the pass has finished.
        every_s: Seconds from one tick to the next.
    """

    def __init__(self, progress: Progress[Any, Any], every_s: float) -> None:
        self._bell = threading.Lock()
        self._bell.acquire()
        self.thread = threading.Thread(
            target=_tick, args=(weakref.ref(progress), every_s, self._bell), name="milepost-ticker", daemon=True
        )
        _tickers[id(self)] = weakref.ref(self, partial(_forget, id(self)))
        self.thread.start()

    def stop(self) -> None:
        """Let the thread end. A transaction that it has begun goes on."""
        try:  # noqa: SIM105 - also at the end of the interpreter, when contextlib may be gone
            self._bell.release()
        except RuntimeError:  # a second time
            pass

    __del__ = stop


def _tick(progress: weakref.ref[Progress[Any, Any]], every_s: float, bell: threading.Lock) -> None:
    while not bell.acquire(timeout=min(every_s, threading.TIMEOUT_MAX)):
        found = progress()
        if found is None:
            return
        found.record_meanwhile()
        del found


_tickers: dict[int, weakref.ref[Ticker]] = {}


def _forget(number: int, ticker: weakref.ref[Ticker]) -> None:
    if _tickers.get(number) is ticker:
        del _tickers[number]


@atexit.register
def _at_exit() -> None:
    """Python ends a thread in the middle of a transaction, and the end of the store would wait for that."""
    deadline = time.monotonic() + _AT_EXIT_S
    for ticker in [found for each in list(_tickers.values()) if (found := each()) is not None]:
        ticker.stop()
        ticker.thread.join(max(0.0, deadline - time.monotonic()))

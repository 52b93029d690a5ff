"""What may hang, with an end to the patience; and how long a thread stood still meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, Self, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milepost import CheckpointStore

T = TypeVar("T")

WATCHDOG_S: Final = 30


def begin(call: Callable[[], T]) -> Future[T]:
    """Call it in a thread of its own, which keeps no interpreter alive should it hang."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def result(future: Future[T], seconds: float = WATCHDOG_S) -> T:
    """What came of it, in time."""
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # its own
            raise
        pytest.fail(f"still hanging after {seconds} s")


def in_time(call: Callable[[], T], seconds: float = WATCHDOG_S) -> T:
    """Call it in a thread of its own; what came of it, in time."""
    return result(begin(call), seconds)


def all_at_once(calls: Sequence[Callable[[], T]], seconds: float = WATCHDOG_S) -> list[T]:
    """Call each in a thread of its own, all from one moment on; what came of them, in time."""
    start = threading.Barrier(len(calls))

    def after_the_start(call: Callable[[], T]) -> T:
        start.wait(WATCHDOG_S)
        return call()

    futures = [begin(lambda call=call: after_the_start(call)) for call in calls]  # type: ignore[misc]
    return [result(future, seconds) for future in futures]


@contextlib.contextmanager
def held_by_a_thread(store: CheckpointStore, seconds: float = 20) -> Iterator[Callable[[], None]]:
    """While another thread has a block open, until it is let go of or, so that a test ends, the time is up."""
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            inside.set()
            over.wait(seconds)

    held = begin(hold)
    assert inside.wait(seconds)
    try:
        yield over.set
    finally:
        over.set()
        result(held)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, not for ever."""
    deadline = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.001)


class Pulse:
    """A thread that does nothing but look at the clock: whoever keeps the interpreter to himself, it shows."""

    def __init__(self) -> None:
        self._beats: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._over.is_set():
            self._beats.append(time.monotonic())
            time.sleep(0.001)

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: len(self._beats) > 2)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def longest_pause(self, begin: float, end: float) -> float:
        """The longest time between two looks at the clock from one moment to another, in seconds."""
        beats = [begin, *(beat for beat in self._beats if begin < beat < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(beats))

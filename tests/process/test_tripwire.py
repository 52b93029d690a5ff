"""The tripwire itself: it hits where CPython looks for signals, and nowhere else."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from support.bytecodes import Tripwire, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@pytest.fixture(autouse=True)
def hits() -> Iterator[list[str]]:
    """Where the handler came in between, as it does for Ctrl-C."""
    places: list[str] = []

    def interrupt(_number: int, frame: FrameType | None) -> None:
        places.append(told(frame, 1))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    gc.collect()
    gc.disable()  # else it may run in the middle, and with it what another test has left
    try:
        yield places
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)


def _everywhere(make: Callable[[], Callable[[], None]], after: Callable[[], Any]) -> list[Any]:
    """What `after` says after an interrupt at each place of the work."""
    wire, at = Tripwire(), 0
    answers: list[Any] = []
    wire.run(make())
    after()
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            wire.run(make(), at)
        if not wire.hit:
            return answers
        answers.append(after())
        at += 1


class Lock:
    """A lock that says whether it was left taken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def left(self) -> bool:
        """Whether it is taken; it is free afterwards."""
        taken = self.lock.locked()
        if taken:
            self.lock.release()
        return taken


def test_a_lock_taken_before_its_try_is_found_left_taken(hits: list[str]) -> None:
    """After `acquire` has returned the interpreter looks for signals."""
    lock = Lock()

    def careless() -> None:
        lock.lock.acquire()
        try:
            abs(0)
        finally:
            lock.lock.release()

    left = _everywhere(lambda: careless, lock.left)
    assert left.count(True) == 1
    assert left.count(False) >= 2
    assert all("careless" in place for place in hits)


def test_a_lock_taken_by_with_is_never_left_taken() -> None:
    """A `with` over a context manager written in C has no place where it could be."""
    lock = Lock()

    def careful() -> None:
        with lock.lock:
            abs(0)

    left = _everywhere(lambda: careful, lock.left)
    assert left.count(True) == 0
    assert len(left) >= 2


class Manager:
    """A context manager written in Python, and what came of it."""

    def __init__(self) -> None:
        self.entered = self.body = self.exited = False

    def __enter__(self) -> None:
        abs(0)
        self.entered = True

    def __exit__(self, *_error: object) -> None:
        self.exited = True

    def use(self) -> None:
        """Enter, and see that the body is begun."""
        with self:
            self.body = True


def test_between_enter_and_the_body_nothing_is_hit_and_at_the_entry_of_an_exit_it_is() -> None:
    """The first would blame who is right, the second is the hole of every `__exit__` that is written in Python."""
    made: list[Manager] = []

    def make() -> Callable[[], None]:
        made.append(Manager())
        return made[-1].use

    seen = _everywhere(make, lambda: (made[-1].entered, made[-1].body, made[-1].exited))
    assert {entered for entered, body, _ in seen if entered != body} == set()
    assert (True, True, False) in seen
    assert (False, False, False) in seen


def test_a_generator_is_hit_where_it_goes_on() -> None:
    """Inside the `try` around its `yield`, so that one that cleans up there does."""
    cleaned: list[str] = []

    @contextlib.contextmanager
    def manager() -> Iterator[None]:
        try:
            yield
        finally:
            cleaned.append("up")

    def use() -> None:
        with manager():
            abs(0)

    def count() -> int:
        number = len(cleaned)
        cleaned.clear()
        return number

    assert set(_everywhere(lambda: use, count)) == {0, 1}


def test_a_loop_and_an_attribute_that_is_a_function_are_hit(hits: list[str]) -> None:
    """Where a loop jumps back, and where a property is entered."""

    class Thing:
        @property
        def value(self) -> int:
            return 1

    def use() -> None:
        thing = Thing()
        for _ in (1, 2):
            thing.value  # noqa: B018

    _everywhere(lambda: use, lambda: None)
    assert sum("use (JUMP_BACKWARD)" in place for place in hits) == 2
    assert sum("value (RESUME)" in place for place in hits) == 2

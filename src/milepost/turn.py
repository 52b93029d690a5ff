"""
Whose turn it is to write: one at a time in a process, in the order in which they came.

No lock guards anything in here. Python runs signal handlers between any two steps of the main thread: a lock could stay
acquired for ever, because one raised before the `try` that releases it; and a handler that writes would wait for the lock of
the very thread that it interrupted. A turn is an entry of a dict, set and deleted in one step each, and derived from nothing
else. What a waiting thread sleeps on is a lock of its own, which the others only let go of.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Final

_LOOK_AGAIN_S: Final = 0.05
"""How often a waiting thread looks for itself, in seconds: the word that it may go on may be lost to an interrupt."""

NOW: Final = "now"
"""The key of `Turns.held`."""


class Turn:
    """Something that waits to write, and the thread that it belongs to."""

    shared: bool = False
    """Whether the thread that has its turn may do this one's work with its own."""

    __slots__ = ("_asleep", "done", "given_up", "thread")

    def __init__(self) -> None:
        self.thread: int = threading.get_ident()
        self.done: bool = False
        self.given_up: bool = False  # nobody waits for it any more
        self._asleep: threading.Lock | None = None  # what its thread sleeps on, once it has to wait

    def finish(self) -> None:
        """The thread that had its turn has done this one's work: its own thread need not have one."""
        self.done = True
        self.wake()

    def wake(self) -> None:
        """Let its thread look."""
        if self._asleep is not None:
            try:  # noqa: SIM105 - a leader does this for each thread that waits: suppress() would take longer than all else
                self._asleep.release()
            except RuntimeError:  # it is awake already
                pass

    def prepare_to_sleep(self) -> None:
        """From now on `wake` is heard."""
        asleep = threading.Lock()
        asleep.acquire()
        self._asleep = asleep

    def sleep(self, seconds: float) -> None:
        """Until `wake`, or so long."""
        if self._asleep is not None:
            self._asleep.acquire(timeout=seconds)


class Turns:
    """
    Gives one turn at a time; the first that waits is the next to have it.

    A turn is given back in a `finally` whose first steps call nothing, so that no interrupt can come before them:

        try:
            turns.take(turn, timeout_s)
            …
        finally:
            if NOW in turns.held and turns.held[NOW] is turn:
                del turns.held[NOW]
            turn.given_up = True
            turns.wake_first()
    """

    def __init__(self) -> None:
        self.held: dict[str, Turn] = {}
        """Under `NOW`, whose turn it is; empty when it is nobody's."""
        self._queue: deque[Turn] = deque()

    @property
    def holder(self) -> Turn | None:
        """Whose turn it is."""
        return self.held.get(NOW)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def take(self, turn: Turn, timeout_s: float) -> bool:
        """
        Wait for the turn.

        Args:
            turn: One that was not used before.
            timeout_s: How long to wait, in seconds. What another thread has taken over to do is waited for until it is done.

        Returns:
            True when it is had, or was done by another thread meanwhile; False when the time was up, or it was given up.
        """
        # Who comes when others wait waits behind them.
        if not self._queue and self.held.setdefault(NOW, turn) is turn:
            return True
        turn.prepare_to_sleep()
        self._queue.append(turn)
        if NOW not in self.held:  # given back meanwhile, with nobody there to be woken
            self.wake_first()
        deadline = time.monotonic() + timeout_s
        while True:
            turn.sleep(min(_LOOK_AGAIN_S, max(0.0, deadline - time.monotonic())))
            if turn.done:
                return True
            if turn.given_up:  # by another thread
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
                return False
            if self.held.setdefault(NOW, turn) is turn:
                # Who had it before may have taken this one over and done it, or given it back unfinished.
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
                return True
            if time.monotonic() >= deadline:
                with contextlib.suppress(ValueError):  # taken over: it is being done
                    self._queue.remove(turn)
                    return turn.done

    def take_over(self) -> list[Turn]:
        """For who has the turn: the first of those that wait, as far as they are `shared`, to be done and finished."""
        taken: list[Turn] = []
        with contextlib.suppress(IndexError):  # it has left, for its time was up
            while self._queue and (self._queue[0].shared or self._queue[0].given_up):
                turn = self._queue.popleft()
                if not turn.given_up:
                    taken.append(turn)
        return taken

    def put_back(self, turns: list[Turn]) -> None:
        """Those that were taken over and not done wait again, before all others."""
        self._queue.extendleft(reversed(turns))

    def wake_first(self) -> None:
        """Let the first that waits look, unless somebody has the turn: who gives it back wakes the first then."""
        if NOW in self.held or not self._queue:
            return
        with contextlib.suppress(IndexError):
            while self._queue[0].given_up:
                self._queue.popleft()
            self._queue[0].wake()

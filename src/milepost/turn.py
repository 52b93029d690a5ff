"""
Give writers of one process their turns, one at a time, in the order of their calls.

No lock guards this queue, because Python runs signal handlers between any two steps of the main thread. A handler that
raises could leave a lock acquired for ever. A handler that writes would wait for the lock of its own thread. A turn is
therefore an entry of a dict, set and deleted in one step each. A waiting thread sleeps on a lock of its own, which the
others only release.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from itertools import pairwise
from typing import Final

_LOOK_AGAIN_S: Final = 0.05
"""How often a waiting thread checks for itself, in seconds: an interrupt may lose its wake-up."""

_NEVER: Final = 2**63

NOW: Final = "now"
"""The key of `Turns.held`."""


class Turn:
    """One request to write, and its thread."""

    shared: bool = False
    """Whether the thread that has the turn may do this work together with its own."""

    __slots__ = ("_asleep", "done", "given_up", "thread", "wakes")

    def __init__(self) -> None:
        self.thread: int = threading.get_ident()
        self.done: bool = False
        self.given_up: bool = False  # its caller no longer waits
        self.wakes: Turn | None = None  # the one that its thread wakes, once both are done
        self._asleep: threading.Lock | None = None  # its thread sleeps on this while it waits

    @property
    def is_of_this_thread(self) -> bool:
        """Whether it is the calling thread's, which would wait for itself."""
        return self.thread == threading.get_ident()

    @property
    def is_over(self) -> bool:
        """Whether it ended by itself, so that whoever finds it in progress removes it."""
        return False

    def keep_outcome(self) -> None:
        """Note that its work is committed, though nobody can say so yet."""

    def commit_is_next(self) -> None:
        """Note that its work is done, but for the commit."""

    def wake(self) -> None:
        """Wake its thread, to check again."""
        if self._asleep is not None:
            try:  # noqa: SIM105 - once for each waiting thread: suppress() would take longer than all else
                self._asleep.release()
            except RuntimeError:  # already awake
                pass

    def prepare_to_sleep(self) -> None:
        """Prepare for `sleep`: from now on `wake` has an effect."""
        asleep = threading.Lock()
        asleep.acquire()
        self._asleep = asleep

    def sleep(self, seconds: float) -> None:
        """Sleep until `wake`, or until the time is over."""
        if self._asleep is not None:
            self._asleep.acquire(timeout=seconds)


class Turns:
    """
    A queue that gives one turn at a time, to the first that waits.

    Give a turn back in a `finally` whose first steps call no function. No interrupt can come before them:

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
        """The turn in progress, under the key `NOW`; empty if there is none."""
        self.company: int = 0
        """How many others the last turn was shared with."""
        self._queue: deque[Turn] = deque()
        self._wanted = _NEVER  # how many have to wait before the holder is woken

    @property
    def holder(self) -> Turn | None:
        """The turn in progress, or None."""
        holder = self.held.get(NOW)
        if holder is None or not holder.is_over:
            return holder
        if NOW in self.held and self.held[NOW] is holder:
            del self.held[NOW]
        return self.held.get(NOW)

    @property
    def waiting(self) -> int:
        """The number of turns that wait."""
        return len(self._queue)

    def take(self, turn: Turn, timeout_s: float) -> bool:
        """
        Wait for the turn.

        Args:
            turn: A new one.
            timeout_s: How long to wait, in seconds. If another thread has taken over the work, it waits until that is done.

        Returns:
            True if it got the turn, or another thread did its work; False if the time ran out, or the turn was given up.
        """
        # A newcomer queues behind those that wait.
        if not self._queue and self.held.setdefault(NOW, turn) is turn:
            return True
        turn.prepare_to_sleep()
        self._queue.append(turn)
        holder = self.holder
        if holder is None:  # the turn was given back before this one could be woken
            self.wake_first()
        elif len(self._queue) >= self._wanted:
            holder.wake()
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                turn.sleep(min(_LOOK_AGAIN_S, max(0.0, deadline - time.monotonic())))
                if turn.done:
                    return True
                if turn.given_up:  # by another thread
                    with contextlib.suppress(ValueError):
                        self._queue.remove(turn)
                    return False
                if self.holder is None and self.held.setdefault(NOW, turn) is turn:
                    # The turn before may have taken this one over, and finished it or put it back.
                    with contextlib.suppress(ValueError):
                        self._queue.remove(turn)
                    return True
                if time.monotonic() >= deadline:
                    with contextlib.suppress(ValueError):  # not in the queue: another thread is doing its work
                        self._queue.remove(turn)
                        return turn.done
        finally:
            if turn.wakes is not None:
                turn.wakes.wake()

    def wait_for_others(self, turn: Turn, number: int, patience_s: float) -> None:
        """
        Let others come, in the thread that has the turn, until so many wait, or none has come for a while.

        It sleeps meanwhile, and the last of them wakes it: to look again and again would take the interpreter from those
        that it waits for.

        Args:
            turn: The turn in progress.
            number: How many.
            patience_s: How long to wait for the next one. If it is 0, others run once, and it does not sleep.
        """
        came = -1
        try:
            turn.prepare_to_sleep()
            self._wanted = number
            while came < (waiting := len(self._queue)) < number:
                came = waiting
                if patience_s:
                    turn.sleep(patience_s)
                else:
                    time.sleep(0)
        finally:
            self._wanted = _NEVER

    def take_over(self) -> list[Turn]:
        """Remove the first waiting turns from the queue, as far as they are `shared`. The caller then does their work."""
        taken: list[Turn] = []
        with contextlib.suppress(IndexError):  # its time ran out, and it left the queue
            while self._queue and (self._queue[0].shared or self._queue[0].given_up):
                turn = self._queue.popleft()
                if not turn.given_up:
                    taken.append(turn)
        return taken

    def finish(self, turns: list[Turn]) -> None:
        """
        Mark turns that were taken over as done, and wake the first. Each wakes the next, before its thread goes on.

        Woken all at once, they would only queue for the interpreter, and each would have to be woken once more.
        """
        waiting = [turn for turn in turns if not turn.given_up]
        for turn, following in pairwise(waiting):
            turn.wakes = following
        for turn in waiting:
            turn.done = True
        if waiting:
            waiting[0].wake()

    def put_back(self, turns: list[Turn]) -> None:
        """Put turns that were taken over but not done back at the front of the queue."""
        self._queue.extendleft(reversed(turns))

    def wake_first(self) -> None:
        """Wake the first in the queue, unless a turn is in progress: its end wakes the first."""
        if NOW in self.held or not self._queue:
            return
        with contextlib.suppress(IndexError):
            while self._queue[0].given_up:
                self._queue.popleft()
            self._queue[0].wake()

"""Wait for the lock that another process has on the file, and leave it to others in turn."""

from __future__ import annotations

import time
from typing import Final

_POLL_S: Final = 0.0005  # between two looks whether another process has given back its lock
_LONG_S: Final = 0.001  # who has held the lock for longer lets others in before it takes it again …
_PART: Final = 20  # … for this part of the time that it held it,
_MOST_S: Final = 2 * _POLL_S  # and no longer than it takes others to look


class FileLock:
    """The lock that SQLite takes on the file for a transaction, as one of the processes sees that want it."""

    def __init__(self) -> None:
        self._timeout_ms = 0
        self._deadline: float | None = None  # of the wait, on the monotonic clock
        self._most_calls = 0.0  # how often to try meanwhile
        self._taken = 0.0  # when it was last taken
        self._free_until = 0.0  # until when it is left to others

    def ask(self, timeout_ms: int) -> None:
        """
        Prepare to take it: while it is left to others, wait.

        Args:
            timeout_ms: How long to try then, in ms, from the first try on.
        """
        self._timeout_ms, self._deadline = timeout_ms, None
        self._most_calls = timeout_ms / 1000 / _POLL_S
        if self._free_until:
            time.sleep(min(max(0.0, self._free_until - time.monotonic()), _MOST_S))  # a test may have set the clock back
            self._free_until = 0.0

    def note_taken(self) -> float:
        """Note that it was taken, and return when, on the monotonic clock."""
        self._taken = time.monotonic()
        return self._taken

    def let_others_in(self) -> None:
        """
        Let others get it next, if it was held for long. Call it before the transaction ends.

        SQLite has no queue for it. Others look again and again, and would find it free only by luck, were it taken again at
        once, batch after batch.
        """
        now = time.monotonic()
        held = now - self._taken
        if held > _LONG_S:
            self._free_until = now + min(held / _PART, _MOST_S)

    def wait(self, calls: int) -> bool:
        """
        Wait between two tries to get it, and return False when the time is up: SQLite's busy handler.

        Args:
            calls: How often it has waited before. That ends the wait too, as a test may have stopped the clock.
        """
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._timeout_ms / 1000
        if now >= self._deadline or calls > self._most_calls:
            return False
        time.sleep(_POLL_S)
        return True

    def wait_until(self, deadline: float) -> None:
        """Wait no longer than this, on the monotonic clock. For a wait in progress it holds too."""
        self._deadline = deadline
        self._most_calls = max(0.0, deadline - time.monotonic()) / _POLL_S

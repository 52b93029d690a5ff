"""Find by trying whether many tasks are served faster in halves, or all at once."""

from __future__ import annotations

from typing import Final

_STRETCH: Final = 16
"""How many transactions one way is tried for, before their time is compared with that of the other way."""

_TRY_AGAIN: Final = 16
"""After how many stretches of one way the other one is tried again, because a disk, or what tasks do, may change."""


class Pace:
    """
    How long a task takes in halves, and all at once.

    While a half waits for the disk, the loop lets the other half go on. But each half is a transaction with a sync of its
    own. On a disk that syncs fast halves are faster, and on one that syncs slowly they are not.
    """

    def __init__(self) -> None:
        self.in_halves: bool = False
        """Whether the next transaction is to do half of the tasks."""
        self._task_s: dict[bool, float] = {}  # by in_halves: the seconds that a task took, when that was last tried
        self._stretches = 0
        self._transactions = self._tasks = 0  # of this stretch
        self._began = 0.0

    def note(self, tasks: int, now: float) -> None:
        """
        Note that a transaction has ended.

        Args:
            tasks: How many it has served.
            now: The monotonic clock, in seconds.
        """
        if self._transactions == 0:  # the first one only begins a stretch: it may have been begun in the other way
            self._began, self._tasks = now, 0
        else:
            self._tasks += tasks
        self._transactions += 1
        if self._transactions > _STRETCH:
            self._task_s[self.in_halves] = (now - self._began) / max(1, self._tasks)
            self._stretches += 1
            self._choose()
            self.pause()

    def pause(self) -> None:
        """Begin the stretch anew: there were few tasks, whose time tells nothing."""
        self._transactions = 0

    def _choose(self) -> None:
        if len(self._task_s) < 2 or self._stretches % _TRY_AGAIN == 0:
            self.in_halves = not self.in_halves
        else:
            self.in_halves = self._task_s[True] < self._task_s[False]

"""Find by trying whether many tasks are served faster in halves, or all at once."""

from __future__ import annotations

from typing import Final

MANY: Final = 128
"""From how many tasks on halves are tried. A task is one that waits, or that has just been served and comes back."""

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

    def part_of(self, waiting: int, most: int) -> int:
        """Return how many of the tasks that wait the next transaction is to do, of `most` that it can do."""
        return min(most, (waiting + 1) // 2) if waiting >= MANY and self.in_halves else most

    def other_half_waits(self, served: int, waiting: int) -> bool:
        """Return whether to do what waits before those hear that were served."""
        return self.in_halves and served + waiting >= MANY and waiting >= served // 2

    def note(self, served: int, waiting: int, now: float) -> None:
        """
        Note that a transaction has ended.

        Args:
            served: How many tasks it has served.
            waiting: How many wait for the next one. If they are few together, what it took tells nothing.
            now: The monotonic clock, in seconds.
        """
        if served + waiting < MANY:
            self._transactions = 0
            return
        if self._transactions == 0:  # the first one only begins a stretch: it may have been begun in the other way
            self._began, self._tasks = now, 0
        else:
            self._tasks += served
        self._transactions += 1
        if self._transactions > _STRETCH:
            self._task_s[self.in_halves] = (now - self._began) / max(1, self._tasks)
            self._stretches += 1
            self._transactions = 0
            self._choose()

    def _choose(self) -> None:
        if len(self._task_s) < 2 or self._stretches % _TRY_AGAIN == 0:
            self.in_halves = not self.in_halves
        else:
            self.in_halves = self._task_s[True] < self._task_s[False]

"""A bound on milepost's own queries, because a B-tree in a damaged or hostile file may lead in circles."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from milepost import files

if TYPE_CHECKING:
    import apsw

STEPS: Final = 200_000
"""
How many steps SQLite's virtual machine takes between two calls of a progress handler.

In each of them a signal handler may run, and a child that it forks there waits for ever for a mutex of SQLite's that its
parent has. So they are rare: one in 3,000 rows of a batch, or in 5 ms.
"""
_STEPS_PER_BYTE: Final = 200  # of the file: more than any of milepost's queries needs in a sound one


class Bound:
    """
    Stops a query that takes more steps than any of milepost's queries needs in a sound file of this size.

    Args:
        connection: The connection whose queries to bound.
        path: The file.

    Source:
        https://sqlite.org/c3ref/progress_handler.html
    """

    def __init__(self, connection: apsw.Connection, path: str) -> None:
        # Weak, because the connection holds this: a connection dropped by an interrupt should close at once.
        self._connection = weakref.ref(connection)
        self._path = path
        self._changes = 0
        self.steps: int | None = 0
        """How many times `STEPS` the query has taken: 0 at its start, None to leave other statements unbounded."""
        self.install(connection)

    def install(self, connection: apsw.Connection) -> None:
        """Install it on its connection, also after somebody has replaced it there."""
        connection.set_progress_handler(self._is_endless, STEPS)

    def _is_endless(self) -> bool:
        connection = self._connection()
        if self.steps is None or connection is None:
            return False
        changes = connection.total_changes()
        if changes != self._changes:  # a batch that keeps writing rows makes progress
            self._changes, self.steps = changes, 0
        self.steps += 1
        return self.steps > 10 and self.steps * STEPS > _STEPS_PER_BYTE * files.size_bytes(self._path)

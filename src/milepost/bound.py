"""A bound on milepost's own queries: in a damaged or hostile file a tree of rows may lead in circles."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from milepost import files

if TYPE_CHECKING:
    import apsw

_STEPS: Final = 20_000  # of SQLite's virtual machine, between two looks at whether a query will ever end
_STEPS_PER_BYTE: Final = 200  # of the file: more than any query of ours takes in a sound one


class Bound:
    """
    Ends a query that takes more steps than any of ours does in a sound file of this size.

    Args:
        connection: Whose queries are bounded.
        path: The file.

    Source:
        https://sqlite.org/c3ref/progress_handler.html
    """

    def __init__(self, connection: apsw.Connection, path: str) -> None:
        # Weak, since the connection holds this: one that an interrupt has let drop is to close at once.
        self._connection = weakref.ref(connection)
        self._path = path
        self._changes = 0
        self.steps: int | None = 0
        """How many `_STEPS` the query under way has taken: 0 as one begins, None for statements that are not ours."""
        self.install(connection)

    def install(self, connection: apsw.Connection) -> None:
        """Put it on its connection, also after somebody has put something else there."""
        connection.set_progress_handler(self._endless, _STEPS)

    def _endless(self) -> bool:
        connection = self._connection()
        if self.steps is None or connection is None:
            return False
        changes = connection.total_changes()
        if changes != self._changes:  # a batch that goes on writing rows comes to its end
            self._changes, self.steps = changes, 0
        self.steps += 1
        return self.steps > 100 and self.steps * _STEPS > _STEPS_PER_BYTE * files.size_bytes(self._path)

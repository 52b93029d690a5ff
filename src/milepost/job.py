"""Something to write in one transaction, alone or with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from milepost.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.append import Appender
    from milepost.checkpoint import Checkpoint

T = TypeVar("T")


class Job(Turn, Generic[T]):
    """
    Something to write in one transaction, alone or with others, and what came of it.

    Args:
        work: Does it, with the end of the chain that it is given.
        entry: Where the work is to append one checkpoint: that one, so that those of several jobs can be written at once.
    """

    shared = True

    __slots__ = ("entry", "error", "outcome", "work")

    outcome: T

    def __init__(self, work: Callable[[Appender], T], entry: Checkpoint | None = None) -> None:
        super().__init__()
        self.work: Callable[[Appender], T] = work
        self.entry: Checkpoint | None = entry
        self.error: BaseException | None = None

    def keep_outcome(self) -> None:
        """As `Turn.keep_outcome`: done again, it writes nothing, and has the same outcome."""
        outcome, error = getattr(self, "outcome", None), self.error

        def again(_end: Appender) -> Any:
            if error is not None:
                raise error
            return outcome

        self.work, self.entry = again, None

    def claim(self) -> list[Job[Any]]:
        """What its turn is for: as a batch of tasks has it."""
        return [self]

    claim_those_that_waited = claim

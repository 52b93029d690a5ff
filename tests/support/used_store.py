"""A store that many tests share, each of which leaves one more good entry in it; `used` of conftest.py."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from milepost import CheckpointStore, Tracked, Watermark
from support.chains import MAX, entry
from support.doors import wal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Clock:
    gives: Any = 1767225600000

    def __call__(self) -> Any:
        return self.gives


clock_of_used = _Clock()


@contextlib.contextmanager
def used_store(path: Path) -> Iterator[CheckpointStore]:
    """One with a few entries, whose clock gives what a test wants."""
    with CheckpointStore(path, durability="normal", clock=clock_of_used) as store:
        wal(store).write_back_pages = 50  # keeps small what is compared
        store.append_many([entry(1), entry(2), entry(1, run_id="resumed", offset=2)])
        yield store
        store.verify().raise_if_broken()


def loop(store: CheckpointStore, **arguments: Any) -> None:
    """A loop over a run of its own."""
    for _ in store.checkpointed([1, 2, 3], run_id="new run", stage="load", every=2, **arguments):
        pass


def resume(store: CheckpointStore, records: Any = (1, 2, 3), **arguments: Any) -> None:
    """A loop that goes on after the second of three records."""
    for _ in store.checkpointed(records, run_id="resumed", stage="load", **arguments):
        pass


def mapped(store: CheckpointStore, work: Any = str, **arguments: Any) -> None:
    """A loop over a run of its own, whose records are worked on by threads."""
    for _ in store.checkpointed([1, 2, 3], run_id="new run", stage="load", every=2).map(work, **arguments):
        pass


def once(store: CheckpointStore, **arguments: Any) -> None:
    """A loop over a bag."""
    for _ in store.once(["a", "b"], run_id="new run", stage="bag", **({"key": str} | arguments)):
        pass


def tracked(store: CheckpointStore, **arguments: Any) -> Tracked:
    """A source that the caller's own workers finish."""
    return store.tracked(**({"run_id": "new run", "stage": "tracked"} | arguments))


def track(store: CheckpointStore, offset: Any, event_time: Any = None, **arguments: Any) -> None:
    """Work on one record of it."""
    with tracked(store, **arguments) as begin:
        begin(offset, event_time=event_time)()


def advance(store: CheckpointStore, **changed: Any) -> object:
    """Advance with good arguments, but for some."""
    good = {"run_id": "run-7", "stage": "load", "watermark": Watermark(MAX, MAX), "idempotency_key": "next"}
    return store.advance(**(good | changed))

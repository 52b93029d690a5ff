"""Do each item of a bag once: `for item in store.once(items, run_id=…, stage=…, key=…)`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sized
from typing import TYPE_CHECKING, Any, Final, TypeVar

from milepost import rows
from milepost.checkpoint import name_fault
from milepost.errors import InvalidArgumentError
from milepost.mapped import Mappable
from milepost.progress import ItemProgress
from milepost.source import Source, Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.store import CheckpointStore

Item = TypeVar("Item")

_MOST: Final = 256
"""How many items are looked up at once."""

_PATIENCE_S: Final = 0.005
"""How long items are read ahead before those are looked up that came, in seconds."""


class Once(Mappable[Item]):
    """
    The items of a bag that the stage has not recorded. Each finished one is an entry of its own.

    `CheckpointStore.once` makes it, and its docstring has the rules.
    """

    _ordered = False

    def __init__(
        self,
        store: CheckpointStore,
        items: Any,
        *,
        run_id: str,
        stage: str,
        key: Callable[[Item], str],
        every: int,
        every_s: float | None,
        transaction: bool,
    ) -> None:
        super().__init__(store, run_id, stage, every=every, every_s=every_s, transaction=transaction)
        self._source: Source[Item] = Source(items, "items")
        self._key = key
        # Nothing of it has to be waited for, so items are always read ahead.
        self._is_at_hand = isinstance(items, Sized)

    def _start(self) -> Start:
        state = self._store._database.read(rows.stage_state, self.run_id, self.stage)  # noqa: SLF001 - the store's own loop
        return Start(state.watermark.offset if state else 0)

    def _new_progress(self) -> ItemProgress:
        store = self._store
        return ItemProgress(store._writer, store._clock, self.run_id, self.stage, self._start(), self.every)  # noqa: SLF001

    def _feed(self, progress: Any) -> Iterator[tuple[Item, str]]:
        return self._undone(self._source.open(Start(0)), progress)

    def _undone(self, items: Iterator[Item], progress: ItemProgress) -> Iterator[tuple[Item, str]]:
        ahead = _Ahead(self._is_at_hand)
        while True:
            batch = []
            for item in items:
                batch.append((item, self._checked_key(item)))
                if ahead.has_enough(batch):
                    break
            if not batch:
                return
            undone = progress.undone(batch)
            ahead.next(undone)
            yield from undone

    async def _feed_async(self, progress: Any) -> AsyncIterator[tuple[Item, str]]:
        items = await self._source.open_async(Start(0))
        ahead = _Ahead(self._is_at_hand)
        while True:
            batch = []
            async for item in items:
                batch.append((item, self._checked_key(item)))
                if ahead.has_enough(batch):
                    break
            if not batch:
                return
            undone = progress.undone(batch)
            ahead.next(undone)
            for each in undone:
                yield each

    def _checked_key(self, item: Item) -> str:
        key = self._key(item)
        wrong = name_fault("key", key)
        if wrong is not None:
            raise InvalidArgumentError(*wrong)
        return key


class _Ahead:
    """
    How many items to read before they are looked up together.

    A source may block. So only one is read while there is something to do, and more and more while everything is done.
    """

    def __init__(self, is_at_hand: bool) -> None:
        self._is_at_hand = is_at_hand
        self._number = _MOST if is_at_hand else 1
        self._since = time.monotonic()

    def has_enough(self, batch: list[Any]) -> bool:
        return len(batch) >= self._number or (not self._is_at_hand and time.monotonic() - self._since > _PATIENCE_S)

    def next(self, undone: list[Any]) -> None:
        """Set out to read the next ones."""
        if not self._is_at_hand:
            self._number = 1 if undone else min(2 * self._number, _MOST)
        self._since = time.monotonic()

"""Do each item of a bag once: `for item in store.once(items, run_id=…, stage=…, key=…)`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from milepost import rows
from milepost.mapped import Mappable
from milepost.progress import ItemProgress
from milepost.source import Source, Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.store import CheckpointStore

Item = TypeVar("Item")

_MOST: Final = 256
"""How many items of a collection are looked up at once."""

_PATIENCE_S: Final = 0.005
"""How long to read items before those that came are looked up, in seconds: an item of a collection may take time to make."""


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
        # Any other source may block, or wait for what comes of the item before.
        self._most = _MOST if isinstance(items, Collection) else 1

    def _start(self) -> Start:
        state = self._store._database.read(rows.resume_state, self.run_id, self.stage)  # noqa: SLF001 - the store's own loop
        return Start(state.watermark.offset if state else 0)

    def _new_progress(self) -> ItemProgress:
        store = self._store
        return ItemProgress(store._writer, store._clock, self.run_id, self.stage, self._start(), self.every)  # noqa: SLF001

    def _feed(self, progress: Any) -> Iterator[tuple[Item, str]]:
        return self._undone(self._source.open(Start(0)), progress)

    def _undone(self, items: Iterator[Item], progress: ItemProgress) -> Iterator[tuple[Item, str]]:
        more = True
        while more:
            more, batch, until = False, [], time.monotonic() + _PATIENCE_S
            for item in items:
                batch.append((item, self._key(item)))
                if len(batch) >= self._most or time.monotonic() > until:
                    more = True
                    break
            yield from progress.undone(batch)

    async def _feed_async(self, progress: Any) -> AsyncIterator[tuple[Item, str]]:
        items = await self._source.open_async(Start(0))
        more = True
        try:
            while more:
                more, batch, until = False, [], time.monotonic() + _PATIENCE_S
                async for item in items:
                    batch.append((item, self._key(item)))
                    if len(batch) >= self._most or time.monotonic() > until:
                        more = True
                        break
                for each in progress.undone(batch):
                    yield each
        finally:
            await self._source.close_async(items)

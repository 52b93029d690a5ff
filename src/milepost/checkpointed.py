"""Make a loop over an ordered source resumable: `for record in store.checkpointed(records, run_id=…, stage=…)`."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from milepost import cursors, details, rows
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import InvalidArgumentError, SourceChangedError
from milepost.mapped import Mappable
from milepost.owner import in_event_loop
from milepost.progress import OffsetProgress, refuse_bag
from milepost.source import Source, Start
from milepost.times import to_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from milepost.cursors import Stored
    from milepost.store import CheckpointStore
    from milepost.times import Time

Record = TypeVar("Record")
_Token = tuple[int, "Stored | None"]


class Checkpointed(Mappable[Record]):
    """
    The records that remain of an ordered source. A checkpoint is recorded after every `every` of them.

    `CheckpointStore.checkpointed` makes it, and its docstring has the rules.
    """

    def __init__(
        self,
        store: CheckpointStore,
        records: Any,
        *,
        run_id: str,
        stage: str,
        every: int,
        every_s: float | None,
        event_time: Callable[[Record], Time] | None,
        cursor: Callable[[Record], Any] | None,
        source: str | None,
        accept_source: bool,
        transaction: bool,
    ) -> None:
        super().__init__(store, run_id, stage, every=every, every_s=every_s, transaction=transaction)
        self._source: Source[Record] = Source(records, has_cursors=cursor is not None, stage=(store.path, run_id, stage))
        self._event_time, self._cursor = event_time, cursor
        self._name, self._accepts_another = source, accept_source
        # Its entries may have cursors, and a branch says where it came from.
        if source is not None and not details.fits(details.detail(cursor=b"", branch_position=MAX_INTEGER, source=source)):
            raise InvalidArgumentError("source", source, "is too long as JSON: give its SHA-256, as fingerprint() does")

    def _state(self) -> rows.ResumeState | None:
        return self._store._database.read(rows.resume_state, self.run_id, self.stage)  # noqa: SLF001 - the store's own loop

    def _start(self) -> Start:
        return self._start_of(self._state())

    def _start_of(self, state: rows.ResumeState | None) -> Start:
        if state is None:
            return Start(0)
        return Start(state.watermark.offset, cursors.of_stage(state.cursor, self._store.path, self.stage))

    def _new_progress(self) -> OffsetProgress:
        state = self._state()
        if state is not None:
            self._store._database.read(refuse_bag, self.run_id, self.stage)  # noqa: SLF001
        recorded = details.of_source(state.detail) if state else None
        if self._name is not None and recorded not in {None, self._name} and not self._accepts_another:
            raise SourceChangedError(recorded, self._name, self.run_id, self.stage)
        return OffsetProgress(
            self._store._writer,  # noqa: SLF001
            self._store._clock,  # noqa: SLF001
            self.run_id,
            self.stage,
            self._start_of(state),
            self.every,
            state.watermark if state else None,
            self._name,
        )

    def _feed(self, progress: Any) -> Iterator[tuple[Record, _Token]]:
        records = self._source.open(progress.start)
        if self._event_time is None and self._cursor is None:
            return zip(records, repeat((progress.recorded_ms, None)))
        return self._described(records, progress.recorded_ms)

    def _described(self, records: Iterator[Record], seen_ms: int) -> Iterator[tuple[Record, _Token]]:
        # No map(): a StopIteration of the caller's functions would end it, as if all records were done.
        describe = self._describe(seen_ms)
        for record in records:
            yield describe(record)

    async def _feed_async(self, progress: Any) -> AsyncIterator[tuple[Record, _Token]]:
        describe = self._describe(progress.recorded_ms)
        records = await self._source.open_async(progress.start)
        try:
            async for record in records:
                yield describe(record)
        finally:
            if in_event_loop():
                await self._source.close_async(records)

    def _describe(self, seen_ms: int) -> Callable[[Record], tuple[Record, _Token]]:
        """
        Return the function that gives a record its token, as soon as it is read.

        Records may come out of order, but a watermark never goes back. So a token has the latest event time so far.
        """

        def describe(record: Record) -> tuple[Record, _Token]:
            nonlocal seen_ms
            if self._event_time is not None:
                seen_ms = max(seen_ms, to_ms("event_time", self._event_time(record)))
            return record, (seen_ms, None if self._cursor is None else cursors.encode(self._cursor(record)))

        return describe

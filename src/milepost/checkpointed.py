"""One line that makes a loop resumable: `for record in store.checkpointed(records, run_id=…, stage=…)`."""

from __future__ import annotations

import threading
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from milepost.append import NOT_ASKED
from milepost.checkpoint import MAX_NAME_BYTES, Watermark
from milepost.errors import InvalidArgumentError, StoreError, shown
from milepost.steps import checked_step
from milepost.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import apsw

    from milepost.append import NotAsked, Step
    from milepost.block import Block
    from milepost.checkpoint import Checkpoint
    from milepost.receipt import Receipt
    from milepost.store import CheckpointStore
    from milepost.times import Time

Record = TypeVar("Record")


class Checkpointed(Generic[Record]):
    """
    The records that are still to be done, with a checkpoint after every so many that are done.

    An iterable, not an iterator: a loop that is left early, by `break` or an exception, drops the iterator, and with it
    what it holds open. Iterating again resumes again.

    Made by `CheckpointStore.checkpointed`, whose docstring has the rules.
    """

    def __init__(
        self,
        store: CheckpointStore,
        records: Iterable[Record],
        *,
        run_id: str,
        stage: str,
        every: int,
        event_time: Callable[[Record], Time] | None,
        seek: Callable[[int], Iterable[Record]] | None,
        transaction: bool,
    ) -> None:
        self._store, self._records = store, records
        self.run_id: str = run_id
        self.stage: str = stage
        self.every: int = every
        self._event_time, self._seek, self._transaction = event_time, seek, transaction
        self._taken: Iterator[Record] | None = None  # what iter(records) gave at first
        # The iterator whose block may be open; weak, for dropping it ends its block.
        self._open: Callable[[], _InTransactions[Record] | None] = _nothing

    @property
    def connection(self) -> apsw.Connection:
        """
        With `transaction=True`, inside the loop: where the sink's writes go, to commit with the checkpoint.

        Raises:
            StoreError: Outside the loop, or without `transaction=True`.
        """
        iterator = self._open()
        connection = None if iterator is None else iterator.connection
        if connection is None:
            raise StoreError(self._store.path, "a connection is given inside a loop with transaction=True, and only there")
        return connection

    def append(self, entry: Checkpoint) -> Receipt:
        """
        Inside a loop with `transaction=True`: append a checkpoint of another stage, to commit with the loop's own.

        Raises:
            StoreError: Outside the loop, or without `transaction=True`.
            MilepostError: As `CheckpointStore.append`.
        """
        return self._store._writer.append(entry, self._block())  # noqa: SLF001 - the store's own loop

    def advance(
        self,
        run_id: str,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """
        Inside a loop with `transaction=True`: advance another stage, to commit with the loop's own checkpoint.

        Raises:
            StoreError: Outside the loop, or without `transaction=True`.
            MilepostError: As `CheckpointStore.advance`.
        """
        step = checked_step(run_id, stage, watermark, idempotency_key, after, cursor)
        return self._advance(step, self._block())

    def _advance(self, step: Step, block: Block | None) -> Receipt:
        return self._store._writer.advance(step, self._store._clock, block)  # noqa: SLF001 - the store's own loop

    def _block(self) -> Block:
        iterator = self._open()
        block = None if iterator is None else iterator.block
        if block is None:
            raise StoreError(self._store.path, "this records inside a loop with transaction=True, and only there")
        return block

    def __iter__(self) -> Iterator[Record]:
        """The records after the last checkpoint."""
        last = self._store.latest_for_stage(self.stage, run_id=self.run_id)
        records = self._from(last.watermark.offset if last else 0)
        return _InTransactions(self, records, last) if self._transaction else self._in_batches(records, last)

    def _in_batches(self, records: Iterator[Record], last: Checkpoint | None) -> Iterator[Record]:
        recorded = last.watermark if last else None
        done, seen_ms = recorded or (0, 0)
        first = done
        for record in records:
            later_ms = self.later(seen_ms, record)
            yield record
            # Here again: the caller asks for the next record, so it has finished this one.
            done, seen_ms = done + 1, later_ms
            if done - first == self.every:
                recorded = self.record(Watermark(done, seen_ms), recorded, None)
                first = done
        if done > first:
            self.record(Watermark(done, seen_ms), recorded, None)

    def _from(self, done: int) -> Iterator[Record]:
        if done > 0 and self._seek is not None:
            return self._sought(done)
        records = iter(self._records)
        if self._taken is not None and records is self._taken:
            raise InvalidArgumentError(
                "records",
                self._records,
                "is an iterator that a loop has begun to read, and cannot begin again: give a list, a fresh iterator, or a "
                "function of the offset as seek",
            )
        self._taken = records
        skipped = sum(1 for _ in islice(records, done))
        if skipped < done:
            raise self._shorter("records", self._records, done, f"it has {skipped:,}")
        return records

    def _sought(self, done: int) -> Iterator[Record]:
        """What `seek` gives behind what is done; a source that ends there must have what was done last."""
        records = self._seek_to(done)
        first = list(islice(records, 1))
        if not first and not list(islice(self._seek_to(done - 1), 1)):
            raise self._shorter("seek", self._seek, done, f"it gives nothing from offset {done - 1:,} on")
        return _behind(first, records)

    def _seek_to(self, offset: int) -> Iterator[Record]:
        sought = self._seek(offset) if self._seek is not None else None
        try:
            return iter(sought)  # type: ignore[arg-type]
        except TypeError:
            raise InvalidArgumentError("seek", sought, "must return the records from the offset on") from None

    def _shorter(self, argument: str, value: object, done: int, found: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            argument,
            value,
            f"{done:,} records of it were processed already, but {found}: pass the same source, or use a new run_id",
        )

    def later(self, seen_ms: int, record: Record) -> int:
        """The latest event time with this record: records may come out of order, a watermark may not."""
        if self._event_time is None:
            return seen_ms
        return max(seen_ms, to_ms("event_time", self._event_time(record)))

    def record(self, mark: Watermark, after: Watermark | None, block: Block | None) -> Watermark:
        """Record that the stage has come from `after` to `mark`, unless somebody else has moved it; `mark` again."""
        first = after.offset if after else 0
        key = f"{self.stage}:{first}-{mark.offset - 1}"
        if len(key.encode()) > MAX_NAME_BYTES:
            key = f"{first}-{mark.offset - 1}"  # a key is unique within its stage; the name in it is for people
        self._advance(checked_step(self.run_id, self.stage, mark, key, after), block)
        return mark

    def begin(self, iterator: _InTransactions[Record]) -> Block:
        """The block of the next batch."""
        self._open = weakref.ref(iterator)
        loop = f"the loop over stage {shown(self.stage)} of run {shown(self.run_id)}"
        return self._store._writer.block(loop)  # noqa: SLF001


class _InTransactions(Generic[Record]):
    """
    Hands out records, each batch of them inside a transaction block that belongs to the loop.

    A class, not a generator: it may be continued in another thread, and whoever drops it, wherever that is, ends its block.
    """

    def __init__(self, loop: Checkpointed[Record], records: Iterator[Record], last: Checkpoint | None) -> None:
        self._loop, self._records = loop, records
        self._recorded = last.watermark if last else None
        self._seen_ms = last.watermark.event_time_ms if last else 0
        self._batch: Iterator[Record] = iter(())
        self._length = 0  # of the batch
        self.block: Block | None = None
        self._end: Callable[..., None] | None = None  # ends the block, also by being dropped with this iterator
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        if self._over:
            raise StopIteration
        handed_out = False
        try:
            if self.block is not None and self.block.turn is not None:
                self.block.turn.thread = threading.get_ident()
            try:
                record = next(self._batch)
            except StopIteration:
                self._finish()
                record = self._begin()
            self._seen_ms = self._loop.later(self._seen_ms, record)
            handed_out = True
            return record
        finally:
            if not handed_out:
                self._over, self._end, self.block = True, None, None

    @property
    def connection(self) -> apsw.Connection | None:
        """The one that the block is lent; None outside of one."""
        return None if self.block is None or self.block.turn is None else self.block.turn.connection

    def _finish(self) -> None:
        """Record the batch, all of it being done, and commit."""
        if self.block is not None and self._end is not None:
            mark = Watermark((self._recorded.offset if self._recorded else 0) + self._length, self._seen_ms)
            self._loop.record(mark, self._recorded, self.block)
            self._end(None, None, None)
            self._recorded, self.block, self._end = mark, None, None

    def _begin(self) -> Record:
        """The first record of the next batch."""
        # Read before its transaction begins: a slow source does not keep other writers waiting.
        batch = list(islice(self._records, self._loop.every))
        if not batch:
            raise StopIteration
        block = self._loop.begin(self)
        self._end = block.__exit__
        block.__enter__()
        self.block, self._batch, self._length = block, iter(batch), len(batch)
        return next(self._batch)


def _nothing() -> None:
    """What an open iterator is where there is none."""


def _behind(first: list[Record], records: Iterator[Record]) -> Iterator[Record]:
    yield from first
    yield from records

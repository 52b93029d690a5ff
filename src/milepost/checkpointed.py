"""Make a loop resumable with one line: `for record in store.checkpointed(records, run_id=…, stage=…)`."""

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
    An iterable of the records that remain, which records a checkpoint after every `every` records.

    It is not an iterator. A loop that ends early, by `break` or an exception, drops its iterator. That rolls an open block
    back, and a new loop resumes.

    `CheckpointStore.checkpointed` makes it, and its docstring has the rules.
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
        self._last_iterator: Iterator[Record] | None = None  # to notice a source that cannot begin again
        # The iterator whose block may be open. Weak, so that dropping the iterator ends the block.
        self._open: Callable[[], _InTransactions[Record] | None] = _no_iterator

    @property
    def connection(self) -> apsw.Connection:
        """
        The connection for the sink's writes, which commit together with the checkpoint.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
        """
        iterator = self._open()
        connection = None if iterator is None else iterator.connection
        if connection is None:
            raise StoreError(
                self._store.path,
                "a loop's connection needs transaction=True and exists only inside the loop: use store.transaction()",
            )
        return connection

    def append(self, entry: Checkpoint) -> Receipt:
        """
        Append a checkpoint of another stage, which commits together with the loop's own.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
            MilepostError: The same as `CheckpointStore.append` raises.
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
        Advance another stage, and commit that together with the loop's own checkpoint.

        Raises:
            StoreError: You are outside the loop, or it has no `transaction=True`.
            MilepostError: The same as `CheckpointStore.advance` raises.
        """
        step = checked_step(run_id, stage, watermark, idempotency_key, after, cursor)
        return self._advance(step, self._block())

    def _advance(self, step: Step, block: Block | None) -> Receipt:
        return self._store._writer.advance(step, self._store._clock, block)  # noqa: SLF001 - the store's own loop

    def _block(self) -> Block:
        iterator = self._open()
        block = None if iterator is None else iterator.block
        if block is None:
            raise StoreError(
                self._store.path,
                "a loop's append() and advance() need transaction=True and work only inside it: use the store's",
            )
        return block

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records after the last checkpoint."""
        last = self._store.latest_for_stage(self.stage, run_id=self.run_id)
        records = self._records_after(last.watermark.offset if last else 0)
        return _InTransactions(self, records, last) if self._transaction else self._in_batches(records, last)

    def _in_batches(self, records: Iterator[Record], last: Checkpoint | None) -> Iterator[Record]:
        recorded = last.watermark if last else None
        done, seen_ms = recorded or (0, 0)
        first = done
        for record in records:
            later_ms = self.latest_event_time(seen_ms, record)
            yield record
            # The caller asks for the next record, so it has finished this one.
            done, seen_ms = done + 1, later_ms
            if done - first == self.every:
                recorded = self.record(Watermark(done, seen_ms), recorded, None)
                first = done
        if done > first:
            self.record(Watermark(done, seen_ms), recorded, None)

    def _records_after(self, done: int) -> Iterator[Record]:
        if done > 0 and self._seek is not None:
            return self._records_by_seek(done)
        records = iter(self._records)
        if self._last_iterator is not None and records is self._last_iterator:
            raise InvalidArgumentError(
                "records",
                self._records,
                "it is an iterator that a loop has already read from: give a list, a fresh iterator, or a function of the "
                "offset as seek",
            )
        self._last_iterator = records
        skipped = sum(1 for _ in islice(records, done))
        if skipped < done:
            raise self._shorter_error("records", self._records, done, f"it has {skipped:,} record(s)")
        return records

    def _records_by_seek(self, done: int) -> Iterator[Record]:
        """Return the records from `done` on. If there are none, check that the source still has the last one done."""
        records = self._seek_to(done)
        first = list(islice(records, 1))
        if not first and not list(islice(self._seek_to(done - 1), 1)):
            raise self._shorter_error("seek", self._seek, done, f"it returns no record from offset {done - 1:,} on")
        return _prepend(first, records)

    def _seek_to(self, offset: int) -> Iterator[Record]:
        sought = self._seek(offset) if self._seek is not None else None
        try:
            return iter(sought)  # type: ignore[arg-type]
        except TypeError:
            raise InvalidArgumentError("seek", sought, "must return an iterable of the records from the offset on") from None

    def _shorter_error(self, argument: str, value: object, done: int, found: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            argument,
            value,
            f"{found}, but {done:,} were already processed: pass the same source, or use a new run_id",
        )

    def latest_event_time(self, seen_ms: int, record: Record) -> int:
        """Return the latest event time so far. Records may come out of order, but a watermark never goes back."""
        if self._event_time is None:
            return seen_ms
        return max(seen_ms, to_ms("event_time", self._event_time(record)))

    def record(self, mark: Watermark, after: Watermark | None, block: Block | None) -> Watermark:
        """Advance the stage from `after` to `mark`, unless somebody else moved it. Return `mark`."""
        first = after.offset if after else 0
        key = f"{self.stage}:{first}-{mark.offset - 1}"
        if len(key.encode()) > MAX_NAME_BYTES:
            key = f"{first}-{mark.offset - 1}"  # a key is unique within its stage, whose name is in it for people only
        self._advance(checked_step(self.run_id, self.stage, mark, key, after), block)
        return mark

    def begin(self, iterator: _InTransactions[Record]) -> Block:
        """Make the block of the next batch."""
        self._open = weakref.ref(iterator)
        loop = f"the loop over stage {shown(self.stage)} of run {shown(self.run_id)}"
        return self._store._writer.block(loop)  # noqa: SLF001


class _InTransactions(Generic[Record]):
    """
    Iterates over records, with each batch inside a transaction block that the loop owns.

    It is a class, not a generator, so that another thread may continue it. Its block ends when it is dropped in any thread.
    """

    def __init__(self, loop: Checkpointed[Record], records: Iterator[Record], last: Checkpoint | None) -> None:
        self._loop, self._records = loop, records
        self._recorded = last.watermark if last else None
        self._seen_ms = last.watermark.event_time_ms if last else 0
        self._batch: Iterator[Record] = iter(())
        self._length = 0  # of the batch
        self.block: Block | None = None
        self._end: Callable[..., None] | None = None  # ends the block, also when it is dropped with this iterator
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
            self._seen_ms = self._loop.latest_event_time(self._seen_ms, record)
            handed_out = True
            return record
        finally:
            if not handed_out:
                self._over, self._end, self.block = True, None, None

    @property
    def connection(self) -> apsw.Connection | None:
        """The connection of the block; None outside of a block."""
        return None if self.block is None or self.block.turn is None else self.block.turn.connection

    def _finish(self) -> None:
        """Record the finished batch, and commit."""
        if self.block is not None and self._end is not None:
            mark = Watermark((self._recorded.offset if self._recorded else 0) + self._length, self._seen_ms)
            self._loop.record(mark, self._recorded, self.block)
            self._end(None, None, None)
            self._recorded, self.block, self._end = mark, None, None

    def _begin(self) -> Record:
        """Read the next batch, begin its block, and return its first record."""
        # Read the batch before its transaction begins, so that a slow source keeps no other writer waiting.
        batch = list(islice(self._records, self._loop.every))
        if not batch:
            raise StopIteration
        block = self._loop.begin(self)
        self._end = block.__exit__
        block.__enter__()
        self.block, self._batch, self._length = block, iter(batch), len(batch)
        return next(self._batch)


def _no_iterator() -> None:
    """Stand for the reference to an iterator before there is one."""


def _prepend(first: list[Record], records: Iterator[Record]) -> Iterator[Record]:
    yield from first
    yield from records

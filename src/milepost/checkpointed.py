"""One line that makes a loop resumable: `for record in store.checkpointed(records, run_id=…, stage=…)`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from milepost.arguments import check_integer
from milepost.checkpoint import MAX_NAME_BYTES, Watermark
from milepost.errors import InvalidArgumentError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import apsw

    from milepost.checkpoint import Checkpoint
    from milepost.receipt import Receipt
    from milepost.store import CheckpointStore

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
        event_time_ms: Callable[[Record], int] | None,
        seek: Callable[[int], Iterable[Record]] | None,
        transaction: bool,
    ) -> None:
        self._store, self._records = store, records
        self._run_id, self._stage, self._every = run_id, stage, every
        self._event_time_ms, self._seek, self._transaction = event_time_ms, seek, transaction
        self._connection: apsw.Connection | None = None

    @property
    def connection(self) -> apsw.Connection:
        """
        With `transaction=True`, inside the loop: where the sink's writes go, to commit with the checkpoint.

        Raises:
            StoreError: Outside the loop, or without `transaction=True`.
        """
        if self._connection is None:
            raise StoreError(self._store.path, "a connection is given inside a loop with transaction=True, and only there")
        return self._connection

    def __iter__(self) -> Iterator[Record]:
        """The records after the last checkpoint."""
        last = self._store.latest_for_stage(self._stage, self._run_id)
        done = last.watermark.offset if last else 0
        records = self._from(done)
        return self._in_transactions(records, last) if self._transaction else self._in_batches(records, last)

    def _from(self, done: int) -> Iterator[Record]:
        if done == 0:
            return iter(self._records)
        if self._seek is not None:
            sought = self._seek(done)
            try:
                return iter(sought)
            except TypeError:
                raise InvalidArgumentError("seek", sought, "must return the records from the offset on") from None
        records = iter(self._records)
        skipped = sum(1 for _ in islice(records, done))
        if skipped < done:
            raise InvalidArgumentError(
                "records",
                self._records,
                f"{done} were done, but it has {skipped}: give the source that was read before, or start a new run_id",
            )
        return records

    def _in_batches(self, records: Iterator[Record], last: Checkpoint | None) -> Iterator[Record]:
        done, seen_ms = last.watermark if last else (0, 0)
        first = done
        for record in records:
            later_ms = self._later(seen_ms, record)
            yield record
            # Here again: the caller asks for the next record, so it has finished this one.
            done, seen_ms = done + 1, later_ms
            if done - first == self._every:
                self._advance(first, done, seen_ms)
                first = done
        if done > first:
            self._advance(first, done, seen_ms)

    def _in_transactions(self, records: Iterator[Record], last: Checkpoint | None) -> Iterator[Record]:
        done, seen_ms = last.watermark if last else (0, 0)
        # A batch is read before its transaction begins: a slow source does not keep other writers waiting.
        while batch := list(islice(records, self._every)):
            with self._store.transaction() as connection:
                self._connection = connection
                try:
                    for record in batch:
                        seen_ms = self._later(seen_ms, record)
                        yield record
                finally:
                    self._connection = None
                self._advance(done, done + len(batch), seen_ms)
            done += len(batch)

    def _later(self, seen_ms: int, record: Record) -> int:
        """The latest event time with this record: records may come out of order, a watermark may not."""
        if self._event_time_ms is None:
            return seen_ms
        event_time_ms = self._event_time_ms(record)
        check_integer("event_time_ms", event_time_ms)
        return max(seen_ms, event_time_ms)

    def _advance(self, first: int, done: int, event_time_ms: int) -> Receipt:
        key = f"{self._stage}:{first}-{done - 1}"
        if len(key.encode()) > MAX_NAME_BYTES:
            key = f"{first}-{done - 1}"  # a key is unique within its stage; the name in it is for people
        return self._store.advance(self._run_id, self._stage, Watermark(done, event_time_ms), idempotency_key=key)

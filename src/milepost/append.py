"""
Put checkpoints at the end of the chain, inside one open write transaction: the rules, the links, the rows.

The duplicate rule costs no lookup of its own on the way in. A key that is recorded already can only belong to an entry
whose sequence does not rise (it may be a duplicate: look the key up), or to one that conflicts (the unique index refuses
the row: look it up then).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost import rows
from milepost.checkpoint import Checkpoint, fault
from milepost.errors import IdempotencyConflictError, InvalidCheckpointError, SequenceError, WatermarkRegressionError
from milepost.receipt import BatchReceipt, Head, Receipt
from milepost.signature import EMPTY, canonical, link, prefix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.checkpoint import Watermark

_BUFFER: Final = 10_000  # rows that wait for one executemany


class _Run:
    __slots__ = ("number", "signature")

    def __init__(self, number: int, signature: bytes) -> None:
        self.number = number
        self.signature = signature


class _Stage:
    """Where one stage of one run stands: its last sequence and watermark, and what this transaction adds to it."""

    __slots__ = ("added", "event_time_ms", "number", "offset", "prefix", "run", "sequence", "signature")

    def __init__(self, run: _Run, number: int, before: str, sequence: int, offset: int, event_time_ms: int) -> None:
        self.run = run
        self.number = number
        self.prefix = before
        self.sequence = sequence
        self.offset = offset
        self.event_time_ms = event_time_ms
        self.added = 0
        self.signature = EMPTY


class Appender:
    """
    The end of the chain, as one transaction moves it; it knows nothing from before the transaction or after.

    After a RejectedCheckpointError its state is that of before the rejected entry only if `finish` had been called: a
    batch is given up as a whole.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._position, self._signature = rows.tip(connection)
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._runs: dict[str, _Run] = {}
        self._numbered: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[Checkpoint, int | None]] = []

    def add(self, entry: Checkpoint, index: int | None = None) -> Receipt | None:
        """
        Take one entry; it is in the table after `finish`.

        Returns:
            None, or the receipt of the first one where it is a duplicate.

        Raises:
            InvalidCheckpointError: It breaks a rule of `valid`.
            RejectedCheckpointError: It breaks a rule of an append.
        """
        wrong = fault(entry)
        if wrong is not None:
            raise InvalidCheckpointError(*wrong, index)
        run_id, stage_name, sequence, (offset, event_time_ms), key, at_ms = entry
        stage = self._stages.get((run_id, stage_name)) or self._stage(run_id, stage_name)
        if sequence <= stage.sequence or offset < stage.offset or event_time_ms < stage.event_time_ms:
            return self._duplicate(entry, stage, index)
        run = stage.run
        signed = canonical(stage.prefix, sequence, offset, event_time_ms, key, at_ms)
        before, signature = self._signature, link(self._signature, signed)
        # A run that is alone in its file, as most are, has the file's signature: no need to compute it twice.
        run.signature = stage.signature = signature if run.signature == before else link(run.signature, signed)
        self._signature = signature
        self._position += 1
        stage.sequence, stage.offset, stage.event_time_ms = sequence, offset, event_time_ms
        stage.added += 1
        self._numbered.append(
            (self._position, run.number, stage.number, sequence, offset, event_time_ms, key, at_ms, signature)
        )
        self._waiting.append((entry, index))
        if len(self._waiting) >= _BUFFER:
            self._write()
        return None

    def advance(self, run_id: str, stage: str, mark: Watermark, key: str, at_ms: int) -> Receipt:
        """Stamp the next sequence on a checkpoint and take it; a key that is recorded with this watermark is a duplicate."""
        # A wrong name must be told before it is looked up, a wrong sequence cannot be.
        wrong = fault(Checkpoint(run_id, stage, 0, mark, key, at_ms))
        if wrong is not None:
            raise InvalidCheckpointError(*wrong)
        known = self._stages.get((run_id, stage)) or self._stage(run_id, stage)
        entry = Checkpoint(run_id, stage, known.sequence + 1 if known.sequence >= 0 else 1, mark, key, at_ms)
        try:
            return self.add(entry) or self.receipt()
        except (IdempotencyConflictError, WatermarkRegressionError):
            first = rows.recorded(self._connection, run_id, stage, key)
            if first is None or first[1].watermark != mark:
                raise
            return first[0]

    def receipt(self) -> Receipt:
        """Write what waits; the receipt of the entry that was added last."""
        self.finish()
        return Receipt(self._position, self._signature.hex())

    def finish(self) -> Head:
        """Write what waits; the chain's head with it."""
        self._write()
        for stage in self._stages.values():
            if stage.added:
                rows.add_progress(self._connection, stage.run.number, stage.number, stage.added, stage.signature)
                stage.added = 0
        return Head(self._position, self._signature.hex())

    def _stage(self, run_id: str, name: str) -> _Stage:
        run_number, stage_number, signature = rows.numbers_and_head(self._connection, run_id, name)
        last = rows.last(self._connection, run_number, stage_number) if run_number and stage_number else None
        run = self._runs.get(run_id)
        if run is None:
            run = _Run(run_number or rows.add_run(self._connection, run_id), signature or EMPTY)
            self._runs[run_id] = run
        sequence, offset, event_time_ms = last or (-1, 0, 0)
        stage_number = stage_number or rows.add_stage(self._connection, name)
        stage = _Stage(run, stage_number, prefix(run_id, name), sequence, offset, event_time_ms)
        self._stages[run_id, name] = stage
        return stage

    def _duplicate(self, entry: Checkpoint, stage: _Stage, index: int | None) -> Receipt:
        """The receipt of the first one, or the rule that the entry breaks."""
        self._write()
        found = rows.recorded(self._connection, entry.run_id, entry.stage, entry.idempotency_key)
        if found is not None:
            receipt, first = found
            if (first.sequence, first.watermark) == (entry.sequence, entry.watermark):
                return receipt
            raise IdempotencyConflictError(entry, first, index)
        last = rows.latest(self._connection, entry.run_id, entry.stage)
        if last is None:
            raise apsw.CorruptError(f"stage {entry.stage!a} of run {entry.run_id!a} has lost its last entry")
        if entry.sequence <= stage.sequence:
            raise SequenceError(entry, last, index)
        raise WatermarkRegressionError(entry, last, index)

    def _write(self) -> None:
        if not self._waiting:
            return
        waiting, numbered = self._waiting, self._numbered
        self._waiting, self._numbered = [], []
        try:
            rows.add_entries(self._connection, numbered)
        except apsw.ConstraintError:
            # The rows before the refused one are in the table: the position of the last tells which it was.
            written = rows.tip(self._connection)[0] - numbered[0][0] + 1
            entry, index = waiting[written]
            found = rows.recorded(self._connection, entry.run_id, entry.stage, entry.idempotency_key)
            if found is None:
                raise
            raise IdempotencyConflictError(entry, found[1], index) from None


def append(connection: apsw.Connection, entry: Checkpoint) -> Receipt:
    """Append one checkpoint."""
    appender = Appender(connection)
    return appender.add(entry) or appender.receipt()


def append_many(connection: apsw.Connection, entries: Iterable[Checkpoint]) -> BatchReceipt:
    """Append a batch."""
    appender = Appender(connection)
    appended = duplicates = 0
    for index, entry in enumerate(entries):
        if appender.add(entry, index) is None:
            appended += 1
        else:
            duplicates += 1
    head = appender.finish()
    return BatchReceipt(appended, duplicates, head.entries, head.signature)

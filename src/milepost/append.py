"""
Put checkpoints at the end of the chain, inside one open write transaction: the rules, the links, the rows.

The duplicate rule costs no lookup of its own on the way in. A key that is recorded already can only belong to an entry
whose sequence does not rise (it may be a duplicate: look the key up), or to one that conflicts (the unique index refuses
the row: look it up then).
"""

from __future__ import annotations

from enum import Enum
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost import rows
from milepost.checkpoint import MAX_INTEGER, MAX_NAME_BYTES, Checkpoint, Watermark, fault
from milepost.errors import (
    IdempotencyConflictError,
    InvalidCheckpointError,
    SequenceError,
    StageMovedError,
    WatermarkRegressionError,
)
from milepost.mileposts import INTERVAL
from milepost.receipt import BatchReceipt, Receipt, receipt_of
from milepost.signature import EMPTY, START, canonical_bytes, prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milepost.signature import Hash

_BUFFER: Final = 250  # rows that wait for one executemany: gone before Python's garbage collector has seen them
_RUN_STAGES: Final = 1_000  # stages of runs whose state is kept in memory


class NotAsked(Enum):
    """What `after` is where it is not given: None says that the stage has no checkpoint yet."""

    NOT_ASKED = "not asked"

    def __repr__(self) -> str:
        return "<not asked>"


NOT_ASKED: Final = NotAsked.NOT_ASKED
NO_DETAILS: Final[Iterable[None]] = repeat(None)


class _Run:
    __slots__ = ("number", "signature")

    def __init__(self, number: int, signature: bytes) -> None:
        self.number = number
        self.signature = signature


class _RunStage:
    """Where one stage of one run stands: its last sequence and watermark, and where its next milepost is to be."""

    __slots__ = (
        "added", "entries_before", "event_time_ms", "next_milepost", "number", "offset", "prefix", "run", "sequence",
    )  # fmt: skip

    def __init__(self, run: _Run, number: int, prefix: str, last: list[int] | None) -> None:
        self.run = run
        self.number = number
        self.prefix = prefix
        self.sequence, self.offset, self.event_time_ms, milepost = last or (-1, 0, 0, -INTERVAL)
        self.next_milepost = milepost + INTERVAL  # the least position that it can have
        self.added = 0  # how many entries this appender has added to it
        self.entries_before: int | None = None if last else 0  # how many there were; looked up once a milepost needs it


class Appender:
    """
    The end of the chain, as transactions move it, one after the other, as long as nobody else writes in between.

    Once it has raised an error it is of no further use: what it was given is given up as a whole.
    """

    def __init__(self, connection: apsw.Cursor, hash_function: Hash) -> None:
        self._hash_function = hash_function
        self.appended: int = 0
        self.duplicates: int = 0
        self.usable: bool = True
        self._connection = connection
        self._stages: dict[tuple[str, str], _RunStage] = {}
        self._runs: dict[str, _Run] = {}
        self._position, self._signature = START  # until the first stage is looked up
        self._numbered: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[int | None, Checkpoint]] = []

    def extend(
        self, entries: Iterable[Checkpoint], details: Iterable[str | None] = NO_DETAILS, *, batch: bool = False
    ) -> Receipt | None:
        """
        Take entries; they are in the table after `finish`.

        Args:
            entries: Checkpoints of any run and stage.
            details: The detail of each: JSON text that was checked, or None.
            batch: They are a batch, so that an error tells the index of its entry.

        Returns:
            The receipt that the last duplicate among them had when it was first recorded, or None without duplicates.

        Raises:
            InvalidCheckpointError: One of them breaks a rule of `valid`.
            RejectedCheckpointError: One of them breaks a rule of an append.
        """
        duplicate = None
        stages, numbered, waiting, hash_function = self._stages, self._numbered, self._waiting, self._hash_function
        position, signature = self._position, self._signature
        for index, entry, detail in zip(count() if batch else repeat(None), entries, details, strict=False):
            # What nearly every entry is can be told at once; for any other, `fault` has the rules, one by one.
            stage = None
            if type(entry) is Checkpoint and len(entry) == 6:
                run_id, stage_name, sequence, mark, key, at_ms = entry
                if (
                    type(mark) is Watermark
                    and len(mark) == 2
                    and type(run_id) is type(stage_name) is type(key) is str
                    and type(sequence) is type(mark[0]) is type(mark[1]) is type(at_ms) is int
                    and 0 <= sequence | mark[0] | mark[1] | at_ms <= MAX_INTEGER
                    and key.isascii()
                    and 0 < len(key) <= MAX_NAME_BYTES
                    and "\0" not in key
                ):
                    stage = stages.get((run_id, stage_name))
            if stage is None:
                self._position, self._signature = position, signature
                stage = self._checked_stage(entry, index)
                position, signature = self._position, self._signature
                run_id, stage_name, sequence, mark, key, at_ms = entry
            offset, event_time_ms = mark
            if sequence <= stage.sequence or offset < stage.offset or event_time_ms < stage.event_time_ms:
                duplicate = self._duplicate(entry, stage, index)
                continue
            canonical = canonical_bytes(stage.prefix, sequence, offset, event_time_ms, key, at_ms, detail)
            run, previous = stage.run, signature
            signature = hash_function(previous + canonical).digest()
            # The first run of a file has the file's signature while it is alone: neither computed nor kept twice.
            if run.signature == previous:
                run.signature, run_signature = signature, None
            else:
                run.signature = run_signature = hash_function(run.signature + canonical).digest()
            position += 1
            entries_so_far = self._entries_so_far(stage, position) if position >= stage.next_milepost else None
            stage.sequence, stage.offset, stage.event_time_ms = sequence, offset, event_time_ms
            stage.added += 1
            numbered.append(  # the columns of `rows.EntryRow`; a tuple, in a third of the time
                (
                    position, run.number, stage.number, sequence, offset, event_time_ms, key, at_ms,
                    signature, run_signature, entries_so_far, detail,
                )
            )  # fmt: skip
            waiting.append((index, entry))
            if len(waiting) >= _BUFFER:
                self._write()
        self._position, self._signature = position, signature
        return duplicate

    def append(self, entry: Checkpoint, detail: str | None = None) -> Receipt:
        """Append one checkpoint."""
        receipt = self.extend((entry,), (detail,)) or self.receipt()
        self.finish()
        return receipt

    def append_each(self, entries: Iterable[Checkpoint]) -> list[Receipt]:
        """Append checkpoints of as many callers; a receipt for each."""
        receipts = [self.extend((entry,)) or self.receipt() for entry in entries]
        self.finish()
        return receipts

    def append_many(self, entries: Iterable[Checkpoint], details: Iterable[str | None] = NO_DETAILS) -> BatchReceipt:
        """Append a batch."""
        appended, duplicates = self.appended, self.duplicates
        self.extend(entries, details, batch=True)
        position, signature = self.finish()
        return BatchReceipt(self.appended - appended, self.duplicates - duplicates, position, signature.hex())

    def advance(
        self,
        run_id: str,
        stage: str,
        mark: Watermark,
        key: str,
        after: Watermark | NotAsked | None,
        clock: Callable[[], int],
    ) -> Receipt:
        """
        Append a checkpoint with the next sequence; a key that is recorded with this watermark is a duplicate.

        Args:
            run_id: The run.
            stage: Its stage.
            mark: How far it has come.
            key: The idempotency key.
            after: Where the stage must stand now; None, nowhere yet.
            clock: Gives the wall clock, ms since the epoch.
        """
        entry = Checkpoint(run_id, stage, 0, mark, key, clock())
        state = self._checked_stage(entry, None)
        if after is not NOT_ASKED:
            stands = Watermark(state.offset, state.event_time_ms) if state.sequence >= 0 else None
            if stands != after or mark == after:
                found = rows.find_duplicate(self._connection, run_id, stage, key)
                receipt = found[0] if found is not None and found[1].watermark == mark else None
                raise StageMovedError(after, stands, receipt, run_id=run_id, stage=stage)
        if state.sequence >= MAX_INTEGER:  # no sequence is left to stamp, but the step may be recorded
            found = rows.find_duplicate(self._connection, run_id, stage, key)
            if found is not None and found[1].watermark == mark:
                return found[0]
        entry = entry._replace(sequence=max(state.sequence, 0) + 1)
        try:
            self.extend((entry,))
            self.finish()
        except (IdempotencyConflictError, WatermarkRegressionError):
            self.usable = False
            found = rows.find_duplicate(self._connection, run_id, stage, key)
            if found is None or found[1].watermark != mark:
                raise
            return found[0]
        return self.receipt()

    def receipt(self) -> Receipt:
        """The receipt of the entry that was added last; it is in the table after `finish`."""
        return receipt_of(self._position, self._signature)

    def finish(self) -> tuple[int, bytes]:
        """Write what waits; the position and the signature of the chain's last entry with it."""
        if not self._stages:
            return rows.tip(self._connection)
        self._write()
        return self._position, self._signature

    def _checked_stage(self, entry: Checkpoint, index: int | None) -> _RunStage:
        """The stage of an entry, looked up where it is new; an error where the entry is not valid."""
        wrong = fault(entry)
        if wrong is not None:
            self._write()  # a conflict among those that wait comes first
            raise InvalidCheckpointError(*wrong, index)
        run_id, name = entry.run_id, entry.stage
        stage = self._stages.get((run_id, name))
        if stage is None:
            if len(self._stages) >= _RUN_STAGES:
                self._write()
                self._stages.clear()
                self._runs.clear()
            state = rows.append_state(self._connection, run_id, name)
            position, signature, run_number, stage_number, run_signature, *last = state
            if not self._stages:
                self._position, self._signature = position, signature
            run = self._runs.get(run_id)
            if run is None:
                run = _Run(run_number or rows.add_run(self._connection, run_id), run_signature or EMPTY)
                self._runs[run_id] = run
            stage_number = stage_number or rows.add_stage(self._connection, name)
            new = last[0] is None
            if new:
                rows.add_run_stage(self._connection, run.number, stage_number)
            stage = _RunStage(run, stage_number, prefix(run_id, name), None if new else last)
            self._stages[run_id, name] = stage
        return stage

    def _entries_so_far(self, stage: _RunStage, position: int) -> int:
        """What is kept in the milepost at a position, which the stage reaches now."""
        stage.next_milepost = position + INTERVAL
        if stage.entries_before is None:
            self._write()
            entries = rows.entries_of_run_stage(self._connection, stage.run.number, stage.number)
            stage.entries_before = entries - stage.added
        return stage.entries_before + stage.added + 1

    def _duplicate(self, entry: Checkpoint, stage: _RunStage, index: int | None) -> Receipt:
        """The receipt of the first one, or the rule that the entry breaks."""
        self._write()
        found = rows.find_duplicate(self._connection, entry.run_id, entry.stage, entry.idempotency_key)
        if found is not None:
            receipt, first = found
            if (first.sequence, first.watermark) == (entry.sequence, entry.watermark):
                self.duplicates += 1
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
        first_position = self._numbered[0][0]
        try:
            rows.add_entries(self._connection, self._numbered)
        except apsw.ConstraintError:
            # The rows before the refused one are in the table: the position of the last tells which it was.
            refused = rows.tip(self._connection)[0] - first_position + 1
            if not 0 <= refused < len(self._waiting):  # only in a damaged file
                raise
            index, entry = self._waiting[refused]
            found = rows.find_duplicate(self._connection, entry.run_id, entry.stage, entry.idempotency_key)
            if found is None:
                raise
            raise IdempotencyConflictError(entry, found[1], index) from None
        self.appended += len(self._waiting)
        self._numbered.clear()
        self._waiting.clear()

"""
Put checkpoints at the end of the chain, inside one open write transaction: the rules, the links, the rows.

The duplicate rule costs no lookup of its own on the way in. A key that is recorded already can only belong to an entry
whose sequence does not rise (it may be a duplicate: look the key up), or to one that conflicts (the unique index refuses
the row: look it up then).
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import Enum
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost import details, rows
from milepost.checkpoint import MAX_INTEGER, MAX_NAME_BYTES, Checkpoint, Watermark, fault
from milepost.errors import (
    CursorNotKeptError,
    IdempotencyConflictError,
    InvalidCheckpointError,
    NoCheckpointError,
    RunExistsError,
    RunFinishedError,
    SequenceError,
    StageMovedError,
    WatermarkRegressionError,
)
from milepost.mileposts import INTERVAL
from milepost.receipt import BatchReceipt, Receipt, receipt_of
from milepost.signature import EMPTY, START, canonical_bytes, prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from milepost.cursors import Stored
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


class Step(NamedTuple):
    """What `advance` records, its cursor as it is stored."""

    run_id: str
    stage: str
    watermark: Watermark
    idempotency_key: str
    after: Watermark | NotAsked | None = NOT_ASKED
    cursor: Stored | None = None
    source: str | None = None


class _Run:
    __slots__ = ("number", "signature")

    def __init__(self, number: int, signature: bytes) -> None:
        self.number = number
        self.signature = signature


class _RunStage:
    """Where one stage of one run stands: its last sequence and watermark, and where its next milepost is to be."""

    __slots__ = (
        "added", "entries_before", "event_time_ms", "last_cursor", "next_milepost", "number", "offset", "prefix", "run",
        "sequence",
    )  # fmt: skip

    def __init__(self, run: _Run, number: int, prefix: str, last: list[int] | None) -> None:
        self.run = run
        self.number = number
        self.prefix = prefix
        self.sequence, self.offset, self.event_time_ms, milepost = last or (-1, 0, 0, -INTERVAL)
        self.next_milepost = milepost + INTERVAL  # the least position that it can have
        self.last_cursor: int | None = None  # the position of the last cursor, once one was added here
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
        self._takes_reserved = False
        self._connection = connection
        self._stages: dict[tuple[str, str], _RunStage] = {}
        self._runs: dict[str, _Run] = {}
        self._position, self._signature = START  # until the first stage is looked up
        self._numbered: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[int | None, Checkpoint]] = []

    def extend(
        self, entries: Iterable[Checkpoint], with_details: Iterable[str | None] = NO_DETAILS, *, batch: bool = False
    ) -> Receipt | None:
        """
        Take entries; they are in the table after `finish`.

        Args:
            entries: Checkpoints of any run and stage.
            with_details: The detail of each: JSON text that was checked, or None.
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
        for index, entry, detail in zip(count() if batch else repeat(None), entries, with_details, strict=False):
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

    def append_many(self, entries: Iterable[Checkpoint], with_details: Iterable[str | None] = NO_DETAILS) -> BatchReceipt:
        """Append a batch."""
        appended, duplicates = self.appended, self.duplicates
        self.extend(entries, with_details, batch=True)
        return self._batch_receipt(appended, duplicates)

    def restore(
        self, entries: Iterable[Checkpoint], with_details: Iterable[str | None], cursors: Mapping[int, Stored]
    ) -> BatchReceipt:
        """Append a batch as another store had it; the cursors by the positions that their entries get."""
        with self._reserved():
            receipt = self.append_many(entries, with_details)
        for position, cursor in cursors.items():
            rows.add_cursor(self._connection, *rows.numbers_at(self._connection, position), position, cursor)
        return receipt

    def advance(self, step: Step, clock: Callable[[], int], index: int | None = None) -> Receipt:
        """
        Append a checkpoint with the next sequence; a key that is recorded with this watermark is a duplicate.

        Args:
            step: Of which stage, and how far it has come.
            clock: Gives the wall clock, ms since the epoch.
            index: The step's place in a batch.

        Raises:
            InvalidCheckpointError: A value breaks a rule of `valid`.
            RejectedCheckpointError: The step breaks a rule of an advance.
        """
        run_id, stage, mark, key, after, cursor, source = step
        entry = Checkpoint(run_id, stage, 0, mark, key, clock())
        state = self._checked_stage(entry, index)
        if after is not NOT_ASKED:
            stands = Watermark(state.offset, state.event_time_ms) if state.sequence >= 0 else None
            if stands != after or mark == after:
                found = rows.find_duplicate(self._connection, run_id, stage, key)
                receipt = found[0] if found is not None and found[1].watermark == mark else None
                raise StageMovedError(after, stands, receipt, run_id, stage, index)
        if state.sequence >= MAX_INTEGER:  # no sequence is left to stamp, but the step may be recorded
            found = rows.find_duplicate(self._connection, run_id, stage, key)
            if found is not None and found[1].watermark == mark:
                self.duplicates += 1
                return found[0]
        entry = entry._replace(sequence=max(state.sequence, 0) + 1)
        try:
            detail = details.detail(cursor=cursor) if source is None else details.detail(cursor=cursor, source=source)
            receipt = self._add(entry, detail, cursor)
        except (IdempotencyConflictError, WatermarkRegressionError) as error:
            self.usable = False
            found = rows.find_duplicate(self._connection, run_id, stage, key)
            if found is None or found[1].watermark != mark:
                raise type(error)(error.entry, error.args[1], index) from None
            self.duplicates += 1
            return found[0]
        except InvalidCheckpointError as error:  # no sequence is left
            raise InvalidCheckpointError(error.field, error.value, error.rule, index) from None
        return receipt

    def advance_many(self, steps: Sequence[Step], clock: Callable[[], int]) -> BatchReceipt:
        """Advance several stages, or one of them several times."""
        appended, duplicates = self.appended, self.duplicates
        for index, step in enumerate(steps):
            self.advance(step, clock, index)
            if not self.usable:  # a step that is recorded: what is known of the end of the chain is of no further use
                self._stages.clear()
                self._runs.clear()
                self._numbered.clear()
                self._waiting.clear()
                self.usable = True
        return self._batch_receipt(appended, duplicates)

    def recorded_keys(self, run_id: str, stage: str, keys: Sequence[str]) -> set[str]:
        """Return the keys that the stage of a run has recorded already."""
        return rows.recorded_keys(self._connection, run_id, stage, keys)

    def append_items(self, run_id: str, stage: str, keys: Sequence[str], clock: Callable[[], int]) -> int:
        """
        Append an entry for each item of a bag, but for those that the stage has recorded already.

        Args:
            run_id: The run.
            stage: Its stage.
            keys: The items' keys, each once.
            clock: Gives the wall clock, ms since the epoch.

        Returns:
            How many items the stage has recorded now.

        Raises:
            InvalidCheckpointError: A value breaks a rule of `valid`.
        """
        at_ms = clock()
        first = Checkpoint(run_id, stage, 0, Watermark(0, 0), keys[0], at_ms)
        state = self._checked_stage(first, None)
        recorded = self.recorded_keys(run_id, stage, keys)
        sequence, offset, event_time_ms = max(state.sequence, 0), state.offset, state.event_time_ms
        new = [key for key in keys if key not in recorded]
        self.extend(
            Checkpoint(run_id, stage, sequence + number, Watermark(offset + number, event_time_ms), key, at_ms)
            for number, key in enumerate(new, 1)
        )
        self.finish()
        return offset + len(new)

    def begin_run(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> int:
        """
        Record that an attempt of a run begins, and give its number: 1, 2, 3 and so on.

        Raises:
            RunFinishedError: The last attempt has finished, and this is not to be another one.
        """
        last = rows.last_attempt(self._connection, run_id)
        if last is not None and last.state == details.FINISHED and not again:
            raise RunFinishedError(run_id, last.attempt, last.at_ms)
        attempt, sequence = (1, 1) if last is None else (last.attempt + 1, last.sequence + 1)
        self._add_of_run(run_id, attempt, sequence, details.BEGAN, clock)
        return attempt

    def end_run(self, run_id: str, attempt: int, state: str, clock: Callable[[], int], error: str | None) -> Receipt:
        """
        Record how an attempt has ended.

        Raises:
            StageMovedError: Another attempt has begun meanwhile, or this one has ended already.
        """
        last = rows.last_attempt(self._connection, run_id)
        if last is None or last.attempt != attempt or last.state != details.BEGAN:
            found = None if last is None else Watermark(last.attempt, 0)
            raise StageMovedError(Watermark(attempt, 0), found, None, run_id, details.STAGE_OF_RUNS)
        return self._add_of_run(run_id, attempt, last.sequence + 1, state, clock, error)

    def _add_of_run(
        self, run_id: str, attempt: int, sequence: int, state: str, clock: Callable[[], int], error: str | None = None
    ) -> Receipt:
        key = f"attempt-{attempt}:{state}"
        entry = Checkpoint(run_id, details.STAGE_OF_RUNS, sequence, Watermark(attempt, 0), key, clock())
        more = {} if error is None else {"error": error}
        with self._reserved():
            return self._add(entry, details.detail(run=state, **more), None)

    def branch(
        self, run_id: str, new_run_id: str, stage: str | None, as_of_ms: int | None, clock: Callable[[], int]
    ) -> BatchReceipt:
        """
        Let a run start where the stages of another one stood, or one of them.

        Raises:
            NoCheckpointError: There is nothing to start from.
            RunExistsError: The new run has one of the stages already, and from elsewhere.
            CursorNotKeptError: A stage stood where its cursor is not kept any more.
        """
        appended, duplicates = self.appended, self.duplicates
        points = rows.branch_points(self._connection, run_id, stage, as_of_ms)
        if not points:
            raise NoCheckpointError(run_id, stage)
        for point in points:
            entry = point.entry._replace(run_id=new_run_id, at_ms=clock())
            last = rows.latest(self._connection, new_run_id, entry.stage)
            if last is not None:
                found = rows.find_duplicate(self._connection, new_run_id, entry.stage, entry.idempotency_key)
                if found is None or (found[1].sequence, found[1].watermark) != (entry.sequence, entry.watermark):
                    raise RunExistsError(new_run_id, entry.stage, last)
                self.duplicates += 1
                continue
            signed = details.of_cursor(point.detail)
            if signed and point.cursor is None:
                raise CursorNotKeptError(run_id, entry.stage, point.position)
            if signed != details.of_cursor(details.detail(cursor=point.cursor)):  # a changed one would be signed anew
                raise apsw.CorruptError(f"the cursor at position {point.position} is not the one that was recorded there")
            source = details.of_source(point.detail)
            self._add(entry, details.of_branch(run_id, point.position, point.cursor, source), point.cursor)
        return self._batch_receipt(appended, duplicates)

    @contextmanager
    def _reserved(self) -> Iterator[None]:
        """Let stages be written that milepost alone writes; what is known of them is forgotten at the end."""
        self._takes_reserved = True
        try:
            yield
        finally:
            self._takes_reserved = False
            for names in [names for names in self._stages if names[1].startswith(details.RESERVED)]:
                del self._stages[names]

    def _add(self, entry: Checkpoint, detail: str | None, cursor: Stored | None) -> Receipt:
        """Append one checkpoint with its detail and its cursor; the receipt of the first one if it is a duplicate."""
        duplicate = self.extend((entry,), (detail,))
        self.finish()
        if duplicate is not None:
            return duplicate
        if cursor is not None:
            state = self._stages[entry.run_id, entry.stage]
            rows.add_cursor(self._connection, state.run.number, state.number, self._position, cursor, state.last_cursor)
            state.last_cursor = self._position
        return self.receipt()

    def receipt(self) -> Receipt:
        """The receipt of the entry that was added last; it is in the table after `finish`."""
        return receipt_of(self._position, self._signature)

    def _batch_receipt(self, appended_before: int, duplicates_before: int) -> BatchReceipt:
        """Write what waits; the receipt of a batch that began when this many were appended and were duplicates."""
        position, signature = self.finish()
        appended, duplicates = self.appended - appended_before, self.duplicates - duplicates_before
        return BatchReceipt(appended, duplicates, position, signature.hex())

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
        if name.startswith(details.RESERVED) and not self._takes_reserved:
            self._write()
            raise InvalidCheckpointError("stage", name, details.RESERVED_RULE, index)
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

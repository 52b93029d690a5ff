"""
Append checkpoints to the end of the chain, inside one open write transaction: the rules, the links, the rows.

The search for duplicates costs a new entry no lookup. If a key is already recorded, one of two things happens. The entry's
sequence does not rise: it may be a duplicate, so the key is looked up. Or it rises: the unique index refuses the row, and
the key is looked up then.
"""

from __future__ import annotations

import warnings
from enum import Enum
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import apsw

from milepost import details, rows
from milepost.checkpoint import MAX_INTEGER, MAX_NAME_BYTES, Checkpoint, Watermark, fault
from milepost.errors import (
    ArchivedStageError,
    CursorNotKeptError,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostWarning,
    NoCheckpointError,
    RunExistsError,
    RunFinishedError,
    SequenceError,
    StageMovedError,
    WatermarkRegressionError,
    shown,
)
from milepost.mileposts import INTERVAL
from milepost.receipt import BatchReceipt, Receipt, receipt_of
from milepost.rows.columns import checkpoints_of
from milepost.signature import EMPTY, START, canonical_bytes, prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from milepost.cursors import Stored
    from milepost.signature import ChainBase, Hash

T = TypeVar("T")

_BUFFER: Final = 250  # rows for one executemany, so few that they are freed before Python's garbage collector scans them
_RUN_STAGES: Final = 1_000  # how many stages of runs, and how many runs, keep their state in memory


_FAR_MS: Final = 7_258_118_400_000  # 2200-01-01
_UNITS: Final = (("nanoseconds", 1_000_000), ("microseconds", 1_000))


class NotAsked(Enum):
    """The default of `after`. It cannot be None, which means that the stage has no checkpoint yet."""

    NOT_ASKED = "not asked"

    def __repr__(self) -> str:
        return "<not asked>"


NOT_ASKED: Final = NotAsked.NOT_ASKED
NO_DETAILS: Final[Iterable[None]] = repeat(None)


class Step(NamedTuple):
    """The arguments of `advance`, with the cursor in its stored form."""

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
    """The state of one stage of one run: its last sequence and watermark, and where its next milepost goes."""

    __slots__ = (
        "added", "cursors", "entries_before", "event_time_ms", "has_archived", "next_milepost", "number", "offset",
        "prefix", "run", "sequence",
    )  # fmt: skip

    def __init__(self, run: _Run, number: int, prefix: str, last: list[int] | None) -> None:
        self.run = run
        self.number = number
        self.prefix = prefix
        self.sequence, self.offset, self.event_time_ms, milepost = last or (-1, 0, 0, -INTERVAL)
        self.next_milepost = milepost + INTERVAL  # the least position that it can have
        self.added = 0  # how many entries this appender has added
        self.entries_before: int | None = None if last else 0  # how many there were before; looked up for a milepost only
        self.has_archived: bool | None = None if last else False  # looked up for a bag only
        self.cursors: tuple[int, ...] | None = None if last else ()  # positions of those kept; looked up for a cursor only


class Appender:
    """
    The end of the chain, kept in memory from one transaction to the next, as long as nobody else writes in between.

    After an error it is unusable, and everything that it was given is rolled back.
    """

    def __init__(self, connection: apsw.Cursor, hash_function: Hash) -> None:
        self._hash_function = hash_function
        self.appended: int = 0
        self.duplicates: int = 0
        self.usable: bool = True
        self._takes_reserved = False
        self.statements: apsw.Cursor = connection
        """Runs the statements of the transaction."""
        self._stages: dict[tuple[str, str], _RunStage] = {}
        self._runs: dict[str, _Run] = {}
        self._position, self._signature = START  # until the first stage is looked up
        self._numbered: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[int | None, Checkpoint]] = []

    def extend(
        self,
        entries: Iterable[Checkpoint],
        with_details: Iterable[str | None] = NO_DETAILS,
        *,
        batch: bool = False,
        receipts: list[Receipt] | None = None,
    ) -> Receipt | None:
        """
        Add entries. After `finish` they are in the table.

        Args:
            entries: Checkpoints of any run and stage.
            with_details: The detail of each: checked JSON text, or None.
            batch: Treat them as a batch, so that an error has the index of its entry.
            receipts: Gets the receipt of each entry, where each has a caller of its own.

        Returns:
            The first receipt of the last duplicate among them, or None without duplicates.

        Raises:
            InvalidCheckpointError: One of them breaks a rule of `valid`.
            RejectedCheckpointError: One of them breaks a rule of an append.
        """
        duplicate = None
        stages, numbered, waiting, hash_function = self._stages, self._numbered, self._waiting, self._hash_function
        position, signature = self._position, self._signature
        for index, entry, detail in zip(count() if batch else repeat(None), entries, with_details, strict=False):
            # One test accepts nearly every entry. For any other, `_checked_stage` applies the rules one by one.
            stage = None
            if type(entry) is Checkpoint and len(entry) == 6:
                run_id, stage_name, sequence, mark, key, at_ms = entry
                if type(mark) is Watermark and len(mark) == 2:
                    offset, event_time_ms = mark
                    if (
                        type(run_id) is type(stage_name) is type(key) is str
                        and type(sequence) is type(offset) is type(event_time_ms) is type(at_ms) is int
                        and 0 <= sequence | offset | event_time_ms | at_ms <= MAX_INTEGER
                        and key.isascii()
                        and 0 < len(key) <= MAX_NAME_BYTES
                        and "\0" not in key
                    ):
                        stage = stages.get((run_id, stage_name))
            if stage is None:
                self._position, self._signature = position, signature
                stage = self._checked_stage(entry, index)
                position, signature = self._position, self._signature
                run_id, stage_name, sequence, (offset, event_time_ms), key, at_ms = entry
            if sequence <= stage.sequence or offset < stage.offset or event_time_ms < stage.event_time_ms:
                duplicate = self._duplicate(entry, stage, index)
                if receipts is not None:
                    receipts.append(duplicate)
                continue
            canonical = canonical_bytes(stage.prefix, sequence, offset, event_time_ms, key, at_ms, detail)
            if event_time_ms > _FAR_MS:
                _warn_of_event_time(run_id, stage_name, event_time_ms)
            run, previous = stage.run, signature
            signature = hash_function(previous + canonical).digest()
            # While the first run of a file is alone, its signature is the file's. It is neither computed nor stored twice.
            if run.signature == previous:
                run.signature, run_signature = signature, None
            else:
                run.signature = run_signature = hash_function(run.signature + canonical).digest()
            position += 1
            entries_so_far = self._entries_so_far(stage, position) if position >= stage.next_milepost else None
            stage.sequence, stage.offset, stage.event_time_ms = sequence, offset, event_time_ms
            stage.added += 1
            numbered.append(  # the columns of `rows.EntryRow`; a plain tuple takes a third of the time
                (
                    position, run.number, stage.number, sequence, offset, event_time_ms, key, at_ms,
                    signature, run_signature, entries_so_far, detail,
                )
            )  # fmt: skip
            waiting.append((index, entry))
            if receipts is not None:
                receipts.append(receipt_of(position, signature))
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
        """Append one checkpoint for each of several callers, and return a receipt for each."""
        receipts: list[Receipt] = []
        self.extend(entries, receipts=receipts)
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
        """
        Append a batch from another store. `cursors` has each cursor by the position that its entry gets here.

        Behind a duplicate no entry gets that position, so then no cursor is kept: who restores refuses the whole.
        """
        receipt = self._as_milepost(lambda: self.append_many(entries, with_details))
        if not receipt.duplicates:
            for position, cursor in cursors.items():
                rows.keep_cursor(self.statements, *rows.numbers_at(self.statements, position), position, cursor)
        if cursors:
            self.usable = False  # of which entries the cursors are kept has changed
        return receipt

    def advance(self, step: Step, clock: Callable[[], int], index: int | None = None) -> Receipt:
        """
        Append a checkpoint with the next sequence. A key already recorded with this watermark is a duplicate.

        Args:
            step: The stage, and how far it has come.
            clock: Returns the wall clock, ms since the epoch.
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
                found = rows.find_duplicate(self.statements, run_id, stage, key)
                receipt = found[0] if found is not None and found[1].watermark == mark else None
                raise StageMovedError(after, stands, receipt, run_id, stage, index)
        if state.sequence >= MAX_INTEGER:  # no sequence is left to assign, but the step may be recorded already
            found = rows.find_duplicate(self.statements, run_id, stage, key)
            if found is not None and found[1].watermark == mark:
                self.duplicates += 1
                return found[0]
        entry = entry._replace(sequence=max(state.sequence, 0) + 1)
        try:
            detail = details.detail(cursor=cursor) if source is None else details.detail(cursor=cursor, source=source)
            receipt = self._add(entry, detail, cursor)
        except (IdempotencyConflictError, WatermarkRegressionError) as error:
            self.usable = False
            found = rows.find_duplicate(self.statements, run_id, stage, key)
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
            if not self.usable:  # the step was a duplicate, but the attempt to append it has changed this state
                self._forget()
                self.usable = True
        return self._batch_receipt(appended, duplicates)

    def recorded_keys(self, run_id: str, stage: str, keys: Sequence[str]) -> set[str]:
        """Return the keys that the stage of a run has recorded already."""
        return rows.recorded_keys(self.statements, run_id, stage, keys)

    def refuse_moved(self, run_id: str, stage: str, after: Watermark | None) -> None:
        """
        Refuse to go on with a stage of a run that does not stand at a watermark, or at None for no checkpoint.

        Raises:
            StageMovedError: It stands elsewhere.
        """
        *_, sequence, offset, event_time_ms, _ = rows.append_state(self.statements, run_id, stage)
        stands = None if sequence is None else Watermark(offset, event_time_ms)
        if stands != after:
            raise StageMovedError(after, stands, None, run_id, stage)

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
            ArchivedStageError: Some keys of the stage are in an archive, so nobody can tell what it has recorded.
        """
        first = Checkpoint(run_id, stage, 0, Watermark(0, 0), keys[0], clock())
        try:
            return self._add_items(first, keys)
        except IdempotencyConflictError:  # somebody else has recorded one of them; those before it are in the table
            self._forget()
            recorded = self.recorded_keys(run_id, stage, keys)
            return self._add_items(first, [key for key in keys if key not in recorded])

    def _add_items(self, first: Checkpoint, keys: Sequence[str]) -> int:
        """Append an entry for each key, with the run, the stage and the time of `first`. Return the stage's offset."""
        run_id, stage, *_, at_ms = first
        state = self._checked_stage(first, None)
        if state.has_archived is None:
            state.has_archived = rows.has_archived(self.statements, run_id, stage)
        if state.has_archived:
            raise ArchivedStageError(run_id, stage)
        begins = state.sequence < 0
        sequence, offset, event_time_ms = max(state.sequence, 0), state.offset, state.event_time_ms
        numbers = count(sequence + 1), count(offset + 1)
        entries = checkpoints_of(repeat(run_id), repeat(stage), *numbers, repeat(event_time_ms), keys, repeat(at_ms))
        self.extend(
            entries,
            chain((details.BAG,), NO_DETAILS) if begins else NO_DETAILS,
        )
        self.finish()
        return offset + len(keys)

    def begin_run(self, run_id: str, *, again: bool, clock: Callable[[], int]) -> rows.Attempt:
        """
        Record that an attempt of a run begins.

        Returns:
            Which attempt it is, 1, 2, 3 and so on, and what its end needs to know of its beginning.

        Raises:
            RunFinishedError: The last attempt has finished, and `again` is false.
        """
        last = rows.last_attempt(self.statements, run_id)
        if last is not None and last.state == details.FINISHED and not again:
            raise RunFinishedError(run_id, last.attempt, last.at_ms)
        attempt, sequence = (1, 1) if last is None else (last.attempt + 1, last.sequence + 1)
        at_ms = clock()
        receipt = self._add_of_run(run_id, attempt, sequence, details.BEGAN, at_ms)
        return rows.Attempt(attempt, sequence, details.BEGAN, at_ms, receipt.signature)

    def end_run(self, run_id: str, began: rows.Attempt, state: str, clock: Callable[[], int], error: str | None) -> Receipt:
        """
        Record how an attempt ended.

        Raises:
            StageMovedError: The last entry about the run's attempts is not the one with which this attempt began.
        """
        last = rows.last_attempt(self.statements, run_id)
        if last != began:
            found = None if last is None else Watermark(last.attempt, 0)
            raise StageMovedError(Watermark(began.attempt, 0), found, None, run_id, details.STAGE_OF_RUNS)
        return self._add_of_run(run_id, began.attempt, began.sequence + 1, state, clock(), error)

    def _add_of_run(
        self, run_id: str, attempt: int, sequence: int, state: str, at_ms: int, error: str | None = None
    ) -> Receipt:
        key = f"attempt-{attempt}:{state}"
        entry = Checkpoint(run_id, details.STAGE_OF_RUNS, sequence, Watermark(attempt, 0), key, at_ms)
        more = {} if error is None else {"error": error}
        return self._as_milepost(lambda: self._add(entry, details.detail(run=state, **more), None))

    def branch(
        self, run_id: str, new_run_id: str, stage: str | None, as_of_ms: int | None, clock: Callable[[], int]
    ) -> BatchReceipt:
        """
        Start a run where the stages of another run stood, or where one of them stood.

        Raises:
            InvalidArgumentError: The source of a stage is so long that the new entry has no room for it.
            NoCheckpointError: There is nothing to start from.
            RunExistsError: The new run already has one of the stages, from elsewhere.
            CursorNotKeptError: A stage stood at a checkpoint whose cursor is no longer kept.
            ArchivedStageError: Where a stage stood at that time is in an archive.
        """
        appended, duplicates = self.appended, self.duplicates
        points = rows.branch_points(self.statements, run_id, stage, as_of_ms)
        known = {point.entry.stage for point in points}
        for archived in rows.archived_stages(self.statements, run_id, stage):
            if archived not in known:  # it may have stood somewhere at that time
                raise ArchivedStageError(run_id, archived)
        if not points:
            raise NoCheckpointError(run_id, stage, as_of_ms)
        for point in points:
            entry = point.entry._replace(run_id=new_run_id, at_ms=clock())
            last = rows.latest(self.statements, new_run_id, entry.stage)
            if last is not None:
                found = rows.find_duplicate(self.statements, new_run_id, entry.stage, entry.idempotency_key)
                if found is None or (found[1].sequence, found[1].watermark) != (entry.sequence, entry.watermark):
                    raise RunExistsError(new_run_id, entry.stage, last)
                self.duplicates += 1
                continue
            if point.cursor is None and details.of_cursor(point.detail):
                raise CursorNotKeptError(run_id, entry.stage, point.position)
            if not details.signs(point.detail, point.cursor):  # or a changed cursor would be signed
                raise apsw.CorruptError(f"the cursor at position {point.position} is not the one that was recorded there")
            source, bag = details.of_source(point.detail), rows.is_bag(self.statements, run_id, entry.stage)
            self._add(entry, details.of_branch(run_id, point.position, point.cursor, source, bag=bag), point.cursor)
        return self._batch_receipt(appended, duplicates)

    def record_archive(self, cut: ChainBase, detail: str | None, clock: Callable[[], int]) -> Receipt:
        """Record that the entries up to a cut are in an archive. `detail` says what stays of them."""
        names = details.RUN_OF_MILEPOST, details.STAGE_OF_ARCHIVES
        last = rows.latest(self.statements, *names)
        sequence, key = (1 if last is None else last.sequence + 1), f"archive-{cut.position}"
        entry = Checkpoint(*names, sequence, Watermark(cut.position, 0), key, clock())
        return self._as_milepost(lambda: self._add(entry, detail, None))

    def move_base(self, through: int, left: rows.Moves, most: int) -> rows.Moves | None:
        """Move the base of the chain to a position, and return what is left to do; see `rows.move_base`."""
        self.usable = False  # where the next mileposts go has changed
        return rows.move_base(self.statements, through, left, most)

    def give_back(self) -> int:
        """Give some unused pages back to the file system, and return how many are left."""
        return rows.give_back(self.statements)

    def _as_milepost(self, work: Callable[[], T]) -> T:
        """
        Do what appends to milepost's own stages. Forget them at the end, because `extend` accepts any stage that it knows.

        This is no context manager: an interrupt at its beginning would leave its end to the garbage collector, which drops
        what another interrupt raises there.
        """
        try:
            self._takes_reserved = True
            return work()
        finally:
            self._takes_reserved = False
            for names in [names for names in self._stages if names[1].startswith(details.RESERVED)]:
                del self._stages[names]

    def _add(self, entry: Checkpoint, detail: str | None, cursor: Stored | None) -> Receipt:
        """
        Append one checkpoint with its detail and its cursor. A sequence above the stage's last is no duplicate's.

        Raises:
            InvalidArgumentError: The detail is too long. Only a source of the caller's can make it so.
        """
        if not details.fits(detail):
            rule = (
                f"is too long to be recorded with stage {shown(entry.stage)} of run {shown(entry.run_id)}: start a new run"
            )
            raise InvalidArgumentError("source", details.of_source(detail), rule)
        self.extend((entry,), (detail,))
        self.finish()
        if cursor is not None:
            state = self._stages[entry.run_id, entry.stage]
            of = state.run.number, state.number, self._position
            state.cursors = rows.keep_cursor(self.statements, *of, cursor, state.cursors)
        return self.receipt()

    def receipt(self) -> Receipt:
        """Return the receipt of the last added entry. After `finish`, that entry is in the table."""
        return receipt_of(self._position, self._signature)

    def _batch_receipt(self, appended_before: int, duplicates_before: int) -> BatchReceipt:
        """Write the waiting rows, and return the receipt of a batch that began at these counts."""
        position, signature = self.finish()
        appended, duplicates = self.appended - appended_before, self.duplicates - duplicates_before
        return BatchReceipt(appended, duplicates, position, signature.hex())

    def finish(self) -> tuple[int, bytes]:
        """Write the waiting rows, and return the position and the signature of the chain's last entry."""
        if not self._stages:
            return rows.tip(self.statements)
        self._write()
        return self._position, self._signature

    def _forget(self) -> None:
        """Forget the end of the chain, and what is not written: the next entry looks the end up."""
        self._stages.clear()
        self._runs.clear()
        self._numbered.clear()
        self._waiting.clear()

    def _checked_stage(self, entry: Checkpoint, index: int | None) -> _RunStage:
        """Return the stage of an entry, looked up if it is new. Raise an error if the entry is not valid."""
        wrong = fault(entry)
        if wrong is not None:
            self._write()  # a conflict among the waiting rows comes first
            raise InvalidCheckpointError(*wrong, index)
        run_id, name = entry.run_id, entry.stage
        if name.startswith(details.RESERVED) and not self._takes_reserved:
            self._write()
            raise InvalidCheckpointError("stage", name, details.RESERVED_RULE, index)
        stage = self._stages.get((run_id, name))
        if stage is None:
            if max(len(self._stages), len(self._runs)) >= _RUN_STAGES:  # a run may have stages of milepost's alone
                self._write()
                self._stages.clear()
                self._runs.clear()
            state = rows.append_state(self.statements, run_id, name)
            position, signature, run_number, stage_number, run_signature, *last = state
            if not self._stages:
                self._position, self._signature = position, signature
            run = self._runs.get(run_id)
            if run is None:
                run = _Run(run_number or rows.add_run(self.statements, run_id), run_signature or EMPTY)
                self._runs[run_id] = run
            stage_number = stage_number or rows.add_stage(self.statements, name)
            new = last[0] is None
            if new:
                rows.add_run_stage(self.statements, run.number, stage_number)
            stage = _RunStage(run, stage_number, prefix(run_id, name), None if new else last)
            self._stages[run_id, name] = stage
        return stage

    def _entries_so_far(self, stage: _RunStage, position: int) -> int:
        """Return the count for a milepost at a position, and set where the stage's next milepost goes."""
        stage.next_milepost = position + INTERVAL
        if stage.entries_before is None:
            self._write()
            entries = rows.entries_of_run_stage(self.statements, stage.run.number, stage.number)
            stage.entries_before = entries - stage.added
        return stage.entries_before + stage.added + 1

    def _duplicate(self, entry: Checkpoint, stage: _RunStage, index: int | None) -> Receipt:
        """Return the first receipt of a duplicate, or raise the error for the rule that the entry breaks."""
        self._write()
        found = rows.find_duplicate(self.statements, entry.run_id, entry.stage, entry.idempotency_key)
        if found is not None:
            receipt, first = found
            if (first.sequence, first.watermark) == (entry.sequence, entry.watermark):
                self.duplicates += 1
                return receipt
            raise IdempotencyConflictError(entry, first, index)
        last = rows.latest(self.statements, entry.run_id, entry.stage)
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
            rows.add_entries(self.statements, self._numbered)
        except apsw.ConstraintError:
            # The rows before the refused one are in the table, so the last position there identifies it.
            refused = rows.tip(self.statements)[0] - first_position + 1
            if not 0 <= refused < len(self._waiting):  # only in a damaged file
                raise
            index, entry = self._waiting[refused]
            found = rows.find_duplicate(self.statements, entry.run_id, entry.stage, entry.idempotency_key)
            if found is None:
                raise
            raise IdempotencyConflictError(entry, found[1], index) from None
        self.appended += len(self._waiting)
        self._numbered.clear()
        self._waiting.clear()


def _warn_of_event_time(run_id: str, stage: str, event_time_ms: int) -> None:
    """Warn of an event time that is hardly one in ms: no later one can come before it, so the stage would stand still."""
    now = 1_767_225_600_000  # 2026-01-01, near enough to tell a unit from another
    unit = next((unit for unit, in_ms in _UNITS if event_time_ms >= now * in_ms // 2), None)
    advice = f"they look like {unit}, and must be" if unit else "check their unit, which must be"
    warnings.warn(
        f"event times of stage {stage!a} of run {run_id!a} are after the year 2200: {advice} ms since the epoch "
        "(milepost.ms() gives it)",
        MilepostWarning,
        stacklevel=2,
    )

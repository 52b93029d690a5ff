"""What one pass of a loop has finished, and what of it is recorded."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from milepost import rows
from milepost.append import Step
from milepost.arguments import check_name
from milepost.checkpoint import MAX_NAME_BYTES, Watermark
from milepost.errors import ArchivedStageError, InvalidArgumentError, MilepostError
from milepost.source import Start
from milepost.turn import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

    from milepost.append import Appender
    from milepost.block import Block
    from milepost.cursors import Stored
    from milepost.writer import Writer

Token = TypeVar("Token")
"""What a feed hands over with each value, so that the value can be recorded once it is finished."""
Work = TypeVar("Work")

_LOOK_AGAIN_S: Final = 0.001
"""How often a loop checks whether the ticker's thread has recorded what it was about to record, in seconds."""


class Progress(ABC, Generic[Token, Work]):
    """
    What one pass of a loop has finished, and what of it is recorded.

    The loop appends to `finished`, and calls `record`. Beside it a thread of `ticker` may record what is finished so far.

    Args:
        writer: The store's.
        clock: The store's: returns ms since the epoch.
        run_id: The run.
        stage: Its stage.
        start: Where the pass starts.
        every: After how many finished records a checkpoint is due.
    """

    def __init__(self, writer: Writer, clock: Callable[[], int], run_id: str, stage: str, start: Start, every: int) -> None:
        self._writer, self._clock = writer, clock
        self.run_id: str = run_id
        self.stage: str = stage
        self.start: Start = start
        self.every: int = every
        self.attention: bool = False
        """Whether to look, between two records, if the loop must end."""
        self.stopped: bool = False
        """Whether `stop()` was called."""
        self.over: bool = False
        """Whether the pass is over, and nothing more of it may be recorded."""
        self.wake: Callable[[], object] | None = None
        """Called by `stop()`, where a pool may be waiting for its workers."""
        self.finished: list[Token] = []
        """The tokens of what is finished and not recorded. The loop appends, and `record` removes from the front."""
        self._failure: BaseException | None = None  # of the ticker's thread
        # Who records, under NOW. An entry is set and deleted in one step each, so that no interrupt leaves a lock held.
        self._recorder: dict[str, threading.Thread | object] = {}

    @property
    @abstractmethod
    def done(self) -> int:
        """How many records are finished: the offset of the checkpoint that would be recorded now."""

    @abstractmethod
    def _unrecorded(self) -> Work | None:
        """Return what is finished and not recorded."""

    @abstractmethod
    def _write(self, work: Work, end: Appender) -> Any:
        """Record that, inside a transaction."""

    @abstractmethod
    def _note(self, work: Work, outcome: Any) -> None:
        """Note that it is recorded."""

    def admit(self, batch: Sequence[tuple[Any, Token]], within: Block) -> Sequence[tuple[Any, Token]]:
        """Return what of a batch is still to be done, under the lock of its transaction."""
        del within
        return batch

    def must_end(self) -> bool:
        """
        Return whether `stop()` was called.

        Raises:
            MilepostError: The ticker's thread could not record.
        """
        if self._failure is not None:
            raise self._failure
        return self.stopped

    def stop(self) -> None:
        """Have the loop end after the record that it is at."""
        self.attention = True  # first: whoever sees that it is stopped relies on the loop to look
        self.stopped = True
        if self.wake is not None:
            self.wake()

    def record(self, within: Block | None = None) -> None:
        """
        Record what is finished.

        Args:
            within: The loop's own transaction block; None for a transaction of its own.

        Raises:
            MilepostError: It could not be recorded; also by the ticker's thread before.
        """
        me = object()
        try:
            while self._recorder.setdefault(NOW, me) is not me:
                self._writer.refuse_if_ended()  # in a forked child, where its parent's ticker never ends
                time.sleep(_LOOK_AGAIN_S)
            self._writer.refuse_if_ended()
            self._record(within)
        finally:
            if NOW in self._recorder and self._recorder[NOW] is me:
                del self._recorder[NOW]

    def _record(self, within: Block | None) -> None:
        self.must_end()
        work = self._unrecorded()
        if work is not None:
            self._note(work, self._writer.do(partial(self._write, work), within))

    async def record_async(self) -> None:
        """Do as `record`, without holding the event loop. Once its transaction has begun, wait for it, whoever cancels."""
        import asyncio  # noqa: PLC0415 - which most programs do without, takes 30 ms

        from milepost.helper import outlast  # noqa: PLC0415 - as asyncio

        me = object()
        try:
            while self._recorder.setdefault(NOW, me) is not me:
                self._writer.refuse_if_ended()
                await asyncio.sleep(_LOOK_AGAIN_S)
            self._writer.refuse_if_ended()
            self.must_end()
            work = self._unrecorded()
            if work is None:
                return
            claim = _Claim()
            try:
                self._note(work, await self._writer.do_async(partial(self._write_claimed, work, claim)))
            except asyncio.CancelledError:
                if not claim.withdraw():
                    # Another loop that begins now must find what is recorded. All that has queued before is over when
                    # this is.
                    with suppress(MilepostError):
                        await outlast(asyncio.ensure_future(self._writer.do_async(_nothing)))
                raise
        finally:
            if NOW in self._recorder and self._recorder[NOW] is me:
                del self._recorder[NOW]

    def _write_claimed(self, work: Work, claim: _Claim, end: Appender) -> Any:
        return self._write(work, end) if claim.begin() else None  # nobody waits for it

    def record_meanwhile(self) -> None:
        """In the ticker's thread: record what is finished, unless the loop is about to. A failure is the loop's to raise."""
        if self._recorder.setdefault(NOW, threading.current_thread()) is not threading.current_thread():
            return
        try:
            if not self.over and self._failure is None:
                self._record(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the loop raises it
            self._failure, self.attention = error, True
        finally:
            del self._recorder[NOW]

    def end(self) -> None:
        """
        Note that the pass is over. Wait for a transaction that the ticker has begun.

        Without that, a loop that begins now would start before it, and be told that the stage has moved.
        """
        self.over = True
        while self._is_ticking():
            time.sleep(_LOOK_AGAIN_S)

    async def end_async(self) -> None:
        """Do as `end`, without holding the event loop."""
        import asyncio  # noqa: PLC0415 - as above

        self.over = True
        while self._is_ticking():
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _is_ticking(self) -> bool:
        recorder = self._recorder.get(NOW)
        # The garbage collector may end a pass in the ticker's own thread. In a forked child that thread is not alive.
        return isinstance(recorder, threading.Thread) and recorder is not threading.current_thread() and recorder.is_alive()


class _Claim:
    """What decides whether a task's recording takes place: the thread that records takes it, or the task when cancelled."""

    __slots__ = ("_begun", "_free")

    def __init__(self) -> None:
        self._free = [None]  # emptied in one step, by whoever is first
        self._begun = False

    def begin(self) -> bool:
        """
        Take it in the thread that records; return whether to record.

        It stays taken when the same thread asks again: if another job of the transaction fails, all are done anew.
        """
        self._begun = self._begun or self.withdraw()
        return self._begun

    def withdraw(self) -> bool:
        """Take it in the task that is cancelled; return whether nothing will be recorded."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True


def _nothing(_: Appender) -> None:
    """Do nothing, in a transaction."""


class OffsetProgress(Progress["tuple[int, Stored | None]", Step]):
    """
    How far a loop has come in an ordered source.

    A token is the latest event time up to the record, in ms, and the cursor behind it, as it is stored.

    Args:
        writer: As `Progress`.
        clock: As `Progress`.
        run_id: As `Progress`.
        stage: As `Progress`.
        start: As `Progress`.
        every: As `Progress`.
        last: The watermark of the stage's last checkpoint, or None.
        source: Text that says which source it is, or None.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Callable[[], int],
        run_id: str,
        stage: str,
        start: Start,
        every: int,
        last: Watermark | None,
        source: str | None = None,
    ) -> None:
        super().__init__(writer, clock, run_id, stage, start, every)
        self._last = last
        self._source = source

    @property
    def done(self) -> int:
        """How many records are finished."""
        return (self._last.offset if self._last else 0) + len(self.finished)

    @property
    def recorded_ms(self) -> int:
        """The event time of the last checkpoint, ms since the epoch."""
        return self._last.event_time_ms if self._last else 0

    def admit(self, batch: Sequence[tuple[Any, Token]], within: Block) -> Sequence[tuple[Any, Token]]:
        """Return the whole batch, unless another owner did it meanwhile: the sink would meet what that one has written."""
        self._writer.do(lambda end: end.refuse_moved(self.run_id, self.stage, self._last), within)
        return batch

    def _unrecorded(self) -> Step | None:
        number = len(self.finished)  # the loop may append meanwhile, where the ticker's thread asks
        if number == 0:
            return None
        event_time_ms, cursor = self.finished[number - 1]
        return self._step((self._last.offset if self._last else 0) + number, event_time_ms, cursor)

    def _step(self, done: int, event_time_ms: int, cursor: Stored | None) -> Step | None:
        """Return the step from the last checkpoint to an offset, or None if it leads nowhere."""
        first = self._last.offset if self._last else 0
        if done <= first:
            return None
        key = f"{self.stage}:{first}-{done - 1}"
        if len(key.encode()) > MAX_NAME_BYTES:
            key = f"{first}-{done - 1}"  # a key is unique within its stage, whose name is in it for people only
        return Step(self.run_id, self.stage, Watermark(done, event_time_ms), key, self._last, cursor, self._source)

    def _write(self, work: Step, end: Appender) -> None:
        end.advance(work, self._clock)

    def _note(self, work: Step, outcome: None) -> None:
        del outcome
        number = work.watermark.offset - (self._last.offset if self._last else 0)
        del self.finished[:number]
        self._last = work.watermark


def refuse_bag(connection: apsw.Connection, run_id: str, stage: str) -> None:
    """
    Refuse a stage whose items `once` has recorded: its offset counts items done in any order, and skips no source.

    Raises:
        InvalidArgumentError: It is such a stage.
    """
    if rows.is_bag(connection, run_id, stage):
        rule = "is a bag, of which once() has done items in any order: loop with once(), or use another stage"
        raise InvalidArgumentError("stage", stage, rule)


class ItemProgress(Progress[str, "list[str]"]):
    """
    Which items of a bag are finished.

    A token is the item's key.
    """

    def __init__(self, writer: Writer, clock: Callable[[], int], run_id: str, stage: str, start: Start, every: int) -> None:
        super().__init__(writer, clock, run_id, stage, start, every)
        self._recorded = int(start)  # how many items the stage has recorded, as far as is known
        self._begun: set[str] = set()  # keys that were read, and at the last lookup not recorded
        self._recorded_since: list[str] = []  # keys that were recorded since that lookup

    @property
    def done(self) -> int:
        """How many items of the stage are finished."""
        return self._recorded + len(self.finished)

    def undone(self, items: Sequence[tuple[Any, str]]) -> list[tuple[Any, str]]:
        """
        Return the items that are neither recorded nor handed out by this pass, each once.

        Raises:
            InvalidArgumentError: A key breaks a rule of `valid`.
            ArchivedStageError: Some keys of the stage are in an archive.
        """
        since, self._recorded_since = self._recorded_since, []
        self._begun.difference_update(since)
        keys = [key for _, key in items]
        for key in keys:
            check_name("key", key)

        def look(connection: apsw.Connection) -> set[str]:
            recorded = rows.recorded_keys(connection, self.run_id, self.stage, keys)
            # Afterwards: an archive may take keys away between the two, and what it has taken stays away.
            if rows.has_archived(connection, self.run_id, self.stage):
                raise ArchivedStageError(self.run_id, self.stage)
            return recorded

        recorded, begun, found = self._writer.read(look), self._begun, []
        for item, key in zip(items, keys, strict=True):
            if key not in recorded and key not in begun:
                begun.add(key)
                found.append(item)
        return found

    def admit(self, batch: Sequence[tuple[Any, str]], within: Block) -> Sequence[tuple[Any, str]]:
        """Return the items that no other process has recorded meanwhile."""
        keys = [key for _, key in batch]
        recorded = self._writer.do(lambda end: end.recorded_keys(self.run_id, self.stage, keys), within)
        self._recorded_since += recorded
        return [item for item in batch if item[1] not in recorded]

    def _unrecorded(self) -> list[str] | None:
        return self.finished.copy() or None

    def _write(self, work: list[str], end: Appender) -> int:
        return end.append_items(self.run_id, self.stage, work, self._clock)

    def _note(self, work: list[str], outcome: int) -> None:
        self._recorded = outcome
        del self.finished[: len(work)]
        self._recorded_since += work

"""One run, with its name bound: how an attempt of it began, what it does, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from milepost import details
from milepost.append import NOT_ASKED
from milepost.errors import StoreError, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from types import TracebackType

    from milepost.append import NotAsked
    from milepost.checkpoint import ResumePoint, Watermark
    from milepost.checkpointed import Checkpointed
    from milepost.loop import Loop
    from milepost.once import Once
    from milepost.receipt import Receipt
    from milepost.rows import Attempt
    from milepost.source import Records
    from milepost.store import CheckpointStore
    from milepost.times import Time
    from milepost.tracked import Tracked

Record = TypeVar("Record")
Item = TypeVar("Item")
AnyLoop = TypeVar("AnyLoop", bound="Loop[Any] | Tracked")

_NOT_RECORDED: Final = "and its end could not be recorded"

_STOPPED = "stopped"
"""What stands for the type of an exception where a loop of the run was stopped."""


class Run:
    """
    An attempt of a run, from the beginning of its `with` to the end.

    Made by `CheckpointStore.run`, whose docstring has the rules. The methods are those of the store, with the run's name
    bound.

    Attributes:
        run_id: The run.
        attempt: Which attempt this is, 1, 2, 3 …; None before the `with` begins.
    """

    def __init__(self, store: CheckpointStore, run_id: str, *, again: bool) -> None:
        self._store = store
        self.run_id: str = run_id
        self.attempt: int | None = None
        self._again = again
        self._unused = [None]  # emptied in one step, by the `with` that comes first
        self._began: Attempt | None = None
        self.stops: list[None] = []
        """One for each `stop()` of a loop of the run: then it has not finished."""

    def __enter__(self) -> Self:
        self._refuse_a_second_time()
        try:
            writer, clock = self._store._writer, self._store._clock  # noqa: SLF001 - the store's own handle
            self._note_begun(writer.begin_run(self.run_id, again=self._again, clock=clock))
        finally:
            self._allow_another_try()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._store._writer.end_run(*self._end(kind))  # noqa: SLF001
        except Exception as failure:
            if error is None or isinstance(error, GeneratorExit):  # whoever closes a generator would not hear of a note
                raise
            note(error, _NOT_RECORDED, failure)

    async def __aenter__(self) -> Self:
        self._refuse_a_second_time()
        try:
            writer, clock = self._store._writer, self._store._clock  # noqa: SLF001
            self._note_begun(await writer.begin_run_async(self.run_id, again=self._again, clock=clock))
        finally:
            self._allow_another_try()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # the task is gone, and nothing can be awaited
            self.__exit__(kind, error, traceback)
            return
        try:
            await self._store._writer.end_run_async(*self._end(kind))  # noqa: SLF001
        except Exception as failure:
            if error is None:
                raise
            note(error, _NOT_RECORDED, failure)

    def _refuse_a_second_time(self) -> None:
        try:
            self._unused.pop()
        except IndexError:
            attempt = "an attempt is being" if self.attempt is None else f"attempt {self.attempt} was"
            raise StoreError(self._store.path, f"{attempt} begun with this: call run() again for another") from None

    def _note_begun(self, began: Attempt) -> None:
        self._began, self.attempt = began, began.attempt
        self._store._open_runs[id(self)] = self  # noqa: SLF001

    def _allow_another_try(self) -> None:
        if self._began is None:
            self._unused.append(None)

    def _end(self, kind: type[BaseException] | None) -> tuple[str, Attempt, str, Callable[[], int], str | None]:
        if self._began is None:
            raise StoreError(self._store.path, "the `with` of this run has not begun: nothing of it can end")
        self._store._open_runs.pop(id(self), None)  # noqa: SLF001
        state = details.FAILED if kind is not None or self.stops else details.FINISHED
        error = details.name_of_error(kind) if kind is not None else _STOPPED if self.stops else None
        return self.run_id, self._began, state, self._store._clock, error  # noqa: SLF001

    def checkpointed(
        self,
        records: Records[Record],
        *,
        stage: str,
        every: int = 1000,
        every_s: float | None = None,
        event_time: Callable[[Record], Time] | None = None,
        cursor: Callable[[Record], Any] | None = None,
        source: str | None = None,
        accept_source: bool = False,
        transaction: bool = False,
    ) -> Checkpointed[Record]:
        """As `CheckpointStore.checkpointed`."""
        return self._with(
            self._store.checkpointed(
                records,
                run_id=self.run_id,
                stage=stage,
                every=every,
                every_s=every_s,
                event_time=event_time,
                cursor=cursor,
                source=source,
                accept_source=accept_source,
                transaction=transaction,
            )
        )

    def once(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        stage: str,
        key: Callable[[Item], str],
        every: int = 100,
        every_s: float | None = None,
        transaction: bool = False,
    ) -> Once[Item]:
        """As `CheckpointStore.once`."""
        return self._with(
            self._store.once(
                items, run_id=self.run_id, stage=stage, key=key, every=every, every_s=every_s, transaction=transaction
            )
        )

    def tracked(self, *, stage: str, every: int = 1000, every_s: float | None = None, in_flight: int = 1000) -> Tracked:
        """As `CheckpointStore.tracked`."""
        return self._with(
            self._store.tracked(run_id=self.run_id, stage=stage, every=every, every_s=every_s, in_flight=in_flight)
        )

    def _with(self, loop: AnyLoop) -> AnyLoop:
        loop.stops = self.stops
        return loop

    def advance(
        self,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """As `CheckpointStore.advance`."""
        return self._store.advance(
            self.run_id, stage, watermark, idempotency_key=idempotency_key, after=after, cursor=cursor
        )

    async def advance_async(
        self,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """As `CheckpointStore.advance_async`."""
        return await self._store.advance_async(
            self.run_id, stage, watermark, idempotency_key=idempotency_key, after=after, cursor=cursor
        )

    def resume_point(self, stage: str) -> ResumePoint:
        """As `CheckpointStore.resume_point_for_stage`, of this run."""
        return self._store.resume_point_for_stage(stage, run_id=self.run_id)

    def cursor(self, stage: str) -> Any:
        """As `CheckpointStore.cursor`, of this run."""
        return self._store.cursor(stage, run_id=self.run_id)

    def __repr__(self) -> str:
        attempt = "not begun" if self.attempt is None else f"attempt {self.attempt}"
        return f"<Run {self.run_id!a}, {attempt}>"

"""One run, with its name bound: how an attempt of it began, what it does, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from milepost import details
from milepost.append import NOT_ASKED
from milepost.errors import MilepostError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from types import TracebackType

    from milepost.append import NotAsked
    from milepost.checkpoint import ResumePoint, Watermark
    from milepost.checkpointed import Checkpointed
    from milepost.loop import Loop
    from milepost.once import Once
    from milepost.receipt import Receipt
    from milepost.source import Records
    from milepost.store import CheckpointStore
    from milepost.times import Time
    from milepost.tracked import Tracked

Record = TypeVar("Record")
Item = TypeVar("Item")
AnyLoop = TypeVar("AnyLoop", bound="Loop[Any] | Tracked")

_LONGEST_NAME = 200  # characters of an exception's type

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
        self._stops: list[None] = []  # one for each stop() of a loop: then the run has not finished

    def __enter__(self) -> Self:
        self._refuse_a_second_time()
        writer, clock = self._store._writer, self._store._clock  # noqa: SLF001 - the store's own handle
        self.attempt = writer.begin_run(self.run_id, again=self._again, clock=clock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._store._writer.end_run(*self._end(kind))  # noqa: SLF001
        except Exception as failure:
            if error is None:
                raise
            error.add_note(_not_recorded(failure))

    async def __aenter__(self) -> Self:
        self._refuse_a_second_time()
        writer, clock = self._store._writer, self._store._clock  # noqa: SLF001
        self.attempt = await writer.begin_run_async(self.run_id, again=self._again, clock=clock)
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
            error.add_note(_not_recorded(failure))

    def _refuse_a_second_time(self) -> None:
        if self.attempt is not None:
            raise StoreError(self._store.path, f"attempt {self.attempt} was begun with this: call run() again for another")

    def _end(self, kind: type[BaseException] | None) -> tuple[str, int, str, Callable[[], int], str | None]:
        state = details.FAILED if kind is not None or self._stops else details.FINISHED
        error = _name_of(kind) if kind is not None else _STOPPED if self._stops else None
        return self.run_id, self.attempt or 0, state, self._store._clock, error  # noqa: SLF001

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
        loop.stops = self._stops
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


def _name_of(kind: type[BaseException]) -> str:
    """The name of an exception's type, as UTF-8 has it: a class may call itself anything."""
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return name.encode(errors="backslashreplace").decode()[:_LONGEST_NAME]


def _not_recorded(failure: Exception) -> str:
    """The note on a body's exception; a failure of the caller's own clock may have no message."""
    return f"and its end could not be recorded: {failure if isinstance(failure, MilepostError) else repr(failure)}"

"""A loop whose records are worked on by a pool: `for record, result in loop.map(work)`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from milepost.arguments import check_callable, check_integer
from milepost.errors import InvalidArgumentError
from milepost.loop import Loop
from milepost.source import close, close_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from concurrent.futures import Executor

    from milepost.pool import Job, Pool
    from milepost.progress import Progress
    from milepost.source import Start

Record = TypeVar("Record")
Result = TypeVar("Result")

_IN_FLIGHT = 4
"""How many jobs are in flight for each worker, where the caller does not say."""


class Mapped(Loop[tuple[Record, Result]]):
    """
    A loop over pairs of a record and what the work on it returned.

    `Mappable.map` makes it, and its docstring has the rules.
    """

    def __init__(
        self,
        inner: Mappable[Record],
        work: Callable[[Record], Any],
        *,
        workers: int,
        in_flight: int,
        executor: Executor | None,
        returns_errors: bool,
        ordered: bool,
    ) -> None:
        super().__init__(
            inner._store, inner.run_id, inner.stage,  # noqa: SLF001 - the loop that it is made of
            every=inner.every, every_s=inner.every_s, transaction=inner._transaction,  # noqa: SLF001
        )  # fmt: skip
        self._inner = inner
        self._work, self._workers, self._in_flight, self._executor = work, workers, in_flight, executor
        self._returns_errors, self._ordered = returns_errors, ordered
        self._is_async = executor is None and inspect.iscoroutinefunction(work)

    def _start(self) -> Start:
        return self._inner._start()  # noqa: SLF001 - here and below: the loop that it is made of

    def _new_progress(self) -> Progress[Any, Any]:
        return self._inner._begin()  # noqa: SLF001

    def stop(self) -> None:
        """
        As `Loop.stop`: no other record is handed out, and work that nobody will see is dropped.

        What is finished is recorded at once. Then the loop waits for the threads that are at work, and cancels tasks.
        """
        super().stop()
        self._inner.stop()

    def _begin_pass(self, this: Any) -> None:
        super()._begin_pass(this)
        self._inner._begin_pass(this)  # noqa: SLF001 - so that its `connection` is there too

    def _pool(self, progress: Progress[Any, Any]) -> Pool:
        from milepost.pool import Pool  # noqa: PLC0415 - asyncio, which most programs do without, takes 30 ms

        look = self._store._writer.refuse_if_ended  # noqa: SLF001 - the store's own loop
        return Pool(self._work, self._workers, self._in_flight, self._executor, look, progress, ordered=self._ordered)

    def _feed(self, progress: Any) -> Iterator[tuple[tuple[Record, Result], Any]]:
        if self._is_async:
            raise InvalidArgumentError("work", self._work, "is a coroutine function: loop with `async for`")
        return self._mapped(self._inner._feed(progress), self._pool(progress))  # noqa: SLF001

    def _mapped(self, feed: Iterator[tuple[Record, Any]], pool: Pool) -> Iterator[tuple[tuple[Record, Result], Any]]:
        jobs = pool.run(feed)
        try:
            for job in jobs:
                yield self._pair(job), job.token
        finally:
            close(jobs)
            close(feed)

    async def _feed_async(self, progress: Any) -> AsyncIterator[tuple[tuple[Record, Result], Any]]:
        jobs = self._pool(progress).run_async(self._inner._feed_async(progress))  # noqa: SLF001
        try:
            async for job in jobs:
                yield self._pair(job), job.token
        finally:
            await close_async(jobs)

    def _pair(self, job: Job) -> tuple[Record, Any]:
        if job.error is None:
            return job.record, job.result
        if self._returns_errors and job.was_done and isinstance(job.error, Exception):
            return job.record, job.error
        raise job.error


class Mappable(Loop[Record], Generic[Record]):
    """A loop whose records a pool can work on."""

    _ordered = True

    @overload
    def map(
        self,
        work: Callable[[Record], Awaitable[Result]],
        *,
        workers: int = 8,
        in_flight: int | None = None,
        executor: None = None,
        errors: Literal["raise"] = "raise",
    ) -> Mapped[Record, Result]: ...
    @overload
    def map(
        self,
        work: Callable[[Record], Awaitable[Result]],
        *,
        workers: int = 8,
        in_flight: int | None = None,
        executor: None = None,
        errors: Literal["return"],
    ) -> Mapped[Record, Result | Exception]: ...
    @overload
    def map(
        self,
        work: Callable[[Record], Result],
        *,
        workers: int = 8,
        in_flight: int | None = None,
        executor: Executor | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Mapped[Record, Result]: ...
    @overload
    def map(
        self,
        work: Callable[[Record], Result],
        *,
        workers: int = 8,
        in_flight: int | None = None,
        executor: Executor | None = None,
        errors: Literal["return"],
    ) -> Mapped[Record, Result | Exception]: ...
    def map(
        self,
        work: Callable[[Record], Any],
        *,
        workers: int = 8,
        in_flight: int | None = None,
        executor: Executor | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Mapped[Record, Any]:
        """
        Have workers do the records, and loop over the pairs `(record, result)`.

        A checkpoint covers only records whose pair was handed out and finished: the loop has asked for the next one. Leave
        the loop early, and records that were begun are not recorded. The pool waits for the work under way, and drops the
        rest. With `transaction=True` the work runs outside of the transaction, and only the body of the loop inside.

        Args:
            work: What to do with a record. Threads run it; under `async for`, tasks do where it is a coroutine function.
            workers: How many threads or tasks work at once. An executor has a number of its own.
            in_flight: How many records may be begun and not handed out; 4 for each worker by default. After a kill so many
                are done again, and at most one batch.
            executor: A `concurrent.futures.Executor` to run `work` instead, such as a ProcessPoolExecutor. It is not shut
                down. When you leave the loop early, what it has begun goes on.
            errors: With `"raise"` an exception of `work` comes out of the loop at its record. With `"return"` it takes the
                place of the result. What keeps a record from being worked on, such as a process that has died, or a
                cancelled future, always comes out.

        Returns:
            A loop over pairs, in the order of `checkpointed`'s source, or as they finish for `once`.

        Raises:
            InvalidArgumentError: An argument breaks one of these rules.
        """
        check_callable("work", work, "it takes a record and returns a result")
        check_integer("workers", workers, least=1)
        if in_flight is not None:
            check_integer("in_flight", in_flight, least=1)
        if executor is not None and not callable(getattr(type(executor), "submit", None)):
            raise InvalidArgumentError("executor", executor, "must be a concurrent.futures.Executor")
        if executor is not None and inspect.iscoroutinefunction(work):
            raise InvalidArgumentError("work", work, "is a coroutine function, which an executor cannot run")
        if type(errors) is not str or errors not in {"raise", "return"}:
            raise InvalidArgumentError("errors", errors, 'must be "raise" or "return"')
        return Mapped(
            self,
            work,
            workers=workers,
            in_flight=_IN_FLIGHT * workers if in_flight is None else in_flight,
            executor=executor,
            returns_errors=errors == "return",
            ordered=self._ordered,
        )

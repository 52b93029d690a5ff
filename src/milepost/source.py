"""Where a loop's records come from, and where it starts among them."""

from __future__ import annotations

import hashlib
import inspect
import io
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeVar, cast

from milepost import files
from milepost.errors import InvalidArgumentError
from milepost.owner import in_event_loop

if TYPE_CHECKING:
    import os

Record = TypeVar("Record")

_MOST_STAGES: Final = 1_000
"""Of how many stages a process knows the iterator that it has read from: a retry follows its failure soon."""


class Start(int):
    """
    Where a loop starts: an int, the offset, that has the cursor of the last checkpoint too.

    It is an int so that `range(start, 100)`, `rows[start:]` and `tqdm(loop, initial=loop.start)` take it as it is.

    Args:
        offset: How many records are done, or the offset of a `tracked` source to begin at. 0 at first.
        cursor: The cursor of the last checkpoint: what JSON can hold, or bytes. None if it has none.
    """

    _cursor: Any

    def __new__(cls, offset: int, cursor: Any = None) -> Self:  # noqa: D102 - as the class
        start = super().__new__(cls, offset)
        start._cursor = cursor
        return start

    @property
    def offset(self) -> int:
        """The offset, as a plain int."""
        return int(self)

    @property
    def cursor(self) -> Any:
        """The cursor of the last checkpoint, or None."""
        return self._cursor

    def __getnewargs__(self) -> tuple[int, Any]:  # type: ignore[override]
        return int(self), self._cursor

    def __repr__(self) -> str:
        return f"Start(offset={int(self)}, cursor={self._cursor!r})"


_Rest = Iterable[Record] | AsyncIterable[Record]
Records = Iterable[Record] | AsyncIterable[Record] | Callable[[Start], _Rest[Record] | Awaitable[_Rest[Record]]]
"""A source: its records, or a function of `Start` that returns the rest of them."""


def fingerprint(path: str | os.PathLike[str]) -> str:
    """
    Describe a file by its whole content, for `source=` of `checkpointed`.

    Two files with the same content have the same fingerprint, whatever their names and times are. It reads all of the file,
    about 1 GB a second.

    Args:
        path: The file.

    Returns:
        `sha256:` and 64 hex digits.

    Raises:
        InvalidArgumentError: It is not the path of a file, such as an open file or a descriptor.
        OSError: The file cannot be read.
    """
    name = files.given(path)
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - a str, whatever it contains
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except UnicodeError:
        raise InvalidArgumentError(
            "path", path, "must not have a lone surrogate: pass the name as os.listdir() gives it"
        ) from None


class Resumable:
    """
    What begins where a stage of its own stands: a loop.

    It is no source of another one. That would skip its first records, and this one would record what is unfinished there.
    """


class _Begun(NamedTuple):
    """
    An iterator that a loop has begun to read.

    Attributes:
        iterator: It, or None where it is gone.
        position: For a file: where it stood then. None for any other iterator, and where a file cannot tell.
    """

    iterator: Callable[[], object]
    position: int | None


_begun_last: dict[object, _Begun] = {}  # by stage


def _position(iterator: object) -> int | None:
    if not issubclass(type(iterator), io.IOBase):
        return None
    file: Any = iterator
    with suppress(OSError, ValueError):  # in the middle of a line, a pipe, closed
        position: int = file.tell()
        return position
    return None


class Source(Generic[Record]):
    """
    The records of a loop.

    Args:
        records: What the caller gave.
        argument: The name of that argument.
        has_cursors: Whether its checkpoints have cursors, so that the offset alone does not say where to start.
        stage: Of which stage they are, if the loop skips those that are done. Another loop of that stage in this process
            is then refused the same iterator.

    Raises:
        InvalidArgumentError: It is no source.
    """

    def __init__(self, records: Any, argument: str = "records", *, has_cursors: bool = False, stage: object = None) -> None:
        kind = type(records)
        if issubclass(kind, Resumable):
            raise _own_start_error(argument, records)
        # No iter() here: that may begin what can begin once only.
        self._iterable = any(hasattr(kind, name) for name in ("__iter__", "__aiter__", "__getitem__"))
        if not self._iterable and not callable(records):
            rule = "must be iterable, async iterable, or a function of the start that returns such a thing"
            raise InvalidArgumentError(argument, records, rule)
        self._records: Any = records
        self._argument = argument
        self._has_cursors = has_cursors
        self._stage = stage
        self._last_iterator: object = None  # to notice a source that cannot begin again

    def open(self, start: Start) -> Iterator[Record]:
        """
        Return the records from the start on.

        Raises:
            InvalidArgumentError: The source is async, cannot begin again, or is shorter than it was.
        """
        if not self._iterable:
            return self._call(start)
        records = self._begun(self._records)
        self._refuse_shorter(start, sum(1 for _ in islice(records, start)))
        return records

    def _call(self, start: Start) -> Iterator[Record]:
        records = self._begun(self._records(start))
        if not self._can_check(start):
            return records
        first = list(islice(records, 1))
        if not first and not list(islice(self._begun(self._records(Start(start - 1))), 1)):
            raise self._shorter_error(start, f"it returns no record from offset {start - 1:,} on")
        return chain(first, records)

    def _can_check(self, start: Start) -> bool:
        """Return whether an empty rest can be told from a source that has become shorter."""
        return start > 0 and start.cursor is None and not self._has_cursors

    def _begun(self, given: Any) -> Iterator[Record]:
        self._refuse_own_start(given)
        if _is_async(type(given)):
            if inspect.iscoroutine(given):
                given.close()  # else Python warns that nobody awaited it
            raise InvalidArgumentError(self._argument, self._records, "is an async source: loop over it with `async for`")
        try:
            iterator: Iterator[Record] = self._fresh(iter(given))
        except TypeError:
            if self._iterable:
                raise
            raise self._no_iterable_error(given) from None
        return iterator

    async def open_async(self, start: Start) -> AsyncIterator[Record]:
        """Return the records from the start on, as `open` does. Read a source that is not async as it is."""
        if not self._iterable:
            return await self._call_async(start)
        records = await self._begun_async(self._records)
        skipped = 0
        while skipped < start and await anext(records, self) is not self:
            skipped += 1
        self._refuse_shorter(start, skipped)
        return records

    async def close_async(self, records: AsyncIterator[Record]) -> None:
        """Close what `open_async` has made. An iterator that the caller gave stays open."""
        if records is not self._last_iterator:
            await close_async(records)

    async def _call_async(self, start: Start) -> AsyncIterator[Record]:
        records = await self._begun_async(self._records(start))
        if not self._can_check(start):
            return records
        first = await anext(records, self)
        if first is not self:
            return _prepend(cast("Record", first), records)
        before = await self._begun_async(self._records(Start(start - 1)))
        try:
            if await anext(before, self) is self:
                raise self._shorter_error(start, f"it returns no record from offset {start - 1:,} on")
        finally:
            await close_async(before)
        return records

    async def _begun_async(self, given: Any) -> AsyncIterator[Record]:
        if hasattr(type(given), "__await__"):
            given = await given
        self._refuse_own_start(given)
        if hasattr(type(given), "__aiter__"):
            records: AsyncIterator[Record] = self._fresh(aiter(given))
            return records
        try:
            return as_async(self._fresh(iter(given)))
        except TypeError:
            if self._iterable:
                raise
            raise self._no_iterable_error(given) from None

    def _fresh(self, iterator: Any) -> Any:
        """Return the iterator, unless it is one that was read from. A function may put one at its start, and return it."""
        if not self._iterable:
            return iterator
        if (self._last_iterator is not None and iterator is self._last_iterator) or self._has_begun(iterator):
            raise InvalidArgumentError(
                self._argument,
                self._records,
                "it is an iterator that a loop has already read from: give a list, a fresh iterator, or a function of the "
                "start",
            )
        self._last_iterator = iterator
        if self._stage is not None:
            with suppress(TypeError):  # Python's own iterators, such as a map's, cannot be referred to weakly
                _begun_last[self._stage] = _Begun(weakref.ref(iterator), _position(iterator))
            with suppress(RuntimeError, StopIteration):  # another thread is at it
                while len(_begun_last) > _MOST_STAGES:
                    _begun_last.pop(next(iter(_begun_last)), None)
        return iterator

    def _has_begun(self, iterator: object) -> bool:
        """Whether another loop of the stage, before a retry, has read from it; but for a file that was rewound."""
        last = _begun_last.get(self._stage)
        if last is None or last.iterator() is not iterator:
            return False
        return last.position is None or _position(iterator) != last.position

    def _refuse_own_start(self, given: object) -> None:
        if issubclass(type(given), Resumable):
            raise _own_start_error(self._argument, given)

    def _no_iterable_error(self, given: object) -> InvalidArgumentError:
        return InvalidArgumentError(self._argument, given, "must return an iterable of the records from the start on")

    def _refuse_shorter(self, start: Start, skipped: int) -> None:
        if skipped < start:
            raise self._shorter_error(start, f"it has {skipped:,} record(s)")

    def _shorter_error(self, start: Start, found: str) -> InvalidArgumentError:
        same = "pass the same source"
        if hasattr(type(self._records), "__next__") or hasattr(type(self._records), "__anext__"):
            same += " from its beginning (an iterator goes on where it was left: make it anew, or rewind its file)"
        rule = f"{found}, but {start:,} were already processed: {same}, or use a new run_id"
        return InvalidArgumentError(self._argument, self._records, rule)


def _own_start_error(argument: str, given: object) -> InvalidArgumentError:
    rule = "is a loop, which begins at a checkpoint of its own, so that records would be left out: give the source it reads"
    return InvalidArgumentError(argument, given, rule)


def _is_async(kind: type) -> bool:
    """Whether a `for` cannot iterate over it. Some classes are for both, `for` and `async for`."""
    return hasattr(kind, "__await__") or (hasattr(kind, "__aiter__") and getattr(kind, "__iter__", None) is None)


async def as_async(records: Iterator[Record]) -> AsyncIterator[Record]:
    """Iterate over an ordinary iterator, in the event loop's thread."""
    for record in records:
        yield record


async def _prepend(first: Record, records: AsyncIterator[Record]) -> AsyncIterator[Record]:
    try:
        yield first
        async for record in records:
            yield record
    finally:
        if in_event_loop():
            await close_async(records)


def close(feed: object) -> None:
    """Close an iterator that can be closed, such as a generator."""
    end = getattr(feed, "close", None)
    if end is not None:
        end()


async def close_async(feed: object) -> None:
    """Do as `close`, for an async iterator. One that is being closed already, as the end of an event loop does, is left."""
    end = getattr(feed, "aclose", None)
    if end is not None and not getattr(feed, "ag_running", False):
        await end()

"""Where a loop starts among its records: cursors, the name of a source, functions of the start, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

import milepost
from milepost import CheckpointStore, InvalidArgumentError, SourceChangedError, Start, Watermark, details
from milepost.append import Step
from milepost.checkpoint import MAX_INTEGER
from milepost.signature import MAX_DETAIL_BYTES
from support import doors
from support.patience import in_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

WAYS: Final = ("for", "for, mapped", "async for", "async for, mapped")


def _read(store: CheckpointStore, records: Any, way: str = "for", *, most: int | None = None, **options: Any) -> list[Any]:
    """The records of a loop, at most so many; in whichever way."""
    given: dict[str, Any] = {"run_id": "run-7", "stage": "load", "every": 2} | options
    loop: Any = store.checkpointed(records, **given)
    if "mapped" in way:
        loop = loop.map(lambda record: record, workers=2, in_flight=5)
    found: list[Any] = []

    def is_enough(given: Any) -> bool:
        found.append(given[0] if "mapped" in way else given)
        return len(found) == most

    async def run() -> None:
        async with loop:
            async for given in loop:
                if is_enough(given):
                    break

    if way.startswith("async"):
        in_time(lambda: asyncio.run(run()))
    else:
        for given in loop:
            if is_enough(given):
                break
    return found


class Loader:
    """Says where it is, as torchdata's StatefulDataLoader does: by an object that it goes on to change."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._state: dict[str, Any] = {"position": 0, "rest": []}
        self.states = 0

    def state_dict(self) -> dict[str, Any]:
        """The state itself, not a copy."""
        self.states += 1
        return self._state

    def from_the_start(self, start: Start) -> Loader:
        """Load a state."""
        if start.cursor is not None:
            self._state.update(start.cursor)
        return self

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> int:
        if not self._state["rest"] and self._state["position"] < self.length:
            first = self._state["position"]
            self._state["rest"] = list(range(first, min(first + 4, self.length)))[::-1]
            self._state["position"] += len(self._state["rest"])
        if not self._state["rest"]:
            raise StopIteration
        record: int = self._state["rest"].pop(0)
        return record


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_loader_with_a_state_goes_on_exactly_where_it_was(store: CheckpointStore, way: str, transaction: bool) -> None:
    """Its state is taken as bytes at once; at the end of the source too, where nothing is left."""
    expected = list(Loader(18))
    found: list[int] = []
    for most in (5, 4, 1, None, None):
        loader = Loader(18)
        options: dict[str, Any] = {"cursor": lambda _, loader=loader: loader.state_dict(), "transaction": transaction}
        got = _read(store, loader.from_the_start, way, most=most, **options)
        assert got == expected[len(found) : len(found) + len(got)]
        found += got
        point = store.resume_points("run-7").get("load")
        del found[point.watermark.offset if point else 0 :]  # what is not recorded is done again
    assert found == expected
    assert _read(store, Loader(18).from_the_start, way) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_cursor_is_asked_for_once_a_record_as_it_is_read(store: CheckpointStore, way: str) -> None:
    """Before the next one is read, however many are in flight."""
    said: list[str] = []

    def records() -> Iterator[int]:
        for record in range(7):
            said.append(f"read {record}")
            yield record

    def cursor(record: int) -> int:
        said.append(f"cursor {record}")
        return record

    assert _read(store, records(), way, cursor=cursor) == list(range(7))
    assert said == [f"{what} {record}" for record in range(7) for what in ("read", "cursor")]
    assert store.cursor("load") == 6


def test_a_cursor_is_bytes_or_json_and_none_leaves_none(store: CheckpointStore) -> None:
    """As the function of the start gets it back."""
    starts: list[tuple[int, Any]] = []

    def rest(start: Start) -> range:
        starts.append((start.offset, start.cursor))
        return range(start, min(start + 2, 8))

    for cursor in (b"\0token", {"page": [1, "é"]}, None, "text"):
        _read(store, rest, cursor=lambda _, cursor=cursor: cursor)
    _read(store, rest)
    assert starts == [(0, None), (2, b"\0token"), (4, {"page": [1, "é"]}), (6, None), (8, "text")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("argument", ["cursor", "event_time"])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_function_that_is_exhausted_does_not_look_like_the_end_of_the_source(
    store: CheckpointStore, way: str, argument: str, transaction: bool
) -> None:
    """`next()` of an iterator that has ended raises StopIteration, which ends a map() in silence."""
    given = iter(range(4))
    with pytest.raises(RuntimeError, match=r"StopIteration|StopAsyncIteration"):
        options: dict[str, Any] = {argument: lambda _: next(given)}
        _read(store, range(10), way, transaction=transaction, every=1, **options)
    assert len(store) <= 4


def test_a_function_may_put_one_iterator_at_the_start_and_return_it(store: CheckpointStore, tmp_path: Path) -> None:
    """A file that it seeks in, a consumer of a broker; again by the same loop, and where nothing is left."""
    (tmp_path / "lines").write_text("a\nb\nc\nd\ne\n")
    with (tmp_path / "lines").open() as file:

        def rest(start: Start) -> Any:
            file.seek(2 * start)
            return file

        loop = store.checkpointed(rest, run_id="run-7", stage="load", every=2)
        assert [line.strip() for line, _ in zip(loop, range(3), strict=False)] == ["a", "b", "c"]
        assert [line.strip() for line in loop] == ["c", "d", "e"]
        assert list(loop) == []
        assert list(store.checkpointed(rest, run_id="run-7", stage="load")) == []


# The name of the source


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_another_source_is_refused_until_it_is_accepted(
    store: CheckpointStore, tmp_path: Path, way: str, transaction: bool
) -> None:
    """And nothing of it is read."""
    (tmp_path / "a").write_text("1 2 3 4")
    (tmp_path / "b").write_text("1 2 3 5")
    first, other = (milepost.fingerprint(tmp_path / name) for name in "ab")
    (tmp_path / "renamed").write_text("1 2 3 4")
    assert milepost.fingerprint(str(tmp_path / "renamed")) == first
    assert _read(store, range(4), way, most=3, source=first, transaction=transaction) == [0, 1, 2]
    read: list[Start] = []

    def records(start: Start) -> range:
        read.append(start)
        return range(start, 6)

    with pytest.raises(SourceChangedError, match="accept_source=True") as refused:
        _read(store, records, way, source=other, transaction=transaction)
    assert (refused.value.expected, refused.value.found) == (first, other)
    assert (refused.value.run_id, refused.value.stage) == ("run-7", "load")
    assert read == []
    assert _read(store, records, way, most=3, source=other, accept_source=True, transaction=transaction) == [2, 3, 4]
    assert _read(store, records, way, source=other, transaction=transaction) == [4, 5]
    with pytest.raises(SourceChangedError):
        _read(store, records, way, source=first, transaction=transaction)


def test_another_source_is_accepted_from_the_checkpoint_on_that_records_it(store: CheckpointStore) -> None:
    """A loop that ends before its first one has accepted it for itself alone."""
    assert _read(store, range(4), most=3, source="first") == [0, 1, 2]
    assert _read(store, range(4), most=1, source="other", accept_source=True) == [2]
    with pytest.raises(SourceChangedError):
        _read(store, range(4), source="other")
    assert _read(store, range(4), source="other", accept_source=True) == [2, 3]
    assert _read(store, range(5), source="other") == [4]


@pytest.mark.parametrize("path", [io.BytesIO(b"x"), None, 1.5, 0, True, "", "a\0b", "a\ud800b"])
def test_what_is_no_path_has_no_fingerprint(path: Any) -> None:
    """Nor has a descriptor: open() would read standard input for 0, and close it."""
    with pytest.raises(InvalidArgumentError, match=r"^path is .*must "):
        milepost.fingerprint(path)


def test_a_source_that_an_entry_cannot_record_is_refused_before_anything_is_done(store: CheckpointStore) -> None:
    """JSON writes out what a terminal would obey; as much of it as there is room for, in a branch too, is recorded."""
    room = MAX_DETAIL_BYTES - len(details.detail(cursor=b"", branch_position=MAX_INTEGER, source="") or "")
    longest = "\x01" * (room // 6) + "a" * (room % 6)
    with pytest.raises(InvalidArgumentError, match="too long as JSON"):
        store.checkpointed(range(2), run_id="run-7", stage="load", source=f"{longest}a")
    assert _read(store, range(2), source=longest, cursor=lambda _: b"x") == [0, 1]
    assert _read(store, range(3), source=longest, cursor=lambda _: b"x") == [2]
    with pytest.raises(SourceChangedError):
        _read(store, range(3), source=longest[:-1])
    store.branch("run-7", "run-8")
    assert _read(store, range(4), source=longest, run_id="run-8") == [3]
    assert max(len(detail.encode()) for *_, detail in store.receipts() if detail) > MAX_DETAIL_BYTES - 30


def test_a_source_that_a_branch_has_no_room_for_is_not_branched(store: CheckpointStore) -> None:
    """An older milepost may have recorded it; an entry that is longer could never be restored."""
    longest = MAX_DETAIL_BYTES - len(details.detail(cursor=b"", source="") or "")
    source = "\x01" * (longest // 6) + "a" * (longest % 6)
    step = Step("run-7", "load", Watermark(1, 0), "a", cursor=b"x", source=source)
    doors.writer(store).advance(step, store._clock)
    (*_, detail) = next(store.receipts())
    assert detail is not None
    assert len(detail.encode()) == MAX_DETAIL_BYTES
    with pytest.raises(InvalidArgumentError, match="too long to be recorded with stage 'load' of run 'run-8'") as refused:
        store.branch("run-7", "run-8")
    assert refused.value.argument == "source"
    with pytest.raises(InvalidArgumentError, match="too long to be recorded"):
        doors.writer(store).advance(step._replace(watermark=Watermark(2, 0), source=f"{source}a"), store._clock)
    assert len(store) == 1


def test_a_stage_without_a_source_takes_any_and_another_run_too(store: CheckpointStore) -> None:
    """Nothing says that it is another one."""
    _read(store, range(2))
    assert _read(store, range(4), source="a") == [2, 3]
    assert _read(store, range(4), source="b", run_id="run-8") == [0, 1, 2, 3]
    assert _read(store, range(6)) == [4, 5]


def test_a_branch_goes_on_with_its_parents_source_and_cursor(store: CheckpointStore) -> None:
    """And refuses another."""
    _read(store, range(4), source="a", cursor=lambda record: {"at": record})
    store.branch("run-7", "run-8")
    starts: list[Start] = []

    def rest(start: Start) -> range:
        starts.append(start)
        return range(start, 6)

    with pytest.raises(SourceChangedError):
        _read(store, rest, run_id="run-8", source="b")
    assert _read(store, rest, run_id="run-8", source="a") == [4, 5]
    assert [(start.offset, start.cursor) for start in starts] == [(4, {"at": 3})]


@pytest.mark.parametrize("length", [0, 1, 40, 300])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transaction", [False, True])
def test_sources_of_every_length_are_read_to_their_end(
    store: CheckpointStore, way: str, length: int, transaction: bool
) -> None:
    """And are finished then."""
    assert _read(store, range(length), way, transaction=transaction, every=7) == list(range(length))
    assert _read(store, range(length), way, transaction=transaction, every=7) == []
    assert len(store) == -(-length // 7)


# What is refused


async def _async_records() -> AsyncIterator[int]:
    yield 1


async def _async_function(_: Any) -> list[int]:
    return [1]


def _called(function: Any, record: int) -> Any:
    return function(record)


ASYNC: Final[dict[str, Callable[[], Any]]] = {
    "an async generator": _async_records,
    "a function that returns an async generator": lambda: lambda _: _async_records(),
    "a coroutine function": lambda: _async_function,
}


@pytest.mark.parametrize("records", ASYNC)
def test_an_async_source_under_for_is_refused_in_words(store: CheckpointStore, records: str) -> None:
    """And Python does not warn of anything that nobody has awaited."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for transaction, way in itertools.product([False, True], ["for", "for, mapped"]):
            with pytest.raises(InvalidArgumentError, match="is an async source: loop over it with `async for`"):
                _read(store, ASYNC[records](), way, transaction=transaction)
            assert len(store) == 0
        gc.collect()
    assert [str(each.message) for each in warned] == []


@pytest.mark.parametrize("executor", [False, True])
def test_work_that_is_a_coroutine_is_refused_in_words_under_for(store: CheckpointStore, executor: bool) -> None:
    """As a function, and hidden in another one; by threads and by an executor."""
    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("always")
        loop = store.checkpointed(range(3), run_id="run-7", stage="load")
        hidden: Any = loop.map(partial(_called, _async_function), executor=pool if executor else None)
        with pytest.raises(InvalidArgumentError, match="returned an awaitable: give a coroutine function itself"):
            list(hidden)
        if executor:
            with pytest.raises(InvalidArgumentError, match="which an executor cannot run"):
                loop.map(_async_function, executor=pool)
        else:
            with pytest.raises(InvalidArgumentError, match="is a coroutine function: loop with `async for`"):
                list(loop.map(_async_function))
        gc.collect()
    assert [str(each.message) for each in warned] == []
    assert len(store) == 0


@pytest.mark.parametrize("way", ["for, mapped", "async for, mapped"])
def test_a_source_that_fails_fails_behind_the_records_before_it(store: CheckpointStore, way: str) -> None:
    """Were those in flight dropped, a source that always fails there would never get on."""

    def records() -> Iterator[int]:
        yield from range(4)
        raise KeyError("the fifth")

    with pytest.raises(KeyError, match="the fifth"):
        _read(store, records(), way, every=1)
    assert store.resume_point_for_stage("load").watermark.offset == 4


def test_one_task_reads_all_of_an_async_source_and_closes_it(store: CheckpointStore) -> None:
    """An asyncio.timeout() of the source's belongs to the task that has entered it."""

    async def records(start: Start) -> AsyncIterator[int]:
        try:
            async with asyncio.timeout(0.5):
                yield from_task()
                yield from_task()
                await asyncio.sleep(30)
        finally:
            from_task()

    tasks: list[object] = []

    def from_task() -> int:
        tasks.append(asyncio.current_task())
        return len(tasks)

    async def run() -> None:
        async for _ in store.checkpointed(records, run_id="run-7", stage="load", every=1).map(str):
            pass

    with pytest.raises(TimeoutError):
        in_time(lambda: asyncio.run(run()))
    assert len(tasks) == 3
    assert len(set(tasks)) == 1
    assert store.resume_point_for_stage("load").watermark.offset == 2


@pytest.mark.parametrize("with_async", [False, True])
def test_a_source_with_cursors_may_end_where_its_last_cursor_says_nothing(store: CheckpointStore, with_async: bool) -> None:
    """The offset says that something is done, and the cursor that nothing follows: nobody asks what came before."""
    pages: dict[str | None, str | None] = {None: "a", "a": None}
    asked: list[tuple[int, Any]] = []

    def rest(start: Start) -> Iterator[str | None]:
        asked.append((int(start), start.cursor))
        token = start.cursor
        while not start or token is not None:
            yield (token := pages[token])
            if token is None:
                return

    def loop() -> Any:
        return store.checkpointed(rest, run_id="r", stage="s", every=1, cursor=lambda token: token)

    async def read() -> list[Any]:
        return [token async for token in loop()]

    assert [asyncio.run(read()) if with_async else list(loop()) for _ in range(2)] == [["a", None], []]
    assert asked == [(0, None), (2, None)]


def test_the_connection_of_a_mapped_loop_is_that_of_the_loop_too(store: CheckpointStore) -> None:
    """Whichever of the two a program has kept."""
    loop = store.checkpointed(range(3), run_id="r", stage="s", transaction=True)
    mapped = loop.map(str)
    for _ in mapped:
        assert loop.connection is mapped.connection

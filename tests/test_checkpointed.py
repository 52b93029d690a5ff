"""One line that makes a loop resumable."""

from __future__ import annotations

import asyncio
import csv
import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    Checkpointed,
    CheckpointStore,
    InvalidArgumentError,
    StageMovedError,
    Start,
    StoreBusyError,
    StoreError,
    Watermark,
)
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Crash(Exception):  # noqa: N818 - plays the part of a kill
    """Ends a loop."""


def _loop(store: CheckpointStore, records: Any, *, crash_at: int | None = None, **options: Any) -> list[Any]:
    done = []
    for record in store.checkpointed(records, run_id="run-7", stage="load", **options):
        if record == crash_at:
            raise Crash
        done.append(record)
    return done


def _offsets(store: CheckpointStore) -> list[tuple[int, str]]:
    return [(entry.watermark.offset, entry.idempotency_key) for entry in store.history()]


def test_a_checkpoint_follows_every_so_many_finished_records_and_the_end(store: CheckpointStore) -> None:
    """The offset is the number of records done; the key is the stage and the range of offsets."""
    assert _loop(store, range(2500), every=1000) == list(range(2500))
    assert _offsets(store) == [(1000, "load:0-999"), (2000, "load:1000-1999"), (2500, "load:2000-2499")]


@pytest.mark.parametrize("transaction", [False, True])
def test_a_loop_counts_what_is_done_from_the_first_record_to_the_last(store: CheckpointStore, transaction: bool) -> None:
    """Recorded or not; the record in hand is not done."""
    loop = store.checkpointed(range(5), run_id="run-7", stage="load", every=2, transaction=transaction)
    assert loop.done == 0
    assert [loop.done for _ in loop] == [0, 1, 2, 3, 4]
    assert loop.done == 5
    again = store.checkpointed(range(7), run_id="run-7", stage="load", every=2, transaction=transaction)
    assert [again.done for _ in again] == [5, 6]


def test_no_checkpoint_is_recorded_for_nothing(store: CheckpointStore) -> None:
    """Neither for an empty source, nor for one that is done, nor twice at a round end."""
    assert _loop(store, []) == []
    assert _offsets(store) == []
    assert _loop(store, range(10), every=5) == list(range(10))
    assert _loop(store, range(10), every=5) == []
    assert _offsets(store) == [(5, "load:0-4"), (10, "load:5-9")]


def test_a_key_has_the_stage_as_long_as_there_is_room_for_it(store: CheckpointStore) -> None:
    """Up to 1,024 bytes; the name in it is for people."""
    for length, key in ((1020, f"{'s' * 1020}:0-0"), (1021, "0-0")):
        assert list(store.checkpointed(range(1), run_id="run-7", stage="s" * length, every=1)) == [0]
        assert store.latest_for_stage("s" * length) == store.latest()
        assert [entry.idempotency_key for entry in store.history() if entry.stage == "s" * length] == [key]


@pytest.mark.parametrize("transaction", [False, True])
def test_without_event_times_a_watermark_has_the_first_instant(store: CheckpointStore, transaction: bool) -> None:
    """From the first checkpoint to the last, also where the loop is begun again."""
    _loop(store, range(3), every=2, transaction=transaction)
    _loop(store, range(7), every=2, transaction=transaction)
    assert [entry.watermark for entry in store.history()] == [Watermark(done, 0) for done in (2, 3, 5, 7)]


def test_what_joins_a_loop_may_be_given_by_name(store: CheckpointStore) -> None:
    """As to `CheckpointStore.advance`; the key by name only."""
    loop: Any = store.checkpointed(range(1), run_id="run-7", stage="load", transaction=True)
    for _ in loop:
        with pytest.raises(TypeError):
            loop.advance("run-7", "check", Watermark(1, 0), "a")
        loop.advance(run_id="run-7", stage="check", watermark=Watermark(1, 0), idempotency_key="a")
    assert [entry.stage for entry in store.history()] == ["check", "load"]


@pytest.mark.parametrize("transaction", [False, True])
def test_a_function_is_asked_for_the_records_from_the_start_on(store: CheckpointStore, transaction: bool) -> None:
    """At first from offset 0, and then from behind what is done."""
    asked: list[Start] = []

    def rest(start: Start) -> range:
        asked.append(start)
        return range(start, len(asked))

    assert _loop(store, rest, every=1, transaction=transaction) == [0]
    assert _loop(store, rest, every=1, transaction=transaction) == [1]
    assert [(start.offset, start.cursor) for start in asked] == [(0, None), (1, None)]


def test_a_record_counts_only_when_the_next_one_is_asked_for(store: CheckpointStore) -> None:
    """An exception while the last record of a batch is processed leaves the batch before as the resume point."""
    with pytest.raises(Crash):
        _loop(store, range(100), every=10, crash_at=29)
    assert _offsets(store) == [(10, "load:0-9"), (20, "load:10-19")]
    assert _loop(store, range(100), every=10) == list(range(20, 100))
    assert _offsets(store)[-1] == (100, "load:90-99")


def test_a_break_leaves_the_last_finished_batch_as_the_resume_point(store: CheckpointStore) -> None:
    """As an exception does."""
    for record in store.checkpointed(range(100), run_id="run-7", stage="load", every=10):
        if record == 25:
            break
    assert _offsets(store)[-1] == (20, "load:10-19")


@pytest.mark.parametrize("examples", [30, pytest.param(200, marks=pytest.mark.long)])
def test_every_record_is_processed_exactly_once_in_the_sink(tmp_path_factory: pytest.TempPathFactory, examples: int) -> None:
    """With transaction=True, whatever the crashes; without it, nothing is missed."""

    @settings(max_examples=examples)
    @given(st.integers(0, 60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=4), st.booleans(), st.booleans())
    def check(length: int, every: int, crashes: list[int], transaction: bool, seek: bool) -> None:
        with CheckpointStore(tmp_path_factory.mktemp("loop") / "store", durability="normal") as store:
            with store.transaction() as connection:
                connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")
            for crash_at in [*crashes, None]:
                loop: Checkpointed[int] = store.checkpointed(
                    (lambda start: range(start, length)) if seek else range(length),
                    run_id="run-7",
                    stage="load",
                    every=every,
                    transaction=transaction,
                )
                try:
                    for record in loop:
                        if transaction:
                            loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
                        else:
                            with store.transaction() as connection:
                                connection.execute("INSERT INTO sink VALUES (?)", (record,))
                        if record == crash_at:
                            raise Crash
                except Crash:
                    pass
            with store.transaction() as connection:
                written = [row[0] for row in connection.execute("SELECT record FROM sink ORDER BY record")]
            assert (written if transaction else sorted(set(written))) == list(range(length))
            assert store.verify().ok

    check()


def test_a_loop_left_by_an_exception_holds_no_transaction_open(store: CheckpointStore, path: Path) -> None:
    """Another writer can go on at once, though the loop object is still there."""
    loop = store.checkpointed(range(100), run_id="run-7", stage="load", every=10, transaction=True)
    with pytest.raises(Crash):
        for record in loop:
            if record == 15:
                raise Crash
    with CheckpointStore(path, busy_timeout_ms=0, durability="normal") as other:
        assert _loop(other, range(100), every=10) == list(range(10, 100))


def test_event_time_is_the_latest_seen_so_that_it_never_falls(store: CheckpointStore) -> None:
    """Records may come out of order; a watermark may not."""
    times = [5, 3, 9, 1, 2, 8]
    _loop(store, times, every=2, event_time=lambda record: record * 1000)
    assert [entry.watermark.event_time_ms for entry in store.history()] == [5000, 9000, 9000]


def test_a_source_that_has_become_shorter_is_told(store: CheckpointStore) -> None:
    """Silence would look like a finished stage."""
    _loop(store, range(30), every=10)
    with pytest.raises(InvalidArgumentError, match=r"it has 7 record\(s\), but 30 were already processed"):
        _loop(store, range(7))


def test_runs_and_stages_resume_apart(store: CheckpointStore) -> None:
    """Another run of the same stage begins at the beginning."""
    _loop(store, range(30), every=10)
    assert list(store.checkpointed(range(30), run_id="run-8", stage="load")) == list(range(30))
    assert list(store.checkpointed(range(30), run_id="run-7", stage="extract")) == list(range(30))


def test_a_stage_with_a_name_of_full_length_still_gets_keys(store: CheckpointStore) -> None:
    """The name is left out of a key that would be too long."""
    list(store.checkpointed(range(3), run_id="run-7", stage="é" * 512, every=2))
    assert [entry.idempotency_key for entry in store.history()] == ["0-1", "2-2"]


def test_the_connection_is_given_only_inside_a_loop_with_transactions(store: CheckpointStore) -> None:
    """Anywhere else it would be autocommit."""
    loop = store.checkpointed(range(3), run_id="run-7", stage="load", transaction=True)
    with pytest.raises(StoreError, match="exists only inside the loop"):
        _ = loop.connection
    list(loop)
    with pytest.raises(StoreError, match="exists only inside the loop"):
        _ = loop.connection
    plain = store.checkpointed(range(3), run_id="run-8", stage="load")
    for _ in plain:
        with pytest.raises(StoreError, match="needs transaction=True"):
            _ = plain.connection


@pytest.mark.parametrize("transaction", [False, True])
def test_a_resumed_loop_knows_the_latest_event_time_of_what_was_done(store: CheckpointStore, transaction: bool) -> None:
    """The watermark of its first batch does not fall behind it."""
    times = [9, 2, 3, 4, 12]
    _loop(store, times[:2], every=2, event_time=lambda record: record, transaction=transaction)
    _loop(store, times, every=2, event_time=lambda record: record, transaction=transaction)
    assert [tuple(entry.watermark) for entry in store.history()] == [(2, 9), (4, 9), (5, 12)]


@pytest.mark.parametrize("kind", ["reader", "map", "file"])
def test_an_iterator_that_is_used_up_is_to_be_made_anew(store: CheckpointStore, kind: str) -> None:
    """It is the same source, so to pass the same source would be no advice."""
    file = io.StringIO("a\nb\nc\n")
    records: Any = {"reader": csv.reader(file), "map": map(int, "123"), "file": file}[kind]
    assert len(_loop(store, ["a", "b", "c"] if kind == "file" else records)) == 3
    file.seek(0, io.SEEK_END)
    with pytest.raises(InvalidArgumentError, match="make it anew, or rewind its file") as told:
        _loop(store, records)
    assert "it has 0 record(s), but 3 were already processed: pass the same source from its beginning" in str(told.value)


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("seek", [False, True])
def test_a_source_that_is_shorter_by_one_record_is_told(store: CheckpointStore, seek: bool, transaction: bool) -> None:
    """One of the same length is done, and nothing more."""

    def loop(length: int) -> list[Any]:
        records: Any = (lambda start: range(start, length)) if seek else range(length)
        return _loop(store, records, every=10, transaction=transaction)

    loop(30)
    assert loop(30) == []
    found = "it returns no record from offset 29 on" if seek else "it has 29 record"
    with pytest.raises(InvalidArgumentError, match=f"{found}.*, but 30 were already processed"):
        loop(29)
    assert loop(31) == [30]
    assert _offsets(store)[-1] == (31, "load:30-30")


@pytest.mark.parametrize("transaction", [False, True])
def test_a_stage_that_somebody_else_has_moved_is_not_recorded_by_the_loop(store: CheckpointStore, transaction: bool) -> None:
    """Two loops over one stage: the second to record is told, and with transactions its batch is undone."""
    loop = iter(store.checkpointed(range(20), run_id="run-7", stage="load", every=10))
    assert [next(loop) for _ in range(10)] == list(range(10))
    assert _loop(store, range(20), every=10, transaction=transaction) == list(range(20))
    with pytest.raises(StageMovedError):
        next(loop)
    assert _offsets(store) == [(10, "load:0-9"), (20, "load:10-19")]


def test_a_loop_that_has_ended_or_failed_stays_so(store: CheckpointStore) -> None:
    """It hands out no record that it will not record."""
    ended = iter(store.checkpointed(range(3), run_id="run-7", stage="load", every=2, transaction=True))
    assert list(ended) == [0, 1, 2]
    assert list(ended) == []
    loop = store.checkpointed(
        [1, "x", 2], run_id="run-8", stage="load", every=1, event_time=lambda record: int(str(record)), transaction=True
    )
    failed = iter(loop)
    assert next(failed) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        next(failed)
    assert list(failed) == []
    with pytest.raises(StoreError, match="exists only inside the loop"):
        _ = loop.connection
    store.append(entry(1, run_id="run-9"))  # its block is not open any more
    assert store.resume_point_for_stage("load", run_id="run-8").watermark.offset == 1


class _FailsOnce:
    """A source of its own class, for both kinds of loops, which may be asked for more after a failure."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.read += 1
        if self.read == 4:
            raise OSError("the fourth")
        if self.read == 9:
            raise StopIteration
        return self.read

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


@pytest.mark.parametrize("is_async", [False, True])
def test_a_loop_whose_source_has_failed_asks_it_for_nothing_more(store: CheckpointStore, is_async: bool) -> None:
    """The record before the failure, which was read and not handed out, would be left out."""
    source = _FailsOnce()
    loop: Checkpointed[int] = store.checkpointed(source, run_id="run-7", stage="load", every=2, transaction=True)

    async def run() -> list[int]:
        async with loop:
            records = aiter(loop)
            assert [await anext(records), await anext(records)] == [1, 2]
            with pytest.raises(OSError, match="the fourth"):
                await anext(records)
            return [record async for record in records]

    def run_sync() -> list[int]:
        records = iter(loop)
        assert [next(records), next(records)] == [1, 2]
        with pytest.raises(OSError, match="the fourth"):
            next(records)
        return list(records)

    assert (asyncio.run(run()) if is_async else run_sync()) == []
    assert (source.read, _offsets(store)) == (4, [(2, "load:0-1")])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_loop_whose_block_could_not_begin_hands_out_nothing_more(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """The batch that was read for it would be left out; not even if Ctrl-C comes as the loop ends."""

    def refuse() -> None:
        raise StoreBusyError(store.path, 0)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def run() -> list[int]:
        async with loop:
            records = aiter(loop)
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(loop, "new_block", refuse)
                patch.setattr(records, "aclose", interrupt)
                await anext(records)
            return [record async for record in records]

    def run_sync() -> list[int]:
        records = iter(loop)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop, "new_block", refuse)
            patch.setattr(records, "close", interrupt)
            next(records)
        return list(records)

    loop = store.checkpointed(range(6), run_id="run-7", stage="load", every=2, transaction=True)
    assert (asyncio.run(run()) if is_async else run_sync()) == []
    assert _offsets(store) == []


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
def test_a_loop_that_fails_leaves_nothing_open_though_somebody_keeps_the_error(
    store: CheckpointStore, path: Path, transaction: bool, is_async: bool
) -> None:
    """And its iterator: the source is closed, and another writer can go on at once."""
    closed = []

    def rest(start: int) -> Iterator[int]:
        try:
            yield from range(start, 10)
        finally:
            closed.append(start)

    loop: Checkpointed[int] = store.checkpointed(
        rest, run_id="run-7", stage="load", every=2, event_time=lambda record: record, transaction=transaction
    )

    def over() -> None:
        assert closed == [0]
        with CheckpointStore(path, busy_timeout_ms=0, durability="normal") as other:
            other.append(entry(1, run_id="another"))

    async def run() -> None:
        async with loop:
            records = aiter(loop)
            store.append(entry(1, offset=3, event_time_ms=0))
            with pytest.raises(StageMovedError) as kept:
                _ = [record async for record in records]
            over()
            del kept

    if is_async:
        asyncio.run(run())
    else:
        records = iter(loop)
        store.append(entry(1, offset=3, event_time_ms=0))
        with pytest.raises(StageMovedError) as kept:
            list(records)
        over()
        del kept
    assert len(store) == 2


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
def test_an_iterator_that_somebody_keeps_ends_with_the_block_around_its_loop(
    store: CheckpointStore, path: Path, transaction: bool, is_async: bool
) -> None:
    """It hands out nothing more, and holds no transaction open."""
    loop = store.checkpointed(range(10), run_id="run-7", stage="load", every=4, transaction=transaction)

    async def run() -> list[int]:
        async with loop:
            records = aiter(loop)
            async for _ in records:
                break
        store.append(entry(1, run_id="another"))
        return [record async for record in records]

    def run_sync() -> list[int]:
        with loop:
            records = iter(loop)
            for _ in records:
                break
        store.append(entry(1, run_id="another"))
        return list(records)

    assert (asyncio.run(run()) if is_async else run_sync()) == []
    assert [each.run_id for each in store.history()] == ["another"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_with_transactions_is_read_for_so_many_seconds_at_most(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """What a slow source has given by then is done, and the next batch has as long."""
    now = 0

    def records() -> Iterator[int]:
        nonlocal now
        for record in range(10):
            now += 1
            yield record

    monkeypatch.setattr("milepost.loop.time", SimpleNamespace(monotonic=lambda: now))
    loop = store.checkpointed(records(), run_id="run-7", stage="load", every=1000, every_s=3, transaction=True)

    async def run() -> list[int]:
        async with loop:
            return [record async for record in loop]

    assert (asyncio.run(run()) if is_async else list(loop)) == list(range(10))
    assert [offset for offset, _ in _offsets(store)] == [3, 6, 9, 10]


def test_a_loop_says_what_it_is_over(store: CheckpointStore) -> None:
    """As its store, a run and a shipper do."""
    options: dict[str, Any] = {"run_id": "run-7", "stage": "load"}
    loop: Checkpointed[int] = store.checkpointed(range(3), **options)
    assert repr(loop) == "<Checkpointed: stage 'load' of run 'run-7'>"
    assert repr(loop.map(str)) == "<Mapped: stage 'load' of run 'run-7'>"
    assert repr(store.once(range(3), key=str, **options)) == "<Once: stage 'load' of run 'run-7'>"


@pytest.mark.parametrize("transaction", [False, True])
def test_an_event_time_that_is_none_is_refused(store: CheckpointStore, transaction: bool) -> None:
    """Before the record is handed out."""
    for wrong in (-1, 1.5, True, None, 2**63):
        with pytest.raises(InvalidArgumentError, match="event_time"):
            _loop(store, [1], event_time=lambda record, wrong=wrong: wrong, transaction=transaction)
    assert _offsets(store) == []


def test_an_iterator_that_a_loop_has_begun_to_read_is_not_begun_again(store: CheckpointStore) -> None:
    """Its first records are gone: with a list it may be."""
    records = iter(range(30))
    loop = store.checkpointed(records, run_id="run-7", stage="load", every=10)
    for record in loop:
        if record == 15:
            break
    with pytest.raises(InvalidArgumentError, match="an iterator that a loop has already read from"):
        list(loop)
    listed = store.checkpointed(list(range(30)), run_id="run-7", stage="load", every=10)
    assert next(iter(listed)) == 10
    assert list(listed) == list(range(10, 30))


def test_a_loop_may_go_on_in_another_thread(store: CheckpointStore) -> None:
    """Its block goes with it: the first thread may write then, and would wait for itself if not."""
    loop = iter(store.checkpointed(range(4), run_id="run-7", stage="load", every=2, transaction=True))
    assert next(loop) == 0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(next, loop).result(10) == 1
        with pytest.raises(StoreError, match="has its transaction open in this thread"):
            pool.submit(store.append, entry(1)).result(10)
        assert pool.submit(list, loop).result(10) == [2, 3]
    assert _offsets(store) == [(2, "load:0-1"), (4, "load:2-3")]


def test_what_a_loop_records_of_other_stages_commits_with_its_own_batch(store: CheckpointStore, path: Path) -> None:
    """Through the loop: the store's own verbs would wait for its block, and outside of a loop there is none."""
    loop = store.checkpointed(range(4), run_id="run-7", stage="load", every=2, transaction=True)
    with CheckpointStore.open_readonly(path) as reader:
        for record in loop:
            loop.append(entry(record + 1, stage="other"))
            loop.advance("run-7", "third", Watermark(record + 1, 0), idempotency_key=f"step-{record}")
            assert len(reader) == record // 2 * 5
            with pytest.raises(StoreError, match="use the loop's own"):
                store.append(entry(9, stage="other"))
    assert [item.stage for item in store.history()] == ["other", "third", "other", "third", "load"] * 2
    with pytest.raises(StoreError, match="work only inside it"):
        loop.append(entry(9, stage="other"))


class _ForBoth(list[int]):
    def __aiter__(self) -> AsyncIterator[int]:
        return self._each()

    async def _each(self) -> AsyncIterator[int]:
        for record in self:
            yield record


def test_a_source_for_both_kinds_of_loops_is_taken_by_both(store: CheckpointStore) -> None:
    """Some classes of HTTP libraries are iterable and async iterable."""

    async def loop() -> list[int]:
        return [record async for record in store.checkpointed(_ForBoth([1, 2, 3]), run_id="run-7", stage="load")]

    assert _loop(store, _ForBoth([1, 2])) == [1, 2]
    assert asyncio.run(loop()) == [3]

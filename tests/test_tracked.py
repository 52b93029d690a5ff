"""An ordered source whose records finish out of order: the watermark is the lowest offset that is not finished."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import math
import multiprocessing
import random
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milepost import (
    CheckpointStore,
    ClosedStoreError,
    InvalidArgumentError,
    ReadOnlyStoreError,
    StageMovedError,
    StoreBusyError,
    StoreError,
    Watermark,
)
from support.chains import entry
from support.patience import begin, in_time, result, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost import Tracked
    from milepost.tracked import Done


class Crash(Exception):  # noqa: N818 - plays the part of a kill
    """Ends a `with`."""


NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store for all examples of the random tests, each of which has a run of its own."""
    with CheckpointStore(tmp_path_factory.mktemp("tracked") / "tracked.milepost", durability="normal") as store:
        yield store
        store.verify().raise_if_broken()


def _tracked(store: CheckpointStore, **options: Any) -> Tracked:
    return store.tracked(**{"run_id": "run-7", "stage": "load", **options})


def _marks(store: CheckpointStore, run_id: str = "run-7") -> list[tuple[int, int]]:
    found = store.history(run_id, "load")
    return [(each.watermark.offset, each.watermark.event_time_ms) for each in found]


def _offset(store: CheckpointStore) -> int:
    """Where the stage stands."""
    return next((offset for offset, _ in reversed(_marks(store))), 0)


def _call(dones: list[Any]) -> None:
    for done in dones:
        done()


def _failed(error: BaseException | None = None) -> Future[None]:
    future: Future[None] = Future()
    if error is None:
        future.cancel()
    else:
        future.set_exception(error)
    return future


def _finished() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


# The watermark


def test_the_watermark_is_the_lowest_unfinished_offset(store: CheckpointStore) -> None:
    """Not the highest finished one, and not a count."""
    with _tracked(store, every=1) as track:
        dones = [track(offset) for offset in range(5)]
        for finished, expected in ((3, 0), (1, 0), (0, 2), (4, 2), (2, 5)):
            dones[finished]()
            assert track.done == expected
    assert _marks(store) == [(5, 0)]
    assert _tracked(store).start == 5


def test_when_all_is_finished_the_watermark_is_behind_the_last_offset(store: CheckpointStore) -> None:
    """Off by one, and the last record were done again, or the next one skipped."""
    for offset in range(4):
        with _tracked(store) as track:
            assert (track.start, track.start.offset) == (offset, offset)
            track(track.start)()
            assert track.done == offset + 1
        assert _offset(store) == offset + 1


def test_gaps_are_fine(store: CheckpointStore) -> None:
    """Of a compacted or a filtered source: nobody counts."""
    with _tracked(store, every=1) as track:
        dones = {offset: track(offset) for offset in (7, 100, 101, 5000)}
        for finished, expected in ((100, 7), (7, 101), (101, 5000), (5000, 5001)):
            dones[finished]()
            assert track.done == expected
    assert _marks(store) == [(5001, 0)]


def test_before_anything_is_finished_nothing_is_recorded(store: CheckpointStore) -> None:
    """Though all below the first offset is done, in a way."""
    with pytest.raises(Crash), _tracked(store, every=1) as track:
        done = track(100)
        assert track.done == 100
        raise Crash
    assert len(store) == 0
    del done


def test_a_checkpoint_is_recorded_by_track_after_so_many_finished_records(store: CheckpointStore) -> None:
    """Counted in records, not in offsets."""
    seen = []
    with _tracked(store, every=3) as track:
        for number in range(8):
            track(10 * number)()
            seen.append(_offset(store))
    assert seen == [0, 0, 0, 21, 21, 21, 51, 51]
    assert _marks(store) == [(21, 0), (51, 0), (71, 0)]
    assert [each.idempotency_key for each in store.history()] == ["load:0-20", "load:21-50", "load:51-70"]


def test_an_offset_that_does_not_rise_is_refused_and_harms_nothing(store: CheckpointStore) -> None:
    """Neither one before the start, nor a second one."""
    store.append(entry(1, run_id="run-7", stage="load", offset=5))
    with _tracked(store) as track:
        for offset, least in ((4, "5"), (0, "5")):
            with pytest.raises(InvalidArgumentError, match=least):
                track(offset)
        track(9)()
        for offset in (9, 8):
            with pytest.raises(InvalidArgumentError, match="10"):
                track(offset)
        track(10)()
    assert _offset(store) == 11


@pytest.mark.parametrize("offset", [-1, 1.0, "1", None, True, 2**63 - 1, 2**70])
def test_an_offset_that_no_checkpoint_can_have_is_refused(store: CheckpointStore, offset: Any) -> None:
    """By its name; the last one that can be is 2^63-2, since the one behind it is stored."""
    with _tracked(store) as track:
        with pytest.raises(InvalidArgumentError) as refused:
            track(offset)
        assert refused.value.argument == "offset"
        track(2**63 - 2)()
    assert _offset(store) == 2**63 - 1


def test_other_integers_are_taken_as_such(store: CheckpointStore) -> None:
    """NumPy's, pandas'."""

    class Index:
        def __index__(self) -> int:
            return 3

    with _tracked(store) as track:
        done = track(Index())  # type: ignore[arg-type]
        assert (done.offset, type(done.offset)) == (3, int)
        done()
    assert _offset(store) == 4


@pytest.mark.parametrize("options", [{"every": 0}, {"every_s": 0}, {"in_flight": 0}, {"in_flight": None}])
def test_an_argument_that_breaks_a_rule_is_named(store: CheckpointStore, options: dict[str, Any]) -> None:
    """Before anything is begun."""
    with pytest.raises(InvalidArgumentError) as refused:
        _tracked(store, **options)
    assert refused.value.argument == next(iter(options))


def test_event_time_never_falls(store: CheckpointStore) -> None:
    """It is the latest of those that are finished without a gap, and of what was recorded before."""
    with _tracked(store, every=1) as track:
        late, early = track(0, event_time=9000), track(1, event_time="1970-01-01T00:00:01Z")
        early()
        late()
        track(2, event_time=500)()
    assert _marks(store) == [(2, 9000), (3, 9000)]
    with _tracked(store, every=1) as track:
        track(3)()
        unfinished, beyond = track(4, event_time=10_000), track(5, event_time=99_000)
        beyond()
        track(6)()
        assert _marks(store)[-1] == (4, 9000)
        unfinished()
    assert _marks(store)[-1] == (7, 99_000)


@pytest.mark.parametrize("event_time", [-1, "yesterday", True, 1.5])
def test_an_event_time_that_is_none_is_refused(store: CheckpointStore, event_time: Any) -> None:
    """And its record has not begun."""
    with _tracked(store) as track:
        with pytest.raises(InvalidArgumentError) as refused:
            track(0, event_time=event_time)
        assert refused.value.argument == "event_time"
        track(0)()
    assert _offset(store) == 1


# Random programs

PROGRAMS = st.lists(
    st.tuples(
        st.integers(1, 6),  # every
        st.lists(
            st.one_of(
                st.tuples(st.just("track"), st.integers(0, 3), st.integers(0, 50)),  # gap, event time
                st.tuples(st.sampled_from(["done", "done", "done", "fail", "cancel", "again"]), st.integers(0, 99)),
            ),
            max_size=40,
        ),
        st.booleans(),  # whether it comes to a good end
    ),
    max_size=4,
)


class Model:
    """A list of what has begun; what is recorded follows from it by the rule alone."""

    def __init__(self, start: int, event_time_ms: int, every: int) -> None:
        self.start, self.every = start, every
        self.begun: list[list[Any]] = []  # offset, event time, state
        self.first_event_time_ms = event_time_ms
        self.recorded = (start, event_time_ms)
        self.counted = 0

    def mark(self) -> tuple[int, int, int]:
        """How many are finished without a gap, and the watermark."""
        passed = list(itertools.takewhile(lambda each: each[2] == "done", self.begun))
        latest = max([self.first_event_time_ms, *(event_time for _, event_time, _ in passed)])
        rest = self.begun[len(passed) :]
        offset = rest[0][0] if rest else self.begun[-1][0] + 1 if self.begun else self.start
        return len(passed), offset, latest

    def record(self, least: int) -> None:
        """Record, if at least so many are finished."""
        passed, offset, event_time_ms = self.mark()
        if passed - self.counted >= least:
            self.counted, self.recorded = passed, (offset, event_time_ms)


def _random_program(store: CheckpointStore, program: Any) -> None:
    run_id = f"run-{next(NUMBERS)}"
    stands = (0, 0)
    for every, steps, ends_well in program:
        model = Model(*stands, every)
        dones: list[Any] = []
        raised: list[BaseException] = []  # what track() is still to raise
        failures: dict[int, BaseException] = {}
        try:
            with store.tracked(run_id=run_id, stage="load", every=every) as track:
                assert track.start == stands[0]
                for kind, *given_ in steps:
                    if kind == "track":
                        gap, event_time_ms = given_
                        offset = (model.begun[-1][0] + 1 if model.begun else model.start) + gap
                        while raised:
                            with pytest.raises(type(raised[0])) as told:
                                track(offset)
                            assert told.value is raised[0] or isinstance(told.value, concurrent.futures.CancelledError)
                            raised.pop(0)
                        dones.append(track(offset, event_time=event_time_ms))
                        model.record(every)
                        model.begun.append([offset, event_time_ms, "begun"])
                    elif dones:
                        number = given_[0] % len(dones)
                        state = model.begun[number][2]
                        if kind == "again" and state == "begun":
                            continue
                        error = {"fail": Crash(), "cancel": concurrent.futures.CancelledError()}.get(kind)
                        future = None if kind in {"done", "again"} else _failed(error if kind == "fail" else None)
                        dones[number](*([] if future is None else [future]))
                        if state == "begun":
                            model.begun[number][2] = "done" if error is None else "failed"
                            if error is not None:
                                raised.append(error)
                                failures[number] = error
                    assert track.done == model.mark()[1]
                if not ends_well:
                    raise ZeroDivisionError
                for number, done in enumerate(dones):
                    done()
                    if model.begun[number][2] == "begun":
                        model.begun[number][2] = "done"
        except ZeroDivisionError:
            assert not ends_well
        except (Crash, concurrent.futures.CancelledError) as error:
            assert ends_well
            assert isinstance(error, type(failures[min(failures)]))  # noqa: PT017 - one of three ends
        else:
            assert ends_well
            assert not failures
        model.record(1)
        assert _marks(store, run_id)[-1:] == ([model.recorded] if model.recorded != (0, 0) else [])
        stands = model.recorded


@given(PROGRAMS)
@settings(max_examples=25)
@example([(1, [("track", 0, 9), ("track", 2, 3), ("done", 1), ("track", 0, 0), ("done", 0), ("track", 0, 0)], False)])
def test_what_is_recorded_follows_from_what_is_finished(shared: CheckpointStore, program: Any) -> None:
    """Records that begin with gaps, finish in any order, fail, are cancelled, end twice; against a plain model."""
    in_time(lambda: _random_program(shared, program))


@pytest.mark.long
@given(PROGRAMS)
@settings(max_examples=1000)
def test_what_is_recorded_follows_from_what_is_finished_for_long(shared: CheckpointStore, program: Any) -> None:
    """The full dose."""
    in_time(lambda: _random_program(shared, program))


# done()


def test_done_counts_once_and_after_the_exit_it_does_nothing(store: CheckpointStore) -> None:
    """Called twice, with a failed future after it was finished, and too late."""
    with pytest.raises(Crash), _tracked(store, in_flight=2) as track:
        first, second = track(0), track(1)
        for _ in range(3):
            first()
        first(_failed(KeyError()))
        third = track(2)
        waiting = begin(lambda: track(3))
        with pytest.raises(TimeoutError):  # or a slot was given back twice
            waiting.result(0.2)
        third()
        fourth = result(waiting)
        raise Crash
    assert _marks(store) == [(1, 0)]
    for done in (second, third, fourth):
        done()
        done(_failed(KeyError()))
    assert _marks(store) == [(1, 0)]
    with pytest.raises(StoreError, match="inside its `with` only"):
        track(9)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("future", [7, "finished", object(), ValueError])
def test_done_with_what_is_no_future_is_refused_and_leaves_nobody_waiting(
    store: CheckpointStore, future: Any, is_async: bool
) -> None:
    """A pool may call it in a thread whose exceptions nobody sees, such as `multiprocessing.Pool` with a result."""

    def call(done: Any) -> None:
        with pytest.raises(InvalidArgumentError, match="future"):
            done(future)
        done()  # the first one counts

    def run() -> None:
        with _tracked(store) as track:
            track(0)()
            call(track(1))

    async def run_async() -> None:
        async with _tracked(store) as track:
            (await track(0))()
            call(await track(1))

    with pytest.raises(InvalidArgumentError, match="a callback that gets a result"):
        in_time(lambda: asyncio.run(run_async()) if is_async else run())
    assert _offset(store) == 1


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_done_with_an_exception_leaves_the_record_unfinished_and_raises_it(
    store: CheckpointStore, error: BaseException
) -> None:
    """So `multiprocessing.Pool` takes it as an `error_callback`."""
    with pytest.raises(type(error)) as raised, _tracked(store) as track:
        track(0)()
        track(1)(error)
        track(2)
    assert raised.value is error
    assert _offset(store) == 1


def _without_result(done: Done, _: float) -> None:
    done()


def test_a_multiprocessing_pool_is_tracked(store: CheckpointStore) -> None:
    """It has no futures. What fails is not finished, and what it has failed with is raised."""
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(ValueError, match="domain"),
        _tracked(store) as track,
    ):
        for number in range(track.start, 20):
            done = track(number)
            pool.apply_async(math.sqrt, (6 - number,), callback=partial(_without_result, done), error_callback=done)
    assert _offset(store) == 7


def test_a_done_says_how_its_record_stands(store: CheckpointStore) -> None:
    """In a debugger."""
    with contextlib.suppress(KeyError), _tracked(store) as track:
        dones = [track(5), track(6), track(7)]
        dones[0]()
        dones[1](_failed(KeyError("x")))
        assert [repr(done) for done in dones] == [
            "<Done of offset 5, finished>",
            "<Done of offset 6, failed with KeyError('x')>",
            "<Done of offset 7, under way>",
        ]
        dones[2]()


def test_ten_thousand_records_in_eight_threads(store: CheckpointStore) -> None:
    """As futures' callbacks, from whichever thread."""
    taken: list[int] = []

    def work(offset: int) -> None:
        taken.append(offset)

    def run() -> None:
        with _tracked(store, every=500, in_flight=300) as track, ThreadPoolExecutor(8) as pool:
            for offset in range(10_000):
                pool.submit(work, offset).add_done_callback(track(offset))

    in_time(run)
    assert sorted(taken) == list(range(10_000))
    assert _offset(store) == 10_000
    assert all(later > earlier for (earlier, _), (later, _) in itertools.pairwise(_marks(store)))


def test_done_from_many_threads_at_once_gives_each_slot_back_once(store: CheckpointStore) -> None:
    """All call that of all."""
    with _tracked(store, in_flight=400) as track:
        dones = [track(offset) for offset in range(400)]
        threads = [threading.Thread(target=_call, args=(dones,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        more = [track(offset) for offset in range(400, 800)]
        for done in random.Random(7).sample(more, 400):
            done()
    assert _offset(store) == 800


def test_done_never_records(store: CheckpointStore) -> None:
    """Not as a callback, though a checkpoint is due: the thread that calls track() commits."""
    threads: set[str] = set()

    def work() -> None:
        assert threads <= {"caller"}

    clock = store._clock

    def noted() -> int:
        threads.add(threading.current_thread().name)
        return clock()

    def run() -> None:
        threading.current_thread().name = "caller"
        with _tracked(store, every=1, in_flight=4) as track, ThreadPoolExecutor(4) as pool:
            for offset in range(200):
                pool.submit(work).add_done_callback(track(offset))

    store._clock = noted
    in_time(run)
    store._clock = clock
    assert threads == {"caller"}
    assert _offset(store) == 200


def test_done_from_a_signal_handler(store: CheckpointStore) -> None:
    """Whatever the main thread is at: recording, collecting, beginning; `done` of the source may be asked there too."""
    waiting: list[Any] = []

    def handler(*_: object) -> None:
        while waiting:
            waiting.pop()()
        assert track.done >= 0
        signal.setitimer(signal.ITIMER_REAL, 0.0003)  # again, but never within itself

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with _tracked(store, every=3, in_flight=20) as track:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)
            for offset in range(3_000):
                waiting.append(track(offset))  # noqa: PERF401 - the handler takes it at once
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert _offset(store) == 3_000


def test_done_of_the_source_may_be_asked_while_a_thread_collects(store: CheckpointStore) -> None:
    """A signal handler that comes in the middle of it would wait for its own thread."""
    with _tracked(store) as track:
        track(0)()
        progress: Any = track._progress
        with progress._collecting:
            assert in_time(lambda: track.done, 5) == 0
        assert track.done == 1


# in_flight


@pytest.mark.parametrize("in_flight", [1, 3, 50])
def test_no_more_than_in_flight_are_unfinished_and_track_waits_for_a_slot(store: CheckpointStore, in_flight: int) -> None:
    """A thread sleeps."""
    begun: list[Any] = []

    def run() -> None:
        with _tracked(store, in_flight=in_flight) as track:
            for offset in range(in_flight + 5):
                begun.append(track(offset))  # noqa: PERF401 - the test looks at it meanwhile
            until(lambda: all("finished" in repr(done) for done in begun))

    future = begin(run)
    for number in range(5):
        until(lambda: len(begun) == in_flight + number)  # noqa: B023 - called at once
        time.sleep(0.02)
        assert len(begun) == in_flight + number
        begun[number]()
    until(lambda: len(begun) == in_flight + 5)
    for done in begun:
        done()
    result(future)
    assert _offset(store) == in_flight + 5


def test_in_a_task_track_waits_without_holding_the_event_loop(store: CheckpointStore) -> None:
    """Others go on, and give the slots back."""
    at_once, most = 0, 0

    async def work(offset: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001 * (offset % 3))
        at_once -= 1

    async def main() -> None:
        async with _tracked(store, every=7, in_flight=5) as track:
            for offset in range(100):
                done = await track(offset)
                asyncio.create_task(work(offset)).add_done_callback(done)

    in_time(lambda: asyncio.run(main()))
    assert most == 5
    assert _offset(store) == 100


def test_tasks_that_share_a_source_begin_their_records_in_the_order_of_their_calls(store: CheckpointStore) -> None:
    """One that records, or waits for a slot, is not overtaken: its offset would be refused."""

    async def main() -> None:
        offsets = iter(range(400))

        async def serve() -> None:
            for offset in offsets:
                done = await track(offset)
                await asyncio.sleep(0.0005 * (offset % 4))
                done()

        async with _tracked(store, every=3, in_flight=4) as track:
            await asyncio.gather(*(serve() for _ in range(8)))

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 400


def test_a_plain_with_that_would_hold_the_event_loop_is_refused(store: CheckpointStore) -> None:
    """In track(), and at the exit; what is finished is recorded, and nothing hangs."""

    async def main() -> None:
        with _tracked(store, in_flight=3) as track:
            track(0)()
            kept = [track(offset) for offset in range(1, 4)]
            with pytest.raises(StoreError, match=r"3 records are unfinished.*async with"):
                track(4)
            kept[0]()
            kept.append(track(4))

    with pytest.raises(StoreError, match=r"3 records are unfinished.*async with"):
        in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 2


def test_a_plain_with_in_an_event_loop_works_where_nothing_waits(store: CheckpointStore) -> None:
    """All is finished by the time that a slot is asked for."""

    async def main() -> None:
        with _tracked(store, in_flight=1, every=2) as track:
            for offset in range(10):
                track(offset)()

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 10


# Failures


@pytest.mark.parametrize("error", [KeyError("x"), None])
def test_a_failed_or_cancelled_future_is_raised_by_the_next_track_and_at_the_exit(
    store: CheckpointStore, error: Exception | None
) -> None:
    """Its slot is free, and the watermark stays below it."""
    kind = concurrent.futures.CancelledError if error is None else KeyError

    def run() -> None:
        with _tracked(store, every=1, in_flight=2) as track:
            track(0)()
            track(1)(_failed(error))
            with pytest.raises(kind):
                track(2)
            for offset in range(2, 10):  # it is raised once
                track(offset)(_finished())

    with pytest.raises(kind):
        in_time(run)
    assert _offset(store) == 1


def test_of_several_failures_each_is_raised_once_and_the_lowest_offset_at_the_exit(store: CheckpointStore) -> None:
    """And all the rest is waited for."""
    errors = [KeyError(number) for number in range(3)]
    with pytest.raises(KeyError) as told, _tracked(store) as track:
        dones = [track(offset) for offset in range(4)]
        for number in (2, 0, 1):
            dones[number](_failed(errors[number]))
        for number in (2, 0, 1):
            with pytest.raises(KeyError) as raised:
                track(4)
            assert raised.value is errors[number]
        done = track(4)
        late = threading.Timer(0.1, lambda: _call([dones[3], done]))
        late.start()
    assert told.value is errors[0]
    assert all("finished" in repr(each) for each in (dones[3], done))
    assert len(store) == 0


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_a_task_that_fails_or_is_cancelled_is_raised(store: CheckpointStore, how: str) -> None:
    """As its callback says."""

    async def work(offset: int) -> None:
        await asyncio.sleep(0)
        if offset == 3 and how == "fails":
            raise Crash

    async def main() -> None:
        async with _tracked(store, every=1, in_flight=2) as track:
            for offset in range(10):
                done = await track(offset)
                task = asyncio.create_task(work(offset))
                task.add_done_callback(done)
                if offset == 3 and how == "is cancelled":
                    task.cancel()

    with pytest.raises(Crash if how == "fails" else concurrent.futures.CancelledError):
        in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 3


def test_a_record_whose_done_is_lost_is_told_and_does_not_hang(store: CheckpointStore) -> None:
    """A task that the garbage collector found, or a branch of the caller's that forgot it."""

    def run() -> None:
        with _tracked(store, every=1, in_flight=2) as track:
            track(0)()
            track(1)
            kept = track(2)
            with pytest.raises(StoreError, match="offset 1"):
                track(3)
            kept()

    with pytest.raises(StoreError, match="offset 1"):
        in_time(run)
    assert _offset(store) == 1


def test_a_task_whose_done_is_lost_is_told_and_does_not_hang(store: CheckpointStore) -> None:
    """Likewise."""

    async def main() -> None:
        async with _tracked(store, every=1, in_flight=1) as track:
            (await track(0))()
            await track(1)
            gc.collect()

    with pytest.raises(StoreError, match="offset 1"):
        in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 1


# The exit


def test_the_exit_waits_for_all(store: CheckpointStore) -> None:
    """A thread; what is finished last is recorded."""
    with _tracked(store) as track:
        dones = [track(offset) for offset in range(10)]
        timers = [threading.Timer(0.01 * number, done) for number, done in enumerate(reversed(dones))]
        for timer in timers:
            timer.start()
    assert not any("under way" in repr(done) for done in dones)
    assert _marks(store) == [(10, 0)]


def test_after_an_exception_what_is_finished_without_a_gap_is_recorded(store: CheckpointStore) -> None:
    """And nothing is waited for."""
    with pytest.raises(Crash), _tracked(store) as track:
        dones = [track(offset) for offset in range(6)]
        for number in (0, 1, 2, 4):
            dones[number]()
        raise Crash
    assert _marks(store) == [(3, 0)]


def test_cancelled_what_is_finished_without_a_gap_is_recorded(store: CheckpointStore) -> None:
    """In the body, in track(), and in the exit."""

    async def main(where: str) -> None:
        async with _tracked(store, in_flight=4) as track:
            dones = [await track(int(track.start) + number) for number in range(4)]
            dones[0]()
            dones[2]()
            if where == "body":
                await asyncio.sleep(60)
            if where == "track":
                dones.append(await track(int(track.start) + 4))
                await track(int(track.start) + 5)

    async def cancelled(where: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await main(where)

    for expected, where in enumerate(("body", "track", "exit"), 1):
        in_time(lambda where=where: asyncio.run(cancelled(where)))  # type: ignore[misc]
        assert _offset(store) == expected


def test_a_cancelled_recording_that_went_well_is_not_taken_for_another_owner(store: CheckpointStore) -> None:
    """The next one goes on behind it: a cancelled await and a commit are two things."""

    async def main() -> None:
        async with _tracked(store, every=1) as track:
            for number in range(150):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.00002 * (number % 50)):
                        (await track(number))()

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) > 0
    assert all(later > earlier for (earlier, _), (later, _) in itertools.pairwise(_marks(store)))


def test_an_interrupted_recording_that_went_well_is_not_taken_for_another_owner(store: CheckpointStore) -> None:
    """Ctrl-C behind the commit, and before it is noted."""
    with _tracked(store, every=1) as track:
        track(0)()
        progress: Any = track._progress
        note, progress._note = progress._note, lambda *_: signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            track(1)
        progress._note = note
        track(1)()
    assert _marks(store) == [(1, 0), (2, 0)]


def test_a_task_that_is_dropped_in_the_exit_records_what_is_finished(store: CheckpointStore) -> None:
    """Its loop is gone: nothing can be awaited."""

    async def main() -> None:
        async with _tracked(store) as track:
            (await track(0))()
            kept.append(await track(1))

    kept: list[Any] = []

    async def begin_and_leave() -> None:
        running = main()
        for _ in range(5):
            running.send(None)
            if kept:
                break
        running.close()

    in_time(lambda: asyncio.run(begin_and_leave()))
    assert _offset(store) == 1


def test_a_failure_to_record_never_masks_the_exception_of_the_body(store: CheckpointStore) -> None:
    """It becomes a note."""
    with pytest.raises(Crash) as told, _tracked(store) as track:
        track(0)()
        store.append(entry(1, run_id="run-7", stage="load", offset=9, event_time_ms=1))
        raise Crash
    assert "could not be recorded" in told.value.__notes__[0]
    assert _marks(store) == [(9, 1)]


def test_with_and_async_with_are_entered_once(store: CheckpointStore) -> None:
    """One begun in vain would hide the other."""
    tracked = _tracked(store)
    with pytest.raises(StoreError, match="inside its `with` only"):
        tracked(0)
    with tracked, pytest.raises(StoreError, match="entered once"):
        tracked.__enter__()

    async def main() -> None:
        tracked = _tracked(store)
        async with tracked as track:
            with pytest.raises(StoreError, match="entered once"):
                await tracked.__aenter__()
            with pytest.raises(StoreError, match="entered once"):
                tracked.__enter__()
            (await track(0))()
            assert tracked.done == track.done == 1
            assert tracked.start == track.start == 0

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 1


# Other owners, locks, closed stores


@pytest.mark.parametrize("every_s", [None, 0.01])
def test_of_two_owners_of_a_stage_one_is_told(store: CheckpointStore, every_s: float | None) -> None:
    """At its next record, or, where the ticker finds it, at the next track()."""
    with pytest.raises(StageMovedError), _tracked(store, every=1, every_s=every_s) as track:
        with _tracked(store) as other:
            other(0)()
            other(1)()
        track(0)()
        if every_s is not None:
            until(lambda: track._progress is not None and track._progress.attention)
        track(1)
    assert _marks(store) == [(2, 0)]


def test_a_recording_that_failed_is_not_taken_for_one_that_went_well(store: CheckpointStore) -> None:
    """If another owner moves the stage just there meanwhile, the first one is told."""
    with pytest.raises(StageMovedError), _tracked(store, every=1) as track:
        track(0)()
        with store.transaction():
            store._writer.busy_timeout_ms = 50
            with pytest.raises(StoreBusyError):
                in_time(lambda: track(1))
            store._writer.busy_timeout_ms = 5000
        with _tracked(store) as other:
            other(0)()
        track(1)
    assert _marks(store) == [(1, 0)]


def test_a_store_that_is_closed_within_is_told(store: CheckpointStore) -> None:
    """By track(), and by the exit, which does not wait for what nobody can record."""
    with CheckpointStore(store.path, durability="normal") as other:

        def run() -> None:
            with _tracked(other) as track:
                kept = track(0)
                other.close()
                with pytest.raises(ClosedStoreError):
                    track(1)
                del kept

        with pytest.raises(ClosedStoreError):
            in_time(run)


def test_a_reader_cannot_track(store: CheckpointStore) -> None:
    """It never writes."""
    store.append(entry(1))
    with CheckpointStore.open_readonly(store.path) as reader, pytest.raises(ReadOnlyStoreError):
        reader.tracked(run_id="run-7", stage="load").__enter__()


# every_s


def test_every_s_records_while_nobody_calls_track(store: CheckpointStore) -> None:
    """The last ones of an idle source."""
    with _tracked(store, every_s=0.01) as track:
        dones = [track(offset) for offset in range(3)]
        dones[0]()
        until(lambda: _offset(store) == 1)
        dones[2]()
        dones[1]()
        until(lambda: _offset(store) == 3)


def test_every_s_records_while_a_task_awaits_something_else(store: CheckpointStore) -> None:
    """Likewise."""

    async def main() -> None:
        async with _tracked(store, every_s=0.01) as track:
            (await track(0))()
            while _offset(store) < 1:
                await asyncio.sleep(0.001)

    in_time(lambda: asyncio.run(main()))


def test_a_ticker_beside_busy_records_leaves_nothing_unrecorded(store: CheckpointStore) -> None:
    """It looks at what is finished while the caller does."""
    for number in range(20):
        with _tracked(store, every_s=0.0001, every=1000) as track:
            for offset in range(300):
                track(300 * number + offset)()
        assert _offset(store) == 300 * (number + 1)


# stop()


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_stop_ends_the_with_quietly_at_the_next_track_waits_and_records(store: CheckpointStore, every: int) -> None:
    """For a SIGTERM handler."""
    with _tracked(store, every=every) as track:
        dones = [track(offset) for offset in range(6)]
        timer = threading.Timer(0.1, lambda: _call(dones))
        timer.start()
        track.stop()
        track(6)
        pytest.fail("it goes on")
    assert all("finished" in repr(done) for done in dones)
    assert _offset(store) == 6


@pytest.mark.parametrize("is_async", [False, True])
def test_stop_records_what_is_finished_before_the_with_waits_for_the_rest(store: CheckpointStore, is_async: bool) -> None:
    """Whoever sent SIGTERM sends SIGKILL soon, and the rest may take longer than that."""
    dones: list[Any] = []

    def run() -> None:
        with _tracked(store) as track:
            dones.extend(track(offset) for offset in range(6))
            _call(dones[:4])
            track.stop()
            track(6)

    async def run_async() -> None:
        async with _tracked(store) as track:
            dones.extend([await track(offset) for offset in range(6)])
            _call(dones[:4])
            track.stop()
            await track(6)

    running = begin(lambda: asyncio.run(run_async()) if is_async else run())
    try:
        until(lambda: _offset(store) == 4)
    finally:
        _call(dones[4:])
    result(running)
    assert _offset(store) == 6


def test_stop_before_the_with_ends_it_at_the_first_track(store: CheckpointStore) -> None:
    """A signal may come early."""
    tracked = _tracked(store)
    tracked.stop()
    with tracked as track:
        track(0)
        pytest.fail("it goes on")

    async def main() -> None:
        tracked = _tracked(store)
        tracked.stop()
        async with tracked as track:
            await track(0)
            pytest.fail("it goes on")

    in_time(lambda: asyncio.run(main()))
    assert len(store) == 0


def test_stop_passes_through_what_stands_in_between(store: CheckpointStore) -> None:
    """Blocks, pools, and `except Exception`."""
    with _tracked(store) as track, ThreadPoolExecutor(2) as pool, contextlib.ExitStack():
        for offset in range(10):
            if offset == 5:
                track.stop()
            with contextlib.suppress(Exception):
                pool.submit(time.sleep, 0.01).add_done_callback(track(offset))
    assert _offset(store) == 5


def test_stop_passes_through_the_with_of_another_source(store: CheckpointStore) -> None:
    """It ends that of its own, and what stands behind the other one is not run."""
    with _tracked(store) as outer:
        with _tracked(store, stage="other") as inner:
            for offset in range(10):
                if offset == 5:
                    outer.stop()
                done = outer(offset)
                inner(offset)()
                done()
        pytest.fail("it goes on")
    assert {stage: point.watermark.offset for stage, point in store.resume_points("run-7").items()} == {
        "load": 5,
        "other": 5,
    }


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_stop_of_the_source_or_of_what_async_with_gave(store: CheckpointStore, which: str) -> None:
    """A handler may know either."""

    async def main() -> None:
        tracked = _tracked(store)
        async with tracked as track:
            for offset in range(10):
                if offset == 5:
                    (track if which == "inner" else tracked).stop()
                (await track(offset))()
            pytest.fail("it goes on")

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 5


@pytest.mark.parametrize("where", ["around", "inside", "in its tasks"])
def test_stop_ends_quietly_with_a_task_group(store: CheckpointStore, where: str) -> None:
    """One around it waits for the tasks; one inside cancels those under way, and these come again."""

    async def main() -> None:
        async def work(track: Any, offset: int) -> None:
            if where == "in its tasks" and offset == 5:
                (await track(10))()
            await asyncio.sleep(0.01 if offset < 3 else 0.1)

        async with contextlib.AsyncExitStack() as stack:
            if where == "around":
                group = await stack.enter_async_context(asyncio.TaskGroup())
            track = await stack.enter_async_context(_tracked(store))
            if where != "around":
                group = await stack.enter_async_context(asyncio.TaskGroup())
            for offset in range(6):
                if offset == 5:
                    await asyncio.sleep(0.05)
                    track.stop()
                if where == "in its tasks" and offset == 5:
                    group.create_task(work(track, offset))
                else:
                    done = await track(offset)
                    group.create_task(work(track, offset)).add_done_callback(done)

    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == (5 if where == "around" else 3)


def test_what_else_comes_out_of_a_task_group_is_raised_without_the_stop(store: CheckpointStore) -> None:
    """The stop is nobody's to catch."""

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise Crash

    async def main() -> None:
        async with _tracked(store) as track, asyncio.TaskGroup() as group:
            group.create_task(work())
            await asyncio.sleep(0)
            (await track(0))()
            track.stop()
            await track(1)

    with pytest.raises(ExceptionGroup) as told:
        in_time(lambda: asyncio.run(main()))
    assert [type(error) for error in told.value.exceptions] == [Crash]
    assert _offset(store) == 1


def test_stop_is_noticed_by_a_track_that_waits(store: CheckpointStore) -> None:
    """A thread and a task; the record that it waits with has not begun."""

    def run() -> None:
        with _tracked(store, in_flight=1) as track:
            done = track(int(track.start))
            threading.Timer(0.1, track.stop).start()
            threading.Timer(0.4, done).start()
            track(int(track.start) + 1)
            pytest.fail("it goes on")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with _tracked(store, in_flight=1) as track:
            done = await track(int(track.start))
            loop.call_later(0.1, track.stop)
            loop.call_later(0.4, done)
            await track(int(track.start) + 1)
            pytest.fail("it goes on")

    in_time(run)
    assert _offset(store) == 1
    in_time(lambda: asyncio.run(main()))
    assert _offset(store) == 2


def test_a_run_has_tracked_sources(store: CheckpointStore) -> None:
    """With its name bound."""
    with store.run("run-7") as run, run.tracked(stage="load") as track:
        track(0)()
    assert store.resume_point_for_stage("load", run_id="run-7").watermark == Watermark(1, 0)


def test_what_ends_after_the_with_is_recorded_by_no_tick(store: CheckpointStore) -> None:
    """The thread of `every_s` may have begun another look when the `with` was left."""
    with contextlib.suppress(Crash), _tracked(store, every_s=3600) as track:
        done = track(0)
        raise Crash
    done()
    track._progress.record_meanwhile()  # type: ignore[union-attr]
    assert _offset(store) == 0

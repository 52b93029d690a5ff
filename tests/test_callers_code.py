"""A clock, an iterator, a path of the caller's: what they raise is the caller's own, and changes nothing."""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import UTC, datetime, tzinfo
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

import milepost
from milepost import Checkpoint, CheckpointStore, InvalidArgumentError, Watermark, arguments, cursors, errors, steps
from support.chains import entry
from support.hostile import HostileError, hostile
from support.patience import in_time
from support.refusals import left_as_it_was
from support.used_store import advance, loop, mapped, once, resume
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

NEXT = 1_000_000  # a sequence that the tests of this module never reach, so that it always rises


_CLOCK_SCRIPT = """
import sys
from milepost import Checkpoint, CheckpointStore, MilepostError, Watermark

def clock():
    if use == "appends":
        store.append(Checkpoint("run-7", "extract", 1, Watermark(1, 0), "extract:1", 0))
    elif use == "begins":
        with store.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sink (amount INTEGER) STRICT")
    return len(store)

for use in ("reads", "appends", "begins"):
    with CheckpointStore(f"{sys.argv[1]}-{use}", clock=clock) as store:
        for sequence in (1, 2):
            try:
                store.advance("run-7", "load", Watermark(sequence, 0), idempotency_key=f"load:{sequence}")
            except MilepostError as error:
                print(error)
        store.verify().raise_if_broken()
        assert len(store) == len(list(store.history()))
        assert store.latest_for_stage("load") is not None or use != "reads"
    print(use, "is done")
"""


def test_a_clock_that_uses_the_store_confuses_nothing(path: Path) -> None:
    """What it does comes before the checkpoint that it is asked for, or it is refused in words; nobody waits forever."""
    done = warm_programs().run("-c", _CLOCK_SCRIPT, path)
    assert done.stderr == ""
    assert done.stdout.count("is done") == 3


def _raises_half_way() -> Iterator[Checkpoint]:
    yield entry(NEXT)
    yield entry(NEXT + 1)
    raise HostileError


class _RaisesAtOnce:
    def __iter__(self) -> Iterator[Checkpoint]:
        raise HostileError


class _RaisesAtSubmit:
    submit = hostile


class _RaisesAsPath:
    def __fspath__(self) -> str:
        raise HostileError


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda s: s.append_many(_raises_half_way()), id="append_many, half way"),
        pytest.param(lambda s: s.append_many(_RaisesAtOnce()), id="append_many, at once"),
        pytest.param(lambda s: _loop_over(s, _raises_half_way()), id="checkpointed, half way"),
        pytest.param(lambda s: _loop_over(s, _raises_half_way(), transaction=True), id="checkpointed transaction, half way"),
        pytest.param(lambda s: loop(s, event_time=hostile), id="checkpointed event_time"),
        pytest.param(lambda s: loop(s, event_time=hostile, transaction=True), id="checkpointed transaction event_time"),
        pytest.param(lambda s: resume(s, records=hostile), id="checkpointed records"),
        pytest.param(lambda s: loop(s, cursor=hostile), id="checkpointed cursor"),
        pytest.param(lambda s: loop(s, cursor=hostile, transaction=True), id="checkpointed transaction cursor"),
        pytest.param(lambda s: mapped(s, work=hostile), id="map work"),
        pytest.param(lambda s: mapped(s, executor=_RaisesAtSubmit()), id="map executor"),
        pytest.param(lambda s: once(s, key=hostile), id="once key"),
        pytest.param(lambda s: once(s, key=hostile, transaction=True), id="once transaction key"),
        pytest.param(lambda s: s.verify(progress=hostile), id="verify progress"),
        pytest.param(lambda _: CheckpointStore(_RaisesAsPath()), id="open path"),
        pytest.param(lambda _: CheckpointStore.open_readonly(_RaisesAsPath()), id="open_readonly path"),
    ],
)
def test_an_exception_of_the_callers_own_code_passes_through_and_changes_nothing(
    used: CheckpointStore, call: Callable[[CheckpointStore], object]
) -> None:
    """It is the caller's, unchanged, and not one of milepost."""
    with left_as_it_was(used), pytest.raises(HostileError):
        call(used)


def _loop_over(store: CheckpointStore, records: Iterable[object], **arguments: Any) -> None:
    for _ in store.checkpointed(records, run_id="new run", stage="load", **arguments):
        pass


def test_a_clock_that_raises_passes_through_and_changes_nothing(path: Path) -> None:
    """The write transaction that was begun for it is undone."""
    opened = CheckpointStore(path, durability="normal", clock=hostile)
    with opened as store, left_as_it_was(store), pytest.raises(HostileError):
        advance(store)


def _drain(loop: Any, *, is_async: bool) -> int:
    """How many records a loop hands out."""

    async def drain() -> int:
        async with loop:
            return len([record async for record in loop])

    return in_time(lambda: asyncio.run(drain())) if is_async else len(list(loop))


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_bag", [False, True])
def test_a_clock_that_has_nothing_more_to_tell_does_not_look_like_the_end_of_a_loop(
    path: Path, transaction: bool, is_async: bool, is_bag: bool
) -> None:
    """A `for` takes a StopIteration for its end: the batch would be undone, and the rest left out, without a word."""
    times = iter(range(1, 4))

    def clock() -> int:
        for time in times:
            return time
        raise StopAsyncIteration if is_async else StopIteration

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        given: dict[str, Any] = {"run_id": "run-7", "stage": "load", "every": 2, "transaction": transaction}
        loop = store.once(range(100), key=str, **given) if is_bag else store.checkpointed(range(100), **given)
        with pytest.raises(RuntimeError, match="StopAsyncIteration" if is_async else "StopIteration"):
            _drain(loop, is_async=is_async)
        assert store.resume_point_for_stage("load").watermark.offset in {2, 4, 6}


@pytest.mark.parametrize("mapped", [False, True])
def test_a_function_of_the_start_that_has_nothing_more_does_not_look_like_the_end_of_a_loop(
    store: CheckpointStore, mapped: bool
) -> None:
    """`chain.from_iterable([loop])` and `yield from` would take its StopIteration for the end of their own source."""
    loop: Any = store.checkpointed(lambda _: next(iter(())), run_id="run-7", stage="load")
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(chain.from_iterable([loop.map(str) if mapped else loop]))


class _AlarmError(Exception):
    """What the handler of an alarm raises, as many time limits do."""


def _alarm(*_: object) -> None:
    raise _AlarmError


_STEPS = [("run-7", "load", Watermark(1, 0), f"step-{number}") for number in range(100)]
_TAKEN: dict[str, Callable[[], object]] = {
    "a cursor": lambda: cursors.encode({"pages": ["x" * 40] * 500}),
    "steps": lambda: steps.checked_steps(_STEPS),
    "steps by name": lambda: steps.checked_steps([dict(zip(steps._NEEDED, step, strict=True)) for step in _STEPS]),
    "times": lambda: [milepost.ms(datetime(2013, 3, 1, tzinfo=UTC)) for _ in range(300)],
    "integers": lambda: [arguments.plain_integer(number) for number in ["7", 7.5, None] * 300],
    "names": lambda: [errors.shown(name) for name in ["run-7", 7, None] * 100],
}


@pytest.mark.parametrize("take", _TAKEN.values(), ids=_TAKEN)
def test_what_a_signal_handler_raises_comes_out_as_it_is(take: Callable[[], object]) -> None:
    """While the store looks at an argument that is right: never as an error about it."""
    before, chance, raised = signal.signal(signal.SIGALRM, _alarm), random.Random(7), 0
    started = perf_counter()
    take()
    lasts = perf_counter() - started
    try:
        for _ in range(400):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(1e-6, chance.uniform(0, lasts)))
                    take()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except _AlarmError:
                raised += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised > 10


def test_what_an_argument_itself_raises_passes_through_where_nothing_else_can_raise_it(store: CheckpointStore) -> None:
    """It is no TypeError that says that a value is of no use here."""

    class Members(dict[str, object]):
        items = hostile

    class Index:
        __index__ = hostile

    class Zone(tzinfo):
        utcoffset = dst = tzname = hostile

    given: dict[str, Any] = {"run_id": "run-7", "stage": "load", "idempotency_key": "a"}
    with pytest.raises(HostileError):
        store.advance(**given, watermark=Watermark(1, 0), cursor=Members(page=1))
    with pytest.raises(HostileError):
        store.advance(**given, watermark=Watermark(Index(), 0))  # type: ignore[arg-type]
    with pytest.raises(HostileError):
        store.latest(as_of=datetime(2013, 3, 1, tzinfo=Zone()))
    assert len(store) == 0


def test_an_error_about_an_argument_says_what_it_comes_of(store: CheckpointStore) -> None:
    """By its cause, also where it is one of many."""

    class Step(dict[str, object]):
        __len__ = hostile

    step: Any = ("run-7", "load", Watermark(1, 0), "a", None, {1})
    for call, kind in (
        (lambda: store.advance_many([step]), TypeError),
        (lambda: store.advance_many([Step(run_id="run-7")]), HostileError),
        (lambda: store.advance_many(5), TypeError),  # type: ignore[arg-type]
        (lambda: store.append_many(5), TypeError),  # type: ignore[arg-type]
        (lambda: cursors.encode(float("nan")), ValueError),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            call()
        assert type(refused.value.__cause__) is kind

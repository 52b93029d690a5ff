"""A bag of items: each is done once, in whatever order they come."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
import tracemalloc
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, InvalidArgumentError, InvalidCheckpointError, Watermark
from milepost.progress import ItemProgress
from support.chains import entry
from support.patience import begin, in_time, result, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from milepost import Once


class Crash(Exception):  # noqa: N818 - plays the part of a kill
    """Ends a loop."""


NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store for all examples of the random tests, each of which has a run of its own."""
    with CheckpointStore(tmp_path_factory.mktemp("bags") / "bags.milepost", durability="normal") as store:
        yield store
        store.verify().raise_if_broken()


def _once(store: CheckpointStore, items: Any, **options: Any) -> Once[Any]:
    return store.once(items, **{"run_id": "run-7", "stage": "fetch", "key": str, **options})


def _keys(store: CheckpointStore, run_id: str = "run-7") -> list[str]:
    return [key for key, _, _ in _recorded(store, run_id)]


def _recorded(store: CheckpointStore, run_id: str = "run-7") -> list[tuple[str, int, int]]:
    found = store.history(run_id, "fetch")
    return [(each.idempotency_key, each.sequence, each.watermark.offset) for each in found]


def _until_crash(loop: Iterable[Any], handed_out: int) -> list[Any]:
    """Loop, and crash while that many have been handed out: the last of these is not finished."""
    found = []
    try:
        for item in loop:
            found.append(item)
            if len(found) == handed_out:
                raise Crash
    except Crash:
        pass
    return found


async def _async(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


def _all_of(loop: Any, *, asynchronous: bool) -> list[Any]:
    """Loop to the end, by `for` or by `async for`."""
    if not asynchronous:
        return list(in_time(lambda: list(loop)))

    async def main() -> list[Any]:
        async with loop:
            return [each async for each in loop]

    return in_time(lambda: asyncio.run(main()))


# What is handed out, and what is recorded


@pytest.mark.parametrize("length", [0, 1, 40, 300, 1_000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_item_of_a_bag_is_handed_out_once_and_is_an_entry_of_its_own(
    store: CheckpointStore, length: int, transaction: bool, asynchronous: bool
) -> None:
    """Its key, and how many are done; the second pass has nothing to do."""
    for expected in (list(range(length)), []):
        loop = _once(store, range(length), transaction=transaction)
        assert _all_of(loop, asynchronous=asynchronous) == expected
        assert loop.done == length
    assert _recorded(store) == [(str(n), n + 1, n + 1) for n in range(length)]


def test_items_are_recorded_every_so_many_and_at_the_end(store: CheckpointStore) -> None:
    """An item is finished when the loop asks for the next one."""
    seen = [(item, len(store)) for item in _once(store, range(8), every=3)]
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6)]
    assert len(store) == 8


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


PASSES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 60), max_size=50),  # the items, doubled ones among them
        st.integers(1, 12),  # every
        st.one_of(st.none(), st.integers(1, 30)),  # which handed out item crashes
        st.sampled_from(["list", "generator", "async"]),
        st.booleans(),  # transaction
    ),
    max_size=5,
)


def _random_passes(store: CheckpointStore, passes: Any) -> None:
    """Shuffled, with items added and doubled, killed anywhere: exactly the unrecorded ones come; a list is the model."""
    run_id = f"run-{next(NUMBERS)}"
    recorded: list[str] = []
    for items, every, crash_at, kind, transaction in passes:
        source = {"list": items, "generator": (each for each in items), "async": _async(items)}[kind]
        loop = _once(store, source, run_id=run_id, every=every, transaction=transaction)
        expected = [each for each in _distinct(items) if str(each) not in recorded]
        crashes = crash_at is not None and crash_at <= len(expected)
        if kind == "async":
            found = asyncio.run(_until_crash_async(loop, crash_at or 0))
        else:
            found = _until_crash(loop, crash_at or 0)
        assert found == (expected[:crash_at] if crashes else expected)
        finished = len(found) - 1 if crashes else len(found)
        recorded += map(str, expected[: finished // every * every if crashes else finished])
        assert _recorded(store, run_id) == [(key, n, n) for n, key in enumerate(recorded, 1)]


async def _until_crash_async(loop: Any, handed_out: int) -> list[Any]:
    found = []
    try:
        async with loop:
            async for item in loop:
                found.append(item)
                if len(found) == handed_out:
                    raise Crash
    except Crash:
        pass
    return found


@given(PASSES)
@settings(max_examples=20)
@example([([1, 2, 3, 1], 2, 3, "list", True), ([3, 1, 9, 9, 2], 1, None, "generator", False)])
def test_exactly_the_items_that_are_not_recorded_come(shared: CheckpointStore, passes: Any) -> None:
    """Random passes against a plain model."""
    _random_passes(shared, passes)


@pytest.mark.long
@given(PASSES)
@settings(max_examples=1000)
def test_exactly_the_items_that_are_not_recorded_come_for_long(shared: CheckpointStore, passes: Any) -> None:
    """The full dose."""
    _random_passes(shared, passes)


def test_of_a_bag_that_is_shuffled_after_a_kill_exactly_the_rest_comes(store: CheckpointStore) -> None:
    """10,000 items, killed at 6,051, with one added: 4,001 come."""
    items = [f"item-{n}" for n in range(10_000)]
    done = _until_crash(_once(store, items, every=500), 6_051)[:6_000]
    random.Random(7).shuffle(items)
    rest = list(_once(store, [*items, "added"], every=500))
    assert len(rest) == 4_001
    assert sorted(done + rest) == sorted([*items, "added"])


@pytest.mark.parametrize("examples", [25, pytest.param(60, marks=pytest.mark.long)])
def test_a_key_is_any_text_and_equal_only_to_itself(shared: CheckpointStore, examples: int) -> None:
    """Whatever JSON or SQL may think of it."""

    @settings(max_examples=examples)
    @given(st.lists(st.text(min_size=1, max_size=20), max_size=30, unique=True))
    @example(
        ["1", "1.0", "01", "null", "true", '"', "\\", "\u2028", "\x7f", "\x01", "é", "e\u0301", "\U0001f600", "[1]", "{}"]
    )
    def check(keys: list[str]) -> None:
        run_id = f"run-{next(NUMBERS)}"
        keys = [key for key in keys if "\0" not in key]
        half = keys[: len(keys) // 2]
        assert list(_once(shared, half, run_id=run_id, transaction=True)) == half
        assert list(_once(shared, keys, run_id=run_id)) == keys[len(half) :]
        assert _keys(shared, run_id) == keys

    check()


def test_keys_as_long_as_they_may_be_fit_into_one_lookup(store: CheckpointStore) -> None:
    """600 of 1,024 bytes."""
    keys = [f"{n:04}" + "é" * 510 for n in range(600)]
    assert list(_once(store, keys, every=600)) == keys
    assert list(_once(store, [*keys, "added"], every=600)) == ["added"]


@pytest.mark.parametrize("bad", [7, None, b"a", "", "a\0b", "a" * 1025, "\ud800", type("Text", (str,), {})("a")])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("kind", [list, iter])
def test_a_bad_key_is_refused_by_its_name_and_harms_nothing(
    store: CheckpointStore, bad: Any, transaction: bool, kind: Callable[[Any], Any]
) -> None:
    """It is no str, empty, too long, or no text: the loop ends, what is recorded stays."""
    assert list(_once(store, ["a", "b"], transaction=transaction)) == ["a", "b"]
    with pytest.raises(InvalidArgumentError) as refused:
        for _ in _once(store, kind(["b", "c", bad]), key=lambda item: item, every=1, transaction=transaction):
            pass
    assert refused.value.argument == "key"
    assert _keys(store)[:2] == ["a", "b"]
    assert set(_keys(store)) <= {"a", "b", "c"}
    assert list(_once(store, ["d"])) == ["d"]


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exception_of_key_or_of_the_source_comes_out_as_it_is(
    store: CheckpointStore, transaction: bool, asynchronous: bool
) -> None:
    """And the next pass goes on."""

    def key(item: int) -> str:
        if item == 3:
            raise Crash
        return str(item)

    def source() -> Iterator[int]:
        yield 0
        raise Crash

    for items, function in ((range(5), key), (source(), str)):
        with pytest.raises(Crash):
            _all_of(_once(store, items, key=function, transaction=transaction), asynchronous=asynchronous)
    assert sorted(_keys(store) + [str(item) for item in _once(store, range(5))]) == list("01234")


@pytest.mark.parametrize("options", [{"key": None}, {"key": "id"}, {"every": 0}, {"every_s": 0}, {"transaction": 1}])
def test_an_argument_that_breaks_a_rule_is_named(store: CheckpointStore, options: dict[str, Any]) -> None:
    """Before anything is begun."""
    with pytest.raises(InvalidArgumentError) as refused:
        _once(store, [1], **options)
    assert refused.value.argument == next(iter(options))


@pytest.mark.parametrize("items", [7, None, object()])
def test_what_is_no_bag_is_refused(store: CheckpointStore, items: Any) -> None:
    """By the name of the argument."""
    with pytest.raises(InvalidArgumentError) as refused:
        list(_once(store, items))
    assert refused.value.argument == "items"


def test_an_async_bag_needs_async_for(store: CheckpointStore) -> None:
    """Told, and nothing is left unawaited."""
    with pytest.raises(InvalidArgumentError, match="async for"):
        list(_once(store, _async([1])))


def test_doubled_keys_come_once_even_far_apart_and_in_another_batch(store: CheckpointStore) -> None:
    """Before the first of them is recorded, and afterwards."""
    bag = [n % 700 for n in range(2100)]
    assert list(_once(store, bag, every=1000)) == list(range(700))
    assert list(_once(store, iter([*bag, 700, 700]), every=1)) == [700]


# Other entries, other chains


def test_a_stage_may_have_other_entries(store: CheckpointStore) -> None:
    """Their keys count as done, and sequence, offset and event time go on from them."""
    store.append(Checkpoint("run-7", "fetch", 10, Watermark(100, 5000), "b", 1))
    assert list(_once(store, ["a", "b", "c"])) == ["a", "c"]
    store.advance("run-7", "fetch", Watermark(500, 6000), idempotency_key="page-9")
    assert list(_once(store, ["a", "page-9", "d"], transaction=True)) == ["d"]
    assert _recorded(store) == [("b", 10, 100), ("a", 11, 101), ("c", 12, 102), ("page-9", 13, 500), ("d", 14, 501)]
    assert [each.watermark.event_time_ms for each in store.history()] == [5000, 5000, 5000, 6000, 6000]


@pytest.mark.parametrize("sequence", [0, 1])
def test_a_stage_that_begins_with_another_entry_is_not_recorded_as_a_bag(store: CheckpointStore, sequence: int) -> None:
    """An archive keeps the whole of a bag, and tells it by its first entry."""
    store.append(entry(sequence, stage="fetch"))
    assert list(_once(store, ["a", "b"])) == ["a", "b"]
    list(_once(store, ["a", "b"], stage="mail"))
    assert [detail for *_, detail in store.receipts()] == [None, None, None, '{"bag":true}', None]


@pytest.mark.parametrize("run_id", ["run-7", "branch"])
@pytest.mark.parametrize("kind", ["checkpointed", "checkpointed, async", "tracked", "tracked, async"])
def test_an_ordered_loop_does_not_go_on_in_a_bag(store: CheckpointStore, kind: str, run_id: str) -> None:
    """It would skip as many records as the bag has done, which are others; a branch of a bag is one too."""
    assert len(_until_crash(_once(store, range(39, -1, -1), every=5), 12)) == 12
    store.branch("run-7", "branch")
    recorded = _recorded(store)
    given: dict[str, Any] = {"run_id": run_id, "stage": "fetch"}

    async def track() -> None:
        async with store.tracked(**given):
            pass

    def loop() -> None:
        if kind == "tracked":
            with store.tracked(**given):
                pass
        elif kind == "tracked, async":
            asyncio.run(track())
        else:
            _all_of(store.checkpointed(range(40), **given), asynchronous="async" in kind)

    with pytest.raises(InvalidArgumentError, match="is a bag"):
        loop()
    assert _recorded(store) == recorded
    assert len(list(_once(store, range(40)))) == 30


def test_keys_of_another_stage_or_run_do_not_count(store: CheckpointStore) -> None:
    """A bag is one stage of one run."""
    for run_id in ("run-7", "run-8"):
        for stage in ("fetch", "parse"):
            assert list(store.once("abc", run_id=run_id, stage=stage, key=str)) == ["a", "b", "c"]
    with store.run("run-9") as run:
        assert list(run.once("abc", stage="fetch", key=str)) == ["a", "b", "c"]
        assert list(run.once("abcd", stage="fetch", key=str)) == ["d"]


def test_a_keyed_chain_takes_bags(path: Path) -> None:
    """Each entry is signed with the key."""
    key = bytes(range(32))
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        assert _until_crash(_once(store, range(10), every=4), 7) == list(range(7))
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        assert list(_once(store, range(10), transaction=True)) == [4, 5, 6, 7, 8, 9]
        assert store.verify().ok


def test_no_sequence_or_offset_is_left(store: CheckpointStore) -> None:
    """Told, and nothing of the batch is recorded."""
    store.append(Checkpoint("run-7", "fetch", 1, Watermark(2**63 - 2, 0), "a", 1))
    with pytest.raises(InvalidCheckpointError, match="offset"):
        list(_once(store, ["b", "c"]))
    assert list(_once(store, ["b"])) == ["b"]
    assert _keys(store) == ["a", "b"]


# Shared bags


def test_what_another_one_recorded_meanwhile_is_recorded_once(store: CheckpointStore, path: Path) -> None:
    """Two passes over the same bag, side by side: both may do an item, and one of them records it."""
    with CheckpointStore(path, durability="normal") as other:
        first, second = iter(_once(store, range(30), every=4)), iter(_once(other, range(30), every=3))
        found: list[int] = []
        for _ in range(40):
            found += [item for item in (next(first, None), next(second, None)) if item is not None]
        assert (next(first, None), next(second, None)) == (None, None)
    assert sorted(set(found)) == list(range(30))
    assert sorted(map(int, _keys(store))) == list(range(30))
    assert [offset for _, _, offset in _recorded(store)] == list(range(1, 31))


@pytest.mark.parametrize(
    "others", [[0], [1], [249], [250], [399], [0, 399], [3, 4, 5, 251], [*range(400)]], ids=lambda others: f"{others[:4]}"
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_batch_of_which_another_one_has_recorded_some_is_recorded_once(
    store: CheckpointStore, path: Path, others: list[int], begun: bool
) -> None:
    """Wherever they stand in the batch, which is written in parts of 250 rows. The rest keeps its order."""
    if begun:
        store.append(entry(1, stage="fetch", key="the first", offset=1))
    before = len(store)
    loop = _once(store, range(400), every=1000)
    with CheckpointStore(path, durability="normal") as other:
        for item in loop:
            if item == 399:  # all are looked up, and none is recorded
                first = before + 1
                other.append_many(entry(i, stage="fetch", key=str(key), offset=i) for i, key in enumerate(others, first))
    keys = _keys(store)[before:]
    assert keys == [*map(str, others), *(str(item) for item in range(400) if item not in others)]
    assert [offset for _, _, offset in _recorded(store)] == list(range(1, before + 401))
    assert loop.done == len(store) == before + 400


@pytest.mark.parametrize("asynchronous", [False, True])
def test_with_transactions_a_batch_that_another_one_has_done_is_not_the_end(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """All of it, after it was looked up: the loop goes on with the next one."""
    loop = _once(store, range(6), every=2, transaction=True)
    new_block = loop.new_block

    def behind_another_one() -> Any:
        if len(store) == 2:
            assert list(_once(other, [2, 3])) == [2, 3]
        return new_block()

    monkeypatch.setattr(loop, "new_block", behind_another_one)
    with CheckpointStore(path, durability="normal") as other:
        assert _all_of(loop, asynchronous=asynchronous) == [0, 1, 4, 5]
    assert _keys(store) == [*"012345"]


def test_done_counts_what_another_one_has_recorded_too(store: CheckpointStore) -> None:
    """As far as is known: it is counted anew when something is recorded."""
    loop = _once(store, ["a", "b", "c"], every=2)
    for item in loop:
        if item == "b":
            assert list(_once(store, ["a", "x", "y"])) == ["a", "x", "y"]
        if item == "c":
            assert loop.done == 4
    assert _keys(store) == ["a", "x", "y", "b", "c"]
    assert loop.done == 5


def test_what_another_one_has_recorded_is_passed_over_from_the_next_lookup_on(store: CheckpointStore, path: Path) -> None:
    """A source that is no collection is looked up item by item."""
    items = iter(_once(store, iter(range(6)), every=1))
    assert next(items) == 0
    with CheckpointStore(path, durability="normal") as other:
        assert list(_once(other, [1, 2, 4])) == [1, 2, 4]
    assert list(items) == [3, 5]


@pytest.mark.parametrize("same_order", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_with_transactions_several_share_a_bag_and_each_item_is_in_the_sink_once(
    path: Path, same_order: bool, mapped: bool
) -> None:
    """Four threads with stores of their own; even with the same order."""
    with CheckpointStore(path, durability="normal") as store, store.transaction() as connection:
        connection.execute("CREATE TABLE sink (item INTEGER NOT NULL) STRICT")

    def work(number: int) -> int:
        items = list(range(120))
        if not same_order:
            random.Random(number).shuffle(items)
        put = 0
        with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
            bag = _once(store, items, every=5, transaction=True)
            loop: Any = bag.map(lambda item: item, workers=2) if mapped else bag
            for each in loop:
                loop.connection.execute("INSERT INTO sink VALUES (?)", (each[0] if mapped else each,))
                put += 1
        return put

    workers = [begin(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]
    assert sum(result(worker) for worker in workers) == 120
    with CheckpointStore(path, durability="normal") as store, store.transaction() as connection:
        assert [item for (item,) in connection.execute("SELECT item FROM sink ORDER BY item")] == list(range(120))
        assert store.verify().ok


# Sources that block, or answer to what is done


def test_an_item_that_was_read_is_handed_out_though_the_source_blocks(store: CheckpointStore) -> None:
    """A queue that has one item, and no other for long."""
    go_on = threading.Event()

    def source() -> Iterator[str]:
        yield "a"
        go_on.wait(30)
        yield "b"

    items = iter(_once(store, source()))
    assert in_time(lambda: next(items), 5) == "a"
    go_on.set()
    assert list(items) == ["b"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_item_behind_many_recorded_ones_is_handed_out_though_the_source_blocks(
    store: CheckpointStore, asynchronous: bool
) -> None:
    """A queue that is played back at the restart, with one new item at its end."""
    assert len(list(_once(store, range(1000), every=1000))) == 1000

    def source() -> Iterator[int]:
        yield from range(1001)
        until(lambda: handed_out == [1000])

    handed_out: list[int] = []

    async def main() -> None:
        async for item in _once(store, source()):
            handed_out.append(item)  # noqa: PERF401 - the source looks at it meanwhile

    def loop() -> None:
        for item in _once(store, source()):
            handed_out.append(item)  # noqa: PERF402 - the source looks at it meanwhile

    in_time((lambda: asyncio.run(main())) if asynchronous else loop)
    assert handed_out == [1000]


def test_a_source_may_yield_what_the_body_has_found(store: CheckpointStore) -> None:
    """A crawler: whoever read ahead would find the queue empty, and end."""
    links = {"a": "bc", "b": "d", "c": "ad", "d": "e", "e": ""}
    found = {each: list(targets) for each, targets in links.items()}
    list(_once(store, ["a", "b"]))
    queue = ["a", "b", "c"]

    def source() -> Iterator[str]:
        while queue:
            yield queue.pop(0)

    done = []
    for page in _once(store, source()):
        done.append(page)
        queue.extend(found[page])
    assert done == ["c", "d", "e"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_collection_that_takes_its_time_is_not_read_far_ahead(store: CheckpointStore, *, asynchronous: bool) -> None:
    """A lazy sequence, whose items are fetched as they are asked for."""
    read: list[int] = []

    class Slow(list[int]):
        def __iter__(self) -> Iterator[int]:
            for item in super().__iter__():
                time.sleep(0.01)
                read.append(item)
                yield item

    async def first_of(loop: Once[int]) -> int:
        async with loop:
            return await anext(aiter(loop))

    loop: Once[int] = _once(store, Slow(range(300)))
    first = asyncio.run(first_of(loop)) if asynchronous else next(iter(loop))
    assert (first, len(read) < 20) == (0, True)


def test_every_s_records_what_is_finished_while_the_source_blocks(store: CheckpointStore) -> None:
    """Each of them, though fewer than `every`."""

    def source() -> Iterator[int]:
        yield from range(3)
        until(lambda: len(store) == 3)

    assert in_time(lambda: list(_once(store, source(), every_s=0.01))) == [0, 1, 2]


def test_what_is_finished_while_every_s_records_is_recorded_by_the_next(path: Path) -> None:
    """It is not in what is recorded just then, so it stays finished and to be recorded."""
    recording, go_on = threading.Event(), threading.Event()

    def clock() -> int:
        if threading.current_thread() is not looping and not recording.is_set():
            recording.set()
            go_on.wait(10)
        return 0

    looping = threading.current_thread()
    with CheckpointStore(path, durability="normal", clock=clock) as store:
        for item in _once(store, range(3), every=1000, every_s=0.01):
            if item == 1:
                assert recording.wait(10)
            elif item == 2:  # 1 is finished
                go_on.set()
                until(lambda: len(store) >= 1)
        assert sorted(_keys(store)) == ["0", "1", "2"]


def test_every_s_records_what_is_finished_while_an_async_source_blocks(store: CheckpointStore) -> None:
    """Likewise."""

    async def source() -> AsyncIterator[int]:
        yield 0
        yield 1
        while len(store) < 2:
            await asyncio.sleep(0.001)

    assert _all_of(_once(store, source(), every_s=0.01), asynchronous=True) == [0, 1]


def test_a_one_shot_bag_cannot_be_looped_over_again(store: CheckpointStore) -> None:
    """What is left of it would look like all."""
    loop = _once(store, iter(range(5)))
    assert next(iter(loop)) == 0
    with pytest.raises(InvalidArgumentError, match="already read from"):
        list(loop)


# Ends


@pytest.mark.parametrize("transaction", [False, True])
def test_a_break_leaves_what_is_not_recorded_for_the_next_pass(store: CheckpointStore, transaction: bool) -> None:
    """The open batch, and no lock."""
    loop = _once(store, range(10), every=4, transaction=transaction)
    for item in loop:
        if item == 6:
            break
    assert _keys(store) == list("0123")
    assert store.append(entry(1, run_id="other")).position == 5
    assert list(loop) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("every", [1, 4, 100])
def test_stop_finishes_the_item_in_hand_records_it_and_ends(
    store: CheckpointStore, transaction: bool, asynchronous: bool, every: int
) -> None:
    """For a SIGTERM handler; another loop goes on."""
    loop = _once(store, range(20), every=every, transaction=transaction)

    async def main() -> list[int]:
        found = []
        async with loop:
            async for item in loop:
                found.append(item)
                if item == 5:
                    loop.stop()
        return found

    def plain() -> list[int]:
        found = []
        for item in loop:
            found.append(item)
            if item == 5:
                loop.stop()
        return found

    assert in_time((lambda: asyncio.run(main())) if asynchronous else plain) == [0, 1, 2, 3, 4, 5]
    assert _keys(store) == list("012345")
    assert list(loop) == []
    assert list(_once(store, range(20))) == list(range(6, 20))


def test_stop_before_the_loop_begins_hands_nothing_out(store: CheckpointStore) -> None:
    """A signal may come early."""
    loop = _once(store, range(3))
    loop.stop()
    assert list(loop) == []
    assert len(store) == 0


def test_start_is_where_the_stage_stood_and_done_goes_on(store: CheckpointStore) -> None:
    """For a progress bar."""
    list(_once(store, range(5)))
    loop = _once(store, range(9), every=2)
    assert (loop.start, loop.start.offset, loop.start.cursor, loop.done) == (5, 5, None, 5)
    assert [(item, loop.done) for item in loop] == [(5, 5), (6, 6), (7, 7), (8, 8)]
    assert (loop.start, loop.done) == (5, 9)


# Workers


@pytest.mark.parametrize("transaction", [False, True])
def test_map_hands_out_each_item_with_its_result_as_they_finish(store: CheckpointStore, transaction: bool) -> None:
    """A slow one holds up nobody."""
    slow = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            slow.wait(30)
        return item * item

    pairs = []

    def loop() -> None:
        for pair in _once(store, range(40), every=5, transaction=transaction).map(work, workers=4):
            pairs.append(pair)
            if len(pairs) == 30:
                slow.set()

    in_time(loop)
    assert sorted(pairs) == [(n, n * n) for n in range(40)]
    assert pairs.index((0, 0)) >= 29
    assert sorted(_keys(store), key=int) == [str(n) for n in range(40)]
    assert list(_once(store, range(41)).map(work)) == [(40, 1600)]


def _square(item: int) -> int:
    return item * item


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_map_takes_an_executor(store: CheckpointStore, kind: str, asynchronous: bool) -> None:
    """Which is left running."""
    with ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1) as executor:
        loop = _once(store, range(20), every=3).map(_square, executor=executor)
        assert sorted(_all_of(loop, asynchronous=asynchronous)) == [(n, n * n) for n in range(20)]
        assert executor.submit(_square, 9).result() == 81
    assert len(store) == 20


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("items", [range(60), None])
def test_map_runs_tasks_under_async_for(store: CheckpointStore, items: Any, transaction: bool) -> None:
    """At most `workers` at once; items may be async."""
    at_once, most = 0, 0

    async def work(item: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001 * (item % 3))
        at_once -= 1
        return -item

    bag = _once(store, items or _async(range(60)), every=7, transaction=transaction)
    assert sorted(_all_of(bag.map(work, workers=5), asynchronous=True)) == sorted((n, -n) for n in range(60))
    assert most == 5
    assert len(store) == 60


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exception_of_work_comes_out_and_its_item_comes_again(
    store: CheckpointStore, transaction: bool, asynchronous: bool
) -> None:
    """Or, with errors="return", takes the place of the result, and the item is done."""

    def work(item: int) -> int:
        if item == 7:
            raise Crash
        return item

    def loop(**options: Any) -> Any:
        return _once(store, range(12), every=2, transaction=transaction).map(work, workers=2, in_flight=2, **options)

    with pytest.raises(Crash):
        _all_of(loop(), asynchronous=asynchronous)
    assert "7" not in _keys(store)
    before = len(store)
    pairs = _all_of(loop(errors="return"), asynchronous=asynchronous)
    assert [type(outcome) for item, outcome in pairs if item == 7] == [Crash]
    assert len(pairs) == 12 - before
    assert sorted(map(int, _keys(store))) == list(range(12))
    assert list(loop()) == []


class _Fails(Executor):
    """Has done nothing of what it was given from the eighth job on."""

    def __init__(self, how: str) -> None:
        self._how, self._jobs = how, 0

    def submit(self, work: Callable[..., Any], /, *given: Any, **_: Any) -> Future[Any]:
        """Do it at once, or fail."""
        self._jobs += 1
        future: Future[Any] = Future()
        if self._jobs < 8:
            future.set_result(work(*given))
        elif self._how == "is broken":
            future.set_exception(BrokenProcessPool("a process was killed"))
        elif self._how == "is shut down":
            future.cancel()
        else:
            future.set_result(_coroutine(given))
        return future


async def _coroutine(given: Any) -> Any:
    return given


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("is broken", BrokenProcessPool),
        ("is shut down", CancelledError),
        ("gives a coroutine", InvalidArgumentError),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_never_worked_on_does_not_pass_for_finished(
    store: CheckpointStore, how: str, expected: type[Exception], asynchronous: bool
) -> None:
    """With errors="return" too: a worker that dies takes all that is in flight with it."""
    loop = store.checkpointed(range(40), run_id="run-7", stage="load", every=2)
    with pytest.raises(expected):
        _all_of(loop.map(_square, executor=_Fails(how), errors="return", in_flight=10), asynchronous=asynchronous)
    assert store.resume_point_for_stage("load").watermark.offset == 6


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_that_returns_a_coroutine_does_not_pass_for_work(store: CheckpointStore, asynchronous: bool) -> None:
    """With errors="return" too: nobody has run it."""

    def work(item: int) -> Any:
        return _coroutine(item)

    loop = _once(store, range(20), every=2).map(work, errors="return")
    with pytest.raises(InvalidArgumentError, match="coroutine function"):
        _all_of(loop, asynchronous=asynchronous)
    assert len(store) == 0


@pytest.mark.parametrize("error", [CancelledError, BrokenExecutor, InvalidArgumentError("work", 7, "is wrong")])
def test_what_work_itself_raises_takes_the_place_of_its_result_whatever_it_is(
    store: CheckpointStore, error: type[Exception] | Exception
) -> None:
    """Work may have a pool, or a store, of its own."""

    def work(_: int) -> None:
        raise error

    pairs = list(_once(store, range(3)).map(work, errors="return"))
    assert [type(outcome) for _, outcome in pairs] == [error if isinstance(error, type) else type(error)] * 3


def test_a_doubled_key_is_worked_on_once_while_the_first_is_in_flight(store: CheckpointStore) -> None:
    """It was begun, and is not recorded yet."""
    worked: list[int] = []
    loop = _once(store, [n % 5 for n in range(50)], every=100).map(worked.append, workers=4, in_flight=16)
    assert sorted(item for item, _ in loop) == [0, 1, 2, 3, 4]
    assert sorted(worked) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("stopped", ["bag", "map"])
def test_stop_of_the_bag_or_of_its_map_ends_the_loop(store: CheckpointStore, stopped: str) -> None:
    """Whichever the handler knows; what was handed out is recorded."""
    bag = _once(store, range(200), every=50)
    loop = bag.map(_square, workers=2, in_flight=4)
    found = []
    for item, _ in loop:
        found.append(item)
        if len(found) == 9:
            (bag if stopped == "bag" else loop).stop()
    assert len(found) == 9
    assert sorted(map(int, _keys(store))) == sorted(found)


# Memory


@pytest.mark.parametrize("transaction", [False, True])
def test_memory_does_not_grow_with_the_number_of_items_done(store: CheckpointStore, transaction: bool) -> None:
    """Neither while they are done nor while they are passed over: nobody keeps all keys."""

    def peak(begin: int, end: int) -> int:
        items = (f"{n:01000}" for n in range(begin, end))
        tracemalloc.start()
        for _ in _once(store, items, every=50, transaction=transaction):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(0, 100)  # what is made once
    few = peak(100, 612)  # which are two lookups
    many = peak(612, 1_212)  # their keys alone have 600 KB
    again = peak(0, 1_212)
    assert many < few + 100_000
    assert again < few + 100_000


def test_memory_does_not_grow_with_the_number_of_items_that_another_one_does(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each after it was looked up, and before the transaction that it was to be done in."""
    look = ItemProgress.undone

    def undone(progress: ItemProgress, batch: Any) -> Any:
        found = look(progress, batch)
        if progress._writer is store._database:
            assert len(list(_once(other, [item for item, _ in found]))) == len(found)
        return found

    def peak(begin: int, end: int) -> int:
        items = (f"{n:01000}" for n in range(begin, end))
        tracemalloc.start()
        assert list(_once(store, items, every=50, transaction=True)) == []
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    monkeypatch.setattr(ItemProgress, "undone", undone)
    with CheckpointStore(path, durability="normal") as other:
        peak(0, 100)
        few = peak(100, 200)
        assert peak(200, 600) < few + 100_000  # their keys alone have 400 KB

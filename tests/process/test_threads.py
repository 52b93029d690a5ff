"""Threads of one process: only the one that waits, waits, and at most its time; what was acknowledged is there."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, MilepostError, Receipt, StoreBusyError, StoreError, Watermark
from milepost.checkpoint import chain_signature
from support.chains import chain, entry
from support.methods import NEW, READING, WRITING, plain
from support.other_process import other_process
from support.patience import WATCHDOG_S, Pulse, all_at_once, begin, in_time, result, until
from support.slow_disk import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path


def _ends_within(future: Future[Any], seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(seconds)
    return future.done()


class _Held:
    """A thread of its own that is inside a block, until it is let go."""

    def __init__(self, store: CheckpointStore, *, raises: bool = False) -> None:
        self._inside, self.let_go = threading.Event(), threading.Event()
        self._store, self._raises = store, raises
        self._thread = begin(self._hold)
        assert self._inside.wait(20)

    def _hold(self) -> None:
        with contextlib.suppress(KeyError), self._store.transaction() as connection:
            connection.execute("CREATE TABLE held (record INTEGER)")
            self._store.append(entry(1, run_id="held"))
            self._inside.set()
            self.let_go.wait(60)
            self._store.append(entry(2, run_id="held"))
            if self._raises:
                raise KeyError

    def end(self) -> None:
        """Let it go, and wait until it has."""
        self.let_go.set()
        result(self._thread)


# Waiting for another thread's block


@pytest.mark.parametrize("write", WRITING)
@pytest.mark.parametrize("holder", ["a block", "a loop"])
def test_another_threads_block_is_waited_for_at_most_the_busy_timeout(path: Path, write: str, holder: str) -> None:
    """Then it is told how long it has waited, in ms; the block that it waited for is whole, whatever came meanwhile."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=30) as store:
        if holder == "a block":
            held = _Held(store)
        else:
            records = iter(store.checkpointed(range(4), run_id="held", stage="load", every=2, transaction=True))
            assert next(records) == 0
        for _ in range(2):
            with pytest.raises(StoreBusyError) as busy:
                in_time(lambda: WRITING[write](store))
            assert busy.value.waited_ms == 30
            assert "30 ms" in str(busy.value)
        if holder == "a block":
            held.end()
        else:
            assert list(records) == [1, 2, 3]
        assert [e.run_id for e in store.history()] == ["held", "held"]
        WRITING[write](store)
        assert [e.run_id for e in store.history()] == ["held", "held", NEW]
        store.verify().raise_if_broken()


@pytest.mark.parametrize("write", WRITING)
def test_whoever_waits_for_a_block_is_served_when_it_ends(path: Path, write: str) -> None:
    """Whether it is committed or undone."""
    for raises in (False, True):
        with CheckpointStore(path.with_name(f"{raises}"), durability="normal", busy_timeout_ms=20_000) as store:
            held = _Held(store, raises=raises)
            waiting = begin(lambda store=store: WRITING[write](store))  # type: ignore[misc]
            assert not _ends_within(waiting, 0.05)
            held.end()
            result(waiting)
            assert [e.run_id for e in store.history()] == ([] if raises else ["held", "held"]) + [NEW]


@pytest.mark.parametrize("read", plain(READING))
def test_reads_do_not_wait_for_another_threads_block_and_see_what_is_committed(path: Path, read: str) -> None:
    """As if it had not begun."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=100) as store:
        store.append_many(chain(3))
        before = READING[read](store)
        held = _Held(store)
        assert in_time(lambda: READING[read](store)) == before
        held.end()
        assert len(store) == 5


def test_a_thread_that_gives_up_waiting_leaves_nothing_behind(path: Path) -> None:
    """No place in a queue, no transaction, no job that somebody does later."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=30) as store:
        held = _Held(store)
        errors = all_at_once([lambda write=write: _error(write, store) for write in WRITING.values()])  # type: ignore[misc]
        assert [type(error) for error in errors] == [StoreBusyError] * len(WRITING)
        held.end()
        assert [e.run_id for e in store.history()] == ["held", "held"]
        in_time(lambda: store.append(entry(1, run_id="afterwards")))
        assert len(store) == 3
        store.verify().raise_if_broken()


def _error(write: Callable[[CheckpointStore], object], store: CheckpointStore) -> Exception | None:
    try:
        write(store)
    except MilepostError as error:
        return error
    return None


def test_a_thread_that_gives_up_waiting_for_a_block_does_not_undo_it(path: Path) -> None:
    """Whatever it wanted: what it has not begun it has not to clean up."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=30) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER)")
            connection.execute("INSERT INTO sink VALUES (1)")
            store.append(entry(1))
            for write in WRITING.values():
                assert isinstance(in_time(lambda write=write: _error(write, store)), StoreBusyError)  # type: ignore[misc]
            connection.execute("INSERT INTO sink VALUES (2)")
            store.append(entry(2))
        with store.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM sink").get == 2
        assert [e.sequence for e in store.history()] == [1, 2]


def test_a_thread_that_has_the_number_of_an_ended_one_does_not_own_its_block(path: Path) -> None:
    """Numbers of threads are given again: what a new thread appended would be lost with a block that is not its own."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=30) as store:
        held: list[Any] = []

        def begin_and_end() -> int:
            held.append(store.transaction())
            held[0].__enter__()
            store.append(entry(1, run_id="held"))
            return threading.get_ident()

        def append_if_it_has(number: int) -> bool:
            if threading.get_ident() != number:
                return False
            with pytest.raises(StoreError):  # refused or told that it is busy: it waits for nobody
                store.append(entry(1, run_id="astray"))
            assert len(store) == 0
            return True

        number = in_time(begin_and_end)
        given_again = any(in_time(lambda: append_if_it_has(number)) for _ in range(50))
        with contextlib.suppress(MilepostError):
            held[0].__exit__(KeyError, KeyError(), None)
        held.clear()
        gc.collect()
        assert store.append(entry(1)).position == 1
    if not given_again:
        pytest.skip("no new thread has got the number of an ended one here")


def test_a_timeout_of_zero_does_not_wait(path: Path) -> None:
    """It still gets what is free."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=0) as store:
        store.append(entry(1))
        held = _Held(store)
        with pytest.raises(StoreBusyError) as busy:
            in_time(lambda: store.append(entry(2)))
        assert busy.value.waited_ms == 0
        held.end()
        store.append(entry(2))


# Only the one that waits, waits

_FAR_BELOW: Final = 0.5
"""Of the time that somebody waits: how long nobody else may stand still."""


@pytest.mark.parametrize(
    "write",
    [  # those that wait in other ways: for a commit with others, for a block, for a batch
        write if write in {"append", "transaction", "once, in transactions"} else pytest.param(write, marks=pytest.mark.long)
        for write in WRITING
        if not write.startswith("checkpointed")
    ],
)
def test_while_a_thread_waits_for_another_process_the_others_go_on(path: Path, write: str) -> None:
    """Event loops, heartbeats and web servers among them."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store, other_process("hold", path) as other:
        store.append(entry(1))
        assert other.hear() == "ready"
        with Pulse() as pulse:
            assert other.tell("for 1.0") == "held"
            began = time.monotonic()
            waiting = begin(lambda: WRITING[write](store))
            assert other.hear() == "free"
            result(waiting)
            ended = time.monotonic()
        assert ended - began > 0.5
        assert pulse.longest_pause(began, ended) < _FAR_BELOW * (ended - began)


def test_while_a_store_is_opened_beside_another_process_the_others_go_on(path: Path) -> None:
    """It waits for the lock as well."""
    CheckpointStore(path).close()
    with other_process("hold", path) as other:
        assert other.hear() == "ready"
        with Pulse() as pulse:
            assert other.tell("for 1.0") == "held"
            began = time.monotonic()
            opening = begin(lambda: CheckpointStore(path, busy_timeout_ms=20_000).close())
            assert other.hear() == "free"
            result(opening)
            ended = time.monotonic()
        assert ended - began > 0.5
        assert pulse.longest_pause(began, ended) < _FAR_BELOW * (ended - began)


def test_while_a_thread_commits_the_others_go_on(path: Path) -> None:
    """A large block takes a while to be written and synced; of several tries the best one counts, on a busy machine."""
    shares = []
    with CheckpointStore(path) as store, Pulse() as pulse:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (value BLOB)")
        for _ in range(8):
            with store.transaction() as connection:
                connection.executemany("INSERT INTO sink VALUES (randomblob(10000))", [()] * 1400)
                began = time.monotonic()
            ended = time.monotonic()
            shares.append(pulse.longest_pause(began, ended) / (ended - began))
            if shares[-1] < _FAR_BELOW:
                break
    assert min(shares) < _FAR_BELOW


def test_while_a_thread_syncs_on_a_slow_disk_others_read_and_queue_for_the_next_sync(path: Path) -> None:
    """Those that come meanwhile share one commit."""
    syncs: list[str] = []
    syncing, go_on = threading.Event(), threading.Event()

    def slowly(name: str) -> None:
        if threading.current_thread() is not threading.main_thread() and name.endswith("-wal"):
            syncs.append(name)
            syncing.set()
            assert go_on.wait(30)

    with disk(on_sync=slowly) as vfs, CheckpointStore(path, vfs=vfs, busy_timeout_ms=20_000) as store:
        store.append(entry(1))
        first = begin(lambda: store.append(entry(1, run_id="first")))
        assert syncing.wait(20)
        try:
            assert in_time(lambda: store.latest("run-7")) == entry(1)
            assert in_time(lambda: store.verify().ok)
            others = [begin(lambda n=n: store.append(entry(1, run_id=f"{n}"))) for n in range(7)]  # type: ignore[misc]
            assert not _ends_within(others[-1], 0.1)
        finally:
            go_on.set()
        assert result(first).position == 2
        assert sorted(result(each).position for each in others) == list(range(3, 10))
    assert len(syncs) <= 4


def test_two_stores_of_one_file_in_two_threads_take_turns(path: Path) -> None:
    """Neither keeps the other from ending what it waits for."""
    with CheckpointStore(path, durability="normal") as one, CheckpointStore(path, durability="normal") as other:

        def append(store: CheckpointStore, run_id: str) -> None:
            for sequence in range(1, 101):
                if sequence % 10 == 0:
                    with store.transaction() as connection:
                        connection.execute("CREATE TABLE IF NOT EXISTS sink (record INTEGER)")
                        connection.execute("INSERT INTO sink VALUES (1)")
                        time.sleep(0.001)
                        store.append(entry(sequence, run_id=run_id))
                else:
                    store.append(entry(sequence, run_id=run_id))

        all_at_once([lambda: append(one, "one"), lambda: append(other, "other")])
        assert Counter(e.run_id for e in one.history()) == {"one": 100, "other": 100}
        one.verify().raise_if_broken()
        assert other.head() == one.head()


# All at once


@pytest.fixture
def frantic() -> Iterator[None]:
    """Threads that change places all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frantic")
@pytest.mark.parametrize("rounds", [30, pytest.param(1500, marks=pytest.mark.long)])
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_what_threads_were_told_is_what_is_there(path: Path, rounds: int, durability: Any) -> None:
    """In every way of writing and reading at once; what raised is not there, and what was refused says so."""
    told: list[tuple[Receipt, str]] = []
    with CheckpointStore(path, durability=durability, busy_timeout_ms=20_000) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record TEXT NOT NULL)")

        def appends(thread: int) -> None:
            for n in range(1, rounds + 1):
                receipt = store.append(entry(n, run_id="a", stage=f"{thread}"))
                told.append((receipt, f"{thread}:{n}"))

        def advances(thread: int) -> None:
            for n in range(1, rounds + 1):
                key = f"{thread}:{n}"
                told.append((store.advance("b", f"{thread}", Watermark(n, 0), idempotency_key=key), key))
                assert store.advance("b", f"{thread}", Watermark(n, 0), idempotency_key=key).duplicate

        def blocks(thread: int) -> None:
            for n in range(1, rounds + 1):
                with contextlib.suppress(KeyError), store.transaction() as connection:
                    receipt = store.append(entry(n, run_id="c", stage=f"{thread}"))
                    connection.execute("INSERT INTO sink VALUES (?)", (f"{thread}:{n}",))
                    if n % 3 == 0:
                        raise KeyError
                    with contextlib.suppress(KeyError), store.transaction():
                        store.append(entry(n, run_id="undone"))
                        raise KeyError
                if n % 3:
                    told.append((receipt, f"{thread}:{n}"))

        def loops(thread: int) -> None:
            loop = store.checkpointed(range(rounds), run_id="d", stage=f"{thread}", every=4, transaction=True)
            for record in loop:
                loop.connection.execute("INSERT INTO sink VALUES (?)", (f"{thread}:{record}",))

        def reads(_: int) -> None:
            before = 0
            for _ in range(rounds):
                entries = len(list(store.history()))
                assert entries >= before
                before = entries
                last = store.latest("c")
                assert last is None or store.get(*last[:3]) == last

        calls = [
            (call, 10 * group + n) for group, call in enumerate((appends, advances, blocks, loops, reads)) for n in (1, 2)
        ]
        seconds = WATCHDOG_S + rounds / 4
        all_at_once([lambda call=call, n=n: call(n) for call, n in calls], seconds)  # type: ignore[misc]
        receipts = {receipt.position: (receipt, e) for receipt, e, _ in store.receipts()}
        for receipt, key in told:
            found, kept = receipts[receipt.position]
            assert (found.signature, kept.idempotency_key) == (receipt.signature, key)
        batches = -(-rounds // 4)
        assert len(store) == len(told) + 2 * batches
        with store.transaction() as connection:
            rows = connection.execute("SELECT count(*), count(DISTINCT record) FROM sink").get
        assert rows == (2 * (rounds - rounds // 3) + 2 * rounds,) * 2
        assert store.chain_signature() == chain_signature(store.history())
        store.verify().raise_if_broken()


@pytest.mark.usefixtures("frantic")
@pytest.mark.parametrize("rounds", [12, pytest.param(300, marks=pytest.mark.long)])
def test_threads_may_open_read_and_close_one_file_at_once(path: Path, rounds: int) -> None:
    """To read, to write, or a store of their own elsewhere: nobody hears that it is read-only, or that a set changed."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))

    def write(thread: int) -> None:
        for n in range(1, rounds + 1):
            with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
                store.append(entry(n, run_id=f"{thread}"))

    def read(_: int) -> None:
        before = 0
        for _ in range(2 * rounds):
            with CheckpointStore.open_readonly(path) as store:
                entries = len(store)
                assert entries >= max(before, 1)
                before = entries

    def own(thread: int) -> None:
        for n in range(1, rounds + 1):
            with CheckpointStore(path.with_name(f"{thread}"), durability="normal") as store:
                store.append(entry(n))

    calls = [lambda call=call, n=n: call(n) for call in (write, read, own) for n in (1, 2, 3)]
    all_at_once(calls, WATCHDOG_S + rounds)
    with CheckpointStore(path) as store:
        assert Counter(e.run_id for e in store.history()) == {"run-7": 1, "1": rounds, "2": rounds, "3": rounds}
        store.verify().raise_if_broken()


@pytest.mark.usefixtures("frantic")
def test_a_new_file_that_threads_open_at_once_is_made_once(tmp_path: Path) -> None:
    """Each appends to it."""
    for number in range(5):
        path = tmp_path / f"{number}"

        def append(thread: int, path: Path = path) -> None:
            with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
                store.append(entry(1, run_id=f"{thread}"))

        all_at_once([lambda n=n: append(n) for n in range(4)])  # type: ignore[misc]
        with CheckpointStore.open_readonly(path) as store:
            assert sorted(e.run_id for e in store.history()) == ["0", "1", "2", "3"]
            assert store.verify().ok


def test_a_store_may_be_closed_while_other_threads_use_it(path: Path) -> None:
    """Each is served or told; what was acknowledged is there."""
    for number in range(5):
        store = CheckpointStore(path.with_name(f"{number}"), durability="normal", busy_timeout_ms=20_000)
        acknowledged: list[str] = []

        def use(thread: int, store: CheckpointStore = store, acknowledged: list[str] = acknowledged) -> None:
            with contextlib.suppress(MilepostError):
                for sequence in range(1, 10_000):
                    if thread % 2:
                        store.append(entry(sequence, run_id=f"{thread}"))
                        acknowledged.append(f"{thread} {sequence}")
                    else:
                        store.latest()

        users = [begin(lambda n=n: use(n)) for n in range(4)]  # type: ignore[misc]
        until(lambda acknowledged=acknowledged, enough=5 * number: len(acknowledged) > enough)  # type: ignore[misc]
        in_time(store.close)
        for user in users:
            result(user)
        with CheckpointStore.open_readonly(store.path) as reader:
            assert sorted(f"{e.run_id} {e.sequence}" for e in reader.history()) == sorted(acknowledged)


def test_other_programs_locks_are_waited_for_in_a_thread_too(path: Path) -> None:
    """A connection of somebody else in the same process: no thread keeps it from giving back its lock."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        waiting = begin(lambda: store.append(entry(1)))
        assert not _ends_within(waiting, 0.1)
        other.execute("ROLLBACK")
        other.close()
        assert result(waiting).position == 1


def test_lookups_do_not_wait_for_a_store_that_opens_the_file_beside_another_process(path: Path) -> None:
    """It waits for the lock of that process; whoever looks up does not."""
    with CheckpointStore(path, durability="normal") as store, contextlib.closing(apsw.Connection(str(path))) as other:
        store.append(entry(1))
        other.execute("BEGIN IMMEDIATE")
        opening = begin(lambda: CheckpointStore(path, busy_timeout_ms=20_000).close())
        assert not _ends_within(opening, 0.2)
        assert in_time(store.latest, seconds=5) == entry(1)
        with in_time(lambda: CheckpointStore.open_readonly(path), seconds=5) as reader:
            assert reader.latest() == entry(1)
        assert not opening.done()
        other.execute("ROLLBACK")
        result(opening)

"""One file that is written to: what a block leaves behind, what a failure undoes, and how its connections are set."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import apsw
import pytest

from milepost import (
    CheckpointStore,
    ClosedStoreError,
    DamagedStoreError,
    FailedStoreError,
    ForkedStoreError,
    MilepostError,
    Receipt,
    SchemaVersionError,
    SequenceError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    Watermark,
    WrongKeyError,
    bound,
    files,
    open_files,
    schema,
)
from milepost.block import Block, BlockTurn
from milepost.checkpoint import chain_signature
from milepost.connection import connect
from milepost.database import Database
from milepost.lent import LentConnection
from milepost.named_files import NamedFiles
from milepost.turn import NOW, Turn, Turns
from milepost.writable_database import WritableDatabase
from milepost.writer import Writer
from support.chains import chain, entry
from support.doors import connections, fork_in_progress, modes_of_write_backs, traced, unlocked, wal, writer
from support.hooked_vfs import Call, hooked
from support.long_reader import long_reader
from support.methods import ASYNC, NEW, WRITING
from support.patience import held_by_a_thread, in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WATCHDOG_S = 10.0  # far above what is waited for here


def _advance(store: CheckpointStore, offset: int) -> Receipt:
    return store.advance("run-7", "load", Watermark(offset, 2**60), idempotency_key=f"step-{offset}")


def _in_block(store: CheckpointStore, depth: int = 1) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(store.transaction())
        store.append(entry(2))


WRITES: dict[str, Callable[[CheckpointStore], object]] = {
    **WRITING,
    "block in a block": lambda store: _in_block(store, depth=2),
}


# What a failure undoes


def _refuse() -> bool:
    return True  # what a commit hook says to have the transaction rolled back


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _break() -> NoReturn:
    raise ZeroDivisionError


@pytest.mark.parametrize("hook", [_refuse, _interrupt, _break])
@pytest.mark.parametrize("write", ["append", "append_many", "advance"])
def test_a_commit_that_fails_leaves_nothing_in_memory_that_the_next_one_builds_upon(
    store: CheckpointStore, write: str, hook: Callable[[], bool]
) -> None:
    """The next entry has the position and the signature that it has in the file."""
    store.append(entry(1))
    connection = writer(store)._lent
    connection.set_commit_hook(hook)
    with pytest.raises((StoreError, KeyboardInterrupt, ZeroDivisionError)):
        WRITES[write](store)
    connection.set_commit_hook(None)
    assert len(store) == 1
    assert store.append(entry(2, key="again")).position == 2
    assert store.verify().ok


def test_an_error_of_sqlites_is_the_cause_of_ours_and_ours_has_none(store: CheckpointStore) -> None:
    """Who reads a traceback sees what SQLite said, and no error twice."""
    store.append(entry(2))
    with pytest.raises(MilepostError) as ours:
        store.append(entry(1))
    assert ours.value.__cause__ is None
    connection = writer(store)._lent
    connection.set_commit_hook(_refuse)
    with pytest.raises(StoreError) as translated:
        store.append(entry(3))
    connection.set_commit_hook(None)
    assert isinstance(translated.value.__cause__, apsw.ConstraintError)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_block_has_undone_is_not_built_upon(store: CheckpointStore, depth: int) -> None:
    """Neither after it, nor by a block around it."""
    store.append(entry(1))
    with contextlib.ExitStack() as stack:
        if depth == 2:
            stack.enter_context(store.transaction())
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.append(entry(2))
            raise ZeroDivisionError
        receipt = store.append(entry(2, key="again"))
    assert receipt == Receipt(2, store.chain_signature())
    assert store.append(entry(3)).position == 3


@pytest.mark.parametrize("write", WRITES)
def test_an_append_stands_on_what_a_neighbour_has_written_meanwhile(store: CheckpointStore, path: Path, write: str) -> None:
    """Though what its own last commit left is kept in memory."""
    store.append(entry(1))
    with CheckpointStore(path, durability="normal") as neighbour:
        neighbour.append(entry(1, run_id="run-8"))
        WRITES[write](store)
        neighbour.append(entry(2, run_id="run-8"))
        assert store.append(entry(1, run_id="run-9")).position == len(store)
        assert neighbour.append(entry(3, run_id="run-8")).position == len(store)


@pytest.mark.parametrize("inside", [False, True])
def test_an_append_after_ones_own_looks_nothing_up(store: CheckpointStore, inside: bool) -> None:
    """
    Where the chain ends is kept in memory as long as nobody else writes; a lookup would double the time of an append.

    In a block it is looked up, for what the block's own savepoints undo nobody tells.
    """
    ran: list[str] = []

    def note(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        ran.append(statement.split(maxsplit=1)[0])
        return True

    def write(sequence: int) -> None:
        with store.transaction() if inside else contextlib.nullcontext():
            store.append(entry(sequence))

    write(1)
    for sequence in (2, 3):
        ran.clear()
        writer(store)._statements.exec_trace = note
        write(sequence)
        writer(store)._statements.exec_trace = None
    assert [word for word in ran if word not in {"SAVEPOINT", "RELEASE"}] == [
        "BEGIN",
        *(["SELECT"] if inside else []),
        "INSERT",
        "COMMIT",
    ]


@pytest.mark.parametrize("write", WRITES)
def test_a_file_that_is_upgraded_meanwhile_is_written_to_no_more(path: Path, write: str) -> None:
    """By another process, with a newer version of milepost."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
        other = apsw.Connection(str(path))
        other.pragma("user_version", schema.VERSION + 1)
        other.close()
        with pytest.raises(SchemaVersionError):
            WRITES[write](store)
        with pytest.raises(SchemaVersionError):
            len(store)
    other = apsw.Connection(str(path))
    assert other.execute("SELECT count(*) FROM entry").get == 1
    other.close()


# How long others are waited for


@pytest.mark.parametrize(
    ("who", "write"),
    [
        *(("thread", write) for write in (*WRITES, "close")),
        *(("process", write) for write in WRITES),
    ],
)
def test_another_writer_is_waited_for_as_long_as_was_said(path: Path, who: str, write: str) -> None:
    """Another thread with the same store, or another store; and then it can be tried again."""
    use = {**WRITES, "close": CheckpointStore.close}[write]
    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=20) as store,
        CheckpointStore(path, durability="normal") as other,
    ):
        store.append(entry(1))
        with held_by_a_thread(store if who == "thread" else other, WATCHDOG_S) as let_go:
            for _ in range(2):
                with pytest.raises(StoreBusyError):
                    use(store)
            writer(store).busy_timeout_ms = 60_000  # counted from the next call on
            timer = threading.Timer(0.03, let_go)
            timer.start()
            use(store)
            timer.join()
        assert other.verify().ok


def test_another_process_is_waited_for_until_the_time_is_up_and_no_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the first look on."""
    fake = FakeTime()
    monkeypatch.setattr("milepost.file_lock.time", fake)
    with CheckpointStore(path, durability="normal", busy_timeout_ms=1000) as store:
        looks = []
        for later in (0, 0.5, 0.4995, 0.0005, 1):
            fake.now += later
            looks.append(writer(store)._file_lock.wait(0))
        assert looks == [True, True, True, False, False]
        assert fake.slept == [0.0005] * 3  # and the processor is left to others meanwhile


@pytest.mark.parametrize("write", [*WRITES, "close"])
def test_every_way_waits_for_its_turn_as_long_as_was_said(path: Path, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    """In seconds, neither more nor less."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=4321) as store:
        turns, waited = writer(store)._turns, list[float]()
        take = turns.take

        def noted(turn: Turn, timeout_s: float) -> bool:
            waited.append(timeout_s)
            return take(turn, timeout_s)

        monkeypatch.setattr(turns, "take", noted)
        {**WRITES, "close": CheckpointStore.close}[write](store)
        assert waited == [4.321]


@pytest.mark.parametrize("ends", ["time is up", "interrupted"])
def test_a_block_that_is_not_entered_undoes_nothing_of_the_one_that_is(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Another thread's goes on, its statements are still judged, and what it has done is committed."""

    def interrupted(turn: Turn, seconds: float) -> NoReturn:
        raise KeyboardInterrupt

    entered, tried = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction() as connection:
            store.append(entry(1))
            entered.set()
            assert tried.wait(WATCHDOG_S)
            with pytest.raises(StoreError, match="refused"):
                connection.execute("DELETE FROM entry")
            store.append(entry(2))

    writer(store).busy_timeout_ms = 20
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert entered.wait(WATCHDOG_S)
        with monkeypatch.context() as patch:
            if ends == "interrupted":
                patch.setattr(Turn, "sleep", interrupted)
            with pytest.raises((StoreBusyError, KeyboardInterrupt)), store.transaction():
                pass
        tried.set()
        holding.result(WATCHDOG_S)
    assert list(store.history()) == chain(2)


@pytest.mark.parametrize("write", [*WRITES, "close"])
def test_who_waits_in_vain_leaves_the_turn_to_who_has_it(store: CheckpointStore, write: str) -> None:
    """So that nobody begins a transaction in the middle of another one's."""
    use = {**WRITES, "close": CheckpointStore.close}[write]
    with held_by_a_thread(store, WATCHDOG_S):
        held = writer(store)._turns.holder
        writer(store).busy_timeout_ms = 1
        with pytest.raises(StoreBusyError) as busy:
            use(store)
        assert busy.value.__cause__ is None
        assert writer(store)._turns.holder is held
        writer(store).busy_timeout_ms = 5000


@pytest.mark.parametrize("write", [*WRITES, *ASYNC, "block from before", "task's block from before"])
def test_who_finds_a_store_failed_is_told_at_once_whoever_has_the_turn(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """It does not wait for it first."""
    before = store.transaction()

    async def main() -> None:
        if write in ASYNC:
            await ASYNC[write](store)
        else:
            await before.__aenter__()

    writer(store).busy_timeout_ms = 20
    with held_by_a_thread(store, WATCHDOG_S), monkeypatch.context() as patch, pytest.raises(FailedStoreError):
        patch.setattr(writer(store), "_ended", FailedStoreError(store.path, "a sync has failed"))
        if write in WRITES:
            WRITES[write](store)
        elif write == "block from before":
            before.__enter__()
        else:
            asyncio.run(main())


@pytest.mark.parametrize("ended", [ClosedStoreError, ForkedStoreError])
def test_a_store_that_is_closed_already_or_is_its_parents_is_closed_at_once(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, ended: type[StoreError]
) -> None:
    """Whoever has the turn: in the child of a fork it is a thread that is not there."""
    writer(store).busy_timeout_ms = 20
    with held_by_a_thread(store, WATCHDOG_S), monkeypatch.context() as patch:
        patch.setattr(writer(store), "_ended", ended(store.path, "it has ended"))
        store.close()


def test_a_block_in_which_a_sync_has_failed_tells_that_whatever_is_done_in_it(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a call would be refused in any block."""
    inner = store.transaction()
    with store.transaction(), monkeypatch.context() as patch:
        patch.setattr(writer(store), "_ended", FailedStoreError(store.path, "a sync has failed"))
        with pytest.raises(FailedStoreError):
            inner.__enter__()
        with pytest.raises(FailedStoreError):
            writer(store).refuse_inside_block("archive()")
        with pytest.raises(FailedStoreError):
            len(store)


def test_a_read_in_a_block_that_sqlite_fails_is_told_in_mileposts_words(store: CheckpointStore) -> None:
    """As one outside is."""

    def damaged(_: apsw.Connection) -> NoReturn:
        raise apsw.CorruptError

    with store.transaction():
        with pytest.raises(DamagedStoreError):
            writer(store).read(damaged)
        assert len(store) == 0


def _one_more_waits(turns: Turns, woken: list[str]) -> None:
    """As a thread that is asleep in the queue."""

    class Asleep(Turn):
        def wake(self) -> None:
            woken.append("nobody has the turn" if turns.holder is None else "somebody has")
            turns._queue.remove(self)

    turns._queue.append(Asleep())


@pytest.mark.parametrize("ends", ["well", "interrupted"])
@pytest.mark.parametrize("write", WRITES)
def test_whoever_has_had_its_turn_wakes_the_first_that_waits(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str, ends: str
) -> None:
    """That one would look for itself, but only after a while."""
    woken = _woken(store, monkeypatch, interrupt=ends == "interrupted")
    with contextlib.suppress(KeyboardInterrupt):
        WRITES[write](store)
    assert woken
    assert set(woken) == {"nobody has the turn"}


@pytest.mark.parametrize("write", [*ASYNC, "a task's block"])
def test_who_has_had_a_tasks_turn_wakes_the_first_that_waits(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """As a thread does for its own."""

    async def main() -> None:
        if write in ASYNC:
            await ASYNC[write](store)
        else:
            async with store.transaction():
                pass

    woken = _woken(store, monkeypatch)
    in_time(lambda: asyncio.run(main()))
    assert woken == ["nobody has the turn"]


def _woken(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, *, interrupt: bool = False) -> list[str]:
    """Have one more wait as each transaction begins: what it finds when it is woken."""
    begin, woken = writer(store)._begin, list[str]()

    def while_another_waits() -> None:
        begin()
        _one_more_waits(writer(store)._turns, woken)
        if interrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(writer(store), "_begin", while_another_waits)
    return woken


@pytest.mark.parametrize("step", ["_open_first", "_close_now"])
def test_who_has_opened_or_closed_a_store_wakes_the_first_that_waits(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is another thread that forks, say, or that has to hear that the store is closed."""
    owner: Any = WritableDatabase if step == "_open_first" else Writer
    original, woken = getattr(owner, step), list[str]()

    def while_another_waits(database: Writer) -> None:
        original(database)
        _one_more_waits(database._turns, woken)

    monkeypatch.setattr(owner, step, while_another_waits)
    with CheckpointStore(path, durability="normal"):
        assert woken == ["nobody has the turn"] * (step == "_open_first")
    assert woken == ["nobody has the turn"]


def test_a_file_that_is_taken_back_after_a_fork_wakes_the_first_that_waits(store: CheckpointStore) -> None:
    """Which has come meanwhile."""
    woken = list[str]()
    with fork_in_progress():
        _one_more_waits(writer(store)._turns, woken)
        assert woken == []
    assert woken == ["nobody has the turn"]


def test_a_store_that_another_thread_forks_beside_is_not_opened_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits as long as was said, and leaves the turn to the fork."""
    register, waited, take = open_files.register, list[float](), Turns.take
    forks = Turn()
    forks.thread = 0

    def and_fork(database: Writer) -> None:
        register(database)
        opened.append(database)
        database._turns.held[NOW] = forks

    def in_vain(turns: Turns, turn: Turn, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return take(turns, turn, 0.0)

    opened: list[Writer] = []
    with monkeypatch.context() as patch:
        patch.setattr(open_files, "register", and_fork)
        patch.setattr(Turns, "take", in_vain)
        with pytest.raises(StoreBusyError):
            CheckpointStore(path, durability="normal", busy_timeout_ms=4321)
    (database,) = opened
    assert set(waited) == {4.321}
    assert database._turns.held == {NOW: forks}
    assert not path.exists()
    database._turns.held.clear()
    database.close()


def test_a_fork_that_waits_in_vain_leaves_the_turn_to_who_has_it(store: CheckpointStore) -> None:
    """A file that was not let go of is taken back all the same."""
    with held_by_a_thread(store, WATCHDOG_S):
        held = writer(store)._turns.holder
        assert not writer(store).let_go(time.monotonic())
        writer(store).take_back()
        assert writer(store)._turns.holder is held
    assert store.append(entry(1)).position == 1


class FakeTime:
    """The module `time`, as the test tells it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 0.0  # how far a sleep takes it
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """What the test says."""
        return self.now

    def monotonic_ns(self) -> int:
        """As `monotonic`."""
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        """Note it."""
        assert seconds >= 0  # as the module does
        self.slept.append(seconds)
        self.now += self.step


@pytest.mark.parametrize("way", ["block", "advance"])
def test_who_has_written_for_long_lets_others_in_before_it_writes_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """For a twentieth of the time, and a millisecond at most; after a short one, not at all."""
    fake, lasts = FakeTime(), [0.0]
    monkeypatch.setattr("milepost.file_lock.time", fake)

    def clock() -> int:
        fake.now += lasts[0]
        return 0

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        for seconds, slept in ((0.0005, []), (0.01, [0.0005]), (5.0, [0.001])):
            lasts[0] = seconds
            if way == "block":
                with store.transaction():
                    clock()
            else:
                _advance(store, 1)
            for expected in (slept, []):
                fake.slept.clear()
                store.append_many([])
                assert fake.slept == pytest.approx(expected)


def test_who_writes_a_while_after_a_long_write_is_not_kept_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have had their time by then."""
    fake = FakeTime()
    monkeypatch.setattr("milepost.file_lock.time", fake)
    with CheckpointStore(path, durability="normal") as store:
        with store.transaction():
            fake.now += 5
        fake.now += 60
        assert store.append(entry(1)).position == 1
        assert fake.slept == [0]


# Interrupts, of those that wait and of those that write for others


def test_who_is_interrupted_while_it_waits_has_nothing_written_and_keeps_nobody_waiting(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job is not taken over by the next, and it does not stay in the queue."""
    turns = writer(store)._turns

    def interrupted(turn: Turn, seconds: float) -> NoReturn:
        raise KeyboardInterrupt

    with held_by_a_thread(store, WATCHDOG_S) as let_go, ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(Turn, "sleep", interrupted)
            for write in WRITES.values():
                with pytest.raises(KeyboardInterrupt):
                    write(store)
        waited = turns.waiting
        others = [pool.submit(store.append, entry(1, run_id=f"run-{number}")) for number in (8, 9)]
        _until(lambda: turns.waiting == waited + 2)
        let_go()
        assert sorted(other.result().position for other in others) == [1, 2]
    assert {item.run_id for item in store.history()} == {"run-8", "run-9"}
    store.append(entry(1))
    assert turns.waiting == 0


def test_who_is_interrupted_while_it_has_its_turn_gives_it_back(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a commit of its own, at the begin of a block, and at its end."""
    for write in WRITES.values():
        for fails in ("BEGIN IMMEDIATE", "COMMIT"):
            with monkeypatch.context() as patch:
                _interrupt_once(patch, store, fails)
                with pytest.raises(KeyboardInterrupt):
                    write(store)
            assert writer(store)._turns.holder is None
            assert not writer(store)._lent.in_transaction
            assert len(store) == 0
    store.append(entry(1))


@pytest.mark.parametrize("write", WRITES)
def test_who_is_interrupted_once_its_transaction_has_begun_leaves_none_open(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Nor the lock that keeps other processes waiting."""
    execute = writer(store)._execute

    def interrupted(given: str, *arguments: Any) -> object:
        result = execute(given, *arguments)
        if given == "BEGIN IMMEDIATE":
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            WRITES[write](store)
    assert not writer(store)._lent.in_transaction
    assert writer(store)._turns.holder is None


def test_memory_that_runs_out_as_a_transaction_begins_is_told_as_such(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one goes on."""
    begin = writer(store)._begin

    def fail() -> NoReturn:
        begin()
        raise MemoryError

    for write in WRITES.values():
        with monkeypatch.context() as patch:
            patch.setattr(writer(store), "_begin", fail)
            with pytest.raises(MemoryError):
                write(store)
    assert store.append(entry(1)).position == 1


@pytest.mark.parametrize("moment", ["lent", "taken back"])
def test_a_block_that_is_interrupted_as_it_is_lent_or_taken_back_leaves_no_transaction_open(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Nor is the store's own statement that undoes it judged as one of the block's."""
    lend = writer(store)._lend

    def as_it_is_lent(turn: BlockTurn, connection: LentConnection) -> NoReturn:
        lend(turn, connection)
        raise KeyboardInterrupt

    def as_it_is_taken_back(turn: BlockTurn, timeout_s: float, *, interrupt: bool) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "lent":
            patch.setattr(writer(store), "_lend", as_it_is_lent)
        else:
            patch.setattr(BlockTurn, "close", as_it_is_taken_back)
        with pytest.raises(KeyboardInterrupt), store.transaction():
            pass
    assert not writer(store)._lent.in_transaction
    assert writer(store)._turns.holder is None


@pytest.mark.parametrize("moment", ["lent", "taken back"])
def test_an_inner_block_that_is_interrupted_as_it_is_lent_or_taken_back_leaves_no_savepoint_open(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As an outer one leaves no transaction."""
    busy: Any = vars(BlockTurn)["busy"]

    def as_it_is_lent(turn: BlockTurn, is_busy: bool) -> None:
        busy.__set__(turn, is_busy)
        if not is_busy and turn.depth == 1:
            patch.undo()
            raise KeyboardInterrupt

    def as_it_is_taken_back(turn: BlockTurn) -> NoReturn:
        raise KeyboardInterrupt

    with store.transaction():
        store.append(entry(1))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if moment == "lent":
                patch.setattr(BlockTurn, "busy", property(busy.__get__, as_it_is_lent))
            with store.transaction():
                patch.setattr(BlockTurn, "refuse_if_cut_short", as_it_is_taken_back)
        with pytest.raises(apsw.SQLError, match="no such savepoint"):
            unlocked(store).execute("RELEASE milepost_1")
    assert list(store.history()) == [entry(1)]


@pytest.mark.parametrize(
    ("write", "statement"),
    [
        ("append", "BEGIN IMMEDIATE"),
        ("block in a block", "BEGIN IMMEDIATE"),
        ("block in a block", "SAVEPOINT milepost_1"),
        ("block in a block", "SAVEPOINT milepost_0"),
        ("block in a block", "RELEASE milepost_1"),
    ],
)
def test_a_child_that_is_forked_within_a_write_leaves_the_transaction_to_its_parent(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str, statement: str
) -> None:
    """By a signal handler that then raises, say: nothing more is given to SQLite there."""
    execute, given_there = writer(store)._execute, list[str]()

    def forked(given: str, *arguments: Any) -> object:
        if writer(store)._inherited:
            given_there.append(given)
        result = execute(given, *arguments)
        if given == statement:
            patch.setattr(writer(store), "_inherited", True)
            patch.setattr(writer(store), "_ended", ForkedStoreError(store.path, "forked"))
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_execute", forked)
        with pytest.raises(KeyboardInterrupt):
            WRITES[write](store)
    assert given_there == []
    assert store.append(entry(1)).position == 1


def test_a_fork_that_is_interrupted_while_it_waits_keeps_nobody_waiting(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stay in the queue once the file is taken back."""

    def interrupted(turn: Turn, seconds: float) -> NoReturn:
        raise KeyboardInterrupt

    with held_by_a_thread(store, WATCHDOG_S), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Turn, "sleep", interrupted)
        writer(store).let_go(time.monotonic() + WATCHDOG_S)
    store.append(entry(1))
    assert writer(store)._turns.waiting == 0


def _interrupt_once(patch: pytest.MonkeyPatch, store: CheckpointStore, statement: str) -> None:
    execute = writer(store)._execute

    def interrupted(given: str, *arguments: Any) -> object:
        if given == statement:
            patch.setattr(writer(store), "_execute", execute)
            raise KeyboardInterrupt
        return execute(given, *arguments)

    patch.setattr(writer(store), "_execute", interrupted)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("statement", ["SAVEPOINT milepost_1", "RELEASE milepost_1"])
def test_an_inner_block_that_is_interrupted_leaves_the_outer_one_as_it_was(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """As it begins or ends: what may not be done in a block may still not be, and another may stand inside it."""
    with store.transaction() as connection:
        store.append(entry(1))
        with monkeypatch.context() as patch:
            _interrupt_once(patch, store, statement)
            with pytest.raises(KeyboardInterrupt), store.transaction():
                store.append(entry(2))
        with pytest.raises(StoreError, match="refused"):
            connection.execute("DELETE FROM entry")
        with store.transaction():
            store.append(entry(2, key="again"))
    assert list(store.history()) == [entry(1), entry(2, key="again")]


@pytest.mark.parametrize("write", ["append", "append_many", "advance"])
def test_a_write_in_a_block_that_is_interrupted_as_it_begins_is_told_nothing_else(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """There is no savepoint then to be undone; the block goes on."""
    with store.transaction():
        with monkeypatch.context() as patch:
            _interrupt_once(patch, store, "SAVEPOINT milepost_0")
            with pytest.raises(KeyboardInterrupt):
                WRITES[write](store)
        store.append(entry(1))
    assert list(store.history()) == [entry(1)]


@pytest.mark.parametrize("fails", ["BEGIN IMMEDIATE", "COMMIT"])
@pytest.mark.parametrize("write", WRITES)
def test_a_transaction_that_sqlite_has_rolled_back_itself_is_told_by_its_first_error(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str, fails: str
) -> None:
    """Not by that of the second rollback."""
    execute = writer(store)._execute

    def full(given: str, *arguments: Any) -> object:
        if given == "COMMIT":
            raise apsw.FullError
        result = execute(given, *arguments)
        if given == "ROLLBACK":
            raise apsw.SQLError
        if given == fails:
            raise apsw.FullError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_execute", full)
        with pytest.raises(StoreFullError):
            WRITES[write](store)
    assert len(store) == 0
    assert store.append(entry(1)).position == 1


@pytest.mark.parametrize(("statement", "kept"), [("SAVEPOINT milepost_1", [1]), ("RELEASE milepost_1", [1, 2])])
def test_an_inner_block_that_is_interrupted_once_it_has_begun_or_ended_leaves_no_savepoint_open(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, statement: str, kept: list[int]
) -> None:
    """And who is interrupted is told nothing else."""
    with store.transaction():
        store.append(entry(1))
        execute = writer(store)._execute

        def interrupted(given: str, *arguments: Any) -> object:
            result = execute(given, *arguments)
            if given == statement:
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch:
            patch.setattr(writer(store), "_execute", interrupted)
            with pytest.raises(KeyboardInterrupt), store.transaction():
                store.append(entry(2))
        with pytest.raises(apsw.SQLError, match="no such savepoint"):
            unlocked(store).execute("RELEASE milepost_1")
    assert [item.sequence for item in store.history()] == kept


def test_what_an_interrupted_thread_had_taken_over_is_written_by_the_next_before_all_that_came_later(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is written once, and told so."""
    turns = writer(store)._turns
    with held_by_a_thread(store, WATCHDOG_S) as let_go, ThreadPoolExecutor(4) as pool:
        queued: list[Future[Any]] = []

        def later() -> int:
            with store.transaction():
                return store.append(entry(1, run_id="block")).position

        for number in range(4):
            queued.append(pool.submit(store.append, entry(1, run_id=f"run-{number}")) if number < 3 else pool.submit(later))
            _until(lambda: turns.waiting == len(queued))
        with monkeypatch.context() as patch:
            execute = writer(store)._execute
            commits: list[int] = []

            def interrupted(given: str, *arguments: Any) -> object:
                if given == "COMMIT":
                    commits.append(turns.waiting)
                    if len(commits) == 2:  # the first is that of the block that all have waited for
                        raise KeyboardInterrupt
                return execute(given, *arguments)

            patch.setattr(writer(store), "_execute", interrupted)
            let_go()
            assert isinstance(queued[0].exception(WATCHDOG_S), KeyboardInterrupt)
            assert [future.result(WATCHDOG_S).position for future in queued[1:3]] == [1, 2]
            assert queued[3].result(WATCHDOG_S) == 3
    assert [item.run_id for item in store.history()] == ["run-1", "run-2", "block"]


def test_the_main_thread_writes_its_own_work_only(store: CheckpointStore) -> None:
    """So nobody else hears of its interrupts."""
    turns = writer(store)._turns
    begun: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        block = store.transaction()
        block.__enter__()
        others = []
        for number in range(2):
            others.append(pool.submit(store.append, entry(1, run_id=f"run-{number}")))
            _until(lambda: turns.waiting == len(others))
        block.__exit__(None, None, None)
        for other in others:
            other.result(WATCHDOG_S)
        with _noting_who_takes_over(turns, begun):
            store.append(entry(1))
            store.append_many(chain(3))
        assert begun == []


@contextlib.contextmanager
def _noting_who_takes_over(turns: Any, begun: list[int]) -> Iterator[None]:
    """Note each time that somebody takes over what others wait for."""
    take_over = turns.take_over

    def noted() -> Any:
        begun.append(1)
        return take_over()

    turns.take_over = noted
    try:
        yield
    finally:
        del turns.take_over


# What a block leaves behind


FORBIDDEN = [
    "INSERT INTO run (run_id) VALUES ('mine')",
    "PRAGMA synchronous = off",
    "CREATE INDEX mine ON entry (offset)",
    "COMMIT",
]


def _rejected(store: CheckpointStore) -> None:
    with pytest.raises(MilepostError):
        store.append(entry(1, key="late"))


def _inner(store: CheckpointStore) -> None:
    with store.transaction():
        store.append(entry(5))


def _inner_undone(store: CheckpointStore) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        raise ZeroDivisionError


def _failed_read(store: CheckpointStore) -> None:
    with pytest.raises(MilepostError):
        store.resume_point_for_stage("load", run_id="run-unknown")


BEFORE: dict[str, Callable[[CheckpointStore], object]] = {
    "nothing": lambda store: None,
    "append": lambda store: store.append(entry(2)),
    "rejected": _rejected,
    "read": lambda store: store.latest(),
    "failed read": _failed_read,
    "walk": lambda store: list(store.history()),
    "inner block": _inner,
    "inner block undone": _inner_undone,
}


@pytest.mark.parametrize("before", BEFORE)
def test_what_a_block_may_not_do_it_may_not_do_after_any_call_of_the_store_either(
    store: CheckpointStore, before: str
) -> None:
    """Milepost's own statements are allowed as long as they run, and not longer; nor in a block inside the block."""
    store.append(entry(1))
    with store.transaction() as connection:
        BEFORE[before](store)
        for statement in FORBIDDEN:
            with pytest.raises(StoreError, match=r"refused|inside a transaction block"):
                connection.execute(statement)
        with store.transaction() as inner:
            BEFORE[before](store)
            for statement in FORBIDDEN:
                with pytest.raises(StoreError, match=r"refused|inside a transaction block"):
                    inner.execute(statement)


def test_on_connect_is_judged_too_and_may_do_a_little_more(path: Path, tmp_path: Path) -> None:
    """It may attach a file, and may not write to milepost's tables; a block may do neither."""
    apsw.Connection(str(tmp_path / "other")).close()

    def attach(connection: apsw.Connection) -> None:
        connection.execute("ATTACH ? AS other", (str(tmp_path / "other"),))
        connection.execute("PRAGMA foreign_keys = on")
        with pytest.raises(StoreError, match="refused"):
            connection.execute("INSERT INTO run (run_id) VALUES ('mine')")
        with pytest.raises(StoreError, match="refused"):
            connection.set_commit_hook(lambda: True)

    with CheckpointStore(path, durability="normal", on_connect=attach) as store:
        store.append(entry(1))
        with store.transaction() as connection:
            connection.execute("CREATE TABLE other.sink (x)")
            for statement in ("DETACH other", "ATTACH ':memory:' AS third", "PRAGMA foreign_keys = off"):
                with pytest.raises(StoreError, match="refused"):
                    connection.execute(statement)


def test_on_connect_may_leave_a_cursor_half_read_as_it_raises(path: Path) -> None:
    """Its exception comes out as it is, and the file is closed."""
    kept: list[apsw.Cursor] = []

    def broken(connection: apsw.Connection) -> NoReturn:
        kept.append(connection.execute("SELECT 1; SELECT 2; SELECT 3"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        CheckpointStore(path, on_connect=broken)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_on_connect_ends_what_it_begins(path: Path) -> None:
    """A transaction that it left open would be committed with the first append."""
    with pytest.raises(StoreError, match=r"refused|transaction open"):
        CheckpointStore(path, on_connect=lambda connection: connection.execute("BEGIN"))
    with pytest.raises(StoreError, match=r"refused|transaction open"):
        CheckpointStore(path, on_connect=lambda connection: connection.execute("SAVEPOINT mine"))


def _no_rows(_cursor: apsw.Cursor, _row: object) -> None:
    """A row trace that has every row left out."""


def _no_statements(_cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
    return False


@pytest.mark.parametrize("where", ["in the block", "after it"])
@pytest.mark.parametrize(("name", "trace"), [("row_trace", _no_rows), ("exec_trace", _no_statements)])
def test_a_trace_of_the_callers_sees_nothing_of_mileposts_own(
    store: CheckpointStore, where: str, name: str, trace: Callable[..., Any]
) -> None:
    """It stays for the block's own statements, and is gone with it."""
    store.append(entry(1))
    with store.transaction() as connection:
        setattr(connection, name, trace)
        if where == "in the block":
            assert store.append(entry(2)).position == 2
            assert getattr(connection, name) is trace
            assert store.latest() == entry(2)
            assert [item.sequence for item in store.history()] == [1, 2]
            assert getattr(connection, name) is trace
    assert store.append(entry(3)).position == len(store)
    assert getattr(writer(store)._lent, name) is None


def test_hooks_and_handlers_of_the_callers_are_gone_with_the_block(path: Path) -> None:
    """None of them sees, stops or delays a later write; nor the commit of the block itself."""
    seen: list[str] = []

    def note(what: str, answer: object = None) -> Callable[..., Any]:
        def noted(*_: object) -> object:
            seen.append(what)
            return answer

        return noted

    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store,
        CheckpointStore(path, durability="normal") as other,
    ):
        store.append(entry(1))
        with store.transaction() as connection:
            store.append(entry(2))
            for hook, arguments in {
                connection.set_commit_hook: (note("commit", True),),
                connection.set_rollback_hook: (note("rollback"),),
                connection.set_wal_hook: (note("wal", 0),),
                connection.set_busy_handler: (note("busy", False),),
                connection.set_progress_handler: (note("progress", True), 1),
            }.items():
                with pytest.raises(StoreError, match="refused"):
                    hook(*arguments)  # type: ignore[operator]
        with pytest.raises(MilepostError):
            store.append(entry(1, key="late"))
        with held_by_a_thread(other, WATCHDOG_S) as let_go:
            timer = threading.Timer(0.1, let_go)
            timer.start()
            assert store.append(entry(3)).position == 3
            timer.join()
        assert seen == []
        with store.transaction() as connection, pytest.raises(StoreError, match="refused"):
            connection.wal_autocheckpoint(1)
        assert unlocked(store).pragma("wal_autocheckpoint") == 0


def test_a_cursor_that_is_kept_reads_nothing_after_its_block(store: CheckpointStore) -> None:
    """However many there were: else it would read on in the next transaction, and keep the WAL from being written back."""
    with store.transaction() as connection:
        store.append_many(chain(20))
        kept = [connection.cursor() for _ in range(5)]
        for number in range(400):
            cursor = connection.cursor()
            cursor.execute("SELECT position FROM entry")
            if number % 2:
                kept.append(cursor)
        for cursor in kept:
            cursor.execute("SELECT position FROM entry")
        inside = store.history()
        assert next(inside) == entry(1)
    for cursor in kept:
        with pytest.raises((apsw.Error, StoreError)):
            cursor.fetchall()
        with pytest.raises((apsw.Error, StoreError)):
            cursor.execute("SELECT 1")
        with pytest.raises((apsw.Error, StoreError)):
            cursor.executemany("SELECT ?", [(1,)])
    with pytest.raises(StoreError, match="only valid inside its block"):
        connection.execute("SELECT 1")
    assert [item.sequence for item in inside][-1] == 20


def test_a_cursor_with_statements_left_to_run_keeps_no_block_from_its_end(store: CheckpointStore) -> None:
    """They are not run, and nothing is raised for them."""
    with store.transaction() as connection:
        left = connection.execute("SELECT 1; CREATE TABLE late (x)")
        store.append(entry(1))
    assert len(store) == 1
    with pytest.raises(apsw.CursorClosedError):
        next(left)
    assert connections(store)[0].execute("SELECT count(*) FROM sqlite_schema WHERE name = 'late'").get == 0


def test_what_a_failed_read_has_half_read_is_closed_with_the_block(store: CheckpointStore) -> None:
    """A kept traceback holds it: it would read on, and pin what it reads."""
    kept: list[apsw.Cursor] = []

    def fail(connection: apsw.Connection) -> None:
        kept.append(connection.execute("SELECT position FROM entry"))
        raise ZeroDivisionError

    with store.transaction():
        store.append_many(chain(20))
        with pytest.raises(ZeroDivisionError):
            writer(store).read(fail)
        assert next(kept[0]) == (1,)
    with pytest.raises(apsw.CursorClosedError):
        kept[0].fetchall()


def test_a_block_remembers_no_cursors_that_are_gone(store: CheckpointStore) -> None:
    """However many statements it runs."""
    with store.transaction() as connection:
        for _ in range(2000):
            connection.execute("SELECT 1").fetchall()
        turn = writer(store)._turns.holder
        assert isinstance(turn, BlockTurn)
        assert len(turn._opened) < 1000


def test_the_callers_statements_run_on_the_callers_cursors(store: CheckpointStore) -> None:
    """Also after milepost has read in between, so that a kept one is refused after the block."""
    with store.transaction() as connection:
        store.append(entry(1))
        store.latest()
        cursor = connection.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
        with pytest.raises(StoreError, match="refused"):
            connection.execute("DELETE FROM entry")
    with pytest.raises((apsw.Error, StoreError)):
        cursor.execute("SELECT 1")


def test_a_statement_is_judged_anew_each_time(store: CheckpointStore) -> None:
    """Also one that milepost itself has run before, word for word."""
    ran: list[str] = []

    def note(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        ran.append(statement)
        return True

    traced(store, lambda store: (store.append(entry(1)), store.append_many(chain(3))), note)
    connection = unlocked(store)
    inserts = [statement for statement in ran if statement.startswith("INSERT INTO entry")]
    assert inserts
    row = tuple(connection.execute("SELECT * FROM entry").fetchone() or ())
    with store.transaction() as lent:
        for statement in inserts:
            values = (99, *row[1:])[: statement.count("?")]
            with pytest.raises(StoreError, match="refused"):
                lent.execute(statement, values)
            with pytest.raises(StoreError, match="refused"):
                lent.executemany(statement, [values])


# How the connections are set


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_the_connection_that_writes_has_every_setting(path: Path, durability: Any, synchronous: int) -> None:
    """Each read back from SQLite."""
    with CheckpointStore(path, durability=durability) as store:
        connection = unlocked(store)
        assert {
            name: connection.pragma(name)
            for name in (
                "page_size",
                "cache_size",
                "synchronous",
                "journal_mode",
                "wal_autocheckpoint",
                "journal_size_limit",
            )
        } == {
            "page_size": 2048,
            "cache_size": -16_384,
            "synchronous": synchronous,
            "journal_mode": "wal",
            "wal_autocheckpoint": 0,
            "journal_size_limit": 2 * 4000 * 2048,
        }
        assert connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, -1) == 0


def test_a_file_that_another_tool_has_given_a_rollback_journal_gets_its_wal_again(path: Path) -> None:
    """By whoever opens it to write."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    other = apsw.Connection(str(path))
    assert other.pragma("journal_mode", "delete") == "delete"
    other.close()
    with CheckpointStore(path, durability="normal") as store:
        assert unlocked(store).pragma("journal_mode") == "wal"
        store.append(entry(2))
        assert list(store.history()) == chain(2)


def test_a_file_that_cannot_have_a_wal_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal stays what it is, where another program holds the file, say."""
    pragma: Any = LentConnection.pragma

    def stays(connection: LentConnection, name: str, *value: Any) -> Any:
        return "delete" if name == "journal_mode" else pragma(connection, name, *value)

    CheckpointStore(path).close()
    monkeypatch.setattr(LentConnection, "pragma", stays)
    with pytest.raises(StoreError, match="the journal mode is not WAL and cannot be set"):
        CheckpointStore(path)


def test_an_opening_that_is_refused_leaves_nothing_beside_the_file(path: Path) -> None:
    """A WAL of its own is nothing that anybody needs."""
    CheckpointStore(path, hmac_key=b"0123456789abcdef").close()
    before = sorted(each.name for each in path.parent.iterdir())
    with pytest.raises(WrongKeyError):
        CheckpointStore(path)
    assert sorted(each.name for each in path.parent.iterdir()) == before == [path.name]


def test_a_file_is_announced_before_it_is_opened_to_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody in this process opens it to read first, and a fork finds it."""
    announced: list[tuple[bool, bool]] = []

    def noted(path: str, how: str, *given: Any) -> Any:
        told = path in open_files.opening_to_write.values() and path in open_files.mapping_to_write.values()
        announced.append((told, any(each.may_be_open for each in databases())))
        return connect(path, how, *given)

    def databases() -> list[open_files.OpenFile]:
        return [each for each in open_files.opened() if each.path == str(path)]

    monkeypatch.setattr("milepost.writable_database.connect", noted)
    with CheckpointStore(path, durability="normal"):
        assert open_files.opening_to_write == open_files.mapping_to_write == {}
    assert announced == [(True, True)]


def test_a_store_that_a_fork_carries_over_as_it_opens_its_file_does_not_open_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler has forked before the file was announced, and the child goes on: its parent writes."""
    status = files.status

    def fork(name: str) -> os.stat_result | None:
        (database,) = (each for each in open_files.opened() if each.path == str(path))
        database.carried_over()
        return status(name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "status", fork)
        patch.setattr("milepost.writable_database.connect", None)
        with pytest.raises(ForkedStoreError):
            CheckpointStore(path)
    CheckpointStore(path).close()


def test_a_second_store_of_a_file_is_opened_while_the_first_one_reads(path: Path) -> None:
    """It waits for nobody: the first one has opened the file to write, too."""

    def open_second(_: apsw.Connection) -> int:
        with CheckpointStore(path, busy_timeout_ms=20) as second:
            return second.append(entry(1)).position

    with CheckpointStore(path) as first:
        assert writer(first).read_committed(open_second) == 1


def test_a_reader_that_does_not_end_keeps_a_file_from_being_opened_to_write(path: Path) -> None:
    """For as long as was said: it may have mapped what the writer has to write to."""

    def open_to_write(_: apsw.Connection) -> None:
        with pytest.raises(StoreBusyError) as busy:
            CheckpointStore(path, busy_timeout_ms=20)
        assert busy.value.waited_ms == 20

    CheckpointStore(path).close()
    with CheckpointStore.open_readonly(path) as reader:
        in_time(lambda: reader._database.read_committed(open_to_write))


@pytest.mark.parametrize(("busy_timeout_ms", "until"), [(4321, [1004.321, 1000.5]), (200, [1000.2, 1000.2])])
def test_readers_are_waited_for_as_long_as_was_said_and_ones_own_no_longer_than_half_a_second(
    path: Path, monkeypatch: pytest.MonkeyPatch, busy_timeout_ms: int, until: list[float]
) -> None:
    """As a file is opened to write."""
    waited: list[float] = []

    def make_way(database: Database, deadline: float) -> bool:
        waited.append(deadline)
        return True

    CheckpointStore(path).close()
    monkeypatch.setattr(Database, "make_way", make_way)
    monkeypatch.setattr("milepost.writable_database.time", FakeTime())
    with CheckpointStore.open_readonly(path), CheckpointStore(path, busy_timeout_ms=busy_timeout_ms):
        assert waited == pytest.approx(until)


@pytest.mark.parametrize("missing", ["-wal", "-shm"])
def test_a_store_whose_wal_is_not_beside_it_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Nobody could tell then whether it is still there."""
    identity_of = files.identity_of

    def nowhere(name: str) -> Callable[[], object]:
        return (lambda: None) if name.endswith(missing) else identity_of(name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "identity_of", nowhere)
        with pytest.raises(StoreError, match="its WAL is not where SQLite keeps it"):
            CheckpointStore(path)
    with CheckpointStore(path) as store:
        assert store.append(entry(1)).position == 1


def test_the_connections_that_read_have_every_setting(path: Path) -> None:
    """The reader beside a writer leaves it to the writer to write the WAL back."""
    with CheckpointStore(path) as store, CheckpointStore.open_readonly(path) as readonly:
        beside, alone = connections(store)[0], connections(readonly)[0]
        for connection in (beside, alone):
            assert connection.pragma("cache_size") == -16_384
            assert connection.pragma("query_only") == 1
            assert connection.pragma("busy_timeout") == 5000
        assert beside.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, -1) == 1


def test_the_wal_is_written_back_while_the_store_is_open_and_when_it_is_closed(path: Path) -> None:
    """So it does not grow without end, nor is it left."""
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages = 20
        for sequence in range(1, 31):
            store.append(entry(sequence))
        grown = path.with_name(f"{path.name}-wal").stat().st_size
        for sequence in range(31, 201):
            store.append(entry(sequence))
        assert path.with_name(f"{path.name}-wal").stat().st_size <= grown + 40 * 2072
        for sequence in range(201, 401):
            with store.transaction():
                store.append(entry(sequence))
        assert path.with_name(f"{path.name}-wal").stat().st_size <= grown + 40 * 2072
    assert not path.with_name(f"{path.name}-wal").exists()


def test_a_short_wal_that_was_written_back_on_demand_is_not_with_every_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `archive` demands: each time would sync the file too."""
    asked = modes_of_write_backs(monkeypatch)
    with CheckpointStore(path) as store:
        store.append(entry(1))
        writer(store).write_back()
        assert asked.count(apsw.SQLITE_CHECKPOINT_PASSIVE) == 1
        for sequence in range(2, 6):
            store.append(entry(sequence))
        assert asked.count(apsw.SQLITE_CHECKPOINT_PASSIVE) == 1


def test_a_wal_that_one_large_batch_has_made_long_gets_short_again(path: Path) -> None:
    """As it begins anew."""
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages = 20
        unlocked(store).pragma("journal_size_limit", 40 * 2048)
        name = path.with_name(f"{path.name}-wal")
        store.append_many(chain(3000))
        long = name.stat().st_size
        for sequence in range(3001, 3101):
            store.append(entry(sequence))
        assert name.stat().st_size < long / 2


def test_a_wal_that_another_writer_never_lets_rest_begins_anew_all_the_same(path: Path) -> None:
    """It has always one commit more than what is written back, so SQLite by itself would let it grow without end."""

    def append_beside(call: Call) -> None:
        if call.method == "xWrite" and call.path == str(path) and others and not busy:
            busy.append(True)
            (other,) = others
            with contextlib.suppress(StoreBusyError):  # while it begins anew, nobody can
                other.advance("other", "load", Watermark(len(other), 0), idempotency_key=f"{len(other)}")
            busy.clear()

    busy: list[bool] = []
    others: list[CheckpointStore] = []
    with (
        hooked(append_beside) as vfs,
        CheckpointStore(path, durability="normal", vfs=vfs) as store,
        CheckpointStore(path, durability="normal", busy_timeout_ms=0) as other,
    ):
        others.append(other)
        wal(store).write_back_pages = 20
        longest = 0
        for sequence in range(1, 301):
            store.append(entry(sequence))
            longest = max(longest, (wal(store).frames() or (0, 0))[0])
        others.clear()
        assert 80 <= longest < 200
        assert store.verify().ok


def test_a_wal_that_a_reader_keeps_from_beginning_anew_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may stay for hours."""
    asked = modes_of_write_backs(monkeypatch)
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages = 20
        store.append_many(chain(300))
        reader = long_reader(path, 300)
        for sequence in range(301, 401):
            store.append(entry(sequence))
        assert asked.count(apsw.SQLITE_CHECKPOINT_PASSIVE) > 10
        assert apsw.SQLITE_CHECKPOINT_RESTART not in asked
        reader.close()


def test_a_reader_is_waited_for_only_a_moment_so_that_a_long_wal_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as long as for the lock of another writer: the commit stands already."""
    asked = modes_of_write_backs(monkeypatch)
    with CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store:
        store.append_many(chain(2000))
        reader = long_reader(path, 2000)
        wal(store).write_back_pages = 20
        in_time(lambda: store.append(entry(2001)))
        assert apsw.SQLITE_CHECKPOINT_RESTART in asked
        reader.close()


# The files under an open store


@pytest.mark.parametrize("write", ["append", "block", "block with nothing"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_nothing_is_acknowledged_once_one_of_the_files_has_lost_its_name(path: Path, suffix: str, write: str) -> None:
    """By whatever way it is written; the store does nothing more then, and closing it leaves the WAL to the next opener."""
    store = CheckpointStore(path)
    store.append(entry(1))
    with path.with_name(f"{path.name}-wal").open("rb") as kept:
        moved = path.with_name(f"{path.name}{suffix}")
        moved.rename(f"{moved}.away")
        with pytest.raises(StoreError):
            if write == "append":
                store.append(entry(2))
            else:
                with store.transaction():
                    if write == "block":
                        store.append(entry(2))
        for use in (*WRITES.values(), len):
            with pytest.raises(FailedStoreError, match="removed or replaced"):
                use(store)
        store.close()
        if suffix == "-shm":
            assert kept.read()
            assert path.with_name(f"{path.name}-wal").exists()


@pytest.mark.parametrize(
    ("suffix", "named"), [("", "its file was"), ("-wal", "its -wal file was"), ("-shm", "its -shm file was")]
)
def test_the_file_that_has_lost_its_name_is_named(path: Path, suffix: str, named: str) -> None:
    """There are three of them."""
    store = CheckpointStore(path, durability="normal")
    store.append(entry(1))
    path.with_name(f"{path.name}{suffix}").rename(path.with_name("away"))
    with pytest.raises(FailedStoreError, match=f": {named} removed or replaced"):
        store.append(entry(2))
    store.close()


@pytest.mark.parametrize("lost", [["-wal"], ["-wal", "-shm"]])
def test_what_was_acknowledged_before_the_wal_lost_its_name_is_in_the_file_once_it_is_closed(
    path: Path, lost: list[str]
) -> None:
    """Nobody else can read that WAL any more, and no sync of it has failed: closing writes it back."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        for suffix in lost:
            path.with_name(f"{path.name}{suffix}").unlink()
        with pytest.raises(FailedStoreError, match="removed or replaced"):
            store.append(entry(2))
    with CheckpointStore(path) as store:
        assert store.latest("run-7") in (entry(1), entry(2))
        assert store.verify().ok


def test_files_that_cannot_be_looked_at_do_not_tell_of_another_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their directory may be one that nobody may search."""

    def hidden() -> NoReturn:
        raise PermissionError(errno.EACCES, "nobody may search")

    with CheckpointStore(path):
        named = NamedFiles(str(path))
        assert not named.have_other_memory()
        path.with_name(f"{path.name}-shm").unlink()
        assert named.have_other_memory()
        monkeypatch.setattr(named, "_files", [(name, hidden, at_first) for name, _, at_first in named._files])
        assert not named.have_other_memory()


def test_a_file_with_a_second_name_is_not_written_to(path: Path, tmp_path: Path) -> None:
    """Through two WALs it would break; the name that a killed process has left while it made the file is taken away."""
    CheckpointStore(path).close()
    left, unrelated = tmp_path / ".milepost-killed.new", tmp_path / ".milepost-other.new"
    left.hardlink_to(path)
    unrelated.write_bytes(b"")
    with CheckpointStore(path) as store:
        store.append(entry(1))
    assert (left.exists(), unrelated.exists()) == (False, True)
    (tmp_path / "second").hardlink_to(path)
    with pytest.raises(StoreError, match="second name"):
        CheckpointStore(path)
    with CheckpointStore.open_readonly(path) as store:
        assert len(store) == 1


def test_a_transaction_that_could_not_be_undone_is_undone_before_the_next(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a retry would find its own entry there, call it a duplicate, and acknowledge what nobody commits."""
    execute = writer(store)._execute

    def interrupted(given: str, *arguments: Any) -> object:
        if given in {"COMMIT", "ROLLBACK"}:
            raise KeyboardInterrupt
        return execute(given, *arguments)

    for write in (lambda: store.append(entry(1)), lambda: _in_block(store)):
        with monkeypatch.context() as patch:
            patch.setattr(writer(store), "_execute", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write()
        assert writer(store)._lent.in_transaction
    assert [store.append(entry(1)), store.append(entry(2))] == [
        Receipt(position, chain_signature(chain(position))) for position in (1, 2)
    ]
    with CheckpointStore.open_readonly(path) as reader:
        assert list(reader.history()) == chain(2)


def test_a_transaction_that_can_be_neither_committed_nor_undone_ends_the_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it must not be built upon."""

    def broken(given: str, *arguments: Any) -> object:
        if given in {"COMMIT", "ROLLBACK"}:
            raise apsw.IOError
        return execute(given, *arguments)

    with CheckpointStore(path, durability="normal") as store:
        execute = writer(store)._execute
        with monkeypatch.context() as patch:
            patch.setattr(writer(store), "_execute", broken)
            with pytest.raises(StoreError):
                store.append(entry(1))
            with pytest.raises(FailedStoreError, match="neither committed nor undone"):
                store.append(entry(1))
        with pytest.raises(FailedStoreError, match="neither committed nor undone"):
            store.append(entry(1))
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 0


@pytest.mark.parametrize("write", WRITES)
def test_an_error_of_the_system_within_a_transaction_is_told_in_mileposts_words(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """As one of SQLite's is."""

    def fail(appended: int) -> NoReturn:
        raise error

    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_before_acknowledging", fail)
        with pytest.raises(StoreError) as told:
            WRITES[write](store)
    assert told.value.__cause__ is error


def test_who_commits_for_others_waits_a_little_for_those_whom_the_last_commit_served(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a millisecond, where each commit is synced; not after a commit of one, nor where it is not synced."""
    waits: list[tuple[int, float]] = []
    monkeypatch.setattr(Turns, "wait_for_others", lambda turns, turn, number, seconds: waits.append((number, seconds)))
    durability: Any
    for durability, patience in (("full", 0.0001), ("normal", 0)):
        with CheckpointStore(path, durability=durability) as store, ThreadPoolExecutor(1) as pool:
            for group, expected in ((1, []), (3, [(2, patience)]), (1, [])):
                if group > 1:
                    writer(store)._turns.company = group - 1
                waits.clear()
                pool.submit(store.append_many, []).result()
                assert waits == expected
            writer(store)._turns.company = 2
            store.append_many([])  # the main thread takes over nobody's work, and waits for none
            assert waits == []


def test_a_block_whose_end_was_interrupted_before_it_began_is_undone_by_the_next_write(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by the next block, also where the word that it is over was lost."""
    monkeypatch.setattr(Block, "_abandoned", lambda self, gone: None)
    for name in ("append_many", "append", "advance", "transaction", "block in a block"):
        block = store.transaction()
        end: Any = block.__exit__
        block.__enter__()
        store.append(entry(1, run_id="undone"))
        del end
        WRITES[name](store)
    assert [item.run_id for item in store.history()] == [NEW, NEW, "run-7"]


def test_a_write_within_a_write_of_the_same_thread_is_refused_and_waits_for_nothing(path: Path) -> None:
    """By the store's clock, say: it would wait for itself."""
    told: list[str] = []

    def clock() -> int:
        for write in WRITES.values():
            with pytest.raises(StoreError, match="a write was begun within another") as caught:
                write(store)
            told.append(str(caught.value))
        return 0

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        _advance(store, 1)
        with store.transaction():
            _advance(store, 2)
            store.append(entry(3, offset=3, event_time_ms=2**60))
        assert len(told) == 2 * len(WRITES)
        assert [item.sequence for item in store.history()] == [1, 2, 3]


@pytest.mark.parametrize("moment", ["_begin", "_file_lock.let_others_in", "_before_acknowledging"])
@pytest.mark.parametrize("write", ["append", "append_many", "advance"])
def test_a_write_while_a_block_begins_or_ends_is_refused(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, moment: str, write: str
) -> None:
    """By a signal handler, say: it would be half in the block."""
    *inside, name = moment.split(".")
    owner = getattr(writer(store), *inside) if inside else writer(store)
    original = getattr(owner, name)

    def and_write(*given: Any) -> None:
        original(*given)
        monkeypatch.undo()
        with pytest.raises(StoreError, match="a write was begun within another"):
            WRITES[write](store)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, and_write)
        with store.transaction():
            store.append(entry(1))
    assert list(store.history()) == [entry(1)]


def test_a_thread_does_not_wait_for_another_of_its_tasks(store: CheckpointStore) -> None:
    """Which could not go on: it is told, and the other task's block is as it was."""

    async def hold(entered: asyncio.Event, over: asyncio.Event) -> None:
        with store.transaction():
            store.append(entry(1))
            entered.set()
            await over.wait()

    async def main() -> None:
        entered, over = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(hold(entered, over))
        await entered.wait()
        assert len(store) == 0
        for write in (*WRITES.values(), CheckpointStore.close):
            with pytest.raises(StoreError, match="another task of this thread is inside"):
                write(store)
        over.set()
        await holding

    asyncio.run(main())
    assert list(store.history()) == [entry(1)]


def test_who_records_in_a_loops_block_that_has_ended_is_told(store: CheckpointStore) -> None:
    """It would be a transaction of its own."""
    block = writer(store).block("the loop")
    end: Any = block.__exit__
    block.__enter__()
    assert writer(store).append(entry(1), block).position == 1
    end(None, None, None)
    with pytest.raises(StoreError, match="the loop's block has ended"):
        writer(store).append(entry(2), block)
    assert len(store) == 1


def test_an_inner_block_that_sqlite_has_rolled_back_is_told_as_it_ends(store: CheckpointStore) -> None:
    """As the outer one is; and no block is entered a second time."""
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (x INTEGER PRIMARY KEY) STRICT; INSERT INTO sink VALUES (1)")

    def undo(connection: apsw.Connection) -> None:
        with store.transaction(), pytest.raises(apsw.ConstraintError):
            connection.execute("INSERT OR ROLLBACK INTO sink VALUES (1)")

    with pytest.raises(StoreError, match="SQLite rolled the transaction back"), store.transaction() as connection:
        store.append(entry(1))
        with pytest.raises(StoreError, match="SQLite rolled the transaction back"):
            undo(connection)
    again = store.transaction()
    with again, pytest.raises(StoreError, match="entered once"):
        again.__enter__()


def test_blocks_stand_inside_one_another_a_hundred_deep_and_no_deeper(store: CheckpointStore) -> None:
    """Inside the outermost one."""
    with contextlib.ExitStack() as stack:
        for _ in range(101):
            stack.enter_context(store.transaction())
        with pytest.raises(StoreError, match="100 transaction blocks stand inside one another"):
            store.transaction().__enter__()
        store.append(entry(1))
        with pytest.raises(SequenceError):
            store.append(entry(1, key="another"))
    assert len(store) == 1


def test_of_a_hundred_blocks_inside_one_another_the_deepest_is_undone_alone(store: CheckpointStore) -> None:
    """Its statements exist for every depth."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(store.transaction())
        store.append(entry(1))
        with pytest.raises(KeyError), store.transaction():
            store.append(entry(2))
            raise KeyError
    assert [each.sequence for each in store.history()] == [1]


def test_any_number_of_blocks_may_stand_one_after_the_other_inside_one(store: CheckpointStore) -> None:
    """As deep as before is the next one."""
    with store.transaction():
        for sequence in range(1, 251):
            with store.transaction():
                store.append(entry(sequence))
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(store.transaction())
            with pytest.raises(StoreError, match="100 transaction blocks stand inside one another"):
                store.transaction().__enter__()
    assert len(store) == 250


def test_mileposts_own_queries_are_bounded_in_a_block_too_and_the_blocks_are_not(path: Path) -> None:
    """In a damaged file a tree may lead in circles; what a block runs may take as long as it takes."""
    bounded: list[bool] = []

    def look(*_: object) -> int:
        bounded.append(writer(store)._bound.steps is not None)
        return 0

    with CheckpointStore(path, durability="normal", clock=look) as store:
        _advance(store, 1)
        with store.transaction() as connection:
            connection.create_scalar_function("look", look)
            for use in (lambda: _advance(store, 2), lambda: writer(store).read(look)):
                use()
                connection.execute("SELECT look()").fetchall()
        _advance(store, 3)
    assert bounded == [True, True, False, True, False, True]


def test_what_on_connect_runs_is_not_bounded_and_each_lookup_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a damaged file a lookup may not end; what the caller runs may take as long as it takes."""
    monkeypatch.setattr(bound, "_STEPS_PER_BYTE", 0)
    many = "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up LIMIT 200000) SELECT count(*) FROM up"

    def opened(connection: apsw.Connection) -> None:
        assert connection.execute(many).get == 200_000

    def lookup(connection: apsw.Connection) -> object:
        return connection.execute(many).get

    with CheckpointStore(path, durability="normal", on_connect=opened) as store:
        store.append(entry(1))
        for _ in range(2):
            with pytest.raises(DamagedStoreError, match="does not end"):
                writer(store).read_committed(lookup)
            assert len(store) == 1


def test_what_a_neighbour_writes_while_the_file_is_let_go_of_is_built_upon(store: CheckpointStore, path: Path) -> None:
    """As for a fork: the connection that is opened then counts versions anew."""
    store.append(entry(1))
    for sequence in (2, 3, 4):
        with fork_in_progress(), CheckpointStore(path, durability="normal") as neighbour:
            assert not writer(store).has_open_file
            neighbour.append(entry(sequence, run_id="run-8"))
        assert store.append(entry(sequence)).position == 2 * sequence - 1


@pytest.mark.parametrize("write", WRITES)
def test_a_file_that_cannot_be_opened_again_after_it_was_let_go_of_is_told(
    store: CheckpointStore, path: Path, write: str
) -> None:
    """By the error that says why; and once it can be, the store goes on."""
    store.append(entry(1))
    with fork_in_progress():
        pass
    path.rename(path.with_name("away"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"(?i)no such file|has just been removed"):
            WRITES[write](store)
    path.with_name("away").rename(path)
    assert store.append(entry(2)).position == 2


def test_python_keeps_the_attributes_of_a_writer_inline(store: CheckpointStore) -> None:
    """It does so for up to 29, and looks more of them up in a hash table, some fifty times in an append."""
    store.append(entry(1))
    assert len(vars(writer(store))) < 30

"""Group commit: threads that write at the same time share a transaction, and each gets its own answer."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import apsw
import pytest

from milepost import (
    CheckpointStore,
    FailedStoreError,
    ForkedStoreError,
    InvalidCheckpointError,
    MilepostError,
    Receipt,
    SequenceError,
    StoreError,
    StoreFullError,
    Watermark,
)
from milepost.append import Appender
from milepost.checkpoint import chain_signature
from support.chains import entry
from support.doors import writer

if TYPE_CHECKING:
    from pathlib import Path


def _held_up(store: CheckpointStore, jobs: list[Any]) -> list[Any]:
    """What threads get that append while the store is busy, and so are committed together."""
    turns = writer(store)._turns
    with ThreadPoolExecutor(len(jobs) + 1) as pool:
        block = store.transaction()
        block.__enter__()
        futures = []
        for job in jobs:
            futures.append(pool.submit(job))
            while turns.waiting + sum(future.done() for future in futures) < len(futures):
                pass
        block.__exit__(None, None, None)
        return [future.exception() or future.result() for future in futures]


def test_all_that_waits_is_committed_together_and_a_failure_is_its_callers_own(store: CheckpointStore) -> None:
    """Eight threads behind a block: one commit, eight answers."""
    commits = []
    writer(store)._lent.trace_v2(apsw.SQLITE_TRACE_STMT, lambda report: commits.append(report["sql"] == "COMMIT"))
    jobs: list[Any] = [lambda number=number: store.append(entry(number, run_id=f"run-{number}")) for number in range(1, 8)]
    jobs.insert(3, lambda: store.append(entry(1)._replace(sequence=-1)))
    answers = _held_up(store, jobs)
    assert [type(answer).__name__ for answer in answers] == ["Receipt"] * 3 + ["InvalidCheckpointError"] + ["Receipt"] * 4
    assert sorted(answer.position for answer in answers if isinstance(answer, Receipt)) == list(range(1, 8))
    assert commits.count(True) == 2  # the block's, and one for all


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_of_a_few_that_wait_has_its_entry_written(store: CheckpointStore, threads: int) -> None:
    """One alone, and two or three together."""
    answers = _held_up(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(threads)])
    assert sorted(answer.position for answer in answers) == list(range(1, threads + 1))
    assert len(store) == threads


def test_what_an_advance_that_was_recorded_already_has_begun_is_not_built_upon(store: CheckpointStore) -> None:
    """Neither by those that are committed with it, nor by the next."""
    recorded = store.advance("run-7", "load", Watermark(1, 1), idempotency_key="a")
    answers = _held_up(
        store,
        [
            lambda: store.advance("run-7", "load", Watermark(1, 1), idempotency_key="a"),
            lambda: store.append_many([entry(1, run_id="run-8")]),
            lambda: store.advance("run-7", "load", Watermark(1, 1), idempotency_key="a"),
        ],
    )
    assert [answers[0].position, answers[1].position, answers[2].position] == [recorded.position, 2, recorded.position]
    assert store.append(entry(2, run_id="run-9")).position == 3
    assert store.verify().ok


def test_a_commit_that_fails_is_told_to_everybody_in_the_group_by_an_error_of_his_own(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one goes on."""
    acknowledge = writer(store)._before_acknowledging

    def fail(appended: int) -> None:
        raise StoreError(store.path, "the disk is gone: look for it")

    def once(appended: int) -> None:
        acknowledge(appended)
        patch.setattr(writer(store), "_before_acknowledging", fail)

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_before_acknowledging", once)
        answers = _held_up(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(5)])
    assert [str(answer).endswith("look for it") for answer in answers] == [True] * 5
    assert len(set(map(id, answers))) == 5
    assert store.append(entry(1, run_id="run-9")).position == 6  # they were committed, and not acknowledged


def test_nothing_of_a_commit_that_failed_is_written_by_the_next(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who are told so may do it again, or not."""
    execute, commits = writer(store)._execute, list[str]()

    def full_once(given: str, *arguments: Any) -> object:
        if given == "COMMIT":
            commits.append(given)
            if len(commits) == 2:  # the first is that of the block that all wait for
                raise apsw.FullError
        return execute(given, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_execute", full_once)
        answers = _held_up(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)])
    assert [type(answer) for answer in answers] == [StoreFullError] * 3
    assert (len(store), len(commits)) == (0, 2)


@pytest.mark.parametrize("where", ["block", "group"])
def test_what_sqlite_says_of_one_write_among_others_is_told_in_mileposts_words(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """To its own caller; the others are written."""

    def full(end: Appender, *given: object) -> NoReturn:
        raise apsw.FullError

    monkeypatch.setattr(Appender, "append_many", full)
    if where == "block":
        with store.transaction():
            store.append(entry(1))
            with pytest.raises(StoreFullError):
                store.append_many([entry(2)])
    else:
        answers = _held_up(store, [lambda: store.append(entry(1)), lambda: store.append_many([entry(2)])])
        assert [type(answer) for answer in answers] == [Receipt, StoreFullError]
    assert list(store.history()) == [entry(1)]


def test_threads_that_append_at_once_share_commits_and_keep_every_rule(path: Path) -> None:
    """A rejected entry fails its own caller only; positions and signatures are those of one chain."""
    with CheckpointStore(path) as store:

        def append(number: int) -> Receipt | MilepostError:
            try:
                if number % 10 == 0:
                    return store.append(
                        entry(0, run_id=f"run-{number % 8}", key=f"late-{number}", offset=0, event_time_ms=0)
                    )
                if number % 10 == 1:
                    return store.advance(f"run-{number % 8}", "load", Watermark(10**9, 2**60), idempotency_key=f"{number}")
                return store.append(entry(number, run_id=f"run-{number}"))
            except MilepostError as error:
                return error

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(append, range(1, 801)))
        receipts = [answer for answer in answers if isinstance(answer, Receipt)]
        refused = {type(answer) for answer in answers if isinstance(answer, MilepostError)}
        history = list(store.history())
        assert sorted(receipt.position for receipt in receipts) == list(range(1, len(history) + 1))
        assert {r.position: r.signature for r in receipts}[len(history)] == chain_signature(history)
        assert refused <= {SequenceError}
        assert store.verify().ok


def test_a_clock_that_raises_fails_its_own_advance_only(path: Path) -> None:
    """Alone, in a block, and beside other threads."""

    def broken() -> int:
        raise ZeroDivisionError

    with CheckpointStore(path, clock=broken, durability="normal") as store:
        with pytest.raises(ZeroDivisionError):
            store.advance("run-7", "load", Watermark(1, 1), idempotency_key="a")
        with store.transaction():
            store.append(entry(1))
            with pytest.raises(ZeroDivisionError):
                store.advance("run-7", "load", Watermark(10**6, 2**60), idempotency_key="a")
        with ThreadPoolExecutor(8) as pool:
            broken_ones = [
                pool.submit(store.advance, "run-7", "load", Watermark(10**6, 2**60), idempotency_key="a") for _ in range(50)
            ]
            sound_ones = [pool.submit(store.append, entry(1, run_id=f"run-{i}-x")) for i in range(50)]
            assert {type(future.exception()) for future in broken_ones} == {ZeroDivisionError}
            assert {future.exception() for future in sound_ones} == {None}
        assert len(store) == 51


def _statements(store: CheckpointStore, jobs: list[Any]) -> tuple[list[str], list[Any]]:
    """What a group of jobs gives to SQLite that begins, ends and undoes, and what its threads get."""
    seen: list[str] = []
    words = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")
    writer(store)._lent.trace_v2(apsw.SQLITE_TRACE_STMT, lambda report: seen.append(report["sql"].partition(" ")[0]))
    answers = _held_up(store, jobs)
    writer(store)._lent.trace_v2(0, None)
    return [word for word in seen if word in words][2:], answers  # but for the block that all wait for


@pytest.mark.parametrize("appends", [0, 1, 2, 3])
def test_a_group_in_which_nothing_fails_takes_no_savepoint(store: CheckpointStore, appends: int) -> None:
    """With one open, SQLite copies each page before it changes it."""
    jobs: list[Any] = [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(appends)]
    jobs += [lambda n=n: store.advance(f"run-{n}", "load", Watermark(1, 1), idempotency_key="a") for n in range(3, 6)]
    statements, answers = _statements(store, jobs)
    assert statements == ["BEGIN", "COMMIT"]
    assert sorted(answer.position for answer in answers) == list(range(1, appends + 4))


def test_a_group_in_which_one_fails_begins_anew_with_a_savepoint_for_each(store: CheckpointStore) -> None:
    """What was written by then is undone, and written again."""
    jobs: list[Any] = [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(2)]
    jobs.append(lambda: store.append_many([entry(1, run_id="run-7"), entry(1)._replace(sequence=-1)]))
    statements, answers = _statements(store, jobs)
    assert statements == [
        "BEGIN",
        "ROLLBACK",
        "BEGIN",
        *["SAVEPOINT", "RELEASE"] * 2,
        "SAVEPOINT",
        "ROLLBACK",
        "RELEASE",
        "COMMIT",
    ]
    assert sorted(type(answer).__name__ for answer in answers) == ["InvalidCheckpointError", "Receipt", "Receipt"]
    assert len(store) == 2
    assert store.verify().ok


def test_a_group_in_which_a_sync_fails_is_not_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later sync of the same bytes would succeed and mean nothing."""
    tries = []

    def fail(end: Appender, *given: object) -> NoReturn:
        tries.append(given)
        error = apsw.IOError("fsync")
        error.result, error.extendedresult = apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
        raise error

    with CheckpointStore(path) as store:
        monkeypatch.setattr(Appender, "append_each", fail)
        answers = _held_up(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)])
        assert [type(answer) for answer in answers] == [FailedStoreError] * 3
        assert len(tries) == 1
        with pytest.raises(FailedStoreError):
            store.append(entry(1))


def test_a_group_that_sqlite_has_rolled_back_itself_is_told_by_its_first_error(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by that of a second rollback; and the next one goes on."""

    def full(end: Appender, *given: object) -> NoReturn:
        end.statements.execute("ROLLBACK")
        raise apsw.FullError

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "append_each", full)
        statements, answers = _statements(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)])
    assert [type(answer) for answer in answers] == [StoreFullError] * 3
    assert statements == ["BEGIN", "ROLLBACK"]
    assert store.append(entry(1)).position == 1


def test_a_group_that_sqlite_rolls_back_at_its_second_try_is_written_by_nobody(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it in the group would be in no transaction."""
    tries: list[object] = []

    def full(end: Appender, entries: object) -> NoReturn:
        tries.append(entries)
        if len(tries) == 2:
            end.statements.execute("ROLLBACK")
        raise apsw.FullError

    jobs: list[Any] = [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(2)]
    jobs.insert(1, lambda: store.append_many([entry(1)]))
    with monkeypatch.context() as patch:
        patch.setattr(Appender, "append_many", full)
        statements, answers = _statements(store, jobs)
    assert [type(answer) for answer in answers] == [StoreFullError] * 3
    assert statements == ["BEGIN", "ROLLBACK", "BEGIN", "SAVEPOINT", "RELEASE", "SAVEPOINT", "ROLLBACK"]
    assert store.append(entry(1)).position == 1


def test_a_child_that_is_forked_within_a_group_leaves_the_transaction_to_its_parent(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock, say: nothing more is given to SQLite there."""

    def forked(end: Appender, *given: object) -> NoReturn:
        patch.setattr(writer(store), "_inherited", True)
        patch.setattr(writer(store), "_ended", ForkedStoreError(store.path, "forked"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "append_each", forked)
        statements, answers = _statements(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)])
    assert [type(answer) for answer in answers] == [KeyboardInterrupt, ForkedStoreError, ForkedStoreError]
    assert statements == ["BEGIN"]
    assert store.append(entry(1)).position == 1


class _Stopped(Exception):  # noqa: N818 - thrown into a thread, as a debugger does
    pass


def test_a_thread_that_fails_after_the_commit_leaves_the_others_their_answers(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It led the commit. The others are no duplicates, nobody is told that his stage has moved, and all is recorded once."""
    acknowledge = writer(store)._before_acknowledging

    def stop_once(appended: int) -> None:
        if appended == 5:
            patch.undo()
            raise _Stopped
        acknowledge(appended)

    def advance(stage: str) -> Receipt:
        return store.advance("run-7", stage, Watermark(1, 1), idempotency_key="a", after=None)

    jobs: list[Any] = [lambda stage=f"s{n}": advance(stage) for n in range(3)]
    jobs += [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_before_acknowledging", stop_once)
        first, *others = _held_up(store, jobs)
    assert isinstance(first, _Stopped)
    assert all(isinstance(answer, Receipt) and not answer.duplicate for answer in others), others
    assert {answer.position for answer in others} < {1, 2, 3, 4, 5}
    assert len({answer.position for answer in others}) == 4
    assert len(store) == 5
    store.verify().raise_if_broken()


def test_a_thread_that_fails_before_the_commit_leaves_the_others_to_be_recorded(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread; and none of them hears of it."""
    commit = writer(store)._commit_transaction

    def stop_once(appended: int) -> None:
        if appended == 3:
            patch.undo()
            raise _Stopped
        commit(appended)

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_commit_transaction", stop_once)
        first, *others = _held_up(store, [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)])
    assert isinstance(first, _Stopped)
    assert [(answer.position, answer.duplicate) for answer in others] in ([(1, False), (2, False)], [(2, False), (1, False)])
    assert [e.run_id for e in store.history()] == ["run-1", "run-2"]


def test_what_fails_beside_an_entry_that_is_undone_is_tried_again_and_may_succeed(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that led failed before the commit, and with it went what was in the other one's way."""
    commit = writer(store)._commit_transaction

    def stop_once(appended: int) -> None:
        if appended:
            patch.undo()
            raise _Stopped
        commit(appended)

    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_commit_transaction", stop_once)
        first, second = _held_up(store, [lambda n=n: store.append(entry(n)) for n in (5, 3)])
    assert isinstance(first, _Stopped)
    assert isinstance(second, Receipt), second
    assert list(store.history()) == [entry(3)]


def test_a_recursion_error_of_the_clock_fails_its_own_advance_only(path: Path) -> None:
    """It says nothing of the stack of the thread that leads the commit."""

    def clock() -> int:
        raise RecursionError("the clock's own")

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        advance, *others = _held_up(
            store,
            [
                lambda: store.advance("run-7", "b", Watermark(1, 1), idempotency_key="1"),
                lambda: store.append(entry(1, run_id="run-1")),
                lambda: store.append(entry(1, run_id="run-2")),
            ][::-1],
        )[::-1]
        assert isinstance(advance, RecursionError)
        assert [type(answer) for answer in others] == [Receipt] * 2, others
        assert len(store) == 2


def test_what_was_refused_in_a_commit_whose_leader_failed_after_it_is_refused(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those behind it have their answers."""
    acknowledge = writer(store)._before_acknowledging

    def stop_once(appended: int) -> None:
        if appended == 3:
            patch.undo()
            raise _Stopped
        acknowledge(appended)

    jobs: list[Any] = [lambda n=n: store.append(entry(1, run_id=f"run-{n}")) for n in range(3)]
    jobs.insert(1, lambda: store.append(entry(1)._replace(sequence=-1)))
    with monkeypatch.context() as patch:
        patch.setattr(writer(store), "_before_acknowledging", stop_once)
        first, refused, *others = _held_up(store, jobs)
    assert isinstance(first, _Stopped)
    assert isinstance(refused, InvalidCheckpointError)
    assert [(type(answer), answer.duplicate) for answer in others] == [(Receipt, False)] * 2
    assert len(store) == 3


def test_a_thread_without_stack_that_leads_a_commit_fails_alone(store: CheckpointStore) -> None:
    """However little it has left: what the others state is recorded, and answered."""

    def deep(frames: int, call: Any) -> Any:
        return call() if frames <= 0 else deep(frames - 1, call)

    limit, failed = sys.getrecursionlimit(), 0
    for left in range(5, 60):
        jobs: list[Any] = [
            lambda left=left: deep(limit - left, lambda: store.append(entry(left, stage="deep"))),
            lambda left=left: store.append(entry(left, stage="a")),
            lambda left=left: store.advance("run-7", "b", Watermark(left, left), idempotency_key=f"{left}"),
        ]
        first, *others = _held_up(store, jobs)
        failed += isinstance(first, RecursionError)
        assert [type(answer) for answer in others] == [Receipt] * 2, others
        assert not any(answer.duplicate for answer in others)
    assert 0 < failed < 55
    assert {e.sequence for e in store.history(stage="a")} == set(range(5, 60))
    store.verify().raise_if_broken()

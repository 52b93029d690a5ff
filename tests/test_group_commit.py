"""Group commit: threads that write at the same time share a transaction, and each gets its own answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from milepost import CheckpointStore, MilepostError, Receipt, SequenceError, StoreError, Watermark
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
            while turns.waiting < len(futures):
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

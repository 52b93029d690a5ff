"""Group commit: threads that write at the same time share a transaction, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from chains import entry
from milepost import CheckpointStore, MilepostError, Receipt, SequenceError, Watermark
from milepost.checkpoint import chain_signature
from milepost.group_commit import GroupCommit, Job

if TYPE_CHECKING:
    from pathlib import Path


class Recorder:
    """Counts the groups that are committed."""

    def __init__(self, patience_us: int = 0) -> None:
        self.group = GroupCommit(self.commit, patience_us)
        self.sizes: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def commit(self, jobs: list[Job]) -> None:
        """Run all that is there."""
        self.hold.wait()
        self.group.take(jobs)
        self.sizes.append(len(jobs))
        for job in jobs:
            try:
                job.outcome = job.work()
            except ValueError as error:
                job.error = error

    def queued(self, length: int) -> None:
        """Wait until so many are queued."""
        while len(self.group._queue) < length:
            time.sleep(0.001)


def _refuse() -> int:
    raise ValueError


def test_a_thread_that_is_alone_leads_at_once() -> None:
    """One job, one group."""
    recorder = Recorder()
    assert [recorder.group.run(lambda: 1), recorder.group.run(lambda: 2)] == [1, 2]
    assert recorder.sizes == [1, 1]


def test_a_leader_with_patience_waits_for_those_of_the_last_group() -> None:
    """Four threads that come back at once are one group each time, not one and then three; and a leftover one ends."""
    recorder = Recorder(patience_us=200_000)
    start = threading.Barrier(4)

    def fifty() -> None:
        start.wait()
        for _ in range(50):
            recorder.group.run(lambda: time.sleep(0.0005))  # the others come meanwhile

    threads = [threading.Thread(target=fifty) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(recorder.sizes) == 200
    assert len(recorder.sizes) <= 75


def test_all_that_waits_is_written_together_and_a_failure_is_its_callers_own() -> None:
    """Eight threads behind a leader that is held up: one group, eight answers."""
    recorder = Recorder()
    recorder.hold.clear()
    with ThreadPoolExecutor(9) as pool:
        leader = pool.submit(recorder.group.run, lambda: "leader")
        followers = [pool.submit(recorder.group.run, _refuse if i == 3 else partial(int, i)) for i in range(8)]
        recorder.queued(8)
        recorder.hold.set()
        assert leader.result() == "leader"
        answers: list[Any] = [future.exception() or future.result() for future in followers]
    assert recorder.sizes == [9]
    assert isinstance(answers.pop(3), ValueError)
    assert answers == [0, 1, 2, 4, 5, 6, 7]


def test_leadership_is_handed_over_to_who_came_meanwhile() -> None:
    """Nobody waits for ever, whatever the interleaving."""
    recorder = Recorder()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: recorder.group.run(lambda: i), range(2000)))
    assert answers == list(range(2000))
    assert sum(recorder.sizes) == 2000
    assert recorder.group.run(lambda: "free") == "free"


def test_a_commit_that_fails_is_told_to_everybody_in_the_group() -> None:
    """And the next group goes on."""

    class Broken(Recorder):
        def commit(self, jobs: list[Job]) -> None:
            super().commit(jobs)
            if len(self.sizes) == 1:
                raise KeyboardInterrupt

    recorder = Broken()
    recorder.hold.clear()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(recorder.group.run, lambda: 1)]
        while not recorder.group._led:
            time.sleep(0.001)
        futures += [pool.submit(recorder.group.run, lambda: 1) for _ in range(2)]
        recorder.queued(2)
        recorder.hold.set()
        assert [type(future.exception()) for future in futures] == [KeyboardInterrupt] * 3
    assert recorder.group.run(lambda: 2) == 2


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

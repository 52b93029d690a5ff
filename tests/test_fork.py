"""A store carried over a fork says so in the child, and the parent's file stays whole."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, sys, threading, warnings
from milepost import Checkpoint, CheckpointStore, ForkedStoreError, Watermark
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tried here

path, moment, leave = sys.argv[1:]
store = CheckpointStore(path)

def entry(sequence, run="run-7"):
    return Checkpoint(run, "load", sequence, Watermark(sequence, 0), str(sequence), 0)

def fork():
    child = os.fork()
    if child == 0:
        verbs = [lambda: store.append(entry(99)), lambda: store.append_many([entry(99)]), lambda: len(store),
                 lambda: store.latest(), lambda: list(store.history()), lambda: store.verify(),
                 lambda: store.transaction().__enter__(), lambda: store.backup(path + ".copy"),
                 lambda: store.advance("run-7", "load", Watermark(99, 0), idempotency_key="99")]
        for verb in verbs:
            try:
                verb()
            except ForkedStoreError:
                continue
            os._exit(1)
        store.close()
        with CheckpointStore(path, busy_timeout_ms=60000) as own:
            own.append(entry(1, "child"))
        (sys.exit if leave == "exit" else os._exit)(0)
    return child

def reap(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

store.append(entry(1))
if moment == "beside a thread":
    stop = threading.Event()
    def write():
        sequence = 1
        while not stop.is_set():
            sequence += 1
            store.append(entry(sequence, "thread"))
    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            try:
                store.append(entry(50))
            except ForkedStoreError:
                os._exit(0)
            os._exit(1)
        reap(child)
    stop.set()
    thread.join()
else:
    reap(fork())
store.append(entry(10))
store.verify().raise_if_broken()
store.close()
"""


@pytest.mark.parametrize("leave", ["exit", "_exit"])
@pytest.mark.parametrize("moment", ["idle", "beside a thread"])
def test_a_child_is_refused_and_the_parent_goes_on(path: Path, moment: str, leave: str) -> None:
    """Every verb; the child's own store on the same file works."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, path, moment, leave], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    with CheckpointStore(path) as store:
        assert store.verify().ok
        assert store.latest("run-7") is not None


IN_A_BLOCK = """
import os, sys
from milepost import Checkpoint, CheckpointStore, ForkedStoreError, Watermark

def entry(sequence):
    return Checkpoint("run-7", "load", sequence, Watermark(sequence, 0), str(sequence), 0)

forks = int(sys.argv[2])
with CheckpointStore(sys.argv[1], durability="normal") as store:
    for first in range(1, 3 * forks, 3):
        with store.transaction():
            store.append(entry(first))
            child = os.fork()
            if child == 0:
                try:
                    store.append(entry(first + 1))
                except ForkedStoreError:
                    os._exit(0)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            store.append(entry(first + 2))
    assert [e.sequence for e in store.history()] == [n for n in range(1, 3 * forks + 1) if n % 3 != 2]
    store.verify().raise_if_broken()
"""


@pytest.mark.parametrize("forks", [3, pytest.param(100, marks=pytest.mark.long)])
def test_a_fork_within_a_transaction_leaves_the_parents_transaction_whole(path: Path, forks: int) -> None:
    """Promise B6: the child cannot append into it."""
    command = [sys.executable, "-c", IN_A_BLOCK, str(path), str(forks)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")

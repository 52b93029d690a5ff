"""Many processes on one file, many threads on one store: all there, one chain, nobody told that it is locked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from milepost import CheckpointStore, Receipt
from milepost.checkpoint import chain_signature
from support.chains import entry
from support.other_process import other_process
from support.patience import until
from support.warm import warm_programs

FORKS = """
import os, sys
from support.appending_child import append
path, count, limit, durability = sys.argv[1:]
for number in range(int(count)):
    if os.fork() == 0:
        append(path, f"run-{number}", str(number), limit, durability)
        sys.exit()
sys.exit(any([os.wait()[1] for _ in range(int(count))]))
"""
"""Processes that have no store in common; a fork is quicker than a new interpreter."""


def _writers(path: Path, count: int, appends: int, durability: str) -> None:
    writing = ("-c", FORKS, path, str(count), str(appends), durability)
    ran = warm_programs().run(*writing, cwd=Path(__file__).parent)
    assert (ran.returncode, ran.stderr) == (0, "")
    with CheckpointStore(path) as store:
        assert len(store) >= count * appends
        for run in store.runs():
            sequences = [e.sequence for e in store.history(run.run_id)]
            assert sequences == list(range(1, len(sequences) + 1))
        assert store.chain_signature() == chain_signature(store.history())
        store.verify().raise_if_broken()


@pytest.mark.parametrize("appends", [200, pytest.param(500, marks=pytest.mark.long)])
def test_eight_processes_append_to_one_new_file(path: Path, appends: int) -> None:
    """They create it at once, and every sequence and signature is right."""
    _writers(path, 8, appends, "normal")


@pytest.mark.long
def test_eight_processes_append_durably_to_one_new_file(path: Path) -> None:
    """With a sync at each commit."""
    _writers(path, 8, 500, "full")


@pytest.mark.long
def test_thirty_two_processes_append_to_one_new_file(path: Path) -> None:
    """Promise B1: nobody starves."""
    _writers(path, 32, 250, "normal")


def test_beside_a_process_whose_blocks_leave_no_pause_each_append_gets_its_turn(path: Path) -> None:
    """It comes after a block or two. By SQLite's busy timeout alone, some 25 blocks of 100 ms go before one append."""
    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store,
        other_process("blocks", path, 100, 0.02) as other,
    ):
        assert other.hear() == "ready"
        until(lambda: len(store) > 0)
        for sequence in range(1, 11):
            store.append(entry(sequence, run_id="appends"))
        assert len(store) < 10 + 50


def test_eight_threads_append_to_one_store(path: Path) -> None:
    """Durably; their receipts are the positions of one chain."""
    with CheckpointStore(path) as store:

        def append(thread: int) -> list[Receipt]:
            return [store.append(entry(sequence, run_id=f"run-{thread}")) for sequence in range(1, 501)]

        with ThreadPoolExecutor(8) as pool:
            receipts = sorted((r.position, r.signature) for rs in pool.map(append, range(8)) for r in rs)
        assert receipts == [(r.position, r.signature) for r, *_ in store.receipts()]
        assert [position for position, _ in receipts] == list(range(1, 4001))
        assert store.chain_signature() == chain_signature(store.history())
        store.verify().raise_if_broken()


def test_threads_read_while_others_write_and_one_holds_a_block(path: Path) -> None:
    """A reader sees a chain that only grows; the block is whole."""
    with CheckpointStore(path, durability="normal") as store:

        def write(thread: int) -> None:
            for sequence in range(1, 201):
                if thread == 0 and sequence % 10 == 0:
                    with store.transaction():
                        store.append(entry(sequence, run_id="run-0"))
                        store.append(entry(sequence, run_id="block", key=f"{sequence}"))
                else:
                    store.append(entry(sequence, run_id=f"run-{thread}"))

        def read(_: int) -> None:
            before = 0
            for _ in range(200):
                count = len(store)
                assert count >= before
                last = store.latest("block")
                if last is not None:
                    assert store.get("run-0", "load", last.sequence) is not None
                before = count

        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(write, i) for i in range(3)] + [pool.submit(read, i) for i in range(3)]:
                future.result()
        assert len(store) == 3 * 200 + 20
        store.verify().raise_if_broken()


def test_a_new_file_that_several_processes_make_at_once_is_made_once(tmp_path: Path) -> None:
    """Whoever comes first; the others find it whole."""
    program = (
        "import os, sys\nfrom milepost import CheckpointStore\n"
        "first = os.fork() and os.fork()\n"
        "for path in sys.argv[1:]: CheckpointStore(path).close()\n"
        "if first: sys.exit(any([os.wait()[1] for _ in range(2)]))\n"
    )
    paths = [tmp_path / f"store-{i}" for i in range(30)]
    ran = warm_programs().run("-c", program, *paths)
    assert (ran.returncode, ran.stderr) == (0, "")
    # Of two that close at once neither may be the last, and then a -wal or -shm stays for the next one to open the file.
    assert {str(path).removesuffix("-wal").removesuffix("-shm") for path in tmp_path.iterdir()} == set(map(str, paths))

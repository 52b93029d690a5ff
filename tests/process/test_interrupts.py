"""Signals at random moments: the interrupt comes out of the main thread's call, and whatever was acknowledged is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.outside_view import Outcome, fast_directory, interrupt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))
LONG: Final = pytest.mark.long


def _interrupt(operations: Sequence[str], rounds: int, **orders: Any) -> Outcome:
    with fast_directory() as directory:
        return interrupt(directory, operations, how="timer", rounds=rounds, seed=SEED, **orders)


@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.parametrize("rounds", [100, pytest.param(25_000, marks=LONG)])
def test_appends_go_on_after_interrupts_and_lose_nothing(rounds: int, durability: str) -> None:
    """Ctrl-C every millisecond: another process sees each acknowledged entry and can append at once; so can the store."""
    outcome = _interrupt(["Append"], rounds, durability=durability)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.parametrize("rounds", [60, pytest.param(25_000, marks=LONG)])
def test_blocks_batches_and_loops_go_on_after_interrupts_and_are_whole(rounds: int, durability: str) -> None:
    """Each is in the file as a whole or not at all, with its rows of the sink; a loop does each record once in the sink."""
    outcome = _interrupt(["Edges"], rounds, durability=durability, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("operation", ["MappedLoop", "TransactionalMappedLoop"])
@pytest.mark.parametrize("rounds", [30, pytest.param(10_000, marks=LONG)])
def test_loops_with_workers_go_on_after_interrupts(rounds: int, operation: str) -> None:
    """The pool and the thread of `every_s` end; the next loop does what is left, and the sink has each record once."""
    outcome = _interrupt([operation], rounds, least_ms=0.3, most_ms=4.0, keeping=[False], patience_ms=5000)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("rounds", [30, pytest.param(10_000, marks=LONG)])
def test_a_kept_exception_of_an_interrupted_block_makes_no_later_append_be_lost(rounds: int) -> None:
    """A notebook keeps the last exception, and with it the block: until it is gone an append is refused, or it is there."""
    outcome = _interrupt(["Edges"], rounds, keeping=[True])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@LONG
@pytest.mark.parametrize("operation", ["Append", "Edges"])
def test_syncs_of_a_real_disk_are_interrupted_and_lose_nothing(disk_path: Path, operation: str) -> None:
    """Where most of the time is spent inside a sync."""
    outcome = interrupt(
        disk_path.parent, [operation], how="timer", rounds=5_000, seed=SEED, durability="full", keeping=[False]
    )
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == 5_000


@pytest.mark.parametrize("rounds", [30, pytest.param(5_000, marks=LONG)])
def test_sys_exit_in_a_handler_comes_out_as_such(rounds: int) -> None:
    """A SIGTERM handler that raises SystemExit."""
    outcome = _interrupt(["Edges"], rounds, handler="exit", keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("rounds", [25, pytest.param(5_000, marks=LONG)])
def test_threads_beside_the_interrupted_one_never_see_its_interrupts(disk_path: Path, rounds: int) -> None:
    """In the same group commit, on a real disk: they go on appending, and each of their receipts is in the chain."""
    orders: dict[str, Any] = {"durability": "full", "workers": 3, "patience_ms": 5000}
    outcome = interrupt(disk_path.parent, ["Append"], how="timer", rounds=rounds, seed=SEED, **orders)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("rounds", [20, pytest.param(5_000, marks=LONG)])
def test_threads_append_beside_interrupted_blocks_and_loops(rounds: int) -> None:
    """They wait for a block, and none waits for ever."""
    outcome = _interrupt(["Edges"], rounds, workers=2, patience_ms=5000, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == rounds


@pytest.mark.parametrize("rounds", [4, pytest.param(1_000, marks=LONG)])
def test_an_append_that_waits_for_a_lock_can_be_interrupted(rounds: int) -> None:
    """For the block of another thread, or of another process, which both end as if nothing had been."""
    outcome = _interrupt(["BehindThread", "BehindProcess"], rounds, least_ms=1.0, most_ms=60.0, patience_ms=5000)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == 2 * rounds


@pytest.mark.parametrize("handler", ["append", "block"])
@pytest.mark.parametrize("rounds", [30, pytest.param(5_000, marks=LONG)])
def test_a_handler_that_uses_the_store_is_answered_at_once(handler: str, rounds: int) -> None:
    """What it appends is recorded, or refused as what it is; the call that it came in between goes on."""
    outcome = _interrupt(["Append", "Edges"], rounds, handler=handler)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == outcome.recorded + outcome.refused == 2 * rounds


@pytest.mark.parametrize("rounds", [5, pytest.param(1_000, marks=LONG)])
def test_a_finalizer_that_uses_the_store_is_answered_at_once(rounds: int) -> None:
    """The garbage collector runs `__del__` and callbacks of weak references in the middle of an append."""
    with fast_directory() as directory:
        outcome = interrupt(directory, ["Append", "Block", "Loop"], how="garbage", handler="append", rounds=rounds)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.recorded + outcome.refused >= 3 * rounds * 10

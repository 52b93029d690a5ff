"""What was acknowledged survives a power loss at any moment, under reordering, tearing, zero-filled and noisy sectors."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from milepost import create, files, schema, wal
from milepost.lent import LentConnection
from milepost.writer import Writer
from support.power_loss import Dose, Tally, failed_sync, interrupted_recovery, kill_retry_power_loss, power_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "1000"))
"""Every draw follows from it; set the variable to repeat a run, or to make another."""

DOSE: Final = int(os.environ.get("MILEPOST_FAULT_DOSE", "1"))
"""How many times as much the long doses draw."""


def _run(hunt: Callable[[Dose], Tally], doses: Iterable[Dose]) -> Tally:
    """Go hunting, one seed after the other."""
    began = time.monotonic()
    return _reported(hunt, began, (hunt(dose) for dose in doses))


def _run_in_parallel(hunt: Callable[[Dose], Tally], doses: Iterable[Dose]) -> Tally:
    """Go hunting with all processors."""
    began = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return _reported(hunt, began, pool.map(hunt, doses))


def _reported(hunt: Callable[[Dose], Tally], began: float, tallies: Iterable[Tally]) -> Tally:
    tally = sum(tallies, Tally())
    print(
        f"{hunt.__name__}, MILEPOST_FAULT_SEED={SEED}: {tally.states:,} states, {tally.distinct:,} distinct, "
        f"{len(tally.losses)} losses in {time.monotonic() - began:.0f} s"
    )
    return tally


def _seeds(count: int) -> range:
    return range(SEED, SEED + count * DOSE)


# The default dose


def test_an_acknowledged_step_survives_power_loss_at_every_moment() -> None:
    """Every answer and every 24th index of two plans: what was answered is there, in order, once, with its rows."""
    tally = _run(power_loss, (Dose(seed, stride=24) for seed in _seeds(2)))
    assert tally.losses == []
    assert tally.distinct > 75


def test_a_recovery_that_loses_power_itself_loses_nothing() -> None:
    """The power goes, comes back, and goes again at indices of what the next process does."""
    tally = _run(interrupted_recovery, (Dose(seed, every=40, stride=24) for seed in _seeds(2)))
    assert tally.losses == []
    assert tally.distinct > 40


def test_an_acknowledged_retry_after_a_kill_survives_power_loss() -> None:
    """What a killed process had written and not synced, a new one makes durable before it answers."""
    doses = [Dose(SEED, every=20, stride=40), Dose(SEED + 1, every=3, stride=40, before_syncs=True)]
    tally = _run(kill_retry_power_loss, doses)
    assert tally.losses == []
    assert tally.distinct > 60


def test_a_failed_sync_never_becomes_a_lost_acknowledgement() -> None:
    """The store refuses to go on; a restart, or closing and reopening it, writes again what the kernel has forgotten."""
    tally = _run(failed_sync, [Dose(SEED, every=4, stride=40, seldom=5)])
    assert tally.losses == []
    assert tally.distinct > 40


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # commits behind a lost one: told, rightly
def test_normal_durability_leaves_a_shorter_intact_chain_after_power_loss() -> None:
    """What was answered may be lost; what is left is a prefix, with the sink rows that belong to it."""
    tally = _run(power_loss, [Dose(SEED, stride=20, durability="normal")])
    assert tally.losses == []
    assert tally.distinct > 50


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # commits behind a lost one: told, rightly
def test_a_failed_sync_leaves_a_shorter_intact_chain_with_normal_durability() -> None:
    """Closing the store that failed writes no WAL back that the kernel has forgotten."""
    tally = _run(failed_sync, [Dose(SEED, every=14, stride=90, durability="normal")])
    assert tally.losses == []
    assert tally.distinct > 50


def test_a_store_that_a_killed_process_was_making_is_there_after_power_loss() -> None:
    """Whoever opens it makes its name durable: of every fourth kill the answer, and some moments of a short plan."""
    tally = _run(kill_retry_power_loss, [Dose(SEED, every=4, stride=40, length=0)])
    assert tally.losses == []
    assert tally.distinct > 30


def test_a_transaction_that_outgrows_the_cache_survives_power_loss() -> None:
    """Frames stand in the WAL before their commit, and behind the last one when it is undone."""
    tally = _run(power_loss, [Dose(SEED, stride=150, length=8, large=True)])
    tally += _run(kill_retry_power_loss, [Dose(SEED, every=8, stride=150, length=8, before_syncs=True, large=True)])
    tally += _run(interrupted_recovery, [Dose(SEED, every=300, stride=150, length=8, large=True)])
    tally += _run(failed_sync, [Dose(SEED, every=8, stride=150, length=8, seldom=5, large=True)])
    assert tally.losses == []
    assert tally.distinct > 60


# Broken variants: what the harness is worth


def _caught(hunt: Callable[[Dose], Tally], dose: Dose, *signs: str) -> bool:
    """Whether a broken variant is caught at what it does wrong."""
    tally = _run(hunt, [replace(dose, until_caught=True)])
    return any(sign in loss for loss in tally.losses for sign in signs)


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # commits behind a lost one: told, rightly
def test_a_store_that_does_not_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronous off loses acknowledged checkpoints."""
    prepare = Writer._prepare

    def without_sync(self: Writer, connection: LentConnection) -> None:
        prepare(self, connection)
        self._execute("PRAGMA synchronous = off")

    monkeypatch.setattr(Writer, "_prepare", without_sync)
    assert _caught(power_loss, Dose(SEED, stride=12), "LOST")


def test_normal_durability_called_full_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronous normal loses acknowledged checkpoints, too."""
    prepare = Writer._prepare

    def with_fewer_syncs(self: Writer, connection: LentConnection) -> None:
        prepare(self, connection)
        self._execute("PRAGMA synchronous = normal")

    monkeypatch.setattr(Writer, "_prepare", with_fewer_syncs)
    assert _caught(power_loss, Dose(SEED, stride=12), "LOST")


@pytest.mark.parametrize(("hunt", "stride"), [(kill_retry_power_loss, 40), (failed_sync, 40)])
def test_a_store_that_trusts_the_wal_it_finds_is_caught(
    hunt: Callable[[Dose], Tally], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rewrite of the WAL on opening, what a new process has shown is lost."""
    monkeypatch.setattr(wal, "make_durable", lambda wal, vfs: None)
    assert _caught(hunt, Dose(SEED, stride=stride), "LOST")


def test_a_store_that_only_syncs_the_wal_it_finds_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the kernel has nothing to write: the bytes themselves must be written again."""
    monkeypatch.setattr(wal, "make_durable", wal.sync)
    assert _caught(failed_sync, Dose(SEED, stride=40), "LOST")


def test_a_store_whose_directory_is_never_synced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was linked and not made durable in its directory is gone."""
    monkeypatch.setattr(files, "sync_directory", lambda path: None)
    assert _caught(power_loss, Dose(SEED), "LOST: the answer to step 0")


def test_a_store_that_is_created_in_place_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file is neither a store nor nothing."""

    def in_place(path: str, vfs: str | None, keyed: object) -> None:
        connection = apsw.Connection(path, vfs=vfs)
        try:
            connection.pragma("journal_mode", "wal")
            with connection:
                schema.create(connection)
        finally:
            connection.close()

    monkeypatch.setattr(create, "create", in_place)
    assert _caught(power_loss, Dose(SEED), "refused: NotAStoreError", "refused: StoreError")


def test_a_sink_that_commits_apart_from_its_checkpoint_is_caught() -> None:
    """Sink rows without their checkpoint: what transaction() is there to prevent."""
    assert _caught(power_loss, Dose(SEED, together=False), "no state between two steps")


# The long dose


@pytest.mark.long
def test_25000_distinct_states_after_power_loss_lose_nothing() -> None:
    """Promise A1."""
    tally = _run_in_parallel(power_loss, (Dose(seed, drawn=2) for seed in _seeds(40)))
    assert tally.losses == []
    assert tally.distinct > 25_000


@pytest.mark.long
def test_10000_distinct_states_of_an_interrupted_recovery_lose_nothing() -> None:
    """Promise A2."""
    tally = _run_in_parallel(interrupted_recovery, (Dose(seed, every=5) for seed in _seeds(20)))
    assert tally.losses == []
    assert tally.distinct > 10_000


@pytest.mark.long
def test_a_retry_after_a_kill_at_every_moment_survives_power_loss() -> None:
    """Promise A3: every index."""
    tally = _run_in_parallel(kill_retry_power_loss, (Dose(seed) for seed in _seeds(4)))
    assert tally.losses == []
    assert tally.distinct > 10_000


@pytest.mark.long
def test_no_failed_sync_becomes_a_lost_acknowledgement() -> None:
    """Promise A7: every sync, three reactions."""
    tally = _run_in_parallel(failed_sync, (Dose(seed, stride=5) for seed in _seeds(12)))
    assert tally.losses == []
    assert tally.distinct > 10_000


@pytest.mark.long
@pytest.mark.parametrize("hunt", [power_loss, failed_sync])
def test_normal_durability_never_leaves_a_broken_chain(hunt: Callable[[Dose], Tally]) -> None:
    """Promise A13."""
    tally = _run_in_parallel(hunt, (Dose(seed, stride=2, durability="normal") for seed in _seeds(8)))
    assert tally.losses == []
    assert tally.distinct > 3_000


@pytest.mark.long
@pytest.mark.parametrize("hunt", [power_loss, kill_retry_power_loss, interrupted_recovery, failed_sync])
def test_transactions_that_outgrow_the_cache_survive_power_loss(hunt: Callable[[Dose], Tally]) -> None:
    """Many plans, and few moments of each: they are long."""
    tally = _run_in_parallel(hunt, (Dose(seed, every=200, stride=100, large=True) for seed in _seeds(10)))
    assert tally.losses == []
    assert tally.distinct > 100

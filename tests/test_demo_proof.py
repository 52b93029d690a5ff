"""The proof of the demo can fail: somebody reaches into a file that proves everything, and the claim that falls is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from milepost import CheckpointStore, Head, Watermark
from milepost.demo import pipeline, proof
from support.sample_csv import Totals, sample, source_of, stop_at
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Pair(NamedTuple):
    """The job done twice, the first time stopped and resumed; what its totals must be; the head at the stop."""

    resumed: CheckpointStore
    unkilled: CheckpointStore
    expected: Totals
    at_stop: Head

    def failures(self) -> list[str]:
        """The claims that do not hold, each with its reason."""
        checks = list(proof.checks(*self))
        assert len(checks) == 5
        return [f"{check.claim}: {check.fault}" for check in checks if check.fault is not None]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two files that prove everything, until a test reaches into the first."""
    orders = sample(tmp_path / "orders.csv", 100)
    with (
        CheckpointStore(tmp_path / "one", durability="normal") as resumed,
        CheckpointStore(tmp_path / "other", durability="normal") as unkilled,
    ):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(resumed, source_of(orders), 10, stop_at("transform", 56))
        at_stop = resumed.head()
        for store in (resumed, unkilled):
            pipeline.run(store, source_of(orders), 10, lambda stage, number: None)
        yield Pair(resumed, unkilled, orders.totals, at_stop)


def test_an_honest_file_passes(pair: Pair) -> None:
    """Without tampering every claim holds, so that a failure below is due to the tampering."""
    assert pair.failures() == []


def test_a_tampered_total_fails(pair: Pair) -> None:
    """One record more in one total, and both comparisons say where and how."""
    tamper(
        pair.resumed.path,
        "UPDATE totals SET records = records + 1 WHERE category = 'AA' AND day = (SELECT min(day) FROM totals)",
    )
    failures = pair.failures()
    assert [failure.split(":")[0] for failure in failures] == [
        "its totals are those of the run that was never killed",
        "its totals are those straight from the CSV",
    ]
    assert all("1 differ, the first 'AA' on 2024-02-27: " in failure for failure in failures)


def test_a_total_that_is_off_by_the_least_fails(pair: Pair) -> None:
    """Sums are compared to the last bit."""
    tamper(pair.resumed.path, "UPDATE totals SET amount = amount + 1e-9 WHERE category = 'AA'")
    assert len(pair.failures()) == 2


def test_a_lost_total_fails(pair: Pair) -> None:
    """A total that is missing is a difference too."""
    tamper(pair.resumed.path, "DELETE FROM totals WHERE category = 'AA'")
    failures = pair.failures()
    assert len(failures) == 2
    assert all("found nothing, expected" in failure for failure in failures)


def test_totals_that_are_wrong_in_both_files_fail(pair: Pair) -> None:
    """Two runs that agree with each other still have to agree with the CSV."""
    for store in (pair.resumed, pair.unkilled):
        tamper(store.path, "UPDATE totals SET records = 2 * records")
    assert [failure.split(":")[0] for failure in pair.failures()] == ["its totals are those straight from the CSV"]


def test_a_tampered_checkpoint_fails(pair: Pair) -> None:
    """A changed row is seen by the comparison of the runs and by the chain."""
    tamper(pair.resumed.path, "UPDATE entry SET event_time_ms = event_time_ms + 1 WHERE position = 12")
    first, second, third = pair.failures()
    assert "checkpoint 11 has Checkpoint(run_id='demo', stage='transform', sequence=1," in first
    assert second.startswith("its chain verifies, and contains what was on disk after the kill: ")
    assert third.startswith("its signature is the one recomputed from the rows: recorded ")


def test_a_chain_without_what_was_recorded_before_the_kill_fails(pair: Pair) -> None:
    """The same job run anew in place of the resumed one has a chain that holds, but not the head of the kill."""
    forged = pair._replace(resumed=pair.unkilled)
    (failure,) = forged.failures()
    assert failure.startswith("its chain verifies, and contains what was on disk after the kill: 1 fault")


def test_a_checkpoint_too_many_fails(pair: Pair) -> None:
    """A chain that is longer than that of the run that was never killed is not the same."""
    pair.resumed.advance("demo", "load", Watermark(101, 2**50), idempotency_key="more")
    (failure,) = pair.failures()
    assert "checkpoint 31 has Checkpoint(" in failure
    assert failure.endswith(" and None")


def test_the_direct_totals_are_those_of_an_independent_computation(tmp_path: Path) -> None:
    """The yardstick of the proof is right by itself."""
    orders = sample(tmp_path / "orders.csv", 500)
    assert proof.plain_totals(source_of(orders)) == orders.totals

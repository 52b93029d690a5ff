"""Which way many tasks are served in is found by trying."""

from __future__ import annotations

import pytest

from milepost.pace import Pace


def serve(pace: Pace, transactions: int, *, whole_s: float, half_s: float) -> list[bool]:
    """Serve 256 tasks in transactions that take so long, and return which of them did half of the tasks."""
    now, ways = 0.0, []
    for _ in range(transactions):
        ways.append(pace.in_halves)
        now += half_s if pace.in_halves else whole_s
        served = pace.part_of(256, 1_000) if pace.in_halves else 256
        pace.note(served, 256 - served, now)
    return ways


@pytest.mark.parametrize(("half_s", "in_halves"), [(0.004, True), (0.006, False)])
def test_the_faster_way_is_kept(half_s: float, in_halves: bool) -> None:
    """The other one is tried for a while, and again at times."""
    ways = serve(Pace(), 1_000, whole_s=0.01, half_s=half_s)
    assert ways[:34] == [False] * 17 + [True] * 17  # sixteen of each, and the one that begins a stretch
    assert 0.85 < ways[50:].count(in_halves) / 950 < 1


def test_a_disk_that_becomes_slow_is_noticed() -> None:
    """Its syncs take longer than all else from some moment on."""
    pace = Pace()
    assert serve(pace, 1_000, whole_s=0.01, half_s=0.004).count(True) > 850
    assert serve(pace, 1_000, whole_s=0.02, half_s=0.014).count(False) > 600


def test_a_time_with_few_tasks_does_not_count() -> None:
    """The loop had something else to do, and the helper waited for it."""
    pace = Pace()
    serve(pace, 34, whole_s=0.01, half_s=0.004)
    assert pace.in_halves
    pace.note(100, 20, 500.0)
    pace.note(128, 128, 1_000.0)  # a quarter of an hour later
    for transaction in range(1, 17):
        pace.note(128, 128, 1_000 + 0.004 * transaction)
    assert pace.in_halves


@pytest.mark.parametrize(
    ("waiting", "most", "part"),
    [(127, 1_000, 1_000), (128, 1_000, 64), (129, 1_000, 65), (256, 100, 100), (4_000, 1_000, 1_000)],
)
def test_half_of_many_are_served_and_all_of_few(waiting: int, most: int, part: int) -> None:
    """All that wait are one transaction, as far as it can do them."""
    pace = Pace()
    assert pace.part_of(waiting, most) == most
    pace.in_halves = True
    assert pace.part_of(waiting, most) == part


@pytest.mark.parametrize(
    ("served", "waiting", "waits"), [(64, 64, True), (64, 63, False), (100, 50, True), (100, 49, False), (0, 128, True)]
)
def test_a_half_is_told_late_only_if_another_one_waits(served: int, waiting: int, waits: bool) -> None:
    """Else there is nothing to do meanwhile."""
    pace = Pace()
    assert not pace.other_half_waits(served, waiting)
    pace.in_halves = True
    assert pace.other_half_waits(served, waiting) == waits

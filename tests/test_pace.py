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
        pace.note(128 if pace.in_halves else 256, now)
    return ways


@pytest.mark.parametrize(("half_s", "in_halves"), [(0.004, True), (0.006, False)])
def test_the_faster_way_is_kept(half_s: float, in_halves: bool) -> None:
    """The other one is tried for a while, and again at times."""
    ways = serve(Pace(), 1_000, whole_s=0.01, half_s=half_s)
    assert not ways[0]
    assert set(ways[:50]) == {True, False}
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
    pace.pause()
    pace.note(128, 1_000.0)  # a quarter of an hour later
    for transaction in range(1, 17):
        pace.note(128, 1_000 + 0.004 * transaction)
    assert pace.in_halves

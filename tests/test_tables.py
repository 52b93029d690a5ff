"""What a notebook shows of several values, and that they stay what they were."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from milepost import Checkpoint, CheckpointStore, Watermark
from milepost.tables import ROWS_SHOWN
from support.chains import chain, entry

if TYPE_CHECKING:
    from pathlib import Path


def _page(found: Any) -> str:
    page: str = found._repr_html_()
    return page


def test_what_a_notebook_shows_is_a_list_a_dict_or_an_iterator_as_always(store: CheckpointStore) -> None:
    """A table for people, and nothing else for programs."""
    store.append_many(chain(30))
    assert isinstance(store.runs(), list)
    assert isinstance(store.stages(), list)
    assert isinstance(store.resume_points(), dict)
    assert pickle.loads(pickle.dumps(store.resume_points())) == store.resume_points()
    history = store.history()
    assert next(history) == entry(1)
    assert "and more" in _page(history)
    assert next(history) == entry(2), "showing it takes nothing from it"
    assert [each.sequence for each in history] == list(range(3, 31))


def test_a_table_has_names_and_readable_times(store: CheckpointStore) -> None:
    """And counts the rows that it has no room for."""
    store.append_many(entry(1, run_id=f"run-{number:02}", stage=f"stage-{number:02}") for number in range(ROWS_SHOWN + 5))
    for found, name in ((store.runs(), "run-03"), (store.stages(), "stage-03"), (store.resume_points(), "stage-03")):
        page = _page(found)
        assert name in page
        assert "2026-01-01T" in page
        assert "and 5 more rows" in page
    latest = store.latest()
    assert latest is not None
    assert "2026-01-01T" in _page(latest)


def test_a_table_of_runs_fits_a_page(store: CheckpointStore) -> None:
    """Times to the second; what `history` returns says what to do with it."""
    store.append(entry(1, at_ms=1_767_225_600_123))
    for found in (store.runs(), store.stages()):
        assert "2026-01-01T00:00:00Z" in _page(found)
        assert ".123Z" not in _page(found)
    assert repr(store.history()) == "<History: iterate over it>"


def test_an_empty_store_says_so_in_each_table(store: CheckpointStore) -> None:
    """And not by a heading without rows."""
    for found in (store.runs(), store.stages(), store.resume_points()):
        assert "nothing recorded yet" in _page(found)


def test_a_history_of_a_closed_store_shows_the_error(path: Path) -> None:
    """A notebook shows what it is asked to show, and not a traceback."""
    with CheckpointStore(path) as store:
        history = store.history()
    assert "closed" in _page(history)


def test_times_are_datetimes_too() -> None:
    """In UTC; None where there is none, or Python has no such year."""
    found = Checkpoint("r", "s", 1, Watermark(1, 1767225600000), "k", 1767225600500)
    assert found.at == datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert found.watermark.event_time == datetime(2026, 1, 1, tzinfo=UTC)
    assert Watermark(1, 0).event_time is None
    assert Watermark(1, 2**63 - 1).event_time is None


def test_runs_may_be_limited_and_turned_round(store: CheckpointStore) -> None:
    """The first ones, or the newest."""
    store.append_many(entry(1, run_id=f"run-{number}") for number in range(5))
    assert [run.run_id for run in store.runs(limit=2)] == ["run-0", "run-1"]
    assert [run.run_id for run in store.runs(limit=2, newest_first=True)] == ["run-4", "run-3"]
    assert store.runs(newest_first=True) == store.runs()[::-1]
    assert store.runs(limit=0) == []

"""Walks along the chain: filters, directions, pages, and what they show while the chain grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, ClosedStoreError, Receipt, rows
from milepost.checkpoint import chain_signature, latest, latest_for_stage, resume_point_for_stage
from support.chains import chain, entry, mixed
from support.doors import connections, steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LENGTH = 250
MIXED = mixed(LENGTH)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with a chain of runs and stages in turns."""
    with CheckpointStore(tmp_path_factory.mktemp("history") / "store", durability="normal") as store:
        store.append_many(MIXED)
        yield store


positions = st.integers(0, LENGTH + 5)
times = st.one_of(st.none(), st.integers(0, 1000))
runs = st.sampled_from([None, "run-0", "run-1", "run-2", "run-none"])
stages = st.sampled_from([None, "extract", "transform", "load", "none"])
limits = st.one_of(st.none(), st.integers(0, LENGTH))


@pytest.fixture
def _pages_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE", 7)


@pytest.mark.usefixtures("_pages_of_seven")
def test_history_gives_what_a_list_comprehension_gives(recorded: CheckpointStore) -> None:
    """Any filters, both directions, whatever the pages; receipts give the same with positions and signatures."""
    signatures = [chain_signature(MIXED[: i + 1]) for i in range(LENGTH)]

    @given(runs, stages, times, times, positions, limits, st.booleans())
    def check(
        run_id: str | None,
        stage: str | None,
        since: int | None,
        until: int | None,
        after: int,
        limit: int | None,
        newest_first: bool,
    ) -> None:
        expected: list[tuple[Receipt, Checkpoint, None]] = [
            (Receipt(i + 1, signatures[i]), e, None)
            for i, e in enumerate(MIXED)
            if run_id in (None, e.run_id)
            and stage in (None, e.stage)
            and (since is None or e.at_ms >= since)
            and (until is None or e.at_ms <= until)
            and i + 1 > after
        ]
        expected = expected[::-1][:limit] if newest_first else expected[:limit]
        options: dict[str, Any] = {"since": since, "until": until, "after": after, "limit": limit}
        found = recorded.receipts(run_id, stage, newest_first=newest_first, **options)
        assert list(found) == expected
        entries = recorded.history(run_id, stage, newest_first=newest_first, **options)
        assert list(entries) == [e for _, e, _ in expected]

    check()


@given(runs, stages, st.integers(0, 1000))
def test_as_of_a_time_the_latest_is_the_last_one_not_above_it(
    recorded: CheckpointStore, run_id: str | None, stage: str | None, as_of: int
) -> None:
    """In chain order, however the clock jumped."""
    known = [e for e in MIXED if run_id in (None, e.run_id) and e.at_ms <= as_of]
    assert recorded.latest(run_id, as_of=as_of) == latest(known)
    if stage is not None:
        assert recorded.latest_for_stage(stage, run_id=run_id, as_of=as_of) == latest_for_stage(known, stage)
    points = {name: resume_point_for_stage(known, name) for name in {e.stage for e in known}}
    assert recorded.resume_points(run_id, as_of=as_of) == points
    for name, point in points.items():
        assert recorded.resume_point_for_stage(name, run_id=run_id, as_of=as_of) == point


def test_history_shows_the_chain_as_it_was_at_the_call(store: CheckpointStore) -> None:
    """Entries that come while the caller thinks are not part of it."""
    store.append_many(chain(2500))
    history = store.history()
    backwards = store.history(newest_first=True)
    store.append_many(chain(10, stage="later"))
    assert list(history) == chain(2500)
    assert list(backwards) == chain(2500)[::-1]


def test_history_of_a_chain_that_was_empty_at_the_call_is_empty(store: CheckpointStore) -> None:
    """Whatever has come since."""
    history = store.history()
    store.append(entry(1))
    assert list(history) == []


def test_a_walk_that_the_caller_has_left_does_not_keep_the_wal_from_being_reset(store: CheckpointStore, path: Path) -> None:
    """No read transaction stays open between two pages."""
    store.append_many(chain(2500))
    history = store.history()
    assert next(history) == entry(1)
    store.append(entry(1, stage="later"))
    connection = connections(store)[-1]
    assert connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)
    assert sum(1 for _ in history) == 2499


def test_wrong_arguments_are_told_at_the_call_not_at_the_first_entry(store: CheckpointStore) -> None:
    """A walk that is never begun still tells."""
    with pytest.raises(ValueError, match="limit is -1"):
        store.history(limit=-1)
    with pytest.raises(ValueError, match="newest_first is 1"):
        store.receipts(newest_first=1)  # type: ignore[arg-type]


def test_a_walk_ends_with_a_clear_error_when_the_store_is_closed_under_it(path: Path) -> None:
    """The next page is refused."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(rows.PAGE + 1))
        history = store.history()
        next(history)
    with pytest.raises(ClosedStoreError):
        list(history)


def test_a_sequence_of_any_size_is_found_after_any_position(store: CheckpointStore) -> None:
    """Gaps up to 2^63-1 do not matter to a walk that starts in the middle of a stage."""
    entries = [entry(sequence, offset=0, event_time_ms=0, stage=stage, key=f"{sequence}")
               for sequence in (0, 1, 5, 10**6, 2**62, 2**63 - 2, 2**63 - 1) for stage in ("load", "extract")]  # fmt: skip
    store.append_many(entries)
    for after in range(len(entries) + 2):
        expected = [e for e in entries[after:] if e.stage == "load"]
        assert list(store.history("run-7", "load", after=after)) == expected
        assert list(store.history("run-7", "load", after=after, newest_first=True)) == expected[::-1]


def test_what_a_page_costs_does_not_grow_with_what_lies_before_it(store: CheckpointStore) -> None:
    """SQLite's own step counter: where a stage's rows behind a position begin is found by halving."""
    store.append_many(chain(4000))

    def cost(after: int) -> int:
        return steps(store, lambda store: list(store.history("run-7", "load", after=after, limit=1)))

    assert cost(3900) < 2 * cost(100)

"""Find: the checkpoints with one idempotency key."""

from __future__ import annotations

from milepost import CheckpointStore
from support.chains import entry, mixed

MIXED = mixed(250)


def test_find_gives_every_use_of_a_key_in_chain_order(store: CheckpointStore) -> None:
    """In all runs and stages, or in one."""
    store.append_many(MIXED)
    assert list(store.find("step-7")) == [MIXED[7]]
    assert list(store.find("step-none")) == []
    uses = [entry(1, run_id=run, stage=stage, key="same") for run in ("b", "a", "c") for stage in ("y", "x")]
    store.append_many(uses)
    assert list(store.find("same")) == uses
    assert list(store.find("same", run_id="a")) == [e for e in uses if e.run_id == "a"]
    assert list(store.find("same", stage="x")) == [e for e in uses if e.stage == "x"]
    assert list(store.find("same", stage="x", run_id="a")) == [e for e in uses if (e.run_id, e.stage) == ("a", "x")]


def test_find_gives_nothing_for_a_key_that_is_not_there(store: CheckpointStore) -> None:
    """Nor for one of another run or stage."""
    store.append(entry(1, key="here"))
    assert list(store.find("nowhere")) == []
    assert list(store.find("here", run_id="run-8")) == []
    assert list(store.find("here", stage="extract")) == []


def test_find_takes_a_key_as_it_is_written(store: CheckpointStore) -> None:
    """No part of it, no other case, no pattern."""
    store.append(entry(1, key="step-1"))
    assert [list(store.find(key)) for key in ("step", "step-10", "STEP-1", "step_1", "step%", "step-1 ")] == [[]] * 6


def test_find_gives_a_key_once_however_often_its_step_was_stated(store: CheckpointStore) -> None:
    """A duplicate writes nothing."""
    for _ in range(3):
        store.append(entry(1, key="same"))
    assert list(store.find("same")) == [entry(1, key="same")]


def test_find_sees_what_its_own_block_has_appended(store: CheckpointStore) -> None:
    """Before anybody else does."""
    with store.transaction():
        store.append(entry(1, key="new"))
        assert list(store.find("new")) == [entry(1, key="new")]

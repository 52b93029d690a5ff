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

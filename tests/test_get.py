"""Get: the checkpoint of a stage and run with one sequence."""

from __future__ import annotations

import pytest

from milepost import CheckpointStore
from support.chains import MAX, entry, mixed

MIXED = mixed(250)


def test_get_gives_the_checkpoint_with_one_sequence(store: CheckpointStore) -> None:
    """Or None."""
    store.append_many(MIXED)
    for e in MIXED[:20]:
        assert store.get(e.run_id, e.stage, e.sequence) == e
    assert store.get("run-0", "load", 10**6) is None
    assert store.get("run-none", "load", 1) is None


def test_get_gives_none_for_a_sequence_that_was_left_out(store: CheckpointStore) -> None:
    """Before the first one, in a gap, and behind the last one."""
    store.append_many([entry(3), entry(7)])
    found = {sequence: store.get("run-7", "load", sequence) for sequence in (0, 2, 3, 5, 7, 8, MAX)}
    assert found == {0: None, 2: None, 3: entry(3), 5: None, 7: entry(7), 8: None, MAX: None}


@pytest.mark.parametrize(("run_id", "stage"), [("run-8", "load"), ("run-7", "extract"), ("run-8", "extract")])
def test_get_looks_only_at_its_run_and_stage(store: CheckpointStore, run_id: str, stage: str) -> None:
    """Others may have the same sequence."""
    store.append(entry(1))
    assert store.get(run_id, stage, 1) is None
    store.append(entry(1, run_id=run_id, stage=stage))
    assert store.get(run_id, stage, 1) == entry(1, run_id=run_id, stage=stage)
    assert store.get("run-7", "load", 1) == entry(1)


def test_get_finds_the_smallest_and_the_largest_sequence(store: CheckpointStore) -> None:
    """0 and 2^63-1."""
    ends = [entry(0), entry(MAX, offset=MAX, event_time_ms=MAX)]
    store.append_many(ends)
    assert [store.get("run-7", "load", 0), store.get("run-7", "load", MAX)] == ends


def test_get_sees_what_its_own_block_has_appended(store: CheckpointStore) -> None:
    """Before anybody else does."""
    with store.transaction():
        store.append(entry(1))
        assert store.get("run-7", "load", 1) == entry(1)

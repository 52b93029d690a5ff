"""Get: the checkpoint of a stage and run with one sequence."""

from __future__ import annotations

from milepost import CheckpointStore
from support.chains import mixed

MIXED = mixed(250)


def test_get_gives_the_checkpoint_with_one_sequence(store: CheckpointStore) -> None:
    """Or None."""
    store.append_many(MIXED)
    for e in MIXED[:20]:
        assert store.get(e.run_id, e.stage, e.sequence) == e
    assert store.get("run-0", "load", 10**6) is None
    assert store.get("run-none", "load", 1) is None

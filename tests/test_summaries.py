"""runs(), stages(), len() and head(): what a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chains import entry, mixed
from milepost import CheckpointStore, Head, RunSummary, StageSummary
from milepost.checkpoint import chain_signature

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_is_summed_up_by_its_own_entries(store: CheckpointStore) -> None:
    """Entries, stages in order of first appearance, wall clocks of the first and the last, signature of its own chain."""
    entries = mixed(100)
    store.append_many(entries[:50])
    for each in entries[50:]:
        store.append(each)
    expected = []
    for run_id in dict.fromkeys(e.run_id for e in entries):
        of_run = [e for e in entries if e.run_id == run_id]
        stages = [stage for stage in dict.fromkeys(e.stage for e in entries) if any(e.stage == stage for e in of_run)]
        expected.append(
            RunSummary(run_id, len(of_run), tuple(stages), of_run[0].at_ms, of_run[-1].at_ms, chain_signature(of_run))
        )
    assert store.runs() == expected


def test_a_stage_is_summed_up_over_all_runs(store: CheckpointStore) -> None:
    """Entries, runs, wall clocks of the first and the last."""
    entries = mixed(100)
    store.append_many(entries)
    expected = []
    for stage in dict.fromkeys(e.stage for e in entries):
        of_stage = [e for e in entries if e.stage == stage]
        runs = {e.run_id for e in of_stage}
        expected.append(StageSummary(stage, len(of_stage), len(runs), of_stage[0].at_ms, of_stage[-1].at_ms))
    assert store.stages() == expected


def test_an_empty_store_is_summed_up_as_nothing_and_is_still_true(store: CheckpointStore) -> None:
    """`if store:` asks whether there is a store, not whether it has entries."""
    assert store.runs() == []
    assert store.stages() == []
    assert store.resume_points() == {}
    assert len(store) == 0
    assert store
    assert store.head() == Head(0, "0" * 64)


def test_a_head_counts_the_entries_and_signs_them(store: CheckpointStore, path: Path) -> None:
    """It is the same for every reader of the file."""
    store.append_many([entry(1), entry(2)])
    assert store.head() == Head(2, chain_signature([entry(1), entry(2)]))
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.head() == store.head()
        assert len(reader) == 2

"""The contract: what a store answers equals the pure function of that name over the list of its entries."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

import milepost.checkpoint as pure
from milepost import NoCheckpointError, RunSummary, StageSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from milepost import Checkpoint, CheckpointStore, ResumePoint


def check_lookups(
    store: CheckpointStore,
    entries: Sequence[Checkpoint],
    runs: Sequence[str],
    stages: Sequence[str],
    times: Iterable[int] = (),
) -> None:
    """Of the whole chain and of each of these runs, now and as of these times."""
    assert len(store) == len(entries)
    for run_id in (None, *runs):
        of_run = [e for e in entries if run_id in (None, e.run_id)]
        assert store.latest(run_id) == pure.latest(of_run)
        assert store.chain_signature(run_id) == pure.chain_signature(of_run)
        points = resume_points(of_run, among=entries)
        assert list(store.resume_points(run_id).items()) == list(points.items())
        for stage in stages:
            assert store.latest_for_stage(stage, run_id=run_id) == pure.latest_for_stage(of_run, stage)
            if stage in points:
                assert store.resume_point_for_stage(stage, run_id=run_id) == points[stage]
            else:
                with pytest.raises(NoCheckpointError):
                    store.resume_point_for_stage(stage, run_id=run_id)
        for as_of in times:
            until = [e for e in of_run if e.at_ms <= as_of]
            assert store.latest(run_id, as_of=as_of) == pure.latest(until)
            for stage in stages:
                assert store.latest_for_stage(stage, run_id=run_id, as_of=as_of) == pure.latest_for_stage(until, stage)
            assert store.resume_points(run_id, as_of=as_of) == resume_points(until, among=entries)


def check_histories(
    store: CheckpointStore, entries: Sequence[Checkpoint], runs: Sequence[str], stages: Sequence[str]
) -> None:
    """Of the whole chain, of each of these runs, and of their stages in both directions."""
    assert list(store.history()) == entries
    assert [e for _, e, _ in store.receipts()] == entries
    for run_id in (None, *runs):
        of_run = [e for e in entries if run_id in (None, e.run_id)]
        assert list(store.history(run_id)) == of_run
        for stage in stages:
            of_stage = [e for e in of_run if e.stage == stage]
            assert list(store.history(run_id, stage)) == of_stage
            assert list(store.history(run_id, stage, newest_first=True)) == of_stage[::-1]


def check_every_entry(
    store: CheckpointStore, entries: Sequence[Checkpoint], runs: Sequence[str], stages: Sequence[str]
) -> None:
    """It is found by its sequence, as nothing is by any other sequence of these runs and stages, and by its key."""
    recorded = {(e.run_id, e.stage, e.sequence): e for e in entries}
    last = {(e.run_id, e.stage): e.sequence for e in entries}
    for run_id, stage in product(runs, stages):
        for sequence in range(last.get((run_id, stage), 0) + 2):
            assert store.get(run_id, stage, sequence) == recorded.get((run_id, stage, sequence))
    for key in {e.idempotency_key for e in entries}:
        assert list(store.find(key)) == [e for e in entries if e.idempotency_key == key]


def check_summaries(store: CheckpointStore, entries: Sequence[Checkpoint]) -> None:
    """Of runs and of stages, each in the order in which they began."""
    assert store.runs() == [
        _run([e for e in entries if e.run_id == run_id], entries) for run_id in _names("run_id", entries)
    ]
    assert store.stages() == [_stage([e for e in entries if e.stage == stage]) for stage in _names("stage", entries)]


def resume_points(of_run: Sequence[Checkpoint], *, among: Sequence[Checkpoint]) -> dict[str, ResumePoint]:
    """Where each stage stands, in the order in which the stages of the file began."""
    has = {e.stage for e in of_run}
    return {stage: pure.resume_point_for_stage(of_run, stage) for stage in _names("stage", among) if stage in has}


def _names(field: str, entries: Iterable[Checkpoint]) -> list[str]:
    return list(dict.fromkeys(getattr(e, field) for e in entries))


def _run(of_run: Sequence[Checkpoint], entries: Sequence[Checkpoint]) -> RunSummary:
    stages = tuple(resume_points(of_run, among=entries))
    signature = pure.chain_signature(of_run)
    records = max(e.watermark.offset for e in of_run)  # of each stage the last one's, since they never fall
    times = of_run[0].at_ms, of_run[-1].at_ms
    return RunSummary(of_run[0].run_id, len(of_run), stages, *times, signature, records=records, chain_entries=len(of_run))


def _stage(of_stage: Sequence[Checkpoint]) -> StageSummary:
    runs = len(_names("run_id", of_stage))
    return StageSummary(of_stage[0].stage, len(of_stage), runs, of_stage[0].at_ms, of_stage[-1].at_ms)

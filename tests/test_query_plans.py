"""Every lookup is a search through an index: no scan, no sort; in `rows/` no statement escapes this test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore, Watermark, rows
from support import doors
from support.chains import chain, entry, mixed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN_STAGE = rows.RunStage(2, 1, "run-1", "load", 10)

LOOKUPS: dict[str, Callable[[CheckpointStore], object]] = {
    "latest": lambda store: store.latest(),
    "latest of a run": lambda store: store.latest("run-1"),
    "latest as of": lambda store: store.latest("run-1", as_of=500),
    "latest_for_stage": lambda store: store.latest_for_stage("load"),
    "latest_for_stage of a run": lambda store: store.latest_for_stage("load", run_id="run-1"),
    "resume_point_for_stage": lambda store: store.resume_point_for_stage("load", run_id="run-1"),
    "resume_points": lambda store: store.resume_points(),
    "resume_points of a run": lambda store: store.resume_points("run-1"),
    "get": lambda store: store.get("run-1", "load", 7),
    "resume_points as of": lambda store: store.resume_points(as_of=500),
    "resume_points of a run as of": lambda store: store.resume_points("run-1", as_of=500),
    "find": lambda store: list(store.find("step-7")),
    "find in a run": lambda store: list(store.find("step-7", run_id="run-1")),
    "find in a stage": lambda store: list(store.find("step-7", stage="load")),
    "find in a stage of a run": lambda store: list(store.find("step-7", stage="load", run_id="run-1")),
    "chain_signature": lambda store: store.chain_signature(),
    "chain_signature of a run": lambda store: store.chain_signature("run-1"),
    "head": lambda store: store.head(),
    "len": len,
    "history": lambda store: list(store.history(limit=5)),
    "history backwards": lambda store: list(store.history(newest_first=True, limit=5)),
    "history of a run": lambda store: list(store.history("run-1", after=7, since=3)),
    "history of a run backwards": lambda store: list(store.history("run-1", newest_first=True)),
    "history of a stage": lambda store: list(store.history(stage="load", after=7)),
    "history of a stage backwards": lambda store: list(store.history(stage="load", newest_first=True)),
    "history of a stage of a run": lambda store: list(store.history("run-1", "load", after=7)),
    "history of a stage of a run backwards": lambda store: list(store.history("run-1", "load", newest_first=True)),
    "compare": lambda store: store.compare("run-1", "run-2"),
    "ends_of_run_stage": lambda store: store._database.read(rows.ends_of_run_stage, RUN_STAGE),
    "between_in_run_stage": lambda store: store._database.read(rows.between_in_run_stage, RUN_STAGE, 10, 90),
    "count_of_runs": lambda store: store._database.read(rows.count_of_runs),
    "append": lambda store: store.append(entry(1, run_id="new")),
    "append of a duplicate": lambda store: store.append(mixed(100)[30]),
    "append_many": lambda store: store.append_many(chain(3, run_id="newer")),
    "advance": lambda store: store.advance("run-1", "load", Watermark(10**9, 2**50), idempotency_key="next"),
}


@pytest.fixture
def recorded(store: CheckpointStore) -> CheckpointStore:
    """A store with something in every table, whose next append has to look where the chain ends."""
    store.append_many(mixed(100))
    doors.writer(store)._end = None
    return store


def _statements(store: CheckpointStore, lookup: Callable[[CheckpointStore], object]) -> dict[str, Any]:
    """Every statement that a verb runs, with its bindings."""
    seen: dict[str, Any] = {}

    def trace(cursor: Any, statement: str, bindings: Any) -> bool:
        seen[statement] = bindings
        return True

    doors.traced(store, lookup, trace)
    return seen


def _plan(store: CheckpointStore, statement: str, bindings: Any) -> list[str]:
    found = doors.connections(store)[0].execute(f"EXPLAIN QUERY PLAN {statement}", bindings)
    return [detail for _, _, _, detail in found]


@pytest.mark.parametrize("lookup", LOOKUPS.values(), ids=LOOKUPS.keys())
def test_a_lookup_searches_through_an_index(recorded: CheckpointStore, lookup: Callable[[CheckpointStore], object]) -> None:
    """EXPLAIN QUERY PLAN shows SEARCH, no SCAN and no temporary B-tree."""
    searches = 0
    for statement, bindings in _statements(recorded, lookup).items():
        if statement.startswith(("SELECT", "INSERT")):
            plan = _plan(recorded, statement, bindings)
            searches += sum(step.startswith("SEARCH") for step in plan)
            assert [step for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"] == []
            assert [step for step in plan if "TEMP B-TREE" in step or "AUTOMATIC" in step] == []
    assert searches > 0


def _fill(store: CheckpointStore, entries: int) -> None:
    """
    Three runs of three stages, in turns; by SQL, in a quarter of the time of append_many, and so without a chain.

    Each stage of a run has every ninth row, and so every third of these, 27 positions behind the one before, is a milepost.
    """
    connection = doors.unlocked(store)
    connection.execute(
        "INSERT INTO run VALUES (1, 'run-0'), (2, 'run-1'), (3, 'run-2');"
        "INSERT INTO stage VALUES (1, 'extract'), (2, 'transform'), (3, 'load');"
        "INSERT INTO run_stage SELECT run_number, stage_number FROM run, stage"
    )
    connection.execute(
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?) INSERT INTO entry "
        "SELECT n, n % 3 + 1, n / 3 % 3 + 1, n, n, n, 'step-' || n, n, zeroblob(32), zeroblob(32), "
        "iif((n - 1) / 9 % 3 = 0, (n - 1) / 9 + 1, NULL), NULL FROM number",
        (entries,),
    )


def test_a_lookup_does_the_same_work_at_a_thousand_and_at_a_million_entries(tmp_path: Path) -> None:
    """SQLite's own step counter, without noise, of every lookup that answers with one row or one per stage."""
    lookups = {
        name: lookup
        for name, lookup in LOOKUPS.items()
        if name.startswith(("latest", "resume", "get", "find", "chain", "head", "len")) and not name.endswith("as of")
    }
    steps = []
    for entries in (1_000, 1_000_000):
        with CheckpointStore(tmp_path / f"{entries}.milepost", durability="normal") as store:
            _fill(store, entries)
            steps.append({name: doors.steps(store, lookup) for name, lookup in lookups.items()})
    assert all(steps[0].values())
    assert steps[0] == steps[1]

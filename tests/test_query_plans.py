"""Every lookup is a search through an index: no scan, no sort; in `rows/` no statement escapes this test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from conftest import Clock
from milepost import CheckpointStore, Watermark, rows
from support import doors
from support.chains import chain, entry, mixed
from support.methods import lookups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _attempt(store: CheckpointStore) -> None:
    with store.run("run-1"):
        pass


LOOKUPS: dict[str, Callable[[CheckpointStore], object]] = {
    **lookups(entry(7, run_id="run-1", stage="load", key="step-7"), "run-2"),
    "ends_of_run_stage": lambda store: store._database.read(rows.ends_of_run_stage, 2, 1),
    "between_in_run_stage": lambda store: store._database.read(rows.between_in_run_stage, 2, 1, 10, 90),
    "entries_through": lambda store: store._database.read(rows.entries_through, 2, 1, 50),
    "positions": lambda store: store._database.read(rows.positions),
    "at_position": lambda store: store._database.read(rows.at_position, 7),
    "beginning_of_run": lambda store: store._database.read(rows.beginning_of_run, 2),
    "end_of_run": lambda store: store._database.read(rows.end_of_run, 2),
    "attempt_rows": lambda store: store._database.read(rows.attempt_rows, 2, 8),
    "count_of_runs": lambda store: store._database.read(rows.count_of_runs),
    "append": lambda store: store.append(entry(1, run_id="new")),
    "append of a duplicate": lambda store: store.append(mixed(100)[30]),
    "append_many": lambda store: store.append_many(chain(3, run_id="newer")),
    "advance": lambda store: store.advance("run-1", "load", Watermark(10**9, 2**50), idempotency_key="next"),
    "advance with a cursor": lambda store: store.advance(
        "run-1", "load", Watermark(10**9, 2**50), idempotency_key="next", cursor="page-9"
    ),
    "advance_many": lambda store: store.advance_many([("run-1", "load", Watermark(10**9, 2**50), "next")]),
    "kept_as_of_now of a run": lambda store: store._database.read(rows.kept_as_of_now, "run-1"),
    "kept_cursors of a run": lambda store: store._database.read(rows.kept_cursors, "run-1"),
    "recorded_keys": lambda store: store._database.read(rows.recorded_keys, "run-1", "load", ["step-7", "page-1", "new"]),
    "resume_state": lambda store: store._database.read(rows.resume_state, "run-1", "load"),
    "last_attempt": lambda store: store._database.read(rows.last_attempt, "run-1"),
    "begin_run": lambda store: store.run("run-1").__enter__(),
    "begin_run and end_run": _attempt,
    "branch_points": lambda store: store._database.read(rows.branch_points, "run-1", None, None),
    "branch_points of a stage as of": lambda store: store._database.read(rows.branch_points, "run-1", "load", 500),
    "is_bag": lambda store: store._database.read(rows.is_bag, "run-1", "load"),
    "branch": lambda store: store.branch("run-1", "new"),
    "branch of what is there": lambda store: store.branch("run-1", "branch"),
    "shippable": lambda store: store._database.read(rows.shippable, 90, 100, 10**9, None),
    "compare with a branch": lambda store: store.compare("run-1", "branch"),
}

# What a statement scans is no table: nothing, or the keys that it is given.
GIVEN = {"SCAN CONSTANT ROW", "SCAN given VIRTUAL TABLE INDEX 1:"}

# By what they scan: all runs, stages, stages of runs or cursors, whose numbers do not grow with the entries.
SUMMARIES: dict[str, tuple[Callable[[CheckpointStore], object], set[str]]] = {
    "runs": (lambda store: store.runs(), {"(subquery"}),  # the stages of one run, for their names in order
    "stages": (lambda store: store.stages(), {"run_stage", "counted"}),
    "summary": (lambda store: store.summary(), {"(subquery"}),
    "stage_pairs": (lambda store: store._database.read(rows.stage_pairs, "run-1", "branch"), set()),
    "kept_as_of_now": (lambda store: store._database.read(rows.kept_as_of_now, None), {"kept"}),
    "kept_cursors": (lambda store: store._database.read(rows.kept_cursors, None), {"kept", "run_stage"}),
    "whole_bags": (lambda store: store._database.read(rows.whole_bags, 90), {"run_stage"}),
    "chain_state": (lambda store: store._database.read(rows.chain_state), {"keyed"}),
    "beginning": (lambda store: store._database.read(rows.beginning), {"stage_cursor"}),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file with something in every table, which no test changes."""
    path = tmp_path_factory.mktemp("filled") / "orders.milepost"
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        store.append_many(mixed(100))
        for page in range(3):
            mark = Watermark(10**8 + page, 2**49)
            store.advance("run-1", "load", mark, idempotency_key=f"page-{page}", cursor=page)
        store.branch("run-1", "branch")
        store.run("run-1").__enter__()
    return path


@pytest.fixture
def recorded(filled: Path, path: Path) -> Iterator[CheckpointStore]:
    """The store of a copy, whose next append has to look where the chain ends; when the test ends its chain must hold."""
    shutil.copy(filled, path)
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        doors.writer(store)._end = None
        yield store
        store.verify().raise_if_broken()


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
        if statement.startswith(("SELECT", "INSERT", "DELETE")):
            plan = _plan(recorded, statement, bindings)
            searches += sum(step.startswith("SEARCH") for step in plan)
            assert [step for step in plan if step.startswith("SCAN") and step not in GIVEN] == []
            assert [step for step in plan if "TEMP B-TREE" in step or "AUTOMATIC" in step] == []
    assert searches > 0


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_scans_no_entries_and_sorts_none(recorded: CheckpointStore, name: str) -> None:
    """Only stages() groups and sorts: stages of runs, by stage."""
    use, scanned = SUMMARIES[name]
    searches, found = 0, set()
    for statement, bindings in _statements(recorded, use).items():
        if statement.startswith("SELECT"):
            plan = _plan(recorded, statement, bindings)
            searches += sum(step.startswith("SEARCH") for step in plan)
            found |= {
                step.split()[1].partition("-")[0] for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"
            }
            assert [step for step in plan if "AUTOMATIC" in step or ("TEMP B-TREE" in step and name != "stages")] == []
    assert searches > 0
    assert found == scanned


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


# Of any 27 entries the runs, stages and mileposts are as of the next 27, and each of these numbers is one above a multiple.
@pytest.mark.parametrize("many", [27 * 2_000 + 1, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_lookup_does_the_same_work_at_a_thousand_entries_and_at_many(tmp_path: Path, many: int) -> None:
    """SQLite's own step counter, without noise, of every lookup that answers with one row or one per stage."""
    lookups = {
        name: lookup
        for name, lookup in LOOKUPS.items()
        if name.startswith(
            ("latest", "resume", "get", "find", "chain", "head", "__len__", "cursor", "last_attempt", "recorded", "stage_")
        )
        and not name.endswith("as of")
    }
    lookups |= {name: use for name, (use, _) in SUMMARIES.items() if name != "summary"}
    steps = []
    for entries in (1_000, many):
        with CheckpointStore(tmp_path / f"{entries}.milepost", durability="normal") as store:
            _fill(store, entries)
            steps.append({name: doors.steps(store, lookup) for name, lookup in lookups.items()})
    assert all(steps[0].values())
    assert steps[0] == steps[1]

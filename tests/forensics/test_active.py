"""Of more runs and stages than a picture has room for, those that recorded something last; the rest is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import pytest

from milepost import Checkpoint, CheckpointStore
from milepost.forensics import active
from support.chains import chain, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[[apsw.Connection], active.Excerpt]


@pytest.fixture
def connection(path: Path) -> Iterator[apsw.Connection]:
    """A connection of our own to the file of a test, which makes it with `_record`."""
    CheckpointStore(path).close()
    connection = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    yield connection
    connection.close()


def _record(path: Path, *entries: Checkpoint) -> None:
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entries)


def _names(excerpt: active.Excerpt) -> list[str]:
    return [f"{run_stage.run_id} {run_stage.stage}" for run_stage in excerpt.run_stages]


def test_where_there_is_room_everything_is_shown(path: Path, connection: apsw.Connection) -> None:
    """In the order of first appearance, with how many checkpoints each has."""
    steps = [("b", "load", 1), ("a", "sort", 1), ("a", "load", 1), ("b", "load", 2)]
    _record(path, *(entry(i, run_id=run, stage=stage) for run, stage, i in steps))
    same, each = active.same_stages(connection, None, 9, 9), active.of_each_run(connection, 9, 9)
    assert _names(same) == _names(each) == ["b load", "a load", "a sort"]
    assert [run_stage.entries for run_stage in same.run_stages] == [2, 1, 1]
    assert (same.rest, each.rest, same.or_more, each.or_more) == (0, 0, False, False)


def test_a_run_that_is_still_active_is_shown_however_old_it_is(path: Path, connection: apsw.Connection) -> None:
    """And those that came and went meanwhile are not."""
    _record(path, entry(1, run_id="old"), *(entry(1, run_id=f"run-{i}") for i in range(9)), entry(2, run_id="old"))
    assert _names(active.same_stages(connection, None, 3, 9)) == ["old load", "run-7 load", "run-8 load"]
    assert _names(active.of_each_run(connection, 3, 9)) == ["old load", "run-7 load", "run-8 load"]


def test_a_stage_that_is_still_active_is_shown_however_old_it_is(path: Path, connection: apsw.Connection) -> None:
    """And the rest is counted."""
    _record(path, entry(1, stage="old"), *(entry(1, stage=f"stage-{i}") for i in range(50)), entry(2, stage="old"))
    excerpt = active.same_stages(connection, "run-7", 9, 3)
    assert _names(excerpt) == ["run-7 old", "run-7 stage-48", "run-7 stage-49"]
    assert (excerpt.rest, excerpt.or_more) == (48, False)
    assert active.of_each_run(connection, 9, 3) == excerpt


def test_behind_what_is_looked_at_the_newest_come_first(
    path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage alone may fill the end of the chain."""
    monkeypatch.setattr(active, "RECENT", 5)
    _record(path, *(entry(1, run_id=f"run-{i % 3}", stage=f"stage-{i}") for i in range(9)), *chain(300, stage="stage-0"))
    assert _names(active.same_stages(connection, None, 2, 2)) == ["run-2 stage-8", "run-7 stage-0"]
    assert _names(active.same_stages(connection, "run-1", 2, 2)) == ["run-1 stage-4", "run-1 stage-7"]


def test_each_run_has_its_share_of_the_rows(path: Path, connection: apsw.Connection) -> None:
    """What a run with few stages leaves goes to the others; the last runs come first where a row is left over."""
    steps = [(f"run-{i}", f"stage-{k}") for i, stages in enumerate((1, 9, 5)) for k in range(stages)]
    _record(path, *(entry(1, run_id=run, stage=stage) for run, stage in steps))
    excerpt = active.of_each_run(connection, 3, 8)
    assert [run_stage.run_id for run_stage in excerpt.run_stages] == ["run-0"] + 3 * ["run-1"] + 4 * ["run-2"]
    assert _names(excerpt)[1:4] == ["run-1 stage-6", "run-1 stage-7", "run-1 stage-8"]
    assert (excerpt.rest, excerpt.rest_of_run) == (7, {2: 6, 3: 1})


def test_a_stage_of_several_runs_is_counted_once(path: Path, connection: apsw.Connection) -> None:
    """Where each stage has one look in all runs."""
    _record(path, *(entry(1, run_id=f"run-{i}", stage=f"stage-{k}") for i in range(3) for k in range(7)))
    excerpt = active.same_stages(connection, None, 3, 2)
    assert _names(excerpt) == [f"run-{i} stage-{k}" for i in range(3) for k in (5, 6)]
    assert excerpt.rest == 5


def test_stages_beyond_counting_are_at_least_so_many(
    path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count has a bound too."""
    monkeypatch.setattr(active, "COUNTED", 20)
    _record(path, *(entry(1, stage=f"stage-{k}") for k in range(19)))
    assert active.same_stages(connection, "run-7", 1, 5)[1:3] == (14, False)
    _record(path, *(entry(2, stage=f"stage-{k}") for k in range(99)))
    assert active.same_stages(connection, "run-7", 1, 5)[1:3] == (15, True)


def test_a_stage_of_a_run_is_found_by_its_names(path: Path, connection: apsw.Connection) -> None:
    """Or it is None."""
    _record(path, entry(1), entry(2), entry(1, run_id="run-8", stage="sort"))
    run_stage = active.stage_of_run(connection, "run-7", "load")
    assert run_stage is not None
    assert (run_stage.run_id, run_stage.stage, run_stage.entries) == ("run-7", "load", 2)
    assert active.stage_of_run(connection, "run-7", "sort") is None
    assert active.stage_of_run(connection, "run-9", "load") is None
    assert active.same_stages(connection, "run-9", 9, 9).run_stages == []


class Work(NamedTuple):
    """What SQLite did."""

    statements: int
    steps: int


def _work(connection: apsw.Connection, ask: Ask) -> Work:
    """How many statements a question takes, and how many steps of SQLite's virtual machine."""
    reports: list[int] = []
    connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, lambda done: reports.append(_steps(done)))
    try:
        ask(connection)
    finally:
        connection.trace_v2(0, None)
    return Work(len(reports), sum(reports))


def _steps(report: dict[str, Any]) -> int:
    steps: int = report["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]
    return steps


ASKS: dict[str, Ask] = {
    "of a run": lambda connection: active.same_stages(connection, "run-0", 4, 5),
    "of all runs": lambda connection: active.same_stages(connection, None, 4, 5),
    "of each run": lambda connection: active.of_each_run(connection, 4, 9),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
@pytest.mark.parametrize("few_and_many", [((300, 1), (2000, 1)), ((3, 40), (3, 600)), ((1, 300), (1, 2000))])
def test_more_runs_and_stages_are_no_more_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, few_and_many: tuple[tuple[int, int], ...]
) -> None:
    """SQLite's own counts of statements and steps, at less and at more than is looked at."""
    monkeypatch.setattr(active, "RECENT", 50)
    monkeypatch.setattr(active, "COUNTED", 200)
    found = []
    for stages, runs in few_and_many:
        path = tmp_path / f"{stages}-{runs}"
        run_stages = [(f"run-{run}", f"stage-{stage}") for run in range(runs) for _ in range(2) for stage in range(stages)]
        _record(path, *(entry(i, run_id=run, stage=stage) for i, (run, stage) in enumerate(run_stages)))
        connection = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
        found.append(_work(connection, ask))
        connection.close()
    few, many = found
    assert few == many


@pytest.mark.parametrize(
    ("statement", "value"),
    [("_RECENT_RUNS", "'one'"), ("_RECENT_STAGES", "NULL"), ("_COUNT_OF_STAGES", "0.5"), ("_NAMES", "x'00', 'load'")],
)
def test_what_no_append_leaves_is_damage(
    path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch, statement: str, value: str
) -> None:
    """In a damaged file SQLite gives what it finds, whatever the table declares."""
    _record(path, entry())
    bindings = " WHERE ? + ?" if statement != "_RECENT_RUNS" else " WHERE ?"
    monkeypatch.setattr(active, statement, f"SELECT {value}{bindings}")
    with pytest.raises(apsw.CorruptError, match="which no append writes"):
        active.same_stages(connection, None, 9, 9)

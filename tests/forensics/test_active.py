"""Of more runs and stages than a picture has room for, those that recorded something last; the rest is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import pytest

from milepost import Checkpoint, CheckpointStore, rows
from milepost.forensics import active
from milepost.rows import Filter
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
    return [f"{run_stage.run_id} {run_stage.stage}" for run_stage, *_ in excerpt.spans]


def test_where_there_is_room_everything_is_shown(path: Path, connection: apsw.Connection) -> None:
    """In the order of first appearance, with how many checkpoints each has."""
    steps = [("b", "load", 1), ("a", "sort", 1), ("a", "load", 1), ("b", "load", 2)]
    _record(path, *(entry(i, run_id=run, stage=stage) for run, stage, i in steps))
    same, each = active.same_stages(connection, Filter(), 9, 9), active.of_each_run(connection, Filter(), 9, 9)
    assert _names(same) == _names(each) == ["b load", "a load", "a sort"]
    assert [run_stage.entries for run_stage, *_ in same.spans] == [2, 1, 1]
    assert (same.rest, each.rest, same.or_more, each.or_more) == (0, 0, False, False)


def test_a_run_that_is_still_active_is_shown_however_old_it_is(path: Path, connection: apsw.Connection) -> None:
    """And those that came and went meanwhile are not. With a row for each stage there is room for twice as many runs."""
    _record(path, entry(1, run_id="old"), *(entry(1, run_id=f"run-{i}") for i in range(9)), entry(2, run_id="old"))
    assert _names(active.same_stages(connection, Filter(), 3, 9)) == ["old load", "run-7 load", "run-8 load"]
    assert _names(active.of_each_run(connection, Filter(), 3, 3)) == ["old load", "run-7 load", "run-8 load"]
    each = active.of_each_run(connection, Filter(), 3, 9)
    assert _names(each) == ["old load", *(f"run-{i} load" for i in range(4, 9))]


def test_a_stage_that_is_still_active_is_shown_however_old_it_is(path: Path, connection: apsw.Connection) -> None:
    """And the rest is counted."""
    _record(path, entry(1, stage="old"), *(entry(1, stage=f"stage-{i}") for i in range(50)), entry(2, stage="old"))
    excerpt = active.same_stages(connection, Filter("run-7"), 9, 3)
    assert _names(excerpt) == ["run-7 old", "run-7 stage-48", "run-7 stage-49"]
    assert (excerpt.rest, excerpt.or_more) == (48, False)
    assert active.of_each_run(connection, Filter(), 9, 3) == excerpt


def test_behind_what_is_looked_at_the_newest_come_first(
    path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage alone may fill the end of the chain."""
    monkeypatch.setattr(active, "RECENT", 5)
    _record(path, *(entry(1, run_id=f"run-{i % 3}", stage=f"stage-{i}") for i in range(9)), *chain(300, stage="stage-0"))
    assert _names(active.same_stages(connection, Filter(), 2, 2)) == ["run-2 stage-8", "run-7 stage-0"]
    assert _names(active.same_stages(connection, Filter("run-1"), 2, 2)) == ["run-1 stage-4", "run-1 stage-7"]


def test_each_run_has_its_share_of_the_rows(path: Path, connection: apsw.Connection) -> None:
    """What a run with few stages leaves goes to the others; in each run it is the same stages, where it has them."""
    steps = [(f"run-{i}", f"stage-{k}") for i, stages in enumerate((1, 9, 5)) for k in range(stages)]
    _record(path, *(entry(1, run_id=run, stage=stage) for run, stage in steps))
    excerpt = active.of_each_run(connection, Filter(), 3, 8)
    assert [run_stage.run_id for run_stage, *_ in excerpt.spans] == ["run-0"] + 3 * ["run-1"] + 4 * ["run-2"]
    assert _names(excerpt)[1:4] == ["run-1 stage-2", "run-1 stage-3", "run-1 stage-4"]
    assert _names(excerpt)[4:] == ["run-2 stage-1", "run-2 stage-2", "run-2 stage-3", "run-2 stage-4"]
    assert (excerpt.rest, excerpt.rest_of_run) == (7, {2: 6, 3: 1})


def test_a_stage_of_several_runs_is_counted_once(path: Path, connection: apsw.Connection) -> None:
    """Where each stage has one look in all runs."""
    _record(path, *(entry(1, run_id=f"run-{i}", stage=f"stage-{k}") for i in range(3) for k in range(7)))
    excerpt = active.same_stages(connection, Filter(), 3, 2)
    assert _names(excerpt) == [f"run-{i} stage-{k}" for i in range(3) for k in (5, 6)]
    assert excerpt.rest == 5


def test_stages_beyond_counting_are_at_least_so_many(
    path: Path, connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count has a bound too."""
    monkeypatch.setattr(active, "COUNTED", 20)
    _record(path, *(entry(1, stage=f"stage-{k}") for k in range(19)))
    excerpt = active.same_stages(connection, Filter("run-7"), 1, 5)
    assert (excerpt.rest, excerpt.or_more) == (14, False)
    _record(path, *(entry(2, stage=f"stage-{k}") for k in range(99)))
    excerpt = active.same_stages(connection, Filter("run-7"), 1, 5)
    assert (excerpt.rest, excerpt.or_more) == (15, True)


def test_a_stage_of_a_run_is_found_by_its_names(path: Path, connection: apsw.Connection) -> None:
    """Or it is None."""
    _record(path, entry(1), entry(2), entry(1, run_id="run-8", stage="sort"))
    span = active.stage_of_run(connection, "run-7", "load")
    assert span is not None
    assert (span.first.sequence, span.last.sequence) == (1, 2)
    run_stage = span.run_stage
    assert (run_stage.run_id, run_stage.stage, run_stage.entries) == ("run-7", "load", 2)
    assert active.stage_of_run(connection, "run-7", "sort") is None
    assert active.stage_of_run(connection, "run-9", "load") is None
    assert active.same_stages(connection, Filter("run-9"), 9, 9).spans == []


@pytest.mark.parametrize("run_id", [None, "run-1"])
@pytest.mark.parametrize("stage", [None, "load"])
def test_a_span_of_time_is_cut_to_the_checkpoint(
    path: Path, connection: apsw.Connection, run_id: str | None, stage: str | None
) -> None:
    """What is shown, and how many checkpoints are counted, is what `history` gives, whatever the time."""
    turns = [(f"run-{i // 40}", "load" if i % 3 else "sort") for i in range(200)]
    entries = [entry(5 * i, run_id=run, stage=name, at_ms=1000 + i // 2 * 10) for i, (run, name) in enumerate(turns)]
    _record(path, *entries)
    with CheckpointStore.open_readonly(path) as store:
        for since, until in ((0, 999), (0, 1000), (1005, 1400), (1190, 1210), (1600, 1601), (1990, 5000), (5000, 6000)):
            chosen = Filter(run_id, stage, since, until)
            of_each: dict[str, list[int]] = {}
            for each in store.history(run_id, stage, since=since, until=until):
                of_each.setdefault(f"{each.run_id} {each.stage}", []).append(each.sequence)
            for excerpt in (active.same_stages(connection, chosen, 9, 9), active.of_each_run(connection, chosen, 9, 99)):
                found = {f"{span.run_stage.run_id} {span.run_stage.stage}": span for span in excerpt.spans}
                assert found.keys() == of_each.keys()
                assert excerpt.runs == len({name.split()[0] for name in of_each})
                for name, span in found.items():
                    ends = span.first.sequence, span.last.sequence, span.run_stage.entries
                    assert ends == (min(of_each[name]), max(of_each[name]), len(of_each[name]))


def test_of_many_runs_those_in_the_span_of_time_are_shown(path: Path, connection: apsw.Connection) -> None:
    """However many came later; and those that began in it are counted."""
    _record(path, *(entry(1, run_id=f"run-{i}", at_ms=i * 1000) for i in range(300)))
    excerpt = active.same_stages(connection, Filter(since_ms=100_000, until_ms=150_000), 3, 9)
    assert _names(excerpt) == ["run-148 load", "run-149 load", "run-150 load"]
    assert (excerpt.runs, excerpt.more_runs) == (51, True)
    excerpt = active.same_stages(connection, Filter(until_ms=150_000), 3, 9)
    assert (excerpt.runs, excerpt.more_runs) == (151, False)
    assert len(active.same_stages(connection, Filter(since_ms=298_000), 3, 9).spans) == 2


def test_runs_without_a_stage_are_passed_over(path: Path, connection: apsw.Connection) -> None:
    """Where that stage is asked for; so are they in the count."""
    steps = [(f"run-{i}", "rare" if i % 50 == 7 else "load") for i in range(300)]
    _record(path, *(entry(1, run_id=run, stage=stage) for run, stage in steps))
    excerpt = active.same_stages(connection, Filter(stage="rare"), 3, 9)
    assert _names(excerpt) == ["run-157 rare", "run-207 rare", "run-257 rare"]
    assert (excerpt.runs, excerpt.more_runs, excerpt.rest) == (6, False, 0)


def test_stages_whose_time_is_unlike_the_others_are_shown(path: Path, connection: apsw.Connection) -> None:
    """One that took longer in any of the runs, and one that stopped early."""
    for run in range(3):
        for i in (1, 2):
            took = [9000 if (run, k) == (1, 4) else 10 if k == 30 else 1000 for k in range(40)]
            _record(path, *(entry(i, run_id=f"run-{run}", stage=f"stage-{k}", at_ms=i * took[k]) for k in range(40)))
    excerpt = active.same_stages(connection, Filter(), 9, 2)
    assert _names(excerpt) == [f"run-{run} stage-{k}" for run in range(3) for k in (4, 30)]
    assert _names(active.of_each_run(connection, Filter(), 3, 6)) == _names(excerpt)


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
    "of a run": lambda connection: active.same_stages(connection, Filter("run-0"), 4, 5),
    "of all runs": lambda connection: active.same_stages(connection, Filter(), 4, 5),
    "of each run": lambda connection: active.of_each_run(connection, Filter(), 4, 9),
    "of a stage": lambda connection: active.same_stages(connection, Filter(stage="stage-0"), 4, 5),
}


@pytest.fixture(scope="module", params=[((300, 1), (2000, 1)), ((3, 40), (3, 600)), ((1, 300), (1, 2000))])
def few_and_many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file with few stages and runs, and one with many."""
    paths = []
    for stages, runs in request.param:
        paths.append(tmp_path_factory.mktemp("work") / f"{stages}-{runs}")
        run_stages = [(f"run-{run}", f"stage-{stage}") for run in range(runs) for _ in range(2) for stage in range(stages)]
        _record(paths[-1], *(entry(i, run_id=run, stage=stage) for i, (run, stage) in enumerate(run_stages)))
    return paths


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_more_runs_and_stages_are_no_more_work(monkeypatch: pytest.MonkeyPatch, ask: Ask, few_and_many: list[Path]) -> None:
    """SQLite's own counts of statements and steps, at less and at more than is looked at."""
    monkeypatch.setattr(active, "RECENT", 30)
    monkeypatch.setattr(active, "COUNTED", 100)
    monkeypatch.setattr(active, "LOOKED_AT", 100)
    found = []
    for path in few_and_many:
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
    text = f"SELECT {value} WHERE ? + ?{' + ?' * statement.startswith('_RECENT')}"
    monkeypatch.setattr(active, statement, {active._DRAWN: text} if statement == "_RECENT_RUNS" else text)
    with pytest.raises(apsw.CorruptError, match="which no append writes"):
        active.same_stages(connection, Filter(), 9, 9)


def test_entries_up_to_a_sequence_are_counted_wherever_it_is(store: CheckpointStore) -> None:
    """From the last milepost before it: a stage has one every forty positions."""
    store.append_many(each for i in range(1, 101) for each in (entry(i), entry(i, stage="other")))
    for sequence in (0, 1, 19, 20, 21, 40, 41, 61, 99, 100, 101):
        assert store._database.read(rows.entries_through, 1, 1, sequence) == min(sequence, 100)

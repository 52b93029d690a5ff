"""compare(): whether a replay repeated the original, and where the two part."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    Checkpoint,
    CheckpointStore,
    Comparison,
    Divergence,
    NoCheckpointError,
    StageComparison,
    Watermark,
    rows,
)
from milepost.mileposts import INTERVAL
from milepost.rows import compare as pages
from support.chains import chain, entry

if TYPE_CHECKING:
    from collections.abc import Iterable

Stages = dict[str, dict[int, Checkpoint]]


def _stages(entries: Iterable[Checkpoint], run_id: str) -> Stages:
    found: Stages = {}
    for each in entries:
        if each.run_id == run_id:
            found.setdefault(each.stage, {})[each.sequence] = each
    return found


def compared(entries: list[Checkpoint], run_id: str, other_run_id: str) -> Comparison:
    """The same in Python, over a list of all entries."""
    one, other = _stages(entries, run_id), _stages(entries, other_run_id)
    stages = [stage for stage in dict.fromkeys(e.stage for e in entries) if stage in one or stage in other]
    return Comparison(
        run_id, other_run_id, tuple(_compared_stage(stage, one.get(stage, {}), other.get(stage, {})) for stage in stages)
    )


def _compared_stage(stage: str, one: dict[int, Checkpoint], other: dict[int, Checkpoint]) -> StageComparison:
    different = [s for s in one.keys() & other.keys() if (one[s][3:5]) != (other[s][3:5])]
    parting = [*different, *(one.keys() ^ other.keys())]
    return StageComparison(
        stage,
        entries=len(one),
        other_entries=len(other),
        common=len(one.keys() & other.keys()),
        different=len(different),
        first_only=min(one.keys() - other.keys(), default=None),
        other_first_only=min(other.keys() - one.keys(), default=None),
        divergence=Divergence(min(parting), one.get(min(parting)), other.get(min(parting))) if parting else None,
    )


@st.composite
def replays(draw: st.DrawFn) -> list[Checkpoint]:
    """Two runs and a third, in turns: mostly the same steps, some left out, some other, and clocks that do not agree."""
    made: list[Checkpoint] = []
    for run_id, stage in draw(st.permutations([(run, stage) for run in "AB" for stage in ("load", "sort", "save")])):
        steps = draw(st.lists(st.sampled_from(["same"] * 6 + ["missing", "offset", "event time", "key"]), max_size=8))
        if not steps:
            continue
        first = draw(st.integers(0, 1))
        for sequence, step in enumerate(steps, first):
            offset, event_time_ms = sequence * 10 + (step == "offset"), sequence * 10 + (step == "event time")
            key = f"{sequence}{'!' * (step == 'key')}"
            if step != "missing":
                made.append(Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, len(made)))
    return [entry(run_id="C"), *made]


@pytest.mark.parametrize("examples", [20, pytest.param(60, marks=pytest.mark.long)])
def test_the_store_compares_as_a_plain_list_does(examples: int) -> None:
    """Every pair of runs, whatever they have in common, and wherever a page ends."""

    @settings(max_examples=examples)
    @given(entries=replays(), page=st.integers(1, 4))
    def check(entries: list[Checkpoint], page: int) -> None:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
            statement = pages._COMPARED_PAGE.replace(f"OFFSET {pages.COMPARED_MILEPOSTS - 1})", f"OFFSET {page - 1})")
            assert statement != pages._COMPARED_PAGE
            patch.setattr(pages, "_COMPARED_PAGE", statement)
            with CheckpointStore(Path(directory, "replay.milepost"), durability="normal") as store:
                store.append_many(entries)
                recorded = {e.run_id for e in entries}
                for run_id in "ABC":
                    for other_run_id in "ABC":
                        if {run_id, other_run_id} <= recorded:
                            assert store.compare(run_id, other_run_id) == compared(entries, run_id, other_run_id)
                        else:
                            with pytest.raises(NoCheckpointError):
                                store.compare(run_id, other_run_id)

    check()


def test_a_replay_at_another_time_is_identical(store: CheckpointStore) -> None:
    """Run and wall clock are not compared."""
    store.append_many(chain(20, run_id="run-7"))
    store.append_many(e._replace(run_id="run-8", at_ms=e.at_ms + 86_400_000) for e in chain(20))
    comparison = store.compare("run-7", "run-8")
    assert comparison.identical
    assert comparison == compared(list(store.history()), "run-7", "run-8")
    assert str(comparison) == "run 'run-7' and run 'run-8' are identical\n  stage 'load': identical, 20 entries"


def test_the_first_divergence_has_both_sides(store: CheckpointStore) -> None:
    """Also where a later one is missing, or is there on one side only."""
    store.append_many(chain(9, run_id="run-7"))
    store.append_many(
        entry(i, run_id="run-8", key="other" if i == 4 else None, stage="load") for i in range(1, 12) if i != 6
    )
    store.append(entry(1, run_id="run-8", stage="save"))
    comparison = store.compare("run-7", "run-8")
    load, save = comparison.stages
    assert load.divergence == Divergence(4, store.get("run-7", "load", 4), store.get("run-8", "load", 4))
    assert (load.common, load.different, load.only, load.first_only) == (8, 1, 1, 6)
    assert (load.other_only, load.other_first_only) == (2, 10)
    assert save.divergence == Divergence(1, None, store.get("run-8", "save", 1))
    assert (comparison.identical, comparison.only, comparison.other_only) == (False, (), ("save",))
    assert store.compare("run-8", "run-7").only == ("save",)
    assert str(comparison).splitlines() == [
        "run 'run-7' and run 'run-8' differ",
        (
            "  stage 'load': parts at sequence 4; 1 of 8 in common differ; "
            "1 only in 'run-7', from sequence 6 on; 2 only in 'run-8', from sequence 10 on"
        ),
        "    'run-7': offset 2000, event time 2026-01-01T00:00:04Z, idempotency_key 'load:4'",
        "    'run-8': offset 2000, event time 2026-01-01T00:00:04Z, idempotency_key 'other'",
        "  stage 'save': parts at sequence 1; 1 only in 'run-8', from sequence 1 on",
        "    'run-7': nothing",
        "    'run-8': offset 500, event time 2026-01-01T00:00:01Z, idempotency_key 'save:1'",
    ]


def test_a_run_is_identical_to_itself(store: CheckpointStore) -> None:
    """Over more than one page."""
    length = rows.COMPARED_MILEPOSTS * INTERVAL + 2
    store.append_many(chain(length))
    comparison = store.compare("run-7", "run-7")
    assert comparison.identical
    assert [stage.common for stage in comparison.stages] == [length]


@pytest.mark.parametrize(("run_id", "other_run_id"), [("run-7", "run-77"), ("run-77", "run-7"), ("run-77", "run-77")])
def test_a_run_that_nobody_recorded_is_not_a_run_without_entries(
    store: CheckpointStore, run_id: str, other_run_id: str
) -> None:
    """A typo must not read as a comparison, least of all as `identical`."""
    store.append(entry())
    with pytest.raises(NoCheckpointError) as caught:
        store.compare(run_id, other_run_id)
    assert (caught.value.run_id, caught.value.stage) == ("run-77", None)
    assert str(caught.value) == "no checkpoint in run 'run-77': see runs(), which has what each run recorded, and when"


@pytest.mark.parametrize("runs", [("run-7", "run-8"), ("run-8", "run-7")])
def test_it_shows_both_runs_as_they_were_at_the_call(store: CheckpointStore, path: Path, runs: tuple[str, str]) -> None:
    """What another process appends between two pages is on neither side, also not in the divergence."""
    store.append_many(chain(5, run_id="run-7"))
    store.append_many(chain(3, run_id="run-8"))
    expected = store.compare(*runs)
    assert [(stage.entries, stage.common) for stage in expected.stages] == [(5 if runs[0] == "run-7" else 3, 3)]
    database, read = store._database, store._database.read

    def read_while_another_appends(query: object, /, *args: object) -> object:
        answer = read(query, *args)  # type: ignore[arg-type, var-annotated]
        if query is rows.stage_pairs:
            with CheckpointStore(path, durability="normal") as writer:
                writer.append_many([entry(6), *(entry(i, run_id="run-8") for i in range(4, 9))])
        return answer

    database.read = read_while_another_appends  # type: ignore[method-assign, assignment]
    assert store.compare(*runs) == expected
    database.read = read  # type: ignore[method-assign]
    assert store.compare(*runs).stages[0].common == 6


def test_a_hostile_name_steers_no_terminal(store: CheckpointStore) -> None:
    """Escapes come out quoted, a line stays a line."""
    store.append(entry(run_id="run\x1b[2J\n", stage="lo\x07ad", key="k\u202e"))
    store.append(entry(run_id="run-8"))
    text = str(store.compare("run\x1b[2J\n", "run-8"))
    assert len(text.splitlines()) == 7
    assert text.replace("\n", "").isprintable()


def test_a_reader_compares_too(store: CheckpointStore, path: Path) -> None:
    """A comparison writes nothing."""
    store.append_many([*chain(3, run_id="run-7"), *chain(2, run_id="run-8")])
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.compare("run-7", "run-8") == store.compare("run-7", "run-8")


def test_a_comparison_is_a_value() -> None:
    """It compares, hashes and cannot be changed."""
    comparison = Comparison("a", "b", (StageComparison("load", 1, 1, 1, 0, None, None, None),))
    assert comparison == replace(comparison)
    assert len({comparison, replace(comparison)}) == 1
    assert comparison.identical

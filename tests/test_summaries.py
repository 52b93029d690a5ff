"""runs(), stages(), len() and head(): what a file holds."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Clock
from milepost import (
    CheckpointStore,
    DamagedStoreError,
    Head,
    ResumePoint,
    RunSummary,
    Silence,
    StageSummary,
    Watermark,
)
from milepost.checkpoint import chain_signature
from milepost.summary import SILENCES_SHOWN, longest_silences
from support import doors
from support.chains import EVENT_MS, chain, entry, mixed

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
        times, signature = (of_run[0].at_ms, of_run[-1].at_ms), chain_signature(of_run)
        offset = max(e.watermark.offset for e in of_run)
        names, length = tuple(stages), len(of_run)
        expected.append(RunSummary(run_id, length, names, *times, signature, records=offset, chain_entries=length))
    assert store.runs() == expected


def test_a_chain_has_entries_and_a_run_has_checkpoints(store: CheckpointStore) -> None:
    """An attempt adds entries to the chain that are none of its checkpoints, so the two counts have two words."""
    with store.run("nightly") as run:
        run.advance("load", Watermark(500, 0), idempotency_key="load:0-499")
    (found,) = store.runs()
    assert (store.head().entries, found.entries) == (3, 1)
    summary = str(store.summary())
    assert "\n3 entries in 1 run and 1 stage\n" in summary
    assert re.search(r"^  run .* checkpoints ", summary, re.MULTILINE)
    tables: list[Any] = [store.summary(), store.runs(), store.stages()]
    for page in (table._repr_html_() for table in tables):
        assert ">Checkpoints</th>" in page
        assert ">Entries</th>" not in page


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


def test_a_summary_has_the_whole_store_on_one_page(store: CheckpointStore, path: Path) -> None:
    """What is in it, the last ten runs with the newest first, and the file itself."""
    entries = [entry(i, run_id=f"run-{i:02}", at_ms=EVENT_MS + i) for i in range(1, 15)]
    store.append_many(entries)
    summary = store.summary()
    assert (summary.path, summary.durability) == (str(path), "normal")
    assert summary.size_bytes == path.stat().st_size + path.with_name(path.name + "-wal").stat().st_size
    assert (summary.head, summary.first_at_ms, summary.last_at_ms) == (store.head(), EVENT_MS + 1, EVENT_MS + 14)
    assert (summary.latest_run_id, summary.runs) == ("run-14", 14)
    assert list(summary.last_runs) == store.runs()[:-11:-1]
    assert [silence.lasted_ms for silence in summary.silences] == [1, 1, 1]
    assert summary.at_ms > EVENT_MS
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.summary().durability is None
        assert reader.summary().last_runs == summary.last_runs


@pytest.mark.parametrize("count", [9, 10, 11])
def test_a_summary_has_as_many_of_the_last_runs_as_there_are_up_to_ten(store: CheckpointStore, count: int) -> None:
    """The newest first."""
    store.append_many(entry(run_id=f"run-{number}") for number in range(count))
    assert [run.run_id for run in store.summary().last_runs] == [f"run-{number}" for number in range(count)][:-11:-1]


def test_a_summary_of_nothing_is_a_summary(store: CheckpointStore) -> None:
    """No run, no stage, no time."""
    summary = store.summary()
    assert (summary.runs, summary.stages, summary.silences, summary.last_runs) == (0, (), (), ())
    assert (summary.first_at_ms, summary.last_at_ms, summary.latest_run_id) == (None, None, None)
    assert str(summary).splitlines()[1:] == ["nothing recorded yet", f"head {store.head()}"]


def test_a_stage_lags_behind_the_first_stage_of_the_latest_run_and_may_have_gaps(store: CheckpointStore) -> None:
    """Offset and event time within that run; a stage that only an earlier run has does not lag."""
    store.append_many([entry(5, run_id="run-1", stage="check"), entry(9, run_id="run-1", stage="check")])
    store.append_many(chain(10, run_id="run-2", stage="extract"))
    store.append_many(entry(i, run_id="run-2", stage="load") for i in (2, 3, 7))
    mark = Watermark(3500, EVENT_MS + 7000)
    stages = store.summary().stages
    assert [(each.point, each.entries, each.missing, each.lag_offset, each.lag_ms) for each in stages] == [
        (ResumePoint("run-1", "check", 9, Watermark(4500, EVENT_MS + 9000)), 2, 3, None, None),
        (ResumePoint("run-2", "extract", 10, Watermark(5000, EVENT_MS + 10000)), 10, 0, 0, 0),
        (ResumePoint("run-2", "load", 7, mark), 3, 3, 1500, 3000),
    ]
    text = str(store.summary())
    assert "stage 'load' of run 'run-2': 3 sequences missing" in text
    assert re.search(r"load +run-2 +7 +3,500 +2026-01-01T00:00:07Z .* 1,500 · 3 s", text)
    assert [state.point for state in store.summary().stages] == list(store.resume_points().values())


@pytest.mark.parametrize(
    ("offset", "event_time_ms", "told"),
    [
        (500, 1000, "–"),
        (400, 0, "100"),
        (700, 3000, "200 · 2 s ahead"),
        (400, 3000, "100 · 2 s ahead"),
        (500, 900, "100 ms"),
    ],
)
def test_a_stage_is_behind_or_ahead_in_words(store: CheckpointStore, offset: int, event_time_ms: int, told: str) -> None:
    """In records and in event time, without a minus; an event time that was never given is behind nothing."""
    store.append(entry(1, stage="first", offset=500, event_time_ms=1000))
    store.append(entry(1, stage="second", offset=offset, event_time_ms=event_time_ms))
    (line,) = (line for line in str(store.summary()).splitlines() if line.startswith("  second "))
    assert line.rsplit("  ", 1)[1] == told


@pytest.mark.parametrize(("of_first", "of_other"), [(0, EVENT_MS), (EVENT_MS, 0), (0, 0)])
def test_nobody_knows_how_far_an_event_time_is_behind_one_that_was_not_given(
    store: CheckpointStore, of_first: int, of_other: int
) -> None:
    """A stage without event times is no 56 years behind the others, and nobody is as far ahead of it."""
    store.append_many(entry(stage=stage, event_time_ms=at) for stage, at in (("extract", of_first), ("load", of_other)))
    summary = store.summary()
    assert [(each.lag_offset, each.lag_ms) for each in summary.stages] == [(0, 0 if of_first else None), (0, None)]
    (line,) = (line for line in str(summary).splitlines() if line.startswith("  load "))
    assert line.endswith("–")


def test_a_pace_below_the_clocks_precision_is_no_pace_of_0_s(store: CheckpointStore) -> None:
    """Nobody records a checkpoint every 0 s."""
    store.append_many(entry(number, at_ms=5) for number in range(1, 5))
    text = str(store.summary())
    assert "usually there is one every 1 ms or less" in text
    assert "0 s  " not in text.split("Where each stage")[1]


@pytest.mark.parametrize("error", [None, ValueError()], ids=["finished", "failed"])
def test_a_stage_of_a_run_that_has_ended_is_not_late_however_many_runs_came_after_it(
    store: CheckpointStore, error: ValueError | None
) -> None:
    """Nobody expects another checkpoint of a weekly run, until another attempt of it begins."""
    with suppress(ValueError), store.run("weekly") as run:
        for number in range(3):
            run.advance("compact", Watermark(number, 0), idempotency_key=f"{number}")
        if error:
            raise error
    for day in range(11):
        with store.run(f"daily-{day}") as run:
            run.advance("load", Watermark(1, 0), idempotency_key="a")
    assert not any("usually there is one every" in line for line in store.summary().stands_out)
    compact = store.summary().stages[0]
    assert (compact.point.run_id, compact.run_ended, compact.is_stalled(2**62)) == ("weekly", True, False)
    store.run("weekly", again=True).__enter__()
    compact = store.summary().stages[0]
    assert (compact.run_ended, compact.is_stalled(2**62)) == (False, True)
    assert any("stage 'compact' of run 'weekly': the last checkpoint was" in line for line in store.summary().stands_out)


def test_gaps_are_counted_from_the_first_sequence_of_a_stage_on(store: CheckpointStore) -> None:
    """However long ago that was."""
    store.append_many(each for each in chain(100) if each.sequence not in {5, 6})
    (state,) = store.summary().stages
    assert (state.entries, state.missing) == (98, 2)


def test_a_run_without_entries_is_damage(path: Path) -> None:
    """No append leaves one; runs() and the summary say so, and a notebook shows it."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        doors.unlocked(store).execute("INSERT INTO run (run_id) VALUES ('ghost')")
        for look in (store.runs, store.summary):
            with pytest.raises(DamagedStoreError, match="a run has no entries"):
                look()
        assert "a run has no entries" in store._repr_html_()


def test_stages_that_are_no_text_are_damage(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever SQLite makes of the names in a damaged file."""
    monkeypatch.setattr(
        "milepost.rows.summary._RUNS", {False: f"SELECT 'run-7', 1, '[\"lo', 0, 0, zeroblob(32){', NULL' * 9} WHERE ? < 0"}
    )
    with pytest.raises(DamagedStoreError, match="run 'run-7' has a stage whose name is no text"):
        store.runs()


def test_a_summary_does_the_same_work_however_many_entries_the_runs_have(store: CheckpointStore) -> None:
    """SQLite's own step counter; both times each stage of a run ends as far behind its last milepost."""

    def steps() -> int:
        return doors.steps(store, CheckpointStore.summary)

    entries = mixed(80 * 27 + 370 * 27)  # each stage of each run has every ninth entry, and a milepost every 27
    store.append_many(entries[: 80 * 27])
    few = steps()
    store.append_many(entries[80 * 27 :])
    assert few > 0
    assert few == steps()


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=8)


@given(spans)
def test_a_silence_is_a_time_within_no_run(lengths: list[tuple[int, int]]) -> None:
    """Found as by looking at every ms; runs may overlap, and a clock may have jumped back."""
    runs = [(f"run-{i}", begin, begin + length) for i, (begin, length) in enumerate(lengths)]
    silences = longest_silences([(name, end, begin) if begin % 2 else (name, begin, end) for name, begin, end in runs])
    ticks = sorted({tick for _, begin, end in runs for tick in range(begin, end + 1)})
    # Between neighbouring ms of two runs that touch lies 1 ms, in which nothing was recorded either.
    ends = {end for _, _, end in runs}
    gaps = [(a, b) for a, b in pairwise(ticks) if b > a + 1 or (a in ends and not _spanned(runs, a, b))]
    expected = sorted((b - a for a, b in gaps), reverse=True)[:SILENCES_SHOWN]
    assert [silence.lasted_ms for silence in silences] == expected
    for silence in silences:
        assert (silence.since_ms, silence.until_ms) in gaps
        assert (silence.after, silence.since_ms) in {(name, end) for name, _, end in runs}
        assert (silence.before, silence.until_ms) in {(name, begin) for name, begin, _ in runs}


def _spanned(runs: list[tuple[str, int, int]], begin: int, end: int) -> bool:
    return any(first <= begin and end <= last for _, first, last in runs)


def test_the_longest_silence_comes_first() -> None:
    """With the runs on both sides."""
    spans = [("a", 0, 10), ("b", 15, 20), ("c", 100, 110), ("d", 5, 12)]
    assert longest_silences(spans) == (Silence("b", "c", 20, 100), Silence("d", "b", 12, 15))


def test_a_run_that_all_stages_have_is_named_once(store: CheckpointStore) -> None:
    """In the title, which leaves room for how fast they are; else each stage says its own."""
    store.append_many(entry(1, run_id="nightly", stage=f"stage-{number}") for number in range(3))
    text = str(store.summary())
    assert "Where each stage starts again in run 'nightly'\n  stage    sequence" in text
    store.append(entry(1, run_id="other", stage="last"))
    assert re.search(r"Where each stage starts again\n  stage +run +sequence", str(store.summary()))


def test_what_was_archived_is_no_gap(store: CheckpointStore, path: Path) -> None:
    """Of what is before the base a few entries stayed, and nobody recorded nothing between them."""
    for number in range(1, 6):
        store.append_many(
            entry(
                step,
                run_id=f"run-{number}",
                stage=stage,
                at_ms=EVENT_MS + number * 10**8 + step * 60_000 + place * 2 * 10**6,
            )
            for place, stage in enumerate(("extract", "load"))
            for step in range(1, 9)
        )
    store.archive(path.with_name("sealed"), before=EVENT_MS + 5 * 10**8)
    gaps = [line for line in store.summary().stands_out if "recorded nothing" in line]
    assert [line.split(" recorded")[0] for line in gaps] == ["run 'run-5'"], "between its stages, which is in the file"


def test_what_an_archive_leaves_of_a_run_is_not_taken_for_its_beginning(path: Path) -> None:
    """When it began, how long it took, at which rate, and where a branch started: only the archive knows."""
    clock = Clock()
    with CheckpointStore(path, durability="normal", clock=clock) as store:
        with store.run("whole") as run:
            for number in range(1, 60):
                run.advance("load", Watermark(number * 100, 0), idempotency_key=f"{number}")
        for number in range(1, 60):
            store.advance("plain", "load", Watermark(number * 100, 0), idempotency_key=f"{number}")
        store.branch("plain", "branch")
        with store.run("branch") as run:
            for number in range(60, 80):
                run.advance("load", Watermark(number * 100, 0), idempotency_key=f"{number}")
        before = {run.run_id: run for run in store.runs()}
        assert [each.begins_here for each in before.values()] == [True] * 3
        assert before["branch"].records == 2000
        shown = store.summary()
        store.archive(path.with_name("a"), before=store.head())
        for number in range(60, 64):
            store.advance("plain", "load", Watermark(number * 100, 0), idempotency_key=f"{number}")
        after = {run.run_id: run for run in store.runs()}
        assert after["whole"] == before["whole"]
        assert after["whole"].rate is not None
        for run_id in ("plain", "branch"):
            assert (after[run_id].begins_here, after[run_id].rate) == (False, None)
            assert after[run_id].entries == before[run_id].entries + (4 if run_id == "plain" else 0)
        assert set(store.summary().silences) <= set(shown.silences)
        plain = next(line for line in str(store.summary()).splitlines() if line.startswith("  plain"))
        assert plain.split() == ["plain", "–", "–", "–", "–", "63", "6,300", "–"]


@pytest.mark.parametrize("checkpoints", [0, 1, 72])
def test_a_run_whose_first_attempt_is_in_an_archive_does_not_begin_here(path: Path, checkpoints: int) -> None:
    """A later attempt says when that one began, not the run; and there was no silence before it."""
    clock = Clock()
    with CheckpointStore(path, durability="normal", clock=clock) as store:
        with store.run("old"):
            pass
        with pytest.raises(ValueError, match="why"), store.run("long") as run:
            for number in range(72):
                clock.now_ms += 3_600_000
                if number < checkpoints:
                    run.advance("load", Watermark(number, 0), idempotency_key=f"{number}")
            raise ValueError("why")
        with store.run("long") as run:
            run.advance("sort", Watermark(99, 0), idempotency_key="last")
        before, said = store.runs()[1], store.summary().stands_out
        store.archive(path.with_name("a"), before=store.head())
        after = store.runs()[1]
        assert (before.begins_here, after.begins_here) == (True, False)
        assert (after.began_at_ms, after.ended_at_ms, after.attempts) == (before.began_at_ms, before.ended_at_ms, 2)
        assert store.summary().stands_out == said
        assert store.summary().silences == ()


def test_a_run_that_recorded_before_its_attempt_does_not_begin_with_what_an_archive_leaves(path: Path) -> None:
    """The attempt is here, but it is not the first thing of the run that is."""
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        for number in range(1, 60):
            store.advance("nightly", "load", Watermark(number, 0), idempotency_key=f"{number}")
        with store.run("nightly"):
            pass
        assert store.runs()[0].begins_here
        store.archive(path.with_name("a"), before=store.head())
        assert not store.runs()[0].begins_here


def test_an_archive_is_not_the_latest_thing_that_the_pipeline_did(path: Path) -> None:
    """Its entry is the last one of the chain, and the stages stand as far apart as before."""
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        store.append_many(mixed(40))
        before = store.summary()
        store.archive(path.with_name("a"), before=store.head())
        after = store.summary()
    assert (after.latest_run_id, after.last_at_ms) == (before.latest_run_id, before.last_at_ms)
    assert [(each.lag_offset, each.lag_ms) for each in after.stages] == [
        (each.lag_offset, each.lag_ms) for each in before.stages
    ]
    assert after.head.entries == before.head.entries + 1

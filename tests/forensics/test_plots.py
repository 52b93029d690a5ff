"""What the pictures show: the data that is drawn, not its pixels."""

from __future__ import annotations

import re
import sys
from io import BytesIO
from itertools import accumulate, pairwise
from math import log10
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import apsw
import matplotlib as mpl
import matplotlib.figure
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from milepost import (
    Checkpoint,
    CheckpointStore,
    DamagedStoreError,
    InvalidArgumentError,
    MissingPackageError,
    NoCheckpointError,
    Watermark,
)
from milepost.forensics import active, durations, picture, plots, stage_lines
from milepost.forensics.outline import Mark
from milepost.rows import Filter, outline
from support.chains import EVENT_MS, MAX, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.forensics.picture import Picture

    Draw = Callable[[CheckpointStore], Picture]

DAY_MS = 86_400_000
PICTURES: dict[str, Draw] = {
    "progress": lambda store: store.plot.progress(),
    "progress of a run": lambda store: store.plot.progress("run-7"),
    "runs": lambda store: store.plot.runs(),
    "lag": lambda store: store.plot.lag(),
    "lag of a run": lambda store: store.plot.lag("run-7"),
    "durations": lambda store: store.plot.durations(),
    "compare": lambda store: store.plot.compare("run-7", "run-8"),
}


def _pictures(*long: str) -> pytest.MarkDecorator:
    """All pictures; those that end so are left to the long dose."""
    marked = ((name, draw, pytest.mark.long if name.endswith(long) else ()) for name, draw in PICTURES.items())
    return pytest.mark.parametrize("draw", [pytest.param(draw, marks=marks, id=name) for name, draw, marks in marked])


each_picture = _pictures("of a run")  # one run is drawn as all of them are, by the same code
each_with_its_labels = _pictures("of a run", "lag")  # names and titles of the lag too are put where those of progress are
each_with_numbers = _pictures("of a run", "lag", "runs", "durations")  # the others have no axis of offsets or sequences


def _ticking(length: int, *, run_id: str = "run-7", stage: str = "load", outage: int | None = None) -> list[Checkpoint]:
    """A checkpoint each second, 5 s behind its events; after the one with the sequence `outage`, an hour without."""
    entries = []
    for i in range(1, length + 1):
        at_ms = EVENT_MS + i * 1000 + (3_600_000 if outage and i > outage else 0)
        entries.append(entry(i, run_id=run_id, stage=stage, event_time_ms=EVENT_MS + i * 1000 - 5000, at_ms=at_ms))
    return entries


def _texts(figure: Picture) -> list[str]:
    lines = [line.strip() for text in figure.findobj(mpl.text.Text) for line in text.get_text().splitlines()]
    return [line for line in lines if line]


def _xs(line: Any) -> list[float]:
    return sorted(set(line.get_xdata()))


def _lines(figure: Picture, panel: int = 0) -> list[list[tuple[float, float]]]:
    """The points of each line of a panel, without the dotted ones over silences, and jumps of the clock."""
    lines = [line for line in figure.axes[panel].lines if line.get_label() not in {"_silence", "_jump"}]
    points: list[Any] = [line.get_xydata() for line in lines]
    return [[(float(x), float(y)) for x, y in each] for each in points]


def test_progress_is_offset_and_event_time_against_the_wall_clock(store: CheckpointStore) -> None:
    """Every checkpoint of a short run, as days since the epoch in UTC."""
    entries = _ticking(20)
    store.append_many(entries)
    figure = store.plot.progress("run-7")
    assert _lines(figure, 0) == [[(e.at_ms / DAY_MS, e.watermark.offset) for e in entries]]
    assert _lines(figure, 1) == [[(e.at_ms / DAY_MS, e.watermark.event_time_ms / DAY_MS) for e in entries]]
    assert "load" in _texts(figure)
    assert "wall clock (UTC)" in _texts(figure)


def test_progress_is_broken_at_an_outage(store: CheckpointStore) -> None:
    """Two lines, and a dotted one between them; the note says how long it was."""
    store.append_many(_ticking(100, outage=40))
    figure = store.plot.progress()
    assert [len(line) for line in _lines(figure)] == [40, 60]
    assert [line.get_linestyle() for line in figure.axes[0].lines if line.get_label() == "_silence"] == [":"]
    assert "100 checkpoints of 1 run · dotted: nothing recorded, for 1 h at the longest" in _texts(figure)


def test_a_replay_starts_a_line_of_its_own(store: CheckpointStore) -> None:
    """Under the name of its run, in the colour of its stage."""
    store.append_many(_ticking(30))
    store.append_many(e._replace(run_id="run-8", at_ms=e.at_ms + 60_000) for e in _ticking(30))
    figure = store.plot.progress()
    assert [line[0][1] for line in _lines(figure)] == [500, 500]
    assert len({to_hex(line.get_color()) for line in figure.axes[0].lines}) == 1
    assert {"run-7", "run-8"} <= set(_texts(figure))


def test_lag_is_wall_clock_minus_event_time_on_a_log_scale(store: CheckpointStore) -> None:
    """Broken at an outage, after which it is an hour more."""
    store.append_many(_ticking(100, outage=40))
    figure = store.plot.lag()
    assert figure.axes[0].get_yscale() == "log"
    before, after = _lines(figure)
    assert {lag for _, lag in before} == {5000}
    assert {lag for _, lag in after} == {3_605_000}
    assert "1 h" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_short_stall_in_a_long_run_is_in_the_picture(store: CheckpointStore) -> None:
    """A minute of five hours, after which the stage catches up at once: its peak is drawn."""
    entries = _ticking(20_000)
    for i in range(7_000, 20_000):
        mark = entries[i].watermark
        caught_up = mark.event_time_ms + (60_000 if i >= 7_003 else 0)
        entries[i] = entries[i]._replace(at_ms=entries[i].at_ms + 60_000, watermark=mark._replace(event_time_ms=caught_up))
    store.append_many(entries)
    (line,) = _lines(store.plot.lag())
    assert max(lag for _, lag in line) == 65_000
    assert {lag for _, lag in line} == {5_000, 65_000}
    assert len(line) <= 2000


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=3))
def test_lag_between_two_marks_is_within_what_they_allow(steps: list[tuple[int, int]]) -> None:
    """As long as neither time falls, whatever happens in between."""
    ats, events = (list(accumulate(step)) for step in zip(*steps, strict=True))
    marks = [Mark(i, 0, event, at) for i, (at, event) in enumerate(zip(ats, events, strict=True))]
    _, allowed = plots._lag_apart(marks[0], marks[-1])
    lags = [log10(max(1, mark.at_ms - mark.event_time_ms)) for mark in marks]
    assert max(lags) - min(lags) <= allowed + 1e-9


def test_a_lag_that_hardly_varies_has_a_plain_scale(store: CheckpointStore) -> None:
    """Whose ticks can be told apart."""
    behind_ms = (100_000_000, 102_000_000, 101_000_000)
    store.append_many(entry(i, event_time_ms=EVENT_MS, at_ms=EVENT_MS + ms) for i, ms in enumerate(behind_ms, 1))
    axes = store.plot.lag().axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_yscale() == "linear"
    assert {"1 d 4 h", "1 d 4 h 10 min"} <= set(ticks)
    assert len(set(ticks)) == len(ticks)


def test_an_event_time_ahead_of_the_clock_is_drawn_at_the_bottom_and_told(store: CheckpointStore) -> None:
    """A logarithm has no place for it."""
    store.append_many(
        [entry(1, event_time_ms=EVENT_MS, at_ms=EVENT_MS - 9), entry(2, event_time_ms=EVENT_MS, at_ms=EVENT_MS)]
    )
    figure = store.plot.lag()
    assert [lag for _, lag in _lines(figure)[0]] == [1, 1]
    assert any("event time is ahead of the wall clock" in text for text in _texts(figure))


def test_runs_are_bars_with_a_break_at_an_outage(store: CheckpointStore) -> None:
    """One for each stage of each run; the run's name at its left, the stage and its number of entries at its right."""
    store.append_many(_ticking(100, outage=40))
    store.append_many(_ticking(10, run_id="run-8", stage="extract"))
    figure = store.plot.runs()
    bars = [
        [(float(path.vertices[:, 0].min()), float(path.vertices[:, 0].max())) for path in collection.get_paths()]  # type: ignore[union-attr, index]
        for collection in figure.axes[0].collections
        if isinstance(collection, PolyCollection)
    ]

    def days(*ats_ms: int) -> Any:
        return pytest.approx([at_ms / DAY_MS for at_ms in ats_ms], abs=1e-9)

    (first,), (second,), (only,) = bars  # each has its own title
    assert list(first) == days(EVENT_MS + 1000, EVENT_MS + 40_000)
    assert list(second) == days(EVENT_MS + 3_641_000, EVENT_MS + 3_700_000)
    assert list(only) == days(EVENT_MS + 1000, EVENT_MS + 10_000)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["run-7", "run-8"]
    assert {"load · 100", "extract · 10"} <= set(_texts(figure))


def test_only_the_last_runs_are_drawn_and_it_says_so(store: CheckpointStore) -> None:
    """A picture of a hundred runs could not be read. If they have few stages, there is room for twice as many."""
    for i in range(2 * stage_lines.RUNS + 5):
        store.append_many(entry(run_id=f"run-{i}", stage=f"stage-{k}") for k in range(1 + (i > 40)))
    figure = store.plot.runs()
    assert "40 checkpoints of the last 20 of 45 runs" not in _texts(figure)
    assert len(figure.axes[0].get_yticklabels()) == 2 * stage_lines.RUNS
    assert "44 checkpoints of the last 40 of 45 runs" in _texts(figure)
    store.append_many(entry(2, run_id=f"run-{i}", stage=f"stage-{k}") for i in range(45) for k in range(3))
    assert len(store.plot.runs().axes[0].get_yticklabels()) == stage_lines.RUNS


def _divergences(figure: Picture) -> list[list[float]]:
    marks = [[line for line in axes.lines if line.get_label() == "divergence"] for axes in figure.axes]
    return [[x for line in lines for x in _xs(line)] for lines in marks]


def test_two_equal_runs_are_identical_whatever_their_clocks(store: CheckpointStore) -> None:
    """Two lines over each other and no mark."""
    store.append_many(_ticking(50))
    store.append_many(e._replace(run_id="run-8", at_ms=7) for e in _ticking(50))
    figure = store.plot.compare("run-7", "run-8")
    assert _divergences(figure) == [[]]
    assert "identical" in _texts(figure)
    one, other = _lines(figure)
    assert one == other


def _changed(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    return lambda e: e._replace(**changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_changed(watermark=Watermark(15_007, EVENT_MS + 25_000)), "offset 15,000, not 15,007"),
        (_changed(watermark=Watermark(15_000, EVENT_MS + 25_001)), "another event time"),
        (_changed(idempotency_key="other"), "another idempotency key"),
    ],
)
def test_the_first_divergence_is_marked_at_its_sequence(
    store: CheckpointStore, change: Callable[[Checkpoint], Checkpoint], told: str
) -> None:
    """In red, with what it is; a later one is not marked."""
    replay = [e._replace(run_id="run-8") for e in _ticking(50)]
    replay[29] = change(replay[29])
    replay[40] = replay[40]._replace(idempotency_key="later")
    store.append_many(_ticking(50))
    store.append_many(replay)
    for order in (("run-7", "run-8"), ("run-8", "run-7")):
        figure = store.plot.compare(*order)
        assert _divergences(figure) == [[30]]
        mark = next(line for line in figure.axes[0].lines if line.get_label() == "divergence")
        assert mark.get_color() == picture.FAULT
    assert f"they part at sequence 30: {told}" in _texts(store.plot.compare("run-7", "run-8"))


def test_what_only_one_run_has_is_a_divergence(store: CheckpointStore) -> None:
    """A run that ended early, a checkpoint left out, a stage that the other never had."""
    store.append_many(e for e in _ticking(50) if e.sequence != 40)
    store.append_many(e._replace(run_id="run-8") for e in _ticking(50) if e.sequence not in {20, 49, 50})
    store.append_many(_ticking(5, stage="extract", run_id="run-8"))
    figure = store.plot.compare("run-7", "run-8")
    assert _divergences(figure) == [[20], [1]]
    assert "they part at sequence 20: only run-7 has it" in _texts(figure)
    assert "they part at sequence 1: only run-8 has it" in _texts(figure)


@each_picture
def test_a_picture_is_a_figure_that_a_notebook_shows(store: CheckpointStore, draw: Draw) -> None:
    """As a PNG with no background, without pyplot, which keeps a list of all figures."""
    store.append_many(_ticking(100, outage=40))
    store.append_many(_ticking(100, run_id="run-8"))
    figure = draw(store)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert isinstance(figure, picture.Picture)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "compare"])
def test_nothing_recorded_is_told(store: CheckpointStore, name: str) -> None:
    """Not an error, not an empty frame; but two runs that nobody recorded are not compared."""
    with pytest.raises(NoCheckpointError):
        store.plot.compare("run-7", "run-8")
    if " of a run" in name:
        with pytest.raises(NoCheckpointError):
            PICTURES[name](store)
        store.append(entry())
        kind = getattr(store.plot, name.removesuffix(" of a run"))
        assert "nothing is recorded in run-7 in this time" in _texts(kind("run-7", since=EVENT_MS + 1))
        return
    figure = PICTURES[name](store)
    assert "nothing is recorded yet" in _texts(figure)
    assert figure._repr_png_()


@each_picture
def test_red_is_for_faults_alone(store: CheckpointStore, draw: Draw) -> None:
    """None of the stages' colours is it, whatever the number of stages; an outage is none either."""
    for i in range(12):
        store.append_many(_ticking(20, stage=f"stage-{i}", outage=10))
        store.append_many(_ticking(20, stage=f"stage-{i}", outage=10, run_id="run-8"))
    colours = {to_hex(line.get_color()).upper() for axes in draw(store).axes for line in axes.lines}
    assert picture.FAULT not in colours
    assert colours


def _many(stages: int, runs: int) -> Iterator[Checkpoint]:
    """Two checkpoints of each stage in each run, in turns; every third stage of the second run parts from the first run."""
    at_ms = EVENT_MS
    for run in range(runs):
        for i in (1, 2):
            for stage in range(stages):
                at_ms += 1000
                other = run == 1 and stage % 3 == 0 and i == 2
                offset = i * 500 + stage + other
                yield entry(i, run_id=f"run-{run + 7}", stage=f"stage-{stage}", offset=offset, at_ms=at_ms)


MORE_THAN_IS_DRAWN = (40, 40)
OTHER_AMOUNTS = [(1, 1), (40, 2), (300, 2), (2000, 2), (1, 40), (3, 300), (2, 2000)]


@pytest.fixture(
    scope="module",
    params=[MORE_THAN_IS_DRAWN, *(pytest.param(amount, marks=pytest.mark.long) for amount in OTHER_AMOUNTS)],
    ids=lambda amount: "{} stages {} runs".format(*amount),
)
def much(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with so many stages in each of so many runs."""
    stages, runs = request.param
    with CheckpointStore(tmp_path_factory.mktemp("much") / "store", durability="normal") as store:
        store.append_many(_many(stages, runs))
        yield store


def _lay_out(drawn: Picture) -> None:
    """Give all in a picture the place that it has when the picture is drawn."""
    layout = drawn.get_layout_engine()
    assert layout is not None
    layout.execute(drawn)


def _inches(drawn: Picture) -> tuple[float, float]:
    """Width and height of the PNG that a notebook shows, which need not be drawn for that."""
    with picture._any_characters():
        _lay_out(drawn)
        box = drawn.get_tightbbox()
    return box.width + 0.2, box.height + 0.2  # 0.1 on each side, as `savefig` does


@each_with_its_labels
def test_a_picture_has_a_bound_however_much_there_is(
    much: CheckpointStore, draw: Draw, request: pytest.FixtureRequest
) -> None:
    """1,600 pixels at 100 to the inch, and no wider than others; without a warning, which pytest would raise."""
    if draw is PICTURES["compare"] and len(much.runs()) == 1:
        draw = lambda store: store.plot.compare("run-7", "run-7")  # noqa: E731
    figure = draw(much)
    if draw is PICTURES["progress"] or request.node.get_closest_marker("long"):  # it has the most in it
        png = figure._repr_png_()
        assert len(png) < 1_000_000
        width, height = int.from_bytes(png[16:20]) / 120, int.from_bytes(png[20:24]) / 120
    else:
        width, height = _inches(figure)
    assert height <= 16
    assert width <= 9.2
    assert len(figure.findobj(mpl.text.Annotation)) <= plots.BARS
    assert sum(len(axes.lines) for axes in figure.axes) <= 2 * stage_lines.RUNS * plots.STAGES


def _work(path: str, draw: Callable[[Any], object]) -> tuple[int, int]:
    """How many statements a picture takes, and how many steps of SQLite's virtual machine."""
    reports: list[int] = []
    connection = apsw.Connection(path, apsw.SQLITE_OPEN_READONLY)
    connection.trace_v2(
        apsw.SQLITE_TRACE_PROFILE, lambda done: reports.append(done["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
    )
    draw(lambda query, *given: query(connection, *given))
    connection.trace_v2(0, None)
    connection.close()
    return len(reports), sum(reports)


@pytest.mark.parametrize(
    ("limit", "few_and_many"),
    [
        (60, ((100, 2), (300, 2))),
        (60, ((3, 100), (3, 300))),
        pytest.param(200, ((300, 2), (2000, 2)), marks=pytest.mark.long),
        pytest.param(200, ((3, 300), (3, 2000)), marks=pytest.mark.long),
    ],
)
def test_a_picture_of_more_is_no_more_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, few_and_many: tuple[tuple[int, int], ...]
) -> None:
    """By SQLite's own counts; what depends on how far the marks are apart may be a bit more or less."""
    monkeypatch.setattr(active, "RECENT", limit)
    monkeypatch.setattr(active, "COUNTED", limit)
    monkeypatch.setattr(active, "LOOKED_AT", limit)
    monkeypatch.setattr(durations, "_DURATIONS", limit)
    if limit < 200:  # what is drawn takes longer than what is read: in the small dose draw less
        for name, drawn in (("RUNS", 6), ("STAGES", 6), ("BARS", 18)):
            monkeypatch.setattr(plots, name, drawn)
    works: dict[str, list[tuple[int, int]]] = {}
    for stages, runs in few_and_many:
        path = tmp_path / f"{stages}-{runs}"
        with CheckpointStore(path, durability="normal") as store:
            store.append_many(_many(stages, runs))
            compared = store.compare("run-7", "run-8")
        pictures: dict[str, Callable[[Any], object]] = {
            "progress": lambda read: plots.progress(read, Filter(), None),
            "progress of a run": lambda read: plots.progress(read, Filter("run-7"), None),
            "progress of a stage": lambda read: plots.progress(read, Filter(stage="stage-1"), None),
            "progress of a time": lambda read: plots.progress(
                read, Filter(None, None, EVENT_MS + 20_500, EVENT_MS + 90_000), None
            ),
            "lag": lambda read: plots.lag(read, Filter(), None),
            "runs": lambda read: plots.runs(read, Filter(), None),
            "durations": lambda read: durations.durations(read, Filter()),
            "compare": lambda read, compared=compared: plots.compare(read, compared, None),  # type: ignore[misc]
        }
        for name, draw in pictures.items():
            works.setdefault(name, []).append(_work(str(path), draw))
    for (statements, steps), (more_statements, more_steps) in works.values():
        assert 0 < more_statements <= 1.1 * statements
        assert 0 < more_steps <= 1.1 * steps


def test_marks_have_a_bound_for_the_whole_picture(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of its lines alone."""
    monkeypatch.setattr(stage_lines, "_POINTS", 400)
    for i in range(200):
        store.append_many(
            entry(i, run_id=f"run-{run}", stage=f"stage-{stage}", at_ms=EVENT_MS + i * i * 1000)
            for run in range(2)
            for stage in range(20)
        )
    assert sum(len(line) for line in _lines(store.plot.progress())) <= 400


def test_of_many_stages_those_that_differ_or_were_active_last_are_drawn(store: CheckpointStore) -> None:
    """One that began first and goes on among them; the rest is counted in the picture."""
    store.append_many(entry(1, stage=f"stage-{i}", at_ms=EVENT_MS + i) for i in range(2000))
    store.append(entry(2, stage="stage-3", at_ms=EVENT_MS + 5000))
    figures = (store.plot.progress("run-7"), 20), (store.plot.lag(), 20), (store.plot.runs(), 60)
    progress, lag, runs = (_texts(figure) for figure, _ in figures)
    for texts, (_, shown) in zip((progress, lag, runs), figures, strict=True):
        last = ["stage-3", *(f"stage-{i}" for i in range(1999, 2000 - shown, -1))]
        assert sorted(each.partition(" · ")[0] for each in texts if each.startswith("stage-")) == sorted(last)
        assert any(f" · and {2000 - shown:,} more " in text for text in texts)
    assert "61 checkpoints of the stages that differ most in 1 run · and 1,940 more bars" in runs
    assert "21 checkpoints of the stages that differ most · and 1,980 more stages" in progress
    note = "21 checkpoints of the stages farthest behind in 1 run · and 1,980 more stages"
    assert any(text.startswith(note) for text in lag)


def test_each_run_says_how_many_of_its_stages_are_not_drawn(store: CheckpointStore) -> None:
    """At its last bar."""
    store.append_many(entry(1, run_id="run-7", stage=f"stage-{i}") for i in range(100))
    store.append_many(entry(1, run_id="run-8", stage=f"stage-{i}") for i in range(10))
    texts = _texts(store.plot.runs())
    assert {"stage-99 · 1 · and 50 more", "stage-9 · 1"} <= set(texts)
    assert "60 checkpoints of the stages that differ most in 2 runs · and 50 more bars" in texts


def test_of_many_stages_those_that_part_first_are_compared(store: CheckpointStore) -> None:
    """One below the other; the rest is counted, by what it is."""
    for run in ("run-7", "run-8"):
        for stage in range(40):
            parts_at = 40 - stage if run == "run-8" and stage % 2 else None
            entries = (entry(i, run_id=run, stage=f"stage-{stage}", offset=i * 500 + (i == parts_at)) for i in range(1, 41))
            store.append_many(entries)
    figure = store.plot.compare("run-7", "run-8")
    assert _divergences(figure) == [[i] for i in range(1, 17, 2)]
    assert [text.split(":")[0] for text in _texts(figure) if text.startswith("stage-")] == [
        f"stage-{i}" for i in range(39, 23, -2)
    ]
    rest = "and 32 more stages: 12 different, 20 identical"
    assert f"wide, light: run-7 · narrow, dark: run-8 · {rest}" in _texts(figure)


@pytest.mark.parametrize(
    "stages", [2, pytest.param(6, marks=pytest.mark.long), pytest.param(13, marks=pytest.mark.long), 20]
)
def test_every_label_has_its_place_beside_the_axes(store: CheckpointStore, stages: int) -> None:
    """None on top of another one, and none below, where a picture would grow by it."""
    store.append_many(entry(i, stage=f"stage-{k}", at_ms=EVENT_MS + i) for i in range(9) for k in range(stages))
    for figure in (store.plot.progress(), store.plot.lag()):
        _lay_out(figure)
        labels = [text for text in figure.axes[0].texts if text.get_text().startswith("stage-")]
        boxes = sorted((label.get_window_extent().y0, label.get_window_extent().y1) for label in labels)
        axes = figure.axes[0].get_window_extent()
        assert len(boxes) == stages
        assert all(below[1] <= above[0] + 1 for below, above in pairwise(boxes))
        assert boxes[0][0] > axes.y0 - 12
        assert boxes[-1][1] < axes.y1 + 12


LARGE = [
    "W" * 1024,
    "e" + "\u0301" * 500,
    "\u0f73" * 300,
    "\u0ccb" * 300,
    "実" * 341,
    "\x1b" * 1024,
    "\u202e" * 300,
    "🚀" * 256,
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with the largest names, in each place that a name has."""
    with CheckpointStore(tmp_path_factory.mktemp("large") / "store", durability="normal") as store:
        store.append_many(
            entry(i, run_id=run, stage=name, key=f"{run[-3:]}{i}", at_ms=MAX - 9 + i)
            for run in ("run-7", "run-8", *LARGE)
            for name in LARGE
            for i in range(3)
        )
        yield store


@each_with_its_labels
def test_the_largest_names_blow_up_nothing(large: CheckpointStore, draw: Draw) -> None:
    """However wide their letters are, and however high their accents pile up; in each place that a name has."""
    figures = [draw(large)]
    if draw is PICTURES["compare"]:  # of all stages, and of each pair of runs one: the names of two are what is new there
        figures += [large.plot.compare(LARGE[i], LARGE[i + 1], LARGE[i]) for i in range(0, len(LARGE), 2)]
    for figure in figures:
        width, height = _inches(figure)
        assert width <= 9.2
        assert height <= 16
        assert all(text.isprintable() for text in _texts(figure))
        assert min(axes.get_position().width for axes in figure.axes) > 0.25


@pytest.mark.parametrize("name", ["\u0f73" * 300, "\u0f73"])
def test_a_name_with_no_letter_that_has_room_is_shown_by_its_numbers(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not as nothing: three signs above each other, of which some matplotlibs make a box."""
    monkeypatch.setattr(picture, "_has_room", lambda text: "\u0f73" not in text)
    picture.short.cache_clear()
    store.append(entry(stage=name))
    assert any(text.startswith("\\u0f73") for text in _texts(store.plot.progress()))


HOSTILE = ["$\\frac{", "$x^2$", "a_b%#&~", "<b>&", "\x1b[2J\n\t", "実行 🚀", "\u202eevil", "_hidden", "x" * 1000, "{}"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with these names, of runs and of stages, with an outage in each."""
    with CheckpointStore(tmp_path_factory.mktemp("hostile") / "store", durability="normal") as store:
        for name in HOSTILE:
            for run_id in ("run-7", "run-8", name):
                ticks = _ticking(40, outage=20, run_id=run_id, stage=name)
                store.append_many(e._replace(idempotency_key=f"k{e.sequence}") for e in ticks)
        yield store


@each_with_its_labels
def test_a_hostile_name_is_drawn_as_it_is(hostile: CheckpointStore, draw: Draw) -> None:
    """No formula, no control character, no warning about a character that the font lacks, no picture a mile wide."""
    figure = draw(hostile)
    assert figure._repr_png_()
    texts = _texts(figure)
    assert all(text.isprintable() for text in texts)
    assert max(map(len, texts)) < 200
    for name in ("$\\frac{", "$x^2$", "a_b%#&~", "<b>&", "実行 🚀", "_hidden"):
        assert any(name in text for text in texts)
    for text in figure.findobj(mpl.text.Text):
        if "$" in text.get_text():
            assert not text.get_parse_math()
            assert not text.get_usetex()


@each_picture
def test_the_largest_numbers_can_be_drawn(store: CheckpointStore, draw: Draw) -> None:
    """A time beyond every calendar is told in days."""
    for run_id in ("run-7", "run-8"):
        store.append(entry(0, run_id=run_id, offset=0, event_time_ms=0, at_ms=0))
        store.append(entry(MAX, run_id=run_id, offset=MAX, event_time_ms=MAX, at_ms=MAX))
    assert draw(store)._repr_png_()


@each_picture
def test_a_single_checkpoint_can_be_drawn(store: CheckpointStore, draw: Draw) -> None:
    """And is seen: a line of one point would not be."""
    store.append(entry(run_id="run-7"))
    store.append(entry(run_id="run-8"))
    figure = draw(store)
    assert figure._repr_png_()
    assert all(line.get_marker() == "o" for line in figure.axes[0].lines if line.get_label() != "_median")


def test_a_long_run_is_read_in_few_searches(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 checkpoints at most 2,000 are drawn, and the outage among them is where it is."""
    store.append_many(_ticking(20_000, outage=12_345))
    figure = store.plot.progress("run-7")
    before, after = _lines(figure)
    assert len(before) + len(after) <= 2000
    assert before[-1] == ((EVENT_MS + 12_345_000) / DAY_MS, 12_345 * 500)
    assert after[0] == ((EVENT_MS + 12_346_000 + 3_600_000) / DAY_MS, 12_346 * 500)


def test_what_lies_far_below_the_middle_of_the_sequences_is_drawn(store: CheckpointStore) -> None:
    """A stage whose last sequence is far above all others."""
    offsets = {1: 0, 2: 800, 3: 900, 1000: 1000}
    store.append_many(entry(n, offset=offset, at_ms=EVENT_MS + n) for n, offset in offsets.items())
    (line,) = _lines(store.plot.progress())
    assert [offset for _, offset in line] == list(offsets.values())


@pytest.mark.parametrize("statement", ["_NAMES", "_FIRST_OF_RUN_STAGE", "_LAST_OF_RUN_STAGE", "_FROM_MIDDLE"])
def test_a_damaged_row_is_a_damaged_store(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """In a damaged file SQLite gives what it finds, whatever the table declares."""
    store.append_many(_ticking(40))
    strange = "SELECT ?, ?" if statement == "_NAMES" else "SELECT 1, 'two', ?, ?"
    strange += " LIMIT ? OFFSET 0 * ?" if statement == "_FROM_MIDDLE" else ""
    monkeypatch.setattr(active if statement == "_NAMES" else outline, statement, strange)
    with pytest.raises(DamagedStoreError, match="which no append writes"):
        store.plot.progress()


def _nightly(store: CheckpointStore, nights: int, *, first_offset: int = 0) -> None:
    """Runs of ten minutes, a day apart; the last one takes an hour. Each goes on where the one before it ended."""
    for night in range(nights):
        step_ms = 360_000 if night == nights - 1 else 60_000
        at_ms = EVENT_MS + night * DAY_MS
        store.append_many(
            entry(
                i, run_id=f"night-{night}", offset=first_offset * night + i * 500,
                event_time_ms=at_ms - DAY_MS + i * 1000, at_ms=at_ms + (i - 1) * step_ms,
            )
            for i in range(1, 11)
        )  # fmt: skip


@pytest.mark.parametrize("first_offset", [0, 1_000_000])
def test_nightly_runs_are_laid_over_each_other(store: CheckpointStore, first_offset: int) -> None:
    """Ms since the run began; the last run is bold, and what goes on from run to run begins anew at each."""
    _nightly(store, 5, first_offset=first_offset)
    figure = store.plot.progress()
    assert figure.axes[-1].get_xlabel() == "since the run began"
    assert [line[-1][0] for line in _lines(figure)] == [540_000] * 4 + [3_240_000]
    assert {line[0][0] for line in _lines(figure)} == {0}
    assert [line[-1][1] - line[0][1] for line in _lines(figure)] == [4500] * 5
    assert len({line[0][1] for line in _lines(figure)}) == 1
    assert {line[-1][1] for line in _lines(figure, 1)} == {9000}
    *thin, bold = figure.axes[0].lines
    assert all(line.get_linewidth() < bold.get_linewidth() for line in thin)
    assert "bold: night-4, which began last; thin: 4 runs before" in _texts(figure)
    assert "10 min" in [label.get_text() for label in figure.axes[-1].get_xticklabels()]


def test_nightly_runs_are_no_slivers(store: CheckpointStore) -> None:
    """By themselves; you may also choose. Runs that follow each other closely share one clock."""
    _nightly(store, 5)
    for draw in (store.plot.runs, store.plot.lag, store.plot.progress):
        assert draw().axes[-1].get_xlabel() == "since the run began"
        assert draw(aligned=False).axes[-1].get_xlabel() == "wall clock (UTC)"
        assert draw("night-4").axes[-1].get_xlabel() == "wall clock (UTC)"
        assert draw("night-4", aligned=True).axes[-1].get_xlabel() == "since the run began"
    paths: list[Any] = [path for bar in store.plot.runs().axes[0].collections for path in bar.get_paths()]
    widths = [path.vertices[:, 0].max() / 3_240_000 for path in paths]
    assert min(widths) > 0.1
    with pytest.raises(InvalidArgumentError, match="aligned"):
        store.plot.runs(aligned=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["progress", "lag", "runs"])
def test_a_clock_that_jumps_back_is_shown_and_told(store: CheckpointStore, name: str) -> None:
    """By an arrow to where it came."""
    entries = _ticking(100)
    store.append_many(e._replace(at_ms=e.at_ms - 60_000 if e.sequence > 70 else e.at_ms) for e in entries)
    figure = getattr(store.plot, name)()
    _, arrow = (line for line in figure.axes[0].lines if line.get_label() == "_jump")
    assert _xs(arrow) == [(EVENT_MS + 11_000) / DAY_MS]
    assert "grey arrow: the clock jumped back, by 59 s at most" in _texts(figure)


def test_event_times_that_were_never_given_are_not_1970(store: CheckpointStore) -> None:
    """They are 0 then: progress has one panel, lag has none; a stage that has some is drawn."""
    store.append_many(e._replace(watermark=Watermark(e.sequence, 0)) for e in _ticking(9))
    figure = store.plot.progress()
    assert len(figure.axes) == 1
    assert "no event times were given" in _texts(figure)
    assert "no event times were given: of 9 checkpoints the lag is not known" in _texts(store.plot.lag())
    store.append_many(_ticking(9, stage="sort"))
    for figure in (store.plot.progress(), store.plot.lag()):
        assert min(y for line in _lines(figure, -1) for _, y in line) >= 5000
        assert len(_lines(figure, -1)) == 1
        assert "no event times were given in 1 stage" in _texts(figure)
    assert any("no event time ·" in title for title in _titles(store.plot.progress()))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name.endswith("of a run") else ())
        for name in PICTURES
        if name != "compare"
    ],
)
def test_equal_times_are_one_moment(store: CheckpointStore, name: str) -> None:
    """With a minute on each side, and no warning, which pytest would raise."""
    store.append_many(entry(i, event_time_ms=EVENT_MS - 5000) for i in range(30))
    figure = PICTURES[name](store)
    figure.draw_without_rendering()
    if name != "durations":
        low, high = figure.axes[-1].get_xlim()
        assert (high - low) * DAY_MS == pytest.approx(120_000, abs=1)


@each_with_numbers
def test_ticks_are_whole_numbers(store: CheckpointStore, draw: Draw) -> None:
    """There is no half of a sequence, or of an offset."""
    for run_id in ("run-7", "run-8"):
        store.append_many(entry(i, run_id=run_id, offset=i) for i in (1, 2))
    figure = draw(store)
    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_label_text() in {"offset", "sequence"}:
                shown = [tick.get_text() for tick in axis.get_ticklabels() if tick.get_text()]
                assert len(shown) == len(set(shown))
                assert all(float(text).is_integer() for text in shown)


def test_a_picture_of_a_span_of_time_shows_that_alone(store: CheckpointStore) -> None:
    """To the checkpoint."""
    store.append_many(_ticking(100))
    store.append_many(_ticking(100, stage="sort"))
    since, until = EVENT_MS + 20_500, EVENT_MS + 40_000
    figure = store.plot.progress(stage="load", since=since, until=until)
    ((*points,),) = _lines(figure)
    assert [offset for _, offset in points] == [i * 500 for i in range(21, 41)]
    assert "20 checkpoints of 1 run" in _texts(figure)
    assert "sort" not in _texts(figure)
    for name in ("progress", "lag", "runs"):
        assert "40 checkpoints of 1 run" in _texts(getattr(store.plot, name)(since=since, until=until))
    for name in ("progress", "lag", "runs", "durations"):
        assert "nothing is recorded in all runs in this time" in _texts(getattr(store.plot, name)(since=2**60))
        with pytest.raises(NoCheckpointError):
            getattr(store.plot, name)(stage="nobody's")
        with pytest.raises(NoCheckpointError):
            getattr(store.plot, name)("run-8", "load")


def test_one_stage_of_two_runs_can_be_compared(store: CheckpointStore) -> None:
    """One that neither has cannot."""
    for run_id in ("run-7", "run-8"):
        for stage in ("load", "sort"):
            store.append_many(_ticking(9, run_id=run_id, stage=stage))
    assert len(store.plot.compare("run-7", "run-8", "sort").axes) == 1
    with pytest.raises(NoCheckpointError):
        store.plot.compare("run-7", "run-8", "nobody's")


@pytest.fixture
def attempted(path: Path) -> Iterator[CheckpointStore]:
    """One run that was killed and finished, one that failed, one without attempts, one that is open."""
    now = [EVENT_MS]
    with CheckpointStore(path, durability="normal", clock=lambda: now[0]) as store:

        def work(run: Any, minutes: int) -> None:
            for minute in range(minutes):
                now[0] += 60_000
                run.advance("load", Watermark(minute, now[0]), idempotency_key=f"{now[0]}")

        work(store.run("killed").__enter__(), 3)
        now[0] += 600_000
        with store.run("killed") as run:
            run.advance("sort", Watermark(1, 1), idempotency_key="1")
            now[0] += 120_000
        with pytest.raises(ValueError, match="x"), store.run("failed"):
            now[0] += 5 * 60_000
            raise ValueError("x")
        for minute in range(7):
            store.append(entry(minute, run_id="plain", at_ms=now[0] + minute * 60_000))
        work(store.run("open").__enter__(), 4)
        yield store


def test_durations_are_of_attempts_with_their_ends(attempted: CheckpointStore) -> None:
    """In order; each state by colour and by hatch, and a run that failed before its first checkpoint too."""
    figure = attempted.plot.durations()
    axes = figure.axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    assert [bar.get_width() / 60_000 for bar in bars] == [3, 2, 5, 6, 4]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["killed", "attempt 2", "failed", "plain", "open"]
    told = ["3 min · killed", "2 min · finished", "5 min · failed: ValueError", "6 min", "4 min · open"]
    texts = _texts(figure)
    assert [text for text in texts if text in told] == told
    hatched = {bar.get_hatch() for bar in bars if bar.get_hatch()}
    assert len({to_hex(bar.get_facecolor()) for bar in bars}) == 5
    assert len(hatched) == 3
    assert {"4 runs · 5 attempts · dashed: the median, 4 min", "longest: plain, 6 min · last: open, 4 min"} <= set(texts)
    assert {"killed 1", "finished 1", "failed 1", "no state 1", "open 1"} <= set(texts)


def test_durations_of_one_run_or_of_one_stage(attempted: CheckpointStore) -> None:
    """Of a stage it is the time from its first to its last checkpoint."""
    assert "1 run · 2 attempts · dashed: the median, 2 min 30 s" in _texts(attempted.plot.durations("killed"))
    figure = attempted.plot.durations(stage="load")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["killed", "plain", "open"]
    assert {"2 min · finished", "6 min", "3 min · open"} <= set(_texts(figure))
    late = attempted.plot.durations(since=EVENT_MS + 700_000, until=EVENT_MS + 800_000)
    assert [label.get_text() for label in late.axes[0].get_yticklabels()] == ["killed"]
    assert "2 min · finished" in _texts(late)


def test_a_run_whose_clock_jumped_back_is_not_the_longest(store: CheckpointStore) -> None:
    """How long it took is not known. It is as long as its summary says, and a jump of days makes no bar of days."""
    store.append_many(entry(n, run_id="steady", at_ms=EVENT_MS + 60_000 * n) for n in range(4))
    store.append_many(entry(n, run_id="jumped", at_ms=EVENT_MS - 86_400_000 * n) for n in range(4))
    figure = store.plot.durations()
    widths = [bar.get_width() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert widths == [max(1, run.duration_ms) for run in store.runs()] == [180_000, 1]
    assert "the clock jumped back by 3 d" in _texts(figure)
    assert any("longest: steady, 3 min" in text for text in _texts(figure))


@pytest.mark.parametrize("short", [2, 60])
def test_durations_of_0_have_a_place_beside_long_ones(store: CheckpointStore, short: int) -> None:
    """The scale is then logarithmic, and a text at 0 would leave no room for the picture: matplotlib warns of that."""
    store.append_many(entry(1, run_id=f"moment-{number}") for number in range(short))
    store.append_many(entry(n, run_id="long", at_ms=EVENT_MS + 3_600_000 * n) for n in range(2))
    figure = store.plot.durations()
    _lay_out(figure)
    assert figure.axes[0].get_window_extent().width > 200  # of 360 points


def test_no_duration_is_written_across_the_line_of_the_median(store: CheckpointStore) -> None:
    """It begins behind the line, or ends before it."""
    for minutes in (10, 40, 50, 59, 60, 61, 90):
        run_id = f"run-{minutes}"
        store.append_many(
            [entry(1, run_id=run_id, at_ms=EVENT_MS), entry(2, run_id=run_id, at_ms=EVENT_MS + minutes * 60_000 + 1500)]
        )
    figure = store.plot.durations()
    _lay_out(figure)
    (axes,) = figure.axes
    (median,) = (line for line in axes.lines if line.get_label() == "_median")
    at = median.get_window_extent().x0
    told = [text.get_window_extent() for text in axes.texts]
    assert len(told) == 7
    assert [box for box in told if box.x0 <= at <= box.x1] == []
    assert {bool(box.x0 > at) for box in told} == {True, False}


def test_many_durations_stand_side_by_side(store: CheckpointStore) -> None:
    """Three hundred, each with its state by a mark; one that took far longer makes the scale logarithmic."""
    now = [EVENT_MS]
    store._clock = lambda: now[0]
    for night in range(300):
        now[0] = EVENT_MS + night * DAY_MS
        run = store.run(f"night-{night}")
        run.__enter__()
        now[0] += 3 * 3_600_000 if night == 200 else 60_000
        run.__exit__(ValueError if night % 100 == 50 else None, None, None)
    figure = store.plot.durations()
    axes = figure.axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    assert [round(bar.get_height() / 60_000) for bar in bars] == [1] * 200 + [180] + [1] * 99
    assert [line.get_xdata() for line in axes.lines if line.get_marker() == "X" and len(_xs(line))] == [[50], [150], [250]]
    assert axes.get_yscale() == "log"
    assert "2026-01-01" in [label.get_text() for label in axes.get_xticklabels()]
    assert "longest: night-200, 3 h · last: night-299, 1 min" in _texts(figure)
    assert figure.get_figheight() < 5
    assert "300 runs · dashed: the median, 1 min" in _texts(figure)


def _svg(figure: Picture) -> str:
    stream = BytesIO()
    figure.savefig(stream, format="svg")
    return stream.getvalue().decode()


def test_the_mouse_finds_each_point_over_the_lines(store: CheckpointStore) -> None:
    """The spots that feel it are drawn after all that could lie over them, and take little room."""
    store.append_many(_ticking(200))
    svg = _svg(store.plot.progress())
    spots = svg.rindex('<g opacity="0">')
    assert max(line.start() for line in re.finditer(r'<path d="[^"]*" clip-path=', svg)) < spots
    assert len(re.findall(r'<use xlink:href="#\w+" x="[\d.]+" y="[\d.]+"><title>', svg)) == 400
    assert 'd="' not in svg[spots:][: svg[spots:].index("</g>")]


def _titles_in(svg: str) -> list[str]:
    return [title.text or "" for title in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]


def _titles(figure: Picture) -> list[str]:
    return _titles_in(_svg(figure))


@each_with_its_labels
def test_an_svg_tells_what_is_under_the_mouse(store: CheckpointStore, draw: Draw) -> None:
    """In titles that are text, without a script; and the picture is as before."""
    store.append_many(_ticking(30, outage=20))
    store.append_many(_ticking(30, run_id="run-8", stage="</title><script>\x00\ufffe".replace("\x00", "\x1b")))
    store.append(entry(1, run_id="run-8"))
    figure = draw(store)
    before = [len(axes.lines) for axes in figure.axes]
    svg = _svg(figure)
    titles = _titles_in(svg)
    assert len(titles) >= 2
    assert all(title.startswith(("run-7", "run-8")) and title.isprintable() for title in titles)
    assert "<script" not in svg
    assert "milepost-" not in svg
    assert [len(axes.lines) for axes in figure.axes] == before


def test_an_svg_has_its_titles_wherever_it_is_written(store: CheckpointStore, tmp_path: Path) -> None:
    """Into a file by its name, by its path, and into an open one."""
    store.append_many(_ticking(30, outage=20))
    figure = store.plot.runs()
    for target in (str(tmp_path / "a.svg"), tmp_path / "b.svg"):
        figure.savefig(target)
    with (tmp_path / "c.svg").open("w", encoding="utf-8") as stream:
        figure.savefig(stream, format="svg")
    first, *others = (_titles_in((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.svg", "b.svg", "c.svg"))
    assert first
    assert others == [first, first]


def test_titles_say_what_a_point_is(store: CheckpointStore) -> None:
    """Of each checkpoint, where there are few; of many lines and checkpoints about a thousand."""
    store.append_many(_ticking(3))
    told = "run-7 · load · sequence 2 · offset 1,000 · event time 2025-12-31T23:59:57Z · at 2026-01-01T00:00:02Z"
    assert [title for title in _titles(store.plot.lag()) if "sequence 2" in title] == [told]
    store.append_many(_ticking(9000, stage="sort"))
    assert 300 < len(_titles(store.plot.lag())) <= 1100


def test_a_wrong_name_is_refused(store: CheckpointStore) -> None:
    """Before anything is drawn."""
    for draw in (store.plot.progress, store.plot.lag, store.plot.runs, store.plot.durations):
        with pytest.raises(InvalidArgumentError):
            draw("")
        with pytest.raises(InvalidArgumentError):
            draw(stage="")
        with pytest.raises(InvalidArgumentError):
            draw(since="nonsense")
        with pytest.raises(InvalidArgumentError):
            draw(until=-1)
    with pytest.raises(InvalidArgumentError):
        store.plot.compare("run-7", 8)  # type: ignore[arg-type]


def test_without_matplotlib_a_picture_names_the_extra(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence."""
    for module in ("matplotlib", "matplotlib.font_manager"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("picture", "stage_lines", "plots"):
        monkeypatch.delitem(sys.modules, f"milepost.forensics.{module}")
        monkeypatch.delattr(f"milepost.forensics.{module}")
    with pytest.raises(MissingPackageError, match=r'needs matplotlib, .* pip install "milepost\[notebook\]"'):
        store.plot.runs()


def test_durations_leave_out_what_only_an_archive_knows(store: CheckpointStore, path: Path) -> None:
    """A stage, or a run without attempts, whose beginning is not here would seem to have taken no time."""
    for archived in (True, False):
        with store.run(f"attempted {archived}") as run:
            for number in range(1, 5):
                run.advance("load", Watermark(number, number), idempotency_key=f"{number}")
        for number in range(1, 5):
            store.advance(f"plain {archived}", "load", Watermark(number, number), idempotency_key=f"{number}")
        if archived:
            store.archive(path.with_name("a"), before=store.head())
    shown = [
        [label.get_text() for label in store.plot.durations(stage=stage).axes[0].get_yticklabels()]
        for stage in (None, "load")
    ]
    assert shown == [["attempted True", "attempted False", "plain False"], ["attempted False", "plain False"]]

"""archive(): the beginning of a chain moves into a file of its own, and nothing else changes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tracemalloc
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    ArchivedStageError,
    BrokenChainError,
    Checkpoint,
    CheckpointStore,
    DamagedStoreError,
    EntriesArchivedError,
    Head,
    InvalidArgumentError,
    ReadOnlyStoreError,
    RejectedCheckpointError,
    SequenceError,
    StoreError,
    Watermark,
    WatermarkRegressionError,
    across,
    archive,
    rows,
    workers,
)
from milepost.checkpoint import latest, latest_for_stage
from milepost.mileposts import INTERVAL
from support.chains import chain, entry
from support.command import run
from support.hooked_vfs import hooked
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EMPTY = Head(0, "0" * 64)
RUN = entry(1).run_id


def _kept(before: Sequence[Checkpoint]) -> list[Checkpoint]:
    """What an archive of these entries leaves: of every stage of a run the last, and all with its watermark."""
    last = {(each.run_id, each.stage): each.watermark for each in before}
    return [each for each in before if last[each.run_id, each.stage] == each.watermark]


def _head_at(store: CheckpointStore, position: int) -> Head:
    if position == 0:
        return EMPTY
    receipt, _, _ = next(store.receipts(after=position - 1, limit=1))
    return Head(receipt.position, receipt.signature)


# Any chain, cut anywhere

RUNS = ("r1", "r2", "r3")
STAGES = ("a", "b", "c")


@dataclass
class _Part:
    """So many entries of a stage of a run, whose watermark rises at every so many."""

    run_id: str
    stage: str
    entries: int
    level: int


PARTS = st.lists(
    st.builds(
        _Part,
        st.sampled_from(RUNS),
        st.sampled_from(STAGES),
        st.one_of(st.integers(1, 5), st.integers(30, 95)),
        st.sampled_from([1, 1, 1, 3, 50]),
    ),
    min_size=1,
    max_size=8,
)


def _entries(parts: Sequence[_Part], interleaved: bool) -> list[Checkpoint]:
    sequences: dict[tuple[str, str], Iterator[int]] = {}
    at_ms = count(1_767_225_600_000, 1000)
    batches = []
    for part in parts:
        numbers = sequences.setdefault((part.run_id, part.stage), count(1))
        batches.append([(part, next(numbers)) for _ in range(part.entries)])
    if interleaved:
        every = [each for step in range(max(map(len, batches))) for batch in batches for each in batch[step : step + 1]]
        every.sort(key=lambda each: each[1])
    else:
        every = [each for batch in batches for each in batch]
    levels: dict[tuple[str, str], int] = {}
    found = []
    for part, sequence in every:
        names = part.run_id, part.stage
        levels[names] = max(levels.get(names, 0), sequence // part.level)
        mark = Watermark(levels[names], levels[names] * 1000)
        found.append(Checkpoint(*names, sequence, mark, f"{part.run_id}:{part.stage}:{sequence}", next(at_ms)))
    return found


CHAINS = given(
    PARTS, st.booleans(), st.lists(st.floats(0, 1), min_size=1, max_size=3), st.sampled_from([None, bytes(range(32))])
)


@settings(max_examples=6)
@CHAINS
def test_every_lookup_answers_as_if_nothing_had_been_archived(
    parts: list[_Part], interleaved: bool, cuts: list[float], key: bytes | None
) -> None:
    """A store beside it keeps everything; both go on with the same entries between two archives and behind them."""
    _archived_anywhere(parts, interleaved, cuts, key)


@pytest.mark.long
@settings(max_examples=1000)
@CHAINS
def test_every_lookup_of_many_chains_answers_as_if_nothing_had_been_archived(
    parts: list[_Part], interleaved: bool, cuts: list[float], key: bytes | None
) -> None:
    """The full dose."""
    _archived_anywhere(parts, interleaved, cuts, key)


def _archived_anywhere(parts: list[_Part], interleaved: bool, cuts: list[float], key: bytes | None) -> None:
    entries = _entries(parts, interleaved)
    with TemporaryDirectory() as folder:
        whole, path = Path(folder, "whole"), Path(folder, "store")
        with CheckpointStore(whole, hmac_key=key) as all_of_it, CheckpointStore(path, hmac_key=key) as store:
            made: list[Path] = []
            before: list[Checkpoint] = []
            at = sorted({round(cut * len(entries)) for cut in cuts})
            for begin, end in zip([0, *at], [*at, len(entries)], strict=True):
                store.append_many(entries[begin:end])
                # The other has milepost's own entries too, so that positions and heads are the same.
                for receipt, each, _ in store.receipts(after=all_of_it.head().entries):
                    if each.stage == "milepost:archive":
                        _repeat(store, all_of_it, receipt.position)
                    else:
                        all_of_it.append(each)
                _same(store, all_of_it, before)
                if end == len(entries):
                    break
                cut = all_of_it.head()
                archived = path.with_name(f"archive-{end}")
                base = store.base
                assert store.archive(archived, before=cut) == cut
                if cut.entries == base.entries:
                    assert not archived.exists()
                    continue
                made.append(archived)
                before = list(all_of_it.history(limit=cut.entries))
                assert store.base == cut
            _refused(store, all_of_it)
            found = store.verify(archives=made, expected=all_of_it.head())
            assert (found.ok, found.elsewhere, found.entries) == (True, 0, store.head().entries)
            _chain_of_archives(store, all_of_it, made, key)


def _repeat(store: CheckpointStore, other: CheckpointStore, position: int) -> None:
    """Append milepost's own entry at a position of one store to another."""
    receipt, found, detail = next(store.receipts(after=position - 1, limit=1))
    assert receipt.position == position
    other._writer.restore([found], [detail], {})


def _same(store: CheckpointStore, whole: CheckpointStore, archived: list[Checkpoint]) -> None:
    """Ask both the same."""
    every = list(whole.history())
    base = store.base.entries
    here = [*_kept(every[:base]), *every[base:]]
    assert list(store.history()) == here
    assert list(store.history(newest_first=True)) == here[::-1]
    assert len(store) == len(here)
    assert store.head() == whole.head()
    assert store.latest() == whole.latest() == latest(every)
    assert store.resume_points() == whole.resume_points()
    for run_id in RUNS:
        assert store.chain_signature(run_id) == whole.chain_signature(run_id)
        assert store.resume_points(run_id) == whole.resume_points(run_id)
        assert list(store.history(run_id)) == [each for each in here if each.run_id == run_id]
    for stage in STAGES:
        assert store.latest_for_stage(stage) == latest_for_stage(every, stage)
        assert list(store.history(stage=stage)) == [each for each in here if each.stage == stage]
        for run_id in RUNS:
            own = [each for each in here if (each.run_id, each.stage) == (run_id, stage)]
            assert store.latest_for_stage(stage, run_id=run_id) == whole.latest_for_stage(stage, run_id=run_id)
            assert list(store.history(run_id, stage)) == own
            assert list(store.history(run_id, stage, newest_first=True, limit=7)) == own[::-1][:7]
            for each in own[:3] + own[-3:]:
                assert store.get(run_id, stage, each.sequence) == each
                assert list(store.find(each.idempotency_key)) == [each]
    for one, other in zip(store.runs(), whole.runs(), strict=True):
        assert (one.run_id, one.entries, one.stages, one.signature) == (
            other.run_id,
            other.entries,
            other.stages,
            other.signature,
        )
    assert [(each.stage, each.entries) for each in store.stages()] == [(each.stage, each.entries) for each in whole.stages()]
    found = store.verify()
    assert (found.ok, found.faults, found.entries, found.elsewhere) == (True, (), len(every), base)
    assert found.signature == whole.chain_signature()
    for run_id in {each.run_id for each in every}:
        of_run = store.verify(run_id=run_id)
        assert (of_run.faults, of_run.signature) == ((), whole.chain_signature(run_id))
        assert of_run.entries == sum(each.run_id == run_id for each in every)


def _refused(store: CheckpointStore, whole: CheckpointStore) -> None:
    """A step stated again is a duplicate, or refused: never recorded twice."""
    head = store.head()
    for each in whole.history():
        if each.stage.startswith("milepost:"):
            continue
        with suppress(RejectedCheckpointError):
            assert store.append(each).duplicate
        with suppress(RejectedCheckpointError):
            assert store.advance(each.run_id, each.stage, each.watermark, idempotency_key=each.idempotency_key).duplicate
    assert store.head() == head


def _chain_of_archives(store: CheckpointStore, whole: CheckpointStore, made: list[Path], key: bytes | None) -> None:
    every = list(whole.history())
    begun = 0
    for path in made:
        with CheckpointStore.open_readonly(path, hmac_key=key) as one:
            end = one.head().entries
            assert one.verify().ok
            assert one.base.entries == begun
            assert list(one.history()) == [*_kept(every[:begun]), *every[begun:end]]
            begun = end
        with pytest.raises(ReadOnlyStoreError, match="sealed"):
            CheckpointStore(path, hmac_key=key)


# What is archived


def test_a_time_archives_what_was_recorded_before_the_first_entry_that_is_not_below_it(
    store: CheckpointStore, path: Path
) -> None:
    """A clock that jumped back behind that entry changes nothing: the order is that of the chain."""
    times = [100, 200, 150, 300, 120, 400]
    for sequence, at_ms in enumerate(times, 1):
        store.append(entry(sequence)._replace(at_ms=at_ms))
    assert store.archive(path.with_name("a"), before=300).entries == 3
    assert [each.at_ms for each in store.history(RUN)] == [150, 300, 120, 400]
    assert store.archive(path.with_name("b"), before=130).entries == 3
    assert not path.with_name("b").exists()


@pytest.mark.parametrize("cut", [1, 40, 41, 81, 100])
def test_a_stage_keeps_its_last_entry_wherever_its_mileposts_are(store: CheckpointStore, path: Path, cut: int) -> None:
    """Its last one up to the cut may be a milepost itself; a stage of one entry keeps that."""
    entries = [entry(1, stage="once"), *chain(100)]
    store.append_many(entries)
    store.archive(path.with_name("a"), before=_head_at(store, 1 + cut))
    left = [entries[0], *entries[cut:]]
    assert [each for each in store.history() if each.run_id == RUN] == left
    assert len(store) == len(left) + 1
    assert store.verify(archives=[path.with_name("a")]).ok
    store.archive(path.with_name("b"), before=store.head())
    assert [each for each in store.history() if each.run_id == RUN] == [left[0], left[-1]]
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok


def test_without_anything_to_archive_no_file_is_made(store: CheckpointStore, path: Path) -> None:
    """An empty store, a time before the first entry, and what is archived already."""
    target = path.with_name("a")
    assert store.archive(target, before=2**60) == EMPTY
    store.append_many(chain(10))
    assert store.archive(target, before=1) == EMPTY
    assert store.archive(target, before=EMPTY) == EMPTY
    assert not target.exists()
    head = store.head()
    store.archive(target, before=head)
    assert (
        store.archive(path.with_name("b"), before=head) == store.archive(path.with_name("b"), before=_first(target)) == head
    )
    assert not path.with_name("b").exists()


def _first(target: Path) -> Head:
    with CheckpointStore.open_readonly(target) as archived:
        return _head_at(archived, 1)


@pytest.mark.parametrize("wrong", [Head(5, "ab" * 32), Head(11, "ab" * 32), "no time", 1.5, None, True])
def test_what_is_no_time_and_no_head_of_the_chain_is_refused(store: CheckpointStore, path: Path, wrong: Any) -> None:
    """With a sentence about the argument, and nothing is done."""
    store.append_many(chain(10))
    with pytest.raises(InvalidArgumentError, match="before"):
        store.archive(path.with_name("a"), before=wrong)
    assert (len(store), path.with_name("a").exists()) == (10, False)


def test_a_wrong_head_is_refused_wherever_the_file_can_tell(store: CheckpointStore, path: Path) -> None:
    """At the base, and at an entry that stayed; of any other place before the base only an archive knows."""
    store.append_many(chain(10, run_id="first"))
    store.append_many(chain(10))
    target = path.with_name("a")
    base = store.archive(target, before=store.head())
    for position in (10, 20):
        with pytest.raises(InvalidArgumentError, match="no head of this chain"):
            store.archive(path.with_name("b"), before=Head(position, "ab" * 32))
        with CheckpointStore.open_readonly(target) as archived:
            assert store.archive(path.with_name("b"), before=_head_at(archived, position)) == base
    assert store.archive(path.with_name("b"), before=Head(5, "ab" * 32)) == base
    assert not path.with_name("b").exists()


def test_an_archive_is_an_entry_of_the_chain_that_says_what_was_cut(path: Path) -> None:
    """Its place, the signature there, and what stays: later versions and other programs read it."""
    with CheckpointStore(path, clock=lambda: 77) as store:
        heads = []
        for number in (1, 2):
            store.append_many(chain(5, run_id=f"run-{number}"))
            heads.append(store.head())
            store.archive(path.with_name(f"{number}"), before=heads[-1])
        found = list(store.receipts("milepost", "milepost:archive"))
        assert [each for _, each, _ in found] == [
            Checkpoint("milepost", "milepost:archive", 1, Watermark(5, 0), "archive-5", 77),
            Checkpoint("milepost", "milepost:archive", 2, Watermark(11, 0), "archive-11", 77),
        ]
        said = [json.loads(detail or "") for _, _, detail in found]
    assert [each["archive_signature"] for each in said] == [head.signature for head in heads]
    assert [each["kept"] for each in said] == [1, 3]


def test_details_cursors_and_attempts_span_the_cut(store: CheckpointStore, path: Path) -> None:
    """A run that is open at the cut ends behind it, its stage goes on, and its cursor is still there."""
    with store.run("nightly") as run:
        for page in range(1, 60):
            run.advance("load", Watermark(page, page), idempotency_key=f"page-{page}", cursor={"token": page})
        store.archive(path.with_name("a"), before=store.head())
        assert store.cursor("load", run_id="nightly") == {"token": 59}
        run.advance("load", Watermark(60, 60), idempotency_key="page-60", cursor={"token": 60})
    (nightly,) = store.runs()
    assert (nightly.state, nightly.attempts, nightly.killed, nightly.entries) == ("finished", 1, 0, 60)
    assert nightly.began_at_ms is not None
    assert store.verify().ok
    assert store.verify(archives=[path.with_name("a")]).ok
    with CheckpointStore.open_readonly(path.with_name("a")) as archived:
        assert archived.cursor("load") == {"token": 59}
        assert archived.verify().ok


def test_a_bag_stays_whole_until_its_run_has_finished(store: CheckpointStore, path: Path) -> None:
    """Then `once` can no longer tell what is done, and says so; before that it does what is left."""
    items = [f"item-{number}" for number in range(100)]
    with pytest.raises(RuntimeError), store.run("bag") as run:
        for place, _ in enumerate(run.once(items, stage="mail", key=str, every=7)):
            if place == 60:
                raise RuntimeError
    store.archive(path.with_name("a"), before=store.head())
    done = [each.idempotency_key for each in store.history("bag", "mail")]
    assert sorted(done) == sorted(items[: len(done)])
    with store.run("bag") as run:
        left = list(run.once(items, stage="mail", key=str))
    assert sorted(done + left) == sorted(items)
    assert store.verify().ok
    store.archive(path.with_name("b"), before=store.head())
    assert len(list(store.history("bag", "mail"))) == 1
    with pytest.raises(ArchivedStageError, match="mail"):
        list(store.once(items, run_id="bag", stage="mail", key=str))
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok


@pytest.mark.parametrize("branches", [1, 2])
def test_a_bag_that_begins_with_a_branch_stays_whole_until_its_run_has_finished(
    store: CheckpointStore, path: Path, branches: int
) -> None:
    """Also a branch of a branch, however the archive is cut; then it goes like any other bag."""
    runs = ["old", "new", "newer"][: branches + 1]
    list(store.once("abc", run_id="old", stage="mail", key=str))
    for run_id, branch in pairwise(runs):
        store.branch(run_id, branch)
    with suppress(RuntimeError), store.run(runs[-1]) as run:
        for item in run.once("abcdef", stage="mail", key=str, every=1):
            if item == "e":
                raise RuntimeError
    done = list(store.history(runs[-1], "mail"))
    assert [each.idempotency_key for each in done] == ["c", "a", "b", "d"]
    store.archive(path.with_name("a"), before=store.head())
    assert list(store.history(runs[-1], "mail")) == done
    with store.run(runs[-1]) as run:
        assert list(run.once("abcdef", stage="mail", key=str)) == ["e", "f"]
    store.archive(path.with_name("b"), before=store.head())
    assert len(list(store.history(runs[-1], "mail"))) == 1
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok


@pytest.mark.parametrize(
    "detail", ["'no JSON'", "CAST(x'ff' AS TEXT)", "7", "'[\"bag\"]'", "'{\"bag\":1}'", '\'{"bag":"true"}\'']
)
def test_a_first_entry_whose_detail_was_changed_begins_no_bag(store: CheckpointStore, path: Path, detail: str) -> None:
    """It may be anything, and nothing fails over it: only verify() tells."""
    list(store.once("abc", run_id="old", stage="mail", key=str))
    tamper(path, f"UPDATE entry SET detail = {detail} WHERE position = 1")
    assert store._database.read(rows.whole_bags, 3) == set()
    assert not store._database.read(rows.is_bag, "old", "mail")
    tamper(path, "UPDATE entry SET detail = '{\"bag\":true}' WHERE position = 1")
    assert len(store._database.read(rows.whole_bags, 3)) == 1
    assert store._database.read(rows.is_bag, "old", "mail")


def _left_by_an_open_bag(store: CheckpointStore, path: Path, items: int) -> None:
    """Archive a bag whose run then finishes without another item, and go on."""
    with store.run("bag") as run:
        list(run.once(range(items), stage="mail", key=str))
        store.archive(path.with_name("a"), before=store.head())
        assert len(list(store.history("bag", "mail"))) == items
    store.append_many(chain(20))


def test_a_bag_that_an_archive_left_goes_with_the_first_one_after_its_run_has_finished(
    store: CheckpointStore, path: Path
) -> None:
    """Also if no item of it was done since, so that nothing of its stage is moved."""
    _left_by_an_open_bag(store, path, 100)
    store.archive(path.with_name("b"), before=store.head())
    assert [each.idempotency_key for each in store.history("bag", "mail")] == ["99"]
    assert store.stages()[0].entries == 100
    assert store.verify().faults == ()
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).elsewhere == 0


def test_of_two_bags_that_took_turns_the_one_whose_run_goes_on_stays_whole(store: CheckpointStore, path: Path) -> None:
    """Every second entry that an archive left goes, and none between them."""
    with store.run("slow"):
        with store.run("quick"):
            for item, run_id in product(map(str, range(50)), ("quick", "slow")):
                list(store.once([item], run_id=run_id, stage="mail", key=str))
            store.archive(path.with_name("a"), before=store.head())
        store.archive(path.with_name("b"), before=store.head())
        left = {run_id: [each.idempotency_key for each in store.history(run_id, "mail")] for run_id in ("quick", "slow")}
        assert left == {"quick": ["49"], "slow": list(map(str, range(50)))}
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok


def _with_equal_watermarks(store: CheckpointStore, path: Path, items: int) -> None:
    """Archive a stage whose watermark stands still, and go on: in that stage too, after the first entries of another."""
    store.append_many(entry(sequence, offset=7, event_time_ms=7) for sequence in range(1, items + 1))
    store.archive(path.with_name("a"), before=store.head())
    assert len(list(store.history(RUN))) == items
    store.append_many(entry(sequence, stage="other") for sequence in range(1, 20))
    store.append(entry(items + 1, offset=8, event_time_ms=8))


@pytest.mark.parametrize("left", [_left_by_an_open_bag, _with_equal_watermarks])
def test_what_an_archive_left_goes_in_commits_of_bounded_size_and_readers_are_told(
    store: CheckpointStore, path: Path, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entries an open bag, or one watermark, has kept in the file; other writers would wait for one DELETE."""
    monkeypatch.setattr(archive, "_STEP", 50)
    left(store, path, 500)
    head, do, walks, gone = store.head(), store._writer.do, [], []

    def counted(work: Any, within: Any = None) -> Any:
        before, base, walk = len(store), store.base, store.history()
        next(walk)
        found = do(work, within)
        if store.base != base:
            gone.append(before - len(store))
            walks.append(walk)
        else:
            assert len(store) >= before  # or a reader could not tell
        assert store.verify().ok
        assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok
        assert {run.entries for run in store.runs()} == entries
        return found

    entries = {run.entries for run in store.runs()}
    monkeypatch.setattr(store._writer, "do", counted)
    assert store.archive(path.with_name("b"), before=head) == head
    assert (sum(gone) > 500, max(gone) < 105) == (True, True)
    for walk in walks[:5]:  # while there is more than a page of what was left
        with pytest.raises(EntriesArchivedError):
            list(walk)
    assert store.verify().faults == ()


@pytest.mark.parametrize("left", [_left_by_an_open_bag, _with_equal_watermarks])
@pytest.mark.parametrize("at", [2, 3, 5, 8, *(pytest.param(at, marks=pytest.mark.long) for at in (4, 6, 7))])
def test_what_an_archive_left_goes_whoever_moves_the_base(
    store: CheckpointStore, path: Path, left: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process does some of the steps and is killed; this one goes on from there."""
    monkeypatch.setattr(archive, "_STEP", 20)
    left(store, path, 100)
    head, do, steps = store.head(), store._writer.do, count(1)

    def overtaken(work: Any, within: Any = None) -> Any:
        if next(steps) == at:
            with CheckpointStore(path) as other, monkeypatch.context() as patched, suppress(KeyboardInterrupt):
                of_other, most = other._writer.do, count(1)

                def killed(work: Any, within: Any = None) -> Any:
                    if next(most) == 3:
                        raise KeyboardInterrupt
                    return of_other(work, within)

                patched.setattr(other._writer, "do", killed)
                other.archive(path.with_name("b"), before=head)
        return do(work, within)

    monkeypatch.setattr(store._writer, "do", overtaken)
    assert store.archive(path.with_name("b"), before=head) == head
    assert len(list(store.history(after=0))) == len(store)
    assert store.verify().faults == ()
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).elsewhere == 0


def test_what_was_left_of_a_stage_goes_whole_though_the_stage_goes_on_early(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last entry up to the base goes with the others, in a step of many."""
    monkeypatch.setattr(archive, "_STEP", 20)
    _with_equal_watermarks(store, path, 100)
    store.append_many(entry(sequence, stage="other") for sequence in range(20, 200))
    store.archive(path.with_name("b"), before=store.head())
    assert len(list(store.history(RUN, "load"))) == 1
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).faults == ()


def test_a_bag_that_stays_whole_is_read_in_constant_memory(store: CheckpointStore, path: Path) -> None:
    """By the archive that leaves it, and by a verification; it may have millions of items."""
    peaks = []
    list(store.once(range(1500), run_id="r", stage="mail", key=lambda n: f"{n:01000}", every=500))  # 1.5 MB of keys
    tracemalloc.start()
    try:
        for act in (lambda: store.archive(path.with_name("a"), before=store.head()), store.verify):
            tracemalloc.reset_peak()
            act()
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert len(list(store.history("r"))) == 1500
    assert max(peaks) < 1_000_000


def test_what_stays_of_a_bag_follows_the_run_as_it_is_when_the_archive_is_recorded(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finishes while what stays is computed; a file that says otherwise would not verify."""
    compute, computed = archive._what_stays, 0
    with ExitStack() as running:
        run = running.enter_context(store.run("bag"))
        assert len(list(run.once(range(50), stage="mail", key=str))) == 50

        def finished_meanwhile(connection: Any, *given: Any) -> Any:
            nonlocal computed
            computed += 1
            assert isinstance(connection, apsw.Connection)  # one of its own: nobody waits for it
            found = compute(connection, *given)
            running.close()
            return found

        monkeypatch.setattr(archive, "_what_stays", finished_meanwhile)
        store.archive(path.with_name("a"), before=store.head())
    assert computed == 2
    assert len(list(store.history("bag", "mail"))) == 1
    assert store.verify().ok
    assert store.verify(archives=[path.with_name("a")]).ok


@pytest.mark.parametrize("items", [["a", "b"], ["a", "b", "c"]])
def test_a_bag_of_a_finished_run_is_not_worked_on_again_from_what_stayed_of_it(
    store: CheckpointStore, path: Path, items: list[str]
) -> None:
    """However few of its items are in the archive alone, even one."""
    with store.run("bag") as run:
        assert list(run.once(items, stage="mail", key=str)) == items
    store.archive(path.with_name("a"), before=store.head())
    assert [each.idempotency_key for each in store.history("bag", "mail")] == items[-1:]
    with pytest.raises(ArchivedStageError, match="mail"):
        list(store.once(items, run_id="bag", stage="mail", key=str))


def test_a_bag_that_is_archived_while_it_is_worked_on_records_nothing_more(store: CheckpointStore, path: Path) -> None:
    """What stayed of it no longer tells what is done: the items of others would be recorded a second time."""
    with store.run("bag") as run:
        assert list(run.once(["a", "b"], stage="mail", key=str)) == ["a", "b"]
    with pytest.raises(ArchivedStageError, match="mail"):
        for item in store.once(["a", "b", "c"], run_id="bag", stage="mail", key=str):
            assert item == "c"
            store.archive(path.with_name("a"), before=store.head())
    assert [each.idempotency_key for each in store.history("bag", "mail")] == ["b"]


def test_a_bag_without_a_run_stays_whole(store: CheckpointStore, path: Path) -> None:
    """Nobody has said that it is done."""
    assert list(store.once(["a", "b"], run_id="r", stage="s", key=str)) == ["a", "b"]
    store.archive(path.with_name("a"), before=store.head())
    assert list(store.once(["a", "b", "c"], run_id="r", stage="s", key=str)) == ["c"]


def test_a_comparison_of_what_is_in_an_archive_is_refused(store: CheckpointStore, path: Path) -> None:
    """It would find what is missing here different."""
    store.append_many([*chain(10), *(each._replace(run_id="other") for each in chain(10))])
    store.archive(path.with_name("a"), before=store.head())
    with pytest.raises(ArchivedStageError):
        store.compare(RUN, "other")
    with CheckpointStore.open_readonly(path.with_name("a")) as archived:
        assert archived.compare(RUN, "other").identical


@pytest.mark.parametrize("place", ["compared_page", "stage_pairs", "get"])
def test_a_comparison_that_an_archive_overtakes_is_refused(
    store: CheckpointStore, path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it happens: it never says that runs differ, or are the same, by what is left of them."""
    other = [each._replace(run_id="other") for each in chain(3000)]
    other[-1] = other[-1]._replace(idempotency_key="another")
    store.append_many([*chain(3000), *other])
    query, calls = getattr(rows, place), count(1)

    def overtaken(connection: Any, *values: Any) -> Any:
        found = query(connection, *values)
        if next(calls) == 1:
            store.archive(path.with_name("a"), before=store.head())
        return found

    monkeypatch.setattr(rows, place, overtaken)
    with pytest.raises(ArchivedStageError):
        store.compare(RUN, "other")
    assert next(calls) > 1


def test_an_archive_between_two_looks_into_a_bag_hands_out_no_item_that_is_done(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks up the keys of a bag hears that they are in an archive."""
    with store.run("bag") as run:
        assert len(list(run.once(range(100), stage="mail", key=str))) == 100
    looks = {name: getattr(rows, name) for name in ("has_archived", "recorded_keys")}
    calls = count(1)

    def after(name: str) -> Any:
        def look(*given: Any) -> Any:
            found = looks[name](*given)
            if next(calls) == 1:
                store.archive(path.with_name("a"), before=store.head())
            return found

        return look

    for name in looks:
        monkeypatch.setattr(rows, name, after(name))
    again = []
    with pytest.raises(ArchivedStageError):
        for item in store.once(range(100), run_id="bag", stage="mail", key=str):
            again.append(item)  # noqa: PERF402 - also those before the error
    assert (store.base.entries > 100, again) == (True, [])


def test_tables_of_the_sink_stay_and_are_not_in_the_archive(store: CheckpointStore, path: Path) -> None:
    """The archive has milepost's own tables only."""
    with store.transaction() as connection:
        connection.execute("CREATE TABLE sink (record INTEGER)")
        connection.execute("INSERT INTO sink VALUES (7)")
        store.append_many(chain(10))
    store.archive(path.with_name("a"), before=store.head())
    with store.transaction() as connection:
        assert connection.execute("SELECT record FROM sink").get == 7
    other = apsw.Connection(str(path.with_name("a")))
    assert other.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sink'").get == 0
    other.close()


def test_the_file_gets_smaller(path: Path) -> None:
    """What is left of 10,000 entries is a few pages."""
    with CheckpointStore(path) as store:
        store.append_many(chain(10_000))
    before = path.stat().st_size
    with CheckpointStore(path) as again:
        again.archive(path.with_name("a"), before=again.head())
        assert path.stat().st_size < before / 20  # at once, not only when the store is closed
    assert path.stat().st_size < before / 20


# Who else is there


def test_a_reader_that_an_archive_overtakes_raises_and_never_skips(store: CheckpointStore, path: Path) -> None:
    """Forwards and backwards; a reader that is behind the cut already goes on."""
    store.append_many(chain(1000))
    forwards, backwards, ahead = store.history(), store.history(newest_first=True), store.history(after=600)
    for walk in (forwards, backwards, ahead):
        next(walk)
    store.archive(path.with_name("a"), before=_head_at(store, 500))
    for walk in (forwards, backwards):
        with pytest.raises(EntriesArchivedError, match="begin again"):
            list(walk)
    assert [each.sequence for each in ahead] == list(range(602, 1001))
    assert len(list(store.history(RUN))) == 501


def test_inside_a_block_it_is_refused(store: CheckpointStore, path: Path) -> None:
    """It makes commits of its own."""
    store.append_many(chain(10))
    with store.transaction(), pytest.raises(StoreError, match="leave the transaction"):
        store.archive(path.with_name("a"), before=store.head())
    assert not path.with_name("a").exists()


def test_a_file_that_is_there_is_never_overwritten(store: CheckpointStore, path: Path) -> None:
    """Whatever it is; a second archive under the name of the first is refused too."""
    target = path.with_name("a")
    store.append_many(chain(10))
    target.write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        store.archive(target, before=store.head())
    assert (target.read_text(), len(store)) == ("mine", 10)
    target.unlink()
    store.archive(target, before=_head_at(store, 5))
    with pytest.raises(StoreError, match="exists already"):
        store.archive(target, before=store.head())


def test_a_broken_chain_is_not_archived(path: Path) -> None:
    """Nothing is moved, and no file is made."""
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
    _edit(path, "UPDATE entry SET offset = 5 WHERE position = 4")
    with CheckpointStore(path) as again:
        with pytest.raises(BrokenChainError):
            again.archive(path.with_name("a"), before=again.head())
        assert (len(again), path.with_name("a").exists()) == (10, False)


def test_an_archive_that_another_one_overtakes_leaves_no_file(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have copied; the second to record is refused."""
    store.append_many(chain(10))
    make = archive._make

    def overtaken(*given: Any) -> None:
        make(*given)
        monkeypatch.setattr(archive, "_make", make)
        with CheckpointStore(path) as other:
            other.archive(path.with_name("first"), before=_head_at(other, 7))

    monkeypatch.setattr(archive, "_make", overtaken)
    with pytest.raises(StoreError, match="at the same time"):
        store.archive(path.with_name("second"), before=store.head())
    assert store.base.entries == 7
    assert not path.with_name("second").exists()
    assert store.verify(archives=[path.with_name("first")]).ok


def test_an_archive_that_another_process_has_accepted_and_recorded_stays(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are asked for the same at the same time. Without the file the entries would be nowhere."""
    store.append_many(chain(10))
    head, target, make = store.head(), path.with_name("a"), archive._make

    def overtaken(*given: Any) -> None:
        make(*given)
        with CheckpointStore(path) as other:
            assert other.archive(target, before=head) == head

    monkeypatch.setattr(archive, "_make", overtaken)
    assert store.archive(target, before=head) == head
    assert store.verify(archives=[target]).elsewhere == 0
    assert [each.stage for each in store.history("milepost")] == ["milepost:archive"]


def test_an_archive_that_may_be_recorded_is_not_removed_when_a_later_one_comes_first(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process accepts it and records it, and archives more; this one is slow."""
    store.append_many(chain(10))
    head, made, make = store.head(), [path.with_name(name) for name in "abc"], archive._make

    def overtaken(*given: Any) -> None:
        make(*given)
        monkeypatch.setattr(archive, "_make", make)
        with CheckpointStore(path) as other:
            other.archive(made[0], before=head)
            for further in made[1:]:
                other.append_many([entry(other.head().entries)])
                other.archive(further, before=other.head())

    monkeypatch.setattr(archive, "_make", overtaken)
    with pytest.raises(StoreError, match="at the same time"):
        store.archive(made[0], before=head)
    assert store.verify(archives=made).elsewhere == 0


def test_two_that_move_the_base_at_the_same_time_both_end(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second finds the base behind the place that it was to be moved to."""
    store.append_many(chain(100))
    head, do, steps = store.head(), store._writer.do, count(1)
    monkeypatch.setattr(archive, "_STEP", 10)

    def overtaken(work: Any, within: Any = None) -> Any:
        if next(steps) == 4:
            with CheckpointStore(path) as other:
                other.archive(path.with_name("b"), before=head)
        return do(work, within)

    monkeypatch.setattr(store._writer, "do", overtaken)
    assert store.archive(path.with_name("a"), before=head) == head
    assert store.base == head
    assert store.verify(archives=[path.with_name("a")]).elsewhere == 0


def test_two_that_move_the_base_to_the_same_place_move_it_once(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both go on from the same base, step by step."""
    store.append_many(chain(100))
    head, do = store.head(), store._writer.do
    monkeypatch.setattr(archive, "_STEP", 30)

    def overtaken(work: Any, within: Any = None) -> Any:
        if isinstance(work, partial):  # the other one moves it, and then this one
            do(work, within)
        return do(work, within)

    monkeypatch.setattr(store._writer, "do", overtaken)
    assert store.archive(path.with_name("a"), before=head) == head == store.base
    assert store.verify(archives=[path.with_name("a")]).elsewhere == 0


@pytest.mark.timeout(60)
def test_an_archive_of_a_file_that_cannot_shrink_ends(path: Path) -> None:
    """Another tool has rebuilt the file without auto_vacuum: its unused pages stay, and are used again."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5000))
    connection = apsw.Connection(str(path))
    for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE", "VACUUM", "PRAGMA journal_mode = WAL"):
        connection.execute(statement).fetchall()
    assert connection.pragma("auto_vacuum") == 0
    connection.close()
    with CheckpointStore(path) as store:
        head = store.head()
        assert store.archive(path.with_name("a"), before=head) == head
        assert store.verify(archives=[path.with_name("a")]).ok


@pytest.mark.parametrize("cut", [100, 3000])
def test_an_archive_has_nothing_of_what_was_recorded_behind_the_cut(store: CheckpointStore, path: Path, cut: int) -> None:
    """Not its size, and not its bytes."""
    target, whole = path.with_name("a"), path.with_name("whole")
    store.append_many(entry(sequence, key=f"key-{sequence:05}") for sequence in range(1, 4001))
    store.backup(whole)
    store.archive(target, before=_head_at(store, cut))
    content = target.read_bytes()
    assert len(content) < whole.stat().st_size * cut / 4000 + 40_000
    assert b"key-00100" in content
    assert not any(f"key-{sequence:05}".encode() in content for sequence in range(cut + 1, 4001))


@pytest.mark.parametrize("step", range(1, 8))
def test_an_archive_that_was_cut_short_is_finished_by_the_next_call(
    store: CheckpointStore, path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state in between verifies, alone and with the archive."""
    store.append_many(chain(100))
    head = store.head()
    monkeypatch.setattr(archive, "_STEP", 30)
    left = step

    def interrupted(work: Any, within: Any = None) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return do(work, within)

    do = store._writer.do
    monkeypatch.setattr(store._writer, "do", interrupted)
    target = path.with_name("a")
    with suppress(KeyboardInterrupt):
        store.archive(target, before=head)
    monkeypatch.setattr(store._writer, "do", do)
    assert target.exists()
    assert store.verify().ok
    assert store.base.entries == min(25 * max(0, step - 2), 100)  # four equal steps of at most 30
    if step > 1:
        assert store.verify(archives=[target]).ok
    assert store.latest_for_stage("load") == entry(100)
    store.append(entry(101))
    assert store.archive(target, before=head) == head == store.base
    assert store.verify(archives=[target]).elsewhere == 0


def test_an_archive_that_was_changed_before_it_is_recorded_is_not_accepted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed there, and somebody edits the file: its base, its end and its seal are as they were."""
    target = path.with_name("a")
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
        head = store.head()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(archive, "_record", _killed)
            store.archive(target, before=head)
        seal = target.read_bytes()[18:20]
        _unsealed(target)
        _edit(target, "UPDATE entry SET offset = 5 WHERE position = 4")
        content = target.read_bytes()
        target.write_bytes(content[:18] + seal + content[20:])
        with pytest.raises(BrokenChainError):
            store.archive(target, before=head)
        assert (len(store), store.base) == (10, EMPTY)


def _killed(*given: Any) -> Any:
    raise KeyboardInterrupt


def test_an_entry_that_records_the_archive_of_another_chain_moves_nothing(path: Path) -> None:
    """Somebody has appended what another file said: what it would move is in no archive."""
    with CheckpointStore(path.with_name("other")) as other:
        other.append_many(chain(10))
        other.archive(path.with_name("a"), before=other.head())
        (said,) = other.receipts("milepost")
    with CheckpointStore(path) as store:
        store.append_many(chain(20, run_id="mine"))
        store._writer.restore([said[1]], [said[2]], {})
        with pytest.raises(StoreError, match="another chain"):
            store.archive(path.with_name("b"), before=store.head())
        assert (len(store), store.base, path.with_name("b").exists()) == (21, EMPTY, False)
        assert {fault.kind for fault in store.verify().faults} == {"archive"}


# What verification finds


def _edit(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    for name in [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()]:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    assert connection.changes() >= 1
    connection.close()


@pytest.fixture(scope="module")
def archived_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a closed store with two archives is, which no test changes."""
    path = tmp_path_factory.mktemp("archived") / "orders.milepost"
    entries = [
        Checkpoint(f"r{part}", stage, i, Watermark(i // 3, 0), f"{stage}-{i}", 1000 * part + i)
        for part in range(4)
        for i in range(1, 100)
        for stage in ("a", "b")
    ]
    made = [path.with_name("first"), path.with_name("second")]
    with CheckpointStore(path) as store:
        store.append_many(entries[:500])
        store.archive(made[0], before=_head_at(store, 250))
        store.append_many(entries[500:])
        store.archive(made[1], before=_head_at(store, 600))
    return path.parent


@pytest.fixture
def archived(archived_once: Path, path: Path) -> tuple[Path, list[Path]]:
    """A closed store with two archives, and their paths."""
    shutil.copytree(archived_once, path.parent, dirs_exist_ok=True)
    return path, [path.with_name("first"), path.with_name("second")]


@pytest.mark.parametrize(
    "forged",
    [
        "offset = 31",
        "at_ms = 1",
        "idempotency_key = 'b-98x'",
        "signature = zeroblob(32)",
        "run_signature = zeroblob(32)",
        "sequence = 100",
        "detail = '{}'",
        "event_time_ms = 1",
        "entries_so_far = 5",
    ],
)
def test_a_forged_row_that_stayed_is_found_and_the_archives_show_where(
    archived: tuple[Path, list[Path]], forged: str
) -> None:
    """Without the archives the digest in the archive's entry shows that one is."""
    path, made = archived
    _edit(path, f"UPDATE entry SET {forged} WHERE position = 197")
    with CheckpointStore.open_readonly(path) as store:
        assert not store.verify().ok
        found = store.verify(archives=made)
        assert not found.ok
        assert 197 in {fault.position for fault in found.faults}


def test_a_row_that_stayed_and_that_its_archive_lacks_is_told_at_its_place(archived: tuple[Path, list[Path]]) -> None:
    """Both were changed: the entry is gone from the one, and not as it was in the other."""
    path, made = archived
    _edit(path, "UPDATE entry SET at_ms = 1 WHERE position = 197")
    _unsealed(made[0])
    _edit(made[0], "DELETE FROM entry WHERE position = 197")
    with CheckpointStore.open_readonly(path) as store:
        found = store.verify(archives=made)
    (lost,) = [fault for fault in found.faults if (fault.position, fault.file) == (197, None)]
    assert (lost.kind, lost.expected) == ("archive", "none")


@pytest.mark.parametrize("removed", ["= (SELECT min(position) FROM entry)", "< 600 AND run_number = 1"])
def test_a_removed_row_that_stayed_is_found(archived: tuple[Path, list[Path]], removed: str) -> None:
    """Alone, and with the archives, which show where."""
    path, made = archived
    with CheckpointStore.open_readonly(path) as store:
        before = {receipt.position for receipt, _, _ in store.receipts()}
    _edit(path, f"DELETE FROM entry WHERE position {removed}")
    with CheckpointStore.open_readonly(path) as store:
        gone = before - {receipt.position for receipt, _, _ in store.receipts()}
        assert not store.verify().ok
        for files in (made, made[1:]):
            assert {fault.position for fault in store.verify(archives=files).faults if fault.position} == gone
        assert not store.verify(archives=made[:1]).ok


@pytest.mark.parametrize(("place", "copied"), [(5, 197), (300, 197), (598, 600)])
def test_a_row_put_among_what_stayed_is_found(archived: tuple[Path, list[Path]], place: int, copied: int) -> None:
    """Before the first one that stayed of its stage, too, where an archive that is under way may leave some."""
    path, made = archived
    columns = (
        "run_number, stage_number, sequence - 1, offset, event_time_ms, 'put', at_ms, signature, run_signature, 1, NULL"
    )
    _edit(path, f"INSERT INTO entry SELECT {place}, {columns} FROM entry WHERE position = {copied}")
    with CheckpointStore.open_readonly(path) as store:
        (fault,) = [fault for fault in store.verify().faults if fault.kind == "archive"]
        assert (fault.expected[:10], fault.found[:10]) == ("10 entries", "11 entries")
        assert place in {fault.position for fault in store.verify(archives=made).faults}


def test_an_entry_that_says_two_cuts_of_its_archive_is_a_fault(archived: tuple[Path, list[Path]]) -> None:
    """One by its watermark, and one in its detail."""
    path, _ = archived
    with CheckpointStore.open_readonly(path) as store:
        last = store.head().entries
    _edit(path, f"UPDATE entry SET detail = json_set(detail, '$.archive_position', 601) WHERE position = {last}")
    with CheckpointStore.open_readonly(path) as store:
        (fault,) = [fault for fault in store.verify().faults if fault.kind == "archive"]
    assert (fault.position, fault.expected, fault.found) == (last, "an archive up to 600", "one up to 601")


def test_changed_cursors_in_an_archive_are_found_beside_one_that_had_been_dropped(
    store: CheckpointStore, path: Path
) -> None:
    """Of a stage that had gone on before the archive was made; the others are all there."""
    for stage, number in (("a", 1), ("b", 1), ("c", 1), ("b", 2), ("b", 3)):
        store.advance(RUN, stage, Watermark(number, 0), idempotency_key=f"{stage}:{number}", cursor=[number])
    made = path.with_name("made")
    store.archive(made, before=_head_at(store, 3))
    with CheckpointStore.open_readonly(made) as sound:
        assert sound.verify().ok
    seal = made.read_bytes()[18:20]
    _unsealed(made)
    _edit(made, "UPDATE stage_cursor SET cursor = '[2]' WHERE position IN (1, 3)")
    with made.open("r+b") as file:
        file.seek(18)
        file.write(seal)
    with CheckpointStore.open_readonly(made) as changed:
        assert {(fault.kind, fault.position) for fault in changed.verify().faults} == {("cursor", 1), ("cursor", 3)}


def test_that_nothing_is_left_of_what_stayed_is_told(path: Path) -> None:
    """And how much there was."""
    with CheckpointStore(path) as store:
        store.append_many(chain(20))
        store.archive(path.with_name("a"), before=_head_at(store, 10))
    _edit(path, "DELETE FROM entry WHERE position <= 10")
    with CheckpointStore.open_readonly(path) as store:
        (fault,) = [fault for fault in store.verify().faults if fault.kind == "archive"]
    assert fault.expected.startswith("1 entries with the digest ")
    assert fault.found == f"0 entries with the digest {EMPTY.signature}"


def test_all_pages_that_an_archive_frees_are_given_back_however_many() -> None:
    """In steps of so many, until none is left."""
    connection = apsw.Connection(":memory:")
    connection.pragma("auto_vacuum", "incremental")
    connection.execute("CREATE TABLE entry (x); INSERT INTO entry VALUES (zeroblob(?))", (2500 * 4096,))
    connection.execute("DELETE FROM entry")
    assert rows.can_give_back(connection)
    left = connection.pragma("freelist_count")
    assert [rows.give_back(connection) for _ in range(3)] == [left - 1000, left - 2000, 0]
    assert not rows.can_give_back(connection)


def test_a_beginning_that_was_cut_off_does_not_pass_for_an_archive(archived: tuple[Path, list[Path]]) -> None:
    """The base moves with rows that are deleted, but the archive's entry says where it was."""
    path, _ = archived
    _edit(path, "DELETE FROM entry WHERE position <= 650")
    _edit(
        path,
        "INSERT INTO chain_base SELECT min(position) - 1, zeroblob(32) FROM entry",
    )
    with CheckpointStore.open_readonly(path) as store:
        found = store.verify()
    assert "missing" in {fault.kind for fault in found.faults}


def test_a_base_without_any_archive_hides_the_beginning(path: Path) -> None:
    """It may come from the record of an archive alone."""
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
    _edit(path, "INSERT INTO chain_base SELECT position, signature FROM entry WHERE position = 5")
    with CheckpointStore.open_readonly(path) as again:
        assert [fault.kind for fault in again.verify().faults] == ["missing"]


def test_another_base_beside_the_one_that_an_archive_left_is_found(archived: tuple[Path, list[Path]]) -> None:
    """Lookups pass it over today."""
    path, made = archived
    _edit(path, "INSERT INTO chain_base VALUES (100, zeroblob(32))")
    with CheckpointStore.open_readonly(path) as store:
        for files in ([], made):
            assert [(fault.kind, fault.position) for fault in store.verify(archives=files).faults] == [("unreadable", 100)]


def test_a_forged_signature_of_the_base_is_told_at_the_base(archived: tuple[Path, list[Path]]) -> None:
    """The archive's entry says what stood there, so it is the base that is wrong, whatever the row behind it says."""
    path, made = archived
    _edit(path, "UPDATE chain_base SET signature = zeroblob(32)")
    with CheckpointStore.open_readonly(path) as store:
        for given_files in ([], made):
            found = [(fault.kind, fault.position) for fault in store.verify(archives=given_files).faults]
            assert ("archive", 600) in found
        (of_base, *_) = [fault for fault in store.verify(run_id="r3").faults if fault.kind == "archive"]
        assert (of_base.position, of_base.found) == (600, "0" * 64)


def test_a_changed_entry_of_any_archive_is_located(archived: tuple[Path, list[Path]]) -> None:
    """With the file that it is in."""
    path, made = archived
    for place, position in ((0, 10), (1, 333)):
        original = made[place].read_bytes()
        _unsealed(made[place])
        _edit(made[place], f"UPDATE entry SET at_ms = at_ms + 1 WHERE position = {position}")
        with CheckpointStore.open_readonly(path) as store:
            found = store.verify(archives=made)
            assert [(fault.kind, fault.position, fault.file) for fault in found.faults][:1] == [
                ("link", position, str(made[place]))
            ]
            assert store.verify().ok
        made[place].write_bytes(original)


def _unsealed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[18:20] = b"\1\1"
    path.write_bytes(content)


def test_archives_that_are_not_there_are_elsewhere_and_no_fault(archived: tuple[Path, list[Path]]) -> None:
    """None, one and both of them."""
    path, made = archived
    with CheckpointStore.open_readonly(path) as store:
        every = store.head().entries
        for given_files, elsewhere in (([], 600), (made[:1], 350), (made[1:], 250), (made, 0), (made[::-1] * 2, 0)):
            found = store.verify(archives=given_files)
            assert (found.ok, found.elsewhere, found.entries) == (True, elsewhere, every)


def test_an_archive_whose_beginning_or_end_nobody_tells_is_a_fault(store: CheckpointStore, path: Path) -> None:
    """The entry that recorded the first one is in a later archive, which is not given; a neighbour tells as well."""
    store.append_many(chain(20))
    files = [path.with_name(name) for name in "abc"]
    for file, cut in zip(files, (10, 11, 22), strict=True):
        store.archive(file, before=_head_at(store, cut))
    for file, what in zip(files, ("ends", "begins"), strict=False):
        (fault,) = store.verify(archives=[file]).faults
        assert (fault.kind, fault.position, fault.file) == ("archive", 10, str(file))
        assert f"no file tells whether the chain has the place where this one {what}" in fault.explanation
    for given_files in (files[:2], files[1:], files):
        assert store.verify(archives=given_files).ok


def test_two_entries_of_archives_with_one_cut_are_faults_and_raise_nothing(store: CheckpointStore, path: Path) -> None:
    """One of them was changed, and with it what stayed."""
    store.append_many(chain(20))
    files = [path.with_name(name) for name in "ab"]
    for file, cut in zip(files, (10, 21), strict=True):
        store.archive(file, before=_head_at(store, cut))
    copy = path.with_name("copy")
    store.backup(copy)
    _edit(copy, "UPDATE entry SET offset = 21 WHERE position = 21")
    with CheckpointStore.open_readonly(copy) as changed:
        assert {fault.position for fault in changed.verify(archives=files).faults if fault.kind == "archive"} == {21}


def test_an_archive_of_another_chain_is_a_fault(archived: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """And so is a file that is none."""
    path, made = archived
    with CheckpointStore(tmp_path / "other") as other:
        other.append_many(chain(250))
        other.archive(tmp_path / "foreign", before=other.head())
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with CheckpointStore.open_readonly(path) as store:
        for wrong in (tmp_path / "foreign", tmp_path / "junk", tmp_path / "missing"):
            found = store.verify(archives=[made[1], wrong])
            assert str(wrong) in {fault.file for fault in found.faults}


def test_a_missing_archive_is_not_to_be_made(archived: tuple[Path, list[Path]]) -> None:
    """A path with a typo, which no empty store would mend."""
    path, made = archived
    missing = made[0].with_name("typo")
    with CheckpointStore.open_readonly(path) as store:
        found = store.verify(archives=[missing, made[1]])
    (told,) = {fault.explanation for fault in found.faults if fault.file == str(missing)}
    assert told == "the archive cannot be read: no such file: check the path"


def test_what_stayed_and_cannot_be_read_is_told_once_for_each_file(
    archived: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails, or a page was overwritten; the rest is still compared."""
    path, made = archived
    with CheckpointStore.open_readonly(made[1]) as second:
        receipt, _, _ = next(second.receipts())

    def failing(*_: object) -> Any:
        raise apsw.IOError("the disk is gone")

    with CheckpointStore.open_readonly(path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(across, "digest_of_kept", failing)
            found = store.verify(archives=made)
        assert [(fault.kind, fault.file) for fault in found.faults] == [("file", str(made[1])), ("file", None)]
        beginnings = [fault.explanation.split(":")[0] for fault in found.faults]
        assert beginnings == ["the archive cannot be read", "the store cannot be read"]
        content = bytearray(made[1].read_bytes())
        page = content.index(bytes.fromhex(receipt.signature)) // 2048 * 2048
        content[page : page + 2048] = b"\xff" * 2048
        made[1].write_bytes(content)
        found = store.verify(archives=made)
        assert str(made[1]) in {fault.file for fault in found.faults if fault.kind == "file"}
        assert len({fault.explanation for fault in found.faults}) == len(found.faults)
        assert not any(fault.explanation.startswith("the archive cannot be read") for fault in found.faults)


def test_a_head_from_long_ago_is_contained_with_the_archives(archived: tuple[Path, list[Path]]) -> None:
    """Without them nobody can tell, and that is a fault of what was asked for."""
    path, made = archived
    with CheckpointStore.open_readonly(made[0]) as first:
        old = _head_at(first, 77)
    with CheckpointStore.open_readonly(path) as store:
        assert store.verify(archives=made, expected=old).ok
        assert not store.verify(archives=made, expected=Head(77, "ab" * 32)).ok
        for others in ([], made[1:]):
            (fault,) = store.verify(archives=others, expected=old).faults
            assert "the chain has its first 600 entries in archives" in fault.explanation


def test_a_head_of_a_run_counts_its_entries_that_are_in_archives(store: CheckpointStore, path: Path) -> None:
    """Of a run that begins behind the base too; one that is in an archive nobody can tell."""
    heads: dict[str, list[Head]] = {run_id: [EMPTY] for run_id in ("before", "across", "behind")}

    def record(run_id: str, sequences: range) -> None:
        for sequence in sequences:
            store.append(entry(sequence, run_id=run_id))
            heads[run_id].append(Head(len(heads[run_id]), store.chain_signature(run_id)))

    record("before", range(1, 6))
    record("across", range(1, 8))
    store.archive(path.with_name("a"), before=store.head())
    record("across", range(8, 10))
    record("behind", range(1, 4))
    for run_id, found in heads.items():
        archived = {"before": 5, "across": 7, "behind": 0}[run_id]
        verified = store.verify(run_id=run_id)
        assert (verified.ok, verified.entries, verified.elsewhere) == (True, len(found) - 1, archived)
        for head in found:
            told = store.verify(run_id=run_id, expected=head)
            assert told.ok == (head.entries >= archived or head == EMPTY)
            assert not told.faults or f"its first {archived} entries in archives" in told.faults[0].explanation
            if head != EMPTY:
                wrong = store.verify(run_id=run_id, expected=Head(head.entries, "ab" * 32))
                assert [fault.kind for fault in wrong.faults] == ["head"]


def test_the_head_of_the_empty_chain_is_contained_in_every_chain(archived: tuple[Path, list[Path]]) -> None:
    """Who has kept it from before the first entry is not asked for the archives."""
    path, made = archived
    with CheckpointStore.open_readonly(path) as store:
        for given in ({}, {"run_id": "r0"}, {"run_id": "r3"}, {"archives": made}, {"archives": made[1:]}):
            assert store.verify(expected=EMPTY, **given).faults == ()
        assert store.verify(trusted=EMPTY).faults == ()


def test_a_trusted_head_that_is_not_the_base_is_the_only_fault(path: Path, tmp_path: Path) -> None:
    """The entries behind the base follow from what the file says of it, so no row of theirs is blamed."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(20))
        base = store.archive(tmp_path / "archive.milepost", before=_head_at(store, 15))
        assert store.verify(trusted=base).ok
        assert [fault.kind for fault in store.verify(trusted=Head(base.entries, "ab" * 32)).faults] == ["head"]


def test_while_the_base_is_being_moved_older_archives_are_no_fault(
    archived: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill leaves the base where no archive ends; the one that was under way may be given or not."""
    path, made = archived
    monkeypatch.setattr(archive, "_STEP", 20)
    with CheckpointStore(path) as store:
        do, steps = store._writer.do, count(1)

        def killed(work: Any, within: Any = None) -> Any:
            if next(steps) == 4:
                raise KeyboardInterrupt
            return do(work, within)

        monkeypatch.setattr(store._writer, "do", killed)
        with pytest.raises(KeyboardInterrupt):
            store.archive(path.with_name("third"), before=_head_at(store, 700))
    third = path.with_name("third")
    with CheckpointStore.open_readonly(path) as again:
        assert again.base.entries == 640
        for given_files, elsewhere in (([], 640), (made, 40), (made[1:], 290), ([third], 600), ([*made, third], 0)):
            found = again.verify(archives=given_files)
            assert (found.faults, found.elsewhere) == ((), elsewhere)


@pytest.mark.parametrize("forged", ["at_ms = 1", "entries_so_far = 5"])
def test_a_row_forged_while_the_base_is_being_moved_is_found(
    archived: tuple[Path, list[Path]], forged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the archives."""
    path, made = archived
    monkeypatch.setattr(archive, "_STEP", 20)
    with CheckpointStore(path) as store, monkeypatch.context() as patched:
        do, steps = store._writer.do, count(1)

        def killed(work: Any, within: Any = None) -> Any:
            if next(steps) == 4:
                raise KeyboardInterrupt
            return do(work, within)

        patched.setattr(store._writer, "do", killed)
        with pytest.raises(KeyboardInterrupt):
            store.archive(path.with_name("third"), before=_head_at(store, 700))
    _edit(path, f"UPDATE entry SET {forged} WHERE position = 197")
    with CheckpointStore.open_readonly(path) as again:
        for given_files in ([], made, [*made, path.with_name("third")], [path.with_name("third")]):
            assert not again.verify(archives=given_files).ok


@pytest.mark.parametrize(
    ("place", "given"),
    [
        ("rows_after", {}),
        ("snapshot", {"archives": True}),
        ("signature_at", {"archives": True}),
        ("kept_before", {"archives": True}),
        ("run_rows_after", {"run_id": "r3"}),
        ("signature_at", {"workers": 2}),
    ],
)
def test_a_verification_that_an_archive_overtakes_finds_no_fault(
    archived: tuple[Path, list[Path]], place: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the chain, of a run, and across archives, wherever it happens: it begins again."""
    path, made = archived
    monkeypatch.setattr(workers, "LEAST", 20)
    with CheckpointStore(path) as store, CheckpointStore.open_readonly(path) as reader:
        query, ends = getattr(rows, place), iter(range(610, 640, 10))

        def overtaken(connection: Any, *values: Any) -> Any:
            end = next(ends, None) if connection.filename == str(path) else None
            if end is not None:
                with monkeypatch.context() as patched:
                    patched.setattr(rows, place, query)
                    store.archive(path.with_name(f"more-{end}"), before=_head_at(store, end))
            return query(connection, *values)

        monkeypatch.setattr(rows, place, overtaken)
        found = reader.verify(**({**given, "archives": made} if "archives" in given else given))
        assert (found.ok, found.faults) == (True, ())
        assert next(ends, None) is None


def test_more_archives_than_open_files_are_verified(store: CheckpointStore, path: Path) -> None:
    """A process may have few files open, and years leave many archives."""
    store.append_many(chain(30))
    made = [path.with_name(f"archive-{end}") for end in range(1, 31)]
    for end, target in enumerate(made, 1):
        store.archive(target, before=_head_at(store, end))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))  # noqa: PTH208
    try:
        assert store.verify(archives=made).faults == ()
        assert store.verify(archives=made, expected=_first(made[0])).ok
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_archive_that_is_not_next_to_any_file_is_not_called_a_foreign_one(path: Path) -> None:
    """The entry that records it is in one that is missing, so nothing shows that it belongs to the chain."""
    made = [path.with_name(f"month-{month}") for month in range(4)]
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
        for month, target in enumerate(made):
            store.archive(target, before=store.head())
            store.append_many(entry(100 * month + sequence) for sequence in range(11, 20))
        assert store.verify(archives=made).elsewhere == 0
        found = store.verify(archives=[made[0], made[3]])
    assert [fault.file for fault in found.faults] == [str(made[0])]
    assert "give the archives next to it" in found.faults[0].explanation


def test_archives_are_read_through_the_vfs_of_the_store(path: Path) -> None:
    """As they were written: one that encrypts, for instance."""
    opened: list[str] = []
    with (
        hooked(lambda call: opened.append(call.path) if call.method == "xOpen" else None) as vfs,
        CheckpointStore(path, vfs=vfs) as store,
    ):
        store.append_many(chain(10))
        store.archive(path.with_name("a"), before=store.head())
        opened.clear()
        assert store.verify(archives=[path.with_name("a")]).ok
    assert str(path.with_name("a")) in opened


@pytest.mark.parametrize(
    "forged", ["offset = 'x'", "detail = x'ff'", "sequence = NULL", "entries_so_far = 'x'", "at_ms = -1"]
)
def test_a_row_that_stayed_and_is_no_checkpoint_is_found(archived: tuple[Path, list[Path]], forged: str) -> None:
    """Never a raw error, alone and with the archives."""
    path, made = archived
    tamper(path, f"UPDATE entry SET {forged} WHERE position = 197", loose=True)
    with CheckpointStore.open_readonly(path) as store:
        assert not store.verify().ok
        assert not store.verify(archives=made).ok


def test_a_forged_count_of_a_bag_that_stays_whole_is_found(path: Path) -> None:
    """Its later mileposts stay too, and summaries rely on them."""
    with CheckpointStore(path) as store:
        list(store.once(range(100), run_id="r", stage="s", key=str))
        store.archive(path.with_name("a"), before=store.head())
        assert store.stages()[0].entries == 100
    _edit(path, "UPDATE entry SET entries_so_far = 50 WHERE position = 81")
    with CheckpointStore.open_readonly(path) as again:
        assert again.stages()[0].entries == 69
        assert not again.verify().ok
        (fault,) = again.verify(archives=[path.with_name("a")]).faults
    assert (fault.position, fault.explanation) == (81, "lookups take entry 81 of stage 's' of run 'r' for entry 50")


def test_a_run_without_an_entry_has_none_behind_an_archive_either(path: Path) -> None:
    """Somebody has put its name there: it is counted as what it has, and the whole chain is not intact."""
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
        store.archive(path.with_name("a"), before=store.head())
    _edit(path, "INSERT INTO run (run_id) VALUES ('ghost')")
    with CheckpointStore.open_readonly(path) as again:
        assert again.verify(run_id="ghost").entries == 0
        assert not again.verify().ok


@pytest.mark.parametrize("milepost", [1, 41])
def test_items_of_a_bag_that_stayed_and_that_no_lookup_finds_are_located(path: Path, milepost: int) -> None:
    """They are in the file as they were, but not in the history, behind what is no milepost any more."""
    with CheckpointStore(path) as store:
        list(store.once(range(100), run_id="r", stage="s", key=str))
        store.archive(path.with_name("a"), before=store.head())
    _edit(path, f"UPDATE entry SET entries_so_far = NULL WHERE position = {milepost}")
    hidden = list(range(milepost, milepost + INTERVAL))
    with CheckpointStore.open_readonly(path) as again:
        assert [each.sequence for each in again.history("r")] == [n for n in range(1, 101) if n not in hidden]
        assert not again.verify().ok
        assert [fault.position for fault in again.verify(archives=[path.with_name("a")]).faults] == hidden


def test_an_item_that_was_taken_out_of_a_bag_that_stayed_is_located(path: Path) -> None:
    """Though its run finished between the cut and the entry that records the archive of another bag."""
    with CheckpointStore(path) as store:
        with store.run("done") as run:
            list(run.once(range(10), stage="s", key=str))
            list(store.once(range(100), run_id="r", stage="s", key=str))
            cut = store.head()
        store.archive(path.with_name("a"), before=cut)
        (gone,) = (receipt.position for receipt, each, _ in store.receipts("r") if each.idempotency_key == "57")
    _edit(path, f"DELETE FROM entry WHERE position = {gone}")
    with CheckpointStore.open_readonly(path) as again:
        (fault,) = again.verify(archives=[path.with_name("a")]).faults
    assert (fault.position, fault.run_id, fault.stage, fault.sequence) == (gone, "r", "s", 58)
    assert "lookups no longer find it" in fault.explanation


@pytest.mark.usefixtures("warm_workers")
def test_workers_share_the_verification_of_the_copy(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first archive, and of one that begins behind it; no worker reads anything but the copy."""
    monkeypatch.setattr(workers, "LEAST", 20)
    confirm, confirmed = workers.confirm, []

    def noted(database: Any, *given: Any) -> Any:
        found = confirm(database, *given)
        confirmed.append((database.path == str(path), found is not None))
        return found

    monkeypatch.setattr(workers, "confirm", noted)
    store.append_many(chain(100))
    store.archive(path.with_name("a"), before=store.head(), workers=2)
    store.append_many(entry(number) for number in range(101, 201))
    base = store.archive(path.with_name("b"), before=store.head(), workers=3)
    assert confirmed == [(False, True), (False, True)]
    assert (base, base.entries) == (store.base, 201)
    assert store.verify(archives=[path.with_name("a"), path.with_name("b")]).ok


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_chain_is_never_archived_whoever_verifies_the_copy(
    path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """It says where it is broken; no file is made, and nothing goes."""
    monkeypatch.setattr(workers, "LEAST", 20)
    with CheckpointStore(path) as store:
        store.append_many(chain(100))
    tamper(path, "UPDATE entry SET offset = offset + 1 WHERE position = 60")
    with CheckpointStore(path) as store:
        with pytest.raises(BrokenChainError) as broken:
            store.archive(path.with_name("a"), before=store.head(), workers=processes)
        assert [fault.position for fault in broken.value.faults] == [60]
        assert (len(store), store.base) == (100, EMPTY)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# What went wrong elsewhere


def test_a_file_whose_archives_are_gone_goes_on(archived: tuple[Path, list[Path]]) -> None:
    """Opening it, appending, verifying and archiving again need none of them; what is missing is elsewhere, not broken."""
    path, made = archived
    for gone in made:
        gone.unlink()
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
        assert (store.verify().ok, store.verify().elsewhere) == (True, 600)
        third = path.with_name("third")
        assert store.archive(third, before=store.head()) == store.base
        assert store.verify().ok
        assert (store.verify(archives=[third]).ok, store.verify(archives=[third]).elsewhere) == (True, 600)


def test_a_step_of_an_archive_stated_again_is_refused_also_at_an_equal_watermark(store: CheckpointStore, path: Path) -> None:
    """Its key is gone from the file; its sequence and its watermark are behind."""
    marks = [Watermark(number // 4, 0) for number in range(40)]
    for number, mark in enumerate(marks):
        store.advance("r", "s", mark, idempotency_key=f"step-{number}")
    every = list(store.history())
    store.archive(path.with_name("a"), before=store.head())
    head = store.head()
    for number, mark in enumerate(marks):
        if mark == marks[-1]:
            assert store.append(every[number]).duplicate
            assert store.advance("r", "s", mark, idempotency_key=f"step-{number}").duplicate
            continue
        for restated in (every[number], every[number]._replace(watermark=marks[-1])):
            with pytest.raises(SequenceError):
                store.append(restated)
        with pytest.raises(WatermarkRegressionError):
            store.append(every[number]._replace(sequence=100))
        with pytest.raises(WatermarkRegressionError):
            store.advance("r", "s", mark, idempotency_key=f"step-{number}")
    assert store.head() == head


def test_no_commit_of_an_archive_deletes_more_than_its_step(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no writer waits for long, however much is archived."""
    monkeypatch.setattr(archive, "_STEP", 100)
    store.append_many(chain(1000))
    do, counts = store._writer.do, [len(store)]

    def counted(work: Any, within: Any = None) -> Any:
        try:
            return do(work, within)
        finally:
            counts.append(len(store))

    monkeypatch.setattr(store._writer, "do", counted)
    store.archive(path.with_name("a"), before=store.head())
    assert max(before - after for before, after in pairwise(counts)) == 100
    assert counts[-1] == 2


def test_a_record_that_launders_an_edit_is_found_with_the_archive_or_a_kept_head(tmp_path: Path) -> None:
    """Who can write everything anew can record an archive of it too: in a file that has no key, the file alone agrees."""
    original, forged = tmp_path / "original", tmp_path / "forged"
    for path, offset in ((original, 25_000), (forged, 26_000)):
        with CheckpointStore(path, clock=lambda: 0) as store:
            store.append_many([*chain(49), entry(50, offset=offset), *chain(10, run_id="later")])
            head = store.head()
            store.archive(path.with_name(f"archive of {path.name}"), before=_head_at(store, 50))
            if path == original:
                kept_elsewhere = head
    with CheckpointStore.open_readonly(forged) as store:
        assert store.verify().ok
        assert not store.verify(expected=kept_elsewhere).ok
        assert not store.verify(archives=[tmp_path / "archive of original"]).ok


def test_a_shrink_that_calls_itself_an_archive_shows_as_elsewhere(archived: tuple[Path, list[Path]]) -> None:
    """Somebody moves entries away and keeps them: the chain still says how many there were, and a head that they were."""
    path, made = archived
    with CheckpointStore(path) as store:
        head = _head_at(store, 700)
        store.archive(path.with_name("kept by somebody"), before=_head_at(store, 750))
    with CheckpointStore.open_readonly(path) as store:
        found = store.verify(archives=made)
        assert (found.ok, found.elsewhere, found.entries) == (True, 150, store.head().entries)
        assert not store.verify(archives=made, expected=head).ok


def test_an_archive_whose_copy_another_one_overtakes_is_told(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy would begin behind its own cut; it is no broken chain, and no file is left."""
    store.append_many(chain(100))
    first, copy = _head_at(store, 50), archive._copy

    def overtaken(*given: Any) -> None:
        monkeypatch.setattr(archive, "_copy", copy)
        with CheckpointStore(path) as other:
            other.archive(path.with_name("first"), before=other.head())
        copy(*given)

    monkeypatch.setattr(archive, "_copy", overtaken)
    with pytest.raises(StoreError, match="at the same time"):
        store.archive(path.with_name("second"), before=first)
    assert not path.with_name("second").exists()
    assert store.base.entries == 100
    assert store.verify(archives=[path.with_name("first")]).ok


def test_a_base_behind_the_last_entry_is_told_by_len_as_by_everything_else(path: Path) -> None:
    """Somebody has changed it: there is no negative number of entries."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(5))
        store.archive(path.with_name("archive"), before=store.head())
    _edit(path, "UPDATE chain_base SET position = 1000")
    with CheckpointStore.open_readonly(path) as damaged, pytest.raises(DamagedStoreError, match="1000, is behind"):
        len(damaged)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_bag_of_a_finished_run_goes_however_its_end_is_spelled(tmp_path: Path, separators: tuple[str, str]) -> None:
    """An import keeps the text of a detail, which another program may have written with white space."""
    said: list[tuple[str, int, int, str, dict[str, object]]] = [("milepost:run", 1, 1, "attempt-1:began", {"run": "began"})]
    said += [("bag", n, n, f"item-{n}", {"bag": True} if n == 1 else {}) for n in range(1, 31)]
    said += [("milepost:run", 2, 1, "attempt-1:finished", {"run": "finished"})]
    lines = [
        {
            "run_id": "r", "stage": stage, "sequence": sequence, "offset": offset, "event_time_ms": 0,
            "idempotency_key": key, "at_ms": 9, **({"detail": json.dumps(detail, separators=separators)} if detail else {}),
        }
        for stage, sequence, offset, key, detail in said
    ]  # fmt: skip
    stdin = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert run("import", "-", tmp_path / "new", stdin=stdin).exit_code == 0
    with CheckpointStore(tmp_path / "new", durability="normal") as store:
        store.archive(tmp_path / "archive", before=store.head())
        assert len(store) == 4, "the last item, the two entries of the attempt, and that of the archive"

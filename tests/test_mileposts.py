"""Only mileposts are in the indexes by run, stage and sequence: they stand where the rule says, and every row is found."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milepost import (
    Checkpoint,
    CheckpointStore,
    Head,
    SequenceError,
    Verification,
    WatermarkRegressionError,
    rows,
    workers,
)
from milepost.checkpoint import chain_signature
from milepost.signature import ChainBase
from support.chains import entry
from support.contract import check_every_entry, check_lookups, check_summaries
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERVAL: Final = 40  # as schema.sql has it
RUNS: Final = ("run-1", "run-2", "lauf-ü")
STAGES: Final = ("extract", "load", "\U0001f680")
RUN_STAGES: Final = tuple(product(RUNS, STAGES))


def stated(turns: Sequence[tuple[str, str]]) -> list[Checkpoint]:
    """A checkpoint a turn: sequences with gaps, keys that stages share, a clock that jumps."""
    last: Counter[tuple[str, str]] = Counter()
    entries = []
    for n, (run_id, stage) in enumerate(turns):
        last[run_id, stage] += 1 + n % 3
        sequence = last[run_id, stage]
        entries.append(entry(sequence, run_id=run_id, stage=stage, key=f"step-{sequence}", at_ms=n * 7919 % 1000))
    return entries


def mileposts(entries: Sequence[Checkpoint]) -> dict[int, int]:
    """How many entries the stage has in its run so far, by position of each milepost: the rule in schema.sql."""
    entries_of: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], int] = {}
    found = {}
    for position, each in enumerate(entries, 1):
        run_stage = each.run_id, each.stage
        entries_of[run_stage] += 1
        if run_stage not in last or position >= last[run_stage] + INTERVAL:
            last[run_stage] = position
            found[position] = entries_of[run_stage]
    return found


# Any interleaving: some stages of some runs take turns for a while, the others are quiet, and the way of appending changes.

WAYS: Final = ("one by one", "batch", "block", "reopened")
some_run_stages = st.lists(st.sampled_from(RUN_STAGES), min_size=1, max_size=4, unique=True)
stretches = st.lists(st.tuples(some_run_stages, st.integers(1, 2 * INTERVAL), st.sampled_from(WAYS)), min_size=1, max_size=8)
Stretches = list[tuple[list[tuple[str, str]], int, str]]
QUIET: Final[Stretches] = [  # a stage returns 39, 40 and 41 positions behind its last milepost, each time in its own way
    ([RUN_STAGES[0]], 1, "one by one"),
    ([RUN_STAGES[1]], INTERVAL - 2, "batch"),
    ([RUN_STAGES[0]], 1, "reopened"),
    ([RUN_STAGES[4]], 1, "one by one"),
    ([RUN_STAGES[0]], INTERVAL - 1, "block"),
    ([RUN_STAGES[8]], 1, "block"),
    ([RUN_STAGES[0]], 1, "one by one"),
    ([RUN_STAGES[1], RUN_STAGES[3]], 2 * INTERVAL, "batch"),
    ([RUN_STAGES[0], RUN_STAGES[8]], 2 * INTERVAL, "one by one"),
]
QUIET_RUN: Final[Stretches] = [  # a run returns 39 positions behind its last milepost
    ([RUN_STAGES[0]], 1, "one by one"),
    ([RUN_STAGES[4]], INTERVAL - 2, "batch"),
    ([RUN_STAGES[0]], 1, "one by one"),
    ([RUN_STAGES[4]], INTERVAL + 1, "batch"),
]


def turns(steps: Stretches) -> list[tuple[str, str]]:
    """Whose turn it is, checkpoint by checkpoint."""
    return [run_stages[n % len(run_stages)] for run_stages, length, _ in steps for n in range(length)]


MILEPOSTS: Final = "SELECT position, entries_so_far FROM entry WHERE entries_so_far IS NOT NULL"
RUN_STAGE_NAMES: Final = "FROM run_stage JOIN run USING (run_number) JOIN stage USING (stage_number)"
NAMED_RUN_STAGES: Final = f"SELECT run_id, stage {RUN_STAGE_NAMES}"
NUMBERED_RUN_STAGES: Final = f"SELECT run_id, stage, run_number, stage_number {RUN_STAGE_NAMES}"


class Recorded:
    """A file that was made in these steps, open to write."""

    def __init__(self, directory: str, steps: Stretches) -> None:
        self.entries = stated(turns(steps))
        self._path = Path(directory, "store")
        self.store = CheckpointStore(self._path, durability="normal")
        left = iter(self.entries)
        for _, length, way in steps:
            self._append([next(left) for _ in range(length)], way)

    def _append(self, entries: list[Checkpoint], way: str) -> None:
        if way == "batch":
            self.store.append_many(entries)
        elif way == "block":
            with self.store.transaction():
                for each in entries:
                    self.store.append(each)
        else:
            for each in entries:
                if way == "reopened":
                    self.store.close()
                    self.store = CheckpointStore(self._path, durability="normal")
                self.store.append(each)

    def ask(self, statement: str) -> list[Any]:
        """What the file itself says."""
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.mark.parametrize("examples", [7, pytest.param(20, marks=pytest.mark.long)])
def test_mileposts_stand_where_the_rule_says_and_every_row_is_found(examples: int) -> None:
    """However runs and stages take turns, and are appended: every verb equals its pure function over the list."""
    settings(max_examples=examples)(given(stretches)(example(QUIET)(_check_every_row)))()


def _check_every_row(steps: Stretches) -> None:
    with tempfile.TemporaryDirectory() as directory:
        recorded = Recorded(directory, steps)
        entries = recorded.entries
        with recorded.store as store:
            assert dict(recorded.ask(MILEPOSTS)) == mileposts(entries)
            assert set(recorded.ask(NAMED_RUN_STAGES)) == {(e.run_id, e.stage) for e in entries}
            check_lookups(store, entries, (*RUNS, "nobody"), (*STAGES, "nothing"), times=(0, 33, 500, 990))
            check_every_entry(store, entries, RUNS, STAGES)
            check_summaries(store, entries)
            assert store.verify() == Verification(True, len(entries), chain_signature(entries), ())


@pytest.mark.parametrize("steps", [QUIET, QUIET_RUN])
def test_how_far_a_stage_had_come_before_any_position_is_found(steps: Stretches) -> None:
    """A verification that begins there judges by it what comes after."""
    with tempfile.TemporaryDirectory() as directory:
        recorded = Recorded(directory, steps)
        numbers = recorded.ask(NUMBERED_RUN_STAGES)
        with recorded.store as store:
            for before, (run_id, stage, *of) in product(range(1, len(recorded.entries) + 2), numbers):
                own = [e for e in recorded.entries[: before - 1] if e.run_id == run_id]
                of_stage = [e.sequence for e in own if e.stage == stage]
                found = store._database.read(rows.progress_at, before, *of)
                posts = [
                    position
                    for position in mileposts(recorded.entries[: before - 1])
                    if recorded.entries[position - 1][:2] == (run_id, stage)
                ]
                assert found == (
                    bytes.fromhex(chain_signature(own)) if own else None,
                    of_stage[-1] if of_stage else None,
                    posts[-1] if posts else None,
                    len(of_stage) or None,
                )


@pytest.mark.parametrize("distance", [INTERVAL - 2, INTERVAL - 1, INTERVAL, INTERVAL + 1])
@pytest.mark.parametrize("other", [RUN_STAGES[1], RUN_STAGES[4]])
def test_the_last_entry_of_a_stage_is_found_at_any_distance_from_its_milepost(
    path: Path, distance: int, other: tuple[str, str]
) -> None:
    """Also by a process that opens the file anew, appends it again and goes on behind it."""
    stage = RUN_STAGES[0]
    recorded = Recorded(str(path.parent), [([stage], 1, "batch"), ([other], distance - 1, "batch"), ([stage], 1, "batch")])
    recorded.store.close()
    with CheckpointStore(path.with_name("store"), durability="normal") as store:
        check_lookups(store, recorded.entries, RUNS, STAGES, times=(0, 500, 990))
        check_every_entry(store, recorded.entries, RUNS, STAGES)
        check_summaries(store, recorded.entries)
        last = recorded.entries[-1]
        assert store.append(last).duplicate
        with pytest.raises(SequenceError):
            store.append(last._replace(idempotency_key="another"))
        with pytest.raises(WatermarkRegressionError):
            store.append(last._replace(sequence=last.sequence + 1, watermark=entry(0).watermark, idempotency_key="behind"))
        store.advance(*stage, last.watermark, idempotency_key="next")
        assert store.latest_for_stage(stage[1], run_id=stage[0]) == store.get(*stage, last.sequence + 1)
        assert store.verify().ok


@pytest.mark.parametrize(("examples", "step"), [(4, 5), pytest.param(8, 1, marks=pytest.mark.long)])
def test_a_history_goes_across_mileposts_and_pages(examples: int, step: int) -> None:
    """Of a run, a stage, or both, in both directions, from any position, with any limit."""

    def check(steps: Stretches, data: st.DataObject | None) -> None:
        _check_histories(steps, data, step)

    settings(max_examples=examples)(given(stretches, st.data())(example(QUIET, None)(check)))()


def _check_histories(steps: Stretches, data: st.DataObject | None, step: int) -> None:
    entries = stated(turns(steps))
    ends = (0, *mileposts(entries), len(entries))
    near = sorted({max(end + step, 0) for end in ends for step in (-1, 0, 1, INTERVAL - 2, INTERVAL - 1, INTERVAL)})
    afters = near[::step] if data is None else data.draw(st.lists(st.sampled_from(near), min_size=3, max_size=6))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PAGE", 7)
        patch.setattr("milepost.rows.verify.PAGE", 7)
        with Recorded(directory, steps).store as store:
            for run_id, stage, after, limit, newest_first in product(
                (None, RUNS[0], RUNS[1]), (None, STAGES[0], STAGES[1]), afters, (None, 1, 8, 21), (False, True)
            ):
                walk = [e for e in entries[after:] if run_id in (None, e.run_id) and stage in (None, e.stage)]
                found = store.history(run_id, stage, after=after, limit=limit, newest_first=newest_first)
                assert list(found) == (walk[::-1] if newest_first else walk)[:limit]


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_chain_is_verified_after_every_head(step: int) -> None:
    """
    What a run and a stage had done before it is looked up by the mileposts; each run alone is sound as well.

    After every third head, and in the long dose after each.
    """

    def check(steps: Stretches) -> None:
        _check_heads(steps, step)

    settings(max_examples=2)(given(stretches)(example(QUIET)(check)))()


def _check_heads(steps: Stretches, step: int) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PAGE", 7)
        patch.setattr("milepost.rows.verify.PAGE", 7)
        with Recorded(directory, steps).store as store:
            sound = Verification(True, len(store), store.chain_signature(), ())
            for receipt, *_ in list(store.receipts())[::step]:
                assert store.verify(trusted=Head(receipt.position, receipt.signature)) == sound
            for run in store.runs():
                assert store.verify(run_id=run.run_id) == Verification(True, run.entries, run.signature, ())


# Tampering

LENGTH: Final = 150
# Two stages take turns, a third one of another run comes in between, and a fourth one is quiet for a long time.
TURNS: Final = [
    RUN_STAGES[4] if n in {0, 70, 139} else RUN_STAGES[3] if n % 7 == 3 else RUN_STAGES[n % 2] for n in range(LENGTH)
]
ENTRIES: Final = stated(TURNS)
POSTS: Final = mileposts(ENTRIES)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with these entries."""
    path = tmp_path_factory.mktemp("mileposts") / "store"
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(ENTRIES)
    return path.read_bytes()


@pytest.fixture
def tampered(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file after somebody has run a statement on it, open to read."""
    monkeypatch.setattr(workers, "LEAST", 10)
    numbers, opened = count(), []

    def opened_after(statement: str, *bindings: Any) -> CheckpointStore:
        path = tmp_path / str(next(numbers))
        path.write_bytes(content)
        assert all(tamper(path, (statement, bindings)))
        opened.append(CheckpointStore.open_readonly(path))
        return opened[-1]

    yield opened_after
    for store in opened:
        store.close()


def places(verification: Verification) -> list[tuple[str, int | None]]:
    """The kind and place of every fault."""
    return [(fault.kind, fault.position) for fault in verification.faults]


@pytest.mark.parametrize("value", ["entries_so_far + 1", "-1", "2 << 60"])
def test_a_milepost_that_is_wrong_is_found_there_and_nothing_else_is_accused(tampered: Any, value: str) -> None:
    """Each of them, in the whole chain and in its run alone."""
    for position in POSTS:
        store = tampered(f"UPDATE entry SET entries_so_far = {value} WHERE position = ?", position)
        assert places(store.verify()) == [("lookup", position)]
        assert places(store.verify(run_id=ENTRIES[position - 1].run_id)) == [("lookup", position)]


def test_a_milepost_that_is_gone_is_found_there_and_nothing_else_is_accused(tampered: Any) -> None:
    """By the whole chain; in its run alone, whose rows are found by mileposts, it may look like a tail that was cut."""
    for position in POSTS:
        store = tampered("UPDATE entry SET entries_so_far = NULL WHERE position = ?", position)
        assert places(store.verify()) == [("lookup", position)]
        of_run = [e for e in ENTRIES if e.run_id == ENTRIES[position - 1].run_id]
        assert not store.verify(run_id=of_run[0].run_id, expected=Head(len(of_run), chain_signature(of_run))).ok


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_milepost_where_none_belongs_is_found_there_and_nothing_else_is_accused(tampered: Any, step: int) -> None:
    """Also one with the right count, in any other row."""
    for position in (*range(1, LENGTH, step), LENGTH):
        if position not in POSTS:
            run_stage = ENTRIES[position - 1].run_id, ENTRIES[position - 1].stage
            right = sum((e.run_id, e.stage) == run_stage for e in ENTRIES[:position])
            store = tampered("UPDATE entry SET entries_so_far = ? WHERE position = ?", right, position)
            assert places(store.verify()) == [("lookup", position)]
            assert places(store.verify(run_id=run_stage[0])) == [("lookup", position)]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize(("first", "value"), [(1, "zeroblob(32)"), (2, "signature"), (3, "x'00'")])
def test_a_link_of_a_runs_own_chain_that_is_wrong_is_found_there(tampered: Any, first: int, value: str, step: int) -> None:
    """In rows where it says something else than it did; the run's next row follows from what it should say."""
    for position in (*range(first if step > 1 else 1, LENGTH, step), LENGTH):
        if value == "signature" and len({e.run_id for e in ENTRIES[:position]}) == 1:
            continue  # as long as a run is alone in the file, they are the same
        store = tampered(f"UPDATE entry SET run_signature = {value} WHERE position = ?", position)
        assert places(store.verify()) == [("run", position)]
        assert places(store.verify(run_id=ENTRIES[position - 1].run_id)) == [("run", position)]


FORGET_RUN_STAGE: Final = (
    "DELETE FROM run_stage WHERE run_number = (SELECT run_number FROM run WHERE run_id = ?) "
    "AND stage_number = (SELECT stage_number FROM stage WHERE stage = ?)"
)
FORGE_LAST: Final = f"UPDATE entry SET sequence = ?, signature = ?, run_signature = ? WHERE position = {LENGTH}"


def test_a_stage_that_the_file_does_not_know_a_run_has_is_found_where_it_begins(tampered: Any) -> None:
    """By its name; and one of which the run has no entry."""
    for run_id, stage in dict.fromkeys(TURNS):
        verification = tampered(FORGET_RUN_STAGE, run_id, stage).verify()
        assert places(verification) == [("lookup", TURNS.index((run_id, stage)) + 1)]
        assert f"stage {stage!r} of run {run_id!r}" in str(verification.faults[0])
    for numbers in ((1, 3), (1, 9), (9, 1)):
        assert places(tampered("INSERT INTO run_stage VALUES (?, ?)", *numbers).verify()) == [("lookup", None)]


def test_a_sequence_that_does_not_rise_is_found_though_every_link_fits(tampered: Any) -> None:
    """Whoever can compute links can put a step at the end that no append takes, and that `get` may not find."""
    last = ENTRIES[-1]
    *_, before, at = [n for n, turn in enumerate(TURNS, 1) if turn == TURNS[-1]]
    sequence = ENTRIES[before - 1].sequence
    assert at == LENGTH
    assert POSTS.keys().isdisjoint({before, at})  # the index of those refuses a sequence that is there
    trusted = Head(LENGTH - 1, chain_signature(ENTRIES[:-1]))
    for forged in (last._replace(sequence=sequence), last._replace(sequence=sequence - 1)):
        chains = ENTRIES[:-1], [e for e in ENTRIES[:-1] if e.run_id == last.run_id]
        links = [bytes.fromhex(chain_signature([*each, forged])) for each in chains]
        store = tampered(FORGE_LAST, forged.sequence, *links)
        assert places(store.verify()) == [("lookup", LENGTH)]
        assert places(store.verify(trusted=trusted)) == [("lookup", LENGTH)]


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE entry SET entries_so_far = entries_so_far + 1 WHERE position = {max(POSTS)}",
        "UPDATE entry SET run_signature = zeroblob(32) WHERE position = 75",
        "DELETE FROM run_stage WHERE run_number = 1 AND stage_number = 1",
        "INSERT INTO run_stage VALUES (1, 9)",
        *(  # of the kinds above, in other rows: each starts processes
            pytest.param(statement, marks=pytest.mark.long)
            for statement in (
                f"UPDATE entry SET entries_so_far = NULL WHERE position = {list(POSTS)[5]}",
                "UPDATE entry SET entries_so_far = 1 WHERE position = 76 AND entries_so_far IS NULL",
                "UPDATE entry SET run_signature = signature WHERE position = 71",
            )
        ),
    ],
)
@pytest.mark.usefixtures("warm_workers")
def test_workers_find_the_same(tampered: Any, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same words, whatever part of the chain it stands in; and no worker confirms it."""
    confirm, said = workers.confirm, []

    def noted(*given: Any) -> Any:
        said.append(confirm(*given))
        return said[-1]

    monkeypatch.setattr(workers, "confirm", noted)
    store = tampered(statement)
    alone = store.verify()
    assert not alone.ok
    assert store.verify(workers=2) == alone
    assert list(map(bool, said)) == ([] if "INSERT" in statement else [False])  # which is found without a walk


@pytest.mark.parametrize("parts", [2, pytest.param(12, marks=pytest.mark.long)])
@pytest.mark.usefixtures("warm_workers")
def test_workers_confirm_a_chain_that_they_part_anywhere(tampered: Any, parts: int) -> None:
    """What each run and stage had done before a part is looked up by the mileposts before it."""
    store = tampered("UPDATE run SET run_number = run_number")
    kept = store._database.read(rows.snapshot)
    for receipt, *_ in store.receipts(limit=parts):  # each moves every seam
        assert workers.confirm(store._database, kept, ChainBase(receipt.position, bytes.fromhex(receipt.signature)), 2, None)

"""verify() recomputes the chain from the rows and reports every fault, where it is."""

from __future__ import annotations

import contextlib
import pickle
import re
import shutil
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    BrokenChainError,
    Checkpoint,
    CheckpointStore,
    DamagedStoreError,
    Head,
    InvalidArgumentError,
    NoCheckpointError,
    Verification,
    rows,
)
from milepost.checkpoint import chain_signature
from milepost.rows import verify as verify_rows
from milepost.signature import ChainBase, canonical_bytes, link, prefix
from support.chains import chain, entry, mixed
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENTRIES = mixed(60)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file with sixty entries of three runs, which no test changes."""
    path = tmp_path_factory.mktemp("recorded") / "orders.milepost"
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(ENTRIES)
    return path


@pytest.fixture
def file(recorded: Path, path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copy(recorded, path)
    return path


def verify(file: Path, **options: Any) -> Verification:
    """What a reader finds."""
    with CheckpointStore.open_readonly(file) as store:
        return store.verify(**options)


def faults(verification: Verification) -> list[tuple[str, int | None]]:
    """The kind and place of every fault."""
    return [(fault.kind, fault.position) for fault in verification.faults]


def test_a_sound_chain_is_verified_as_it_was_signed(file: Path) -> None:
    """All is well; entries and signature are those of the pure functions."""
    verification = verify(file)
    assert verification == Verification(True, 60, chain_signature(ENTRIES), ())
    verification.raise_if_broken()


def test_an_empty_chain_is_sound(store: CheckpointStore) -> None:
    """With the signature of the empty chain."""
    assert store.verify() == Verification(True, 0, "0" * 64, ())


@pytest.mark.parametrize("position", [1, 2, 30, 59, 60])
@pytest.mark.parametrize(
    "change",
    ["offset = offset + 1", "event_time_ms = event_time_ms - 1", "at_ms = at_ms + 1", "idempotency_key = 'other'",
     "sequence = sequence + 1000", "run_number = run_number % 3 + 1", "stage_number = stage_number % 3 + 1"],
)  # fmt: skip
def test_an_edited_row_is_found_where_it_is_and_nothing_else_is_accused(file: Path, position: int, change: str) -> None:
    """The rows after it follow from the signature that it still has."""
    tamper(file, f"UPDATE entry SET {change} WHERE position = {position}")
    verification = verify(file)
    assert faults(verification)[0] == ("link", position)
    assert [place for kind, place in faults(verification) if kind == "link"] == [position]
    with pytest.raises(BrokenChainError, match=f"the first: position {position}: the row of run "):
        verification.raise_if_broken()


def test_a_row_that_is_not_what_it_was_is_accused_once(file: Path) -> None:
    """Whatever else it says now."""
    tamper(file, "UPDATE entry SET offset = offset + 1, entries_so_far = 7 WHERE position = 30")
    assert faults(verify(file)) == [("link", 30)]


def test_a_row_may_follow_from_what_the_one_before_it_in_its_run_says(file: Path) -> None:
    """Somebody has changed that link, and the next so that it fits: the one that does not fit is accused."""
    *_, one, two = [position for position, e in enumerate(ENTRIES, 1) if e.run_id == "run-1"]
    last = ENTRIES[two - 1]
    of_last = last.sequence, *last.watermark, last.idempotency_key, last.at_ms
    fitting = link(bytes(32), canonical_bytes(prefix(last.run_id, last.stage), *of_last))
    tamper(
        file,
        f"UPDATE entry SET run_signature = zeroblob(32) WHERE position = {one}",
        f"UPDATE entry SET run_signature = x'{fitting.hex()}' WHERE position = {two}",
    )
    assert faults(verify(file)) == faults(verify(file, run_id="run-1")) == [("run", one)]


def test_an_edited_signature_is_found_where_it_is(file: Path) -> None:
    """The row after it still follows from what the signature should be."""
    tamper(file, "UPDATE entry SET signature = zeroblob(32) WHERE position = 30")
    assert faults(verify(file)) == [("link", 30)]


def test_what_was_expected_and_what_was_found_are_told(file: Path) -> None:
    """The signature that the row should have, and the one it has."""
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position = 30")
    fault = verify(file).faults[0]
    changed = ENTRIES[29]._replace(watermark=ENTRIES[29].watermark._replace(offset=ENTRIES[29].watermark.offset + 1))
    assert fault.expected == chain_signature([*ENTRIES[:29], changed])
    assert fault.found == chain_signature(ENTRIES[:30])


def test_of_a_chain_with_a_fault_the_signature_is_that_of_the_rows_as_they_are(file: Path) -> None:
    """Computed anew from the fault on; nothing else says it, as each row stores another one."""
    tamper(file, "UPDATE entry SET at_ms = at_ms + 1 WHERE position = 30")
    changed = ENTRIES[29]._replace(at_ms=ENTRIES[29].at_ms + 1)
    assert verify(file).signature == chain_signature([*ENTRIES[:29], changed, *ENTRIES[30:]])


def test_rows_that_sqlite_returns_in_another_order_are_faults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a page whose cells were exchanged; and the walk ends."""
    read = rows.rows_after

    def backwards(connection: apsw.Connection, after: int, through: int) -> list[tuple[Any, ...]]:
        return read(connection, after, through)[::-1]

    tamper(file, "DELETE FROM entry WHERE position > 3")
    monkeypatch.setattr(rows, "rows_after", backwards)
    assert {("missing", 1), ("unreadable", 2), ("unreadable", 1)} <= set(faults(verify(file)))


@pytest.mark.parametrize(("place", "position"), [("snapshot", 1), ("invalid_positions", 41)])
def test_a_file_that_cannot_be_read_from_the_start_on_is_told_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, place: str, position: int
) -> None:
    """With the signature there; nothing is said of how many entries there are before that is known."""

    def damaged(_: apsw.Connection) -> Any:
        raise apsw.CorruptError("database disk image is malformed")

    monkeypatch.setattr(rows, place, damaged)
    found = verify(file, trusted=Head(40, chain_signature(ENTRIES[:40])))
    assert faults(found) == [("file", position)]
    known = (60, chain_signature(ENTRIES[:40])) if position > 1 else (0, "0" * 64)
    assert (found.entries, found.signature, found.elsewhere) == (*known, 0)


def test_missing_rows_are_told_as_one_gap(file: Path) -> None:
    """With their positions; the row after the gap is not accused."""
    tamper(file, "DELETE FROM entry WHERE position BETWEEN 30 AND 32")
    verification = verify(file)
    assert faults(verification)[0] == ("missing", 30)
    assert verification.faults[0].expected == "rows at positions 30 to 32"
    assert "link" not in {kind for kind, _ in faults(verification)}


def test_a_gap_that_was_closed_is_found_where_it_was(file: Path) -> None:
    """The next row does not follow from the one before the gap."""
    tamper(
        file,
        "DELETE FROM entry WHERE position = 30",
        "UPDATE entry SET position = -position WHERE position > 30",
        "UPDATE entry SET position = -position - 1 WHERE position < 0",
    )
    assert faults(verify(file))[0] == ("link", 30)


def test_a_cut_tail_is_told_by_a_kept_head_alone(file: Path) -> None:
    """What is left is a sound chain."""
    with CheckpointStore.open_readonly(file) as store:
        kept = store.head()
    tamper(file, "DELETE FROM entry WHERE position > 55")
    assert verify(file) == Verification(True, 55, chain_signature(ENTRIES[:55]), ())
    assert faults(verify(file, expected=kept)) == [("head", 60)]


def test_an_inserted_row_is_found(file: Path) -> None:
    """At the end, it follows from nothing; before the beginning, no append puts a row."""
    tamper(file, "INSERT INTO entry VALUES (61, 1, 1, 900, 900, 900, 'new', 0, zeroblob(32), zeroblob(32), NULL, NULL)")
    assert faults(verify(file))[0] == ("link", 61)
    tamper(file, "DELETE FROM entry WHERE position = 61")
    tamper(file, "INSERT INTO entry VALUES (-3, 1, 1, 900, 900, 900, 'new', 0, zeroblob(32), zeroblob(32), NULL, NULL)")
    assert ("unreadable", -3) in faults(verify(file))


@pytest.mark.parametrize("position", [-1, 0, 2**63 - 1])
def test_nothing_is_appended_behind_an_entry_whose_position_no_append_gave(path: Path, position: int) -> None:
    """It would have no place in the chain."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(ENTRIES[0])
    tamper(path, f"UPDATE entry SET position = {position}")
    with CheckpointStore(path, durability="normal") as store, pytest.raises(DamagedStoreError):
        store.append(ENTRIES[1])


def test_an_entry_whose_position_no_append_gave_is_the_latest_at_no_time(path: Path) -> None:
    """The chain begins behind position 0."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3))
    columns = "run_number, stage_number, 900, offset, event_time_ms, 'new', 7, signature, run_signature, NULL, NULL"
    tamper(path, f"INSERT INTO entry SELECT 0, {columns} FROM entry WHERE position = 1")
    with CheckpointStore.open_readonly(path) as store:
        assert store.latest(as_of=7) is None
        assert list(store.history(until=7)) == []
        assert not store.verify().ok


@pytest.mark.parametrize("signature", ["x''", "zeroblob(31)", "zeroblob(33)"])
def test_a_signature_of_another_length_is_given_to_nobody(file: Path, signature: str) -> None:
    """As a head to be kept elsewhere, say: it would match no chain."""
    tamper(file, f"UPDATE entry SET signature = {signature} WHERE position = 60")
    with CheckpointStore.open_readonly(file) as store, pytest.raises(DamagedStoreError, match="not 32 bytes"):
        store.head()


@pytest.mark.parametrize("column", ["offset", "event_time_ms"])
def test_a_loop_begins_behind_no_watermark_of_another_kind(file: Path, column: str) -> None:
    """It would skip so many records, or compare times with it."""
    tamper(file, f"UPDATE entry SET {column} = 'x' WHERE position = 60", loose=True)
    last = ENTRIES[-1]
    with CheckpointStore(file) as store, pytest.raises(DamagedStoreError, match="not as an append leaves it"):
        list(store.checkpointed(range(9), run_id=last.run_id, stage=last.stage, event_time=lambda record: record))


def test_swapped_rows_are_found(file: Path) -> None:
    """Both places."""
    tamper(
        file,
        "UPDATE entry SET position = -1 WHERE position = 20",
        "UPDATE entry SET position = 20 WHERE position = 40",
        "UPDATE entry SET position = 40 WHERE position = -1",
    )
    places = {position for kind, position in faults(verify(file)) if kind == "link"}
    assert {20, 40} <= places <= {20, 21, 40, 41}


def test_a_run_without_a_name_makes_its_rows_unfit(file: Path) -> None:
    """No canonical bytes without a name."""
    tamper(file, "DELETE FROM run WHERE run_number = 3")
    assert {position for kind, position in faults(verify(file)) if kind == "link"} == {
        i + 1 for i, e in enumerate(ENTRIES) if e.run_id == "run-2"
    }


@pytest.mark.parametrize("lost", ["run", "stage"])
def test_an_entry_without_one_of_its_names_is_shown_to_nobody(file: Path, lost: str) -> None:
    """The file is damaged, whichever of the two it is."""
    tamper(file, f"DELETE FROM {lost}")
    looks: list[Callable[[CheckpointStore], object]] = [lambda store: list(store.history()), lambda store: store.latest()]
    with CheckpointStore.open_readonly(file) as store:
        for look in looks:
            with pytest.raises(DamagedStoreError, match=r"no name|without a name"):
                look(store)


def test_text_that_is_not_utf8_is_told_and_not_raised(file: Path) -> None:
    """A key, and a name."""
    tamper(file, "UPDATE entry SET idempotency_key = CAST(x'ff41' AS TEXT) WHERE position = 30")
    assert faults(verify(file))[0] == faults(verify(file, run_id="run-2"))[0] == ("unreadable", 30)
    tamper(file, "UPDATE stage SET stage = CAST(x'ff41' AS TEXT) WHERE stage_number = 1")
    assert ("unreadable", 30) in faults(verify(file))
    assert not verify(file, run_id="run-1").ok


def test_the_files_own_integrity_is_part_of_it(file: Path) -> None:
    """An index that disagrees with its table is told as a fault of the file."""
    tamper(
        file,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET rootpage = (SELECT sum(rootpage) FROM sqlite_schema WHERE name IN "
        "('entry_by_run', 'entry_by_stage')) - rootpage WHERE name IN ('entry_by_run', 'entry_by_stage')",
    )
    assert "file" in {kind for kind, _ in faults(verify(file))}


OUT_OF_ORDER = {
    "never used": ("PRAGMA writable_schema = ON", "DELETE FROM sqlite_schema WHERE name = 'sink'"),
    "row 1 missing from index sink_by_amount, wrong # of entries in index sink_by_amount": (
        "CREATE INDEX sink_by_amount ON sink (amount)",
        "CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'sink_by_amount'",
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_schema WHERE name = 'sink_by_amount'",
        "PRAGMA writable_schema = RESET",
        "INSERT INTO sink VALUES (1)",
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_schema SELECT * FROM kept",
    ),
}


@pytest.mark.parametrize("words", OUT_OF_ORDER)
def test_whatever_sqlite_says_of_a_file_that_is_not_in_order_is_told(file: Path, words: str) -> None:
    """A page of it belongs to nothing, or an index lacks a row: nothing is known of the words but that they are not `ok`."""
    tamper(file, "CREATE TABLE sink (amount INTEGER)", *OUT_OF_ORDER[words])
    found = verify(file).faults
    assert {fault.kind for fault in found} == {"file"}
    assert all(any(each in fault.found for fault in found) for each in words.split(", "))


def test_a_rewritten_chain_is_found_only_with_a_head_kept_elsewhere(file: Path) -> None:
    """Everything recomputed: sound by itself, and not what was expected."""
    with CheckpointStore.open_readonly(file) as store:
        kept = store.head()
    forged = file.with_name("forged")
    with CheckpointStore(forged, durability="normal") as store:
        store.append_many([ENTRIES[0]._replace(at_ms=1), *ENTRIES[1:]])
    assert verify(forged).ok
    assert faults(verify(forged, expected=kept)) == [("head", 60)]


def test_a_chain_that_has_grown_contains_its_old_heads(file: Path) -> None:
    """At every length, and none that is longer."""
    with CheckpointStore.open_readonly(file) as store:
        heads = [Head(0, "0" * 64), *(Head(receipt.position, receipt.signature) for receipt, *_ in store.receipts())]
        for head in heads:
            assert store.verify(expected=head).ok
            rest = store.verify(trusted=head)
            assert (rest.ok, rest.entries, rest.signature) == (True, 60, store.chain_signature())
    assert faults(verify(file, expected=Head(61, "ab" * 32))) == [("head", 61)]
    assert faults(verify(file, trusted=Head(61, "ab" * 32)))[0] == ("head", 61)
    assert faults(verify(file, trusted=Head(30, "ab" * 32)))[-1] == ("head", 30)


def test_a_chain_is_read_whole_wherever_its_pages_end(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row after a page may stand 39 positions behind its milepost, the most that there can be."""
    store.append_many(entry(sequence, run_id=f"run-{sequence // 100}") for sequence in range(1, 200))
    for page in (1, 39, 40, 41, 79, 98):
        monkeypatch.setattr(verify_rows, "PAGE", page)
        whole, *runs = (store.verify(run_id=run_id) for run_id in (None, "run-0", "run-1"))
        assert (whole.ok, whole.entries) == (True, 199)
        assert [(run.ok, run.entries) for run in runs] == [(True, 99), (True, 100)]


def test_trusted_reads_only_what_came_after(file: Path) -> None:
    """A fault before the trusted head is not looked for; one after it is found."""
    with CheckpointStore.open_readonly(file) as store:
        trusted = Head(*[(r.position, r.signature) for r, *_ in store.receipts(limit=40)][-1])
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position IN (20, 50)")
    assert faults(verify(file, trusted=trusted)) == [("link", 50)]


@pytest.mark.parametrize("which", ["before", "after"])
def test_the_own_chain_of_a_run_is_judged_after_a_trusted_head_as_well(path: Path, which: str) -> None:
    """That of a run which began before the head goes on from what its last row there says."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(10, run_id="before"))
        trusted = store.head()
        store.append_many(e for n in range(11, 16) for e in (entry(n, run_id="before"), entry(n, run_id="after")))
        assert store.verify(trusted=trusted).ok
    position = 15 if which == "before" else 16
    tamper(path, f"UPDATE entry SET run_signature = zeroblob(32) WHERE position = {position}")
    assert faults(verify(path, trusted=trusted)) == [("run", position)]


@pytest.fixture
def steps() -> Iterator[list[int]]:
    """The steps that SQLite takes for each statement, on every connection that is made."""
    taken: list[int] = []

    def note(event: dict[str, Any]) -> None:
        taken.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    kept = list(apsw.connection_hooks)
    apsw.connection_hooks.append(lambda connection: connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, note))
    yield taken
    apsw.connection_hooks[:] = kept


def test_what_a_verification_costs_grows_with_the_stages_and_not_with_their_square(tmp_path: Path, steps: list[int]) -> None:
    """After a trusted head it looks up where each stage stood there: twice the stages, twice the steps."""
    cost: list[int] = []
    for stages in (300, 600):
        with CheckpointStore(tmp_path / f"{stages}", durability="normal") as store:
            for sequence in (1, 2):
                trusted = store.head()
                store.append_many(entry(sequence, stage=f"stage-{number}") for number in range(stages))
        steps.clear()
        assert verify(tmp_path / f"{stages}", trusted=trusted).ok
        cost.append(sum(steps))
    assert cost[1] < 2.5 * cost[0]


def test_where_a_stage_stood_at_a_trusted_head_is_told_by_no_entry_behind_it(path: Path) -> None:
    """Somebody adds one, with links that fit, whose sequence is below the last: it is found by whoever trusts the head."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([*chain(50), entry(1000)])
        trusted = store.head()
    forged = [*chain(50), entry(1000), entry(60)]
    with apsw.Connection(str(path)) as connection:
        connection.execute(
            "INSERT INTO entry SELECT 52, run_number, stage_number, ?, ?, ?, ?, at_ms, ?, NULL, NULL, NULL FROM entry "
            "LIMIT 1",
            (60, *entry(60).watermark, entry(60).idempotency_key, bytes.fromhex(chain_signature(forged))),
        )
    connection.close()
    assert faults(verify(path)) == faults(verify(path, trusted=trusted)) == [("lookup", 52)]


@pytest.mark.parametrize("run_id", ["run-0", "run-1", "run-2"])
def test_one_run_is_verified_by_its_own_rows_and_head(file: Path, run_id: str) -> None:
    """Its entries, its signature; `expected` is a head of its own chain."""
    of_run = [e for e in ENTRIES if e.run_id == run_id]
    assert verify(file, run_id=run_id) == Verification(True, len(of_run), chain_signature(of_run), ())
    for length in (0, 1, 7, len(of_run)):
        assert verify(file, run_id=run_id, expected=Head(length, chain_signature(of_run[:length]))).ok
    assert faults(verify(file, run_id=run_id, expected=Head(7, "ab" * 32))) == [("head", 7)]
    assert faults(verify(file, run_id=run_id, expected=Head(99, "ab" * 32))) == [("head", 99)]


def test_a_fault_in_one_run_is_found_by_that_run_alone(file: Path) -> None:
    """The others are sound."""
    position = 1 + next(i for i, e in enumerate(ENTRIES) if e.run_id == "run-1" and i > 20)
    tamper(file, f"UPDATE entry SET at_ms = at_ms + 1 WHERE position = {position}")
    assert faults(verify(file, run_id="run-1")) == [("link", position)]
    assert verify(file, run_id="run-2").ok
    tamper(file, f"DELETE FROM entry WHERE position = {position}")
    assert not verify(file, run_id="run-1").ok


def test_faults_are_found_across_pages_and_progress_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback gets what is done and what there is, up to the end."""
    monkeypatch.setattr("milepost.rows.verify.PAGE", 7)
    told: list[tuple[int, int]] = []
    tamper(file, "UPDATE entry SET offset = offset + 1 WHERE position IN (7, 8, 14, 50)")
    assert [place for kind, place in faults(verify(file, progress=lambda *at: told.append(at))) if kind == "link"] == [
        7, 8, 14, 50
    ]  # fmt: skip
    assert told == [(done, 60) for done in (7, 14, 21, 28, 35, 42, 49, 56, 60)]


def test_an_exception_of_the_progress_callback_ends_the_verification(file: Path) -> None:
    """It passes through, and the store is as usable as before."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with CheckpointStore.open_readonly(file) as store:
        with pytest.raises(KeyboardInterrupt):
            store.verify(progress=stop)
        assert store.verify().ok


@pytest.mark.parametrize(
    "options",
    [{"trusted": "60:ab"}, {"expected": (60, "ab")}, {"workers": 0}, {"workers": True}, {"progress": 1}, {"run_id": ""},
     {"run_id": "run-1", "trusted": Head(0, "0" * 64)}],
)  # fmt: skip
def test_wrong_arguments_are_told(store: CheckpointStore, options: dict[str, Any]) -> None:
    """By name."""
    with pytest.raises(InvalidArgumentError, match=r"trusted|expected|workers|progress|run_id"):
        store.verify(**options)


# What a fault says of the entry at its place, and of what happened to it


def standing(file: Path) -> dict[int, tuple[str | None, str | None, int]]:
    """The run, stage and sequence of every entry, by position, as somebody reads them who knows nothing of milepost."""
    with apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        found: list[Any] = connection.execute(
            "SELECT position, run_id, stage, sequence FROM entry LEFT JOIN run USING (run_number) "
            "LEFT JOIN stage USING (stage_number)"
        ).fetchall()
    connection.close()
    return {position: (run_id, stage, sequence) for position, run_id, stage, sequence in found}


EDITS = st.one_of(
    st.builds(
        "UPDATE entry SET {} WHERE position BETWEEN {} AND {}".format,
        st.sampled_from(
            ["offset = offset + 1", "sequence = sequence + 1000", "signature = zeroblob(32)", "run_signature = zeroblob(32)",
             "stage_number = stage_number % 3 + 1", "run_number = run_number % 3 + 1", "entries_so_far = 7",
             "idempotency_key = idempotency_key || ' '", "run_signature = NULL", "detail = '{}'", "at_ms = at_ms + 1",
             "idempotency_key = CAST(x'ff' || CAST(position AS BLOB) AS TEXT)"]
        ),
        st.integers(1, 60),
        st.integers(1, 60),
    ),
    st.builds("DELETE FROM entry WHERE position = {}".format, st.integers(1, 60)),
    st.builds("UPDATE entry SET position = {1} WHERE position = {0}".format, st.integers(1, 60), st.integers(61, 70)),
    st.sampled_from(["DELETE FROM run WHERE run_number = 2", "DELETE FROM run_stage WHERE stage_number = 3"]),
)  # fmt: skip


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.long)])
def test_a_fault_names_the_entry_that_stands_at_its_position(recorded: Path, examples: int) -> None:
    """Whatever was done to the file: run, stage and sequence are what stands there, and the sentence names them."""

    @settings(max_examples=examples)
    @given(
        edits=st.lists(EDITS, min_size=1, max_size=4),
        options=st.sampled_from([{}, {"run_id": "run-0"}, {"run_id": "run-1"}]),
    )
    def check(edits: list[str], options: dict[str, Any]) -> None:
        file = recorded.with_name("edited.milepost")
        file.write_bytes(recorded.read_bytes())
        for edit in edits:
            with contextlib.suppress(apsw.ConstraintError):
                tamper(file, edit)
        there = standing(file)
        found = None
        with contextlib.suppress(NoCheckpointError):
            found = verify(file, **options)
        if found is None:  # the run has lost its name
            assert options["run_id"] not in {run_id for run_id, *_ in there.values()}
            return
        for fault in found.faults:
            named = fault.run_id, fault.stage, fault.sequence
            if fault.position is None or fault.kind == "missing":
                assert named == (None, None, None)
                continue
            assert named == there[fault.position]
            text = str(fault)
            assert text.startswith(f"position {fault.position:,}: ")
            assert f", sequence {fault.sequence:,}" in text
            assert fault.run_id is None or f"run {fault.run_id!r}" in text
            assert f"stage {fault.stage!r}" in text
            assert text.isprintable()
            assert not re.search("[0-9a-f]{13}", text)
            assert pickle.loads(pickle.dumps(fault)) == fault

    check()


HAPPENED: dict[str, dict[int | None, str]] = {
    "UPDATE entry SET offset = offset + 1 WHERE position = 31":
        {31: "of run 'run-0', stage 'transform', sequence 30 was changed after it was recorded"},
    "UPDATE entry SET signature = zeroblob(32) WHERE position = 31":
        {31: "the signature of the row of run 'run-0', stage 'transform', sequence 30 was forged: the next row"},
    "UPDATE entry SET run_signature = zeroblob(32) WHERE position = 31":
        {31: "the run_signature of the row of run 'run-0', stage 'transform', sequence 30 was forged: the row itself is"},
    "UPDATE entry SET run_signature = NULL WHERE position = 30":
        {30: "run 'run-2', stage 'transform', sequence 29 lacks its run_signature"},
    "UPDATE entry SET offset = offset + 1 WHERE position IN (31, 32)":
        {31: "several rows were changed, or the chain was rewritten from here", 32: " was changed after it was recorded"},
    "UPDATE entry SET offset = offset + 1 WHERE position = 60":
        {60: "the row of run 'run-2', stage 'load', sequence 59 was changed after it was recorded"},
    "UPDATE entry SET signature = zeroblob(32) WHERE position = 60":
        {60: " or its signature was changed after it was recorded"},
    "DELETE FROM entry WHERE position = 30":
        {30: "the row is missing; before it stands run 'run-1', stage 'load', sequence 28"},
    "DELETE FROM entry WHERE position < 4": {1: "this row is missing, and those up to position 3"},
    "DELETE FROM run WHERE run_id = 'run-0'": {1: "the row of run number 1, stage 'extract', sequence 0 cannot be checked"},
    "UPDATE entry SET entries_so_far = 7 WHERE position = 1":
        {1: "lookups cannot rely on the row of run 'run-0', stage 'extract', sequence 0: expected entries_so_far 1, found"},
    "UPDATE entry SET entries_so_far = 7 WHERE position = 31": {31: "expected no entries_so_far, found entries_so_far 7"},
    "INSERT INTO run_stage VALUES (1, 9)": {None: "lookups expect an entry of stage number 9 of run 'run-0'"},
    "INSERT INTO run VALUES (9, 'run-9')": {None: "lookups expect an entry of run 'run-9', and there is none"},
}  # fmt: skip


@pytest.mark.parametrize(("table", "column"), [("run", "run_id"), ("stage", "stage")])
def test_a_name_that_was_changed_is_thought_of(path: Path, table: str, column: str) -> None:
    """It stands in the file once, and no row fits any more that has it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([*chain(3, run_id="run-1", stage="extract"), *chain(3, run_id="run-2", stage="load")])
    tamper(path, f"UPDATE {table} SET {column} = 'prod' WHERE {table}_number = 2")
    found = {fault.position: str(fault) for fault in verify(path).faults}
    assert list(found) == [4, 5, 6]
    assert "several rows were changed, their run or their stage was renamed, or the chain" in found[4]
    assert "several rows were changed, their run or their stage was renamed, or the chain" in found[5]


@pytest.mark.parametrize("edit", HAPPENED)
def test_what_happened_is_said_in_words(file: Path, edit: str) -> None:
    """As far as the rows beside it show it."""
    tamper(file, edit)
    found = {fault.position: str(fault) for fault in verify(file).faults}
    for position, words in HAPPENED[edit].items():
        assert words in found[position]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("DELETE FROM entry WHERE run_number = 1", ["an entry of run 'run-0'", "an entry of stage 'load' of run 'run-0'"]),
        ("INSERT INTO run_stage VALUES (1, 9)", ["an entry of stage number 9 of run 'run-0'"]),
        ("INSERT INTO run_stage VALUES (2, 9)", []),
        ("INSERT INTO run VALUES (9, 'run-9')", []),
    ],
)
def test_a_run_or_a_stage_that_is_listed_without_an_entry_is_told_of_its_own_run(
    file: Path, edit: str, words: list[str]
) -> None:
    """Of a run verified alone, as of the whole chain; and of no other run."""
    tamper(file, edit)
    found = [str(fault) for fault in verify(file, run_id="run-0").faults if fault.kind == "lookup"]
    assert all(any(f"lookups expect {word}, and there is none" in said for said in found) for word in words)
    assert bool(found) is bool(words)


def moved(position: int, by: str) -> list[str]:
    """Statements that move all behind a position."""
    return [
        f"UPDATE entry SET position = -position WHERE position > {position}",
        f"UPDATE entry SET position = -position {by} WHERE position < 0",
    ]


def test_a_row_put_in_between_is_told_as_such(file: Path) -> None:
    """And the row after it, which was recorded behind the one before."""
    insert = (
        "INSERT INTO entry SELECT 31, run_number, stage_number, 900, offset, event_time_ms, 'new', at_ms, zeroblob(32), "
        "run_signature, NULL, NULL FROM entry WHERE position = 30"
    )
    tamper(file, *moved(30, "+ 1"), insert)
    one, two = verify(file).faults
    assert "sequence 900 was inserted: the row after it was recorded directly behind the row before it" in str(one)
    assert "sequence 30 is not in its place: it was recorded directly behind the row that is now at position 30" in str(two)


def test_a_row_taken_out_is_told_by_the_run_of_the_next(file: Path) -> None:
    """Which still fits; in the same run, a sequence is left out."""
    tamper(file, "DELETE FROM entry WHERE position = 30", *moved(30, "- 1"))
    assert "sequence 30 fits its own run, but not the row before it: a row between them was removed" in str(
        verify(file).faults[0]
    )


def test_a_row_taken_out_before_the_last_one_is_thought_of(path: Path) -> None:
    """Whose run was alone in the file before, and now seems to be."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([*chain(3), entry(1, run_id="run-8"), entry(4)])
    tamper(path, "DELETE FROM entry WHERE position = 4", *moved(4, "- 1"))
    found = {fault.position: str(fault) for fault in verify(path).faults}
    assert found[4].endswith("or its signature was changed after it was recorded, or rows before it were removed")


def test_a_last_row_without_its_two_signatures_may_be_as_it_was_otherwise(file: Path) -> None:
    """Its own run does not tell then."""
    tamper(file, "UPDATE entry SET signature = zeroblob(32), run_signature = NULL WHERE position = 60")
    (fault,) = verify(file).faults
    assert "or its signature was changed after it was recorded" in str(fault)


def test_a_sequence_left_out_is_told_with_a_changed_row(path: Path) -> None:
    """Somebody may have removed the row before; within one run of one stage, nothing else shows it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(60))
    tamper(path, "DELETE FROM entry WHERE position = 30", *moved(30, "- 1"))
    (fault,) = verify(path).faults
    assert str(fault).endswith(
        "was changed after it was recorded, or rows before it were removed: the sequence before was 29"
    )


@pytest.mark.parametrize(("one", "other"), [(20, 21), (20, 40)])
def test_of_exchanged_rows_each_says_where_it_was(file: Path, one: int, other: int) -> None:
    """However far apart they are."""
    tamper(
        file,
        f"UPDATE entry SET position = -1 WHERE position = {one}",
        f"UPDATE entry SET position = {one} WHERE position = {other}",
        f"UPDATE entry SET position = {other} WHERE position = -1",
    )
    found = {fault.position: str(fault) for fault in verify(file).faults if fault.kind == "link"}
    assert found[other].endswith(f"it was recorded directly behind the row that is now at position {one - 1}")
    assert found[one].endswith(f"is now at position {other if other == one + 1 else other - 1}")


def test_a_chain_that_is_full_of_faults_is_explained_in_few_statements(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows beside neighbouring faults are read together."""
    asked: list[int] = []
    read = rows.rows_after

    def noted(connection: apsw.Connection, after: int, through: int) -> list[tuple[Any, ...]]:
        asked.append(after)
        return read(connection, after, through)

    monkeypatch.setattr(rows, "rows_after", noted)
    assert verify(file).ok
    assert asked == [0]
    tamper(file, "UPDATE entry SET offset = offset + 1")
    assert len(verify(file).faults) == 60
    assert asked == [0, 0, -1]


# While others write, or change what lies there

LATER = entry(1000, run_id="run-1", key="later")


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch, file: Path) -> Path:
    """The file, to which another process appends an entry as soon as a verification has begun."""
    snapshot = rows.snapshot

    def overtaken(connection: apsw.Connection) -> rows.Snapshot:
        found = snapshot(connection)
        with CheckpointStore(file, durability="normal") as store:
            store.append(LATER)
        return found

    monkeypatch.setattr(rows, "snapshot", overtaken)
    return file


def test_a_head_is_expected_of_what_was_judged(growing: Path) -> None:
    """Not of an entry that came after, and that nobody has looked at."""
    with CheckpointStore(growing, durability="normal") as store:
        found = store.verify(expected=Head(61, chain_signature([*ENTRIES, LATER])))
        assert (found.entries, found.signature, faults(found)) == (60, chain_signature(ENTRIES), [("head", 61)])
        assert len(store) == 61


@pytest.mark.parametrize("run_id", [None, "run-1"])
def test_what_a_verification_compares_is_of_one_moment(
    file: Path, monkeypatch: pytest.MonkeyPatch, run_id: str | None
) -> None:
    """Though somebody else appends between two of its statements: to a run that has begun, in a stage of its own."""
    with CheckpointStore(file, durability="normal") as store:

        def overtaken(connection: apsw.Connection) -> ChainBase:
            store.append(LATER._replace(stage="later"))
            return rows.chain_base(connection)

        monkeypatch.setattr(verify_rows, "chain_base", overtaken)
        found = store.verify(run_id=run_id)
        assert (faults(found), len(store)) == ([], 61)
    assert found.entries == sum(run_id in (None, entry.run_id) for entry in ENTRIES)


def test_progress_ends_at_what_was_there_when_it_began(growing: Path) -> None:
    """Also for one run, which somebody appends to."""
    of_run = sum(entry.run_id == "run-1" for entry in ENTRIES)
    told: list[tuple[int, int]] = []
    with CheckpointStore(growing, durability="normal") as store:
        assert store.verify(run_id="run-1", progress=lambda *at: told.append(at)).entries == of_run
    assert told[-1] == (of_run, of_run)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (ENTRIES[:40], ("missing", 41)),
        ([*ENTRIES[:55], *(e._replace(at_ms=e.at_ms + 1) for e in ENTRIES[55:])], ("head", 60)),
    ],
    ids=["an older copy", "a copy that went on otherwise"],
)
def test_another_file_put_in_its_place_meanwhile_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: list[Checkpoint], found: tuple[str, int]
) -> None:
    """Its entries fit to what was read before, but they are not those that were there."""
    monkeypatch.setattr("milepost.rows.verify.PAGE", 20)
    copy = tmp_path / "copy"
    with CheckpointStore(copy, durability="normal") as store:
        store.append_many(other)

    def replace(done: int, total: int) -> None:
        if done == 40:
            copy.replace(file)

    assert faults(verify(file, progress=replace)) == [found]


def test_a_run_that_was_never_recorded_is_no_intact_one(store: CheckpointStore) -> None:
    """A name with a typo has no faults either."""
    store.append(entry(1, run_id="nightly"))
    with pytest.raises(NoCheckpointError, match="nightyl"):
        store.verify(run_id="nightyl")


def test_where_a_file_can_no_longer_be_read_is_told_of_the_chain_and_of_a_run(path: Path) -> None:
    """Behind what was read: a page of rows in the middle of the file was overwritten."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(1000))
        ((receipt, _, _),) = store.receipts(after=699, limit=1)
    content = bytearray(path.read_bytes())
    page = content.index(bytes.fromhex(receipt.signature)) // 2048 * 2048
    content[page : page + 2048] = b"\xff" * 2048
    path.write_bytes(content)
    with CheckpointStore.open_readonly(path) as damaged:
        for run_id in (None, entry(1).run_id):
            found = damaged.verify(run_id=run_id)
            (unreadable,) = [fault for fault in found.faults if "from here on" in fault.explanation]
            assert (unreadable.kind, found.ok) == ("file", False)
            assert unreadable.position is not None
            assert 400 < unreadable.position <= 700
            assert unreadable.position % rows.PAGE == 1  # the first row of what could not be read


def test_a_missing_row_of_another_run_is_told_at_its_place(path: Path) -> None:
    """A run is verified against the rows before its own, whosever they are."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number // 2 + 1, run_id=f"run-{number % 2}") for number in range(20))
    tamper(path, "DELETE FROM entry WHERE position = 8")
    with CheckpointStore.open_readonly(path) as damaged:
        (fault,) = damaged.verify(run_id="run-0").faults
        assert (fault.kind, fault.position, fault.expected) == ("missing", 8, "a row at position 8")
        assert not damaged.verify(run_id="run-1").ok


@pytest.mark.parametrize("forged", ["'x'", "5", "x'00'", "zeroblob(33)"])
@pytest.mark.parametrize("run_id", [None, "run-0"])
@pytest.mark.parametrize("places", [(15, 17), (15, 17, 19)])
def test_what_is_no_signature_of_a_run_is_found_behind_a_missing_row_too(
    path: Path, forged: str, run_id: str | None, places: tuple[int, ...]
) -> None:
    """Nothing is known there of the run's own chain. Each such row is told, and no raw error comes out."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number // 2 + 1, run_id=f"run-{number % 2}") for number in range(20))
    statement = f"UPDATE entry SET run_signature = {forged} WHERE position IN {places}"
    tamper(path, "DELETE FROM entry WHERE position = 14", statement, loose=True)
    with CheckpointStore.open_readonly(path) as damaged:
        found = damaged.verify(run_id=run_id)
        faults = [(fault.kind, fault.position) for fault in found.faults if fault.position is not None]
        assert faults == [("missing", 14), *(("run", place) for place in places)]
        assert len(found.signature) == 64

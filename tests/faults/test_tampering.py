"""What changes an answer is noticed, and found where it is; what a chain cannot show by itself, a kept head shows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from milepost import CheckpointStore, Head, Verification
from milepost.checkpoint import chain_signature
from support.fault_workload import NAME, WAL, fast_directory, lay
from support.tampering import (
    ENTRIES,
    IN_WAL,
    Dose,
    Tally,
    chain_only,
    closed_store,
    everything,
    file_only,
    flip,
    make_small,
    store_with_wal,
    tamper,
    with_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "5000"))
N: Final = len(ENTRIES)


def _report(what: str, tally: Tally, began: float) -> Tally:
    print(
        f"{what}, MILEPOST_FAULT_SEED={SEED}: {tally.tried:,} bits flipped, {tally.refused:,} files refused, "
        f"{tally.changed:,} with a changed answer, {len(tally.missed)} of these unnoticed, {len(tally.problems)} raw errors "
        f"in {time.monotonic() - began:.0f} s"
    )
    return tally


def _every(what: str, **options: Any) -> Tally:
    began, parts = time.monotonic(), os.cpu_count() or 1
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        doses = [Dose(part=(part, parts), **options) for part in range(parts)]
        return _report(what, sum(pool.map(flip, doses), Tally()), began)


# Bits


@pytest.mark.parametrize("writable", [False, True])
def test_a_flipped_bit_of_the_file_changes_no_answer_unnoticed(writable: bool) -> None:
    """A sample of them: the file is refused, or verify() finds a fault, or every answer is the right one."""
    began = time.monotonic()
    tally = _report("file", flip(Dose(sample=60, seed=SEED, writable=writable)), began)
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.changed > 8
    assert tally.refused > 4


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # told, unless in the last commit
@pytest.mark.parametrize("writable", [False, True])
def test_a_flipped_bit_of_the_wal_drops_no_row_unnoticed_by_who_keeps_the_head(writable: bool) -> None:
    """A sample of them; SQLite takes the rest of such a WAL for a tear, and drops it without a word."""
    began = time.monotonic()
    tally = _report("WAL", flip(Dose(wal=True, notice=with_head, sample=15, seed=SEED, writable=writable)), began)
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.changed == 15


@pytest.mark.long
def test_no_flipped_bit_of_the_file_changes_an_answer_unnoticed() -> None:
    """Promise C1: every bit."""
    tally = _every("file")
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.changed > 20_000


@pytest.mark.long
def test_no_flipped_bit_of_a_file_that_is_written_to_changes_an_answer_unnoticed() -> None:
    """Every bit, and an append to what is left of the file."""
    tally = _every("file, writable", writable=True)
    assert (tally.missed, tally.problems) == ([], [])


@pytest.mark.long
def test_no_flipped_bit_of_the_wal_drops_a_row_unnoticed_by_who_keeps_the_head() -> None:
    """Promise C2: every bit."""
    tally = _every("WAL", wal=True, notice=with_head)
    assert (tally.missed, tally.problems) == ([], [])
    assert tally.changed > 100_000


# Broken variants: what the harness is worth


@pytest.mark.parametrize("notice", [chain_only, file_only])
def test_half_a_verification_is_caught(notice: Callable[[CheckpointStore, Head], Iterable[Any]]) -> None:
    """Signatures do not see an index that disagrees; SQLite does not see a number that is another one."""
    began = time.monotonic()
    tally = flip(Dose(notice=notice, sample=5000, seed=SEED, until_missed=True))
    assert len(_report(notice.__name__, tally, began).missed) == 1


def test_a_quick_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not compare the indexes with their tables."""
    began = time.monotonic()
    monkeypatch.setattr(sys.modules["milepost.rows.integrity"], "_FIRST_PROBLEM", "PRAGMA quick_check(1)")
    tally = flip(Dose(sample=5000, seed=SEED, until_missed=True))
    assert len(_report("quick_check", tally, began).missed) == 1


def test_a_chain_alone_does_not_see_a_wal_that_rots() -> None:
    """What is left is a shorter, intact chain: this is why a head is to be kept elsewhere."""
    tally = flip(Dose(wal=True, notice=everything, sample=15, seed=SEED))
    assert (len(tally.missed), tally.problems) == (15, [])


# Rows

CHANGES: Final = {
    "run_number": "run_number % 3 + 1",
    "stage_number": "stage_number % 3 + 1",
    "sequence": "sequence + 1000",
    "offset": "offset + 1",
    "event_time_ms": "event_time_ms - 1",
    "idempotency_key": "idempotency_key || ' '",
    "at_ms": "at_ms + 3600000",
    "signature": "CAST(substr(signature, 1, 31) || x'00' AS BLOB)",
}
_COPY: Final = (
    "INSERT INTO entry SELECT {to}, run_number, stage_number, sequence + 1000, offset, event_time_ms, "
    "idempotency_key || ' again', at_ms, signature, run_signature, entries_so_far, detail FROM entry "
    "WHERE position = {position}"
)
_PUT_OLDER: Final = (
    "UPDATE entry SET (offset, at_ms, signature) = (SELECT offset, at_ms, signature FROM entry WHERE position = 1) "
    "WHERE position = {position}"
)
_SHIFT: Final = (
    "UPDATE entry SET position = -position WHERE position > {position}",
    "UPDATE entry SET position = -position {by} WHERE position < 0",
)


class Edit(NamedTuple):
    """What is done to the row at a position, where it can be done, and where it must be found, as what."""

    statements: tuple[str, ...]
    positions: range
    located: Callable[[int], tuple[str, int]]


EDITS: Final = {
    "deleted": Edit(("DELETE FROM entry WHERE position = {position}",), range(1, N), lambda p: ("missing", p)),
    "deleted, gap closed": Edit(
        ("DELETE FROM entry WHERE position = {position}", _SHIFT[0], _SHIFT[1].replace("{by}", "- 1")),
        range(1, N),
        lambda p: ("link", p),
    ),
    "inserted": Edit((_SHIFT[0], _SHIFT[1].replace("{by}", "+ 1"), _COPY), range(1, N), lambda p: ("link", p + 1)),
    "replayed": Edit((_COPY.replace("{to}", str(N + 1)),), range(1, N + 1), lambda p: ("link", N + 1)),
    "replaced by an older one": Edit(
        (_PUT_OLDER,),
        range(2, N + 1),
        lambda p: ("link", p),
    ),
    "swapped with the next": Edit(
        (
            "UPDATE entry SET position = -1 WHERE position = {position}",
            "UPDATE entry SET position = {position} WHERE position = {to}",
            "UPDATE entry SET position = {to} WHERE position = -1",
        ),
        range(1, N),
        lambda p: ("link", p),
    ),
}


EVERYWHERE: Final = pytest.mark.parametrize(
    "everywhere", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"]
)


def _some(positions: range, *, everywhere: bool) -> list[int]:
    """All of these positions, or the ends, their neighbours and every sixth."""
    ends = {*positions[:2], *positions[-2:]}
    return [each for each in positions if everywhere or each in ends or each % 6 == 0]


@pytest.fixture(scope="module")
def store_file() -> Iterator[tuple[Path, bytes]]:
    """A store of forty rows to be laid anew for each edit."""
    with fast_directory() as directory:
        yield directory, closed_store(directory)[NAME]


def _edited(store_file: tuple[Path, bytes], position: int, *statements: str) -> Path:
    directory, content = store_file
    lay(directory, {NAME: content})
    edits = [statement.format(position=position, to=position + 1) for statement in statements]
    assert all(tamper(directory / NAME, *edits))
    return directory / NAME


def _verify(path: Path, **options: Any) -> Verification:
    with CheckpointStore.open_readonly(path) as store:
        return store.verify(**options)


def _places(verification: Verification) -> list[tuple[str, int | None]]:
    return [(fault.kind, fault.position) for fault in verification.faults]


@EVERYWHERE
@pytest.mark.parametrize("column", CHANGES)
def test_every_edit_of_a_column_is_located(store_file: tuple[Path, bytes], column: str, everywhere: bool) -> None:
    """Promise C3: in some rows, or in each, and no other row is accused."""
    change = f"UPDATE entry SET {column} = {CHANGES[column]} WHERE position = {{position}}"
    for position in _some(range(1, N + 1), everywhere=everywhere):
        places = _places(_verify(_edited(store_file, position, change)))
        assert [place for kind, place in places if kind == "link"] == [position]


@EVERYWHERE
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_every_other_edit_of_rows_is_located(store_file: tuple[Path, bytes], edit: Edit, everywhere: bool) -> None:
    """At some places, or at every one: the first fault stands where the first row is not as it was."""
    for position in _some(edit.positions, everywhere=everywhere):
        assert _places(_verify(_edited(store_file, position, *edit.statements)))[0] == edit.located(position)


@pytest.mark.parametrize("both", [False, True])
def test_an_edited_row_with_a_link_of_its_own_is_found_there_or_at_the_next_row(
    store_file: tuple[Path, bytes], both: bool
) -> None:
    """Anyone can compute a link: the run's own does not fit; if that is forged too, the next row follows from neither."""
    alone = next(position for position, entry in enumerate(ENTRIES) if entry.run_id != ENTRIES[0].run_id)
    for position, entry in enumerate(ENTRIES, 1):
        changed = entry._replace(at_ms=entry.at_ms + 1)
        link = chain_signature([*ENTRIES[: position - 1], changed])
        run_link = chain_signature([*[e for e in ENTRIES[: position - 1] if e.run_id == entry.run_id], changed])
        forge = f"UPDATE entry SET at_ms = at_ms + 1, signature = x'{link}' WHERE position = {{position}}"
        if both and position > alone:  # until then the first run has no link of its own beside the chain's
            forge = forge.replace(" WHERE", f", run_signature = x'{run_link}' WHERE")
        places = _places(_verify(_edited(store_file, position, forge)))
        if not both and position > alone:
            assert places[0] == ("run", position)
            if position < N:  # both are told: what was forged, and what only shows it
                one, two = map(str, _verify(store_file[0] / NAME).faults[:2])
                assert "was changed together with its signature" in one
                assert two.endswith("does not follow from the row before it, which was changed together with its signature")
        elif position < N:
            assert places[0] == ("link", position + 1)
        else:  # a sound chain, which only a kept head tells from the genuine one
            assert places == []


# What a chain cannot show by itself: whoever can compute links can compute them all. The forger here is milepost itself.


@pytest.fixture(scope="module")
def head() -> Head:
    """The head that somebody has kept."""
    return Head(N, chain_signature(ENTRIES))


@pytest.fixture
def forged(store_file: tuple[Path, bytes]) -> Path:
    """Where to forge a store."""
    lay(store_file[0], {})
    return store_file[0] / NAME


@pytest.mark.parametrize("kept", [0, 1, N // 2, N - 1])
def test_a_cut_tail_is_seen_only_with_a_kept_head(forged: Path, head: Head, kept: int) -> None:
    """Promise C4: with the heads of the runs restated, what is left is a sound chain."""
    make_small(forged, ENTRIES[:kept])
    assert _verify(forged).ok
    assert _places(_verify(forged, expected=head)) == [("head", N)]


@pytest.mark.parametrize("position", [1, N // 2, N])
def test_a_chain_written_anew_is_seen_only_with_a_kept_head(forged: Path, head: Head, position: int) -> None:
    """From an edited row to the end, everything recomputed; the last row is the forged tail."""
    changed = ENTRIES[position - 1]._replace(at_ms=77)
    make_small(forged, [*ENTRIES[: position - 1], changed, *ENTRIES[position:]])
    assert _verify(forged).ok
    assert _places(_verify(forged, expected=head)) == [("head", N)]


def test_a_row_forged_after_the_kept_head_is_seen_only_by_comparing_heads(forged: Path, head: Head) -> None:
    """A chain that contains the head may have grown: whoever knows that nobody wrote compares the heads themselves."""
    make_small(forged, [*ENTRIES, ENTRIES[-1]._replace(sequence=1000, idempotency_key="forged")])
    assert _verify(forged, expected=head).ok
    with CheckpointStore.open_readonly(forged) as store:
        assert store.head() != head


def test_an_older_copy_is_seen_only_with_a_kept_head(forged: Path, head: Head) -> None:
    """Every byte of it is genuine."""
    make_small(forged, ENTRIES[:30])
    older = forged.read_bytes()
    with CheckpointStore(forged, durability="normal") as store:
        store.append_many(ENTRIES[30:])
        assert store.head() == head
    lay(forged.parent, {NAME: older})
    assert _verify(forged).ok
    assert _places(_verify(forged, expected=head)) == [("head", N)]


def test_a_lost_wal_is_seen_only_with_a_kept_head(forged: Path, head: Head) -> None:
    """The rows that were in it are gone; what is left is sound."""
    files = store_with_wal(forged.parent)
    lay(forged.parent, files)
    assert _verify(forged, expected=head).entries == N
    del files[WAL]
    lay(forged.parent, files)
    assert (_verify(forged).ok, _verify(forged).entries) == (True, N - IN_WAL)
    assert _places(_verify(forged, expected=head)) == [("head", N)]

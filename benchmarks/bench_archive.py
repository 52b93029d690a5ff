"""What does an archive take, how long do others wait for it, and does the file get as small as what stays?"""

from __future__ import annotations

import shutil
import threading
from itertools import count
from time import perf_counter_ns
from typing import TYPE_CHECKING

import apsw
import pytest

from benchmarks import floor
from benchmarks.race import Figure, each, together
from benchmarks.workload import BATCH, checkpoint, many_runs
from milepost import Checkpoint, CheckpointStore, Head, Watermark
from milepost.reader import CACHE_KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings

CALLS = 500
STEP = 5_000  # entries deleted in one commit, as an archive does
COPIED_PAGES, FREED_PAGES, WRITE_BACK_PAGES = 4096, 1000, 4000  # as milepost does


@pytest.fixture(scope="module")
def entries(dose: Dose) -> int:
    """How many entries are archived; a tenth of them comes after the cut."""
    return dose.of(1_000_000, 50_000)


@pytest.fixture(scope="module")
def original(directory: Path, entries: int) -> Iterator[Path]:
    """A closed store of that many entries, and a tenth more."""
    path = directory / "archived.milepost"
    with CheckpointStore(path, durability="normal") as store:
        for begin in range(1, entries * 11 // 10, BATCH):
            numbers = range(begin, min(begin + BATCH, entries * 11 // 10 + 1))
            store.append_many([checkpoint(many_runs(number)) for number in numbers])
    yield path
    path.unlink()


def _own(store: CheckpointStore, after: int) -> list[Checkpoint]:
    """Return what a pipeline has recorded after a position."""
    return [each for each in store.history(after=after) if not each.stage.startswith("milepost:")]


def _cut(store: CheckpointStore, position: int) -> Head:
    receipt, _, _ = next(store.receipts(after=position - 1, limit=1))
    return Head(receipt.position, receipt.signature)


@pytest.fixture
def backup(original: Path, place: Callable[[], Path]) -> Callable[[], Callable[[], Timings]]:
    """A contestant that backs the file up."""

    def prepare() -> Callable[[], Timings]:
        store = CheckpointStore.open_readonly(original)

        def run() -> Timings:
            timings = together(lambda: store.backup(place()), 1)
            store.close()
            return [timing / 1000 for timing in timings]

        return run

    return prepare


@pytest.mark.parametrize("workers", [1, 2])
def test_archive(
    race: Race,
    original: Path,
    entries: int,
    place: Callable[[], Path],
    backup: Callable[[], Callable[[], Timings]],
    workers: int,
) -> None:
    """Measure an archive of all but a tenth, beside a backup of the file."""

    def archive() -> Callable[[], Timings]:
        path = place()
        shutil.copyfile(original, path)
        store = CheckpointStore(path)

        def run() -> Timings:
            cut = _cut(store, entries)
            timings = together(lambda: store.archive(place(), before=cut, workers=workers), 1)
            store.close()
            return [timing / 1000 for timing in timings]

        return run

    with_workers = "" if workers == 1 else f", {workers} workers"
    race(f"archive {entries:,}{with_workers} (ms; backup)", backup, archive, rounds=3, figure=Figure(4))


def test_by_hand(
    race: Race, original: Path, entries: int, place: Callable[[], Path], backup: Callable[[], Callable[[], Timings]]
) -> None:
    """
    Measure the part of SQLite, beside a backup: a copy of the file, and the same deletes by raw APSW.

    It verifies nothing, and nothing goes on after a kill. The commits have the same size, and the WAL is written back at
    the same length.
    """

    def by_hand() -> Callable[[], Timings]:
        path = place()
        shutil.copyfile(original, path)
        connection = floor.connect(path, "full")
        connection.pragma("cache_size", -CACHE_KIB)
        connection.wal_autocheckpoint(WRITE_BACK_PAGES)

        def run() -> Timings:
            timings = together(lambda: _archive_by_hand(connection, place(), entries), 1)
            connection.close()
            return [timing / 1000 for timing in timings]

        return run

    race(f"{entries:,} copied and deleted by hand (ms; backup)", backup, by_hand, rounds=3)


def _archive_by_hand(connection: apsw.Connection, target: Path, entries: int) -> None:
    with apsw.Connection(str(target)) as copy, copy.backup("main", connection, "main") as steps:
        while not steps.done:
            steps.step(COPIED_PAGES)
    for begin in range(0, entries, STEP):
        through = min(begin + STEP, entries)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO chain_base (position, signature) VALUES (?, zeroblob(32))", (through,))
        connection.execute("DELETE FROM chain_base WHERE position < ?", (through,))
        connection.execute("DELETE FROM entry WHERE position BETWEEN ? AND ?", (begin + 1, through))
        connection.execute("COMMIT")
    while connection.pragma("freelist_count"):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA incremental_vacuum({FREED_PAGES})").fetchall()
        connection.execute("COMMIT")
    connection.wal_checkpoint()


def test_others_wait(race: Race, original: Path, entries: int, place: Callable[[], Path]) -> None:
    """Measure the longest durable append beside an archive, and beside nothing."""
    path = place()
    shutil.copyfile(original, path)
    numbers = count(1)

    def longest(stop: threading.Event) -> float:
        most = 0.0
        with CheckpointStore(path) as other:
            while not stop.is_set():
                number = next(numbers)
                begin = perf_counter_ns()
                other.advance("other", "other", Watermark(number, 0), idempotency_key=f"other-{number}")
                most = max(most, (perf_counter_ns() - begin) / 1e6)
        return most

    def alone() -> float:
        stop = threading.Event()
        threading.Timer(1, stop.set).start()
        return longest(stop)

    def beside() -> float:
        stop = threading.Event()
        with CheckpointStore(path) as store:
            cut = _cut(store, entries)

            def archive() -> None:
                store.archive(place(), before=cut)
                stop.set()

            thread = threading.Thread(target=archive)
            thread.start()
            most = longest(stop)
            thread.join()
        return most

    race.once("longest append beside an archive (ms; alone)", alone, beside, Figure(200, own=True))


def test_size(race: Race, original: Path, entries: int, place: Callable[[], Path]) -> None:
    """Measure the file after an archive, beside a file that never had more than what stays."""
    path = place()
    shutil.copyfile(original, path)

    def fresh() -> float:
        made = place()
        with CheckpointStore(path) as store, CheckpointStore(made, durability="normal") as small:
            small.append_many(_own(store, entries))
        return made.stat().st_size / 1e6

    def archived() -> float:
        with CheckpointStore(path) as store:
            store.archive(place(), before=_cut(store, entries))
        return path.stat().st_size / 1e6

    race.once("the file afterwards (MB; what stays alone)", fresh, archived, Figure(1.2))


@pytest.mark.parametrize("lookup", ["latest_for_stage(stage, run)", "resume_points()", "verify()"])
def test_after_five_archives(
    race: Race, original: Path, entries: int, place: Callable[[], Path], dose: Dose, lookup: str
) -> None:
    """Measure a lookup after five archives, beside the same in the whole file; verify, beside a file of what stays."""
    path, small = place(), place()
    shutil.copyfile(original, path)
    with CheckpointStore(path) as store:
        for part in range(1, 6):
            store.archive(place(), before=_cut(store, entries * part // 5))
        with CheckpointStore(small, durability="normal") as made:
            made.append_many(_own(store, entries))
    run_id, stage, *_ = many_runs(entries * 11 // 10)
    ask: dict[str, Callable[[CheckpointStore], object]] = {
        "latest_for_stage(stage, run)": lambda store: store.latest_for_stage(stage, run_id=run_id),
        "resume_points()": lambda store: store.resume_points(),
        "verify()": lambda store: store.verify(),
    }
    calls = 1 if lookup == "verify()" else CALLS

    def asked(file: Path) -> Callable[[], Callable[[], Timings]]:
        def prepare() -> Callable[[], Timings]:
            store = CheckpointStore.open_readonly(file)

            def run() -> Timings:
                timings = each(lambda _: ask[lookup](store), range(calls))
                store.close()
                return timings

            return run

        return prepare

    of_what_stays = lookup == "verify()"
    race(
        f"{lookup} after 5 archives ({'what stays' if of_what_stays else 'before'})",
        asked(small if of_what_stays else original),
        asked(path),
        rounds=dose.of(9, 3),
        figure=Figure(1.2 if of_what_stays else 1.05),
        warm_up=True,
    )

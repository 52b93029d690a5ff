"""How does milepost compare with other stores? Each of them, like milepost, takes turns with the floor."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import closing
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from benchmarks import floor
from benchmarks.bench_append import appending, appending_in_threads, as_it_is
from benchmarks.conftest import peer_results
from benchmarks.peers import PEERS, DiskCache, Peer
from benchmarks.race import Race, together
from benchmarks.workload import BATCH, checkpoint, many_runs, offset_key, one_run, random_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks.conftest import Dose
    from benchmarks.race import Result, Timings
    from benchmarks.workload import Row

    Place = Callable[[], Path]

QUICK_BATCH: Final = 5_000
THREADS: Final = 8
KEYS: Final = {"keys from offsets": offset_key, "random keys": random_key}

pytestmark = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


class Cells:
    """A column of the peers' table. It runs a race, and notes its ratio or why there is none."""

    def __init__(self, peer: type[Peer], benchmark: BenchmarkFixture, cells: dict[str, dict[str, str]]) -> None:
        self._peer, self._benchmark, self._cells = peer, benchmark, cells

    def begin(self, work: str) -> None:
        """Skip a peer that is not installed, and note that in the table."""
        self._work = work
        self._note("not installed")
        if not self._peer.installed():
            pytest.skip(f"{self._peer.name} is not installed")
        self._note("")

    def make(self, path: Path, durability: str) -> Peer:
        """Return the peer, or skip it if it has no such durability."""
        try:
            return self._peer(path, durability)
        except NotImplementedError:
            self.cannot()

    def cannot(self) -> NoReturn:
        """Note that this peer cannot do this work."""
        self._note("–")
        pytest.skip(f"{self._peer.name} cannot do this")

    def race(self, *args: Any, **kwargs: Any) -> None:
        """Run a race of the floor and the peer."""
        results: list[Result] = []
        result = Race(self._benchmark, results)(self._work, *args, **kwargs)
        self._benchmark.extra_info["peer"] = self._peer.name
        self.note_ratio(result.ratio)

    def note_ratio(self, ratio: float) -> None:
        """Put a ratio into the table."""
        self._note(f"{ratio:.2f}")

    def _note(self, text: str) -> None:
        self._cells.setdefault(self._work, {})[self._peer.name] = text


@pytest.fixture
def cells(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, peer: type[Peer]) -> Cells:
    """Return the column of this peer."""
    return Cells(peer, benchmark, request.config.stash[peer_results])


@pytest.mark.parametrize(("durability", "averaged"), [("full", None), ("normal", mean)])
def test_append(cells: Cells, place: Place, dose: Dose, durability: str, averaged: Any) -> None:
    """Measure an append: the median of durable ones, and the mean of those that survive only a crash of the process."""
    cells.begin(f"append, {durability}, {'mean' if averaged else 'p50'}")
    # A mean, over rounds in which each of them writes its WAL back.
    operations, rounds = (dose.of(200, 50), dose.of(21, 7)) if averaged is None else (dose.of(2_000, 100), dose.of(9, 3))
    with closing(floor.create(place(), durability)) as connection, closing(cells.make(place(), durability)) as peer:
        cells.race(
            appending(partial(connection.execute, floor.INSERT), as_it_is, operations),
            appending(peer.append, checkpoint, operations),
            rounds=rounds,
            warm_up=True,
            **({"averaged": averaged} if averaged else {}),
        )
        last = operations * (rounds + 1)
        assert peer.latest_for_stage(*_place(last)).sequence == last


def test_threads(cells: Cells, place: Place, dose: Dose) -> None:
    """Measure durable appends by 8 threads, as a multiple of the floor's, which share a connection and a lock."""
    cells.begin(f"append, full, {THREADS} threads (times as fast)")
    operations = dose.of(200, 50)
    lock = threading.Lock()
    with closing(floor.create(place(), "full")) as connection, closing(cells.make(place(), "full")) as peer:

        def insert(row: Row) -> None:
            with lock:
                connection.execute(floor.INSERT, row)

        cells.race(
            appending_in_threads(insert, as_it_is, THREADS, operations),
            appending_in_threads(peer.append, checkpoint, THREADS, operations),
            rounds=dose.of(7, 3),
            rate=True,
        )
        assert sum(1 for _ in peer.history()) == THREADS * operations * dose.of(7, 3)


@pytest.mark.parametrize("keys", KEYS)
def test_append_many(cells: Cells, peer: type[Peer], place: Place, dose: Dose, keys: str) -> None:
    """Measure an entry of a durable batch into a new file: 100,000 entries, or 5,000 in the quick dose."""
    batch = dose.of(BATCH, QUICK_BATCH)
    cells.begin(f"append_many of {batch:,}, {keys}")
    if peer.append_many is Peer.append_many:
        cells.cannot()
    rows = [one_run(number, KEYS[keys]) for number in range(1, batch + 1)]
    entries = [checkpoint(row) for row in rows]

    def theirs() -> Callable[[], Timings]:
        connection = floor.create(place())

        def run() -> Timings:
            timings = together(lambda: floor.append_many(connection, rows), batch)
            connection.close()
            return timings

        return run

    def ours() -> Callable[[], Timings]:
        place_of_it = cells.make(place(), "full")

        def run() -> Timings:
            timings = together(lambda: place_of_it.append_many(entries), batch)
            assert place_of_it.latest_for_stage(*_place(batch)) == entries[-1]
            place_of_it.close()
            return timings

        return run

    cells.race(theirs, ours, rounds=dose.of(5, 3))


@pytest.fixture
def filled_peer(
    cells: Cells, peer: type[Peer], place: Place, dose: Dose, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Peer, int]]:
    """Fill a floor with its index, and a peer, with 100,000 rows of many runs, or 5,000 in the quick dose."""
    size = dose.of(BATCH, QUICK_BATCH)
    cells.begin(f"{request.node.originalname.removeprefix('test_')} of {size:,}")
    rows = [many_runs(number) for number in range(1, size + 1)]
    with closing(floor.create(place(), "normal")) as connection, closing(peer(place(), _least(peer))) as full:
        floor.append_many(connection, rows)
        connection.execute(floor.INDEXES[0])
        if peer.append_many is Peer.append_many:
            for row in rows:
                full.append(checkpoint(row))
        else:
            full.append_many(map(checkpoint, rows))
        yield connection, full, size


def _least(peer: type[Peer]) -> str:
    return "full" if peer.name == "eventsourcing" else "normal"


def test_latest_for_stage(cells: Cells, filled_peer: tuple[Any, Peer, int], dose: Dose) -> None:
    """Measure a lookup of the last checkpoint of a stage of a run."""
    connection, peer, size = filled_peer
    row = many_runs(size)
    assert peer.latest_for_stage(row[1], row[0]) == checkpoint(row)
    calls = 200

    def look_up_raw() -> None:
        for _ in range(calls):
            connection.execute(floor.LATEST_OF_RUN_AND_STAGE, row[:2]).get  # noqa: B018 - reads the row

    def look_up() -> None:
        for _ in range(calls):
            peer.latest_for_stage(row[1], row[0])

    cells.race(
        lambda: lambda: together(look_up_raw, calls),
        lambda: lambda: together(look_up, calls),
        rounds=dose.of(31, 9),
        warm_up=True,
    )


def test_history(cells: Cells, filled_peer: tuple[Any, Peer, int], dose: Dose) -> None:
    """Measure a walk over all Checkpoints, for each entry. The floor fetches tuples."""
    connection, peer, size = filled_peer
    assert sum(1 for _ in peer.history()) == size
    cells.race(
        lambda: lambda: together(lambda: deque(connection.execute(floor.SCAN), maxlen=1), size),
        lambda: lambda: together(lambda: deque(peer.history(), maxlen=1), size),
        rounds=dose.of(7, 3),
    )


@pytest.mark.parametrize("keys", KEYS)
def test_size(cells: Cells, peer: type[Peer], place: Place, dose: Dose, benchmark: BenchmarkFixture, keys: str) -> None:
    """Measure the closed file in bytes an entry, with 100,000 entries, or 5,000 in the quick dose."""
    batch = dose.of(BATCH, QUICK_BATCH)
    cells.begin(f"bytes an entry, {keys}")
    rows = [one_run(number, KEYS[keys]) for number in range(1, batch + 1)]
    raw = place()
    with closing(floor.create(raw)) as connection:
        floor.append_many(connection, rows)

    def size() -> int:
        path = place()
        with closing(peer(path, _least(peer))) as full:
            if peer.append_many is Peer.append_many:
                for row in rows:
                    full.append(checkpoint(row))
            else:
                full.append_many(map(checkpoint, rows))
        return (path / "cache.db" if peer is DiskCache else path).stat().st_size

    pedantic: Any = benchmark.pedantic
    cells.note_ratio(pedantic(size, rounds=1) / raw.stat().st_size)


def _place(number: int) -> tuple[str, str]:
    run_id, stage, *_ = one_run(number)
    return stage, run_id

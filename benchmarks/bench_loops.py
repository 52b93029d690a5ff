"""What does a loop cost a record? The floor is the same loop by hand, with raw APSW for its checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import pytest

from benchmarks import floor
from benchmarks.race import Figure, each, together
from benchmarks.workload import RUN_ID, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import apsw

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings

    Place = Callable[[], Path]
    Contestant = Callable[[], Callable[[], Timings]]

EVERY: Final = 1_000
"""Records from one checkpoint to the next, as `checkpointed` has it by default."""

WORKERS: Final = 8


@pytest.fixture
def store(place: Place) -> Iterator[CheckpointStore]:
    """Give a store that appends at the speed of SQLite and not of the disk."""
    with CheckpointStore(place(), durability="normal") as store:
        yield store


@pytest.fixture
def connection(place: Place) -> Iterator[apsw.Connection]:
    """Give a file of the floor."""
    connection = floor.create(place(), "normal")
    yield connection
    connection.close()


def by_hand(connection: apsw.Connection, records: range, every: int, operations: int) -> Contestant:
    """Loop, and insert a row after every so many records."""
    numbers = count(1)

    def loop() -> None:
        for done, _ in enumerate(records, 1):
            if done % every == 0:
                connection.execute(floor.INSERT, one_run(next(numbers)))

    return lambda: lambda: together(loop, operations)


def consumed(make: Callable[[str], Any], operations: int) -> Contestant:
    """Loop over what `make` returns for the name of a new stage."""
    numbers = count(1)

    def prepare() -> Callable[[], Timings]:
        loop = make(f"stage-{next(numbers):05}")

        def run() -> None:
            for _ in loop:
                pass

        return lambda: together(run, operations)

    return prepare


@pytest.mark.parametrize(
    ("name", "options", "figure"),
    [
        ("plain", {}, Figure(150, own=True)),
        ("every_s", {"every_s": 1.0}, None),
        ("transaction", {"transaction": True}, None),
    ],
)
def test_a_record(
    race: Race,
    store: CheckpointStore,
    connection: apsw.Connection,
    dose: Dose,
    name: str,
    options: dict[str, Any],
    figure: Figure | None,
) -> None:
    """Measure 1,000 records of `checkpointed` whose body does nothing, with their checkpoint, in µs."""
    records = range(dose.of(1_000_000, 200_000))

    def loop(stage: str) -> Any:
        return store.checkpointed(records, run_id=RUN_ID, stage=stage, every=EVERY, **options)

    race(
        f"checkpointed, {name}, 1,000 records",
        by_hand(connection, records, EVERY, len(records) // 1_000),
        consumed(loop, len(records) // 1_000),
        rounds=dose.of(15, 5),
        figure=figure,
    )


def test_every_s(race: Race, store: CheckpointStore, dose: Dose) -> None:
    """Measure what `every_s` adds to a record. The floor here is milepost itself, without it."""
    records = range(dose.of(1_000_000, 200_000))

    def loop(stage: str, every_s: float | None) -> Any:
        return store.checkpointed(records, run_id=RUN_ID, stage=stage, every=EVERY, every_s=every_s)

    race(
        "checkpointed with every_s beside without",
        consumed(lambda stage: loop(f"without-{stage}", None), len(records)),
        consumed(lambda stage: loop(f"with-{stage}", 1.0), len(records)),
        rounds=dose.of(15, 5),
        figure=Figure(1.05),
    )


def test_map(race: Race, store: CheckpointStore, dose: Dose) -> None:
    """Measure records a second of `.map` with workers that do nothing. The floor is a ThreadPoolExecutor, and no store."""
    records = range(dose.of(100_000, 20_000))

    def pool() -> Callable[[], Timings]:
        def run() -> None:
            with ThreadPoolExecutor(WORKERS) as executor:
                for _ in executor.map(abs, records):
                    pass

        return lambda: together(run, len(records))

    race(
        f"checkpointed(…).map, {WORKERS} workers (records a second)",
        pool,
        consumed(
            lambda stage: store.checkpointed(records, run_id=RUN_ID, stage=stage, every=EVERY).map(abs, workers=WORKERS),
            len(records),
        ),
        rounds=dose.of(15, 5),
        figure=Figure(100_000, least=True, own=True),
        rate=True,
    )


def _ascending(bag: str, number: int) -> str:
    return f"https://example.org/{bag}/{number:08}"


def _repeated(_: str, number: int) -> str:
    return f"https://example.org/{number:08}"


def _scattered(bag: str, number: int) -> str:
    return sha256(f"{bag}/{number}".encode()).hexdigest()[:28]


@pytest.mark.parametrize(
    ("key", "figure"),
    [
        pytest.param(_ascending, Figure(8, own=True), id="ascending"),
        pytest.param(_repeated, None, id="repeated"),
        pytest.param(_scattered, None, id="scattered"),
    ],
)
def test_once_records(
    race: Race,
    store: CheckpointStore,
    connection: apsw.Connection,
    dose: Dose,
    key: Callable[[str, int], str],
    figure: Figure | None,
    request: pytest.FixtureRequest,
) -> None:
    """
    Measure a new item of `once`, in µs, in one bag after the other. The floor inserts rows of the same keys, by hundreds.

    The keys of a bag ascend; or they are those of the bags before, too; or they lie anywhere in the index, as hashes do.
    """
    connection.execute("CREATE UNIQUE INDEX by_key ON checkpoint (key, stage)")
    stages = count(1)

    def keys_of(stage: str) -> list[str]:
        return [key(stage, number) for number in range(dose.of(50_000, 10_000))]

    def insert() -> Callable[[], Timings]:
        stage = f"stage-{next(stages):05}"
        rows = [(RUN_ID, stage, number, number, 0, name, number) for number, name in enumerate(keys_of(stage))]

        def run() -> None:
            for first in range(0, len(rows), 100):
                floor.append_many(connection, rows[first : first + 100])

        return lambda: together(run, len(rows))

    race(
        f"once, a new item, keys {request.node.callspec.id}",
        insert,
        consumed(lambda stage: store.once(keys_of(stage), run_id=RUN_ID, stage=stage, key=str), dose.of(50_000, 10_000)),
        rounds=dose.of(9, 5),
        figure=figure,
    )


def test_once_skips(race: Race, store: CheckpointStore, connection: apsw.Connection, dose: Dose) -> None:
    """Measure an item of `once` that is recorded already, in µs. The floor looks each one up."""
    items = [f"https://example.org/{number:08}" for number in range(dose.of(100_000, 20_000))]
    for _ in store.once(items, run_id=RUN_ID, stage="bag", key=str):
        pass
    floor.append_many(connection, [(RUN_ID, "bag", number, number, 0, key, number) for number, key in enumerate(items)])
    connection.execute("CREATE UNIQUE INDEX by_key ON checkpoint (key, run, stage)")
    query = "SELECT 1 FROM checkpoint WHERE key = ? AND run = ? AND stage = ?"
    race(
        "once, an item that is done",
        lambda: lambda: each(lambda key: connection.execute(query, (key, RUN_ID, "bag")).get, items),
        consumed(lambda _: store.once(items, run_id=RUN_ID, stage="bag", key=str), len(items)),
        rounds=dose.of(9, 5),
        figure=Figure(3, own=True),
        averaged=lambda timings: sum(timings) / len(timings),
    )


def test_tracked(race: Race, store: CheckpointStore, connection: apsw.Connection, dose: Dose) -> None:
    """Measure a record of `tracked` that is finished at once, in µs."""
    records = range(dose.of(200_000, 50_000))
    numbers = count(1)

    def prepare() -> Callable[[], Timings]:
        stage = f"stage-{next(numbers):05}"

        def run() -> None:
            with store.tracked(run_id=RUN_ID, stage=stage, every=EVERY) as track:
                for offset in records:
                    track(offset)()

        return lambda: together(run, len(records))

    race("tracked, a record", by_hand(connection, records, EVERY, len(records)), prepare, rounds=dose.of(9, 5))

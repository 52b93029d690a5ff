"""What does a lookup cost, and does it grow with the store?"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks import floor
from benchmarks.conftest import SMALL
from benchmarks.race import Figure, each, repeated
from benchmarks.workload import RUN_ENTRIES, SEED, STAGES, checkpoint, many_runs
from milepost import CheckpointStore
from milepost.checkpoint import chain_signature

if TYPE_CHECKING:
    import apsw

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

    Fill = Callable[[int], Filled]

CALLS: Final = 500  # in each round
RECENT: Final = 100  # get and find look up these last entries in turn


@dataclass(frozen=True, slots=True)
class Lookup:
    """One question about a row, with the floor's way and milepost's way to answer it."""

    statement: str
    bindings: Callable[[Row], tuple[object, ...]]
    ask: Callable[[CheckpointStore, Row], object]
    limit: float = 2.1


LOOKUPS: Final = {
    "latest()": Lookup(floor.LATEST, lambda row: (), lambda store, row: store.latest()),
    "latest(run)": Lookup(floor.LATEST_OF_RUN, lambda row: row[:1], lambda store, row: store.latest(row[0])),
    "latest_for_stage(stage)": Lookup(
        floor.LATEST_OF_STAGE, lambda row: row[1:2], lambda store, row: store.latest_for_stage(row[1])
    ),
    "latest_for_stage(stage, run)": Lookup(
        floor.LATEST_OF_RUN_AND_STAGE, lambda row: row[:2], lambda store, row: store.latest_for_stage(row[1], run_id=row[0])
    ),
    "resume_point_for_stage(stage, run)": Lookup(
        floor.LATEST_OF_RUN_AND_STAGE,
        lambda row: row[:2],
        lambda store, row: store.resume_point_for_stage(row[1], run_id=row[0]),
    ),
    "chain_signature()": Lookup(
        floor.LATEST_OF_RUN_AND_STAGE, lambda row: row[:2], lambda store, row: store.chain_signature(), 1.5
    ),
    "chain_signature(run)": Lookup(
        floor.LATEST_OF_RUN_AND_STAGE, lambda row: row[:2], lambda store, row: store.chain_signature(row[0]), 1.5
    ),
    "get": Lookup(floor.GET, lambda row: row[:3], lambda store, row: store.get(row[0], row[1], row[2])),
    "find": Lookup(floor.FIND, lambda row: row[5:6], lambda store, row: list(store.find(row[5]))),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookup(race: Race, filled: Fill, dose: Dose, name: str, size: int) -> None:
    """Measure a lookup at the end of the chain, where a pipeline looks, in µs."""
    lookup, files = LOOKUPS[name], filled(size)
    last = _last(size)
    with CheckpointStore(files.path) as store, closing(floor.connect(files.floor_path, "full")) as connection:
        _check(lookup, name, store, connection, last[-1], size)
        race(
            f"{name} of {size:,}",
            _asking_floor(connection, lookup, last),
            _asking(store, lookup, last),
            rounds=dose.of(41, 11),
            figure=Figure(lookup.limit),
            warm_up=True,
            tail=lambda: each(partial(lookup.ask, store), last * (CALLS // RECENT) * 4),
        )


@pytest.mark.parametrize("name", ["get", "find"])
def test_lookup_anywhere(race: Race, filled: Fill, dose: Dose, name: str, large: int) -> None:
    """Measure a lookup anywhere in the chain, in µs. SQLite's cache seldom has the pages."""
    lookup, files = LOOKUPS[name], filled(large)
    places = random.Random(SEED)
    with CheckpointStore(files.path) as store, closing(floor.connect(files.floor_path, "full")) as connection:
        rows = [many_runs(places.randint(1, large)) for _ in range(CALLS)]
        for row in rows:
            _check(lookup, name, store, connection, row, large)
        race(
            f"{name} of {large:,}, anywhere",
            _asking_floor(connection, lookup, rows),
            _asking(store, lookup, rows),
            rounds=dose.of(41, 11),
            figure=Figure(lookup.limit),
            warm_up=True,
            tail=lambda: each(partial(lookup.ask, store), rows * 4),
        )


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookup_growth(race: Race, filled: Fill, dose: Dose, name: str, large: int) -> None:
    """Measure a lookup in the largest store, in µs. The same lookup in a store of 1,000 replaces the floor."""
    lookup = LOOKUPS[name]
    with CheckpointStore(filled(SMALL).path) as small, CheckpointStore(filled(large).path) as store:
        race(
            f"{name}: {SMALL:,} → {large:,}",
            _asking(small, lookup, _last(SMALL)),
            _asking(store, lookup, _last(large)),
            rounds=dose.of(41, 11),
            figure=Figure(1.3),
            warm_up=True,
        )


def _last(size: int) -> list[Row]:
    return [many_runs(number) for number in range(size - RECENT + 1, size + 1)]


def _asking(store: CheckpointStore, lookup: Lookup, rows: list[Row]) -> Callable[[], Callable[[], Timings]]:
    ask = lookup.ask

    def run() -> None:
        for row in rows:
            ask(store, row)

    return lambda: lambda: _per_call(run, len(rows))


def _asking_floor(connection: apsw.Connection, lookup: Lookup, rows: list[Row]) -> Callable[[], Callable[[], Timings]]:
    statement, every = lookup.statement, [lookup.bindings(row) for row in rows]

    def run() -> None:
        for bindings in every:
            connection.execute(statement, bindings).get  # noqa: B018 - reads the row

    return lambda: lambda: _per_call(run, len(every))


def _per_call(run: Callable[[], None], calls: int) -> Timings:
    return [time / calls for time in repeated(run, CALLS // calls)]


def _check(lookup: Lookup, name: str, store: CheckpointStore, connection: apsw.Connection, row: Row, size: int) -> None:
    """Check that both give the recorded answer."""
    answer, raw = lookup.ask(store, row), connection.execute(lookup.statement, lookup.bindings(row)).get
    if name.startswith("chain_signature"):
        first = 1 if name == "chain_signature()" else (size - 1) // RUN_ENTRIES * RUN_ENTRIES + 1
        if size - first < 200_000:  # more would take longer than the benchmark
            assert answer == chain_signature(checkpoint(many_runs(number)) for number in range(first, size + 1))
        else:
            assert answer == store.head().signature
        return
    if name in {"get", "find"}:
        expected = row
    elif "stage" in name:
        expected = next(many_runs(number) for number in range(size, 0, -1) if many_runs(number)[1] == row[1])
    else:
        expected = many_runs(size)
    entry = checkpoint(expected)
    assert raw == expected
    assert row[1] in STAGES
    assert answer == ([entry] if name == "find" else entry[:4] if name.startswith("resume") else entry)

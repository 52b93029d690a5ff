"""How fast does milepost verify a chain?"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.race import Figure, repeated, together
from benchmarks.workload import BATCH, checkpoint, many_runs, one_run
from milepost import CheckpointStore
from milepost.checkpoint import chain_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings
    from benchmarks.workload import Row

MESSAGE: Final = bytes(range(125))
HASHES: Final = 20_000
MULTIPLE: Final = 350_000 * 0.4e-6  # 350,000 entries/s if one SHA-256 of 125 bytes takes 0.4 µs


@pytest.fixture(scope="module", params=[one_run, many_runs], ids=["one run", "10 runs, 3 stages"])
def store(request: pytest.FixtureRequest, directory: Path) -> Iterator[CheckpointStore]:
    """Fill a store with 100,000 entries of one run, whose chain is the file's, or of many, with their own chains."""
    row: Callable[[int], Row] = request.param
    path = directory / f"verify-{row.__name__}.milepost"
    entries = [checkpoint(row(number)) for number in range(1, BATCH + 1)]
    with CheckpointStore(path) as store:
        store.append_many(entries)
    with CheckpointStore(path) as store:
        assert store.chain_signature() == chain_signature(entries)
        yield store


def verifying(store: CheckpointStore, workers: int) -> Callable[[], Callable[[], Timings]]:
    """Verify everything, and check that no fault is found."""
    head = store.head()

    def run() -> Timings:
        found = []
        timings = together(lambda: found.append(store.verify(workers=workers)), head.entries)
        assert (found[0].ok, found[0].entries, found[0].signature) == (True, head.entries, head.signature)
        return timings

    return lambda: run


def test_verify(race: Race, store: CheckpointStore, dose: Dose, request: pytest.FixtureRequest) -> None:
    """Measure verified entries a second, beside SHA-256 hashes of 125 bytes a second with hashlib."""
    race(
        f"verify, {request.node.callspec.id} (a second; SHA-256)",
        lambda: lambda: repeated(lambda: sha256(MESSAGE).digest(), HASHES),
        verifying(store, 1),
        rounds=dose.of(9, 3),
        figure=Figure(MULTIPLE, least=True),
        rate=True,
    )


def test_verify_with_two_workers(race: Race, filled: Callable[[int], Filled], dose: Dose, large: int) -> None:
    """Measure entries a second that two workers verify in a long file. One worker replaces the floor."""
    with CheckpointStore(filled(large).path) as store:
        race(
            f"verify {large:,} (a second; 1 → 2 workers)",
            verifying(store, 1),
            verifying(store, 2),
            rounds=dose.of(5, 3),
            figure=Figure(1.7, least=True),
            rate=True,
        )

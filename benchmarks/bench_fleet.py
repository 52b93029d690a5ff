"""What does it cost to ask many files at once, beside a loop over them by raw APSW?"""

from __future__ import annotations

import shutil
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from benchmarks import floor
from benchmarks.bench_verify import HASHES, MESSAGE
from benchmarks.race import Figure, repeated, together
from benchmarks.workload import STAGES, checkpoint, many_runs
from milepost import CheckpointStore, open_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race, Timings
    from milepost import Fleet

ENTRIES: Final = 10_000  # in each file
MS: Final = 1000


@pytest.fixture(scope="module")
def files(directory: Path, dose: Dose) -> Iterator[Path]:
    """Make a directory with a thousand files of 10,000 entries, or of 1,000, and one of the floor beside each."""
    place = directory / "fleet"
    place.mkdir()
    rows = [many_runs(number) for number in range(1, dose.of(ENTRIES, 1_000) + 1)]
    with CheckpointStore(place / "0.milepost", durability="normal") as store:
        store.append_many(map(checkpoint, rows))
    with closing(floor.create(place / "0.floor", "normal")) as connection:
        floor.append_many(connection, rows)
        for index in floor.INDEXES:
            connection.execute(index)
    for number in range(1, dose.of(1_000, 100)):
        for kind in ("milepost", "floor"):
            shutil.copy(place / f"0.{kind}", place / f"{number}.{kind}")
    yield place
    shutil.rmtree(place)


def asking(files: Path, number: int) -> tuple[Callable[[], Timings], Callable[[], Timings]]:
    """Return how long the floor and milepost take to ask so many files for the last row of each stage, in µs."""
    paths = [str(files / f"{each}.floor") for each in range(number)]
    fleet = open_many([files / f"{each}.milepost" for each in range(number)])

    def theirs() -> Timings:
        found = []

        def ask() -> None:
            for path in paths:
                with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as connection:
                    found.append([connection.execute(floor.LATEST_OF_STAGE, (stage,)).get for stage in STAGES])

        timings = together(ask, 1)
        assert len(found) == number
        assert all(map(all, found))
        return timings

    def ours() -> Timings:
        found = []
        timings = together(lambda: found.append(fleet.resume_points()), 1)
        assert not found[0].errors
        assert {len(answer.value) for answer in found[0].values()} == {len(STAGES)}
        return timings

    return theirs, ours


@pytest.mark.parametrize(("number", "limit_ms"), [(100, 100), (1_000, 1_000)])
def test_resume_points_of_many_files(race: Race, files: Path, dose: Dose, number: int, limit_ms: int) -> None:
    """Measure the whole question, in µs: each file is opened, asked and closed by both."""
    theirs, ours = asking(files, min(number, dose.of(number, 100)))
    race(
        f"resume_points of {number if not dose.quick else 100:,} files",
        lambda: theirs,
        lambda: ours,
        rounds=dose.of(11, 3),
        figure=Figure(limit_ms * MS, own=True),
        warm_up=True,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_many_files(race: Race, files: Path, dose: Dose, workers: int) -> None:
    """Measure entries a second that are verified in 100 files, beside SHA-256 hashes of 125 bytes a second."""
    fleet = open_many([files / f"{each}.milepost" for each in range(100)])
    entries = 100 * dose.of(ENTRIES, 1_000)

    def ours() -> Timings:
        found = []
        timings = together(lambda: found.append(_verified(fleet, workers)), entries)
        assert found == [entries]
        return timings

    race(
        f"verify 100 files, {workers} {'worker' if workers == 1 else 'workers'} (a second; SHA-256)",
        lambda: lambda: repeated(lambda: sha256(MESSAGE).digest(), HASHES),
        lambda: ours,
        rounds=dose.of(5, 2),
        figure=Figure(400_000, least=True, own=True) if workers == 2 else None,
        rate=True,
    )


def _verified(fleet: Fleet, workers: int) -> int:
    found = fleet.verify(workers=workers)
    assert found.ok
    return sum(answer.value.entries for answer in found.values())

"""If several processes write to one file, how much of its fair share does the slowest get?"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from statistics import mean
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks import floor
from benchmarks.race import Figure
from benchmarks.workload import checkpoint, one_run
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.conftest import Dose
    from benchmarks.race import Race

    Place = Callable[[], Path]
    Writer = Callable[[Path, str, float, float, bool], int]

PATIENCE_MS: Final = 60_000
BLOCK_S: Final = 0.1
START_S: Final = 2.0  # until all processes run


def floor_writer(path: Path, name: str, begin: float, seconds: float, blocks: bool) -> int:
    """Write with plain APSW, by BEGIN IMMEDIATE and SQLite's busy timeout. Return the number of rows."""
    connection = floor.connect(path, "normal")
    connection.set_busy_timeout(PATIENCE_MS)
    written = 0
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + seconds:
        written += 1
        connection.execute("BEGIN IMMEDIATE")
        if blocks:
            time.sleep(BLOCK_S)
        connection.execute(floor.INSERT, (name, *one_run(written)[1:]))
        connection.execute("COMMIT")
    connection.close()
    return written


def milepost_writer(path: Path, name: str, begin: float, seconds: float, blocks: bool) -> int:
    """Append, alone or in a slow block. Return the number of entries."""
    written = 0
    with CheckpointStore(path, durability="normal", busy_timeout_ms=PATIENCE_MS) as store:
        time.sleep(max(0.0, begin - time.time()))
        while time.time() < begin + seconds:
            written += 1
            entry = checkpoint((name, *one_run(written)[1:]))
            if blocks:
                with store.transaction():
                    time.sleep(BLOCK_S)
                    store.append(entry)
            else:
                store.append(entry)
    return written


def written_by(writer: Writer, path: Path, seconds: float, blocks: list[bool]) -> list[int]:
    """Let this many processes write at once, for this long. Return what each wrote."""
    with ProcessPoolExecutor(len(blocks), multiprocessing.get_context("spawn")) as pool:
        begin = time.time() + START_S
        futures = [
            pool.submit(writer, path, f"run-{number}", begin, seconds, block) for number, block in zip(count(), blocks)
        ]
        return [future.result() for future in futures]


def least_share(written: list[int]) -> float:
    """Return the least of them, in % of the mean."""
    return 100 * min(written) / mean(written)


@pytest.mark.parametrize("writers", [2, 8])
def test_equal_writers(race: Race, place: Place, dose: Dose, writers: int) -> None:
    """Measure the share of the slowest process, in % of its fair share. All append as fast as they can."""
    seconds = dose.of(10, 1)

    def share(writer: Writer, path: Path) -> float:
        return least_share(written_by(writer, path, seconds, [False] * writers))

    race.once(
        f"{writers} processes append: least share, %",
        partial(share, floor_writer, _empty_floor(place())),
        partial(share, milepost_writer, _empty(place())),
        Figure(33, least=True, own=True),
    )


def test_beside_blocks(race: Race, place: Place, dose: Dose) -> None:
    """Measure appends a second, beside a process whose blocks of 100 ms follow each other without a pause."""
    seconds = dose.of(10, 2)

    def appends(writer: Writer, path: Path) -> float:
        return written_by(writer, path, seconds, [True, False])[1] / seconds

    race.once(
        "appends a second beside blocks of 100 ms",
        partial(appends, floor_writer, _empty_floor(place())),
        partial(appends, milepost_writer, _empty(place())),
        None,
    )


def _empty_floor(path: Path) -> Path:
    floor.create(path, "normal").close()
    return path


def _empty(path: Path) -> Path:
    CheckpointStore(path).close()
    return path

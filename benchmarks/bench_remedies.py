"""What do the remedies cost against what a plain WAL database still loses? Milepost without them takes the floor's place."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from statistics import mean
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import pytest

from benchmarks.bench_append import appending
from benchmarks.bench_lookup import LOOKUPS
from benchmarks.race import repeated
from benchmarks.workload import checkpoint, many_runs, one_run
from milepost import CheckpointStore, bound, files, reader, wal, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings

    Place = Callable[[], Path]

REMEDIES: Final = {
    "make_durable": wal,  # of a killed process: written again and synced before the first answer
    "sync_directory": files,
    "_refuse_another_file": writer.Writer,  # looked at before each acknowledgement
    "install": bound.Bound,  # a query that does not end
    "refuse_foreign_header": reader,
}


@contextmanager
def without_remedies() -> Iterator[None]:
    """What is opened in here goes without them."""
    with ExitStack() as patches:
        for name, owner in REMEDIES.items():
            patches.enter_context(patch.object(owner, name, lambda *args, **kwargs: None))
        yield


def opened_without(path: Path, durability: Any) -> CheckpointStore:
    """A store that never acknowledges later than SQLite does."""
    with without_remedies():
        store = CheckpointStore(path, durability=durability)
    setattr(store._database, "_refuse_another_file", lambda: None)  # noqa: B010, SLF001 - a store as no user can have it
    return store


@pytest.mark.parametrize(("durability", "averaged"), [("full", None), ("normal", mean)])
def test_append(race: Race, place: Place, dose: Dose, durability: Any, averaged: Any) -> None:
    """µs of one append."""
    operations = dose.of(200, 50)
    with opened_without(place(), durability) as bare, CheckpointStore(place(), durability=durability) as store:
        race(
            f"append, {durability}; without remedies",
            appending(bare.append, checkpoint, operations),
            appending(store.append, checkpoint, operations),
            rounds=dose.of(41, 11),
            warm_up=True,
            **({"averaged": averaged} if averaged else {}),
        )
        assert len(store) == len(bare)


def test_lookup(race: Race, filled: Callable[[int], Filled], dose: Dose) -> None:
    """µs of one latest_for_stage."""
    size = 1_000
    row, lookup = many_runs(size), LOOKUPS["latest_for_stage(stage, run)"]
    with opened_without(filled(size).path, "full") as bare, CheckpointStore(filled(size).path) as store:
        race(
            "latest_for_stage; without remedies",
            lambda: lambda: repeated(partial(lookup.ask, bare, row), 500),
            lambda: lambda: repeated(partial(lookup.ask, store, row), 500),
            rounds=dose.of(41, 11),
            warm_up=True,
        )


def test_open_after_a_kill(race: Race, place: Place, dose: Dose) -> None:
    """µs to open a file that a killed process left, with 200 appends in its WAL, as far as the first resume point."""
    killed = place()
    with CheckpointStore(killed) as store:
        for number in range(1, 201):
            store.append(checkpoint(one_run(number)))
        left = place()
        for suffix in ("", "-wal"):  # a copy of a live file: what a kill at this moment leaves
            shutil.copyfile(f"{killed}{suffix}", f"{left}{suffix}")
    copies = count()

    def opening(opens: Callable[[Path], CheckpointStore]) -> Callable[[], Callable[[], Timings]]:
        def prepare() -> Callable[[], Timings]:
            path = left.with_name(f"left-{next(copies)}")
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{left}{suffix}", f"{path}{suffix}")

            def run() -> Timings:
                begin = perf_counter_ns()
                with opens(path) as store:
                    assert store.resume_point_for_stage(one_run(1)[1]).sequence == 200
                    return [(perf_counter_ns() - begin) / 1000]

            return run

        return prepare

    race(
        "open after a kill; without remedies",
        opening(lambda path: opened_without(path, "full")),
        opening(CheckpointStore),
        rounds=dose.of(41, 11),
    )

"""What do the safeguards cost that protect what a plain WAL database can lose? Milepost without them replaces the floor."""

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
from milepost import CheckpointStore, bound, files, named_files, reader, wal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings

    Place = Callable[[], Path]

SAFEGUARDS: Final = {
    "make_durable": wal,  # writes and syncs a killed process's WAL again before the first answer
    "sync_directory": files,
    "refuse_others": named_files.NamedFiles,  # checks before each acknowledgement that the file was not replaced
    "install": bound.Bound,  # stops a query that does not end
    "refuse_foreign_header": reader,
}


@contextmanager
def without_safeguards() -> Iterator[None]:
    """Open stores without the safeguards in this block."""
    with ExitStack() as patches:
        for name, owner in SAFEGUARDS.items():
            patches.enter_context(patch.object(owner, name, lambda *args, **kwargs: None))
        yield


def open_without(path: Path, durability: Any) -> CheckpointStore:
    """Return a store that acknowledges as soon as SQLite does."""
    with without_safeguards():
        store = CheckpointStore(path, durability=durability)
    for look in ("refuse_others", "refuse_other_memory"):  # a store as no user can have it
        setattr(store._database._named_files, look, lambda now: None)  # type: ignore[attr-defined]  # noqa: SLF001
    return store


@pytest.mark.parametrize(("durability", "averaged"), [("full", None), ("normal", mean)])
def test_append(race: Race, place: Place, dose: Dose, durability: Any, averaged: Any) -> None:
    """Measure an append, in µs."""
    operations = dose.of(200, 50)
    with open_without(place(), durability) as bare, CheckpointStore(place(), durability=durability) as store:
        race(
            f"append, {durability}; without safeguards",
            appending(bare.append, checkpoint, operations),
            appending(store.append, checkpoint, operations),
            rounds=dose.of(41, 11),
            warm_up=True,
            **({"averaged": averaged} if averaged else {}),
        )
        assert len(store) == len(bare)


def test_lookup(race: Race, filled: Callable[[int], Filled], dose: Dose) -> None:
    """Measure latest_for_stage, in µs."""
    size = 1_000
    row, lookup = many_runs(size), LOOKUPS["latest_for_stage(stage, run)"]
    with open_without(filled(size).path, "full") as bare, CheckpointStore(filled(size).path) as store:
        race(
            "latest_for_stage; without safeguards",
            lambda: lambda: repeated(partial(lookup.ask, bare, row), 500),
            lambda: lambda: repeated(partial(lookup.ask, store, row), 500),
            rounds=dose.of(41, 11),
            warm_up=True,
        )


def test_open_after_a_kill(race: Race, place: Place, dose: Dose) -> None:
    """Measure the time to the first resume point of a killed process's file, with 200 appends in its WAL, in µs."""
    killed = place()
    with CheckpointStore(killed) as store:
        for number in range(1, 201):
            store.append(checkpoint(one_run(number)))
        left = place()
        for suffix in ("", "-wal"):  # copies a live file, as a kill at this moment would leave it
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
        "open after a kill; without safeguards",
        opening(lambda path: open_without(path, "full")),
        opening(CheckpointStore),
        rounds=dose.of(41, 11),
    )

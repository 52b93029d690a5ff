"""
Measure how milepost's costs grow with the store, from 1,000 entries on, as a table and a picture.

    python -m benchmarks.growth                          up to 1,000,000: about a minute
    python -m benchmarks.growth --largest 10000000       about 3 minutes, 2 GB of disk

One store grows from size to size in batches of 10,000, so that memory stays constant. A copy is kept at each size. The
lookups and openings of all sizes then take turns, so that a noisy minute affects all of them. Each run has 10,000 entries in
three stages. The program writes growth.csv, growth.md and, with matplotlib, growth.png.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import platform
import resource
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import apsw

from benchmarks.race import each, number, repeated, table, together
from benchmarks.workload import CHUNK, checkpoint, many_runs, offset_key, random_key
from milepost import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milepost import Checkpoint, Verification

SMALLEST: Final = 1_000
LARGEST: Final = 1_000_000
SINGLE: Final = 5_000  # single appends just before each size, with three write-backs of the WAL
CALLS: Final = 200  # of each lookup in a round
ROUNDS: Final = 25
VERIFIED: Final = 300_000  # at least this many entries are verified at each size, in one or several runs
KEYS: Final = {"offsets": offset_key, "random": random_key}
KIBIBYTES_OR_BYTES: Final = 1 << 20 if sys.platform == "darwin" else 1 << 10  # units of ru_maxrss in a MB
RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Size:
    """The measurements at one size. Each name ends in its unit, and `us` stands for microseconds."""

    entries: int
    append_many_us: float
    append_us: float
    latest_us: float
    latest_for_stage_us: float
    resume_point_for_stage_us: float
    get_us: float
    find_us: float
    chain_signature_us: float
    open_us: float
    verify_per_s: float
    bytes_per_entry: float
    peak_memory_mb: float


TITLES: Final = {
    "append_many_us": "append_many, an entry (µs)",
    "append_us": "append, normal, mean (µs)",
    "latest_us": "latest (µs)",
    "latest_for_stage_us": "latest_for_stage (µs)",
    "resume_point_for_stage_us": "resume_point_for_stage (µs)",
    "get_us": "get (µs)",
    "find_us": "find (µs)",
    "chain_signature_us": "chain_signature (µs)",
    "open_us": "open and resume (µs)",
    "verify_per_s": "verify (entries/s)",
    "bytes_per_entry": "bytes an entry",
    "peak_memory_mb": "peak memory (MB)",
}


def measure(directory: Path, sizes: Sequence[int], key: Callable[[int], str]) -> list[Size]:
    """Grow one store to each size, and measure it there."""
    paths = {size: directory / f"{size}.milepost" for size in sizes}
    costs: dict[int, dict[str, float]] = {}
    for size, path in paths.items():
        _copy_of_smaller(paths, size)
        with CheckpointStore(path, durability="normal") as store:
            entries = (checkpoint(many_runs(which, key)) for which in range(len(store) + 1, size + 1))
            in_batches = _append_in_batches(store, entries, size - min(SINGLE, size // 2))
            singly = mean(each(store.append, list(entries)))
            assert len(store) == size
        costs[size] = {
            "append_many_us": in_batches,
            "append_us": singly,
            "bytes_per_entry": path.stat().st_size / size,
            "verify_per_s": _verify(path, size),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_OR_BYTES,
        }
        print(f"{size:,} entries: filled and verified", file=sys.stderr)
    last = {size: checkpoint(many_runs(size, key)) for size in sizes}
    rounds = [{size: _open(path, last[size]) for size, path in paths.items()} for _ in range(ROUNDS)]
    for size, of_size in costs.items():
        of_size["open_us"] = median(opened[size] for opened in rounds)
    for size, lookups in _lookups(paths, last).items():
        costs[size] |= lookups
    return [Size(entries=size, **of_size) for size, of_size in costs.items()]


def _copy_of_smaller(paths: dict[int, Path], size: int) -> None:
    smaller = max((other for other in paths if other < size), default=None)
    if smaller is not None:
        shutil.copyfile(paths[smaller], paths[size])


def _append_in_batches(store: CheckpointStore, entries: Iterator[Checkpoint], until: int) -> float:
    """Measure an append of a batch, in µs an entry. The time to make the entries is left out."""
    spent, first = 0.0, len(store)
    while (missing := until - len(store)) > 0:
        batch = [next(entries) for _ in range(min(missing, CHUNK))]
        spent += together(lambda batch=batch: store.append_many(batch), 1)[0]  # type: ignore[misc]
    return spent / (until - first)


def _lookups(paths: dict[int, Path], last: dict[int, Checkpoint]) -> dict[int, dict[str, float]]:
    """Measure each lookup of the last entry at each size, in µs. The sizes take turns."""
    with ExitStack() as stack:
        stores = {size: stack.enter_context(CheckpointStore(path)) for size, path in paths.items()}
        asked = {size: _questions(store, last[size]) for size, store in stores.items()}
        timings: dict[int, dict[str, list[float]]] = {
            size: {name: [] for name in questions} for size, questions in asked.items()
        }
        for _ in range(ROUNDS):
            for size, questions in asked.items():
                for name, (ask, expected) in questions.items():
                    assert ask() == expected
                    timings[size][name] += repeated(ask, CALLS)
    return {size: {name: median(rounds) for name, rounds in found.items()} for size, found in timings.items()}


def _questions(store: CheckpointStore, last: Checkpoint) -> dict[str, tuple[Callable[[], Any], Any]]:
    run_id, stage, sequence, _, key, _ = last
    return {
        "latest_us": (store.latest, last),
        "latest_for_stage_us": (lambda: store.latest_for_stage(stage, run_id=run_id), last),
        "resume_point_for_stage_us": (lambda: store.resume_point_for_stage(stage, run_id=run_id), last[:4]),
        "get_us": (lambda: store.get(run_id, stage, sequence), last),
        "find_us": (lambda: list(store.find(key)), [last]),
        "chain_signature_us": (store.chain_signature, store.head().signature),
    }


def _verify(path: Path, entries: int) -> float:
    """Measure verified entries a second."""
    with CheckpointStore(path) as store:
        expected = (True, entries, store.chain_signature())
        timings: list[float] = []
        for _ in range(max(1, VERIFIED // entries)):
            found: list[Verification] = []
            timings += together(lambda found=found: found.append(store.verify()), entries)  # type: ignore[misc]
            assert (found[0].ok, found[0].entries, found[0].signature) == expected
    return 1e6 / median(timings)


def _open(path: Path, last: Checkpoint) -> float:
    """Measure the time from the path of a closed file to the first resume point, in µs."""
    begin = perf_counter_ns()
    with CheckpointStore(path) as store:
        point = store.resume_point_for_stage(last.stage, run_id=last.run_id)
        spent = (perf_counter_ns() - begin) / 1000
    assert point == last[:4]
    return spent


def write_csv(sizes: Sequence[Size], path: Path) -> None:
    """Write every measured number as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Size)])
        writer.writerows(astuple(size) for size in sizes)


def write_markdown(sizes: Sequence[Size], path: Path, keys: str) -> None:
    """Format the table of docs/speed.md, a row for each kind of work, with the machine and the command."""
    lines = ["| | " + " | ".join(f"{size.entries:,}" for size in sizes) + " |", "|---|" + "---:|" * len(sizes)]
    for name, title in TITLES.items():
        lines.append(f"| {title} | " + " | ".join(number(getattr(size, name)) for size in sizes) + " |")
    machine = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, APSW {apsw.apsw_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )
    command = f"python -m benchmarks.growth --largest {sizes[-1].entries} --keys {keys}"
    path.write_text("\n".join([*lines, "", f"{machine}; made by `{command}`.", ""]))


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Draw four curves over the number of entries into one picture."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    panels = {
        "append: µs an entry": ("append_us", "append_many_us"),
        "lookup: µs": (
            "latest_us",
            "latest_for_stage_us",
            "resume_point_for_stage_us",
            "get_us",
            "find_us",
            "chain_signature_us",
        ),
        "open and resume: ms": ("open_us",),
        "verify: thousand entries/s": ("verify_per_s",),
        "file: bytes an entry": ("bytes_per_entry",),
        "peak memory of all of this: MB": ("peak_memory_mb",),
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    entries = [size.entries for size in sizes]
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=True):
        scale = 1000 if title.split(": ")[1].startswith(("ms", "thousand")) else 1
        for name in names:
            values = [getattr(size, name) / scale for size in sizes]
            axis.plot(entries, values, marker="o", markersize=4, label=TITLES[name].split(" (")[0].split(",")[0])
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xscale("log")
        axis.set_xticks(entries, [_short(size) for size in entries])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
        axis.set_ylim(top=axis.get_ylim()[1] * (1.35 if len(names) > 2 else 1.1))
    for axis in axes[-1]:
        axis.set_xlabel("checkpoints in the store")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _short(entries: int) -> str:
    return f"{entries // 1_000_000} M" if entries >= 1_000_000 else f"{entries // 1_000} k"


def main() -> None:
    """Measure, print the table and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=LARGEST, help=f"grow up to this size (default {LARGEST:,})")
    parser.add_argument("--keys", choices=KEYS, default="offsets", help="make idempotency keys from this")
    parser.add_argument("--directory", type=Path, help="put the measured file into this directory, on a real disk")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"write the results here (default {RESULTS})")
    chosen = parser.parse_args()
    steps = [10**power for power in range(3, 12) if 10**power <= chosen.largest]
    if not steps:
        parser.error(f"--largest: at least {SMALLEST:,}")
    chosen.results.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="milepost-growth-", dir=chosen.directory) as name:
        sizes = measure(Path(name), steps, KEYS[chosen.keys])
    for line in table(
        ["", *(f"{size.entries:,}" for size in sizes)],
        [[title, *(number(getattr(size, name)) for size in sizes)] for name, title in TITLES.items()],
    ):
        print(line)
    suffix = "" if chosen.keys == "offsets" else f"-{chosen.keys}"
    write_csv(sizes, chosen.results / f"growth{suffix}.csv")
    write_markdown(sizes, chosen.results / f"growth{suffix}.md", chosen.keys)
    try:
        draw(sizes, chosen.results / f"growth{suffix}.png")
    except ModuleNotFoundError as error:
        print(f"no picture: it needs {error.name} (pip install matplotlib)", file=sys.stderr)


if __name__ == "__main__":
    main()

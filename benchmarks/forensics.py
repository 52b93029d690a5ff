"""
What do questions about a large file cost? Each runs in a process of its own, so that its memory can be measured.

    python -m benchmarks.forensics                       1,000,000 checkpoints: half a minute
    python -m benchmarks.forensics --entries 10000000    about 4 minutes, 2 GB of disk

Prints a Markdown table. The file has ten runs of three stages, one after the other. Only their clocks differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections import deque
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from arro3.core import RecordBatchReader

from benchmarks.growth import KIBIBYTES_OR_BYTES
from benchmarks.workload import CHUNK, CLOCK_STEP_MS, EVENT_STEP_MS, FIRST_MS, RECORDS, STAGES
from milepost import Checkpoint, CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS: Final = 10
BY_STAGE: Final = "SELECT stage, count(*) AS entries FROM checkpoint GROUP BY stage"
COMMANDS: Final = ("summary", "latest", "resume", "head")

QUESTIONS: Final[dict[str, Callable[[CheckpointStore], object]]] = {
    "`summary()`": lambda store: str(store.summary()),
    "`latest()`": lambda store: store.latest(),
    "`resume_points()`": lambda store: store.resume_points(),
    "`head()`": lambda store: store.head(),
    "`verify()`": lambda store: store.verify().raise_if_broken(),
    "`verify(workers=2)`": lambda store: store.verify(workers=2).raise_if_broken(),
    "`compare` of two runs, each a tenth of it": lambda store: store.compare("run-0", "run-1"),
    f'`sql("{BY_STAGE}")`': lambda store: store.sql(BY_STAGE).to_arrow(),
    "a frame, read to its end": lambda store: deque(RecordBatchReader.from_arrow(store), maxlen=1),
    "`plot.progress()`, as PNG": lambda store: store.plot.progress()._repr_png_(),
    "`plot.runs()`": lambda store: store.plot.runs()._repr_png_(),
    "`plot.lag()`": lambda store: store.plot.lag()._repr_png_(),
}


def checkpoints(run: int, entries: int) -> Iterator[Checkpoint]:
    """Make the checkpoints of one run, of three stages in turns."""
    for number in range(1, entries + 1):
        sequence, stage = (number - 1) // len(STAGES) + 1, STAGES[number % len(STAGES)]
        mark = Watermark(number * RECORDS, FIRST_MS + number * EVENT_STEP_MS)
        at_ms = FIRST_MS + (run * entries + number) * CLOCK_STEP_MS
        yield Checkpoint(f"run-{run}", stage, sequence, mark, f"{stage}:{number * RECORDS}", at_ms)


def fill(path: Path, entries: int) -> None:
    """Append ten runs in batches, so that memory stays constant."""
    with CheckpointStore(path, durability="normal") as store:
        for run in range(RUNS):
            every = checkpoints(run, entries // RUNS)
            while batch := list(islice(every, CHUNK)):
                store.append_many(batch)


def ask(path: Path, question: str) -> tuple[float, float]:
    """Return the seconds from opening the file to the answer, and the peak memory of the process in MB."""
    begin = perf_counter()
    with CheckpointStore.open_readonly(path) as store:
        QUESTIONS[question](store)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return perf_counter() - begin, peak / KIBIBYTES_OR_BYTES


def main() -> None:
    """Fill the file, ask the questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="record this many checkpoints (default 1,000,000)")
    parser.add_argument("--directory", type=Path, help="put the file into this directory, on a real disk")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="milepost-forensics-", dir=chosen.directory) as name:
        path = Path(name, "large.milepost")
        begin = perf_counter()
        fill(path, chosen.entries)
        spent = perf_counter() - begin
        print(f"{chosen.entries:,} checkpoints, {path.stat().st_size / 1e9:.2f} GB, filled in {spent:.0f} s\n")
        print("| question, from opening the file on | seconds | peak memory (MB) |\n|---|---:|---:|")
        spawn = multiprocessing.get_context("spawn")
        for question in QUESTIONS:
            with spawn.Pool(1) as pool:
                seconds, megabytes = pool.apply(ask, (path, question))
            print(f"| {question} | {seconds:.3f} | {megabytes:.0f} |", flush=True)
        for command in COMMANDS:
            begin = perf_counter()
            subprocess.run([sys.executable, "-m", "milepost", command, path], check=True, stdout=subprocess.DEVNULL)
            print(f"| the process `milepost {command}` | {perf_counter() - begin:.3f} | |", flush=True)


if __name__ == "__main__":
    main()

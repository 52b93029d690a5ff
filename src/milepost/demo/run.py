"""
Run the demo: the job killed and resumed, the job never killed, the proof, and the report.

Each run of the job is a process of its own. The first one sends itself SIGKILL in the middle of a batch, so no handler and
no `finally` runs, and nothing is flushed. Windows has no SIGKILL, but SIGTERM ends a process there in the same way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost.demo import pipeline, proof, screen
from milepost.demo.pipeline import RUN_ID, STAGES
from milepost.errors import InvalidArgumentError, MilepostError
from milepost.files import real
from milepost.readable import count, iso, size, visible
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from rich.console import Console

    from milepost.checkpoint import ResumePoint
    from milepost.demo.pipeline import Totals
    from milepost.demo.source import Source

KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)
_KILLED: Final = int(KILL) if os.name == "nt" else -int(KILL)
_INTERRUPTED: Final = 130
_BATCHES: Final = 10  # at least this many in a stage, unless the CSV is too short
_SHOWN: Final = 5  # categories in the report
_NEXT: Final = """\
from milepost import CheckpointStore
with CheckpointStore.open_readonly({path!r}) as store:
    print(store.resume_points("demo"), store.verify().ok)

milepost summary {quoted}
milepost verify {quoted}
milepost demo --input FILE.csv --event-time COLUMN --by COLUMN"""


@dataclass(frozen=True, slots=True)
class Job:
    """
    The job that every process of the demo runs.

    Attributes:
        source: The CSV.
        records: The number of its records.
        every: The number of records in a batch.
        kill_at: The record of `transform` at which the first process kills itself.
    """

    source: Source
    records: int
    every: int
    kill_at: int

    @classmethod
    def over(cls, source: Source, records: int) -> Job:
        """Make the job for a source. Its kill comes half way through the second of three stages, within a batch."""
        every = max(1, min(1000, records // _BATCHES))
        return cls(source, records, every, records // 2 // every * every + every // 2 + 1)


class Outcome(NamedTuple):
    """How a process ended: its id, its exit code (negative for a signal) and its duration."""

    pid: int
    exit_code: int
    seconds: float


def run_demo(source: Source, output: str | None, *, overwrite: bool) -> bool:
    """
    Run the demo and print it.

    Args:
        source: The CSV.
        output: The file to make, or the directory to make it in; by default it has the CSV's name, in the current directory.
        overwrite: Whether to replace an existing file.

    Returns:
        True if every check succeeded.

    Raises:
        InvalidArgumentError: The CSV cannot be read, or the output file exists already.
        StoreError: The output file cannot be made or written.
    """
    began = time.monotonic()
    path = _output_file(source, output)
    existing = _existing_files(path, overwrite=overwrite)
    to = screen.console()
    with to.status("Reading the CSV"):
        expected = proof.plain_totals(source)
    if not expected:
        raise InvalidArgumentError("--input", source.path, "it has a header but no records: give a CSV with records")
    for file in existing:
        file.unlink()
    try:
        CheckpointStore(path).close()  # so that an unusable path fails before the demo begins
        return _acts(to, source, path, expected, began)
    except BaseException:  # Ctrl-C, for one: half a demo is of no use, and would be in the way of the next
        for file in _files_at(path):
            file.unlink()
        raise


def _output_file(source: Source, output: str | None) -> str:
    usual = Path(source.member or source.path).stem + ".milepost"
    if output is None:
        return usual
    is_directory = output.endswith(("/", os.sep)) or Path(output).is_dir()
    return str(Path(output, usual)) if is_directory else output


def _acts(to: Console, source: Source, path: str, expected: Totals, began: float) -> bool:
    job = Job.over(source, sum(records for records, _ in expected.values()))
    screen.title(to, "milepost demo: " + (source.title or visible(Path(source.path).name)))
    by = "day" if source.by is None else f"{visible(source.by)} and day"
    screen.say(to, f"extract, transform, load; totals per {by}; all in {visible(path)}")
    screen.heading(to, "1. Straight from the CSV, in plain Python")
    screen.say(to, f"{job.records:,} records, {len(expected):,} totals, {time.monotonic() - began:.1f} s")
    if remark := source.form().remark:
        screen.say(to, f"The file was read {remark}.")

    screen.heading(to, "2. The job, with a process that kills itself in the middle")
    killed = _process(to, job, path, job.kill_at)
    screen.say(to, _describe_kill(job, killed), style="yellow")
    screen.heading(to, "3. What is on disk now, as CheckpointStore.open_readonly() sees it")
    with CheckpointStore.open_readonly(path) as store:
        at_kill, points, recorded_at_kill = store.head(), store.resume_points(RUN_ID), pipeline.checkpoints(store)
    _table_of_points(to, points)

    screen.heading(to, "4. Started again: a new process resumes there")
    resumed = _process(to, job, path, None)
    with CheckpointStore.open_readonly(path) as store:
        recorded = pipeline.checkpoints(store)
        for run in store.runs():
            attempts = f"{count(run.attempts, 'attempt')}, {run.killed} of them killed"
            screen.say(to, f"Run {visible(run.run_id)}: {run.state}, {attempts}.")

    screen.heading(to, "5. The same job in a second file, never killed")
    with tempfile.TemporaryDirectory(prefix=".milepost-demo-", dir=Path(path).resolve().parent) as folder:
        second = str(Path(folder, "unkilled.milepost"))
        unkilled = _process(to, job, second, None)
        with CheckpointStore(path) as store, CheckpointStore(second) as other:
            checks = [
                _exit_check("the process was really killed", killed, _KILLED),
                _exit_check("the resumed process ran to the end", resumed, 0),
                _exit_check("the process that was never killed ran to the end", unkilled, 0),
                *proof.checks(store, other, expected, at_kill),
            ]
            head = store.head()
    failed = sum(check.fault is not None for check in checks)
    screen.heading(to, "6. The proof, for the file of the killed and resumed job")
    for check in checks:
        if check.fault is None:
            screen.say(to, f"ok    {check.claim}", style="green")
        else:
            screen.say(to, f"FAIL  {check.claim}: {visible(check.fault)}", style="bold red")

    screen.heading(to, "7. The figures, where a record counts once for each stage")
    kept = sum(point.watermark.offset for point in points.values())
    _table_of_runs(
        to,
        [
            ("killed", killed, recorded_at_kill, kept),
            ("resumed", resumed, recorded - recorded_at_kill, len(STAGES) * job.records - kept),
            ("never killed", unkilled, recorded, len(STAGES) * job.records),
        ],
    )
    to.print()
    _table_of_totals(to, source, expected)
    to.print()
    size_bytes = sum(Path(path + suffix).stat().st_size for suffix in ("", "-wal") if Path(path + suffix).exists())
    screen.facts(
        to,
        {
            "checkpoints": f"{recorded:,}, with batches of {job.every:,}",
            "signature": head.signature,
            "file": f"{visible(path)}, {size(size_bytes)}",
            "time": f"{time.monotonic() - began:.1f} s for all of this",
        },
    )
    screen.heading(to, "What to try next")
    screen.code(to, _NEXT.format(path=path, quoted=quote(visible(path))))
    screen.heading(
        to, "NOT PROVEN: see FAIL above." if failed else "Proven: killed, resumed, and every record counted once."
    )
    return not failed


def _existing_files(path: str, *, overwrite: bool) -> list[Path]:
    """Return the files to remove first: with `overwrite`, an old file of milepost. Without it, refuse any."""
    file = real(path)
    there = _files_at(path)
    if there and not overwrite:
        what = "the file exists already" if os.path.lexists(file) else f"{there[0].name} of an earlier file exists"
        raise InvalidArgumentError("--output", path, f"{what}: choose another file, or replace it with --overwrite")
    if os.path.lexists(file):
        CheckpointStore.open_readonly(file).close()  # refuses a file that is not milepost's
    return there


def _files_at(path: str) -> list[Path]:
    """Return the files of a store that exist. The WAL is first: beside a new file, SQLite would read it as that one's."""
    file = real(path)
    return [Path(file + suffix) for suffix in ("-wal", "-shm", "") if os.path.lexists(file + suffix)]


def _process(to: Console, job: Job, path: str, kill_at: int | None) -> Outcome:
    """Run the job in a process of its own until it ends or is killed."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work, args=(job, path, kill_at, sender))
    began = time.monotonic()
    try:
        with _safe_import_path(), _interrupts_held():
            process.start()
        wait([process.sentinel, receiver])
        error = receiver.recv() if receiver.poll() else None
        process.join()
    finally:
        if process.pid is not None:
            process.kill()  # matters after an interrupt only, and a kill does the file no harm
            process.join()
        if process.exitcode != 0 and to.is_terminal:
            to.print()  # the process left its last line unfinished and the cursor hidden
            to.show_cursor()
    if error is not None:
        raise error
    return Outcome(process.pid or 0, process.exitcode or 0, time.monotonic() - began)


@contextlib.contextmanager
def _safe_import_path() -> Iterator[None]:
    """Keep a new process from importing Python's own modules from the working directory."""
    kept = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if kept is not None:
            os.environ["PYTHONSAFEPATH"] = kept


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start a process that takes no Ctrl-C before `work` can handle it, and would show a traceback of Python's imports."""
    if os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # a first process would start it, and let interrupts through again
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def work(job: Job, path: str, kill_at: int | None, errors: Connection) -> None:
    """
    Run the job, as the main function of a process.

    Args:
        job: The job.
        path: The file.
        kill_at: The record of `transform` at which the process kills itself; None to run to the end.
        errors: Takes an error of milepost's, for the parent to raise.
    """
    try:
        if os.name != "nt":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with CheckpointStore(path) as store:
            done = {stage: point.watermark.offset for stage, point in store.resume_points(RUN_ID).items()}
            with screen.progress(screen.console(), job.records, done) as progress:

                def watch(stage: str, number: int) -> None:
                    progress(stage, number)
                    if number == kill_at and stage == "transform":
                        progress.now(stage, number)
                        os.kill(os.getpid(), KILL)

                pipeline.run(store, job.source, job.every, watch)
    except MilepostError as error:
        errors.send(error)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _exit_check(claim: str, outcome: Outcome, exit_code: int) -> proof.Check:
    fault = None if outcome.exit_code == exit_code else f"exit code {outcome.exit_code}, not {exit_code}"
    return proof.Check(f"{claim} (exit code {outcome.exit_code})", fault)


def _describe_kill(job: Job, killed: Outcome) -> str:
    if killed.exit_code != _KILLED:
        return f"Process {killed.pid} was to be killed, but ended with exit code {killed.exit_code}."
    undone = (job.kill_at - 1) % job.every + 1
    return (
        f"Process {killed.pid} is dead: {KILL.name} at record {job.kill_at:,} of transform, number {undone:,} "
        f"of a batch of {job.every:,}."
    )


def _table_of_runs(to: Console, runs: list[tuple[str, Outcome, int, int]]) -> None:
    """Print what each process wrote to disk, and how fast."""
    columns = [("process", False), *((name, True) for name in ("seconds", "checkpoints", "records", "records/s"))]
    rows = [
        (name, f"{outcome.seconds:.1f}", f"{checkpoints:,}", f"{records:,}", f"{records / outcome.seconds:,.0f}")
        for name, outcome, checkpoints, records in runs
    ]
    screen.table(to, columns, rows)


def _table_of_totals(to: Console, source: Source, totals: Totals) -> None:
    """Print the totals of the categories with the most records."""
    counts: Counter[str] = Counter()
    days: Counter[str] = Counter()
    sums: dict[str, int | float] = defaultdict(int)
    for (category, _), (records, value) in totals.items():
        counts[category] += records
        days[category] += 1
        sums[category] += value
    columns = [("days", True), ("records", True)]
    if source.by is not None:
        columns = [(visible(source.by), False), *columns]
    if source.summed is not None:
        columns = [*columns, (f"sum of {visible(source.summed)}", True)]
    rows = []
    for category, records in counts.most_common(_SHOWN):
        row = [f"{days[category]:,}", f"{records:,}"]
        if source.by is not None:
            row = [visible(category) or "-", *row]
        if source.summed is not None:
            row = [*row, _number(sums[category])]
        rows.append(tuple(row))
    screen.table(to, columns, rows)
    if len(counts) > _SHOWN:
        screen.say(to, f"and {len(counts) - _SHOWN:,} more")


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.10g}"


def _table_of_points(to: Console, points: dict[str, ResumePoint]) -> None:
    columns = [("stage", False), ("checkpoints", True), ("records done", True), ("latest event time", False)]
    rows = []
    for stage in STAGES:
        if stage in points:
            _, _, sequence, (offset, event_time_ms) = points[stage]
            rows.append((stage, f"{sequence:,}", f"{offset:,}", iso(event_time_ms)))
        else:
            rows.append((stage, "0", "0", "-"))
    screen.table(to, columns, rows)

"""How long does a person wait for a command? Each runs as a process, beside one that only says the version."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.race import Figure, together
from benchmarks.workload import CHUNK, FIRST_MS
from milepost import Checkpoint, CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.conftest import Dose, Filled
    from benchmarks.race import Race, Timings

COMMAND: Final = [sys.executable, "-m", "milepost"]
COMMANDS: Final[dict[str, list[str]]] = {
    "summary": ["FILE"],
    "check": ["FILE", "--within", "36500d"],
    "runs": ["FILE", "--limit", "20"],
    "report": ["FILE", "PAGE", "--overwrite"],
}
SUMMARY_MS: Final = 300
OF_MANY_RUNS_MS: Final = 600
REPORT_MS: Final = 3_000
SHARE: Final = 0.02
"""The share of a core that `watch` may take."""

HOUR_MS: Final = 3_600_000


def process(*arguments: str) -> Callable[[], Callable[[], Timings]]:
    """Run a command, in µs from its start to its end."""

    def run() -> None:
        subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)

    return lambda: lambda: together(run, 1)


def measure(race: Race, dose: Dose, path: Path, name: str, of: str, most_ms: int) -> None:
    """Measure a command on a file."""
    given = {"FILE": str(path), "PAGE": str(path.with_name("page.html"))}
    race(
        f"`{name}`, {of}",
        process("--version"),
        process(name, *(given.get(word, word) for word in COMMANDS[name])),
        rounds=dose.of(9, 3),
        figure=Figure((REPORT_MS if name == "report" else most_ms) * 1000, own=True),
        warm_up=True,
    )


@pytest.fixture(scope="module")
def many_runs(directory: Path, dose: Dose) -> tuple[int, Path]:
    """Fill a file with runs of two checkpoints each, one an hour."""
    runs, path = dose.of(100_000, 10_000), directory / "runs.milepost"
    with CheckpointStore(path, durability="normal") as store:
        for first in range(0, runs, CHUNK):
            store.append_many(_of_runs(range(first, min(first + CHUNK, runs))))
    return runs, path


def _of_runs(numbers: range) -> Iterator[Checkpoint]:
    for number in numbers:
        at_ms = FIRST_MS + number * HOUR_MS
        for stage in ("extract", "load"):
            yield Checkpoint(f"run-{number:06d}", stage, 1, Watermark(100, at_ms), f"{stage}:0-99", at_ms + 1000)


@pytest.mark.parametrize("name", COMMANDS)
def test_entries(race: Race, filled: Callable[[int], Filled], dose: Dose, large: int, name: str) -> None:
    """Measure a command on a file with many checkpoints, in µs."""
    measure(race, dose, filled(large).path, name, f"{large:,} entries", SUMMARY_MS)


@pytest.mark.parametrize("name", COMMANDS)
def test_runs(race: Race, many_runs: tuple[int, Path], dose: Dose, name: str) -> None:
    """Measure a command on a file with many runs, in µs."""
    runs, path = many_runs
    measure(race, dose, path, name, f"{runs:,} runs", OF_MANY_RUNS_MS)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux, which counts ns of a process's time")
def test_watch(race: Race, filled: Callable[[int], Filled], place: Callable[[], Path], dose: Dose, large: int) -> None:
    """Measure the ms of a core that `watch` takes in a second, beside a pipeline that appends ten times a second."""
    seconds, path = dose.of(10, 3), place()
    shutil.copyfile(filled(large).path, path)  # others measure the file that is filled

    def taken() -> float:
        with _appending(path), _watching(path) as pid:
            time.sleep(1)
            before = _cpu_ns(pid)
            time.sleep(seconds)
            return (_cpu_ns(pid) - before) / 1e6 / seconds

    race.once(f"`watch`, {large:,} entries, ms a second", lambda: 1000.0, taken, Figure(SHARE))


def _cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@contextmanager
def _appending(path: Path) -> Iterator[None]:
    ended = threading.Event()

    def append() -> None:
        run_id = f"live-{time.time_ns()}"
        with CheckpointStore(path, durability="normal") as store:
            offset = 0
            while not ended.wait(0.1):
                offset += 500
                mark = Watermark(offset, time.time_ns() // 1_000_000)
                store.advance(run_id, "extracted", mark, idempotency_key=str(offset))

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _watching(path: Path) -> Iterator[int]:
    import pty  # noqa: PLC0415 - not on Windows

    screen, terminal = pty.openpty()
    watch = subprocess.Popen([*COMMAND, "watch", str(path)], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    reader = threading.Thread(target=_drain, args=(screen,))
    reader.start()
    try:
        yield watch.pid
    finally:
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0
        reader.join()
        os.close(screen)


def _drain(screen: int) -> None:
    with suppress(OSError):  # how Linux says that the last writer has closed it
        while os.read(screen, 1 << 16):
            pass

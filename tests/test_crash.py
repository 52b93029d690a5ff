"""A writer that is killed at any moment loses nothing that it was told, and doubles nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from milepost import CheckpointStore
from support.chains import entry
from support.programs import PROGRAMS, environment

CHILD = PROGRAMS / "appending_child.py"


def _kill_one(path: Path, seed: int, delay_s: float) -> list[str]:
    """Start a writer, kill it after a while, and give the keys that it was told."""
    command = [sys.executable, str(CHILD), str(path), "run-7", str(seed), "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        told = child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    return [line for line in told.split("\n")[:-1] if line]  # the last line may be torn


def _check(path: Path, told: list[str]) -> int:
    with CheckpointStore(path) as store:
        entries = list(store.history("run-7"))
        keys = Counter(e.idempotency_key for e in entries)
        assert set(keys.values()) <= {1}
        assert {line.removeprefix("sink ") for line in told} <= keys.keys()
        with store.transaction() as connection:
            sink = Counter(row[0] for row in connection.execute("SELECT key FROM sink"))
        assert set(sink.values()) <= {1}
        assert sink.keys() <= keys.keys()
        assert {line.removeprefix("sink ") for line in told if line.startswith("sink ")} <= sink.keys()
        store.verify().raise_if_broken()
        following = entry((entries[-1].sequence if entries else 0) + 1, key=f"after-{len(entries)}")
        assert store.append(following).position == len(entries) + 1
        return len(entries)


def _kills(path: Path, count: int) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    told: list[str] = []
    for kill in range(count):
        told += _kill_one(path, seed + kill, chance.random() * 0.03)
        _check(path, told)


def test_every_acknowledged_append_survives_a_kill_and_none_is_doubled(path: Path) -> None:
    """Ten kills at random moments, one after the other, on one file."""
    _kills(path, 10)


@pytest.mark.long
def test_every_acknowledged_append_survives_200_kills(path: Path) -> None:
    """The full dose."""
    _kills(path, 200)

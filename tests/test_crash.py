"""A writer that is killed at any moment loses nothing that it was told, and doubles nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.chains import entry
from support.warm import warm_programs

if TYPE_CHECKING:
    from support.warm import WarmTalk

FORKS = """
import os, sys
from support.appending_child import append, say
for seed in sys.stdin:
    child = os.fork()
    if child == 0:
        say(os.getpid())
        append(sys.argv[1], "run-7", seed, "1000000")
    _, status = os.waitpid(child, 0)
    say(f"\\nended {os.waitstatus_to_exitcode(status)}")
"""
"""A fork of a process that has no store is quicker than a new interpreter, and as sudden a death."""


def _kill_one(forks: WarmTalk[str], seed: int, delay_s: float) -> list[str]:
    """Start a writer, kill it after a while, and give the keys that it was told."""
    forks.stdin.write(f"{seed}\n")
    forks.stdin.flush()
    child = int(forks.stdout.readline())
    assert forks.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    told = []
    while not (line := forks.stdout.readline()).startswith("ended"):
        assert line, "the process that forks has ended"
        told.append(line.removesuffix("\n"))
    assert line == f"ended {-signal.SIGKILL}\n"
    return [key for key in told[:-1] if key]  # the last line may be torn


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
    forks = warm_programs().talk_text("-c", FORKS, path, cwd=Path(__file__).parent)
    for kill in range(count):
        told += _kill_one(forks, seed + kill, chance.random() * 0.03)
        _check(path, told)
    forks.communicate()


def test_every_acknowledged_append_survives_a_kill_and_none_is_doubled(path: Path) -> None:
    """Ten kills at random moments, one after the other, on one file."""
    _kills(path, 10)


@pytest.mark.long
def test_every_acknowledged_append_survives_200_kills(path: Path) -> None:
    """The full dose."""
    _kills(path, 200)

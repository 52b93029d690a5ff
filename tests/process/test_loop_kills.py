"""A pipeline with workers and a sink is killed at random moments: nothing is lost, and with transactions nothing doubled."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from milepost import CheckpointStore
from support.programs import PROGRAMS
from support.warm import warm_programs

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        ("threads, transaction", 3),
        ("async", 3),
        *(
            pytest.param(kind, 200, marks=pytest.mark.long)
            for kind in ("threads, transaction", "async, transaction", "threads", "async")
        ),
    ],
)
def test_a_killed_pipeline_with_workers_loses_nothing(path: Path, kind: str, rounds: int) -> None:
    """Other numbers of workers and other batches each time; without transactions little is done again."""
    chance = random.Random(f"{SEED} {kind}")
    with CheckpointStore(path, durability="normal") as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")
        kills, most_again = 0, 0
        rows: Counter[int] = Counter()
        for _ in range(rounds):
            every, workers, in_flight = chance.randint(1, 60), chance.randint(1, 6), chance.randint(1, 30)
            numbers = [str(number) for number in (every, workers, in_flight)]
            before = _offset(store)
            python = warm_programs(warnings=None)
            process = python.talk_text(PROGRAMS / "mapped_process.py", path, kind, *numbers, stderr=2)
            assert process.stdout.readline() == "begun\n"
            time.sleep(chance.random() * 0.15)
            kills += process.poll() is None
            process.kill()
            process.communicate()
            earlier = rows
            with store.transaction() as connection:
                rows = Counter(record for (record,) in connection.execute("SELECT record FROM sink"))
            done = _offset(store)
            assert done >= before
            assert set(range(done)) <= set(rows), "lost"
            beyond = [record for record in rows - earlier if record >= done]  # of this process
            if "transaction" in kind:
                assert beyond == []
                assert set(rows.values()) <= {1}, "doubled"
            assert len(beyond) <= every + in_flight
            most_again = max(most_again, len(beyond))
        assert kills > rounds / 2
        print(f"{kind}: {rounds} rounds, {kills} kills, {_offset(store)} records done, at most {most_again} to do again")
        store.verify().raise_if_broken()


def _offset(store: CheckpointStore) -> int:
    point = store.resume_points("run-7").get("load")
    return point.watermark.offset if point else 0

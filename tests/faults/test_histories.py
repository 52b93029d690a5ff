"""What several processes were told, against each other and against the file: once each, in the order of time, never back."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from milepost import CheckpointStore
from support.programs import PROGRAMS, environment
from support.warm import warm_programs

CHILD = PROGRAMS / "recorded_writer.py"
SEED = int(os.environ.get("MILEPOST_FAULT_SEED", "8000"))

Operation = dict[str, Any]
Told = tuple[list[Operation], list[tuple[str, str]]]


def _log(path: Path, processes: int, operations: int) -> list[Operation]:
    """What each of several processes was told, by the time of its question."""
    children = [
        warm_programs(warnings=None).talk_text(
            CHILD, path, f"process-{number}", str(operations), str(SEED), env=environment()
        )
        for number in range(processes)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate() for child in children]
    assert [error for _, error in answers] == [""] * processes
    log = [json.loads(line) for answer, _ in answers for line in answer.splitlines()]
    assert len(log) == processes * operations
    return sorted(log, key=lambda operation: operation["begun"])


def _recorded(path: Path) -> list[tuple[str, str]]:
    """The keys and the signatures of the chain, in its order."""
    with CheckpointStore.open_readonly(path) as store:
        store.verify().raise_if_broken()
        return [(entry.idempotency_key, receipt.signature) for receipt, entry, _ in store.receipts()]


def _contradictions(log: list[Operation], recorded: list[tuple[str, str]]) -> list[str]:
    """
    What in the answers cannot be, had all been done one after the other.

    Source:
        Herlihy and Wing, Linearizability (1990): each takes effect at one moment between its question and its answer.
    """
    found = []
    keys = [key for key, _ in recorded]
    if len(set(keys)) < len(keys):
        found.append("a key is recorded twice")
    signatures = ["00" * 32, *(signature for _, signature in recorded)]
    places = {key: position for position, key in enumerate(keys, start=1)}
    for operation in log:
        if "key" in operation:
            place = places.get(operation["key"])
            if place is None:
                found.append(f"{operation['key']} was acknowledged and is not there")
            elif (place, recorded[place - 1][1]) != (operation["position"], operation["signature"]):
                found.append(f"{operation['key']} was acknowledged at {operation['position']} and is at {place}")
        elif operation["signature"] not in signatures[operation["entries"] :][:1]:
            found.append(f"a head of {operation['entries']} entries was never the chain's")
    # Whoever asked after somebody was answered sees that, and comes after it.
    reached = sorted((each["ended"], each["position"] if "position" in each else each["entries"]) for each in log)
    seen, ended = 0, 0
    for operation in log:
        while ended < len(reached) and reached[ended][0] < operation["begun"]:
            seen = max(seen, reached[ended][1])
            ended += 1
        if "entries" in operation and operation["entries"] < seen:
            found.append(f"{seen} entries were known, and then {operation['entries']}")
        if "key" in operation and not operation["duplicate"] and operation["position"] <= seen:
            found.append(f"position {operation['position']} was given when {seen} entries were known")
    return found


@pytest.mark.parametrize(
    ("processes", "operations"),
    [(4, 150), pytest.param(8, 1_250, marks=pytest.mark.long), pytest.param(32, 1_000, marks=pytest.mark.long)],
    ids=["600", "10000", "32000"],
)
def test_what_processes_are_told_is_what_one_after_the_other_would_be(path: Path, processes: int, operations: int) -> None:
    """Promises B1 and B4: appends, repetitions and heads of several processes, each once and in the order of time."""
    log = _log(path, processes, operations)
    recorded = _recorded(path)
    took = [(operation["ended"] - operation["begun"]) / 1e6 for operation in log if "key" in operation]
    print(
        f"seed {SEED}: {len(log):,} operations of {processes} processes, {len(recorded):,} entries; an append took "
        f"{quantiles(took, n=100)[98]:.1f} ms at P99, {max(took):.0f} ms at most"
    )
    assert _contradictions(log, recorded) == []
    by_process = {process: [o for o in log if o["process"] == process] for process in {o["process"] for o in log}}
    for told in by_process.values():
        assert all(one["ended"] <= next_one["begun"] for one, next_one in pairwise(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A short log, and what is recorded."""
    path = tmp_path_factory.mktemp("histories") / "orders.milepost"
    return _log(path, 2, 60), _recorded(path)


def test_an_answer_that_is_lost_doubled_or_out_of_time_is_caught(told: Told) -> None:
    """The checker of these logs finds each kind of lie."""
    log, recorded = told
    assert _contradictions(log, recorded) == []
    assert any("was acknowledged and is not there" in each for each in _contradictions(log, recorded[:-1]))
    assert "a key is recorded twice" in _contradictions(log, [*recorded, recorded[0]])
    appends = [operation for operation in log if "key" in operation and not operation["duplicate"]]
    heads = [operation for operation in log if operation.get("entries")]
    late = {**appends[0], "begun": log[-1]["ended"] + 1, "ended": log[-1]["ended"] + 2}
    assert any("was given when" in each for each in _contradictions([*log, late], recorded))
    back = {**heads[0], "begun": log[-1]["ended"] + 1, "ended": log[-1]["ended"] + 2}
    assert any("entries were known, and then" in each for each in _contradictions([*log, back], recorded))
    another = {**heads[-1], "signature": "ab" * 32}
    assert any("was never the chain's" in each for each in _contradictions([*log, another], recorded))

"""Every VFS call fails, once or for good: a verb raises or succeeds, never half, and neighbours see a whole chain."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from milepost import (
    Checkpoint,
    CheckpointStore,
    FailedStoreError,
    MilepostError,
    StoreError,
    Watermark,
)
from support.broken_disk import KINDS, Fault, quiet
from support.chains import mixed
from support.fault_workload import NAME, Plan, Session, content, drawn_plan, fast_directory, lay
from support.hooked_vfs import Call, hooked

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = 4001
PLAN: Final = drawn_plan(SEED, 6, kinds=("append", "advance", "sink", "append_many"), autocheckpoint=12)


class Disk(Fault):
    """A disk that fails. What a failed sync was to make durable is lost until it is written again, as a kernel has it."""

    def __init__(self, kind: str, at: int, lasting: bool) -> None:
        super().__init__(KINDS[kind], at, lasting)
        self.loses = kind == "failed fsync"
        self.lost: set[int] = set()  # of the WAL: where the bytes are, each eight of them, that no later sync makes durable
        self._unsynced: set[int] = set()

    def __call__(self, call: Call) -> None:
        """Look at one call."""
        try:
            super().__call__(call)
        except apsw.Error:
            if self.loses and call.path.endswith("-wal"):
                self.lost |= self._unsynced
            raise
        if not call.path.endswith("-wal"):
            return
        match call.method:
            case "xWrite":
                written = range(call.offset, call.offset + len(call.data), 8)
                self.lost.difference_update(written)
                self._unsynced.update(written)
            case "xSync":
                self._unsynced.clear()
            case "xDelete" | "xTruncate":
                self.lost.clear()
                self._unsynced.clear()


@dataclass
class Findings:
    """What came of many faults."""

    faults: int = 0
    raised: int = 0
    problems: list[str] | None = None

    def report(self, problem: str) -> None:
        """Note something wrong."""
        self.problems = [*(self.problems or []), problem]


def _points(directory: Path) -> list[tuple[str, int]]:
    """Every kind of fault, at every call of the plan that can have it."""
    calls: list[Call] = []
    lay(directory, {})
    with hooked(calls.append) as vfs:
        session = Session(directory, PLAN.autocheckpoint, vfs)
        for step in PLAN.steps:
            session.do(step)
        session.close()
    methods = [call.method for call in calls]
    return [(kind, number) for kind, errors in KINDS.items() for number, method in enumerate(methods) if method in errors]


def _run(directory: Path, kind: str, at: int, lasting: bool, findings: Findings) -> None:
    """The plan with one fault; what raises is done again, and what is still broken then is healed."""
    lay(directory, {})
    fault = Disk(kind, at, lasting)
    where = f"{kind} {'from' if lasting else 'at'} call {at}"
    with hooked(fault) as vfs:
        session = Session(directory, PLAN.autocheckpoint, vfs)
        try:
            for number in range(len(PLAN.steps)):
                problem = _do(session, number, fault, findings)
                if problem:
                    findings.report(f"{where}: step {number} ({PLAN.steps[number].kind}): {problem}")
                    return
        finally:
            fault.healed = True
            session.close()
    findings.faults += fault.raised > 0
    with CheckpointStore(directory / NAME) as store:
        if content(store) != PLAN.contents[-1] or not store.verify().ok:
            findings.report(f"{where}: not whole in the end")


def _do(session: Session, number: int, fault: Disk, findings: Findings) -> str | None:
    for attempt in range(5):
        was_open = session.store is not None
        try:
            session.do(PLAN.steps[number])
        except (MilepostError, MemoryError) as error:
            findings.raised += 1
            if attempt == 1:
                fault.healed = True
            if fault.loses and was_open and not isinstance(error, FailedStoreError):
                return f"after a sync that failed the store goes on: {error!r}"
            problem = _neighbour_sees(session.path, PLAN, {max(number - 1, 0), number})
            if problem:
                return f"after {type(error).__name__}: {problem}"
            if isinstance(error, FailedStoreError):
                problem = _still_takes(session)
                session.close()
            if problem:
                return problem
            continue
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return f"raised a raw {type(error).__module__}.{type(error).__name__}: {error}"
        if fault.lost:
            return "acknowledged, and what a failed sync lost was not written again"
        return _neighbour_sees(session.path, PLAN, {number})
    return "the retry does not work"


def _still_takes(session: Session) -> str | None:
    """A failed store refuses every verb."""
    store = session.store
    if store is None:
        return None
    entry = Checkpoint("another", "stage", 1, Watermark(0, 0), "key", 0)
    for verb in (lambda: store.append(entry), lambda: store.append_many([]), store.head, store.verify):
        try:
            verb()
        except FailedStoreError:
            continue
        return "a failed store still answers"
    return None


def _neighbour_sees(path: Path, program: Plan, steps: set[int]) -> str | None:
    """A second store, opened with the ordinary VFS, sees a whole chain: that of one of these steps."""
    if not path.exists():
        return None if 0 in steps else "the file is gone"
    try:
        with CheckpointStore.open_readonly(path) as neighbour:
            if content(neighbour) not in [program.contents[step] for step in steps]:
                return "a neighbour sees what is no state between two steps"
            faults = neighbour.verify().faults
            return f"a neighbour's verify finds {faults[0]}" if faults else None
    except Exception as error:  # noqa: BLE001 - whatever a neighbour gets is the finding
        return f"a neighbour gets {type(error).__name__}: {error}"


def _inject(dose: int | None, seed: int) -> Findings:
    """So many faults of each kind, or all: a sync is a rare call, and what its failure leads to is the worst."""
    print(f"seed {seed}")
    findings = Findings()
    with fast_directory() as directory, quiet():
        points = [(kind, at, lasting) for kind, at in _points(directory) for lasting in (False, True)]
        if dose is not None:
            chance = random.Random(seed)
            points = [point for kind in KINDS for point in chance.sample([each for each in points if each[0] == kind], dose)]
        for kind, at, lasting in points:
            _run(directory, kind, at, lasting, findings)
    print(f"{findings.faults} faults, {findings.raised} raised")
    return findings


def test_a_fault_in_a_sample_of_vfs_calls_is_raised_or_survived() -> None:
    """Once or for good, eight of each of five kinds: the store raises its own error or goes on, and the retry works."""
    findings = _inject(8, SEED)
    assert findings.problems is None
    assert findings.faults > 30


@pytest.mark.parametrize("broken", ["sqlite_errors.sync_failed", "wal.make_durable"])
def test_a_store_that_takes_a_failed_sync_for_any_other_error_is_caught(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """It goes on as if nothing were lost, or trusts the WAL that it finds."""
    monkeypatch.setattr(f"milepost.{broken}", lambda *_: False)
    findings = Findings()
    with fast_directory() as directory, quiet():
        for kind, at in _points(directory):
            if kind == "failed fsync" and findings.problems is None:
                _run(directory, kind, at, False, findings)
    assert findings.problems is not None


def test_a_read_that_fails_between_statements_of_one_moment_says_so(path: Path) -> None:
    """SQLite has ended their transaction then; that is not what the caller is told."""
    fault = Disk("I/O error", 0, lasting=True)
    fault.healed = True
    with hooked(fault) as vfs, CheckpointStore(path, vfs=vfs, durability="normal") as store:
        store.append_many(mixed(10))
        assert len(store) == 10
        fault.healed = False
        with pytest.raises(StoreError, match="SQLITE_IOERR_READ"):
            store.compare("run-0", "run-1")
        fault.healed = True
        assert store.verify().ok


@pytest.mark.long
def test_a_fault_in_every_vfs_call_is_raised_or_survived() -> None:
    """Every call of the plan, every kind, once and for good."""
    findings = _inject(None, SEED)
    assert findings.problems is None
    assert findings.faults > 2000

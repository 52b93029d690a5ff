"""An archive that is broken off anywhere: by a kill, a power loss, an error of the disk. The record stays whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, MilepostError, StoreError, StoreFullError, archive, create, files, schema
from support.archive_power_loss import Dose, kill_retry_power_loss, power_loss
from support.archived_store import Archived, short_steps
from support.broken_disk import KINDS, Fault, quiet
from support.chains import chain
from support.fault_workload import fast_directory
from support.hooked_vfs import Call, hooked
from support.power_loss import Tally
from support.programs import PROGRAMS
from support.told_process import ToldProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "6000"))
NEVER: Final = 10**9
Point = tuple[int, bool]


# Kills


class Server:
    """The program that archives and has itself killed; see killed_archive.py."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._process = ToldProcess(PROGRAMS / "killed_archive.py", directory)

    def kill(self, call: int, *, half: bool = False) -> tuple[bool, str | None, list[str]]:
        """Archive, and kill it at a call: whether it was, what is wrong afterwards, which calls were made without a kill."""
        killed, problem, methods = json.loads(self._process.tell(f"{call} {'half' if half else 'whole'}"))
        return killed, problem, methods

    def points(self) -> list[Point]:
        """Every call, and every write again for its half."""
        killed, problem, methods = self.kill(NEVER)
        assert (killed, problem) == (False, None)
        halves = [(call, True) for call, method in enumerate(methods) if method == "xWrite"]
        return [*((call, False) for call in range(len(methods))), *halves]

    def close(self) -> None:
        """Let the program end."""
        self._process.end()


@contextlib.contextmanager
def _servers(number: int) -> Iterator[list[Server]]:
    with fast_directory() as directory:
        servers = [Server(directory / str(each)) for each in range(number)]
        try:
            yield servers
        finally:
            for server in servers:
                server.close()


def _kill(server: Server, points: Sequence[Point]) -> list[str]:
    problems = []
    for call, half in points:
        killed, problem, _ = server.kill(call, half=half)
        if problem or not killed:
            problems.append(f"killed {'halfway through' if half else 'before'} call {call}: {problem}")
    return problems


def test_an_archive_that_is_killed_at_a_sample_of_calls_is_finished_by_the_next() -> None:
    """Of the VFS and of the directory: every state is a complete store, and nothing is recorded twice."""
    with _servers(1) as (server,):
        assert _kill(server, random.Random(SEED).sample(server.points(), 8)) == []


@pytest.mark.long
def test_an_archive_that_is_killed_at_any_call_is_finished_by_the_next() -> None:
    """Every call, and every write halfway."""
    began = time.monotonic()
    with _servers(2) as servers, ThreadPoolExecutor() as pool:
        points = servers[0].points()
        found = list(pool.map(_kill, servers, (points[::2], points[1::2])))
    print(f"{len(points):,} kills, {sum(map(len, found))} problems in {time.monotonic() - began:.0f} s")
    assert found == [[], []]


# Power loss


def _reported(what: str, began: float, tallies: Iterator[Tally]) -> Tally:
    tally = sum(tallies, Tally())
    print(
        f"{what}, MILEPOST_FAULT_SEED={SEED}: {tally.states:,} states, {tally.distinct:,} distinct, "
        f"{len(tally.losses)} losses in {time.monotonic() - began:.0f} s"
    )
    return tally


def _all(hunt: Callable[[Dose], Tally], dose: Dose, parts: int = 2) -> Tally:
    began = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        doses = [replace(dose, part=(part, parts)) for part in range(parts)]
        return _reported(hunt.__name__, began, pool.map(hunt, doses))


def test_an_archive_during_which_the_power_goes_loses_nothing() -> None:
    """At a sample of the moments: the archive is durable before anything is recorded, and that before anything is moved."""
    tally = power_loss(Dose(SEED, stride=130))
    assert tally.losses == []
    assert tally.distinct > 15


@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")  # commits behind a lost one: told, rightly
def test_with_normal_durability_too_an_archive_during_which_the_power_goes_loses_nothing() -> None:
    """The commits may be lost, latest first; the archive is durable by itself."""
    tally = power_loss(Dose(SEED, stride=250, durability="normal"))
    assert tally.losses == []
    assert tally.distinct > 5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::milepost.MilepostWarning")
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_an_archive_during_which_the_power_goes_at_any_moment_loses_nothing(durability: str) -> None:
    """Every index of what reaches the disk."""
    assert _all(power_loss, Dose(SEED, durability=durability)).losses == []


@pytest.mark.long
def test_an_archive_that_is_finished_after_a_kill_survives_power_loss() -> None:
    """What a killed process has left in the page cache only, the next one makes durable before it relies on it."""
    assert _all(kill_retry_power_loss, Dose(SEED, stride=25, every=25)).losses == []


def test_an_archive_that_is_recorded_before_it_is_durable_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above can tell."""
    monkeypatch.setattr(create, "seal", _without_sync)
    assert any("archive" in loss for loss in power_loss(Dose(SEED, stride=130, until_caught=True)).losses)


def _without_sync(temporary: str, vfs: str | None) -> None:
    with files.vfs_file(temporary, vfs, apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE) as file:
        assert file is not None
        file.xWrite(schema.SEAL, 18)


def test_an_archive_that_a_killed_process_has_put_there_is_made_durable_before_it_is_recorded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name may be in the page cache only; without the archive, the entries would be nowhere."""
    target, done = path.with_name("a"), list[str]()

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    def synced(call: Call) -> None:
        if (call.method, call.path) == ("xSync", str(target)):
            done.append("file")

    with hooked(synced) as vfs, CheckpointStore(path, vfs=vfs) as store:
        store.append_many(chain(10))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(files, "sync_directory", killed)
            store.archive(target, before=store.head())
        assert target.exists()
        assert len(store) == 10
        record = archive._record
        monkeypatch.setattr(files, "sync_directory", lambda name: done.append(f"directory of {name}"))

        def recorded(*given: Any) -> None:
            done.append("record")
            record(*given)

        monkeypatch.setattr(archive, "_record", recorded)
        store.archive(target, before=store.head())
    assert done == ["file", f"directory of {target}", "record"]


# Errors of the disk


def test_an_archive_that_sqlite_has_no_memory_to_seal_or_to_sync_is_told_in_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is milepost that seals it, and that makes one durable which a killed process has left."""
    target, failing = path.with_name("a"), ["seal"]

    def fails(call: Call) -> None:
        is_seal, is_sync = call.data == schema.SEAL, (call.method, call.path) == ("xSync", str(target))
        if (is_seal and "seal" in failing) or (is_sync and "sync" in failing):
            raise apsw.exception_for(apsw.SQLITE_NOMEM)

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with hooked(fails) as vfs, CheckpointStore(path, vfs=vfs) as store:
        store.append_many(chain(10))
        with pytest.raises(StoreError, match=r"a: SQLite ran out of memory"):
            store.archive(target, before=store.head())
        assert not [name for name in os.listdir(path.parent) if name.startswith((".", "a"))]  # noqa: PTH208
        failing[:] = ["sync"]
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(files, "sync_directory", killed)
            store.archive(target, before=store.head())
        with pytest.raises(StoreError, match=r"a: SQLite ran out of memory"):
            store.archive(target, before=store.head())
        failing.clear()
        assert store.archive(target, before=store.head()).entries == 10
        assert store.verify(archives=[target]).ok


def _points(archived: Archived) -> list[tuple[str, int, bool]]:
    """Every kind of fault, once and for good, at every call of an archive that can have it."""
    calls: list[Call] = []
    archived.lay()
    with hooked(calls.append) as vfs, short_steps():
        archived.run(vfs)
    return [
        (kind, number, lasting)
        for kind, errors in KINDS.items()
        for number, call in enumerate(calls)
        if call.method in errors
        for lasting in (False, True)
        if not (lasting and kind == "MemoryError")  # then no reader can be closed either, and each closing waits for it
    ]


def _fail(archived: Archived, kind: str, at: int, lasting: bool) -> tuple[int, str | None]:
    """Archive on a disk that fails. Return how often it did, and what is wrong afterwards."""
    archived.lay()
    fault = Fault(KINDS[kind], at, lasting)
    raised: BaseException | None = None
    finished = False
    with hooked(fault) as vfs, short_steps():
        try:
            archived.run(vfs, before_close=lambda: setattr(fault, "healed", lasting))
            finished = True
        except (MilepostError, MemoryError) as error:
            raised = error
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            return fault.raised, f"raised a raw {type(error).__module__}.{type(error).__name__}: {error}"
    if lasting and kind == "disk full" and raised is not None and not isinstance(raised, StoreFullError):
        return fault.raised, f"a full disk raised {raised!r}"
    return fault.raised, archived.problem(finished=finished)


def _fail_at(points: Sequence[tuple[str, int, bool]]) -> tuple[int, list[str]]:
    faults, problems = 0, []
    with fast_directory() as directory, quiet():
        archived = Archived(directory)
        for kind, at, lasting in points:
            raised, problem = _fail(archived, kind, at, lasting)
            faults += raised > 0
            if problem:
                problems.append(f"{kind} {'from' if lasting else 'at'} call {at}: {problem}")
    return faults, problems


def _all_points() -> list[tuple[str, int, bool]]:
    with fast_directory() as directory:
        return _points(Archived(directory))


def test_an_archive_on_a_disk_that_fails_at_a_sample_of_calls_raises_or_ends_and_is_finished_by_the_next() -> None:
    """Once or for good, three of each of five kinds, a full disk among them."""
    chance, every = random.Random(SEED), _all_points()
    points = [point for kind in KINDS for point in chance.sample([each for each in every if each[0] == kind], 3)]
    assert _fail_at(points) == (15, [])


@pytest.mark.long
def test_an_archive_on_a_disk_that_fails_at_any_call_raises_or_ends_and_is_finished_by_the_next() -> None:
    """Every call, every kind, once and for good."""
    began, points = time.monotonic(), _all_points()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_fail_at, [points[part::16] for part in range(16)]))
    problems: list[Any] = [problem for _, each in found for problem in each]
    print(f"{sum(faults for faults, _ in found):,} faults, {len(problems)} problems in {time.monotonic() - began:.0f} s")
    assert problems == []

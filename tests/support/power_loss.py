"""
Rebuild what a power loss leaves, and look at it with milepost.

A disk holds for certain what was synced. Of what was written since, it may hold nothing, everything, a part of the
operations in any order, and of each operation any of its sectors; where the file grew, sectors may be zero; a sector that
was being written may hold noise. A name in a directory that was not synced since may be there or not.

What is assumed of the disk, as SQLite assumes it: a power loss damages no byte but those that a write was to change
(powersafe overwrite, https://sqlite.org/psow.html). So writing the very bytes again that a sector holds cannot hurt it.
"""

from __future__ import annotations

import itertools
import random
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milepost import FailedStoreError, MilepostError
from support.fault_workload import KINDS as KINDS_OF_STEPS
from support.fault_workload import (
    LARGE_KINDS,
    NAME,
    WAL,
    Content,
    Files,
    Plan,
    Session,
    Step,
    content,
    drawn_plan,
    fast_directory,
    lay,
)
from support.recording_vfs import (
    Enter,
    FailedSync,
    Leave,
    Mark,
    Operation,
    Recorder,
    Sync,
    SyncDirectory,
    Truncate,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

KINDS: Final = ("lost", "kept", "prefix", "subset", "sectors", "zeros", "noise")
"""How the operations since the last sync fare; the first two are certain, the others drawn."""

_SECTORS: Final = (512, 4096)


class _File:
    """One file: what is on the disk, what is on its way there, and what processes see."""

    __slots__ = ("durable", "pending", "seen")

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[Write | Truncate] = []
        self.seen = bytearray()

    def write(self, operation: Write | Truncate) -> None:
        self.pending.append(operation)
        _apply(self.seen, operation)

    def sync(self) -> None:
        if self.pending:
            self.durable = self.after("kept", random.Random(0))
            self.pending = []

    def fail_to_sync(self, rng: random.Random) -> None:
        """The disk took some of it, the kernel forgets the rest: only a new write will ever bring it there."""
        self.durable = self.after(rng.choice(("lost", "subset", "sectors")), rng)
        self.pending = []

    def after(self, kind: str, rng: random.Random) -> bytes:
        """What is found after a power loss."""
        if kind == "lost" or not self.pending:
            return self.durable
        found = bytearray(self.durable)
        pending = self.pending
        last = len(pending)
        torn = -1
        if kind == "prefix":
            last = rng.randint(1, last)
            torn = last - 1
        elif kind == "noise":
            torn = rng.randrange(last)
        size = rng.choice(_SECTORS)
        for number, operation in enumerate(pending[:last]):
            if kind in {"subset", "noise"} and number != torn and rng.random() < 0.5:
                continue
            if isinstance(operation, Truncate) or kind in {"kept", "subset"}:
                _apply(found, operation)
            elif number == torn:
                _tear(found, operation, size, rng, noise=kind == "noise")
            elif kind in {"prefix", "noise"}:
                _apply(found, operation)
            else:
                _scatter(found, operation, size, rng, zeros=kind == "zeros")
        return bytes(found)


def _apply(found: bytearray, operation: Write | Truncate) -> None:
    if isinstance(operation, Write):
        _put(found, operation.offset, operation.data)
    elif operation.size < len(found):
        del found[operation.size :]
    else:
        found.extend(bytes(operation.size - len(found)))


def _put(found: bytearray, offset: int, data: bytes) -> None:
    if offset > len(found):
        found.extend(bytes(offset - len(found)))
    found[offset : offset + len(data)] = data


def _pieces(operation: Write, size: int) -> list[tuple[int, bytes]]:
    """A write, sector by sector."""
    start, end = operation.offset, operation.offset + len(operation.data)
    cuts = [start, *range((start // size + 1) * size, end, size), end]
    return [(a, operation.data[a - start : b - start]) for a, b in itertools.pairwise(cuts)]


def _tear(found: bytearray, operation: Write, size: int, rng: random.Random, *, noise: bool) -> None:
    """The sectors up to one; that one may hold noise. From the end as often as from the beginning."""
    pieces = _pieces(operation, size)
    if rng.random() < 0.5:
        pieces.reverse()
    whole = rng.randrange(len(pieces))
    for offset, data in pieces[:whole]:
        _put(found, offset, data)
    if noise:
        offset, data = _changed(found, *pieces[whole])
        cut = rng.randint(0, len(data))
        _put(found, offset, data[:cut] + rng.randbytes(len(data) - cut))


def _scatter(found: bytearray, operation: Write, size: int, rng: random.Random, *, zeros: bool) -> None:
    """Any of the sectors; the others stay as they were, or are zero."""
    for offset, data in _pieces(operation, size):
        if rng.random() < 0.5:
            _put(found, offset, data)
        elif zeros:
            changed, lost = _changed(found, offset, data)
            _put(found, changed, bytes(len(lost)))


def _changed(found: bytearray, offset: int, data: bytes) -> tuple[int, bytes]:
    """The part of a write between the first and the last byte that it changes."""
    before = found[offset : offset + len(data)]
    if before == data:
        return offset, b""
    first = next((i for i, (old, new) in enumerate(zip(before, data, strict=False)) if old != new), len(before))
    last = len(data)
    if len(before) == len(data):
        last -= next(i for i, (old, new) in enumerate(zip(reversed(before), reversed(data), strict=True)) if old != new)
    return offset + first, data[first:last]


class Disk:
    """
    A directory on a disk, as far as a log has come.

    Args:
        rng: Draws which part of a file a failed sync has still written.
        files: What is on the disk to begin with.
        names: Which number each of these files has in the log.
    """

    def __init__(self, rng: random.Random, files: Files | None = None, names: dict[str, int] | None = None) -> None:
        self._rng = rng
        self._files: dict[int, _File] = {}
        self._durable = dict(names or {})
        self._pending: list[Enter | Leave] = []
        self._seen = dict(names or {})
        for name, data in (files or {}).items():
            file = self._files[self._durable[name]] = _File()
            file.durable, file.seen = data, bytearray(data)

    @property
    def names(self) -> dict[str, int]:
        """Which file each name stands for, as processes see it."""
        return dict(self._seen)

    def apply(self, operation: Operation) -> None:
        """One operation later."""
        match operation:
            case Write(file) | Truncate(file):
                self._files[file].write(operation)
            case Sync(file):
                self._files[file].sync()
            case FailedSync(file):
                self._files[file].fail_to_sync(self._rng)
            case Enter(name, file):
                self._files.setdefault(file, _File())
                self._pending.append(operation)
                self._seen[name] = file
            case Leave(name):
                self._pending.append(operation)
                self._seen.pop(name, None)
            case SyncDirectory():
                self._durable = dict(self._seen)
                self._pending = []
            case Mark():
                pass

    def seen(self) -> Files:
        """What a process sees that starts now."""
        contents = {file: bytes(self._files[file].seen) for file in self._seen.values()}
        names = sorted(self._seen, key=lambda name: name != NAME)
        return {name: contents[self._seen[name]] for name in names}

    def after_power_loss(self, kind: str, rng: random.Random) -> Files:
        """What is found of the store and its WAL, and of a second name of the store, as its creation has for a moment."""
        names = self._names_after(kind, rng)
        found = {name: self._files[names[name]].after(kind, rng) for name in (NAME, WAL) if name in names}
        if NAME in found:
            found |= {name: found[NAME] for name, file in names.items() if file == names[NAME]}
        return found

    def everything_after_power_loss(self, kind: str, rng: random.Random) -> Files:
        """What is found of every file, under every name."""
        names = self._names_after(kind, rng)
        contents = {file: self._files[file].after(kind, rng) for file in sorted(set(names.values()))}
        return {name: contents[file] for name, file in names.items()}

    def _names_after(self, kind: str, rng: random.Random) -> dict[str, int]:
        if kind == "kept":
            return self._seen
        names = dict(self._durable)
        if kind == "lost":
            return names
        last = rng.randint(0, len(self._pending)) if kind == "prefix" else len(self._pending)
        for entry in self._pending[:last]:
            if kind != "prefix" and rng.random() < 0.5:
                continue
            if isinstance(entry, Enter):
                names[entry.name] = entry.file
            else:
                names.pop(entry.name, None)
        return names


@dataclass(frozen=True, slots=True)
class Outcome:
    """What milepost makes of files: the last step whose content they hold, or what is wrong (-1: there is no store)."""

    step: int
    problem: str = ""


@dataclass
class Tally:
    """What a hunt has seen."""

    states: int = 0
    distinct: int = 0
    losses: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.states + other.states, self.distinct + other.distinct, self.losses + other.losses)


class Examiner:
    """
    Opens what a crash left, with milepost on the real VFS, and judges it; the same files are opened once only.

    Args:
        directory: Where to lay the files.
        plan: What they must hold.
        durability: How to open them.
    """

    def __init__(self, directory: Path, plan: Plan, durability: str = "full") -> None:
        self._directory, self._plan, self._durability = directory, plan, durability
        self._known: dict[tuple[int, int, int], Outcome] = {}

    @property
    def distinct(self) -> int:
        """How many different states it has seen."""
        return len(self._known)

    def examine(self, files: Files) -> Outcome:
        """Open, compare, verify, go on."""
        key = hash(files.get(NAME)), hash(files.get(WAL)), len(files)
        if key not in self._known:
            self._known[key] = self._open(files)
        return self._known[key]

    def _open(self, files: Files) -> Outcome:
        lay(self._directory, files)
        session = Session(self._directory, self._plan.autocheckpoint, None, self._durability)
        try:
            step = self._look(session) if NAME in files else -1
            return Outcome(step) if isinstance(step, int) else Outcome(-2, step)
        except Exception as error:  # noqa: BLE001 - whatever milepost raises is the finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = "refused" if isinstance(error, MilepostError) else "a raw exception"
            return Outcome(-2, f"{kind}: {type(error).__name__}: {error} ({place.name}, line {place.lineno})")
        finally:
            session.close()

    def _look(self, session: Session) -> int | str:
        store = session.open()
        found = content(store)
        step = self._plan.last_alike(found)
        if step is None:
            return f"no state between two steps: {_short(found)}"
        verification = store.verify()
        if not verification.ok:
            return f"verify: {verification.faults[0]}"
        # The next append works. Of what the plan states next, some may be there already under another step's name.
        if step + 1 < len(self._plan.steps):
            session.do(self._plan.steps[step + 1])
            if (after := content(store)) != self._plan.contents[step + 1]:
                return f"step {step + 1} done again left {_short(after)}"
        return step


def _short(found: Content) -> str:
    keys = [entry.idempotency_key[:6] for entry in found.entries]
    return f"entries {keys}, sink {found.sink and [key[:6] for key, _ in found.sink]}"


def record(
    plan: Plan,
    directory: Path,
    *,
    durability: str = "full",
    together: bool = True,
    fail_sync: int | None = None,
    reopen: bool = False,
) -> Recorder:
    """
    Run a plan from its first step to its last, and record it.

    Args:
        plan: What to do.
        directory: Where; emptied before.
        durability: How the store is opened.
        together: Whether the sink commits with the checkpoints.
        fail_sync: Which sync fails. A step that raises because of it is where the process ends, as in a crash.
        reopen: Instead, the process closes the store, opens it again, does the step again and goes on.
    """
    lay(directory, {})
    recorder = Recorder(directory, fail_sync=fail_sync)
    with recorder.recording() as vfs:
        session = Session(directory, plan.autocheckpoint, vfs, durability, together=together)
        end = sys.maxsize
        for number, step in enumerate(plan.steps):
            recorder.mark(number, acknowledged=False)
            try:
                session.do(step)
            except MilepostError as error:
                if not recorder.failed:
                    raise
                if not reopen:
                    end = len(recorder.log)
                    break
                _refuses_to_go_on(session, step, error)
                session.close()
                session.do(step)
            recorder.mark(number, acknowledged=True)
        session.close()
    del recorder.log[end:]
    return recorder


def _refuses_to_go_on(session: Session, step: Step, error: MilepostError) -> None:
    """A store that has seen a failed sync raises the same error for everything that it is asked."""
    store = session.store
    if store is None:
        return
    if not isinstance(error, FailedStoreError):
        raise AssertionError(f"a failed sync raised {error!r}")
    for verb in (lambda: session.do(step), store.head, store.verify, lambda: list(store.history())):
        try:
            verb()
        except FailedStoreError:
            continue
        raise AssertionError("a store took more after a failed sync")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What must be there at least, and may be there at most: numbers of steps."""

    least: int = -1
    most: int = -1

    def after(self, mark: Mark) -> Bounds:
        """A step has begun, or has its answer."""
        if mark.acknowledged:
            return Bounds(max(self.least, mark.step), max(self.most, mark.step))
        return Bounds(self.least, max(self.most, mark.step))

    def judge(self, plan: Plan, outcome: Outcome, *, prefix_only: bool = False) -> str | None:
        """What is wrong with an outcome, or None."""
        if outcome.problem:
            return outcome.problem
        if not prefix_only and outcome.step < self.least:
            return f"LOST: the answer to step {self.least} had come, the file is as after step {outcome.step}"
        if outcome.step >= 0 and plan.first_alike(outcome.step) > self.most:
            return f"PHANTOM: step {self.most} was the last one begun, the file is as after step {outcome.step}"
        return None


def hunt(
    plan: Plan,
    log: Sequence[Operation],
    examiner: Examiner,
    rng: random.Random,
    *,
    disk: Disk | None = None,
    bounds: Bounds | None = None,
    prefix_only: bool = False,
    drawn: int = 1,
    every: int = 1,
    until_caught: bool = False,
) -> Tally:
    """
    Cut the power at every index of a log, in every kind of way.

    Args:
        plan: What was done.
        log: What reached the disk, and when the answers came.
        examiner: Judges the files.
        rng: Draws.
        disk: Where the log begins; an empty one, if not given. It is moved on to the log's end.
        bounds: What was there when the log began.
        prefix_only: What was answered may be lost; only what is left must be whole.
        drawn: How many states of each kind that is drawn, at each index.
        every: Look at one index in so many, and at each answer.
        until_caught: Stop at the first loss.
    """
    disk = disk or Disk(rng)
    bounds = bounds or Bounds()
    tally = Tally()
    known = examiner.distinct
    for index, operation in enumerate([None, *log]):
        if isinstance(operation, Mark):
            bounds = bounds.after(operation)
        elif operation is not None:
            disk.apply(operation)
        answered = isinstance(operation, Mark) and operation.acknowledged
        if (index % every and not answered) or (until_caught and tally.losses):
            continue
        for kind in KINDS:
            for _ in range(1 if kind in {"lost", "kept"} else drawn):
                files = disk.after_power_loss(kind, rng)
                tally.states += 1
                wrong = bounds.judge(plan, examiner.examine(files), prefix_only=prefix_only)
                if wrong:
                    tally.losses.append(f"index {index} of {len(log)}, {kind}: {wrong}")
    tally.distinct = examiner.distinct - known
    return tally


def crash(log: Iterable[Operation], seed: int) -> tuple[Disk, Bounds]:
    """The disk at the end of a log, and what was begun and answered. The same seed gives the same failed syncs."""
    disk, bounds = Disk(random.Random(seed)), Bounds()
    for operation in log:
        if isinstance(operation, Mark):
            bounds = bounds.after(operation)
        else:
            disk.apply(operation)
    return disk, bounds


def rebooted(files: Files, seed: int) -> Disk:
    """A disk that holds these files and nothing else."""
    numbers = {id(data): -1 - number for number, data in enumerate(files.values())}
    return Disk(random.Random(seed), files, {name: numbers[id(data)] for name, data in files.items()})


def restart(plan: Plan, disk: Disk, bounds: Bounds, directory: Path, *, durability: str = "full") -> list[Operation]:
    """
    The process is dead, the machine is not: a new one sees what was written, and does the last step again.

    Args:
        plan: What was done.
        disk: The disk as the dead process left it; not changed.
        bounds: What that process had begun and been answered.
        directory: Where to run the new one.
        durability: How it opens the store.

    Returns:
        What the new process wrote. What it shows when it has opened the store counts as acknowledged from then on, and so
        does the step that it does again, whether that was a duplicate or not. A process that cannot open the store, or
        sees no state between two steps, writes nothing more: the hunt opens the same files, and reports it.
    """
    lay(directory, disk.seen())
    recorder = Recorder(directory, names=disk.names)
    again = max(bounds.most, 0)
    with recorder.recording() as vfs:
        session = Session(directory, plan.autocheckpoint, vfs, durability)
        try:
            recorder.mark(again, acknowledged=False)
            shown = plan.last_alike(content(session.open()))
            if shown is not None:
                recorder.mark(shown, acknowledged=True)
                if not plan.steps[again].opens:
                    session.do(plan.steps[again])
                recorder.mark(again, acknowledged=True)
        except MilepostError:
            pass
        finally:
            session.close()
    return recorder.log


# The hunts: each takes a seed and how much to do, and gives a tally. They are functions of a module, so that other
# processes can run them.


@dataclass(frozen=True, slots=True)
class Dose:
    """
    How much of a hunt to do.

    Attributes:
        seed: Of the plan and of everything drawn.
        every: Of the moments, or the syncs, at which the first thing goes wrong, take one in so many.
        stride: Of the moments at which the power goes thereafter, take one in so many, and each answer.
        drawn: How many states of each kind that is drawn, at each index.
        length: How many steps the plan has.
        durability: How the store is opened.
        together: Whether the sink commits with the checkpoints.
        until_caught: Stop at the first loss: enough for a variant that must be caught.
        before_syncs: Kill only right before a sync, when the most is written and not durable.
        large: Its transactions outgrow SQLite's cache, so that frames are in the WAL before their commit, or without one.
        seldom: Of the syncs that fail, let the process go on after one in so many: this takes the longest by far.
    """

    seed: int
    every: int = 1
    stride: int = 1
    drawn: int = 1
    length: int = 14
    durability: str = "full"
    together: bool = True
    until_caught: bool = False
    before_syncs: bool = False
    large: bool = False
    seldom: int = 1


class _Hunt:
    """One plan, two directories, and what a dose asks for."""

    def __init__(self, dose: Dose, directory: Path) -> None:
        self.dose = dose
        self.plan = drawn_plan(dose.seed, dose.length, kinds=LARGE_KINDS if dose.large else KINDS_OF_STEPS, large=dose.large)
        self.rng = random.Random(dose.seed)
        self.work = directory / "work"
        self.work.mkdir()
        look = directory / "look"
        look.mkdir()
        self.examiner = Examiner(look, self.plan, dose.durability)
        self.tally = Tally()

    def record(self, fail_sync: int | None = None, *, reopen: bool = False) -> Recorder:
        dose = self.dose
        return record(
            self.plan, self.work, durability=dose.durability, together=dose.together, fail_sync=fail_sync, reopen=reopen
        )

    def restart(self, disk: Disk, bounds: Bounds) -> list[Operation]:
        return restart(self.plan, disk, bounds, self.work, durability=self.dose.durability)

    def hunt(self, log: Sequence[Operation], disk: Disk | None = None, bounds: Bounds | None = None) -> None:
        dose = self.dose
        self.tally += hunt(
            self.plan,
            log,
            self.examiner,
            self.rng,
            disk=disk,
            bounds=bounds,
            prefix_only=dose.durability == "normal",
            drawn=dose.drawn,
            every=dose.stride,
            until_caught=dose.until_caught,
        )

    def places(self, count: int) -> Iterator[int]:
        """One in so many, in a drawn order, until something is caught if that is enough."""
        for place in self.rng.sample(range(count), -(-count // self.dose.every)):
            if self.dose.until_caught and self.tally.losses:
                return
            yield place


def power_loss(dose: Dose) -> Tally:
    """The power goes at every index of a plan."""
    with fast_directory() as directory:
        it = _Hunt(dose, directory)
        it.hunt(it.record().log)
        return it.tally


def interrupted_recovery(dose: Dose) -> Tally:
    """The power goes at an index, comes back, and goes again at every index of what the next process does."""
    with fast_directory() as directory:
        it = _Hunt(dose, directory)
        log = it.record().log
        for index in it.places(len(log) + 1):
            disk, bounds = crash(log[:index], dose.seed)
            files = disk.after_power_loss(it.rng.choice(KINDS), it.rng)
            again = it.restart(rebooted(files, dose.seed), bounds)
            it.hunt(again, rebooted(files, dose.seed), bounds)
        return it.tally


def kill_retry_power_loss(dose: Dose) -> Tally:
    """The process is killed at an index, a new one does the step again, and then the power goes."""
    with fast_directory() as directory:
        it = _Hunt(dose, directory)
        log = it.record().log
        moments = [each for each in range(len(log) + 1) if not dose.before_syncs or isinstance([*log, None][each], Sync)]
        for place in it.places(len(moments)):
            index = moments[place]
            again = it.restart(*crash(log[:index], dose.seed))
            it.hunt(again, *crash(log[:index], dose.seed))
        return it.tally


def failed_sync(dose: Dose) -> Tally:
    """
    A sync fails and the kernel calls the lost data clean; sooner or later the power goes.

    Three reactions: the process dies at once and the power goes; it dies, and a new one does the step again before the
    power goes; it closes the store, opens it again, does the step again and goes on until the power goes. A failure that
    milepost is not told of, since SQLite lets it pass, is none of its business, and it goes on.
    """
    with fast_directory() as directory:
        it = _Hunt(dose, directory)
        for turn, number in enumerate(it.places(it.record().syncs)):
            died = it.record(fail_sync=number).log
            failed_at = next(i for i, operation in enumerate(died) if isinstance(operation, FailedSync))
            it.hunt(died[failed_at:], *crash(died[:failed_at], number))
            it.hunt(it.restart(*crash(died, number)), *crash(died, number))
            if turn % dose.seldom:
                continue
            went_on = it.record(fail_sync=number, reopen=True).log
            it.hunt(went_on[failed_at:], *crash(went_on[:failed_at], number))
        return it.tally

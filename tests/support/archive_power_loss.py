"""The power goes while a store is archived, at every index of what reaches the disk (power_loss.py)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.archived_store import Archived, short_steps
from support.fault_workload import NAME, fast_directory, lay
from support.power_loss import KINDS, Disk, Tally
from support.recording_vfs import Operation, Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

_STORE = {NAME: -1}
"""The number of the store's file, which is there from the beginning."""


@dataclass(frozen=True, slots=True)
class Dose:
    """
    How much to do.

    Attributes:
        seed: Of everything drawn.
        stride: Of the moments at which the power goes, take one in so many.
        every: Of the moments at which the process is killed before, take one in so many.
        durability: How the store is opened.
        part: Which of so many parts of the moments to take.
        until_caught: Stop at the first loss: enough for a variant that must be caught.
    """

    seed: int
    stride: int = 1
    every: int = 1
    durability: Any = "full"
    part: tuple[int, int] = (0, 1)
    until_caught: bool = False


class _Hunt:
    def __init__(self, dose: Dose, archived: Archived) -> None:
        self._dose, self._archived = dose, archived
        self._rng = random.Random(dose.seed)
        self._seen: set[int] = set()
        self.tally = Tally()

    def disk(self, log: Sequence[Operation] = ()) -> Disk:
        """The disk at the end of a log."""
        disk = Disk(random.Random(self._dose.seed), self._archived.files, _STORE)
        for operation in log:
            disk.apply(operation)
        return disk

    def record(self, disk: Disk) -> list[Operation]:
        """What an archive writes that begins with this disk."""
        lay(self._archived.directory, disk.seen())
        recorder = Recorder(self._archived.directory, names=disk.names)
        with recorder.recording() as vfs, short_steps():
            self._archived.run(vfs)
        return recorder.log

    def hunt(self, disk: Disk, log: Sequence[Operation], where: str = "") -> None:
        """Cut the power in every kind of way, at some indexes of a log, and at its end."""
        part, parts = self._dose.part
        for index, operation in enumerate([None, *log]):
            if operation is not None:
                disk.apply(operation)
            finished = index == len(log)
            if self._dose.until_caught and self.tally.losses:
                break
            if finished or (index % self._dose.stride == 0 and index // self._dose.stride % parts == part):
                for kind in KINDS:
                    self._examine(disk, kind, f"{where}index {index} of {len(log)}, {kind}", finished=finished)
        self.tally.distinct = len(self._seen)

    def _examine(self, disk: Disk, kind: str, where: str, *, finished: bool) -> None:
        files = disk.everything_after_power_loss(kind, self._rng)
        self.tally.states += 1
        state = hash((finished, *sorted(files.items())))
        if state in self._seen:
            return
        self._seen.add(state)
        lay(self._archived.directory, files)
        problem = self._archived.problem(finished=finished and self._dose.durability == "full")
        if problem:
            self.tally.losses.append(f"{where}: {problem}")


def power_loss(dose: Dose) -> Tally:
    """The power goes at an index of an archive."""
    with fast_directory() as directory:
        it = _Hunt(dose, Archived(directory, dose.durability))
        it.hunt(it.disk(), it.record(it.disk()))
        return it.tally


def kill_retry_power_loss(dose: Dose) -> Tally:
    """The process is killed at an index of an archive, a new one archives again, and then the power goes."""
    with fast_directory() as directory:
        it = _Hunt(dose, Archived(directory, dose.durability))
        log = it.record(it.disk())
        for index in range(0, len(log) + 1, dose.every):
            it.hunt(it.disk(log[:index]), it.record(it.disk(log[:index])), f"killed at {index} of {len(log)}, ")
        return it.tally

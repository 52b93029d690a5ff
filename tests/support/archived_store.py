"""
A store that is archived while the faults come, and what must hold wherever its archive was broken off.

Every state is a complete store: it opens, verifies, and answers every lookup as before. The archive is not there, or it is
whole; once it is recorded, it is there. The same call again ends where an undisturbed one does.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from milepost import Checkpoint, CheckpointStore, Head, Watermark, archive
from support.fault_workload import CLOCK_MS, NAME, Files, lay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ARCHIVE: Final = "archive"
STEP: Final = 40
"""How many entries one commit moves, so that a short archive has several."""

CUT: Final = 150
_STAGES: Final = ("extract", "load")


def _open(directory: Path, vfs: str | None = None, durability: Any = "full") -> CheckpointStore:
    return CheckpointStore(directory / NAME, vfs=vfs, durability=durability, clock=lambda: CLOCK_MS)


def make(directory: Path) -> Files:
    """The closed file of a store with runs, cursors, a bag in progress, a table of a sink, and one archive behind it."""
    lay(directory, {})
    with _open(directory, durability="normal") as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (key TEXT NOT NULL)")
        with store.run("first") as run:
            for number in range(1, 31):
                for stage in _STAGES:
                    mark = Watermark(number // 2, CLOCK_MS + number)
                    run.advance(stage, mark, idempotency_key=f"{number}", cursor={"page": number})
        list(store.once([f"item-{number}" for number in range(30)], run_id="bag", stage="mail", key=str))
        store.append_many(
            Checkpoint(
                "second", stage, number, Watermark(number // 3, CLOCK_MS), f"{number}-{'x' * (number % 7 * 40)}", number
            )
            for number in range(1, 60)
            for stage in _STAGES
        )
        with store.transaction() as connection:
            connection.execute("INSERT INTO sink VALUES ('mine')")
    return {NAME: (directory / NAME).read_bytes()}


@contextlib.contextmanager
def short_steps() -> Iterator[None]:
    """An archive moves few entries in one commit."""
    step, archive._STEP = archive._STEP, STEP  # type: ignore[misc]
    try:
        yield
    finally:
        archive._STEP = step  # type: ignore[misc]


class Archived:
    """
    A store, its files before an archive, and what it must answer then and thereafter.

    Args:
        directory: Where it is made, and laid anew for each fault.
        durability: How it is opened to be archived.
    """

    def __init__(self, directory: Path, durability: Any = "full") -> None:
        self.directory, self.durability = directory, durability
        self.files = make(directory)
        with _open(directory) as store:
            self.head = self._head_at(store, CUT)
            self._whole = list(store.receipts())
            self._answers = _answers(store)
        with short_steps():
            self.run()
        with _open(directory) as store:
            self._left = list(store.history())
        with CheckpointStore.open_readonly(directory / ARCHIVE) as made:
            self._archived = list(made.receipts())
        if len(self._left) > len(self._whole) - CUT / 2 or self._archived != self._whole[:CUT]:
            raise AssertionError("the archive itself is not what it must be")

    @staticmethod
    def _head_at(store: CheckpointStore, position: int) -> Head:
        receipt, _, _ = next(store.receipts(after=position - 1, limit=1))
        return Head(receipt.position, receipt.signature)

    def lay(self) -> None:
        """Begin anew."""
        lay(self.directory, self.files)

    def run(self, vfs: str | None = None, before_close: Callable[[], object] = lambda: None) -> None:
        """Open the store, archive, and close it."""
        store = _open(self.directory, vfs, self.durability)
        try:
            store.archive(self.directory / ARCHIVE, before=self.head)
        except BaseException:
            before_close()
            raise
        finally:
            store.close()

    def problem(self, *, finished: bool = False) -> str | None:
        """
        Look at what a fault has left, archive again, and look again; a sentence about the first thing that does not hold.

        Args:
            finished: Whether the archive had returned.
        """
        try:
            return self._look(finished=finished) or self._again()
        except Exception as error:  # noqa: BLE001 - whatever milepost raises is the finding
            return f"{type(error).__name__}: {error}"

    def _look(self, *, finished: bool) -> str | None:
        target = self.directory / ARCHIVE
        with _open(self.directory) as store:
            if hidden := [name for name in os.listdir(self.directory) if name.startswith(".")]:  # noqa: PTH208
                return f"{hidden} are left"
            if faults := store.verify().faults:
                return f"verify() finds {faults[0]}"
            answers = _answers(store)
            if answers != self._answers:
                return f"a lookup answers {[a for a, b in zip(answers, self._answers, strict=True) if a != b]}"
            records = list(store.history("milepost"))
            base = store.base
            if (finished and base != self.head) or not 0 <= base.entries <= (CUT if records else 0):
                return f"the base is {base}, with {len(records)} archives recorded"
            if target.exists():
                with CheckpointStore.open_readonly(target) as made:
                    if not made.verify().ok or not made._database.sealed or list(made.receipts()) != self._archived:
                        return "the archive is not whole"
            elif records:
                return "an archive is recorded, and not there"
            if records and (faults := store.verify(archives=[target]).faults):
                return f"verify(archives=…) finds {faults[0]}"
            store.append(Checkpoint("third", "load", 1, Watermark(0, 0), "next", 0))
        return None

    def _again(self) -> str | None:
        with short_steps():
            self.run()
        with _open(self.directory) as store:
            if store.base != self.head:
                return f"archived again, the base is {store.base}"
            left = [each for each in store.history() if each.run_id != "third"]
            if left != self._left:
                return f"archived again, the file has {len(left)} entries, and {len(self._left)} without a fault"
            found = store.verify(archives=[self.directory / ARCHIVE])
            if found.faults or found.elsewhere:
                return f"archived again, verify(archives=…) finds {found}"
            if not store.verify().ok:
                return "archived again, verify() finds a fault"
        return None


def _answers(store: CheckpointStore) -> list[Any]:
    """What an archive changes nothing about."""
    runs = [run for run in store.runs() if run.run_id != "third"]
    points = [store.resume_points(run.run_id) for run in runs]
    with store.transaction() as connection:
        sink = connection.execute("SELECT key FROM sink").fetchall()
    return [
        points,
        [(run.run_id, run.entries, run.stages, run.signature, run.state, run.attempts, run.began_at_ms) for run in runs],
        [store.cursor(stage, run_id="first") for stage in _STAGES],
        [store.latest_for_stage(stage, run_id=run.run_id) for stage in _STAGES for run in runs],
        sorted(each.idempotency_key for each in store.history("bag")),
        sink,
    ]

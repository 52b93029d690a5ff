"""
A process at work on a file that is archived meanwhile: `beside_archive.py PATH NAME write|read|archive`.

A writer appends, and says how many entries and how long the slowest took. A reader pages through the chain and verifies
it in every way; it says how often, and what it found wrong. An archiver archives, and says how often, and what was
refused. Each ends when there is a file PATH-stop.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milepost import Checkpoint, CheckpointStore, EntriesArchivedError, StoreError, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable


def write(path: Path, name: str, going: Callable[[], bool]) -> dict[str, Any]:
    """Append one entry after the other."""
    slowest = 0.0
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
        for number in itertools.count(1):
            if not going():
                return {"entries": number - 1, "slowest_ms": round(slowest * 1000, 1)}
            began = time.perf_counter()
            store.append(Checkpoint(name, f"stage-{number % 3}", number, Watermark(number // 3, 0), f"{number}", number))
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.001)
    raise AssertionError


def read(path: Path, _name: str, going: Callable[[], bool]) -> dict[str, Any]:
    """Page through the chain and verify it, in turn."""
    problems: list[str] = []
    done = overtaken = 0

    def archives() -> list[Path]:
        return sorted(path.parent.glob(f"{path.name}-archive-*"))

    def walk(store: CheckpointStore) -> None:
        last: dict[tuple[str, str], int] = {}
        for entry in store.history():
            if entry.sequence <= last.get((entry.run_id, entry.stage), 0):
                problems.append(f"history() goes back at {entry}")
            last[entry.run_id, entry.stage] = entry.sequence

    def summarized(store: CheckpointStore) -> None:
        str(store.summary())

    def backwards(store: CheckpointStore) -> None:
        positions = [receipt.position for receipt, _, _ in store.receipts(newest_first=True)]
        if positions != sorted(set(positions), reverse=True):
            problems.append("receipts(newest_first=True) is out of order")

    def verified(**given: Any) -> Callable[[CheckpointStore], None]:
        def verify(store: CheckpointStore) -> None:
            found = store.verify(**{**given, "archives": (known := archives()) if given.get("archives") else []})
            if not given.get("archives") or archives() == known:  # else those next to the last one were not given
                problems.extend(f"verify({given}) finds {fault}" for fault in found.faults[:3])

        return verify

    ways = [
        walk, backwards, verified(), verified(archives=True), verified(run_id="writer-0"), verified(workers=2),
        verified(archives=True, workers=2), summarized,
    ]  # fmt: skip
    with CheckpointStore.open_readonly(path) as store:
        while going() and not store.latest("writer-0"):
            time.sleep(0.01)
        for way in itertools.cycle(ways):
            if not going():
                break
            try:
                way(store)
            except EntriesArchivedError:
                overtaken += 1
            done += 1
    return {"done": done, "overtaken": overtaken, "problems": problems[:5]}


def archive(path: Path, name: str, going: Callable[[], bool]) -> dict[str, Any]:
    """Archive what is there, again and again."""
    made = 0
    refused: list[str] = []
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20_000) as store:
        for number in itertools.count(1):
            if not going():
                return {
                    "made": made,
                    "refused": len(refused),
                    "problems": [said for said in refused if "same time" not in said],
                }
            try:
                base = store.base
                made += store.archive(f"{path}-archive-{number:05}-{name}", before=store.head()) != base
            except StoreError as error:
                refused.append(str(error))
            time.sleep(0.1)
    raise AssertionError


def main() -> None:
    """Do what is asked, and tell."""
    path, name, what = Path(sys.argv[1]), sys.argv[2], {"write": write, "read": read, "archive": archive}[sys.argv[3]]
    stop = Path(f"{path}-stop")
    print(json.dumps(what(path, name, lambda: not stop.exists())))


if __name__ == "__main__":
    main()

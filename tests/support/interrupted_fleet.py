"""
A program that asks the fleet of a pattern, interrupted at random moments: what is left open then?

A process of its own, because an interrupt inside a callback of the garbage collector, as test tools have them, is lost.
"""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path
from typing import Any

from milepost import open_files, open_many

DESCRIPTORS = Path("/proc/self/fd")


def main(pattern: str, rounds: int) -> None:
    """Ask that often, and print how many questions were interrupted."""
    lost: list[Any] = []
    sys.unraisablehook = lost.append
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    chance = random.Random(7)
    hits = 0
    with open_many(pattern) as fleet:
        whole = fleet.resume_points()
        for _ in range(rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.005))
                fleet.resume_points()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hits += 1
            if open_files.opened() or any(".milepost" in name for name in _descriptors()):
                raise SystemExit("something is left open")
        if fleet.resume_points() != whole:
            raise SystemExit("another answer afterwards")
    if lost:
        raise SystemExit(f"lost: {lost}")
    sys.stdout.write(f"{hits}\n")


def _descriptors() -> list[str]:
    if not DESCRIPTORS.exists():
        return []
    return [str(each.readlink()) for each in DESCRIPTORS.iterdir() if each.is_symlink()]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

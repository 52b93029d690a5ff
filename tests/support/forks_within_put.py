"""
A program that puts an object into a directory, and forks once at each line of that.

`DIRECTORY leaves|goes-on waits|at-once`: whether the children leave or go on, and do so when told or at once. It prints what
the put has returned, and how many children there were. A small process of its own, for a large one takes long to fork.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from milepost.targets import DirectoryTarget

if TYPE_CHECKING:
    from types import FrameType


class ForkAtEachLine:
    """Forks once at each line of `put_new`, and no child forks. The children leave, or go on, at once or when told."""

    def __init__(self, *, leaves: bool, waits: bool) -> None:
        self.parent = os.getpid()
        self.children: list[int] = []
        self._leaves, self._waits = leaves, waits
        self._told, self.tell = os.pipe()
        self._lines: set[int] = set()

    def __call__(self, frame: FrameType, event: str, _given: object) -> ForkAtEachLine | None:
        """Trace."""
        if os.getpid() == self.parent and event == "line" and frame.f_lineno not in self._lines:
            self._lines.add(frame.f_lineno)
            self._fork()
        return self if frame.f_code.co_name in {"put_new", "_write"} else None

    def _fork(self) -> None:
        child = os.fork()
        if child:
            self.children.append(child)
            if not self._waits:
                os.waitpid(child, 0)
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os.close(self.tell)
        if self._waits:
            os.read(self._told, 1)  # the end of the pipe
        if self._leaves:
            raise KeyboardInterrupt


def main(directory: str, *, leaves: bool, waits: bool) -> None:
    """Put it, and wait for all children."""
    fork = ForkAtEachLine(leaves=leaves, waits=waits)
    target = DirectoryTarget(directory)
    try:
        sys.settrace(fork)
        put = target.put_new("orders/log/1", b"an object")
    finally:
        sys.settrace(None)
        if os.getpid() != fork.parent:
            os._exit(0)
        os.close(fork.tell)
    if waits:
        for child in fork.children:
            os.waitpid(child, 0)
    print(put, len(fork.children))


if __name__ == "__main__":
    main(sys.argv[1], leaves=sys.argv[2] == "leaves", waits=sys.argv[3] == "waits")

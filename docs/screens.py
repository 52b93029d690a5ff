"""
Make the screens and the pictures of `docs/see.md` again: `python docs/screens.py`.

It records thirty nights of a pipeline, one of which was killed and one of which failed, and another that still goes on.
Then it runs the commands that the page shows on a terminal of 80 columns, and puts what they say into the page.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milepost import CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).with_name("see.md")
PICTURE: Final = Path(__file__).with_name("durations.png")
NAME: Final = "orders.milepost"
DAY_MS: Final = 86_400_000
NIGHTS: Final = 30
STEPS: Final = 20
RECORDS: Final = 25_000
STAGES: Final = {"extract": 4_000, "transform": 9_000, "load": 6_000}
"""Each stage, and how many ms a step of it takes."""
SCREEN: Final = re.compile(r"```text\n\$ milepost (?P<command>.*)\n(?P<shown>(?:(?!```).*\n)*)```")


class Clock:
    """The wall clock of the pipeline."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        """Return ms since the epoch."""
        return self.now_ms


def fill(path: Path, now_ms: int) -> None:
    """Record the nights, the last of which goes on at `now_ms`."""
    clock = Clock(now_ms)
    with CheckpointStore(path, durability="normal", clock=clock) as store:
        for night in range(1, NIGHTS + 1):
            clock.now_ms = now_ms - (NIGHTS + 1 - night) * DAY_MS
            run_id = f"nightly-{night:02d}"
            if night == NIGHTS - 6:
                store.run(run_id).__enter__()  # and is killed
                _work(store, clock, run_id, "extract", range(STEPS // 2), night)
                clock.now_ms += 90_000
            with suppress(ConnectionError), store.run(run_id):
                for stage in STAGES:
                    done = len(list(store.history(run_id, stage)))
                    _work(store, clock, run_id, stage, range(done, STEPS), night)
                    if stage == "transform" and night == NIGHTS - 2:
                        raise ConnectionError
        run_id = f"nightly-{NIGHTS + 1:02d}"
        clock.now_ms = now_ms - STEPS * STAGES["extract"] - 5 * STAGES["transform"] - 4_000
        store.run(run_id).__enter__()
        _work(store, clock, run_id, "extract", range(STEPS), NIGHTS)
        _work(store, clock, run_id, "transform", range(5), NIGHTS)


def _work(store: CheckpointStore, clock: Clock, run_id: str, stage: str, steps: range, night: int) -> None:
    for step in steps:
        clock.now_ms += STAGES[stage] + 40 * (night * 7 % 11)
        mark = Watermark((step + 1) * RECORDS, clock.now_ms - 3_600_000)
        store.advance(run_id, stage, mark, idempotency_key=f"{stage}:{step}")


def shown(command: str, directory: Path) -> str:
    """Return what a command shows on a terminal of 80 columns and 24 lines, without colours. `watch` is ended after 5 s."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    environment = {**kept, "NO_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(  # noqa: S603 - commands of the page
        [sys.executable, "-m", "milepost", *command.split()],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=directory, env=environment,
    )  # fmt: skip
    os.close(terminal)
    if command.startswith("watch"):
        threading.Timer(5, child.send_signal, [signal.SIGINT]).start()
    seen = b"".join(_parts(screen))
    os.close(screen)
    child.wait(30)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r\n", "\n")
    last = text.rfind(NAME) if command.startswith("watch") else 0  # the last of its screens
    return "".join(f"{line.rstrip()}\n" for line in text[last:].strip("\r\n").split("\n"))


def _parts(screen: int) -> Iterator[bytes]:
    with suppress(OSError):  # how Linux says that the last writer has closed it
        while part := os.read(screen, 1 << 16):
            yield part


def main() -> None:
    """Put the screens into the page, and draw the picture."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / NAME
        fill(path, time.time_ns() // 1_000_000)
        page = PAGE.read_text(encoding="utf-8")
        ended = threading.Event()
        for command in [found["command"] for found in SCREEN.finditer(page)]:
            live = threading.Thread(target=_go_on, args=(path, ended)) if command.startswith("watch") else None
            if live is not None:
                live.start()
            text = shown(command, directory).replace(str(directory), "/home/you")
            if live is not None:
                ended.set()
                live.join()
            page = _with(page, command, text)
        PAGE.write_text(page, encoding="utf-8")
        with CheckpointStore.open_readonly(path) as store:
            store.plot.durations().savefig(PICTURE, dpi=100)


def _with(page: str, command: str, text: str) -> str:
    def block(found: re.Match[str]) -> str:
        return f"```text\n$ milepost {command}\n{text}```" if found["command"] == command else found[0]

    return SCREEN.sub(block, page)


def _go_on(path: Path, ended: threading.Event) -> None:
    """Record the run that goes on, faster than it would."""
    with CheckpointStore(path, durability="normal") as store:
        step = 5
        while not ended.wait(0.2):
            step += 1
            mark = Watermark(step * RECORDS, time.time_ns() // 1_000_000 - 3_600_000)
            store.advance(f"nightly-{NIGHTS + 1:02d}", "transform", mark, idempotency_key=f"transform:{step}")


if __name__ == "__main__":
    main()

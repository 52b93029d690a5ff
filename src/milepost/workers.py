"""
Share the walk of a verification among processes: Python computes on one core a process.

A chain can be walked from any entry on, because each row keeps the signature before the next one. The chain of a run
cannot, so a cut is made only where no run goes on behind it; or inside the first run while it is alone, whose chain is the
file's. A file whose runs are interwoven from end to end has no such place, and is walked by one process.

Workers can only confirm. Whatever else they report, or if one of them dies, the whole walk is done again by one process,
which tells exactly what is wrong and where: there is one set of rules for faults, and no second one to keep in step.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from milepost import rows
from milepost.audit import Audit
from milepost.database import ReadOnlyDatabase
from milepost.errors import MilepostError
from milepost.receipt import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milepost.database import Database

LEAST: Final = 10_000
"""How many entries a part has at least: a tenth of the time that a process takes to start."""

_PARTS: Final = 4  # for each worker: who is done early takes another
_PROGRAM: Final = "from milepost.workers import work; work()"


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of the chain.

    Attributes:
        after: It begins after this position.
        through: It ends with this one.
        signature: The chain's signature at `after`, 64 hex digits.
        run_number: The run that is alone in the chain up to `after` and goes on, if there is one.
    """

    after: int
    through: int
    signature: str
    run_number: int | None


_Task = Part | None
"""A part of the chain to walk, or None: check the file itself, which cannot be parted, and so goes first."""


def cut(spans: Sequence[tuple[int, int, int]], after: int, through: int, parts: int) -> list[tuple[int, int | None]]:
    """
    Where to cut the chain between two positions, in about so many parts.

    Args:
        spans: (run_number, first position, last position) of every run, by first position.
        after: The walk begins after this position; the runs that began before it are not judged by their heads.
        through: The walk ends with this one.
        parts: How many parts are wanted.

    Returns:
        Positions after which a cut is made, each with the run that is alone up to there and goes on, if there is one.
    """
    judged = [span for span in spans if span[1] > after]
    # Between two positions each: where no judged run goes on, or only the one that is alone up to there.
    places: list[tuple[int, int, int | None]] = []
    if judged and judged[0][1] == 1:
        number, _, last = judged[0]
        places.append((1, min([last, *(first for _, first, _ in judged[1:2])]) - 1, number))
    reached = after
    for _, first, last in [*judged, (0, through + 1, 0)]:
        places.append((reached, first - 1, None))
        reached = max(reached, last)
    size = (through - after) / parts
    cuts = {}
    for wanted in (after + round(size * part) for part in range(1, parts)):
        near = ((max(least, min(wanted, most)), alone) for least, most, alone in places if least <= most)
        place, alone = min(near, key=lambda found: abs(found[0] - wanted), default=(after, None))
        if after < place < through and abs(place - wanted) <= size / 2:
            cuts[place] = alone
    return sorted(cuts.items())


def confirm(
    database: Database, kept: rows.Snapshot, since: Head | None, workers: int, progress: Callable[[int, int], object] | None
) -> bool:
    """Whether workers find the whole chain sound; False says nothing but that one process has to look itself."""
    # The key of a keyed chain stays in this process, and a VFS of the caller's is known to this process only.
    if database.hashed is not sha256 or database.vfs is not None:
        return False
    after = since.entries if since else 0
    wanted = min(workers * _PARTS, (kept.entries - after) // LEAST)
    places = [(after, None), *cut(database.read(rows.run_spans), after, kept.entries, wanted)] if wanted > 1 else []
    if len(places) < 2:
        return False
    ends = [*(place for place, _ in places[1:]), kept.entries]
    parts = []
    for (place, run_number), end in zip(places, ends, strict=True):
        signature = database.read(rows.signature_at, place)
        if signature is None:
            return False
        parts.append(Part(place, end, signature.hex(), run_number))
    audit = Audit(kept.run_names, kept.stage_names, sha256, since)
    done = after

    def count(entries: int) -> None:
        nonlocal done
        done += entries
        if progress is not None:
            progress(done, kept.entries)

    walked = _walked(database.path, parts, workers, count)
    if walked is None:
        return False
    for part in parts:
        for run_number, stage_number, entries, signature in walked[part.after]:
            audit.take_over(run_number, stage_number, entries, bytes.fromhex(signature))
    audit.compare_heads(kept.heads)
    return not audit.faults


def _walked(path: str, parts: list[Part], workers: int, count: Callable[[int], object]) -> dict[int, list[Any]] | None:
    """Have the parts walked and the file itself checked: the stages of each part, or None if not all is well."""
    walked: dict[int, list[Any]] = {}
    sound = 0
    try:
        for task, said in _replies(path, [None, *parts], workers):
            if "done" in said:
                count(said["done"])
            elif not said.get("sound"):
                return None
            else:
                sound += 1
                if task is not None:
                    walked[task.after] = said["stages"]
    except OSError:  # no process can be started here
        return None
    return walked if sound == len(parts) + 1 else None


def _replies(path: str, tasks: list[_Task], workers: int) -> Iterator[tuple[_Task, dict[str, Any]]]:
    """What workers say while they do the tasks, the first of them first; the workers end with this."""
    waiting = deque(tasks)
    replies: queue.SimpleQueue[tuple[_Task, dict[str, Any]] | None] = queue.SimpleQueue()
    children: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(workers, len(tasks))):
            children.append(_start())
            threads.append(threading.Thread(target=_employ, args=(children[-1], path, waiting, replies), daemon=True))
            threads[-1].start()
        for _ in children:
            while (reply := replies.get()) is not None:
                yield reply
    finally:
        for child in children:
            child.kill()
        for thread in threads:
            thread.join()
        for child in children:
            child.communicate()


def _start() -> subprocess.Popen[str]:
    package = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    return subprocess.Popen(  # noqa: S603 - our own program, and nothing of anybody's in its arguments
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _employ(
    child: subprocess.Popen[str],
    path: str,
    waiting: deque[_Task],
    replies: queue.SimpleQueue[tuple[_Task, dict[str, Any]] | None],
) -> None:
    """Give one worker one task after another, until none is left, and hand over what it says."""
    try:
        _say(child.stdin, path=path)
        while waiting:
            try:
                task = waiting.popleft()
            except IndexError:  # another worker was faster
                break
            _say(child.stdin, task=task and astuple(task))
            for line in child.stdout or ():
                reply = json.loads(line)
                replies.put((task, reply))
                if "done" not in reply:
                    break
    except (OSError, ValueError):
        pass  # it has died, and its task is not confirmed
    finally:
        replies.put(None)


def _say(to: IO[str] | None, **message: object) -> None:
    if to is not None:
        to.write(json.dumps(message) + "\n")
        to.flush()


def work() -> None:
    """What a worker does: a path, then tasks, on standard input, a line each; what it finds on standard output."""
    database = ReadOnlyDatabase(json.loads(sys.stdin.readline())["path"], None, None)
    try:
        for line in sys.stdin:
            task = json.loads(line)["task"]
            try:
                if task is None:
                    _say(sys.stdout, sound=not database.read(rows.integrity_check))
                else:
                    for message in _walk(database, Part(*task)):
                        _say(sys.stdout, **message)
            except MilepostError as error:
                _say(sys.stdout, sound=False, error=str(error))
    finally:
        database.close()


def _walk(database: ReadOnlyDatabase, part: Part) -> Iterator[dict[str, Any]]:
    kept = database.read(rows.snapshot, None)
    audit = Audit(kept.run_names, kept.stage_names, sha256, Head(part.after, part.signature))
    if part.run_number is not None:
        audit.go_on_with(part.run_number)
    while audit.position < part.through and (page := database.read(rows.links, audit.position, part.through)):
        audit.walk(page)
        if audit.faults:
            break
        yield {"done": len(page)}
    sound = not audit.faults and audit.position == part.through
    yield {"sound": sound, "stages": [[*stage[:3], stage[3].hex()] for stage in audit.stages()] if sound else []}

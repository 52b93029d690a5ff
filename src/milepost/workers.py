"""
Share the walk of a verification among processes, because Python computes on one core per process.

A walk can begin after any entry, because each row stores the signatures of the chain and of its run.

Workers can only confirm. If one reports anything else, or dies, one process repeats the whole walk and says what is wrong,
and where. There is therefore one set of rules for faults, and no second one to keep in step.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import astuple, dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from milepost import integrity, rows
from milepost.audit import Audit
from milepost.database import Database
from milepost.errors import MilepostError
from milepost.integrity import Integrity
from milepost.signature import ChainBase
from milepost.threads import start as start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence


LEAST: Final = 10_000
"""How many entries a part has at least. Walking them takes a tenth of the time that a process takes to start."""

_PARTS: Final = 4  # for each worker, so that a fast one can take another
_STEP: Final = 5_000  # entries between two reports of progress, each of which costs the receiving process 40 µs
_LOOK_AGAIN_S: Final = 1.0  # how often to look whether a signal handler has forked during the wait
_PROGRAM: Final = "import sys; sys.path += sys.argv[1:]; from milepost.workers import work; work()"
_PYTHON: Final = re.compile("python|pypy|graalpy", re.IGNORECASE)  # what the program's name begins with


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of the chain.

    Attributes:
        after: It begins after this position.
        through: It ends with this one.
        signature: The chain's signature at `after`, 64 hex digits.
        through_signature: The chain's signature at `through`.
    """

    after: int
    through: int
    signature: str
    through_signature: str


def progress_at(database: Database, position: int) -> Callable[[int, int], rows.Progress]:
    """Return a function that looks up how far a run and its stage, by number, had come at a walk's starting position."""
    return lambda run_number, stage_number: database.read(rows.progress_at, position + 1, run_number, stage_number)


def confirm(
    database: Database,
    kept: rows.Snapshot,
    start: ChainBase,
    workers: int,
    progress: Callable[[int, int], object] | None,
) -> Integrity | None:
    """
    Let workers confirm that the whole chain and the file are sound.

    Returns:
        The result of SQLite's check, without problems. None says only that one process has to look itself.
    """
    # The key of a keyed chain stays in this process, and only this process knows the caller's VFS. Where the file is read
    # through a copy, each worker would make one of its own, and leave it behind when it is killed.
    if database.hash is not sha256 or database.vfs is not None or not can_start() or _is_copied(database):
        return None
    wanted = min(workers * _PARTS, (kept.entries - start.position) // LEAST)
    if wanted < 2:
        return None
    places = [start.position + (kept.entries - start.position) * part // wanted for part in range(wanted + 1)]
    between = [database.read(rows.signature_at, place) for place in places[1:-1]]
    signatures = [start.signature, *between, kept.signature]
    digits = [signature.hex() for signature in signatures if isinstance(signature, bytes)]
    if len(digits) < len(places):
        return None
    ends = pairwise(zip(places, digits, strict=True))
    parts = [Part(place, end, signature, at_end) for (place, signature), (end, at_end) in ends]
    done = start.position

    def count(entries: int) -> None:
        nonlocal done
        done += entries
        if progress is not None:
            progress(done, kept.entries)

    return _sound(database.path, parts, workers, count)


def _is_copied(database: Database) -> bool:
    read: str = database.read(lambda connection: connection.filename)
    try:
        return not Path(os.fsdecode(read.encode())).samefile(database.path)
    except OSError:  # another file is being put in its place
        return True


def _sound(path: str, parts: list[Part], workers: int, count: Callable[[int], object]) -> Integrity | None:
    """Let workers walk the parts and check the file. Return the result of SQLite's check if all is well, or None."""
    sound = 0
    unchecked: list[str] = []
    # None stands for the check of the file itself, which comes first, since it cannot be split.
    try:
        for said in replies(_start, {"path": path}, [None, *map(astuple, parts)], workers):
            if "done" in said:
                count(said["done"])
            elif said.get("sound"):
                sound += 1
                unchecked += said.get("unchecked", ())
            else:
                return None
    except OSError:  # no process can be started here
        return None
    return Integrity([], unchecked) if sound == len(parts) + 1 else None


def replies(
    start: Callable[[], subprocess.Popen[str]], greeting: dict[str, Any], tasks: Sequence[Any], workers: int
) -> Generator[dict[str, Any], None, None]:
    """
    Let workers do the tasks in order, and yield their replies. The workers end when this generator ends.

    Args:
        start: Starts a worker.
        greeting: What each worker is told first.
        tasks: Each a value for JSON. A worker answers each with any number of replies that have a `done`, and one without.
        workers: How many workers at most.

    Raises:
        OSError: No process, or no thread, can be started.
    """
    waiting = deque(tasks)
    replied: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    children: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    process = os.getpid()
    try:
        for _ in range(min(workers, len(tasks))):
            children.append(start())
            thread = threading.Thread(target=_employ, args=(children[-1], greeting, waiting, replied), daemon=True)
            try:
                start_thread(thread)
            except RuntimeError as error:  # too many, or the interpreter ends
                raise OSError(errno.EAGAIN, str(error)) from error
            threads.append(thread)
        for _ in children:
            while (reply := _next(replied, process)) is not None:
                yield reply
    finally:
        if os.getpid() == process:  # else it would take the replies out of the pipes, for which its parent waits
            for child in children:
                child.kill()
            for thread in threads:
                thread.join()
            for child in children:
                child.communicate()


def _next(replied: queue.SimpleQueue[dict[str, Any] | None], process: int) -> dict[str, Any] | None:
    """Wait for a reply, or None at a worker's end. In the child of a fork all have ended, since its parent employs them."""
    while os.getpid() == process:
        with suppress(queue.Empty):
            return replied.get(timeout=_LOOK_AGAIN_S)
    return None


def can_start() -> bool:
    """
    Return whether `sys.executable` names a Python that can be started.

    A program with Python inside (PyInstaller and the like) has its own name there, or none. It would start itself again.
    """
    return not getattr(sys, "frozen", False) and bool(_PYTHON.match(Path(sys.executable or "").name))


def _start() -> subprocess.Popen[str]:
    return start_python(_PROGRAM)


def start_python(program: str) -> subprocess.Popen[str]:
    """
    Start a worker. It imports Python's own modules first, and all else from the same places as this process.

    `program` gets these places as its arguments.

    A file in the working directory, on PYTHONPATH or beside this package therefore never replaces a module of Python's.
    """
    places = [place for place in sys.path if isinstance(place, str) and Path(place).is_absolute()]
    return subprocess.Popen(  # noqa: S603 - our own program; only the directories come from elsewhere
        [sys.executable, "-I", "-S", "-B", "-X", f"utf8={sys.flags.utf8_mode}", "-c", program, *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _employ(
    child: subprocess.Popen[str],
    greeting: dict[str, Any],
    waiting: deque[Any],
    replied: queue.SimpleQueue[dict[str, Any] | None],
) -> None:
    """Give one worker one task after another until none is left, and pass its replies on."""
    try:
        say(child.stdin, **greeting)
        while waiting:
            try:
                task = waiting.popleft()
            except IndexError:  # another worker was faster
                break
            say(child.stdin, task=task)
            for line in child.stdout or ():
                reply = json.loads(line)
                replied.put(reply)
                if "done" not in reply:
                    break
    except (OSError, ValueError):
        pass  # the worker has died, so its task stays unconfirmed
    finally:
        replied.put(None)


def say(to: IO[str] | None, **message: object) -> None:
    """Send a message to a worker, or from it: a line of JSON."""
    if to is not None:
        to.write(json.dumps(message) + "\n")
        to.flush()


def work() -> None:
    """Run a worker. Read a path and then tasks from standard input, one a line, and write the results to standard output."""
    database = Database(json.loads(sys.stdin.readline())["path"], None, None).open()
    try:
        for line in sys.stdin:
            task = json.loads(line)["task"]
            try:
                if task is None:
                    problems, unchecked = integrity.check(database)
                    say(sys.stdout, sound=not problems, unchecked=unchecked)
                else:
                    for message in _walk(database, Part(*task)):
                        say(sys.stdout, **message)
            except MilepostError as error:
                say(sys.stdout, sound=False, error=str(error))
    finally:
        database.close()


def _walk(database: Database, part: Part) -> Iterator[dict[str, Any]]:
    kept = database.read(rows.snapshot)
    start = ChainBase(part.after, bytes.fromhex(part.signature))
    progress_at_start = progress_at(database, part.after)
    audit = Audit(
        kept.run_names, kept.stage_names, kept.run_stages, sha256, start, progress_at_start, base=kept.base.position
    )
    told = part.after
    while audit.position < part.through and (page := database.read(rows.rows_after, audit.position, part.through)):
        audit.check_rows(page)
        if audit.faults:
            break
        if audit.position - told >= _STEP or audit.position == part.through:
            yield {"done": audit.position - told}
            told = audit.position
    ended = audit.position == part.through and audit.signature.hex() == part.through_signature
    yield {"sound": not audit.faults and ended}

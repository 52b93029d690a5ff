"""
Share the verification of many files among processes, because Python computes on one core per process.

A worker verifies a whole file as one process does, by the same rules, and says all that it finds. If a worker cannot open
a file, or dies, the process that asked looks at the file itself, and says what is wrong.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost import files, workers
from milepost.database import Database
from milepost.errors import MilepostError
from milepost.receipt import Head
from milepost.verification import Fault, Verification
from milepost.verify import verify_chain

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Generator, Sequence

LEAST_BYTES: Final = 1_000_000
"""How large the files have to be for each worker. To verify them takes as long as a process takes to start."""

_PROGRAM: Final = "import sys; sys.path += sys.argv[1:]; from milepost.fleet_workers import work; work()"


class Task(NamedTuple):
    """
    A file to verify.

    Attributes:
        file: Its name in the fleet.
        path: Its absolute name.
        size_bytes: How large it is.
        expected: A head that its chain must contain, or None.
    """

    file: str
    path: str
    size_bytes: int
    expected: Head | None


def verify_files(tasks: Sequence[Task], processes: int) -> Generator[tuple[str, Verification], None, None]:
    """Let workers verify files, and yield what they find, by the name of each file. The caller does what is missing."""
    wanted = min(processes, len(tasks), sum(task.size_bytes for task in tasks) // LEAST_BYTES)
    if wanted < 2 or not workers.can_start():
        return
    # The large ones first, so that no worker is left alone with one at the end.
    order = sorted(tasks, key=lambda task: -task.size_bytes)
    messages = [(number, task.path, task.expected and str(task.expected)) for number, task in enumerate(order)]
    # Closed here: an exception in the caller, such as Ctrl-C, would keep the generator, and its workers, in its traceback.
    with closing(workers.replies(_start, {}, messages, wanted)) as replies, suppress(OSError):  # no process can be started
        for said in replies:
            found = said.get("found")
            if found is not None:
                yield order[said["number"]].file, _verification(**found)


def _start() -> subprocess.Popen[str]:
    return workers.start_python(_PROGRAM)


def _verification(*, faults: list[dict[str, Any]], unchecked: list[str], **others: Any) -> Verification:
    return Verification(**others, faults=tuple(Fault(**fault) for fault in faults), unchecked=tuple(unchecked))


def work() -> None:
    """Run a worker. Read tasks from standard input, one a line, and write what is found to standard output."""
    sys.stdin.readline()  # the greeting
    for line in sys.stdin:
        number, path, expected = json.loads(line)["task"]
        found = None
        with suppress(MilepostError):
            database = Database(files.absolute(path), None, None).open()
            try:
                head = None if expected is None else Head.parse(expected)
                found = asdict(verify_chain(database, None, head, 1, None))
            finally:
                database.close()
        workers.say(sys.stdout, number=number, found=found)

"""
A pipeline that is killed at one VFS call, run as a program: `killed_pipeline.py DIRECTORY SEED LENGTH [apart]`.

It reads lines of `CALL whole|half` and answers each with one line of JSON. For each it forks a child that runs the plan
from the start in the empty directory and, before VFS call number CALL, or halfway through it, kills itself with SIGKILL.
A fork of a process that does nothing else is quicker than a new interpreter (1 ms against 150), and as sudden a death.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.fault_workload import Plan, Session, drawn_plan, lay
from support.hooked_vfs import Call, hooked

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("append", "append", "advance", "sink")


@dataclass(frozen=True, slots=True)
class Death:
    """
    How a child ended.

    Attributes:
        killed: By its own SIGKILL; False if it came to the end of the plan.
        begun: The last step that it began; -1 for none.
        acknowledged: The last step whose answer it had got; -1 for none.
        methods: The VFS calls that it made, if it came to its end.
    """

    killed: bool
    begun: int
    acknowledged: int
    methods: list[str]


def plan_to_die_in(seed: int, length: int) -> Plan:
    """The plan that is run: `length` appends, some of them with a row of the sink."""
    return drawn_plan(seed, length, kinds=KINDS)


def run(directory: Path, plan: Plan, tell: Callable[[str], object], call: int, *, half: bool, together: bool) -> None:
    """Run the plan until the call, and tell what is begun and what is answered."""
    methods: list[str] = []

    def kill(made: Call) -> None:
        if len(methods) == call and (not half or made.method == "xWrite"):
            if half and made.file is not None:
                made.file.write_unhooked(made.data[: len(made.data) // 2], made.offset)
            os.kill(os.getpid(), signal.SIGKILL)
        methods.append(made.method)

    with hooked(kill) as vfs:
        session = Session(directory, plan.autocheckpoint, vfs, together=together)
        for number, step in enumerate(plan.steps):
            tell(f"b{number}\n")
            session.do(step)
            tell(f"a{number}\n")
        session.close()
    tell(f"m{','.join(methods)}\n")


def die(directory: Path, plan: Plan, call: int, *, half: bool, together: bool) -> Death:
    """Fork a child, let it run and die, and see how far it came."""
    lay(directory, {})
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            run(directory, plan, lambda line: os.write(writer, line.encode()), call, half=half, together=together)
        except BaseException:  # noqa: BLE001 - whatever it is, the child must end with it
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status != 0:
        raise RuntimeError(f"the child ended with status {status}")
    begun = [int(line[1:]) for line in lines if line[0] == "b"]
    answered = [int(line[1:]) for line in lines if line[0] == "a"]
    methods = [line[1:].split(",") for line in lines if line[0] == "m"]
    return Death(killed, max(begun, default=-1), max(answered, default=-1), methods[0] if methods else [])


def main() -> None:
    """Serve deaths."""
    directory, seed, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    plan = plan_to_die_in(seed, length)
    for line in sys.stdin:
        call, how = line.split()
        death = die(directory, plan, int(call), half=how == "half", together="apart" not in sys.argv)
        print(json.dumps([death.killed, death.begun, death.acknowledged, death.methods]), flush=True)


if __name__ == "__main__":
    main()

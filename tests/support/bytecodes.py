"""
A signal at every place where CPython looks for one: `Tripwire().run(work, at=N)`, with N from 0 on.

CPython runs signal handlers in the main thread, between two instructions, but not between any two: it looks for signals
after a call into C, where a function is entered or a generator goes on (RESUME), and where a loop jumps back. Between
`__enter__` and the body of a `with` it does not look; at the entry of an `__exit__` that is written in Python it does.

So nothing is raised here. A trace function makes a signal pending before one instruction, as if it had come just then, and
steps out of the way: when the handler runs is the interpreter's own choice, on every version of it. Two instructions between
which it does not look come to the same, so only those are taken that look themselves or that call a function of Python's.

Source:
    https://github.com/python/cpython/blob/3.11/Python/ceval.c (CHECK_EVAL_BREAKER, handle_eval_breaker)
"""

from __future__ import annotations

import _thread
import dis
import functools
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    Tracer = Callable[[FrameType, str, Any], Any]


class _Signal:
    # `-_SIGNAL` makes SIGINT pending: a call in C that CPython looks for no signal after, since it is no CALL.
    __neg__ = staticmethod(_thread.interrupt_main)


_SIGNAL = _Signal()


def _looks_for_signals(name: str) -> bool:
    return name.startswith("CALL") or "JUMP_BACKWARD" in name


def _looking(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions of a function after which CPython looks for signals; none of the tripwire's own."""
    if code.co_filename == __file__:
        return frozenset()
    offsets, prefix = [], None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":  # traced in place of the instruction that it belongs to
            prefix = instruction.offset if prefix is None else prefix
            continue
        if _looks_for_signals(instruction.opname):
            offsets += [instruction.offset] if prefix is None else [prefix, instruction.offset]
        prefix = None
    return frozenset(offsets)


class Tripwire:
    """
    Makes SIGINT pending at the N-th place of a piece of work where that makes a difference.

    Which instructions call functions of Python's, by an attribute or an operator, is learned as they run: let the work run
    untouched before the first place.

    Attributes:
        places: How many places the last run came by, until it was hit.
        hit: Whether the last run was hit.
    """

    def __init__(self) -> None:
        self._callers: set[tuple[int, int]] = set()
        self._known: dict[int, tuple[CodeType, frozenset[int]]] = {}  # the code is kept, so that its id stays its own
        self._thread = self._at = -1
        self._last: tuple[int, int] | None = None
        self.places = 0
        self.hit = False

    def run(self, work: Callable[[], object], at: int | None = None) -> None:
        """Do the work, and let the signal come at place number `at`; without one, only count."""
        self._thread, self._at = threading.get_ident(), -1 if at is None else at
        self._last, self.places, self.hit = None, 0, False
        stop = _trace(self._enter, self._reach)  # in C, so that it has no place of its own
        try:
            work()
        finally:
            stop()

    def _enter(self) -> None:
        """A function is entered, or a generator goes on: what came last has called it."""
        if self._last is not None and threading.get_ident() == self._thread:
            self._callers.add(self._last)

    def _reach(self, code: CodeType, offset: int) -> bool:
        """An instruction is about to run; whether a signal is to come now."""
        if threading.get_ident() != self._thread:
            return False
        number = id(code)
        if number not in self._known:
            self._known[number] = code, _looking(code)
        self._last = here = number, offset
        if offset in self._known[number][1] or here in self._callers:
            if self.places == self._at:
                self.hit = True
                return True
            self.places += 1
        return False


if sys.version_info >= (3, 12):
    # settrace of 3.13 leaves out the instructions of a function that it sees for the first time since it was stopped.
    _EVENTS: Final = sys.monitoring.events
    _TOOL: Final = sys.monitoring.DEBUGGER_ID

    def _trace(enter: Callable[[], None], reach: Callable[[CodeType, int], bool]) -> Callable[[], None]:
        def entered(_code: CodeType, _offset: int) -> None:
            enter()

        def reached(code: CodeType, offset: int) -> None:
            if reach(code, offset):
                sys.monitoring.set_events(_TOOL, 0)
                _ = -_SIGNAL  # and from here on nothing that looks for it

        if sys.monitoring.get_tool(_TOOL) is None:
            sys.monitoring.use_tool_id(_TOOL, __name__)
        for event, callback in ((_EVENTS.PY_START, entered), (_EVENTS.PY_RESUME, entered), (_EVENTS.INSTRUCTION, reached)):
            sys.monitoring.register_callback(_TOOL, event, callback)
        sys.monitoring.set_events(_TOOL, _EVENTS.PY_START | _EVENTS.PY_RESUME | _EVENTS.INSTRUCTION)
        return functools.partial(sys.monitoring.set_events, _TOOL, 0)

else:

    def _trace(enter: Callable[[], None], reach: Callable[[CodeType, int], bool]) -> Callable[[], None]:
        def entered(frame: FrameType, _event: str, _argument: object) -> Tracer:
            enter()
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            return reached

        def reached(frame: FrameType, event: str, _argument: object) -> Tracer | None:
            if event == "opcode" and reach(frame.f_code, frame.f_lasti):
                sys.settrace(None)
                _ = -_SIGNAL  # and from here on nothing that looks for it
                return None
            return reached

        before = sys.gettrace()
        sys.settrace(entered)
        return functools.partial(sys.settrace, before)


def told(frame: FrameType | None, depth: int = 4) -> str:
    """Where a handler came in between: the innermost functions, each with its file, its line and its instruction."""
    places: list[str] = []
    while frame is not None and len(places) < depth:
        code, offset = frame.f_code, frame.f_lasti
        while offset >= 0 and dis.opname[code.co_code[offset]] == "CACHE":  # behind the instruction that it belongs to
            offset -= 2
        name = dis.opname[code.co_code[offset]] if offset >= 0 else "its entry"
        places.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name} ({name})")
        frame = frame.f_back
    return " < ".join(places)

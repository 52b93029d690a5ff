"""
A process whose main thread is interrupted, over and over: `interrupted_process.py SOCKET` forks one for each orders.

The orders come by the socket, in JSON. A fork of a process that has opened no store takes 0.3 s less than an interpreter.
It talks by lines of JSON with the process that has started it, which looks at the file from outside (outside_view.py).
At the first problem it ends; where it hangs, it says where, and ends.
"""

from __future__ import annotations

import _weakrefset
import faulthandler
import gc
import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import apsw

from milepost import CheckpointStore, MilepostError, Receipt, StoreError, open_files
from support.bytecodes import Tripwire, told
from support.interrupted_operations import OPERATIONS, BrokenPromiseError, Handler, Operation, Scene, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from milepost import Checkpoint


BUSY_TIMEOUT_S: Final = 5.0
"""Of the scene's store: its default."""


@dataclass(frozen=True)
class Orders:
    """
    What to do.

    Attributes:
        path: The file; it has the sink's table.
        operations: What is interrupted, of interrupted_operations.py: one after the other, each in its own rounds.
        durability: Of the store.
        patience_ms: How long who looks from outside waits for the lock: not at all where nobody else is at work.
        how: `everywhere`, at each place where CPython looks for signals; `timer`, at random moments; `garbage`, not by
            signals but by the garbage collector, which runs finalizers that append.
        handler: What the handler does: `interrupt` raises KeyboardInterrupt, `exit` SystemExit, `append` and `block` use
            the store, `open` one of its own, and `fork` forks first.
        keeping: Whether somebody keeps the exception of an interrupt when the store goes on: a round of each.
        rounds: How many interrupts of each operation; with `everywhere`, at how many places, and 0 means at all.
        after: With `everywhere`: the last place of the first operation that another process has done.
        seed: Of what is random.
        least_ms, most_ms: With `timer`: how long until the signal comes.
        workers: How many threads append meanwhile.
        watchdog_s: How long a round may take.
        broken: How the store is broken on purpose, to see that it is found out; see `_break`.
    """

    path: str
    operations: Sequence[str]
    durability: str = "normal"
    patience_ms: int = 0
    how: str = "everywhere"
    handler: str = "interrupt"
    keeping: Sequence[bool] = (False, True)
    rounds: int = 0
    after: int = -1
    seed: int = 0
    least_ms: float = 0.5
    most_ms: float = 2.0
    workers: int = 0
    watchdog_s: float = 30.0
    broken: str = ""


class Interruptions:
    """The rounds of one process."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._out = os.dup(1)
        self._where = "before the first interrupt"
        self._hits = 0
        self._wire = Tripwire()
        self._place = -1
        self._armed = self._lost = self._asking = self._late = False
        self._raises: type[BaseException] | None = {"interrupt": KeyboardInterrupt, "exit": SystemExit}.get(orders.handler)
        self._scene = Scene(orders.path, orders.durability, self._hold)
        self._handler = Handler(self._scene, orders.handler)
        self._process = os.getpid()
        self._operation = self._begin(orders.operations[0])
        sys.unraisablehook = self._unraisable
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, self._interrupt)
        Workers(self._scene, orders.workers)

    def run(self) -> None:
        """All rounds."""
        rounds = {"everywhere": self._everywhere, "timer": self._at_random, "garbage": self._garbage}[self._orders.how]
        for number, name in enumerate(self._orders.operations):
            self._operation = self._begin(name)
            for _ in rounds(self._orders.after if number == 0 else -1):
                if self._scene.problems:
                    self._fail(self._scene.problems[0])
            self._look()
        handler = self._handler
        self._say(done=True, hits=self._hits, recorded=handler.recorded, refused=handler.refused)

    def _begin(self, name: str) -> Operation:
        self._where = f"{name}, before the first interrupt"
        return OPERATIONS[name](self._scene)

    # Rounds

    def _everywhere(self, after: int) -> Iterator[None]:
        wire, operation, orders = self._wire, self._operation, self._orders
        gc.disable()  # so that every run comes by the same places
        for _ in range(2):
            self._watch()
            operation.prepare()
            wire.run(operation.run)
            operation.calm()
            self._look()
            operation.again()
            self._look()
        gc.collect()
        gc.freeze()  # later collections take a moment
        self._say(places=wire.places)
        places: Iterator[int] = itertools.count(after + 1)
        if orders.rounds and orders.rounds < wire.places:
            # One of each part, so that few places leave no long stretch out.
            chance, parts = (
                random.Random(orders.seed),
                [wire.places * part // orders.rounds for part in range(orders.rounds + 1)],
            )
            chosen = [chance.randrange(first, last) for first, last in itertools.pairwise(parts)]
            places = (place for place in chosen if place > after)
        missed = 0
        for self._place in places:
            for operation.keep in orders.keeping:
                self._watch()
                gc.collect()
                operation.prepare()
                self._armed = True
                self._round(lambda: wire.run(operation.run, self._place), held=operation.keep)
                missed = 0 if wire.hit else missed + 1
                yield
            if not orders.rounds and missed >= 3 * len(orders.keeping):  # once, it may have come by fewer places
                return

    def _at_random(self, _after: int) -> Iterator[None]:
        chance, orders, operation = random.Random(self._orders.seed), self._orders, self._operation
        operation.prepare()
        for number in range(orders.rounds):
            # Most intervals are short ones, so that all take less time.
            delay_ms = min(orders.least_ms + chance.expovariate(10 / (orders.most_ms - orders.least_ms)), orders.most_ms)

            def work(delay_ms: float = delay_ms) -> None:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, delay_ms / 1000)
                while self._armed:
                    operation.prepare()
                    operation.run()

            self._place = number
            if number % 50 == 0:  # it takes a thread
                self._watch()
            self._round(work, held=orders.keeping[number % len(orders.keeping)])
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield

    def _garbage(self, _after: int) -> Iterator[None]:
        gc.set_threshold(50, 2, 2)
        for _ in range(self._orders.rounds):
            self._watch()
            for number in range(20):
                Garbage(self._handler, watched=bool(number % 2))
                self._operation.prepare()
                self._operation.run()
            self._handler.acknowledge()
            self._look()
            yield

    def _round(self, work: Callable[[], None], *, held: bool) -> None:
        """Have work interrupted, and see that all holds afterwards: while the exception is held, and when it is gone."""
        came: type[BaseException] | None = None
        operation = self._operation
        self._lost, self._where = False, f"{type(operation).__name__}, place {self._place}: not interrupted"
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever comes out is looked at
            came = type(error)
            if came is not self._raises and not (operation.caught and operation.keep and isinstance(error, MilepostError)):
                self._fail(f"what came out is {error!r}")
            if held:
                self._after(held=True)
        if self._armed and came is None:  # it was not hit
            self._armed = False
        elif came is None and self._raises is not None and not (operation.caught or self._lost):
            self._fail("the interrupt did not come out of the call")
        self._after(held=False)

    def _after(self, *, held: bool) -> None:
        operation = self._operation
        operation.held = held
        begin = time.monotonic()
        try:
            operation.calm()
            self._handler.acknowledge()
            if held and operation.refusable:
                try:
                    self._scene.append("probe")
                except MilepostError:
                    return
            self._look()
            operation.again()
            if time.monotonic() - begin >= BUSY_TIMEOUT_S:
                raise BrokenPromiseError("it has waited for something that the interrupted call left behind")
            if self._orders.how == "everywhere":
                self._look()  # else the next round looks for it
        except Exception as error:  # noqa: BLE001 - whatever it is: the store does not go on
            self._fail(f"{'with its exception kept, ' if held else ''}going on gives {error!r}")

    # Signals

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        if not self._armed or os.getpid() != self._process:  # the child of a fork inherits the tripwire
            return
        if self._asking:
            self._late = True
            return
        self._armed = False
        # What is raised in a callback of a weak reference Python itself prints and drops, in its own collections too.
        self._lost = frame is not None and (frame.f_code.co_filename in _WEAK or frame.f_code.co_qualname in _WEAK_OF_IMPORT)
        self._lost = self._lost or _in_hook(frame)
        self._hits += 1
        self._where = f"{type(self._operation).__name__}, place {self._place}: {told(frame)}"
        os.write(2, f"{self._where}\n".encode())  # for who finds that it hangs: it wakes nobody
        if self._raises is not None:
            raise self._raises
        self._handler()

    def _unraisable(self, unraisable: Any) -> None:
        if not self._lost:
            self._scene.problems.append(f"swallowed in {unraisable.object!r}: {unraisable.exc_value!r}")

    def _watch(self) -> None:
        faulthandler.dump_traceback_later(self._orders.watchdog_s, exit=True)

    # The process outside

    def _look(self) -> None:
        scene, operation = self._scene, self._operation
        scene.looked_at = True
        told, scene.told = scene.told, []
        problem = self._ask(told=told, undone=operation.undone(), together=operation.together())
        scene.looked_at = False
        if problem:
            raise BrokenPromiseError(problem)

    def _hold(self, duration_ms: int) -> None:
        self._ask(hold=duration_ms)

    def _ask(self, **request: Any) -> Any:
        self._asking = True  # a question whose answer was not read would be mistaken for the next one's
        self._say(**request)
        answer = json.loads(sys.stdin.readline())
        self._asking = False
        if self._late:
            self._late = False
            self._interrupt(0, sys._getframe())
        return answer

    def _say(self, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self._out, line) :]

    def _fail(self, problem: str) -> NoReturn:
        name = type(self._operation).__name__
        self._say(problem=f"{self._where}: {problem}", operation=name, place=self._place, hits=self._hits)
        os._exit(0)


_WEAK: Final = {_weakrefset.__file__, weakref.__file__}
_WEAK_OF_IMPORT: Final = {  # the import's own, for its locks: up to Python 3.12, and since
    "_get_module_lock.<locals>.cb",
    "_WeakValueDictionary.__init__.<locals>.KeyedRef.remove",
}


def _in_hook(frame: FrameType | None) -> bool:
    """Whether a fork has called what is interrupted: Python prints and drops that as well."""
    while frame is not None:
        if frame.f_code in _HOOKS:
            return True
        frame = frame.f_back
    return False


_HOOKS: Final = {open_files._before_fork.__code__, open_files._after_fork_in_parent.__code__}


def _break(how: str) -> None:
    """Break the store, in a way that each look from outside must notice."""
    append, latest = CheckpointStore.append, CheckpointStore.latest

    def forget(store: CheckpointStore, entry: Checkpoint) -> Receipt:
        receipt = store.head()
        return Receipt(receipt.entries + 1, receipt.signature) if entry.sequence % 5 == 0 else append(store, entry)

    def interrupted(store: CheckpointStore, run_id: str) -> Checkpoint | None:
        try:
            return latest(store, run_id)
        except KeyboardInterrupt as error:
            if how == "hang":
                time.sleep(60)
            if how == "lock":
                held = apsw.Connection(store.path)
                held.execute("BEGIN IMMEDIATE")
                _HELD.append(held)
            if how == "blame":
                raise StoreError(store.path, "the chain is as it was") from error
            if how != "swallow":
                raise
            return latest(store, run_id)

    if how == "forget":
        CheckpointStore.append = forget  # type: ignore[assignment, method-assign]
    elif how:
        CheckpointStore.latest = interrupted  # type: ignore[assignment, method-assign]


_HELD: Final[list[apsw.Connection]] = []


_WATCHERS: Final[list[weakref.ref[Garbage]]] = []


class Garbage:
    """A circle that only the garbage collector ends, and which then appends: in its finalizer, or by who watches it."""

    def __init__(self, handler: Handler, *, watched: bool) -> None:
        self._itself = self
        self._handler = None if watched else handler
        if watched:
            _WATCHERS.append(weakref.ref(self, lambda _gone: handler()))

    def __del__(self) -> None:
        if self._handler is not None:
            self._handler()


def _end(raised: threading.ExceptHookArgs) -> None:
    """A thread that ends with an exception ends the process, which tells why."""
    threading.__excepthook__(raised)
    os._exit(3)


def _play(orders: Orders) -> NoReturn:
    _break(orders.broken)
    threading.excepthook = _end
    Interruptions(orders).run()
    os._exit(0)  # whatever threads are still at work


def _fork_for_each(told: socket.socket) -> None:
    """Orders come with the three standard streams of the process that follows them; how it has ended is answered."""
    while True:
        orders, streams, _, _ = socket.recv_fds(told, 1 << 16, 3)
        if not orders:
            return
        child = os.fork()
        if child == 0:
            told.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            try:
                _play(Orders(**json.loads(orders)))
            except BaseException:  # noqa: BLE001 - whatever it is, the child must end with it
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        for stream in streams:
            os.close(stream)
        told.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _told:
        _fork_for_each(_told)

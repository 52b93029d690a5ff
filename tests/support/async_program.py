"""
A process that writes from tasks, and ends in one way or another.

    python async_program.py PATH SCENE

It says a line for each checkpoint that was acknowledged: its stage, and `ended` where it comes to its own end.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from milepost import Checkpoint, CheckpointStore, ClosedStoreError, Watermark

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

TASKS = 300
KEPT: list[object] = []
"""What lives as long as the interpreter."""


def entry(stage: str) -> Checkpoint:
    """The only checkpoint of its stage."""
    return Checkpoint("run-7", stage, 1, Watermark(1, 1), stage, 1)


def say(word: str) -> None:
    """A line, at once."""
    os.write(1, f"{word}\n".encode())


async def append(store: CheckpointStore, stage: str) -> None:
    """Append, and say so; end the task where the store is closed."""
    try:
        await store.append_async(entry(stage))
    except ClosedStoreError:
        raise asyncio.CancelledError from None
    say(stage)


async def append_for_ever(store: CheckpointStore, name: str) -> None:
    """One after the other."""
    number = 0
    while True:
        number += 1
        await append(store, f"{name}:{number}")


def begin(store: CheckpointStore, tasks: int = TASKS, name: str = "") -> list[asyncio.Task[None]]:
    """Tasks that append for ever."""
    return [asyncio.create_task(append_for_ever(store, f"{name}{task}")) for task in range(tasks)]


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def for_ever(path: str) -> None:
    """Until it is killed."""

    async def main() -> None:
        async with CheckpointStore(path) as store:
            await asyncio.wait(begin(store, 40))

    asyncio.run(main())


def returns(path: str) -> None:
    """With a full queue; what `async with` closes is closed after what has queued."""

    async def main() -> None:
        async with CheckpointStore(path) as store:
            tasks = [asyncio.create_task(append(store, str(task))) for task in range(TASKS)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    say("ended")


def exits(path: str) -> None:
    """By sys.exit in a task, with a full queue."""

    async def main() -> None:
        async with CheckpointStore(path) as store:
            begin(store)
            await asyncio.sleep(0.1)
            say("ended")
            sys.exit()

    asyncio.run(main())


def exits_open(path: str) -> None:
    """By sys.exit, with a full queue, and a store that nobody closes."""
    warnings.simplefilter("ignore", ResourceWarning)
    store = CheckpointStore(path)

    async def main() -> None:
        begin(store)
        await asyncio.sleep(0.1)
        say("ended")
        sys.exit()

    asyncio.run(main())


def exits_at_once(path: str) -> None:
    """By os._exit, with a full queue."""
    store = CheckpointStore(path)

    async def main() -> None:
        begin(store)
        await asyncio.sleep(0.1)
        say("ended")
        os._exit(0)

    asyncio.run(main())


def beside_a_daemon(path: str) -> None:
    """The main thread ends while the loop of a daemon thread writes."""
    warnings.simplefilter("ignore", ResourceWarning)
    store = CheckpointStore(path)

    async def main() -> None:
        await asyncio.wait(begin(store))

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    time.sleep(0.1)
    say("ended")


def beside_a_lock(path: str) -> None:
    """The interpreter ends while the queue waits for another process's lock, which here is a connection's."""
    warnings.simplefilter("ignore", ResourceWarning)
    store = CheckpointStore(path)
    held = apsw.Connection(path)
    held.execute("BEGIN IMMEDIATE")
    KEPT.extend([held, store])

    async def main() -> None:
        begin(store)
        await asyncio.sleep(0.1)
        say("ended")

    asyncio.run(main())


def closes(path: str) -> None:
    """The store is closed in the loop, with a full queue: what has queued is done, the rest told."""

    async def main() -> None:
        store = CheckpointStore(path)
        tasks = begin(store)
        await asyncio.sleep(0.1)
        store.close()
        for told in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(told, asyncio.CancelledError), told

    asyncio.run(main())
    say("ended")


def at_the_end(path: str) -> None:
    """After the helper has ended, functions that Python calls at the end write all the same."""
    store = CheckpointStore(path)

    @atexit.register  # before the helper's own, so it is called after it
    def _() -> None:
        async def last() -> None:
            async with store:
                await append(store, "last")
                async with store.transaction():
                    await store.append_async(entry("block"))
            say("block")
            say("ended")

        asyncio.run(last())

    asyncio.run(append(store, "first"))


def forks(path: str) -> None:
    """Beside a full queue; each child appends through a store of its own, and may run a loop of its own."""

    async def child(name: str) -> None:
        async with CheckpointStore(path, busy_timeout_ms=60_000) as own:
            await asyncio.gather(*(append(own, f"{name}:{number}") for number in range(3)))

    async def main() -> None:
        async with CheckpointStore(path, busy_timeout_ms=60_000) as store:
            tasks = begin(store, 40)
            for number in range(4):
                await asyncio.sleep(0.02)
                process = os.fork()
                if process == 0:
                    code = 1
                    with contextlib.suppress(BaseException):
                        asyncio.events._set_running_loop(None)
                        asyncio.run(child(f"child-{number}"))
                        code = 0
                    os._exit(code)
                ended = await asyncio.to_thread(os.waitpid, process, 0)
                assert ended[1] == 0, ended
            await asyncio.sleep(0.02)
            await _end(tasks)

    asyncio.run(main())
    say("ended")


def interrupted(path: str) -> None:
    """Ctrl-C at random moments, while the queue is full; with the same store, time and again."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it complains of the tasks that it could not end
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    with CheckpointStore(path, busy_timeout_ms=5000) as store:
        for number in range(int(os.environ.get("ROUNDS", "12"))):

            async def main(number: int = number) -> None:
                await asyncio.wait(begin(store, 40, f"{number}:"))

            try:
                try:
                    # The second one comes as a KeyboardInterrupt wherever Python is.
                    signal.setitimer(signal.ITIMER_REAL, 0.02 + 0.0013 * (number % 17), 0.003 + 0.0007 * (number % 11))
                    asyncio.run(main())
                finally:
                    _no_more_signals()
            except (KeyboardInterrupt, RuntimeError):  # asyncio's, of an interrupt as it ends its tasks
                _no_more_signals()  # one may have come just before it was called
            began = time.monotonic()
            asyncio.run(append(store, f"{number}:after"))
            store.append(entry(f"{number}:sync"))
            assert time.monotonic() - began < 4
    say("ended")


def struck(path: str) -> None:
    """Ctrl-C at many of the places in milepost where Python looks for signals, each in a store of its own."""
    from support.bytecodes import Tripwire  # noqa: PLC0415 - other Pythons have no tests installed

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    every, at = int(os.environ.get("EVERY", "151")), int(os.environ.get("FIRST", "7"))
    wire, begun = Tripwire(), False

    def strike(_signal: int, frame: FrameType | None) -> None:
        for _ in range(6):  # asyncio is not sound everywhere when it is interrupted
            if frame is not None and Path(frame.f_code.co_filename).parent.name == "milepost":
                raise KeyboardInterrupt
            frame = frame and frame.f_back

    async def block(store: CheckpointStore, stage: str) -> None:
        async with store.transaction():
            await store.append_async(entry(stage))
        say(stage)

    async def main(store: CheckpointStore) -> None:
        await asyncio.gather(append(store, f"{at}-a"), block(store, f"{at}-b"), append(store, f"{at}-c"))
        async with store:
            await append(store, f"{at}-d")

    def work(store: CheckpointStore) -> None:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            try:
                loop.run_until_complete(main(store))
            finally:
                tasks = asyncio.all_tasks(loop)
                for task in tasks:
                    task.cancel()
                if tasks:
                    loop.run_until_complete(asyncio.wait(tasks, timeout=3))

    while True:
        store = CheckpointStore(path, durability="normal", busy_timeout_ms=1500)
        signal.signal(signal.SIGINT, strike)
        with contextlib.suppress(KeyboardInterrupt):
            wire.run(partial(work, store), at if begun else None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if begun and not wire.hit:
            break
        at += every if begun else 0
        begun = True
        gc.collect()
        began = time.monotonic()
        with contextlib.suppress(ClosedStoreError):  # it was struck as it closed
            asyncio.run(block(store, f"after-{at}"))
            store.append(entry(f"sync-{at}"))
        store.close()
        assert time.monotonic() - began < 1, at
    say("ended")


def _no_more_signals() -> None:
    while True:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            time.sleep(0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        except KeyboardInterrupt:
            continue
        return


SCENES: dict[str, Callable[[str], Any]] = {
    scene.__name__: scene
    for scene in (
        for_ever,
        returns,
        exits,
        exits_open,
        exits_at_once,
        beside_a_daemon,
        beside_a_lock,
        closes,
        at_the_end,
        forks,
        interrupted,
        struck,
    )
}

if __name__ == "__main__":
    SCENES[sys.argv[2]](sys.argv[1])

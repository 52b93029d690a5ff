"""
Bags and tracked sources in processes that are killed, interrupted or forked: `worked_loops.py SCENE DIRECTORY ROUNDS SEED`.

Each round has a store of its own. It says a line of JSON for each: what was lost, what was doubled, and how it ended.
The program itself opens no store in the scenes that kill: it forks, for a fork is quicker than a new interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from milepost import CheckpointStore, ForkedStoreError, MilepostError

if TYPE_CHECKING:
    from collections.abc import Callable

RUN: Final = "run-7"
ITEMS: Final = 120
RECORDS: Final = 1000


def say(**outcome: Any) -> None:
    """A line, at once."""
    print(json.dumps(outcome), flush=True)


def fork(work: Callable[[], object]) -> int:
    """Do something in a child, which ends with it."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - whatever it is, the child must end with it
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def wait(children: list[int]) -> int:
    """Wait for children; how many of them were killed. None may have failed."""
    killed = 0
    for child in children:
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status) and status != 0:
            raise RuntimeError(f"the child ended with status {status}")
    return killed


# Bags


def make_sink(path: str) -> None:
    """Make a store whose file has a sink."""
    with CheckpointStore(path, durability="normal") as store, store.transaction() as connection:
        connection.execute("CREATE TABLE sink (item TEXT NOT NULL) STRICT")


def work(item: str) -> str:
    """Take a while."""
    time.sleep(0.0005)
    return item.upper()


def do_bag(path: str, seed: int) -> None:
    """Do what is left of the bag, in an order of its own."""
    items = [f"item-{n}" for n in range(ITEMS)]
    random.Random(seed).shuffle(items)
    with CheckpointStore(path, durability="normal", busy_timeout_ms=60_000) as store:
        bag = store.once(items, run_id=RUN, stage="fetch", key=str, every=1 + seed % 9, transaction=True)
        loop = bag.map(work, workers=3)
        for item, found in loop:
            assert found == item.upper()
            loop.connection.execute("INSERT INTO sink VALUES (?)", (item,))


def look_at_bag(path: str) -> dict[str, Any]:
    """What the sink has, beside what is recorded."""
    with CheckpointStore(path, durability="normal") as store:
        with store.transaction() as connection:
            sink = Counter(item for (item,) in connection.execute("SELECT item FROM sink"))
        recorded = Counter(each.idempotency_key for each in store.history(RUN, "fetch"))
        return {
            "sound": store.verify().ok,
            "alike": sink == recorded,
            "doubled": sum(count - 1 for count in sink.values()),
            "lost": ITEMS - len(sink),
        }


def kill_bags(directory: Path, rounds: int, seed: int) -> None:
    """Four processes share a bag, each is killed at a random moment, and four more come; the last ones may finish."""
    chance = random.Random(seed)
    for number in range(rounds):
        path = str(directory / f"{number}.milepost")
        wait([fork(lambda path=path: make_sink(path))])  # type: ignore[misc]
        killed = 0
        for _ in range(2):
            same = chance.random() < 0.3
            seeds = [chance.randrange(1000)] * 4 if same else [chance.randrange(1000) for _ in range(4)]
            children = [fork(lambda path=path, each=each: do_bag(path, each)) for each in seeds]  # type: ignore[misc]
            for child in chance.sample(children, 4):
                time.sleep(chance.uniform(0, 0.03))
                os.kill(child, signal.SIGKILL)
            killed += wait(children)
        wait([fork(lambda path=path: say_between(path))])  # type: ignore[misc]
        wait([fork(lambda path=path, each=each: do_bag(path, each)) for each in range(4)])  # type: ignore[misc]
        wait([fork(lambda path=path, killed=killed: say(killed=killed, **look_at_bag(path)))])  # type: ignore[misc]


def say_between(path: str) -> None:
    """After the kills, what is in the sink is what is recorded."""
    found = look_at_bag(path)
    assert found["sound"], found
    assert found["alike"], found
    assert found["doubled"] == 0, found


# Tracked sources


class FileSink:
    """A file that a line is added to for each record: what is in it outlives the process."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.sink"
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def put(self, offset: int) -> None:
        """Add a record."""
        os.write(self._file, f"{offset}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def records(self) -> Counter[int]:
        """All that are in it."""
        return Counter(map(int, Path(self._path).read_text().split()))


def track_in_tasks(path: str, seed: int) -> None:
    """Do what is left of the source, under asyncio."""
    chance = random.Random(seed)
    sink = FileSink(path)

    async def work(offset: int) -> None:
        await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.003]))
        sink.put(offset)

    async def main() -> None:
        async with (
            CheckpointStore(path, durability="normal") as store,
            store.tracked(run_id=RUN, stage="load", every=1 + seed % 11, in_flight=16, every_s=0.005) as track,
        ):
            for offset in range(track.start, RECORDS):
                done = await track(offset)
                asyncio.create_task(work(offset)).add_done_callback(done)

    asyncio.run(main())


def look_at_source(path: str) -> dict[str, Any]:
    """What the sink has, beside how far is recorded."""
    sink = FileSink(path)
    found = sink.records()
    sink.close()
    with CheckpointStore(path, durability="normal") as store:
        point = store.resume_points(RUN).get("load")
        offset = point.watermark.offset if point else 0
        return {
            "sound": store.verify().ok,
            "offset": offset,
            "lost": len(set(range(offset)) - set(found)),
            "again": sum(found.values()) - len(found),
        }


def kill_tracked(directory: Path, rounds: int, seed: int) -> None:
    """A process is killed some times, and the last one finishes: what the watermark says is done is in the sink."""
    chance = random.Random(seed)
    for number in range(rounds):
        path = str(directory / f"{number}.milepost")
        killed = lost = 0
        for _ in range(3):
            child = fork(lambda path=path: track_in_tasks(path, chance.randrange(1000)))  # type: ignore[misc]
            time.sleep(chance.uniform(0.01, 0.07))
            os.kill(child, signal.SIGKILL)
            killed += wait([child])
            lost += look_at_source(path)["lost"]
        wait([fork(lambda path=path: track_in_tasks(path, 5))])  # type: ignore[misc]
        found = look_at_source(path)
        lost += found.pop("lost") + (RECORDS - found["offset"])
        say(killed=killed, lost=lost, **found)


# Interrupts


class Stop(BaseException):
    """What the signal handler raises."""


def _raise(*_: object) -> NoReturn:
    raise Stop


def serve(work: queue.SimpleQueue[Any], sink: set[int]) -> None:
    """A worker thread: it puts a record into the sink, and says so."""
    while (got := work.get()) is not None:
        offset, done = got
        sink.add(offset)
        done()
        del got, done


def begin_one(track: Any, offset: int, work: queue.SimpleQueue[Any]) -> None:
    """Hand a record over; a frame of its own, which keeps no `done` when it is interrupted."""
    work.put((offset, track(offset)))


def interrupt_tracked(directory: Path, rounds: int, seed: int) -> None:
    """A handler raises at a random moment. It is caught around the `with`, or inside it."""
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, _raise)
    sink: set[int] = set()
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(2):
        threading.Thread(target=serve, args=(work, sink), daemon=True).start()
    with CheckpointStore(directory / "interrupted.milepost", durability="normal") as store:
        for number in range(rounds):
            faulthandler.dump_traceback_later(60, exit=True)
            interrupted, told = False, ""
            tracked = store.tracked(
                run_id=RUN, stage="load", every=chance.choice([1, 3, 50]), in_flight=4,
                every_s=chance.choice([None, None, 0.001]),
            )  # fmt: skip
            try:
                try:
                    if number % 2:
                        interrupted = within(tracked, work, chance)
                    else:
                        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))
                        with tracked as track:
                            for offset in range(track.start, track.start + 150):
                                begin_one(track, offset, work)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:  # also one that comes in the `finally`
                interrupted = True
            except MilepostError as error:
                told = f"{type(error).__name__}: {error.args[-1]}"
            point = store.resume_points(RUN).get("load")
            offset = point.watermark.offset if point else 0
            say(interrupted=interrupted, told=told, offset=offset, lost=len(set(range(offset)) - sink))
        faulthandler.cancel_dump_traceback_later()
        say(sound=store.verify().ok)


def within(tracked: Any, work: queue.SimpleQueue[Any], chance: random.Random) -> bool:
    """The interrupt is caught inside the `with`, whose end waits for all; whether there was one."""
    interrupted = False
    with tracked as track:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))
            for offset in range(track.start, track.start + 150):
                begin_one(track, offset, work)
        except Stop:
            interrupted = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return interrupted


# Forks


def fork_within(directory: Path, rounds: int, seed: int) -> None:
    """Inside a bag and a tracked source, beside a busy ticker: the child is told at once, the parent goes on."""
    chance = random.Random(seed)
    for number in range(rounds):
        faulthandler.dump_traceback_later(60, exit=True)
        with CheckpointStore(directory / f"{number}.milepost", durability="normal") as store:
            bag = store.once(range(60), run_id=RUN, stage="fetch", key=str, every=1, every_s=0.0005)
            tracked = store.tracked(run_id=RUN, stage="load", every=1, every_s=0.0005, in_flight=8)
            children = []
            items = iter(bag)
            with tracked as track:
                for offset in range(60):
                    next(items)
                    done = track(offset)
                    if chance.random() < 0.1:
                        time.sleep(chance.uniform(0, 0.001))
                        children.append(fork(lambda done=done, tracked=tracked, items=items: in_child(done, tracked, items)))  # type: ignore[misc]
                    done()
            assert next(items, None) is None
            wait(children)
            offsets = {stage: point.watermark.offset for stage, point in store.resume_points(RUN).items()}
            say(forks=len(children), sound=store.verify().ok, offsets=offsets, entries=len(store))
    faulthandler.cancel_dump_traceback_later()


def in_child(done: Any, tracked: Any, items: Any) -> None:
    """All that a child may do with what it has inherited; each is refused, and nothing hangs."""
    signal.alarm(20)  # faulthandler would wait for the parent's thread
    uses: list[Callable[[], object]] = [
        lambda: tracked(999),
        lambda: next(items),
        lambda: tracked.__exit__(None, None, None),
    ]
    for use in uses:
        try:
            use()
        except ForkedStoreError:
            pass
        else:
            raise AssertionError("not refused")
    done()
    assert tracked.done >= 0
    error = SystemExit()
    with contextlib.suppress(MilepostError):
        tracked.__exit__(SystemExit, error, None)


if __name__ == "__main__":
    scenes: dict[str, Callable[[Path, int, int], None]] = {
        "kill_bags": kill_bags,
        "kill_tracked": kill_tracked,
        "interrupt_tracked": interrupt_tracked,
        "fork_within": fork_within,
    }
    scenes[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

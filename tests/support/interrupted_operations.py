"""
What is interrupted: each way of using a store as a small piece of work, and what must hold wherever it was broken off.

An operation is made ready (`prepare`), runs and is interrupted (`run`), says what must be in the file and what must not
(`undone`, `together`), and is done once more by the same store, as a pipeline would that goes on (`again`). What was
acknowledged is told to the scene as it is acknowledged: it must be in the file whatever comes afterwards.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from milepost import (
    Checkpoint,
    CheckpointStore,
    ClosedStoreError,
    ForkedStoreError,
    Head,
    MilepostError,
    SequenceError,
    Watermark,
    archive,
    open_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import apsw

    from milepost import Receipt
    from milepost.checkpointed import Checkpointed

SINK: Final = "sink "
"""How the name of a row of the sink begins, where keys of checkpoints and rows of the sink stand side by side."""

Told = tuple[str, int | None, str | None]
"""What was acknowledged: a key, with the position and the signature of its receipt; or a row of the sink."""


class BrokenPromiseError(Exception):
    """Something does not hold that must: a sentence that says what."""


def entry(sequence: int, run_id: str, key: str, stage: str = "load") -> Checkpoint:
    """A checkpoint whose watermark follows from its sequence. Those of chains.py cost each process a tenth of a second."""
    return Checkpoint(run_id, stage, sequence, Watermark(sequence, sequence), key, 0)


def chain(length: int, run_id: str) -> list[Checkpoint]:
    """A chain of one run with sequences 1 … length."""
    return [entry(sequence, run_id, f"{run_id}:{sequence}") for sequence in range(1, length + 1)]


OLD: Final = chain(300, run_id="old")
"""What each file has from the beginning."""


class Scene:
    """
    A store that is in use, and what it has acknowledged.

    Attributes:
        told: What was acknowledged, and was not yet looked for from outside.
        problems: What went wrong in other threads than the main one.
        hold: Has another process hold the lock of the file for so many ms.
        looked_at: Whether another process looks at the file just now, and would hardly get the lock from busy threads.
    """

    def __init__(self, path: str, durability: Any, hold: Callable[[int], None]) -> None:
        self.path, self.durability, self.hold = path, durability, hold
        self.told: list[Told] = []
        self.problems: list[str] = []
        self.looked_at = False
        self._numbers = itertools.count(1)
        self.store = self.open()
        self.store.append_many([*OLD, *chain(3, run_id="short")])

    def open(self) -> CheckpointStore:
        """The file of the scene, opened to write."""
        return CheckpointStore(self.path, durability=self.durability)

    def number(self) -> int:
        """One that is above all before it."""
        return next(self._numbers)

    def entry(self, run_id: str = "main") -> Checkpoint:
        """The next checkpoint of a run, with a key that nothing else in the file has."""
        number = self.number()
        return entry(number, run_id=run_id, key=f"{run_id}-{number}")

    def acknowledge(self, name: str, receipt: Receipt | None = None) -> None:
        """What a pipeline would rely on from here on."""
        self.told.append((name, receipt.position, receipt.signature) if receipt else (name, None, None))

    def append(self, run_id: str = "main") -> None:
        """Record a checkpoint more."""
        stated = self.entry(run_id)
        self.acknowledge(stated.idempotency_key, self.store.append(stated))


def descriptors(path: str) -> list[str]:
    """The files of a store that this process has open."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path of it opens one more
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if name in {path, f"{path}-wal", f"{path}-shm", f"{path}-journal"}:
            names.append(Path(name).name)
    return sorted(names)


class Operation:
    """
    One way of using a store.

    Attributes:
        refusable: Whether the store may refuse work as long as somebody keeps the exception of an interrupt, and with it
            the block that it has come out of.
        keep: Whether an operation that catches interrupts keeps their exceptions.
        held: Whether the exception of the last interrupt is still referenced.
        caught: Whether the operation has caught the last interrupt itself.
    """

    refusable: ClassVar[bool] = False
    caught = False
    held = False
    keep = False

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def prepare(self) -> None:
        """Make ready for the next run."""

    def run(self) -> None:
        """What is interrupted."""
        raise NotImplementedError

    def calm(self) -> None:
        """After an interrupt: wait until nothing else is under way."""

    def undone(self) -> list[str]:
        """What must not be in the file."""
        return []

    def together(self) -> list[list[str]]:
        """What is in the file all together, or not at all."""
        return []

    def again(self) -> None:
        """The same once more, to its end, by the store that was interrupted."""
        self.run()


class Append(Operation):
    """One checkpoint."""

    entry: Checkpoint

    def prepare(self) -> None:
        """A new one."""
        self.entry = self.scene.entry()

    def run(self) -> None:
        """Append it, and rely on it."""
        receipt = self.scene.store.append(self.entry)
        self.scene.acknowledge(self.entry.idempotency_key, receipt)


class AppendMore(Append):
    """One checkpoint more, where nobody else has written since the last one."""

    def prepare(self) -> None:
        """One before it."""
        self.scene.append()
        super().prepare()


class Duplicate(Append):
    """A checkpoint that is recorded already."""

    def prepare(self) -> None:
        """Record it."""
        self.entry = entry(1, run_id="recorded", key="recorded")
        self.scene.store.append(self.entry)

    def run(self) -> None:
        """Append it again."""
        receipt = self.scene.store.append(self.entry)
        if not receipt.duplicate:
            raise BrokenPromiseError("a checkpoint that was recorded is recorded anew")
        self.scene.acknowledge("recorded", receipt)


class Rejected(Append):
    """A checkpoint that the chain cannot take."""

    def prepare(self) -> None:
        """One that is behind another."""
        self.scene.store.append(entry(2, run_id="ahead", key="ahead"))
        self.entry = entry(1, run_id="ahead", key=f"behind-{self.scene.number()}")

    def run(self) -> None:
        """See it rejected."""
        try:
            self.scene.store.append(self.entry)
        except SequenceError:
            return
        raise BrokenPromiseError("a checkpoint that falls behind was taken")

    def undone(self) -> list[str]:
        """It never gets in."""
        return [self.entry.idempotency_key]

    def again(self) -> None:
        """Rejected again; and another one is taken."""
        self.run()
        self.scene.append()


class AppendMany(Operation):
    """A batch."""

    entries: list[Checkpoint]

    def prepare(self) -> None:
        """Three new ones."""
        self.entries = [self.scene.entry() for _ in range(3)]

    def run(self) -> None:
        """Append them, and rely on them."""
        self.scene.store.append_many(self.entries)
        for each in self.entries:
            self.scene.acknowledge(each.idempotency_key)

    def together(self) -> list[list[str]]:
        """All of it, or nothing."""
        return [[each.idempotency_key for each in self.entries]]


class Advance(Operation):
    """A step whose sequence the store stamps."""

    number: int

    def prepare(self) -> None:
        """The next step."""
        self.number = self.scene.number()

    def run(self) -> None:
        """State it, and rely on it."""
        mark, key = Watermark(self.number, self.number), f"advance-{self.number}"
        receipt = self.scene.store.advance("advancing", "load", mark, idempotency_key=key)
        self.scene.acknowledge(key, receipt)


class Block(Operation):
    """
    Rows of the sink and their checkpoints in one transaction.

    Attributes:
        inside: Whether the body of the block was begun and not ended.
    """

    refusable = True
    length: ClassVar[int] = 1
    inside: bool
    entries: list[Checkpoint]

    def prepare(self) -> None:
        """As many new checkpoints as the block takes."""
        self.inside = False
        self.entries = [self.scene.entry(f"block-{number}") for number in range(self.length)]

    def run(self) -> None:
        """The block, and rely on it once it has ended."""
        with self.scene.store.transaction() as connection:
            self.inside = True
            self.body(connection)
            self.inside = False
        self.acknowledge()

    def body(self, connection: apsw.Connection) -> None:
        """What the block does."""
        self.write(connection, 0)

    def write(self, connection: apsw.Connection, number: int) -> None:
        """One checkpoint and its row of the sink, unless the checkpoint is recorded."""
        each = self.entries[number]
        if not self.scene.store.append(each).duplicate:
            connection.execute("INSERT INTO sink VALUES (?)", (each.idempotency_key,))

    def names(self, *numbers: int) -> list[str]:
        """The keys of some of the checkpoints, and their rows of the sink."""
        keys = [self.entries[number].idempotency_key for number in numbers]
        return keys + [SINK + key for key in keys]

    def acknowledge(self) -> None:
        """The block has ended."""
        for name in self.names(*range(self.length)):
            self.scene.acknowledge(name)

    def undone(self) -> list[str]:
        """All of a block whose body was not ended."""
        return self.names(*range(self.length)) if self.inside else []

    def together(self) -> list[list[str]]:
        """All of the block."""
        return [self.names(*range(self.length))]


class Nested(Block):
    """A block inside a block."""

    length = 3

    def body(self, connection: apsw.Connection) -> None:
        """Something before, inside and after the inner block."""
        self.write(connection, 0)
        with self.scene.store.transaction() as inner:
            self.write(inner, 1)
        self.write(connection, 2)


class NestedUndone(Nested):
    """A block inside a block, which fails and is undone alone."""

    def body(self, connection: apsw.Connection) -> None:
        """The inner block fails."""
        self.write(connection, 0)
        try:
            with self.scene.store.transaction() as inner:
                self.write(inner, 1)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        self.write(connection, 2)

    def acknowledge(self) -> None:
        """All but the inner block."""
        for name in self.names(0, 2):
            self.scene.acknowledge(name)

    def undone(self) -> list[str]:
        """The inner block, always."""
        return super().undone() or self.names(1)

    def together(self) -> list[list[str]]:
        """The outer block."""
        return [self.names(0, 2)]


class CaughtInBlock(Nested):
    """An inner block whose interrupt the outer one catches, and goes on."""

    kept: BaseException | None = None

    def prepare(self) -> None:
        """Nothing is caught yet."""
        super().prepare()
        self.caught, self.kept = False, None

    def body(self, connection: apsw.Connection) -> None:
        """Catch an interrupt, and go on."""
        self.write(connection, 0)
        try:
            self.catch()
        except KeyboardInterrupt as error:
            self.caught = True
            if self.keep:
                self.kept = error
        self.write(connection, 2)

    def catch(self) -> None:
        """What the interrupt is caught from."""
        with self.scene.store.transaction() as inner:
            self.write(inner, 1)

    def acknowledge(self) -> None:
        """All but what was interrupted, of which nothing is known."""
        for name in self.names(0, 2) if self.caught else self.names(0, 1, 2):
            self.scene.acknowledge(name)

    def together(self) -> list[list[str]]:
        """The outer block, and the inner one."""
        return [self.names(0, 2), self.names(1)]

    def again(self) -> None:
        """Without an interrupt."""
        self.caught, self.kept = False, None
        self.run()


class CaughtInAppend(CaughtInBlock):
    """An append whose interrupt the block around it catches, and goes on."""

    def catch(self) -> None:
        """An append by itself."""
        self.scene.store.append(self.entries[1])

    def names(self, *numbers: int) -> list[str]:
        """The append in the middle has no row of the sink."""
        return [name for name in super().names(*numbers) if name != SINK + self.entries[1].idempotency_key]


_LOOPS = {"milepost-worker", "milepost-ticker"}
"""The threads of a loop. Python goes on to list one whose start was interrupted before it began: it is not alive."""


class Loop(Operation):
    """A checkpointed loop over five records, in batches of two."""

    transaction: ClassVar[bool] = False
    every_s: ClassVar[float | None] = None
    number: int
    seen: list[int]
    loop: Checkpointed[int] | None

    def prepare(self) -> None:
        """A stage of its own."""
        self.number = self.scene.number()  # first, or an interrupt would leave the stage of the loop before
        self.seen, self.loop = [], None

    @property
    def stage(self) -> str:
        """The loop's stage."""
        return f"loop-{self.number}"

    def run(self) -> None:
        """The loop, from where it stands, and rely on it once it has ended."""
        if self.loop is None:
            self.loop = self.scene.store.checkpointed(
                range(5),
                run_id="looping",
                stage=self.stage,
                every=2,
                every_s=self.every_s,
                transaction=self.transaction,
            )
        for record in self.records(self.loop):
            self.process(record)
        self.acknowledge()

    def records(self, loop: Checkpointed[int]) -> Iterable[int]:
        """What the loop gives."""
        return loop

    def process(self, record: int) -> None:
        """The body of the loop."""
        self.seen.append(record)

    def acknowledge(self) -> None:
        """The loop has ended."""
        self.scene.acknowledge(f"{self.stage}:4-4")

    def again(self) -> None:
        """Resume it, by the same loop or by one made anew, and see every record done."""
        done = self._done()
        if done > len(self.seen):
            raise BrokenPromiseError(f"{done} records are recorded as done, and {len(self.seen)} were begun")
        if self.number % 2:
            self.loop = None
        self.run()
        if self._done() != 5 or set(self.seen) != set(range(5)):
            raise BrokenPromiseError(f"the loop has ended at record {self._done()} of 5, and had {self.seen}")

    def _done(self) -> int:
        last = self.scene.store.latest_for_stage(self.stage, run_id="looping")
        return last.watermark.offset if last else 0


class TransactionalLoop(Loop):
    """A checkpointed loop that writes to the sink, each batch in one transaction with its checkpoint."""

    refusable = True
    transaction = True

    def process(self, record: int) -> None:
        """A row of the sink."""
        super().process(record)
        if self.loop is not None:
            self.loop.connection.execute("INSERT INTO sink VALUES (?)", (f"{self.stage}/{record}",))

    def acknowledge(self) -> None:
        """Each record is in the sink; that it is there once is seen from outside."""
        for name in itertools.chain.from_iterable(self.together()):
            self.scene.acknowledge(name)

    def together(self) -> list[list[str]]:
        """Each batch with its checkpoint."""
        batches = {f"{self.stage}:0-1": (0, 1), f"{self.stage}:2-3": (2, 3), f"{self.stage}:4-4": (4,)}
        return [[key, *(f"{SINK}{self.stage}/{record}" for record in records)] for key, records in batches.items()]


class MappedLoop(Loop):
    """A loop whose records threads work on, and a thread records what is finished."""

    every_s = 0.0003
    lent: Any = None

    def records(self, loop: Checkpointed[int]) -> Iterator[int]:
        """Those that come from the pool, in order."""
        self.lent = loop.map(_work, workers=2, in_flight=3)
        for record, result in self.lent:
            if result != -record:
                raise BrokenPromiseError(f"the result of {record} is {result}")
            yield record

    def acknowledge(self) -> None:
        """Where it was recorded depends on the time."""

    def again(self) -> None:
        """Resume it, and see the threads of the interrupted one end."""
        super().again()
        deadline = time.monotonic() + 20
        while any(each.is_alive() and each.name in _LOOPS for each in threading.enumerate()):
            if time.monotonic() > deadline:
                raise BrokenPromiseError("threads of a loop are left")
            time.sleep(0.001)


def _work(record: int) -> int:
    time.sleep(0.0001)
    return -record


class TransactionalMappedLoop(TransactionalLoop):
    """A loop whose records threads work on, each batch in one transaction with its checkpoint."""

    lent: Any = None

    def records(self, loop: Checkpointed[int]) -> Iterator[int]:
        """Those that come from the pool."""
        self.lent = loop.map(_work, workers=2, in_flight=3)
        for record, _ in self.lent:
            yield record

    def process(self, record: int) -> None:
        """A row of the sink."""
        self.seen.append(record)
        self.lent.connection.execute("INSERT INTO sink VALUES (?)", (f"{self.stage}/{record}",))


class Latest(Operation):
    """A lookup."""

    def run(self) -> None:
        """The last checkpoint of a run, and where its stage starts again."""
        last = self.scene.store.latest("old")
        point = self.scene.store.resume_point_for_stage("load", run_id="old")
        if last != OLD[-1] or point.sequence != 300:
            raise BrokenPromiseError(f"the last checkpoint is {last}, and the resume point {point}")

    def again(self) -> None:
        """Look again; and append, as another use of the same store."""
        self.run()
        self.scene.append()


class History(Latest):
    """A walk over some pages of the chain."""

    def run(self) -> None:
        """More than one page."""
        if list(self.scene.store.history("old", limit=250)) != OLD[:250]:
            raise BrokenPromiseError("the history is not what was recorded")


class Verify(Latest):
    """A check of a run."""

    def run(self) -> None:
        """It holds."""
        self.scene.store.verify(run_id="short").raise_if_broken()


class Archive(Operation):
    """An archive of what is there, in several moves."""

    target: str
    head: Head

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        archive._STEP = 4  # type: ignore[misc]

    def prepare(self) -> None:
        """Ten checkpoints more than were archived, and a file that is not there yet."""
        self.target = f"{self.scene.path}-{self.scene.number()}"
        for _ in range(10):  # who looks from outside may find them in the archive only
            self.scene.store.append(self.scene.entry("archived"))
        self.head = self.scene.store.head()

    def run(self) -> None:
        """Archive, and rely on it."""
        base = self.scene.store.archive(self.target, before=self.head)
        if base != self.head:
            raise BrokenPromiseError(f"the base is {base}, and {self.head} was to be archived")

    def again(self) -> None:
        """The same call, which finishes what was begun; and the file goes on behind its archive."""
        self.run()
        store = self.scene.store
        found = store.verify(archives=[self.target])
        with CheckpointStore.open_readonly(self.target) as archived:
            if not found.ok or archived.head() != self.head or not archived.verify().ok:
                raise BrokenPromiseError(f"what was archived is not whole: {found}")
        self.scene.append("archived")
        if self.held:
            return
        left = [*descriptors(self.target), *Path(self.target).parent.glob(".*")]
        if left:
            raise BrokenPromiseError(f"an archive that was interrupted has left {left}")
        Path(self.target).unlink()


class Close(Operation):
    """Closing the store."""

    def prepare(self) -> None:
        """A store that has written and has read."""
        self.scene.append()
        len(self.scene.store)

    def run(self) -> None:
        """Close it."""
        self.scene.store.close()

    def again(self) -> None:
        """Close it again: it is closed, and can be opened."""
        store = self.scene.store
        store.close()
        try:
            store.append(self.scene.entry())
        except ClosedStoreError:
            pass
        else:
            raise BrokenPromiseError("a store that was closed has appended")
        if left := descriptors(self.scene.path):
            raise BrokenPromiseError(f"a store that was closed has these files open: {left}")
        self.scene.store = self.scene.open()
        self.scene.append()


class Open(Operation):
    """Opening a file that is there."""

    store: CheckpointStore | None

    def prepare(self) -> None:
        """A file that was closed."""
        self.store = None
        self.scene.append()
        self.scene.store.close()

    def run(self) -> None:
        """Open it."""
        self.store = self.scene.open()

    def calm(self) -> None:
        """Whatever was interrupted, the scene goes on with a store, and no reader waits for an opening that is over."""
        if open_files.opening_to_write or open_files.mapping_to_write:
            raise BrokenPromiseError("an opening that was interrupted is still announced")
        self.scene.store = self.store or self.scene.open()
        self.store = None

    def again(self) -> None:
        """Append, and close; nothing stays open of what was interrupted, once its exception is gone."""
        self.scene.append()
        self.scene.store.close()
        left = descriptors(self.scene.path)
        self.scene.store = self.scene.open()
        if left and not self.held:
            raise BrokenPromiseError(f"an opening that was interrupted has left these files open: {left}")


class OpenNew(Operation):
    """Opening a file that is not there yet."""

    store: CheckpointStore | None
    path: str

    def prepare(self) -> None:
        """A path where nothing is."""
        self.store = None
        self.path = f"{self.scene.path}-{self.scene.number()}"

    def run(self) -> None:
        """Make the file."""
        self.store = self._open()

    def again(self) -> None:
        """What is there, if anything is, is a whole store, and can be used by others."""
        with self.store or self._open() as store:
            store.append(self.scene.entry())
            store.verify().raise_if_broken()
            with CheckpointStore.open_readonly(self.path) as reader:
                if len(reader) != len(store):
                    raise BrokenPromiseError("a reader sees something else than was recorded")
        self.store = None
        left = descriptors(self.path)
        if left and not self.held:
            raise BrokenPromiseError(f"an opening that was interrupted has left these files open: {left}")
        if not self.held:
            Path(self.path).unlink()

    def _open(self) -> CheckpointStore:
        return CheckpointStore(self.path, durability=self.scene.durability)


class OpenReadonly(Operation):
    """Opening a file to read it, beside a writer in the same process."""

    store: CheckpointStore | None

    def prepare(self) -> None:
        """A reader less."""
        self.store = None

    def run(self) -> None:
        """Open it."""
        self.store = CheckpointStore.open_readonly(self.scene.path)

    def again(self) -> None:
        """The reader sees what the writer writes."""
        with self.store or CheckpointStore.open_readonly(self.scene.path) as reader:
            self.scene.append()
            if len(reader) != len(self.scene.store):
                raise BrokenPromiseError("a reader sees something else than was recorded")
        self.store = None


class Fork(Operation):
    """A fork, whose child appends by a store of its own, beside a writer and a reader of the parent."""

    reader: CheckpointStore | None = None
    entry: Checkpoint

    def prepare(self) -> None:
        """Both have the file open."""
        self.scene.append()
        len(self.scene.store)
        self.reader = self.reader or CheckpointStore.open_readonly(self.scene.path)
        len(self.reader)
        self.entry = self.scene.entry("child")

    def run(self) -> None:
        """Fork, and rely on what the child has acknowledged."""
        child = os.fork()
        if child == 0:
            os._exit(self._append())
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _RECORDED:
            self.scene.acknowledge(self.entry.idempotency_key)

    def _append(self) -> int:
        """In the child: its exit code."""
        try:
            with self.scene.open() as store:
                store.append(self.entry)
        except ForkedStoreError:
            return _REFUSED
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            return _FAILED
        return _RECORDED

    def calm(self) -> None:
        """No child is left, and none was told anything but that it may not use the file."""
        try:
            while True:
                if os.waitstatus_to_exitcode(os.wait()[1]) == _FAILED:
                    raise BrokenPromiseError("the child of a fork failed")
        except ChildProcessError:
            pass

    def again(self) -> None:
        """Both are used on, and the next child is not refused."""
        self.scene.append()
        if self.reader is None or len(self.reader) != len(self.scene.store):
            raise BrokenPromiseError("a reader sees something else than was recorded")
        before = len(self.scene.told)
        self.run()
        if len(self.scene.told) == before:
            raise BrokenPromiseError("the child of the next fork cannot append")


_RECORDED, _REFUSED, _FAILED = range(3)


class Edges(Operation):
    """Blocks, batches and loops in turn, each short, so that an interrupt often hits an edge."""

    refusable = True
    current: Operation

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        kinds = (Block, AppendMany, Loop, Nested, TransactionalLoop)
        self._turns = itertools.cycle([kind(scene) for kind in kinds])

    def prepare(self) -> None:
        """The next one; an interrupt leaves the one before, which was whole."""
        following = next(self._turns)
        following.prepare()
        self.current = following

    def run(self) -> None:
        """Run it."""
        self.current.run()

    def undone(self) -> list[str]:
        """Of the one that was interrupted."""
        return self.current.undone()

    def together(self) -> list[list[str]]:
        """Of the one that was interrupted."""
        return self.current.together()

    def again(self) -> None:
        """The one that was interrupted."""
        self.current.again()


class BehindThread(Append):
    """An append that waits for another thread, which is in a block."""

    thread: threading.Thread | None = None

    def prepare(self) -> None:
        """Let another thread begin a block, and stay in it for a while."""
        super().prepare()
        begun = threading.Event()
        thread = threading.Thread(target=self._stay, args=(begun,), daemon=True)
        thread.start()
        self.thread = thread
        begun.wait()

    def calm(self) -> None:
        """The block ends as if nothing had been."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def run(self) -> None:
        """Append, and let the thread end."""
        super().run()
        self.calm()

    def _stay(self, begun: threading.Event) -> None:
        stated = self.scene.entry("thread")
        try:
            with self.scene.store.transaction():
                begun.set()
                time.sleep(0.02)
                receipt = self.scene.store.append(stated)
            self.scene.acknowledge(stated.idempotency_key, receipt)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is not this thread's
            self.scene.problems.append(f"a thread in a block got {error!r}")
        finally:
            begun.set()


class BehindProcess(Append):
    """An append that waits for another process, which holds the lock."""

    def prepare(self) -> None:
        """Let another process begin a transaction."""
        super().prepare()
        self.scene.hold(20)

    def calm(self) -> None:
        """The other process lets go by itself: wait for it."""
        self.scene.append("calm")


def _below(kind: type[Operation]) -> Iterator[type[Operation]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


OPERATIONS: Final = {kind.__name__: kind for kind in _below(Operation)}


class Workers:
    """
    Threads that append through the store of a scene, beside the main thread, and rely on what they are told.

    Whatever they are raised is a problem: no signal is theirs.
    """

    def __init__(self, scene: Scene, number: int) -> None:
        self._scene = scene
        for worker in range(number):
            threading.Thread(target=self._work, args=(f"worker-{worker}",), daemon=True).start()

    def _work(self, run_id: str) -> None:
        try:
            while True:
                if not self._scene.looked_at:
                    self._scene.append(run_id)
                time.sleep(0.003)  # faster ones would fill the file faster than it can be looked at from outside
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt above all
            self._scene.problems.append(f"a thread beside the main one got {error!r}")


class Handler:
    """
    Uses the store of a scene from a signal handler: what it is told counts, and a refusal must be one of milepost's.

    Attributes:
        recorded: How often it was taken.
        refused: How often it was refused.
    """

    def __init__(self, scene: Scene, how: str = "append") -> None:
        self._scene, self._how = scene, how
        self._told: list[Told] = []
        self.recorded = self.refused = 0

    def __call__(self) -> None:
        """Append, by itself, in a block, or by a store of its own; or fork, and append in the parent."""
        number = self._scene.number()
        # Stages of their own: one that is called within another must not pass it.
        stated = entry(number, run_id="handler", stage=f"stage-{number % 100}", key=f"handler-{number}")
        try:
            if self._how == "fork":
                self._fork()
            if self._how == "open":
                with CheckpointStore(self._scene.path, durability="normal", busy_timeout_ms=0) as store:
                    receipt = store.append(stated)
            elif self._how == "block":
                with self._scene.store.transaction() as connection:
                    connection.execute("INSERT INTO sink VALUES (?)", (stated.idempotency_key,))
                    receipt = self._scene.store.append(stated)
                self._told.append((SINK + stated.idempotency_key, None, None))
            else:
                receipt = self._scene.store.append(stated)
        except MilepostError as error:
            self.refused += 1
            if "clock" in str(error) and "handler" not in str(error):
                self._scene.problems.append(f"a handler was refused with words that are about something else: {error}")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is no refusal
            self._scene.problems.append(f"a handler got {error!r}")
        else:
            self.recorded += 1
            self._told.append((stated.idempotency_key, receipt.position, receipt.signature))

    def _fork(self) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    def acknowledge(self) -> None:
        """What it was called in has ended: what was told counts, also where it was told within a block."""
        told, self._told = self._told, []
        self._scene.told += told

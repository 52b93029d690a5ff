"""
What a pipeline does while the faults come: a seeded program of steps, each of which can be told apart and done again.

A step is idempotent, as every step of a pipeline that resumes must be: after a crash the one that was under way is done
again, and either it was there (a duplicate) or it is recorded now. What the file must hold after so many steps is known
beforehand, from the pure rules, without asking a store.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost import Checkpoint, CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME: Final = "store"
WAL: Final = f"{NAME}-wal"
CLOCK_MS: Final = 1767225600000
Files = dict[str, bytes]
"""A directory's files by name; the very same bytes under two names are one file with two names."""

KINDS: Final = ("append", "append", "append", "advance", "append_many", "sink", "sink", "duplicate", "reopen")

LARGE_KINDS: Final = ("append", "append_many", "append_many", "sink", "undone", "partly", "partly", "reopen")
"""Transactions that outgrow SQLite's cache, which then has ten pages, and some that leave nothing but frames in the WAL."""

_NOTHING_NEW: Final = {"duplicate", "reopen", "undone"}

_TAKE_IN: Final = "INSERT INTO sink (key, amount) VALUES (?, ?)"
_EVERYTHING_IN_SINK: Final = "SELECT key, amount FROM sink ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the pipeline does: its kind, and the checkpoints that it states."""

    kind: str
    entries: tuple[Checkpoint, ...] = ()

    @property
    def opens(self) -> bool:
        """Whether it opens the store, and does nothing else."""
        return self.kind in {"open", "open, with a small cache", "reopen"}


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: its checkpoints, and the rows of the sink (None before its table is made)."""

    entries: tuple[Checkpoint, ...] = ()
    sink: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A program and what it leaves.

    Attributes:
        steps: Step 0 opens the store.
        contents: What the file holds after each step.
        autocheckpoint: How many pages the WAL may have before SQLite writes it back.
    """

    steps: tuple[Step, ...]
    contents: tuple[Content, ...]
    autocheckpoint: int

    def last_alike(self, content: Content) -> int | None:
        """The last step after which the file holds this; None if it is no state between two steps."""
        for step in range(len(self.steps) - 1, -1, -1):
            if self.contents[step] == content:
                return step
        return None

    def first_alike(self, step: int) -> int:
        """The first step after which the file holds what it holds after `step`."""
        return self.contents.index(self.contents[step])


def drawn_plan(
    seed: int, length: int = 14, *, kinds: Sequence[str] = KINDS, autocheckpoint: int = 30, large: bool = False
) -> Plan:
    """A program of `length` steps after the two that open the store and make the sink's table."""
    rng = random.Random(seed)
    steps = [Step("open, with a small cache" if large else "open"), Step("make sink")]
    contents = [Content(), Content((), ())]
    tips: dict[tuple[str, str], Checkpoint] = {}
    for number in range(length):
        kind = rng.choice(kinds)
        entries: tuple[Checkpoint, ...] = ()
        before = contents[-1]
        if kind == "duplicate":
            if not before.entries:
                kind = "append"
            else:
                entries = (rng.choice(before.entries),)
        if kind not in _NOTHING_NEW:
            few, many = (20, 60) if large else (2, 5)
            count = rng.randint(few, many) if kind in {"append_many", "partly"} else 1
            entries = tuple(_next(rng, tips, f"{number}.{i}", stamped=kind == "advance") for i in range(count))
        after = before
        if kind not in _NOTHING_NEW:
            taken_in = tuple((entry.idempotency_key, entry.watermark.offset) for entry in entries) if kind == "sink" else ()
            after = Content(before.entries + entries, (before.sink or ()) + taken_in)
        steps.append(Step(kind, entries))
        contents.append(after)
    return Plan(tuple(steps), tuple(contents), autocheckpoint)


def _next(rng: random.Random, tips: dict[tuple[str, str], Checkpoint], key: str, *, stamped: bool) -> Checkpoint:
    place = rng.choice(("run-1", "run-2")), rng.choice(("extract", "load"))
    last = tips.get(place)
    step = 1 if stamped else rng.randint(1, 3)
    sequence = last.sequence + step if last else 1
    offset, event_time_ms = last.watermark if last else (0, CLOCK_MS)
    mark = Watermark(offset + rng.randint(0, 500), event_time_ms + rng.randint(0, 9000))
    at_ms = CLOCK_MS if stamped else CLOCK_MS + rng.randint(-5000, 5000)
    padding = "x" * rng.choice((0, 0, 20, 300, 900))  # long keys split pages, and so checkpoints move many of them
    tips[place] = Checkpoint(*place, sequence, mark, f"{key}{padding}", at_ms)
    return tips[place]


class Session:
    """One process of the pipeline: it opens the store, does steps, and may be closed."""

    def __init__(
        self, directory: Path, autocheckpoint: int, vfs: str | None, durability: Any = "full", *, together: bool = True
    ) -> None:
        self.path = directory / NAME
        self._autocheckpoint, self._vfs, self._durability, self._together = autocheckpoint, vfs, durability, together
        self._small_cache = False
        self.store: CheckpointStore | None = None

    def open(self) -> CheckpointStore:
        """Open the store; the WAL is written back early, so that short programs have checkpoints."""
        self.store = store = CheckpointStore(
            self.path,
            vfs=self._vfs,
            durability=self._durability,
            clock=lambda: CLOCK_MS,
            on_connect=_with_small_cache if self._small_cache else None,
        )
        store._database._wal.write_back_pages = self._autocheckpoint  # type: ignore[attr-defined]
        return store

    def close(self) -> None:
        """Close the store, if it is open."""
        store, self.store = self.store, None
        if store is not None:
            store.close()

    def do(self, step: Step) -> None:
        """Do one step, or do it again."""
        if step.opens:
            self._small_cache |= step.kind == "open, with a small cache"
            self.close()
            self.open()
            return
        store = self.store or self.open()
        match step.kind:
            case "make sink":
                with store.transaction() as connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS sink (key TEXT NOT NULL, amount INTEGER NOT NULL)")
            case "append" | "duplicate":
                store.append(step.entries[0])
            case "append_many":
                store.append_many(step.entries)
            case "advance":
                (entry,) = step.entries
                store.advance(entry.run_id, entry.stage, entry.watermark, idempotency_key=entry.idempotency_key)
            case "sink":
                self._sink(store, step.entries[0])
            case "undone":
                _undo(store)
            case "partly":
                half = len(step.entries) // 2
                with store.transaction():
                    store.append_many(step.entries[:half])
                    _undo(store)
                    store.append_many(step.entries[half:])
            case _:
                raise AssertionError(step.kind)

    def _sink(self, store: CheckpointStore, entry: Checkpoint) -> None:
        row = entry.idempotency_key, entry.watermark.offset
        if self._together:
            with store.transaction() as connection:
                if not store.append(entry).duplicate:
                    connection.execute(_TAKE_IN, row)
        else:  # what milepost is there to prevent: the sink in one transaction, the checkpoint in another
            with store.transaction() as connection:
                connection.execute(_TAKE_IN, row)
            store.append(entry)


def _with_small_cache(connection: apsw.Connection) -> None:
    connection.pragma("cache_size", 10)


def _undo(store: CheckpointStore) -> None:
    """A block, or a savepoint within one, that ends by an exception after it has written more than the cache holds."""
    with contextlib.suppress(_UndoneError), store.transaction() as connection:
        connection.execute("CREATE TABLE undone (filling)")
        connection.executemany("INSERT INTO undone VALUES (zeroblob(?))", [(1000,)] * 40)
        store.append_many([Checkpoint("run-1", "undone", i, Watermark(i, 0), f"key-{i}", CLOCK_MS) for i in range(40)])
        raise _UndoneError


class _UndoneError(Exception):
    pass


def content(store: CheckpointStore) -> Content:
    """What a file holds; read only, since an empty transaction would sync the WAL and so hide what is not durable."""
    return Content(tuple(store.history()), store._database.read(_sink_rows))


def _sink_rows(connection: apsw.Connection) -> tuple[tuple[str, int], ...] | None:
    if not connection.table_exists("main", "sink"):
        return None
    return tuple(connection.execute(_EVERYTHING_IN_SINK))


@contextlib.contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory in memory where there is one: what is simulated here is what a disk loses, not how slow it is."""
    memory = Path("/dev/shm")
    parent = str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="milepost-faults-", dir=parent)).resolve()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def lay(directory: Path, files: Files) -> None:
    """Make the directory hold these files, under these names, and no others."""
    for name in os.listdir(directory):  # noqa: PTH208 - called for every state
        if name.startswith("."):
            shutil.rmtree(directory / name)
        else:
            os.unlink(directory / name)  # noqa: PTH108
    for name, data in files.items():
        if "/" in name:
            (directory / name).parent.mkdir(exist_ok=True)
        if data is files.get(NAME) and name != NAME:
            os.link(directory / NAME, directory / name)
        else:
            with open(directory / name, "wb") as file:  # noqa: PTH123
                file.write(data)

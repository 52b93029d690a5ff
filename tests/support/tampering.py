"""
Somebody, or a disk, changes the bytes of a store: which changes alter an answer, and which of those go unnoticed?

The store has the smallest pages that SQLite knows, so that every bit of it can be tried.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost import Checkpoint, CheckpointStore, Head, MilepostError, schema
from support.chains import mixed
from support.fault_workload import NAME, WAL, Files, fast_directory, lay
from support.programs import environment
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from milepost.verification import Fault

ENTRIES: Final = mixed(40)
NEXT: Final = ENTRIES[-1]._replace(sequence=1000, idempotency_key="next")
IN_WAL: Final = 8  # so many of them, the last ones, are committed to the WAL only, each by itself
PAGE_BYTES: Final = 512

WRITER: Final = """
import os, sys
from support.tampering import ENTRIES, IN_WAL
from milepost import CheckpointStore
store = CheckpointStore(sys.argv[1], durability="normal")
for entry in ENTRIES[-IN_WAL:]:
    store.append(entry)
os._exit(0)  # as a kill would, without writing the WAL back
"""


NO_TRIGGERS: Final = "DROP TRIGGER IF EXISTS entry_is_never_updated; DROP TRIGGER IF EXISTS entry_is_never_deleted"
LOOSE: Final = """
    PRAGMA writable_schema = ON;
    UPDATE sqlite_schema SET sql = replace(replace(replace(sql, 'STRICT, ', ''), 'STRICT', ''), 'NOT NULL', '')
    WHERE type = 'table';
    PRAGMA writable_schema = RESET;
"""


def tamper(
    path: Path | str, *statements: str | tuple[str, Sequence[Any]], loose: bool = False, triggers: bool = True
) -> list[int]:
    """
    Run statements on a file behind the store's back, as somebody would who knows its tables.

    Args:
        path: The file.
        statements: SQL, each alone or with its bindings.
        loose: Whether the tables take values of any kind meanwhile.
        triggers: Whether the triggers that are in the way stand there again at the end, and nothing is seen of it.

    Returns:
        How many rows each statement has changed.
    """
    connection = apsw.Connection(str(path))
    try:
        connection.pragma("synchronous", "off")
        schema = connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()
        ours = connection.execute("SELECT sql FROM sqlite_schema WHERE name LIKE 'entry_is_never_%'").fetchall()
        connection.execute(NO_TRIGGERS)
        if loose:
            connection.execute(LOOSE)
        changed = []
        for statement in statements:
            before = connection.total_changes()
            connection.execute(*((statement,) if isinstance(statement, str) else statement))
            changed.append(connection.total_changes() - before)
        for (trigger,) in ours if triggers else ():
            connection.execute(str(trigger))
        if loose:
            connection.pragma("writable_schema", True)
            connection.executemany("UPDATE sqlite_schema SET sql = ?2 WHERE name = ?1", schema)
        return changed
    finally:
        connection.close()


def empty_index(path: Path | str, index: str, condition: str) -> None:
    """Take entries out of an index: those that do not meet this condition beside its own."""
    text = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    sql: Any = text.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (index,)).get
    text.close()
    change = "UPDATE sqlite_schema SET sql = ? WHERE name = ?"
    narrower = f"{sql} AND {condition}" if " WHERE " in sql else f"{sql} WHERE {condition}"
    tamper(path, "PRAGMA writable_schema = ON", (change, (narrower, index)))
    tamper(path, f"REINDEX {index}", "PRAGMA writable_schema = ON", (change, (sql, index)))


def everything(store: CheckpointStore, head: Head) -> Iterable[Fault]:
    """What a verification finds that knows no head."""
    del head
    return store.verify().faults


def with_head(store: CheckpointStore, head: Head) -> Iterable[Fault]:
    """What one finds that has kept the head."""
    return store.verify(expected=head).faults


def chain_only(store: CheckpointStore, head: Head) -> Iterable[Fault]:
    """Broken: as if SQLite's own check of the file were left out."""
    return [fault for fault in everything(store, head) if fault.kind != "file"]


def file_only(store: CheckpointStore, head: Head) -> Iterable[Fault]:
    """Broken: as if the signatures were not recomputed."""
    return [fault for fault in everything(store, head) if fault.kind == "file"]


def make_small(path: Path, entries: Sequence[Checkpoint]) -> None:
    """A store with the smallest pages, closed."""
    connection = apsw.Connection(str(path))
    connection.pragma("page_size", PAGE_BYTES)
    connection.pragma("journal_mode", "wal")
    with connection:
        schema.create(connection)
    connection.close()
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entries)


def closed_store(directory: Path) -> Files:
    """The file of a store that was closed."""
    lay(directory, {})
    make_small(directory / NAME, ENTRIES)
    return _taken(directory)


def store_with_wal(directory: Path) -> Files:
    """The file and the WAL of a store whose writer was killed."""
    lay(directory, {})
    make_small(directory / NAME, ENTRIES[:-IN_WAL])
    written = warm_programs(warnings=None).run("-c", WRITER, directory / NAME, env=environment())
    assert (written.returncode, written.stderr) == (0, "")
    (directory / f"{NAME}-shm").unlink()  # built anew from the WAL, as after a crash of the machine
    return _taken(directory)


def _taken(directory: Path) -> Files:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def answers(store: CheckpointStore) -> list[object]:
    """All that can be asked."""
    runs = [run.run_id for run in store.runs()]
    return [
        store.head(),
        len(store),
        list(store.receipts()),
        list(store.history(newest_first=True)),
        store.runs(),
        store.stages(),
        store.resume_points(),
        *[
            [
                store.latest(run_id),
                store.chain_signature(run_id),
                store.resume_points(run_id),
                list(store.history(run_id)),
                list(store.history(run_id, "load")),
            ]
            for run_id in runs
        ],
        [list(store.history(stage=stage.stage)) for stage in store.stages()],
        [list(store.find(entry.idempotency_key)) for entry in ENTRIES[::8]],
        [store.get(entry.run_id, entry.stage, entry.sequence) for entry in ENTRIES[::8]],
    ]


@dataclass
class Tally:
    """What many changes have shown."""

    tried: int = 0
    refused: int = 0  # the file was not opened at all
    changed: int = 0  # an answer was another one, or an error of ours
    missed: list[str] = field(default_factory=list)  # changed, and nothing noticed
    problems: list[str] = field(default_factory=list)  # anything but an answer or an error of ours

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Dose:
    """
    What to change.

    Attributes:
        wal: A store with a WAL: flip the bits of that, or cut it, and not the file.
        notice: What is to notice a changed answer.
        sample: How many bits, or mutations; None for every bit.
        seed: Which ones.
        part: (k, n): only each n-th change, from the k-th on.
        writable: Open the store to write, not only to read, and append to what is left.
        until_missed: Stop at the first miss.
    """

    wal: bool = False
    notice: Callable[[CheckpointStore, Head], Iterable[Fault]] = everything
    sample: int | None = None
    seed: int = 0
    part: tuple[int, int] = (0, 1)
    writable: bool = False
    until_missed: bool = False


def flip(dose: Dose) -> Tally:
    """Flip one bit after the other, each in a sound file."""
    return _hunt(dose, _flipped)


def mutate(dose: Dose) -> Tally:
    """Do worse to the file and to the WAL: bytes, blocks and whole pages overwritten, exchanged, taken out, put in."""
    return _hunt(dose, _mutated)


def cut(dose: Dose) -> Tally:
    """Cut the file, or the WAL, at and around the end of every page."""
    return _hunt(dose, _cut)


def _hunt(dose: Dose, changes: Callable[[Dose, Files], Iterator[tuple[str, Files]]]) -> Tally:
    tally = Tally()
    with fast_directory() as directory:
        files = store_with_wal(directory) if dose.wal else closed_store(directory)
        lay(directory, files)
        with CheckpointStore.open_readonly(directory / NAME) as store:
            truth, head = answers(store), store.head()
            assert list(store.history()) == ENTRIES
        for where, changed in islice(changes(dose, files), dose.part[0], None, dose.part[1]):
            lay(directory, changed)
            examine(directory / NAME, where, truth, head, dose, tally)
            if dose.until_missed and tally.missed:
                break
    return tally


def _flipped(dose: Dose, files: Files) -> Iterator[tuple[str, Files]]:
    name = WAL if dose.wal else NAME
    bits: Iterable[int] = range(len(files[name]) * 8)
    if dose.sample is not None:
        bits = random.Random(dose.seed).sample(range(len(files[name]) * 8), dose.sample)
    for bit in bits:
        changed = bytearray(files[name])
        changed[bit // 8] ^= 1 << bit % 8
        yield f"byte {bit // 8} bit {bit % 8} of {name}", {**files, name: bytes(changed)}


def _mutated(dose: Dose, files: Files) -> Iterator[tuple[str, Files]]:
    for number in range(dose.sample or 0):
        chance = random.Random(f"{dose.seed} {number}")  # each by itself, so that one can be done again
        changed = dict(files)
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            name = chance.choice(sorted(files))
            changed[name] = _spoilt(changed[name], chance)
        yield f"mutation {number} of seed {dose.seed}", changed


def _spoilt(content: bytes, chance: random.Random) -> bytes:
    size = chance.choice((1, 1, 2, 4, 8, 100, PAGE_BYTES))
    start, other = (chance.randrange(max(1, len(content) // size)) * size for _ in range(2))
    piece, end = content[start : start + size], start + size
    match chance.randrange(6):
        case 0:
            return content[:start] + chance.randbytes(len(piece)) + content[end:]
        case 1:
            return content[:start] + bytes([chance.choice((0, 1, 127, 128, 255))]) * len(piece) + content[end:]
        case 2:
            return content[:start] + content[other : other + len(piece)] + content[end:]
        case 3:
            return content[:start] + content[end:]
        case 4:
            return content[:start] + chance.randbytes(size) + content[start:]
        case _:
            last = piece[-1:] and bytes([(piece[-1] + chance.choice((-1, 1))) % 256])
            return content[:start] + piece[:-1] + last + content[end:]


def _cut(dose: Dose, files: Files) -> Iterator[tuple[str, Files]]:
    name, first, page = (WAL, 32, PAGE_BYTES + 24) if dose.wal else (NAME, 0, PAGE_BYTES)
    for end in range(first, len(files[name]) + 1, page):
        for length in (end - 1, end, end + 1):
            if 0 <= length < len(files[name]):
                yield f"{name} cut at {length}", {**files, name: files[name][:length]}


def examine(path: Path, where: str, truth: list[object], head: Head, dose: Dose, tally: Tally) -> None:
    """Ask everything of a file that may be damaged: an error of ours, or the right answers, or a fault that is noticed."""
    tally.tried += 1
    opener: Any = CheckpointStore if dose.writable else CheckpointStore.open_readonly
    try:
        try:
            store = opener(path)
        except MilepostError:
            tally.refused += 1
            return
        with store:
            try:
                changed = answers(store) != truth
            except MilepostError:
                changed = True
            tally.changed += changed
            if changed and not list(dose.notice(store, head)):
                tally.missed.append(where)
            if dose.writable:
                with contextlib.suppress(MilepostError):
                    store.append(NEXT)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        tally.problems.append(f"{where}: {type(error).__module__}.{type(error).__name__}: {error}")

"""Every argument of every verb, given what it must not be: an error that names it, and a chain that is as it was."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    BatchReceipt,
    Checkpoint,
    CheckpointStore,
    ClosedStoreError,
    Head,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    Receipt,
    StoreError,
    Watermark,
)
from milepost import checkpoint as contract
from support.chains import MAX, entry
from support.doors import wal
from support.methods import READING, SHOWING, WRITING, method, public, without_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TEN_MEGABYTES = "x" * 10_000_000
DIGITS = "0123456789abcdef" * 4
NEXT = 1_000_000  # a sequence that the tests of this module never reach, so that it always rises


class HostileError(Exception):
    """What a hostile object raises when it is looked at in the wrong way."""


def _hostile(*_: object) -> NoReturn:
    raise HostileError


class HostileRepr:
    """Cannot be shown."""

    __repr__ = __str__ = __format__ = _hostile


class HostileComparison:
    """Cannot be compared, hashed or asked for its truth."""

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = __len__ = _hostile


class HostileClass:
    """Does not say what it is."""

    __class__ = property(_hostile)


class HostileAttributes:
    """Has no attribute that can be looked at."""

    __getattribute__ = _hostile


class _NamelessType(type):
    __name__ = property(_hostile)
    __repr__ = __eq__ = __hash__ = _hostile


class HostileType(metaclass=_NamelessType):
    """Its type cannot be shown, compared or hashed either."""

    __repr__ = _hostile


class Text(str):
    """A str that could be one thing when it is signed and another when it is stored."""

    __slots__ = ()


class Number(int):
    """An int that could be one thing when it is signed and another when it is stored."""

    __slots__ = ()


class Mark(Watermark):
    """A Watermark with powers of its own."""

    __slots__ = ()


class Entry(Checkpoint):
    """A Checkpoint with powers of its own."""

    __slots__ = ()


class Kept(Head):
    """A Head with powers of its own."""

    __slots__ = ()


HOSTILE: dict[str, Any] = {
    "hostile repr": HostileRepr(),
    "hostile comparison": HostileComparison(),
    "hostile class": HostileClass(),
    "hostile attributes": HostileAttributes(),
    "hostile type": HostileType(),
    "endless type name": type("x" * 10_000_000, (), {})(),
    "type name that steers a terminal": type("x\x1b[2J\n", (), {})(),
}
BAD_NAMES: dict[str, Any] = {
    "bool": True,
    "int": 7,
    "float": 7.5,
    "NaN": float("nan"),
    "bytes": b"run-7",
    "list": ["run-7"],
    "str subclass": Text("run-7"),
    "empty": "",
    "NUL": "run\0seven",
    "lone surrogate": "run-\ud800",
    "1,025 bytes": "x" * 1025,
    "1,025 bytes in 400 characters": "€" * 312 + "ü" + "x" * 87,
    "10 MB": TEN_MEGABYTES,
    "10 MB beyond ASCII": "ü" * 5_000_000,
    **HOSTILE,
}
BAD_INTEGERS: dict[str, Any] = {
    "bool": True,
    "float": 1.0,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "Decimal": Decimal(1),
    "str": "1",
    "10 MB": TEN_MEGABYTES,
    "bytes": b"1",
    "list": [1],
    "int subclass": Number(1),
    "-1": -1,
    "2^63": 2**63,
    "10^5000": 10**5000,
    **HOSTILE,
}
NO_INTEGERS: dict[str, Any] = {name: bad for name, bad in BAD_INTEGERS.items() if name != "int subclass"}
"""Where what Python takes as an integer will do."""

BAD_TIMES: dict[str, Any] = NO_INTEGERS | {
    "digits of ms": "1767225600000",
    "digits that could be a date and a time": "2013010112345",
    "date": date(2013, 3, 1),
    "datetime without a zone": datetime(2013, 3, 1),  # noqa: DTZ001 - that is what is wrong with it
    "datetime before 1970": datetime(1969, 12, 31, 23, 59, tzinfo=UTC),
    "text before 1970": "1970-01-01T00:00+00:01",
    "text subclass": Text("2013-03-01"),
    "no such day": "2013-02-30",
    "no such zone": "2013-03-01T03:12+25:00",
    "time alone": "03:12",
    "lone surrogate": "2013-03-01T\ud800",
    "NUL": "2013-03-01\0",
    "two lines": "2013-03-01\n",
    "digits of another script": "٢٠١٣-03-01",
}
BAD_BOOLS: dict[str, Any] = {"None": None, "0": 0, "1": 1, "float": 1.0, "str": "True", "10 MB": TEN_MEGABYTES, **HOSTILE}
BAD_STATEMENTS: dict[str, Any] = {
    "None": None,
    "int": 1,
    "bytes": b"SELECT 1",
    "empty": "",
    "no SQL": "hello",
    "two": "VALUES (1); VALUES (2)",
    "10 MB": TEN_MEGABYTES,
}
BAD_PARAMETERS: dict[str, Any] = {
    "None": None,
    "int": 1,
    "str": "1",
    "object": (object(),),
    "too few": (),
    "too many": (1, 2),
    "too large": (2**64,),
    "10 MB": TEN_MEGABYTES,
}
BAD_CALLABLES: dict[str, Any] = {"bool": True, "int": 1767225600000, "str": "time", "10 MB": TEN_MEGABYTES, **HOSTILE}
BAD_WATERMARKS: dict[str, Any] = {
    "None": None,
    "int": 500,
    "tuple": (500, 0),
    "subclass": Mark(500, 0),
    "one field": tuple.__new__(Watermark, (500,)),
    "three fields": tuple.__new__(Watermark, (500, 0, 0)),
    "checkpoint": entry(1),
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
BAD_ENTRIES: dict[str, Any] = {
    "None": None,
    "tuple": tuple(entry(NEXT)),
    "dict": entry(NEXT)._asdict(),
    "subclass": Entry(*entry(NEXT)),
    "five fields": tuple.__new__(Checkpoint, entry(NEXT)[:5]),
    "seven fields": tuple.__new__(Checkpoint, (*entry(NEXT), 0)),
    "watermark": Watermark(1, 1),
    "int": 7,
    "10 MB": TEN_MEGABYTES,
    "generator": (each for each in [entry(NEXT)]),
    **HOSTILE,
}
BAD_ITERABLES: dict[str, Any] = {"None": None, "bool": True, "int": 7, "NaN": float("nan"), "class": Checkpoint, **HOSTILE}
BAD_SIGNATURES: dict[str, Any] = {
    "None": None,
    "int": 0,
    "bytes": bytes(32),
    "str subclass": Text(DIGITS),
    "empty": "",
    "63 digits": DIGITS[:63],
    "65 digits": DIGITS + "0",
    "line break": DIGITS + "\n",
    "upper case": DIGITS.upper(),
    "digits of another script": "٣" * 64,
    "NUL": DIGITS[:63] + "\0",
    "lone surrogate": DIGITS[:63] + "\ud800",
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
BAD_HEADS: dict[str, Any] = {
    "bool": True,
    "int": 0,
    "str": f"0:{'0' * 64}",
    "tuple": (0, "0" * 64),
    "receipt": Receipt(1, DIGITS),
    "subclass": Kept(0, "0" * 64),
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
BAD_HEAD_TEXTS: dict[str, Any] = {
    "None": None,
    "int": 12,
    "bytes": f"12:{DIGITS}".encode(),
    "str subclass": Text(f"12:{DIGITS}"),
    "head": Head(12, DIGITS),
    "empty": "",
    "no entries": f":{DIGITS}",
    "no signature": "12:",
    "leading zero": f"012:{DIGITS}",
    "sign": f"+12:{DIGITS}",
    "grouped": f"1_2:{DIGITS}",
    "digits of another script": f"٣:{DIGITS}",
    "space within": f"12 :{DIGITS}",
    "upper case": f"12:{DIGITS.upper()}",
    "63 digits": f"12:{DIGITS[:63]}",
    "two lines": f"12:{DIGITS}\n12:{DIGITS}",
    "NUL": f"12:{DIGITS}\0",
    "lone surrogate": "\ud800",
    "10 MB": TEN_MEGABYTES,
    "10 MB of digits": "1" * 10_000_000 + f":{DIGITS}",
    **HOSTILE,
}
BAD_PATHS: dict[str, Any] = {
    "None": None,
    "bool": True,
    "int": 0,
    "float": 1.5,
    "list": ["orders"],
    "bytearray": bytearray(b"orders"),
    "empty": "",
    "empty bytes": b"",
    "NUL": "orders\0",
    "NUL in bytes": b"orders\0",
    "lone surrogate": "orders\ud800",
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
BAD_DURABILITIES: dict[str, Any] = {
    "None": None,
    "bool": True,
    "int": 2,
    "bytes": b"full",
    "str subclass": Text("full"),
    "empty": "",
    "upper case": "FULL",
    "SQLite's word": "off",
    "NUL": "full\0",
    "lone surrogate": "\ud800",
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
BAD_VFS_NAMES: dict[str, Any] = {
    "bool": True,
    "int": 0,
    "bytes": b"unix",
    "str subclass": Text(apsw.vfs_names()[0]),
    "empty": "",
    "unknown": "tape",
    "NUL": "unix\0",
    "lone surrogate": "\ud800",
    "10 MB": TEN_MEGABYTES,
    **HOSTILE,
}
NONE: dict[str, Any] = {"None": None}


class Call(NamedTuple):
    """One argument of one verb: how the error names it, how the verb is called with it, and what it must not be."""

    argument: str
    call: Callable[[CheckpointStore, Any], object]
    bad: dict[str, Any]


def _loop(store: CheckpointStore, **arguments: Any) -> None:
    for _ in store.checkpointed([1, 2, 3], run_id="new run", stage="load", every=2, **arguments):
        pass


def _advance(store: CheckpointStore, **changed: Any) -> object:
    good = {"run_id": "run-7", "stage": "load", "watermark": Watermark(MAX, MAX), "idempotency_key": "next"}
    return store.advance(**(good | changed))


def _advance_at(store: CheckpointStore, at_ms: Any) -> object:
    clock_of_used.gives = at_ms
    try:
        return _advance(store)
    finally:
        clock_of_used.gives = 1767225600000


class _Clock:
    gives: Any = 1767225600000

    def __call__(self) -> Any:
        return self.gives


clock_of_used = _Clock()

CALLS: dict[str, Call] = {
    # Names
    "append run_id": Call("run_id", lambda s, x: s.append(entry(NEXT)._replace(run_id=x)), BAD_NAMES | NONE),
    "append stage": Call("stage", lambda s, x: s.append(entry(NEXT)._replace(stage=x)), BAD_NAMES | NONE),
    "append key": Call("idempotency_key", lambda s, x: s.append(entry(NEXT)._replace(idempotency_key=x)), BAD_NAMES | NONE),
    "append_many run_id": Call("entry 1 of the batch: run_id", lambda s, x: _batch(s, run_id=x), BAD_NAMES | NONE),
    "append_many stage": Call("entry 1 of the batch: stage", lambda s, x: _batch(s, stage=x), BAD_NAMES | NONE),
    "append_many key": Call(
        "entry 1 of the batch: idempotency_key", lambda s, x: _batch(s, idempotency_key=x), BAD_NAMES | NONE
    ),
    "advance run_id": Call("run_id", lambda s, x: _advance(s, run_id=x), BAD_NAMES | NONE),
    "advance stage": Call("stage", lambda s, x: _advance(s, stage=x), BAD_NAMES | NONE),
    "advance key": Call("idempotency_key", lambda s, x: _advance(s, idempotency_key=x), BAD_NAMES | NONE),
    "checkpointed run_id": Call("run_id", lambda s, x: s.checkpointed([], run_id=x, stage="load"), BAD_NAMES | NONE),
    "checkpointed stage": Call("stage", lambda s, x: s.checkpointed([], run_id="run-7", stage=x), BAD_NAMES | NONE),
    "latest run_id": Call("run_id", lambda s, x: s.latest(x), BAD_NAMES),
    "latest_for_stage stage": Call("stage", lambda s, x: s.latest_for_stage(x), BAD_NAMES | NONE),
    "latest_for_stage run_id": Call("run_id", lambda s, x: s.latest_for_stage("load", run_id=x), BAD_NAMES),
    "resume_point_for_stage stage": Call("stage", lambda s, x: s.resume_point_for_stage(x), BAD_NAMES | NONE),
    "resume_point_for_stage run_id": Call("run_id", lambda s, x: s.resume_point_for_stage("load", run_id=x), BAD_NAMES),
    "resume_points run_id": Call("run_id", lambda s, x: s.resume_points(x), BAD_NAMES),
    "get run_id": Call("run_id", lambda s, x: s.get(x, "load", 1), BAD_NAMES | NONE),
    "get stage": Call("stage", lambda s, x: s.get("run-7", x, 1), BAD_NAMES | NONE),
    "find key": Call("idempotency_key", lambda s, x: s.find(x), BAD_NAMES | NONE),
    "find stage": Call("stage", lambda s, x: s.find("load:1", stage=x), BAD_NAMES),
    "find run_id": Call("run_id", lambda s, x: s.find("load:1", run_id=x), BAD_NAMES),
    "history run_id": Call("run_id", lambda s, x: s.history(x), BAD_NAMES),
    "history stage": Call("stage", lambda s, x: s.history(stage=x), BAD_NAMES),
    "receipts run_id": Call("run_id", lambda s, x: s.receipts(x), BAD_NAMES),
    "receipts stage": Call("stage", lambda s, x: s.receipts(stage=x), BAD_NAMES),
    "chain_signature run_id": Call("run_id", lambda s, x: s.chain_signature(x), BAD_NAMES),
    "compare run_id": Call("run_id", lambda s, x: s.compare(x, "run-7"), BAD_NAMES | NONE),
    "compare other_run_id": Call("other_run_id", lambda s, x: s.compare("run-7", x), BAD_NAMES | NONE),
    "frame run_id": Call("run_id", lambda s, x: s.frame(x), BAD_NAMES),
    "frame stage": Call("stage", lambda s, x: s.frame(stage=x), BAD_NAMES),
    "plot.progress run_id": Call("run_id", lambda s, x: s.plot.progress(x), BAD_NAMES),
    "plot.lag run_id": Call("run_id", lambda s, x: s.plot.lag(x), BAD_NAMES),
    "plot.compare run_id": Call("run_id", lambda s, x: s.plot.compare(x, "run-7"), BAD_NAMES | NONE),
    "plot.compare other_run_id": Call("other_run_id", lambda s, x: s.plot.compare("run-7", x), BAD_NAMES | NONE),
    "verify run_id": Call("run_id", lambda s, x: s.verify(run_id=x), BAD_NAMES),
    # Integers
    "append sequence": Call("sequence", lambda s, x: s.append(entry(NEXT)._replace(sequence=x)), BAD_INTEGERS | NONE),
    "append offset": Call("offset", lambda s, x: s.append(_marked(Watermark(x, MAX))), BAD_INTEGERS | NONE),
    "append event_time_ms": Call("event_time_ms", lambda s, x: s.append(_marked(Watermark(MAX, x))), BAD_INTEGERS | NONE),
    "append at_ms": Call("at_ms", lambda s, x: s.append(entry(NEXT)._replace(at_ms=x)), BAD_INTEGERS | NONE),
    "append_many sequence": Call("entry 1 of the batch: sequence", lambda s, x: _batch(s, sequence=x), BAD_INTEGERS | NONE),
    "append_many offset": Call(
        "entry 1 of the batch: offset", lambda s, x: _batch(s, watermark=Watermark(x, MAX)), BAD_INTEGERS | NONE
    ),
    "append_many event_time_ms": Call(
        "entry 1 of the batch: event_time_ms", lambda s, x: _batch(s, watermark=Watermark(MAX, x)), BAD_INTEGERS | NONE
    ),
    "append_many at_ms": Call("entry 1 of the batch: at_ms", lambda s, x: _batch(s, at_ms=x), BAD_INTEGERS | NONE),
    "advance offset": Call("offset", lambda s, x: _advance(s, watermark=Watermark(x, MAX)), NO_INTEGERS | NONE),
    "advance event_time_ms": Call(
        "event_time_ms", lambda s, x: _advance(s, watermark=Watermark(MAX, x)), NO_INTEGERS | NONE
    ),
    "advance clock gives": Call("at_ms", _advance_at, BAD_INTEGERS | NONE),
    "checkpointed every": Call(
        "every", lambda s, x: s.checkpointed([], run_id="run-7", stage="load", every=x), BAD_INTEGERS | NONE | {"0": 0}
    ),
    "checkpointed event_time gives": Call("event_time", lambda s, x: _loop(s, event_time=lambda _: x), BAD_TIMES | NONE),
    "checkpointed event_time gives, in a transaction": Call(
        "event_time", lambda s, x: _loop(s, event_time=lambda _: x, transaction=True), BAD_TIMES | NONE
    ),
    "latest as_of": Call("as_of", lambda s, x: s.latest(as_of=x), BAD_TIMES),
    "latest_for_stage as_of": Call("as_of", lambda s, x: s.latest_for_stage("load", as_of=x), BAD_TIMES),
    "resume_point_for_stage as_of": Call("as_of", lambda s, x: s.resume_point_for_stage("load", as_of=x), BAD_TIMES),
    "resume_points as_of": Call("as_of", lambda s, x: s.resume_points(as_of=x), BAD_TIMES),
    "get sequence": Call("sequence", lambda s, x: s.get("run-7", "load", x), BAD_INTEGERS | NONE),
    "history since": Call("since", lambda s, x: s.history(since=x), BAD_TIMES),
    "history until": Call("until", lambda s, x: s.history(until=x), BAD_TIMES),
    "history after": Call("after", lambda s, x: s.history(after=x), BAD_INTEGERS | NONE),
    "history limit": Call("limit", lambda s, x: s.history(limit=x), BAD_INTEGERS),
    "receipts since": Call("since", lambda s, x: s.receipts(since=x), BAD_TIMES),
    "receipts until": Call("until", lambda s, x: s.receipts(until=x), BAD_TIMES),
    "receipts after": Call("after", lambda s, x: s.receipts(after=x), BAD_INTEGERS | NONE),
    "receipts limit": Call("limit", lambda s, x: s.receipts(limit=x), BAD_INTEGERS),
    "frame since": Call("since", lambda s, x: s.frame(since=x), BAD_TIMES),
    "frame until": Call("until", lambda s, x: s.frame(until=x), BAD_TIMES),
    "frame after": Call("after", lambda s, x: s.frame(after=x), BAD_INTEGERS | NONE),
    "frame limit": Call("limit", lambda s, x: s.frame(limit=x), BAD_INTEGERS),
    "verify workers": Call("workers", lambda s, x: s.verify(workers=x), BAD_INTEGERS | NONE | {"0": 0}),
    "Receipt position": Call("position", lambda _, x: Receipt(x, DIGITS), BAD_INTEGERS | NONE | {"0": 0}),
    "BatchReceipt appended": Call("appended", lambda _, x: BatchReceipt(x, 0, 0, DIGITS), BAD_INTEGERS | NONE),
    "BatchReceipt duplicates": Call("duplicates", lambda _, x: BatchReceipt(0, x, 0, DIGITS), BAD_INTEGERS | NONE),
    "BatchReceipt position": Call("position", lambda _, x: BatchReceipt(0, 0, x, DIGITS), BAD_INTEGERS | NONE),
    "Head entries": Call("entries", lambda _, x: Head(x, DIGITS), BAD_INTEGERS | NONE),
    # Entries and watermarks
    "append entry": Call("entry", lambda s, x: s.append(x), BAD_ENTRIES),
    "append_many entry": Call("entry 1 of the batch: entry", lambda s, x: s.append_many([entry(NEXT), x]), BAD_ENTRIES),
    "append_many entries": Call("entries", lambda s, x: s.append_many(x), BAD_ITERABLES),
    "append watermark": Call("watermark", lambda s, x: s.append(_marked(x)), BAD_WATERMARKS),
    "append_many watermark": Call("entry 1 of the batch: watermark", lambda s, x: _batch(s, watermark=x), BAD_WATERMARKS),
    "advance watermark": Call("watermark", lambda s, x: _advance(s, watermark=x), BAD_WATERMARKS),
    "checkpointed records": Call("records", lambda s, x: s.checkpointed(x, run_id="run-7", stage="load"), BAD_ITERABLES),
    "checkpointed seek gives": Call("seek", lambda s, x: _resume(s, seek=lambda _: x), BAD_ITERABLES),
    # Switches and callables
    "history newest_first": Call("newest_first", lambda s, x: s.history(newest_first=x), BAD_BOOLS),
    "receipts newest_first": Call("newest_first", lambda s, x: s.receipts(newest_first=x), BAD_BOOLS),
    "frame newest_first": Call("newest_first", lambda s, x: s.frame(newest_first=x), BAD_BOOLS),
    "checkpointed transaction": Call("transaction", lambda s, x: _loop(s, transaction=x), BAD_BOOLS),
    "Receipt duplicate": Call("duplicate", lambda _, x: Receipt(1, DIGITS, x), BAD_BOOLS),
    "checkpointed event_time": Call("event_time", lambda s, x: _loop(s, event_time=x), BAD_CALLABLES),
    "checkpointed seek": Call("seek", lambda s, x: _loop(s, seek=x), BAD_CALLABLES),
    "verify progress": Call("progress", lambda s, x: s.verify(progress=x), BAD_CALLABLES),
    # SQL
    "sql statement": Call("statement", lambda s, x: s.sql(x), BAD_STATEMENTS),
    "sql parameters": Call("parameters", lambda s, x: s.sql("SELECT ?", x), BAD_PARAMETERS),
    # Heads and signatures
    "verify trusted": Call("trusted", lambda s, x: s.verify(trusted=x), BAD_HEADS),
    "verify expected": Call("expected", lambda s, x: s.verify(expected=x), BAD_HEADS),
    "Head signature": Call("signature", lambda _, x: Head(12, x), BAD_SIGNATURES),
    "Head signature of nothing": Call("signature", lambda _, x: Head(0, x), BAD_SIGNATURES | {"of something": DIGITS}),
    "Receipt signature": Call("signature", lambda _, x: Receipt(1, x), BAD_SIGNATURES),
    "BatchReceipt signature": Call("signature", lambda _, x: BatchReceipt(0, 0, 0, x), BAD_SIGNATURES),
    "Head.parse text": Call("text", lambda _, x: Head.parse(x), BAD_HEAD_TEXTS),
    # Paths: in the directory of the store, where nothing new may appear
    "open path": Call("path", lambda _, x: CheckpointStore(x).close(), BAD_PATHS),
    "open_readonly path": Call("path", lambda _, x: CheckpointStore.open_readonly(x).close(), BAD_PATHS),
    "backup path": Call("path", lambda s, x: s.backup(x), BAD_PATHS),
    "open durability": Call("durability", lambda s, x: _open_second(s, durability=x), BAD_DURABILITIES),
    "open busy_timeout_ms": Call(
        "busy_timeout_ms", lambda s, x: _open_second(s, busy_timeout_ms=x), BAD_INTEGERS | NONE | {"2^31": 2**31}
    ),
    "open clock": Call("clock", lambda s, x: _open_second(s, clock=x), BAD_CALLABLES | NONE),
    "open vfs": Call("vfs", lambda s, x: _open_second(s, vfs=x), BAD_VFS_NAMES),
    "open_readonly vfs": Call("vfs", lambda s, x: CheckpointStore.open_readonly(s.path, vfs=x).close(), BAD_VFS_NAMES),
}


def _marked(mark: Any) -> Checkpoint:
    return entry(NEXT)._replace(watermark=mark)


def _batch(store: CheckpointStore, **wrong: Any) -> object:
    return store.append_many([entry(NEXT), entry(NEXT + 1)._replace(**wrong), entry(NEXT + 2)])


def _open_second(store: CheckpointStore, **arguments: Any) -> None:
    path = Path(store.path + "-2")
    try:
        CheckpointStore(path, **arguments).close()
    finally:
        path.unlink(missing_ok=True)  # where it should not have been made, it is in no other test's way


def _resume(store: CheckpointStore, **arguments: Any) -> None:
    for _ in store.checkpointed([1, 2, 3], run_id="resumed", stage="load", **arguments):
        pass


def _bytes(store: CheckpointStore) -> dict[str, bytes]:
    """
    The contents of every file beside the store and its own.

    Read through SQLite's VFS, because to close a plain descriptor of an open database drops the process's locks on it.
    """
    found = {}
    for file in sorted(Path(store.path).parent.iterdir()):
        if file.name.endswith("-shm"):
            continue  # an index of the WAL and of who reads it: no content of its own
        opened = apsw.VFSFile("", str(file), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        found[file.name] = opened.xRead(opened.xFileSize(), 0) if opened.xFileSize() else b""
        opened.xClose()
    return found


@contextlib.contextmanager
def _left_as_it_was(store: CheckpointStore) -> Iterator[None]:
    """Whatever the block does changes no byte and no answer, and the next good append works."""
    before = _bytes(store), store.head(), len(store), store.latest()
    yield
    assert before == (_bytes(store), store.head(), len(store), store.latest())
    last = store.latest_for_stage("load", run_id="run-7")
    receipt = store.append(entry(last.sequence + 1 if last else 1))
    assert Receipt(before[2] + 1, store.chain_signature()) == receipt


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store that the tests of this module share, each leaving one more good entry in it."""
    path = tmp_path_factory.mktemp("used") / "orders.milepost"
    with CheckpointStore(path, durability="normal", clock=clock_of_used) as store:
        wal(store).write_back_pages = 50  # keeps small what is compared
        store.append_many([entry(1), entry(2), entry(1, run_id="resumed", offset=2)])
        yield store
        store.verify().raise_if_broken()


def _shown(name: str, wrong: str) -> str:
    """How the message must begin to show the value: its repr, or at least its type."""
    value = CALLS[name].bad[wrong]
    if type(value) is HostileType:
        return ""  # there is nothing in it that could be shown
    try:
        text = repr(value)[: 1 if isinstance(value, dict) else 10]
    except Exception:  # noqa: BLE001 - what cannot be shown
        return type(value).__name__
    return text if text.isprintable() else ascii(text)[1:-1]


def _refusal(name: str, store: CheckpointStore, wrong: str) -> tuple[type | None, str]:
    """
    The class and the message of what a call raises.

    Nothing hostile leaves it: pytest shows the values of a test that failed, and could not show these.
    """
    try:
        CALLS[name].call(store, CALLS[name].bad[wrong])
    except Exception as error:  # noqa: BLE001 - whatever it is, the test names it
        try:
            return type(error), str(error)
        except HostileError:
            return type(error), "a message that cannot be shown"
    return None, "it was taken"


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, call in CALLS.items() for wrong in call.bad])
def test_a_bad_argument_is_named_and_changes_nothing(used: CheckpointStore, name: str, wrong: str) -> None:
    """The message is one short line with the argument and the value, of an error of milepost that is a ValueError too."""
    with _left_as_it_was(used):
        raised, message = _refusal(name, used, wrong)
        assert raised in {InvalidArgumentError, InvalidCheckpointError}, message
        assert message.startswith(f"{CALLS[name].argument} is ")
        assert _shown(name, wrong) in message
        assert message.isprintable()
        assert len(message) < 400


def test_the_table_of_calls_has_every_argument_of_every_verb() -> None:
    """A verb that is new must be added to it."""
    assert public() - without_arguments() <= {call.split()[0] for call in CALLS}


LONGEST = "x" * 1024


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.append(Checkpoint(LONGEST, LONGEST, MAX, Watermark(MAX, MAX), LONGEST, MAX)),
        lambda s: s.append_many([Checkpoint(LONGEST, LONGEST, MAX, Watermark(MAX, MAX), LONGEST, MAX)]),
        lambda s: s.advance(LONGEST, LONGEST, Watermark(MAX, MAX), idempotency_key=LONGEST),
        lambda s: list(s.checkpointed([1], run_id=LONGEST, stage=LONGEST, every=MAX, event_time=lambda _: MAX)),
        lambda s: s.latest(LONGEST, as_of=MAX),
        lambda s: s.latest_for_stage(LONGEST, run_id=LONGEST, as_of=MAX),
        lambda s: s.get(LONGEST, LONGEST, MAX),
        lambda s: list(s.find(LONGEST, stage=LONGEST, run_id=LONGEST)),
        lambda s: list(s.history(since=MAX, until=MAX, after=MAX, limit=MAX)),
        lambda s: list(s.history(since=MAX, until=MAX, after=MAX, limit=MAX, newest_first=True)),
        lambda s: list(s.history("run-7", since=MAX, until=MAX, after=MAX, limit=MAX)),
        lambda s: list(s.history(stage="load", since=MAX, until=MAX, after=MAX, limit=MAX)),
        lambda s: list(s.history("run-7", "load", since=MAX, until=MAX, after=MAX, limit=MAX)),
        lambda s: list(s.history("run-7", "load", after=MAX, newest_first=True)),
        lambda s: list(s.receipts(since=MAX, until=MAX, after=MAX, limit=MAX)),
        lambda s: s.resume_points(LONGEST, as_of=MAX),
        lambda s: s.verify(run_id=LONGEST, workers=1, expected=Head(MAX, DIGITS)),
        lambda s: s.verify(trusted=Head(MAX, DIGITS)),
    ],
)
def test_the_largest_good_arguments_are_taken(store: CheckpointStore, call: Callable[[CheckpointStore], object]) -> None:
    """A name of 1,024 bytes and the integer 2^63-1 are good everywhere, with entries there and without."""
    call(store)
    store.append(Checkpoint("run-7", "load", MAX, Watermark(MAX, MAX), "last", MAX))
    call(store)


_CLOCK_SCRIPT = """
import sys
from milepost import Checkpoint, CheckpointStore, MilepostError, Watermark

def clock():
    if sys.argv[2] == "appends":
        store.append(Checkpoint("run-7", "extract", 1, Watermark(1, 0), "extract:1", 0))
    elif sys.argv[2] == "begins":
        with store.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sink (amount INTEGER) STRICT")
    return len(store)

with CheckpointStore(sys.argv[1], clock=clock) as store:
    for sequence in (1, 2):
        try:
            store.advance("run-7", "load", Watermark(sequence, 0), idempotency_key=f"load:{sequence}")
        except MilepostError as error:
            print(error)
    store.verify().raise_if_broken()
    assert len(store) == len(list(store.history()))
    assert store.latest_for_stage("load") is not None or sys.argv[2] != "reads"
"""


@pytest.mark.parametrize("use", ["reads", "appends", "begins"])
def test_a_clock_that_uses_the_store_confuses_nothing(path: Path, use: str) -> None:
    """What it does comes before the checkpoint that it is asked for, or it is refused in words; nobody waits forever."""
    command = [sys.executable, "-c", _CLOCK_SCRIPT, str(path), use]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert done.stderr == ""


def _raises_half_way() -> Iterator[Checkpoint]:
    yield entry(NEXT)
    yield entry(NEXT + 1)
    raise HostileError


class _RaisesAtOnce:
    def __iter__(self) -> Iterator[Checkpoint]:
        raise HostileError


class _RaisesAsPath:
    def __fspath__(self) -> str:
        raise HostileError


class _RaisesAsLength:
    def __iter__(self) -> Iterator[Checkpoint]:
        return self

    def __next__(self) -> Checkpoint:
        raise StopIteration

    def __length_hint__(self) -> int:
        raise HostileError


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda s: s.append_many(_raises_half_way()), id="append_many, half way"),
        pytest.param(lambda s: s.append_many(_RaisesAtOnce()), id="append_many, at once"),
        pytest.param(lambda s: _loop_over(s, _raises_half_way()), id="checkpointed, half way"),
        pytest.param(lambda s: _loop_over(s, _raises_half_way(), transaction=True), id="checkpointed transaction, half way"),
        pytest.param(lambda s: _loop(s, event_time=_hostile), id="checkpointed event_time"),
        pytest.param(lambda s: _loop(s, event_time=_hostile, transaction=True), id="checkpointed transaction event_time"),
        pytest.param(lambda s: _resume(s, seek=_hostile), id="checkpointed seek"),
        pytest.param(lambda s: s.verify(progress=_hostile), id="verify progress"),
        pytest.param(lambda _: CheckpointStore(_RaisesAsPath()), id="open path"),
        pytest.param(lambda _: CheckpointStore.open_readonly(_RaisesAsPath()), id="open_readonly path"),
    ],
)
def test_an_exception_of_the_callers_own_code_passes_through_and_changes_nothing(
    used: CheckpointStore, call: Callable[[CheckpointStore], object]
) -> None:
    """It is the caller's, unchanged, and not one of milepost."""
    with _left_as_it_was(used), pytest.raises(HostileError):
        call(used)


def _loop_over(store: CheckpointStore, records: Iterable[object], **arguments: Any) -> None:
    for _ in store.checkpointed(records, run_id="new run", stage="load", **arguments):
        pass


def test_a_clock_that_raises_passes_through_and_changes_nothing(path: Path) -> None:
    """The write transaction that was begun for it is undone."""
    opened = CheckpointStore(path, durability="normal", clock=_hostile)
    with opened as store, _left_as_it_was(store), pytest.raises(HostileError):
        _advance(store)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(range(2**63), id="longer than a list can be"),
        pytest.param("run-7", id="str"),
        pytest.param({"run_id": "run-7"}, id="dict"),
        pytest.param(entry(NEXT), id="one checkpoint"),
        pytest.param(map(str, [entry(NEXT)]), id="texts"),
        pytest.param(_RaisesAsLength, id="class"),
    ],
)
def test_a_batch_of_anything_but_checkpoints_is_refused(used: CheckpointStore, entries: Any) -> None:
    """The first thing that is no checkpoint is named, however many there are."""
    with _left_as_it_was(used), pytest.raises((InvalidArgumentError, InvalidCheckpointError), match=r"^entr"):
        used.append_many(entries)


def test_trusted_goes_with_the_whole_chain_only(used: CheckpointStore) -> None:
    """A head of the file says nothing about where a run stood."""
    with pytest.raises(InvalidArgumentError, match="trusted is Head"):
        used.verify(run_id="run-7", trusted=used.head())


CALLS_WHEN_CLOSED: dict[str, Callable[[CheckpointStore], object]] = {
    **{name: call for name, call in READING.items() if name != "_repr_html_"},  # which says so in a page
    **SHOWING,
    **WRITING,
    "append_many, of nothing": lambda s: s.append_many([]),
    "history, before it is walked": lambda s: s.history(),
    "transaction, that is entered": lambda s: s.transaction().__enter__(),
    "backup": lambda s: s.backup(s.path + "-copy"),
    "__enter__": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("readonly", [False, True], ids=["opened to write", "opened to read"])
@pytest.mark.parametrize("verb", CALLS_WHEN_CLOSED.values(), ids=CALLS_WHEN_CLOSED)
def test_every_verb_of_a_closed_store_says_that_it_is_closed(
    path: Path, verb: Callable[[CheckpointStore], object], readonly: bool
) -> None:
    """The message has the path and the way out; closing again does nothing."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    if readonly:
        with CheckpointStore.open_readonly(path) as store:
            pass
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(ClosedStoreError, match=r"orders\.milepost: the store is closed: open it again"):
        verb(store)
    store.close()
    assert "closed" in repr(store)
    assert before == {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.mark.parametrize("walk", ["history", "receipts"])
def test_a_walk_over_a_store_that_is_closed_meanwhile_says_so(path: Path, walk: str) -> None:
    """A walk reads on from the file, which is no longer there for it."""
    store = CheckpointStore(path, durability="normal")
    store.append_many(entry(i, run_id=f"run-{i % 2}", key=f"key {i // 2}") for i in range(4000))
    rest: Iterator[Any] = getattr(store, walk)()
    next(rest)
    store.close()
    with pytest.raises(ClosedStoreError):
        list(rest)


def test_a_block_cannot_close_the_connection_of_the_store(path: Path) -> None:
    """Closing it is a mistake, told in words; the block is undone by it, and the store goes on."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
        with pytest.raises(StoreError, match="close the store"), store.transaction() as connection:
            store.append(entry(2))
            connection.close()
        store.append(entry(2))
        assert [entry(1), entry(2)] == list(store.history())
        store.verify().raise_if_broken()


def test_a_store_can_be_neither_pickled_nor_copied(store: CheckpointStore) -> None:
    """A copy would share the connection; the message says what to do instead."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MilepostError, match="hand over its path"):
            attempt(store)


def test_a_path_of_millions_of_directories_is_refused_at_once(tmp_path: Path) -> None:
    """It is longer than any path can be, which takes no walk along it to see."""
    script = "import milepost; milepost.CheckpointStore('x/' * 5_000_000)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("milepost.errors.InvalidArgumentError: path is 'x/x/")
    assert len(last) < 400


# Anything at all

ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.text(),
    st.text("\0\ud800\x1b\n'\"\\", max_size=5),
    st.binary(),
    st.datetimes(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.builds(HostileComparison),
    st.sampled_from([object(), Checkpoint, ..., NotImplemented, ValueError("x"), range(3), Path("x")]),
    st.builds(entry, st.integers(0, 3)),
    st.builds(Watermark, st.integers(), st.one_of(st.none(), st.integers())),
    st.builds(Checkpoint, *([st.one_of(st.none(), st.integers(), st.text())] * 6)),
)
NOT_CALLABLE = ANYTHING.filter(lambda value: not callable(value))

ARGUMENTS: dict[str, list[str]] = {
    name: list(parameters)[1:]
    for name in sorted({method(call) for call in READING | WRITING} & public())
    if len(parameters := inspect.signature(getattr(CheckpointStore, name)).parameters) > 1
}
"""What each method takes that only asks and records: it is called with anything, and does nothing else."""


@settings(max_examples=300)
@given(st.data())
def test_no_verb_raises_anything_but_errors_of_milepost_whatever_it_is_given(
    used: CheckpointStore, data: st.DataObject
) -> None:
    """What a verb refuses leaves the chain as it was; what it takes leaves a chain that holds."""
    verb = data.draw(st.sampled_from(sorted(ARGUMENTS)))
    good: dict[str, Any] = {
        "entry": entry(1),
        "entries": [],
        "watermark": Watermark(MAX, MAX),
        "records": [],
        "idempotency_key": "load:1",
        "run_id": "run-7",
        "other_run_id": "run-7",
        "stage": "load",
        "sequence": 1,
    }
    arguments = {name: good[name] for name in ARGUMENTS[verb] if name in good}
    for name in data.draw(st.lists(st.sampled_from(ARGUMENTS[verb]), min_size=1, unique=True)):
        arguments[name] = data.draw(NOT_CALLABLE if name in {"event_time", "seek", "progress"} else ANYTHING)
    head = used.head()
    refused: MilepostError | None = None
    try:
        answer = getattr(used, verb)(**arguments)
        if isinstance(answer, Iterator):
            list(answer)
    except MilepostError as error:
        refused = error
    assert used.verify(trusted=head).ok
    if refused is not None:
        assert len(str(refused)) < 1000
        assert str(refused).isprintable()
        assert head == used.head()


@settings(max_examples=200)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_no_value_of_ours_can_be_built_wrong(first: Any, second: Any, third: Any) -> None:
    """Receipts and heads exist only with values that a store could have given them; `valid` never raises."""
    for kind, arguments in ((Receipt, (first, second, third)), (Head, (first, second))):
        with contextlib.suppress(InvalidArgumentError):
            kind(*arguments)
    with contextlib.suppress(InvalidArgumentError):
        Head.parse(first)
    assert contract.valid(first) in {True, False}
    assert contract.valid_watermark(second) in {True, False}


# Without assertions

_SCRIPT = """
import sys
from milepost import *

with CheckpointStore(sys.argv[1]) as store:
    good = Checkpoint("run-7", "load", 1, Watermark(500, 0), "load:1", 0)
    store.append(good)
    calls = {
        "append None": lambda: store.append(None),
        "append NUL": lambda: store.append(good._replace(run_id="a\\0b")),
        "append surrogate": lambda: store.append(good._replace(stage="\\ud800")),
        "append bool": lambda: store.append(good._replace(sequence=True)),
        "append NaN": lambda: store.append(good._replace(at_ms=float("nan"))),
        "append 2^63": lambda: store.append(good._replace(watermark=Watermark(2**63, 0))),
        "append again": lambda: store.append(good._replace(sequence=2)),
        "append back": lambda: store.append(Checkpoint("run-7", "load", 2, Watermark(499, 0), "load:2", 0)),
        "append_many": lambda: store.append_many([good, good._replace(sequence=-1)]),
        "advance": lambda: store.advance("run-7", "load", (1, 2), idempotency_key="k"),
        "latest": lambda: store.latest(7),
        "get": lambda: store.get("run-7", "load", 1.0),
        "history": lambda: store.history(limit=-1),
        "verify": lambda: store.verify(expected="head"),
        "no stage": lambda: store.resume_point_for_stage("extract"),
        "head": lambda: Head.parse("12:34"),
        "receipt": lambda: Receipt(0, ""),
        "path": lambda: CheckpointStore(""),
    }
    for name, call in calls.items():
        try:
            print(name, "was taken:", call())
        except MilepostError as error:
            print(name, type(error).__name__, error)
    print(store.head(), store.verify())
"""


def test_python_without_assertions_refuses_the_same_in_the_same_words(tmp_path: Path) -> None:
    """`python -O` drops assert statements, and no rule is one."""

    def run(*options: str) -> list[str]:
        command = [sys.executable, *options, "-c", _SCRIPT, str(tmp_path / f"orders{len(options)}{options}")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    plain = run()
    assert plain == run("-O")
    assert plain == run("-OO")
    assert len(plain) == 19
    assert not [line for line in plain if "was taken" in line]
    assert "ok=True" in plain[-1]

"""Every argument of every method, given what it must not be: an error that names it, and a chain that is as it was."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

import milepost
from milepost import (
    BatchReceipt,
    Checkpoint,
    Checkpointed,
    CheckpointStore,
    Head,
    InvalidArgumentError,
    InvalidCheckpointError,
    Receipt,
    Tracked,
    Watermark,
)
from support.chains import MAX, entry
from support.hostile import HOSTILE, MEGABYTE, Entry, HostileError, Kept, Mark, Number, Text
from support.methods import public, without_arguments
from support.refusals import Call, Calls, left_as_it_was
from support.shipping import NAME, MemoryTarget
from support.used_store import advance, clock_of_used, loop, mapped, once, resume, track, tracked
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

DIGITS = "0123456789abcdef" * 4
NEXT = 1_000_000  # a sequence that the tests of this module never reach, so that it always rises
NONE: dict[str, Any] = {"None": None}


def _batch(store: CheckpointStore, **wrong: Any) -> object:
    return store.append_many([entry(NEXT), entry(NEXT + 1)._replace(**wrong), entry(NEXT + 2)])


def _steps(store: CheckpointStore, **wrong: Any) -> object:
    return store.advance_many([STEP, {**STEP, "stage": "other", **wrong}])


def _run(awaitable: Awaitable[object]) -> object:
    async def main() -> object:
        return await awaitable

    return asyncio.run(main())


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _but_none(bad: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in bad.items() if name != "None"}


def _marked(mark: Any) -> Checkpoint:
    return entry(NEXT)._replace(watermark=mark)


# Names

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
    "1 MB": MEGABYTE,
    "1 MB beyond ASCII": "ü" * 500_000,
    **HOSTILE,
}

NAMES = Calls(
    {
        "append run_id": Call("run_id", lambda s, x: s.append(entry(NEXT)._replace(run_id=x)), BAD_NAMES | NONE),
        "append stage": Call("stage", lambda s, x: s.append(entry(NEXT)._replace(stage=x)), BAD_NAMES | NONE),
        "append key": Call(
            "idempotency_key", lambda s, x: s.append(entry(NEXT)._replace(idempotency_key=x)), BAD_NAMES | NONE
        ),
        "append_many run_id": Call("entry 1 of the batch: run_id", lambda s, x: _batch(s, run_id=x), BAD_NAMES | NONE),
        "append_many stage": Call("entry 1 of the batch: stage", lambda s, x: _batch(s, stage=x), BAD_NAMES | NONE),
        "append_many key": Call(
            "entry 1 of the batch: idempotency_key", lambda s, x: _batch(s, idempotency_key=x), BAD_NAMES | NONE
        ),
        "advance run_id": Call("run_id", lambda s, x: advance(s, run_id=x), BAD_NAMES | NONE),
        "advance stage": Call("stage", lambda s, x: advance(s, stage=x), BAD_NAMES | NONE),
        "advance key": Call("idempotency_key", lambda s, x: advance(s, idempotency_key=x), BAD_NAMES | NONE),
        "checkpointed run_id": Call("run_id", lambda s, x: s.checkpointed([], run_id=x, stage="load"), BAD_NAMES | NONE),
        "checkpointed stage": Call("stage", lambda s, x: s.checkpointed([], run_id="run-7", stage=x), BAD_NAMES | NONE),
        "checkpointed source": Call("source", lambda s, x: loop(s, source=x), BAD_NAMES),
        "once run_id": Call("run_id", lambda s, x: s.once([], run_id=x, stage="load", key=str), BAD_NAMES | NONE),
        "once stage": Call("stage", lambda s, x: s.once([], run_id="run-7", stage=x, key=str), BAD_NAMES | NONE),
        "once key gives": Call("key", lambda s, x: once(s, key=lambda _: x), BAD_NAMES | NONE),
        "tracked run_id": Call("run_id", lambda s, x: s.tracked(run_id=x, stage="load"), BAD_NAMES | NONE),
        "tracked stage": Call("stage", lambda s, x: s.tracked(run_id="run-7", stage=x), BAD_NAMES | NONE),
        "latest run_id": Call("run_id", lambda s, x: s.latest(x), BAD_NAMES),
        "latest_for_stage stage": Call("stage", lambda s, x: s.latest_for_stage(x), BAD_NAMES | NONE),
        "latest_for_stage run_id": Call("run_id", lambda s, x: s.latest_for_stage("load", run_id=x), BAD_NAMES),
        "resume_point_for_stage stage": Call("stage", lambda s, x: s.resume_point_for_stage(x), BAD_NAMES | NONE),
        "resume_point_for_stage run_id": Call("run_id", lambda s, x: s.resume_point_for_stage("load", run_id=x), BAD_NAMES),
        "resume_points run_id": Call("run_id", lambda s, x: s.resume_points(x), BAD_NAMES),
        "advance_many run_id": Call("entry 1 of the batch: run_id", lambda s, x: _steps(s, run_id=x), BAD_NAMES | NONE),
        "advance_many stage": Call("entry 1 of the batch: stage", lambda s, x: _steps(s, stage=x), BAD_NAMES | NONE),
        "advance_many key": Call(
            "entry 1 of the batch: idempotency_key", lambda s, x: _steps(s, idempotency_key=x), BAD_NAMES | NONE
        ),
        "advance_async run_id": Call(
            "run_id",
            lambda s, x: _run(s.advance_async(x, "load", Watermark(MAX, MAX), idempotency_key="new")),
            BAD_NAMES | NONE,
        ),
        "run run_id": Call("run_id", lambda s, x: s.run(x), BAD_NAMES | NONE),
        "branch run_id": Call("run_id", lambda s, x: s.branch(x, "new"), BAD_NAMES | NONE),
        "branch new_run_id": Call("new_run_id", lambda s, x: s.branch("run-7", x), BAD_NAMES | NONE),
        "branch stage": Call("stage", lambda s, x: s.branch("run-7", "new", stage=x), BAD_NAMES),
        "cursor stage": Call("stage", lambda s, x: s.cursor(x), BAD_NAMES | NONE),
        "cursor run_id": Call("run_id", lambda s, x: s.cursor("load", run_id=x), BAD_NAMES),
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
        "plot.progress stage": Call("stage", lambda s, x: s.plot.progress(stage=x), BAD_NAMES),
        "plot.lag run_id": Call("run_id", lambda s, x: s.plot.lag(x), BAD_NAMES),
        "plot.runs run_id": Call("run_id", lambda s, x: s.plot.runs(x), BAD_NAMES),
        "plot.durations run_id": Call("run_id", lambda s, x: s.plot.durations(x), BAD_NAMES),
        "plot.compare stage": Call("stage", lambda s, x: s.plot.compare("run-7", "run-7", x), BAD_NAMES),
        "plot.compare run_id": Call("run_id", lambda s, x: s.plot.compare(x, "run-7"), BAD_NAMES | NONE),
        "plot.compare other_run_id": Call("other_run_id", lambda s, x: s.plot.compare("run-7", x), BAD_NAMES | NONE),
        "verify run_id": Call("run_id", lambda s, x: s.verify(run_id=x), BAD_NAMES),
    }
)


@NAMES.each_with_every_bad_value
def test_a_bad_name_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Of a run, a stage or a step."""
    NAMES.check(used, name)


# Integers

BAD_INTEGERS: dict[str, Any] = {
    "bool": True,
    "float": 1.0,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "Decimal": Decimal(1),
    "str": "1",
    "1 MB": MEGABYTE,
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


def _advance_at(store: CheckpointStore, at_ms: Any) -> object:
    clock_of_used.gives = at_ms
    try:
        return advance(store)
    finally:
        clock_of_used.gives = 1767225600000


INTEGERS = Calls(
    {
        "append sequence": Call("sequence", lambda s, x: s.append(entry(NEXT)._replace(sequence=x)), BAD_INTEGERS | NONE),
        "append offset": Call("offset", lambda s, x: s.append(_marked(Watermark(x, MAX))), BAD_INTEGERS | NONE),
        "append event_time_ms": Call(
            "event_time_ms", lambda s, x: s.append(_marked(Watermark(MAX, x))), BAD_INTEGERS | NONE
        ),
        "append at_ms": Call("at_ms", lambda s, x: s.append(entry(NEXT)._replace(at_ms=x)), BAD_INTEGERS | NONE),
        "append_many sequence": Call(
            "entry 1 of the batch: sequence", lambda s, x: _batch(s, sequence=x), BAD_INTEGERS | NONE
        ),
        "append_many offset": Call(
            "entry 1 of the batch: offset", lambda s, x: _batch(s, watermark=Watermark(x, MAX)), BAD_INTEGERS | NONE
        ),
        "append_many event_time_ms": Call(
            "entry 1 of the batch: event_time_ms", lambda s, x: _batch(s, watermark=Watermark(MAX, x)), BAD_INTEGERS | NONE
        ),
        "append_many at_ms": Call("entry 1 of the batch: at_ms", lambda s, x: _batch(s, at_ms=x), BAD_INTEGERS | NONE),
        "advance offset": Call("offset", lambda s, x: advance(s, watermark=Watermark(x, MAX)), NO_INTEGERS | NONE),
        "advance event_time_ms": Call(
            "event_time_ms", lambda s, x: advance(s, watermark=Watermark(MAX, x)), NO_INTEGERS | NONE
        ),
        "advance clock gives": Call("at_ms", _advance_at, BAD_INTEGERS | NONE),
        "advance_many offset": Call(
            "entry 1 of the batch: offset", lambda s, x: _steps(s, watermark=Watermark(x, MAX)), NO_INTEGERS | NONE
        ),
        "checkpointed every": Call(
            "every", lambda s, x: s.checkpointed([], run_id="run-7", stage="load", every=x), BAD_INTEGERS | NONE | {"0": 0}
        ),
        "map workers": Call("workers", lambda s, x: mapped(s, workers=x), BAD_INTEGERS | NONE | {"0": 0}),
        "map in_flight": Call("in_flight", lambda s, x: mapped(s, in_flight=x), BAD_INTEGERS | {"0": 0}),
        "once every": Call("every", lambda s, x: once(s, every=x), BAD_INTEGERS | NONE | {"0": 0}),
        "tracked every": Call("every", lambda s, x: tracked(s, every=x), BAD_INTEGERS | NONE | {"0": 0}),
        "tracked in_flight": Call("in_flight", lambda s, x: tracked(s, in_flight=x), BAD_INTEGERS | NONE | {"0": 0}),
        "track offset": Call("offset", track, NO_INTEGERS | NONE | {"2^63-1": MAX}),
        "get sequence": Call("sequence", lambda s, x: s.get("run-7", "load", x), BAD_INTEGERS | NONE),
        "history after": Call("after", lambda s, x: s.history(after=x), BAD_INTEGERS | NONE),
        "history limit": Call("limit", lambda s, x: s.history(limit=x), BAD_INTEGERS),
        "runs limit": Call("limit", lambda s, x: s.runs(limit=x), BAD_INTEGERS),
        "receipts after": Call("after", lambda s, x: s.receipts(after=x), BAD_INTEGERS | NONE),
        "receipts limit": Call("limit", lambda s, x: s.receipts(limit=x), BAD_INTEGERS),
        "frame after": Call("after", lambda s, x: s.frame(after=x), BAD_INTEGERS | NONE),
        "frame limit": Call("limit", lambda s, x: s.frame(limit=x), BAD_INTEGERS),
        "verify workers": Call("workers", lambda s, x: s.verify(workers=x), BAD_INTEGERS | NONE | {"0": 0}),
        "archive workers": Call(
            "workers", lambda s, x: s.archive(f"{s.path}-a", before=0, workers=x), BAD_INTEGERS | NONE | {"0": 0}
        ),
        "Receipt position": Call("position", lambda _, x: Receipt(x, DIGITS), BAD_INTEGERS | NONE | {"0": 0}),
        "BatchReceipt appended": Call("appended", lambda _, x: BatchReceipt(x, 0, 0, DIGITS), BAD_INTEGERS | NONE),
        "BatchReceipt duplicates": Call("duplicates", lambda _, x: BatchReceipt(0, x, 0, DIGITS), BAD_INTEGERS | NONE),
        "BatchReceipt position": Call("position", lambda _, x: BatchReceipt(0, 0, x, DIGITS), BAD_INTEGERS | NONE),
        "Head entries": Call("entries", lambda _, x: Head(x, DIGITS), BAD_INTEGERS | NONE),
    }
)


@INTEGERS.each_with_every_bad_value
def test_a_bad_integer_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Sequences, offsets, times in ms, positions and counts."""
    INTEGERS.check(used, name)


@pytest.mark.parametrize("name", [name for name, call in INTEGERS.items() if "0" in call.bad])
def test_an_integer_below_its_range_is_told_the_range_that_it_has(used: CheckpointStore, name: str) -> None:
    """It begins at 1 for -1 too, so that nobody tries 0 next."""
    for wrong in (0, -1):
        with pytest.raises(InvalidArgumentError, match=f" is {wrong}: must be from 1 to "):
            INTEGERS[name].call(used, wrong)


# Seconds

BAD_SECONDS: dict[str, Any] = {
    "bool": True,
    "0": 0,
    "-1": -1,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "Decimal": Decimal(1),
    "str": "1",
    "list": [1],
    "int subclass": Number(1),
    "1 MB": MEGABYTE,
    **HOSTILE,
}

SECONDS = Calls(
    {
        "checkpointed every_s": Call("every_s", lambda s, x: loop(s, every_s=x), BAD_SECONDS),
        "once every_s": Call("every_s", lambda s, x: once(s, every_s=x), BAD_SECONDS),
        "tracked every_s": Call("every_s", lambda s, x: tracked(s, every_s=x), BAD_SECONDS),
    }
)


@SECONDS.each_with_every_bad_value
def test_a_bad_number_of_seconds_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """It is above 0, and finite."""
    SECONDS.check(used, name)


# Times

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

TIMES = Calls(
    {
        "checkpointed event_time gives": Call("event_time", lambda s, x: loop(s, event_time=lambda _: x), BAD_TIMES | NONE),
        "checkpointed event_time gives, in a transaction": Call(
            "event_time", lambda s, x: loop(s, event_time=lambda _: x, transaction=True), BAD_TIMES | NONE
        ),
        "track event_time": Call("event_time", lambda s, x: track(s, 0, event_time=x), BAD_TIMES),
        "branch as_of": Call("as_of", lambda s, x: s.branch("run-7", "new", as_of=x), BAD_TIMES),
        "archive before": Call("before", lambda s, x: s.archive(f"{s.path}-a", before=x), BAD_TIMES | NONE),
        "latest as_of": Call("as_of", lambda s, x: s.latest(as_of=x), BAD_TIMES),
        "latest_for_stage as_of": Call("as_of", lambda s, x: s.latest_for_stage("load", as_of=x), BAD_TIMES),
        "resume_point_for_stage as_of": Call("as_of", lambda s, x: s.resume_point_for_stage("load", as_of=x), BAD_TIMES),
        "resume_points as_of": Call("as_of", lambda s, x: s.resume_points(as_of=x), BAD_TIMES),
        "history since": Call("since", lambda s, x: s.history(since=x), BAD_TIMES),
        "history until": Call("until", lambda s, x: s.history(until=x), BAD_TIMES),
        "receipts since": Call("since", lambda s, x: s.receipts(since=x), BAD_TIMES),
        "receipts until": Call("until", lambda s, x: s.receipts(until=x), BAD_TIMES),
        "frame since": Call("since", lambda s, x: s.frame(since=x), BAD_TIMES),
        "frame until": Call("until", lambda s, x: s.frame(until=x), BAD_TIMES),
        "plot.progress since": Call("since", lambda s, x: s.plot.progress(since=x), BAD_TIMES),
        "plot.durations until": Call("until", lambda s, x: s.plot.durations(until=x), BAD_TIMES),
    }
)


@TIMES.each_with_every_bad_value
def test_a_bad_time_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Where ms, a datetime or a text will do."""
    TIMES.check(used, name)


# Entries and watermarks

BAD_WATERMARKS: dict[str, Any] = {
    "None": None,
    "int": 500,
    "tuple": (500, 0),
    "subclass": Mark(500, 0),
    "one field": tuple.__new__(Watermark, (500,)),
    "three fields": tuple.__new__(Watermark, (500, 0, 0)),
    "checkpoint": entry(1),
    "1 MB": MEGABYTE,
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
    "1 MB": MEGABYTE,
    "generator": (each for each in [entry(NEXT)]),
    **HOSTILE,
}
BAD_CURSORS: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity, inside": {"at": [float("inf")]},
    "set": {1},
    "object": object(),
    "lone surrogate": "\ud800",
    "65,537 bytes": b"x" * 65_537,
    "65,537 bytes of JSON": "x" * 65_535,
    "1 MB": MEGABYTE,
    "circle": _circle(),
    "class": Checkpoint,
    **{name: value for name, value in HOSTILE.items() if name != "bool"},
}
STEP: dict[str, Any] = {"run_id": "run-7", "stage": "load", "watermark": Watermark(MAX, MAX), "idempotency_key": "new"}
BAD_STEPS: dict[str, Any] = {
    "None": None,
    "int": 7,
    "str of four": "four",
    "three values": ("run-7", "load", Watermark(MAX, MAX)),
    "seven values": ("run-7", "load", Watermark(MAX, MAX), "new", None, None, None),
    "a name too few": {name: value for name, value in STEP.items() if name != "watermark"},
    "a name too many": {**STEP, "at_ms": 1},
    "checkpoint": entry(NEXT),
    "1 MB": MEGABYTE,
    **HOSTILE,
}
BAD_ITERABLES: dict[str, Any] = {"None": None, "bool": True, "int": 7, "NaN": float("nan"), "class": Checkpoint, **HOSTILE}
BAD_SOURCES: dict[str, Any] = {name: value for name, value in BAD_ITERABLES.items() if not callable(value)}
"""A class may be a function of the start."""

ENTRIES = Calls(
    {
        "append entry": Call("entry", lambda s, x: s.append(x), BAD_ENTRIES),
        "append_many entry": Call("entry 1 of the batch: entry", lambda s, x: s.append_many([entry(NEXT), x]), BAD_ENTRIES),
        "append_many entries": Call("entries", lambda s, x: s.append_many(x), BAD_ITERABLES),
        "append watermark": Call("watermark", lambda s, x: s.append(_marked(x)), BAD_WATERMARKS),
        "append_many watermark": Call(
            "entry 1 of the batch: watermark", lambda s, x: _batch(s, watermark=x), BAD_WATERMARKS
        ),
        "advance watermark": Call("watermark", lambda s, x: advance(s, watermark=x), BAD_WATERMARKS),
        "advance after": Call("after", lambda s, x: advance(s, after=x), _but_none(BAD_WATERMARKS)),
        "advance cursor": Call("cursor", lambda s, x: advance(s, cursor=x), BAD_CURSORS),
        "advance_many steps": Call("steps", lambda s, x: s.advance_many(x), BAD_ITERABLES),
        "advance_many step": Call("steps[1]", lambda s, x: s.advance_many([STEP, x]), BAD_STEPS),
        "advance_many cursor": Call("steps[0].cursor", lambda s, x: s.advance_many([{**STEP, "cursor": x}]), BAD_CURSORS),
        "advance_many_async steps": Call("steps", lambda s, x: _run(s.advance_many_async(x)), BAD_ITERABLES),
        "append_async entry": Call("entry", lambda s, x: _run(s.append_async(x)), BAD_ENTRIES),
        "append_many_async entries": Call("entries", lambda s, x: _run(s.append_many_async(x)), BAD_ITERABLES),
        "checkpointed records": Call("records", lambda s, x: s.checkpointed(x, run_id="run-7", stage="load"), BAD_SOURCES),
        "checkpointed records give": Call("records", lambda s, x: resume(s, records=lambda _: x), BAD_ITERABLES),
        "checkpointed cursor gives": Call("cursor", lambda s, x: loop(s, cursor=lambda _: x), BAD_CURSORS),
        "checkpointed cursor gives, in a transaction": Call(
            "cursor", lambda s, x: loop(s, cursor=lambda _: x, transaction=True), BAD_CURSORS
        ),
        "once items": Call("items", lambda s, x: s.once(x, run_id="run-7", stage="load", key=str), BAD_SOURCES),
    }
)


@ENTRIES.each_with_every_bad_value
def test_what_is_no_checkpoint_or_watermark_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Also a tuple, a subclass, and one with a field too few or too many."""
    ENTRIES.check(used, name)


class _RaisesAsLength:
    def __iter__(self) -> Iterator[Checkpoint]:
        return self

    def __next__(self) -> Checkpoint:
        raise StopIteration

    def __length_hint__(self) -> int:
        raise HostileError


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
    with left_as_it_was(used), pytest.raises((InvalidArgumentError, InvalidCheckpointError), match=r"^entr"):
        used.append_many(entries)


# Switches

BAD_BOOLS: dict[str, Any] = {"None": None, "0": 0, "1": 1, "float": 1.0, "str": "True", "1 MB": MEGABYTE, **HOSTILE}

SWITCHES = Calls(
    {
        "run again": Call("again", lambda s, x: s.run("run-7", again=x), BAD_BOOLS),
        "history newest_first": Call("newest_first", lambda s, x: s.history(newest_first=x), BAD_BOOLS),
        "runs newest_first": Call("newest_first", lambda s, x: s.runs(newest_first=x), BAD_BOOLS),
        "receipts newest_first": Call("newest_first", lambda s, x: s.receipts(newest_first=x), BAD_BOOLS),
        "frame newest_first": Call("newest_first", lambda s, x: s.frame(newest_first=x), BAD_BOOLS),
        "plot.runs aligned": Call("aligned", lambda s, x: s.plot.runs(aligned=x), _but_none(BAD_BOOLS)),
        "checkpointed transaction": Call("transaction", lambda s, x: loop(s, transaction=x), BAD_BOOLS),
        "checkpointed accept_source": Call("accept_source", lambda s, x: loop(s, accept_source=x), BAD_BOOLS),
        "once transaction": Call("transaction", lambda s, x: once(s, transaction=x), BAD_BOOLS),
        "Receipt duplicate": Call("duplicate", lambda _, x: Receipt(1, DIGITS, x), BAD_BOOLS),
    }
)


@SWITCHES.each_with_every_bad_value
def test_a_bad_switch_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """1 is not True."""
    SWITCHES.check(used, name)


# Callables

BAD_CALLABLES: dict[str, Any] = {"bool": True, "int": 1767225600000, "str": "time", "1 MB": MEGABYTE, **HOSTILE}

CALLABLES = Calls(
    {
        "checkpointed event_time": Call("event_time", lambda s, x: loop(s, event_time=x), BAD_CALLABLES),
        "checkpointed cursor": Call("cursor", lambda s, x: loop(s, cursor=x), BAD_CALLABLES),
        "once key": Call("key", lambda s, x: once(s, key=x), BAD_CALLABLES | NONE),
        "map work": Call("work", lambda s, x: mapped(s, work=x), BAD_CALLABLES | NONE),
        "map executor": Call("executor", lambda s, x: mapped(s, executor=x), BAD_CALLABLES),
        "verify progress": Call("progress", lambda s, x: s.verify(progress=x), BAD_CALLABLES),
    }
)


@CALLABLES.each_with_every_bad_value
def test_what_cannot_be_called_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Before anything is done that it was wanted for."""
    CALLABLES.check(used, name)


# Words

BAD_ERRORS: dict[str, Any] = {
    "None": None,
    "bool": True,
    "bytes": b"raise",
    "str subclass": Text("raise"),
    "list": ["raise"],
    "empty": "",
    "upper case": "RAISE",
    "1 MB": MEGABYTE,
    **HOSTILE,
}

WORDS = Calls({"map errors": Call("errors", lambda s, x: mapped(s, errors=x), BAD_ERRORS)})


@WORDS.each_with_every_bad_value
def test_a_word_that_is_none_of_the_two_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """To the letter."""
    WORDS.check(used, name)


# SQL

BAD_STATEMENTS: dict[str, Any] = {
    "None": None,
    "int": 1,
    "bytes": b"SELECT 1",
    "empty": "",
    "no SQL": "hello",
    "two": "VALUES (1); VALUES (2)",
    "1 MB": MEGABYTE,
}
BAD_PARAMETERS: dict[str, Any] = {
    "None": None,
    "int": 1,
    "str": "1",
    "object": (object(),),
    "too few": (),
    "too many": (1, 2),
    "too large": (2**64,),
    "1 MB": MEGABYTE,
}

SQL = Calls(
    {
        "sql statement": Call("statement", lambda s, x: s.sql(x), BAD_STATEMENTS),
        "sql parameters": Call("parameters", lambda s, x: s.sql("SELECT ?", x), BAD_PARAMETERS),
    }
)


@SQL.each_with_every_bad_value
def test_a_bad_statement_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """Or a parameter of one."""
    SQL.check(used, name)


# Heads and signatures

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
    "1 MB": MEGABYTE,
    **HOSTILE,
}
BAD_HEADS: dict[str, Any] = {
    "bool": True,
    "int": 0,
    "str": f"0:{'0' * 64}",
    "tuple": (0, "0" * 64),
    "receipt": Receipt(1, DIGITS),
    "subclass": Kept(0, "0" * 64),
    "1 MB": MEGABYTE,
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
    "1 MB": MEGABYTE,
    "1 MB of digits": "1" * 1_000_000 + f":{DIGITS}",
    **HOSTILE,
}

HEADS = Calls(
    {
        "verify trusted": Call("trusted", lambda s, x: s.verify(trusted=x), BAD_HEADS),
        "verify expected": Call("expected", lambda s, x: s.verify(expected=x), BAD_HEADS),
        "Head signature": Call("signature", lambda _, x: Head(12, x), BAD_SIGNATURES),
        "Head signature of nothing": Call("signature", lambda _, x: Head(0, x), BAD_SIGNATURES | {"of something": DIGITS}),
        "Receipt signature": Call("signature", lambda _, x: Receipt(1, x), BAD_SIGNATURES),
        "BatchReceipt signature": Call("signature", lambda _, x: BatchReceipt(0, 0, 0, x), BAD_SIGNATURES),
        "Head.parse text": Call("text", lambda _, x: Head.parse(x), BAD_HEAD_TEXTS),
    }
)


@HEADS.each_with_every_bad_value
def test_a_bad_head_or_signature_is_named_and_changes_nothing(used: CheckpointStore, name: str) -> None:
    """As a value, and as text."""
    HEADS.check(used, name)


def test_trusted_goes_with_the_whole_chain_only(used: CheckpointStore) -> None:
    """A head of the file says nothing about where a run stood."""
    with pytest.raises(InvalidArgumentError, match="trusted is Head"):
        used.verify(run_id="run-7", trusted=used.head())


# Paths and opening

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
    "1 MB": MEGABYTE,
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
    "1 MB": MEGABYTE,
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
    "1 MB": MEGABYTE,
    **HOSTILE,
}


def _open_second(store: CheckpointStore, **arguments: Any) -> None:
    path = Path(store.path + "-2")
    try:
        CheckpointStore(path, **arguments).close()
    finally:
        path.unlink(missing_ok=True)  # where it should not have been made, it is in no other test's way


BAD_TARGETS: dict[str, Any] = {"None": None, "int": 5, "bytes": b"target", "object": object(), "list": ["target"]} | HOSTILE
BAD_SHIP_NAMES: dict[str, Any] = {
    "None": None,
    "bytes": b"orders",
    "empty": "",
    "a slash": "a/b",
    "the parent": "..",
    "hidden": ".orders",
    "NUL": "a\0b",
    "another alphabet": "ü",
    "201 letters": "x" * 201,
}

OPENING = Calls(
    {
        "open path": Call("path", lambda _, x: CheckpointStore(x).close(), BAD_PATHS),
        "open_readonly path": Call("path", lambda _, x: CheckpointStore.open_readonly(x).close(), BAD_PATHS),
        "backup path": Call("path", lambda s, x: s.backup(x), BAD_PATHS),
        "restore path": Call("path", lambda _, x: CheckpointStore.restore(x, MemoryTarget(), NAME).close(), BAD_PATHS),
        "restore target": Call("target", lambda s, x: CheckpointStore.restore(s.path + "-3", x, NAME), BAD_TARGETS),
        "restore name": Call("name", lambda s, x: CheckpointStore.restore(s.path + "-3", MemoryTarget(), x), BAD_SHIP_NAMES),
        "restore vfs": Call(
            "vfs", lambda s, x: CheckpointStore.restore(s.path + "-3", MemoryTarget(), NAME, vfs=x), BAD_VFS_NAMES
        ),
        "restore durability": Call(
            "durability",
            lambda s, x: CheckpointStore.restore(s.path + "-3", MemoryTarget(), NAME, durability=x),
            BAD_DURABILITIES,
        ),
        "ship target": Call("target", lambda s, x: milepost.ship(s, x, NAME), BAD_TARGETS),
        "ship store": Call("store", lambda _, x: milepost.ship(x, MemoryTarget(), NAME), {"None": None, "int": 5} | HOSTILE),
        "ship name": Call("name", lambda s, x: milepost.ship(s, MemoryTarget(), x), BAD_SHIP_NAMES),
        "ship every_s": Call("every_s", lambda s, x: milepost.ship(s, MemoryTarget(), NAME, every_s=x), BAD_SECONDS),
        "archive path": Call("path", lambda s, x: s.archive(x, before=0), BAD_PATHS),
        "open durability": Call("durability", lambda s, x: _open_second(s, durability=x), BAD_DURABILITIES),
        "open busy_timeout_ms": Call(
            "busy_timeout_ms", lambda s, x: _open_second(s, busy_timeout_ms=x), BAD_INTEGERS | NONE | {"2^31": 2**31}
        ),
        "open clock": Call("clock", lambda s, x: _open_second(s, clock=x), BAD_CALLABLES | NONE),
        "open vfs": Call("vfs", lambda s, x: _open_second(s, vfs=x), BAD_VFS_NAMES),
        "open_readonly vfs": Call("vfs", lambda s, x: CheckpointStore.open_readonly(s.path, vfs=x).close(), BAD_VFS_NAMES),
    }
)


@OPENING.each_with_every_bad_value
def test_a_bad_path_or_option_is_named_and_makes_no_file(used: CheckpointStore, name: str) -> None:
    """In the directory of the store, where nothing new may appear."""
    OPENING.check(used, name)


def test_a_path_of_millions_of_directories_is_refused_at_once(tmp_path: Path) -> None:
    """It is longer than any path can be, which takes no walk along it to see."""
    script = "import milepost; milepost.CheckpointStore('x/' * 5_000_000)"
    done = warm_programs().run("-c", script, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("milepost.errors.InvalidArgumentError: path is 'x/x/")
    assert len(last) < 400


# All of them

CALLS = (NAMES, INTEGERS, SECONDS, TIMES, ENTRIES, SWITCHES, CALLABLES, WORDS, SQL, HEADS, OPENING)


def test_the_tables_have_every_argument_of_every_method() -> None:
    """A method that is new must be added to them."""
    assert public() - without_arguments() | {"map", "track"} <= {call.split()[0] for calls in CALLS for call in calls}


LOOPS: dict[str, Callable[..., object]] = {
    "checkpointed": CheckpointStore.checkpointed,
    "once": CheckpointStore.once,
    "tracked": CheckpointStore.tracked,
    "map": Checkpointed.map,
    "track": Tracked.__call__,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_tables_have_every_argument_of_the_loops(loop: str) -> None:
    """They have many."""
    arguments = set(inspect.signature(LOOPS[loop]).parameters) - {"self"}
    assert arguments <= {call.split()[1] for calls in CALLS for call in calls if call.split()[0] == loop}


LONGEST = "x" * 1024


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.append(Checkpoint(LONGEST, LONGEST, MAX, Watermark(MAX, MAX), LONGEST, MAX)),
        lambda s: s.append_many([Checkpoint(LONGEST, LONGEST, MAX, Watermark(MAX, MAX), LONGEST, MAX)]),
        lambda s: s.advance(LONGEST, LONGEST, Watermark(MAX, MAX), idempotency_key=LONGEST),
        lambda s: list(s.checkpointed([1], run_id=LONGEST, stage=LONGEST, every=MAX, event_time=lambda _: MAX)),
        lambda s: list(s.checkpointed([1], run_id=LONGEST, stage="source", source=LONGEST, every_s=MAX)),
        lambda s: list(s.checkpointed([1], run_id=LONGEST, stage="cursor", cursor=lambda _: b"x" * 65_536)),
        lambda s: list(s.checkpointed([1], run_id=LONGEST, stage="map").map(str, workers=MAX, in_flight=MAX)),
        lambda s: list(s.once([1], run_id=LONGEST, stage="bag", key=lambda _: LONGEST, every=MAX, every_s=MAX)),
        lambda s: tracked(s, run_id=LONGEST, stage=LONGEST, every=MAX, every_s=MAX, in_flight=MAX),
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
        lambda s: s.latest("run-7") and s.verify(run_id="run-7", workers=1, expected=Head(MAX, DIGITS)),
        lambda s: s.runs(limit=MAX, newest_first=True),
        lambda s: s.verify(trusted=Head(MAX, DIGITS)),
    ],
)
def test_the_largest_good_arguments_are_taken(store: CheckpointStore, call: Callable[[CheckpointStore], object]) -> None:
    """A name of 1,024 bytes and the integer 2^63-1 are good everywhere, with entries there and without."""
    call(store)
    store.append(Checkpoint("run-7", "load", MAX, Watermark(MAX, MAX), "last", MAX))
    call(store)


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


@pytest.mark.parametrize("option", ["-OO", pytest.param("-O", marks=pytest.mark.long)])
def test_python_without_assertions_refuses_the_same_in_the_same_words(tmp_path: Path, option: str) -> None:
    """`python -O` drops assert statements, and no rule is one; `-OO` drops docstrings too."""

    def run(*options: str) -> list[str]:
        command = [sys.executable, *options, "-c", _SCRIPT, str(tmp_path / f"orders{len(options)}{options}")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    plain = run()
    assert plain == run(option)
    assert len(plain) == 19
    assert not [line for line in plain if "was taken" in line]
    assert "ok=True" in plain[-1]

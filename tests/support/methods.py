"""
Every method of a store, called with good arguments: add a new one here, and the tests of all methods have it.

READING asks the file, and its answers can be compared. SHOWING makes tables and pictures. WRITING records one entry.
A call is named after its method; behind a comma stands what it asks for.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from milepost import CheckpointStore, Watermark
from milepost.plot import Plot
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from milepost import Checkpoint

NEW: Final = "new run"
"""The run that WRITING records in: the store must not have it."""


def method(name: str) -> str:
    """The method that a call of this name calls."""
    return name.partition(",")[0]


def plain(calls: dict[str, Callable[[CheckpointStore], Any]]) -> dict[str, Callable[[CheckpointStore], Any]]:
    """One call of each method: the first."""
    first = {method(name): name for name in reversed(calls)}
    return {name: call for name, call in calls.items() if first[method(name)] == name}


def lookups(of: Checkpoint, other_run_id: str) -> dict[str, Callable[[CheckpointStore], Any]]:
    """Every method that finds what it answers by an index, with each of its filters, asked about a checkpoint."""
    run, stage, key = of.run_id, of.stage, of.idempotency_key
    return {
        "__len__": len,
        "head": lambda s: s.head(),
        "latest": lambda s: s.latest(),
        "latest, of a run": lambda s: s.latest(run),
        "latest, as of": lambda s: s.latest(run, as_of=500),
        "latest_for_stage": lambda s: s.latest_for_stage(stage),
        "latest_for_stage, of a run": lambda s: s.latest_for_stage(stage, run_id=run),
        "resume_point_for_stage": lambda s: s.resume_point_for_stage(stage),
        "resume_point_for_stage, of a run": lambda s: s.resume_point_for_stage(stage, run_id=run),
        "resume_points": lambda s: s.resume_points(),
        "resume_points, of a run": lambda s: s.resume_points(run),
        "resume_points, as of": lambda s: s.resume_points(as_of=500),
        "resume_points, of a run as of": lambda s: s.resume_points(run, as_of=500),
        "cursor": lambda s: s.cursor(stage),
        "cursor, of a run": lambda s: s.cursor(stage, run_id=run),
        "get": lambda s: s.get(run, stage, of.sequence),
        "find": lambda s: list(s.find(key)),
        "find, in a run": lambda s: list(s.find(key, run_id=run)),
        "find, in a stage": lambda s: list(s.find(key, stage=stage)),
        "find, in a stage of a run": lambda s: list(s.find(key, stage=stage, run_id=run)),
        "history": lambda s: list(s.history()),
        "history, a few": lambda s: list(s.history(limit=5)),
        "history, a few backwards": lambda s: list(s.history(newest_first=True, limit=5)),
        "history, of a run": lambda s: list(s.history(run, after=7, since=3)),
        "history, of a run backwards": lambda s: list(s.history(run, newest_first=True)),
        "history, of a stage": lambda s: list(s.history(stage=stage, after=7)),
        "history, of a stage backwards": lambda s: list(s.history(stage=stage, newest_first=True)),
        "history, of a stage of a run": lambda s: list(s.history(run, stage, after=7)),
        "history, of a stage of a run backwards": lambda s: list(s.history(run, stage, newest_first=True)),
        "receipts": lambda s: list(s.receipts()),
        "chain_signature": lambda s: s.chain_signature(),
        "chain_signature, of a run": lambda s: s.chain_signature(run),
        "compare": lambda s: s.compare(run, other_run_id),
    }


READING: Final[dict[str, Callable[[CheckpointStore], Any]]] = {
    **lookups(entry(2), "run-7"),
    "runs": lambda s: s.runs(),
    "stages": lambda s: s.stages(),
    "verify": lambda s: s.verify(),
    "verify, of a run": lambda s: s.verify(run_id="run-7"),
    "summary": lambda s: str(s.summary()),
    "_repr_html_": lambda s: s._repr_html_(),
}

SHOWING: Final[dict[str, Callable[[CheckpointStore], Any]]] = {
    "frame": lambda s: s.frame().to_polars(),
    "sql": lambda s: s.sql("SELECT 1"),
    "plot.progress": lambda s: s.plot.progress(),
    "plot.runs": lambda s: s.plot.runs(),
    "plot.durations": lambda s: s.plot.durations(),
    "plot.lag": lambda s: s.plot.lag(),
    "plot.compare": lambda s: s.plot.compare("run-7", "run-8"),
}


def _block(store: CheckpointStore) -> None:
    with store.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sink (record INTEGER)")
        store.append(entry(1, run_id=NEW))


def _loop(store: CheckpointStore, **arguments: Any) -> None:
    for _ in store.checkpointed([1], run_id=NEW, **arguments):
        pass


def _once(store: CheckpointStore, **arguments: Any) -> None:
    for _ in store.once(["a"], run_id=NEW, key=str, **arguments):
        pass


def _tracked(store: CheckpointStore) -> None:
    with store.tracked(run_id=NEW, stage="tracked") as track:
        track(0)()


WRITING: Final[dict[str, Callable[[CheckpointStore], Any]]] = {
    "append": lambda s: s.append(entry(1, run_id=NEW)),
    "append_many": lambda s: s.append_many([entry(1, run_id=NEW)]),
    "advance": lambda s: s.advance(NEW, "advance", Watermark(1, 0), idempotency_key="1"),
    "advance_many": lambda s: s.advance_many([(NEW, "advance_many", Watermark(1, 0), "1")]),
    "transaction": _block,
    "checkpointed": lambda s: _loop(s, stage="loop"),
    "checkpointed, in transactions": lambda s: _loop(s, stage="transactional loop", transaction=True),
    "once": lambda s: _once(s, stage="bag"),
    "once, in transactions": lambda s: _once(s, stage="transactional bag", transaction=True),
    "tracked": _tracked,
}

ASYNC: Final[dict[str, Callable[[CheckpointStore], Awaitable[Any]]]] = {
    "append_async": lambda s: s.append_async(entry(1, run_id=NEW)),
    "append_many_async": lambda s: s.append_many_async([entry(1, run_id=NEW)]),
    "advance_async": lambda s: s.advance_async(NEW, "advance", Watermark(1, 0), idempotency_key="1"),
    "advance_many_async": lambda s: s.advance_many_async([(NEW, "advance_many", Watermark(1, 0), "1")]),
}
"""What records one entry, for a task."""

ABOUT: Final = (
    "path", "durability", "plot", "open_readonly", "restore", "backup", "close", "run", "branch", "archive", "base"
)  # fmt: skip
"""What is about the store itself, another file, or several entries, and is in none of these lists."""


def public() -> set[str]:
    """The methods and properties of a store that anybody may use, and the methods of `store.plot`."""
    return {name for name, _ in _public()}


def without_arguments() -> set[str]:
    """Those of them that take nothing."""
    return {name for name, it in _public() if not callable(it) or len(inspect.signature(it).parameters) == 1}


def _public() -> Iterator[tuple[str, Any]]:
    for kind, prefix in ((CheckpointStore, ""), (Plot, "plot.")):
        for name, it in vars(kind).items():
            if not name.startswith("_"):
                yield f"{prefix}{name}", getattr(kind, name) if isinstance(it, classmethod) else it

"""
What milepost itself records with an entry: one JSON object, whose names are here.

| name | value |
|---|---|
| `cursor` | the SHA-256 of the entry's cursor, 64 hex digits |
| `cursor_type` | `"json"` or `"bytes"` |
| `run` | in the stage `milepost:run`: `"began"`, `"finished"` or `"failed"` |
| `error` | the type of the exception that ended a run |
| `branch_of` | the run that the entry was branched from |
| `source` | text that says which source a loop's records come from |
| `branch_position` | the position of the entry that it repeats |
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from milepost.cursors import digest
from milepost.signature import MAX_DETAIL_BYTES

if TYPE_CHECKING:
    from milepost.cursors import Stored

RESERVED: Final = "milepost:"
"""How the names of stages begin that milepost alone writes."""

RESERVED_RULE: Final = f"must not begin with {RESERVED!r}, as those stages do that milepost alone writes"

STAGE_OF_RUNS: Final = "milepost:run"
"""The stage in which a run's attempts are recorded."""

RUN_OF_MILEPOST: Final = "milepost"
"""The run of entries that belong to no run, as of an archive."""

BEGAN: Final = "began"
FINISHED: Final = "finished"
FAILED: Final = "failed"


_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def detail(*, cursor: Stored | None = None, **values: str | int) -> str | None:
    """The detail of an entry, JSON text; None where there is nothing to say."""
    if cursor is not None:
        values |= {"cursor": digest(cursor), "cursor_type": "json" if isinstance(cursor, str) else "bytes"}
    return _to_json(values) if values else None


def of_branch(run_id: str, position: int, cursor: Stored | None, source: str | None = None) -> str | None:
    """The detail of an entry that repeats one of another run; without that run's name where it is too long."""
    values = {} if source is None else {"source": source}
    found = detail(cursor=cursor, branch_position=position, branch_of=run_id, **values)
    if found is not None and len(found.encode()) > MAX_DETAIL_BYTES:
        return detail(cursor=cursor, branch_position=position, **values)
    return found


def parse(text: str | None) -> dict[str, Any]:
    """What a detail says; nothing where it is none of milepost's."""
    try:
        values = json.loads(text) if text else {}
    except (ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def of_attempt(text: str | None) -> tuple[str, str | None]:
    """Whether an attempt of a run began, finished or failed, and with which error; what says nothing else has begun."""
    values = parse(text)
    state, error = values.get("run"), values.get("error")
    if state == FAILED:
        return FAILED, error if isinstance(error, str) else None
    return (FINISHED if state == FINISHED else BEGAN), None


def of_cursor(text: str | None) -> dict[str, Any]:
    """The SHA-256 and the type of the cursor that a detail is about; nothing where it is about none."""
    return {name: value for name, value in parse(text).items() if name in {"cursor", "cursor_type"}}


def of_source(text: str | None) -> str | None:
    """Return which source the records of an entry came from; None where the detail does not say."""
    source = parse(text).get("source")
    return source if isinstance(source, str) else None

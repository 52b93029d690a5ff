"""
The JSON object that milepost itself records with an entry, and the names in it.

| name | value |
|---|---|
| `cursor` | the SHA-256 of the entry's cursor, 64 hex digits |
| `cursor_type` | `"json"` or `"bytes"` |
| `run` | in the stage `milepost:run`: `"began"`, `"finished"` or `"failed"` |
| `error` | the type of the exception that ended a run |
| `branch_of` | the run that the entry was branched from |
| `source` | text that says which source a loop's records come from |
| `branch_position` | the position of the entry that it repeats |
| `bag` | `true` in the first entry that `once` records of a stage, and in the entry that branches from such a stage |
| `archive_position` | in the stage `milepost:archive`: the last entry that was archived |
| `archive_signature` | the signature of the chain there, 64 hex digits |
| `kept` | how many of the entries up to there stay in the file |
| `kept_digest` | their digest, 64 hex digits |
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost.cursors import digest
from milepost.signature import MAX_DETAIL_BYTES

if TYPE_CHECKING:
    from milepost.cursors import Stored
    from milepost.signature import ChainBase

RESERVED: Final = "milepost:"
"""The beginning of the names of milepost's own stages."""

RESERVED_RULE: Final = f"must not begin with {RESERVED!r}, which is reserved for milepost's own stages"

STAGE_OF_RUNS: Final = "milepost:run"
"""The stage in which a run's attempts are recorded."""

RUN_OF_MILEPOST: Final = "milepost"
"""The run of entries that belong to no run, such as those of an archive."""

STAGE_OF_ARCHIVES: Final = "milepost:archive"
"""The stage in which archives are recorded."""

BAG: Final = '{"bag":true}'
"""The detail of the first entry of a bag that is no branch. An archive keeps all of a bag whose run has not finished."""

BEGAN: Final = "began"
FINISHED: Final = "finished"
FAILED: Final = "failed"


_LONGEST_NAME: Final = 200  # characters of an exception's type

_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def detail(*, cursor: Stored | None = None, **values: str | int) -> str | None:
    """Return the detail of an entry as JSON text, or None if there is nothing to record."""
    text = _to_json(values) if values else None
    if cursor is None:
        return text
    # Without the encoder, as neither text needs an escape: it would take as long as everything else about the cursor.
    signed = f'"cursor":"{digest(cursor)}","cursor_type":"{"json" if isinstance(cursor, str) else "bytes"}"'
    return f"{{{signed}}}" if text is None else f"{text[:-1]},{signed}}}"


def of_branch(run_id: str, position: int, cursor: Stored | None, source: str | None, *, bag: bool) -> str | None:
    """Return the detail of an entry that repeats another run's entry. Leave out that run's name if it is too long."""
    values: dict[str, str | int] = {} if source is None else {"source": source}
    if bag:
        values["bag"] = True
    found = detail(cursor=cursor, branch_position=position, branch_of=run_id, **values)
    return found if fits(found) else detail(cursor=cursor, branch_position=position, **values)


def fits(text: str | None) -> bool:
    """Return whether an entry may have a detail of this length."""
    return text is None or len(text.encode()) <= MAX_DETAIL_BYTES


def parse(text: str | None) -> dict[str, Any]:
    """Return the values in a detail. A text that is no JSON object has none."""
    try:
        values = json.loads(text) if text else {}
    except (ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def name_of_error(kind: type[BaseException]) -> str:
    """Return the name of an exception's type, as UTF-8 has it: a class may call itself anything."""
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return name.encode(errors="backslashreplace").decode()[:_LONGEST_NAME]


def of_attempt(text: str | None) -> tuple[str, str | None]:
    """Return whether an attempt of a run began, finished or failed, and its error. An unknown state counts as began."""
    values = parse(text)
    state, error = values.get("run"), values.get("error")
    if state == FAILED:
        return FAILED, error if isinstance(error, str) else None
    return (FINISHED if state == FINISHED else BEGAN), None


def of_archive(cut: ChainBase, kept: int, digest: bytes) -> str | None:
    """Return the detail of an entry that records an archive up to a cut."""
    return detail(archive_position=cut.position, archive_signature=cut.signature.hex(), kept=kept, kept_digest=digest.hex())


class Archived(NamedTuple):
    """What an entry that records an archive says, whatever it holds."""

    position: object
    signature: object
    kept: object
    digest: object


def of_archived(text: str | None) -> Archived:
    """Return what the detail of an archive's entry says."""
    values = parse(text)
    return Archived(*(values.get(name) for name in ("archive_position", "archive_signature", "kept", "kept_digest")))


def is_archive_of(text: str | None, signature: object) -> bool:
    """Return whether the detail of an archive's entry is about a chain that has this signature at its cut."""
    return isinstance(signature, bytes) and of_archived(text).signature == signature.hex()


def of_cursor(text: str | None) -> dict[str, Any]:
    """Return the SHA-256 and the type of the cursor in a detail, or nothing if it has no cursor."""
    return {name: value for name, value in parse(text).items() if name in {"cursor", "cursor_type"}}


def signs(text: str | None, cursor: Stored | None) -> bool:
    """Return whether a detail is that of an entry with this cursor; None for an entry without one."""
    return of_cursor(text) == of_cursor(detail(cursor=cursor))


def of_source(text: str | None) -> str | None:
    """Return which source the records of an entry came from; None where the detail does not say."""
    source = parse(text).get("source")
    return source if isinstance(source, str) else None

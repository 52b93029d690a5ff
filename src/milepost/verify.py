"""Read a chain from its file page by page, and hand it to an audit, for `CheckpointStore.verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import details, integrity, rows, workers
from milepost.audit import Audit
from milepost.errors import DamagedStoreError, NoCheckpointError, WrongKeyError, shown
from milepost.signature import START, ChainBase
from milepost.verification import Fault, Verification

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.database import Database
    from milepost.integrity import Integrity
    from milepost.receipt import Head

    Progress = Callable[[int, int], object] | None


def verify_chain(
    database: Database, trusted: Head | None, expected: Head | None, processes: int, progress: Progress
) -> Verification:
    """Verify the chain of the file, or the part after `trusted`. Up to `processes` workers may share the work."""
    faults: list[Fault] = []
    audit = Audit({}, {}, set(), database.hash)
    read = database.read
    total = 0
    try:
        kept = read(rows.snapshot)
        total = kept.entries
        start = ChainBase(trusted.entries, bytes.fromhex(trusted.signature)) if trusted else kept.base
        audit = Audit({}, {}, set(), database.hash, start)
        invalid = read(rows.invalid_positions)
        faults += [Fault("unreadable", position, "no row", "a row that no append put there") for position in invalid]
        if kept.base != START:  # milepost writes no base yet, so somebody else has hidden the beginning of the chain
            faults.append(Fault("missing", 1, f"rows at positions 1 to {kept.base.position}", "none"))
        for head in (trusted, expected):
            if head is not None:
                # Rows added since the snapshot are not verified, so they confirm nothing.
                stored = read(rows.signature_at, head.entries) if head.entries <= total else None
                faults += _contains(head, stored, total)
        faults += _wrong_cursors(read(rows.kept_cursors, None))
        empty = read(rows.empty_run_stages)
        if processes > 1 and not faults and not empty:
            found = workers.confirm(database, kept, start, processes, progress)
            if found is not None:
                return _verification([], total, kept.signature, found)
        progress_at_start = workers.progress_at(database, start.position) if start != START else None
        audit = Audit(kept.run_names, kept.stage_names, kept.run_stages, database.hash, start, progress_at_start)
        while audit.position < total and (page := read(rows.rows_after, audit.position, total)):
            audit.check_rows(page)
            if progress is not None:
                progress(audit.position, total)
        audit.report_end(total)
        audit.report_empty(empty)
        if not faults and not audit.faults and audit.signature != kept.signature:
            faults.append(Fault("head", total, "the chain as it was when this began", audit.signature.hex()))
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(Fault("file", audit.position + 1, "a row that can be read", error.problem))
    return _verification([*audit.faults, *faults], total, audit.signature, integrity.check(database))


def verify_run(database: Database, run_id: str, expected: Head | None, progress: Progress) -> Verification:
    """Verify the entries of one run, each against the row before it in the chain and the row before it in the run."""
    faults: list[Fault] = []
    audit = Audit({}, {}, set(), database.hash)
    read = database.read
    try:
        if not read(rows.has_run, run_id):
            raise NoCheckpointError(run_id, None)
        kept, total = read(rows.snapshot_of_run, run_id)
        mark = expected.entries if expected else None
        audit = Audit(kept.run_names, kept.stage_names, kept.run_stages, database.hash, kept.base, mark=mark)
        while page := read(rows.run_rows_after, run_id, audit.position, kept.entries):
            audit.check_run_rows(page)
            if progress is not None:
                progress(audit.entries, total)
        faults += _wrong_cursors(read(rows.kept_cursors, run_id))
        if expected is not None:
            faults += _contains(expected, audit.marked, audit.entries)
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(Fault("file", audit.position + 1, "a row that can be read", error.problem))
    return _verification([*audit.faults, *faults], audit.entries, audit.run_signature, integrity.check(database))


def _cannot_judge(error: WrongKeyError) -> Fault:
    return Fault("key", None, "the key of the chain, to judge its links", error.problem)


def _wrong_cursors(kept: list[rows.KeptCursor]) -> list[Fault]:
    """Return a fault for each cursor that does not match its entry's detail. The walk verifies the details."""
    faults: list[Fault] = []
    for cursor in kept:
        said = details.parse(cursor.detail)
        expected = f"{_plain(said['cursor'])} ({_plain(said.get('cursor_type'))})" if "cursor" in said else "none"
        if cursor.found != expected:
            faults.append(Fault("cursor", cursor.position, expected, cursor.found))
    return faults


def _plain(value: object) -> str:
    """Return a plain word, such as a SHA-256, as it is. Make anything else fit for a message, as a file may say anything."""
    return value if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= 64 else shown(value)


def _contains(head: Head, signature: object, entries: int) -> list[Fault]:
    if isinstance(signature, bytes) and signature.hex() == head.signature:
        return []
    found = signature.hex() if isinstance(signature, bytes) else f"a chain of {entries} entries"
    return [Fault("head", head.entries, head.signature, found)]


def _verification(faults: list[Fault], entries: int, signature: bytes, found: Integrity) -> Verification:
    faults += [Fault("file", None, "a sound file", problem) for problem in found.problems]
    return Verification(not faults, entries, signature.hex(), tuple(faults), tuple(found.unchecked))

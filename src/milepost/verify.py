"""Read a chain from its file page by page, and hand it to an audit, for `CheckpointStore.verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import details, integrity, rows, workers
from milepost.audit import Audit
from milepost.errors import DamagedStoreError, NoCheckpointError, WrongKeyError, shown
from milepost.explanation import explain
from milepost.readable import count
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
    kept: rows.Snapshot | None = None
    total = 0
    try:
        kept = read(rows.snapshot)
        total = kept.entries
        start = ChainBase(trusted.entries, bytes.fromhex(trusted.signature)) if trusted else kept.base
        audit = Audit({}, {}, set(), database.hash, start)
        invalid = read(rows.invalid_positions)
        faults += [_misplaced(position) for position in invalid]
        if kept.base != START:  # milepost writes no base yet, so somebody else hid the beginning
            said = f"the rows up to position {kept.base.position:,} are missing: the file hides the beginning of the chain"
            hidden = f"rows at positions 1 to {kept.base.position}"
            faults.append(Fault("missing", 1, hidden, "none", explanation=said))
        for head in (trusted, expected):
            if head is not None:
                # Rows added since the snapshot are not verified, so they confirm nothing.
                stored = read(rows.signature_at, head.entries) if head.entries <= total else None
                faults += _contains(head, stored, total, None)
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
            said = "another file was put in the place of this one while it was read"
            began = "the chain as it was when this began"
            faults.append(Fault("head", total, began, audit.signature.hex(), explanation=said))
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(_unreadable_file(audit.position + 1, error))
    found_faults = _explained([*audit.faults, *faults], audit, database, kept)
    return _verification(found_faults, total, audit.signature, integrity.check(database))


def verify_run(database: Database, run_id: str, expected: Head | None, progress: Progress) -> Verification:
    """Verify the entries of one run, each against the row before it in the chain and the row before it in the run."""
    faults: list[Fault] = []
    audit = Audit({}, {}, set(), database.hash)
    read = database.read
    kept: rows.Snapshot | None = None
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
            faults += _contains(expected, audit.marked, audit.entries, run_id)
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(_unreadable_file(audit.position + 1, error))
    found_faults = _explained([*audit.faults, *faults], audit, database, kept)
    return _verification(found_faults, audit.entries, audit.run_signature, integrity.check(database))


def _explained(faults: list[Fault], audit: Audit, database: Database, kept: rows.Snapshot | None) -> list[Fault]:
    return faults if kept is None else explain(faults, audit, database, kept)


def _misplaced(position: int) -> Fault:
    said = "a row stands where no append puts one"
    return Fault("unreadable", position, "no row", "a row that no append put there", explanation=said)


def _unreadable_file(position: int, error: DamagedStoreError) -> Fault:
    said = f"SQLite cannot read the file from here on: {error.problem}"
    return Fault("file", position, "a row that can be read", error.problem, explanation=said)


def _cannot_judge(error: WrongKeyError) -> Fault:
    return Fault("key", None, "the key of the chain, to judge its links", error.problem, explanation=error.problem)


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


def _contains(head: Head, signature: object, entries: int, run_id: str | None) -> list[Fault]:
    if isinstance(signature, bytes) and signature.hex() == head.signature:
        return []
    whose = "the chain" if run_id is None else f"the chain of run {shown(run_id)} itself"
    if isinstance(signature, bytes):
        found = signature.hex()
        said = (
            f"{whose} has the signature {found[:12]}… here, and the expected head {head.signature[:12]}…: "
            "it was written anew up to here, or the head is that of another chain"
        )
    else:
        found = f"a chain of {entries} entries"
        said = (
            f"{whose} has {count(entries, 'entry')}, and the expected head is that of {count(head.entries, 'entry')}: "
            "its end was cut off, or an older copy was put back"
        )
    return [Fault("head", head.entries, head.signature, found, run_id, explanation=said)]


def _verification(faults: list[Fault], entries: int, signature: bytes, found: Integrity) -> Verification:
    faults += [
        Fault("file", None, "a sound file", problem, explanation=f"SQLite finds the file damaged: {problem}")
        for problem in found.problems
    ]
    return Verification(not faults, entries, signature.hex(), tuple(faults), tuple(found.unchecked))

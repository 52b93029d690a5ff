"""Read a chain from its file page by page, and hand it to an audit, for `CheckpointStore.verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import details, integrity, rows, workers
from milepost.audit import Audit
from milepost.errors import DamagedStoreError, NoCheckpointError, WrongKeyError, shown
from milepost.explanation import explain
from milepost.kept import digest_of_kept
from milepost.readable import count
from milepost.signature import START, ChainBase
from milepost.verification import Fault, Verification

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from milepost.database import Database
    from milepost.integrity import Integrity
    from milepost.receipt import Head
    from milepost.signature import Hash

    Progress = Callable[[int, int], object] | None


def verify_chain(
    database: Database, trusted: Head | None, expected: Head | None, processes: int, progress: Progress
) -> Verification:
    """Verify the chain of the file from its base on, or the part after `trusted`. Up to `processes` workers may share it."""
    return at_rest(database, lambda: _verify_chain(database, trusted, expected, processes, progress))


def at_rest(database: Database, verified: Callable[[], Verification]) -> Verification:
    """Verify, and begin again if an archive has moved entries away meanwhile."""
    while True:
        before = _base(database)
        found = verified()
        if found.ok or before is None or _base(database) == before:
            return found


def _base(database: Database) -> ChainBase | None:
    try:
        return database.read(rows.chain_base)
    except DamagedStoreError:
        return None


def _verify_chain(
    database: Database, trusted: Head | None, expected: Head | None, processes: int, progress: Progress
) -> Verification:
    faults: list[Fault] = []
    audit = Audit({}, {}, set(), database.hash)
    read = database.read
    kept: rows.Snapshot | None = None
    total = elsewhere = 0
    try:
        kept = read(rows.snapshot)
        total, elsewhere = kept.entries, kept.base.position
        start = kept.base
        if trusted is not None and trusted.entries > start.position:
            start = ChainBase(trusted.entries, bytes.fromhex(trusted.signature))
        audit = Audit({}, {}, set(), database.hash, start)
        invalid = read(rows.invalid_positions)
        faults += [_misplaced(position) for position in invalid]
        faults += _empty_runs(database, kept, None)
        faults += _superfluous_bases(database)
        faults += _wrong_base(database, kept)
        for head in (trusted, expected):
            if head is not None:
                faults += _missing_head(database, kept, head)
        faults += _wrong_cursors(database, None)
        empty = read(rows.empty_run_stages, None)
        if processes > 1 and not faults and not empty:
            found = workers.confirm(database, kept, start, processes, progress)
            if found is not None:
                return _verification([], total, kept.signature, found, elsewhere)
        progress_at_start = workers.progress_at(database, start.position) if start != START else None
        names = kept.run_names, kept.stage_names, kept.run_stages
        audit = Audit(*names, database.hash, start, progress_at_start, base=kept.base.position)
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
    return _verification(found_faults, total, audit.signature, integrity.check(database), elsewhere)


def verify_run(database: Database, run_id: str, expected: Head | None, progress: Progress) -> Verification:
    """Verify the entries of one run, each against the row before it in the chain and the row before it in the run."""
    return at_rest(database, lambda: _verify_run(database, run_id, expected, progress))


def _verify_run(database: Database, run_id: str, expected: Head | None, progress: Progress) -> Verification:
    faults: list[Fault] = []
    audit = Audit({}, {}, set(), database.hash)
    read = database.read
    kept: rows.Snapshot | None = None
    archived = 0
    try:
        if not read(rows.has_run, run_id):
            raise NoCheckpointError(run_id, None)
        kept, total = read(rows.snapshot_of_run, run_id)
        mark = expected.entries if expected else None
        start, progress_at_start, signature = kept.base, None, None
        if start != START:
            faults += _wrong_base(database, kept)
            signature, archived = read(rows.run_at, run_id, start.position)
            progress_at_start = workers.progress_at(database, start.position)
        mark = None if mark is None else mark - archived
        names = kept.run_names, kept.stage_names, kept.run_stages
        audit = Audit(*names, database.hash, start, progress_at_start, mark, start.position)
        if signature is not None:
            audit.begin_run(signature)
        while page := read(rows.run_rows_after, run_id, audit.position, kept.entries):
            audit.check_run_rows(page)
            if progress is not None:
                progress(archived + audit.entries, total)
        audit.report_empty(read(rows.empty_run_stages, run_id))
        faults += _empty_runs(database, kept, run_id)
        faults += _wrong_cursors(database, run_id)
        if expected is not None:
            faults += contains(expected, audit.marked, archived + audit.entries, run_id, archived)
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(_unreadable_file(audit.position + 1, error))
    found_faults = _explained([*audit.faults, *faults], audit, database, kept)
    entries = archived + audit.entries
    return _verification(found_faults, entries, audit.run_signature, integrity.check(database), archived)


# The base, and what stayed of the entries before it


def faults_of_base(database: Database) -> list[Fault]:
    """
    Return the faults of the base and of what stayed before it, and look at nothing else.

    In an archive too, what stayed must be as an entry of this file says: `verify_chain` leaves that to the other archives.
    """
    while True:
        kept = database.read(rows.snapshot)
        faults = _wrong_base(database, kept, alone=True)
        if not faults or _base(database) == kept.base:  # else an archive has moved entries away meanwhile
            return faults


def _wrong_base(database: Database, kept: rows.Snapshot, *, alone: bool = False) -> list[Fault]:
    """Return the faults of the base and of what stayed before it: both must be as the entry of an archive says."""
    base, last = kept.base, kept.archive
    if base == START and last is None:
        return []
    if last is None or last.cut < base.position:
        # An archive may have been cut before the entry that records the one before it. That entry is then in a later file.
        return [] if database.sealed and not alone else [_hidden(base)]
    said = details.of_archived(last.detail)
    if said.position != last.cut:
        return [_wrong_archive(last.position, f"an archive up to {last.cut}", f"one up to {shown(said.position)}")]
    found = database.read(rows.signature_at, last.cut)
    faults = []
    if not isinstance(found, bytes) or found.hex() != said.signature:
        faults.append(_wrong_archive(last.cut, plain(said.signature), _shown_signature(found)))
    number, digest = database.read_on_own_connection(what_stays, base, last, database.hash)
    if number != said.kept or digest.hex() != said.digest:
        expected = f"{shown(said.kept)} entries with the digest {plain(said.digest)}"
        faults.append(
            Fault(
                "archive",
                None,
                expected,
                f"{number} entries with the digest {digest.hex()}",
                explanation="what stayed here of the archived entries was changed: verify with the archives to see where",
            )
        )
    return faults


def what_stays(
    connection: apsw.Connection, base: ChainBase, last: rows.ArchiveRow, hash_function: Hash
) -> tuple[int, bytes]:
    """Return how many entries stay of an archive, and their digest, also while its entries are being moved."""
    if base.position >= last.cut:
        stays = rows.kept_before(connection, base.position)
    else:
        stays = rows.kept_through(connection, last.cut, rows.whole_bags(connection, last.cut, last.position))
    return digest_of_kept(stays, hash_function)


def _wrong_archive(position: int, expected: str, found: str) -> Fault:
    said = "the base of the chain is not where the entry of the archive says: the file hides the beginning of the chain"
    return Fault("archive", position, expected, found, explanation=said)


def _hidden(base: ChainBase) -> Fault:
    said = f"the rows up to position {base.position:,} are missing: the file hides the beginning of the chain"
    return Fault("missing", 1, f"rows at positions 1 to {base.position}", "none", explanation=said)


def _shown_signature(found: object) -> str:
    return found.hex() if isinstance(found, bytes) else "none"


def _missing_head(database: Database, kept: rows.Snapshot, head: Head) -> list[Fault]:
    # Rows added since the snapshot are not verified, so they confirm nothing.
    stored = database.read(rows.signature_at, head.entries) if head.entries <= kept.entries else None
    return contains(head, stored, kept.entries, None, kept.base.position)


def _empty_runs(database: Database, kept: rows.Snapshot, run_id: str | None) -> list[Fault]:
    faults = []
    for number in database.read(rows.empty_runs, run_id):
        name = kept.run_names.get(number, "")
        said = f"lookups expect an entry of run {shown(name)}, and there is none"
        faults.append(Fault("lookup", None, f"an entry of run {shown(name)}", "none", name, explanation=said))
    return faults


def _superfluous_bases(database: Database) -> list[Fault]:
    said = "a base of the chain stands here beside the one that an archive has left"
    return [
        Fault("unreadable", position, "no base", "a base", explanation=said)
        for position in database.read(rows.superfluous_bases)
    ]


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


def _wrong_cursors(database: Database, run_id: str | None) -> list[Fault]:
    """Return a fault for each cursor that does not match its entry's detail. The walk verifies the details."""
    faults: list[Fault] = []
    sealed = database.sealed  # a stage may have gone on, and dropped the cursors of the entries in the archive
    for cursor in database.read(rows.kept_cursors, run_id):
        if sealed and cursor.found == "none":
            continue
        said = details.parse(cursor.detail)
        expected = f"{plain(said['cursor'])} ({plain(said.get('cursor_type'))})" if "cursor" in said else "none"
        if cursor.found != expected:
            faults.append(Fault("cursor", cursor.position, expected, cursor.found))
    return faults


def plain(value: object) -> str:
    """Return a plain word, such as a SHA-256, as it is. Make anything else fit for a message, as a file may say anything."""
    return value if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= 64 else shown(value)


def contains(head: Head, signature: object, entries: int, run_id: str | None, archived: int = 0) -> list[Fault]:
    """
    Return a fault if a chain does not contain a head.

    Args:
        head: The head.
        signature: The chain's signature at that entry (32 bytes), or anything else if it has none there.
        entries: How many entries the chain has.
        run_id: The run whose own chain it is, or None.
        archived: How many of its first entries are not here.
    """
    if head.entries == 0 or (isinstance(signature, bytes) and signature.hex() == head.signature):
        return []  # every chain begins with the empty one, also where its first entries are in archives
    whose = "the chain" if run_id is None else f"the chain of run {shown(run_id)} itself"
    if isinstance(signature, bytes):
        found = signature.hex()
        said = (
            f"{whose} has the signature {found[:12]}… here, and the expected head {head.signature[:12]}…: "
            "it was written anew up to here, or the head is that of another chain"
        )
    elif head.entries < archived:
        found = f"a chain whose first {archived} entries are in archives"
        said = f"{whose} has its first {count(archived, 'entry')} in archives: give them, since the expected head is there"
    else:
        found = f"a chain of {entries} entries"
        said = (
            f"{whose} has {count(entries, 'entry')}, and the expected head is that of {count(head.entries, 'entry')}: "
            "its end was cut off, or an older copy was put back"
        )
    return [Fault("head", head.entries, head.signature, found, run_id, explanation=said)]


def _verification(faults: list[Fault], entries: int, signature: bytes, found: Integrity, elsewhere: int = 0) -> Verification:
    faults += [
        Fault("file", None, "a sound file", problem, explanation=f"SQLite finds the file damaged: {problem}")
        for problem in found.problems
    ]
    return Verification(not faults, entries, signature.hex(), tuple(faults), tuple(found.unchecked), elsewhere)

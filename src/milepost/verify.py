"""Read a chain from its file, page by page, and hand it to an audit: what `CheckpointStore.verify` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from milepost import rows
from milepost.audit import Audit, Fault, Verification
from milepost.errors import DamagedStoreError, WrongKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.receipt import Head
    from milepost.signature import Hash

T = TypeVar("T")


class Read(Protocol):
    """Run one query of rows.py on the store's connection."""

    def __call__(self, query: Callable[..., T], /, *args: object) -> T: ...  # noqa: D102 - the protocol says it


def verify_chain(
    read: Read, hashed: Hash, since: Head | None, expected: Head | None, progress: Callable[[int, int], object] | None
) -> Verification:
    """Verify the chain of the file, or what came after `since`."""
    faults: list[Fault] = []
    audit = Audit({}, {}, hashed, since)
    total = 0
    try:
        kept = read(rows.snapshot, None)
        total = kept.entries
        audit = Audit(kept.run_names, kept.stage_names, hashed, since)
        strays = read(rows.stray_positions)
        faults += [Fault("unreadable", position, "no row", "a row that no append put there") for position in strays]
        for head in (since, expected):
            if head is not None:
                faults += _contains(head, read(rows.signature_at, head.entries), total)
        while audit.position < total and (page := read(rows.links, audit.position, total)):
            audit.walk(page)
            if progress is not None:
                progress(audit.position, total)
        audit.end(sum(entries for _, _, entries, _ in kept.heads if isinstance(entries, int)))
        audit.compare_heads(kept.heads)
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(Fault("file", audit.position + 1, "a row that can be read", error.problem))
    return _verification([*audit.faults, *faults, *_file_faults(read)], total, audit.signature)


def verify_run(
    read: Read, hashed: Hash, run_id: str, expected: Head | None, progress: Callable[[int, int], object] | None
) -> Verification:
    """Verify the entries of one run: each against the row before it in the chain, all of them against the run's head."""
    faults: list[Fault] = []
    audit = Audit({}, {}, hashed)
    try:
        kept = read(rows.snapshot, run_id)
        audit = Audit(kept.run_names, kept.stage_names, hashed, mark=expected.entries if expected else None)
        total = sum(entries for _, _, entries, _ in kept.heads if isinstance(entries, int))
        while page := read(rows.links_of_run, run_id, audit.position, kept.entries):
            audit.follow(page)
            if progress is not None:
                progress(audit.entries, total)
        audit.compare_heads(kept.heads)
        if expected is not None:
            faults += _contains(expected, audit.marked, audit.entries)
    except WrongKeyError as error:
        faults.append(_cannot_judge(error))
    except DamagedStoreError as error:
        faults.append(Fault("file", audit.position + 1, "a row that can be read", error.problem))
    return _verification([*audit.faults, *faults, *_file_faults(read)], audit.entries, audit.run_signature)


def _cannot_judge(error: WrongKeyError) -> Fault:
    return Fault("key", None, "the key of the chain, to judge its links", error.problem)


def _contains(head: Head, signature: object, entries: int) -> list[Fault]:
    if isinstance(signature, bytes) and signature.hex() == head.signature:
        return []
    found = signature.hex() if isinstance(signature, bytes) else f"a chain of {entries} entries"
    return [Fault("head", head.entries, head.signature, found)]


def _file_faults(read: Read) -> list[Fault]:
    try:
        return [Fault("file", None, "a sound file", problem) for problem in read(rows.integrity_check)]
    except DamagedStoreError as error:
        return [Fault("file", None, "a sound file", error.problem)]


def _verification(faults: list[Fault], entries: int, signature: bytes) -> Verification:
    return Verification(not faults, entries, signature.hex(), tuple(faults))

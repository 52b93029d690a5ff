"""Verify one chain across its archives and the file that goes on behind them, for `CheckpointStore.verify(archives=…)`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from milepost import details, rows
from milepost.database import Database
from milepost.errors import StoreError, shown
from milepost.kept import digest_of_kept, line_of
from milepost.signature import START
from milepost.verification import Fault, Verification
from milepost.verify import contains, verify_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

    from milepost.receipt import Head
    from milepost.signature import ChainBase

    Progress = Callable[[int, int], object] | None


class _Part(NamedTuple):
    """A file, and the part of the chain in it: behind its base, up to its end."""

    database: Database
    base: ChainBase
    end: ChainBase
    file: str | None  # None for the store's own


def verify_across(
    database: Database, paths: Sequence[str], expected: Head | None, processes: int, progress: Progress
) -> Verification:
    """Verify each file by itself, then that each goes on where the one before it ends, and what each has kept."""
    faults: list[Fault] = []
    with ExitStack() as opened:
        parts: list[_Part] = []
        for path in dict.fromkeys(paths):
            try:
                archive = Database(path, None, database.hmac).open()
                opened.callback(archive.close)
                parts.append(_part(archive, path))
            except StoreError as error:
                faults.append(_unreadable(path, error.problem))
        parts.sort(key=lambda part: (part.base.position, part.end.position))
        parts.append(_part(database, None))
        found, archived = _each(parts, faults, processes, progress)
        faults += _joints(parts, archived)
        faults += _kept(parts, archived)
        if expected is not None:
            faults += _expected(parts, expected)
        return replace(found, ok=not faults, faults=tuple(faults), elsewhere=_elsewhere(parts))


def _part(database: Database, file: str | None) -> _Part:
    base, end = database.read(rows.chain_base), database.read(rows.tip)
    return _Part(database, base, type(base)(*end), file)


def _unreadable(path: str, problem: str) -> Fault:
    return Fault("file", None, "an archive", problem, explanation=f"the archive cannot be read: {problem}", file=path)


def _each(
    parts: list[_Part], faults: list[Fault], processes: int, progress: Progress
) -> tuple[Verification, dict[int, details.Archived]]:
    """Verify each file. Return the result of the last one, and what the entries of all files say that was archived."""
    archived: dict[int, details.Archived] = {}
    total = parts[-1].end.position
    for part in parts:
        begun = part.base.position

        def told(done: int, _of: int, begun: int = begun) -> None:
            if progress is not None:
                progress(max(begun, done), total)

        found = verify_chain(part.database, None, None, processes, told)
        # What stayed is compared with the archives below, and says where.
        faults += [replace(fault, file=part.file) for fault in found.faults if fault.kind != "archive"]
        try:
            said = part.database.read(rows.archives)
        except StoreError:  # told already
            continue
        archived |= {each.cut: details.of_archived(each.detail) for each in said}
    return found, archived


def _joints(parts: list[_Part], archived: dict[int, details.Archived]) -> list[Fault]:
    """Return a fault for each archive that the chain does not go on from, and for each base that follows from none."""
    faults = []
    for part in parts:
        if part.file is not None:
            later = [other for other in parts if other.end.position > part.end.position or other.file is None]
            faults += _joint(part, part.end, "ends", later, archived)
        if part.base != START:
            faults += _joint(part, part.base, "begins", [other for other in parts if other is not part], archived)
    return faults


def _joint(
    part: _Part, place: ChainBase, what: str, others: list[_Part], archived: dict[int, details.Archived]
) -> list[Fault]:
    """Compare the signature where a file begins or ends with that in another file, or in the entry of the archive."""
    said = archived.get(place.position)
    known = [
        _shown(other.database.read(rows.signature_at, place.position))
        for other in others
        if other.base.position <= place.position <= other.end.position
    ] or [shown(None) if said is None else _plain(said.signature)]
    if known == [place.signature.hex()] * len(known):
        return []
    why = f"the file {what} where the chain has no such place: it is an archive of another chain, or was changed"
    return [Fault("archive", place.position, known[0], place.signature.hex(), explanation=why, file=part.file)]


def _kept(parts: list[_Part], archived: dict[int, details.Archived]) -> list[Fault]:
    """Return the faults of what stayed in each file of the entries before its base."""
    faults = []
    for part in parts:
        if part.base == START:
            continue
        said = archived.get(part.base.position)
        if said is not None:
            number, digest = part.database.read_on_own_connection(_digest, part)
            if (number, digest.hex()) == (said.kept, said.digest):
                continue
        changed = _changed(part, parts)
        if said is not None and not changed:
            expected = f"{shown(said.kept)} entries with the digest {_plain(said.digest)}"
            found = f"{number} entries with the digest {digest.hex()}"
            why = "what stayed here of the archived entries was changed"
            changed = [Fault("archive", None, expected, found, explanation=why, file=part.file)]
        faults += changed
    return faults


def _digest(connection: apsw.Connection, part: _Part) -> tuple[int, bytes]:
    return digest_of_kept(connection, rows.kept_before(connection, part.base.position), part.database.hash)


def _changed(part: _Part, parts: list[_Part]) -> list[Fault]:
    """Return a fault for each entry before the base of a file that differs from the archive that has it."""
    faults = []
    names = part.database.read(rows.snapshot)
    position = 0
    while page := part.database.read(rows.rows_after, position, part.base.position):
        for row in map(rows.EntryRow._make, page):
            position = row.position
            for other in parts:
                if other.base.position < position <= other.end.position:
                    archive = other.database.read(rows.snapshot)
                    kept, recorded = line_of(names, row), line_of(archive, other.database.read(rows.entry_at, position))
                    if kept != recorded:
                        why = "what stayed here of the archived entries was changed: the archive has another entry"
                        faults.append(_difference(part, names, row, recorded, kept, why))
    return faults


def _difference(part: _Part, names: rows.Snapshot, row: rows.EntryRow, expected: str, found: str, why: str) -> Fault:
    return Fault(
        "archive",
        row.position,
        expected,
        found,
        names.run_names.get(row.run_number),
        names.stage_names.get(row.stage_number),
        row.sequence,
        why,
        part.file,
    )


def _expected(parts: list[_Part], head: Head) -> list[Fault]:
    entries = parts[-1].end.position
    for part in parts:
        if part.base.position <= head.entries <= part.end.position:
            return contains(head, part.database.read(rows.signature_at, head.entries), entries, None)
    return contains(head, None, entries, None, parts[-1].base.position)


def _elsewhere(parts: list[_Part]) -> int:
    """Return how many entries of the chain are in none of the files."""
    missing, reached = 0, 0
    for part in parts:
        missing += max(0, part.base.position - reached)
        reached = max(reached, part.end.position)
    return missing


def _shown(signature: object) -> str:
    return signature.hex() if isinstance(signature, bytes) else "none"


def _plain(signature: object) -> str:
    return signature if isinstance(signature, str) and signature.isalnum() else shown(signature)

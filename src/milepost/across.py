"""Verify one chain across its archives and the file that goes on behind them, for `CheckpointStore.verify(archives=…)`."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar, TypeVarTuple

from milepost import details, files, rows
from milepost.database import Database
from milepost.errors import StoreError, shown
from milepost.kept import digest_of_kept, line_of, places
from milepost.signature import START
from milepost.verification import Fault, Verification
from milepost.verify import at_rest, contains, plain, verify_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

    from milepost.receipt import Head
    from milepost.signature import ChainBase, Hash

    Progress = Callable[[int, int], object] | None

T = TypeVar("T")
Given = TypeVarTuple("Given")


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
    return at_rest(database, lambda: _verify_across(database, paths, expected, processes, progress))


def _verify_across(
    database: Database, paths: Sequence[str], expected: Head | None, processes: int, progress: Progress
) -> Verification:
    faults: list[Fault] = []
    with ExitStack() as opened:
        parts: list[_Part] = []
        for path in dict.fromkeys(paths):
            try:
                if files.is_store_file(path):
                    archive = Database(path, database.vfs, database.hmac).open()
                    opened.callback(archive.close)
                    parts.append(_part(archive, path))
                else:  # the reader would say how to make a store of that name
                    faults.append(_unreadable(path, "no such file: check the path"))
            except StoreError as error:
                faults.append(_unreadable(path, error.problem))
        parts.sort(key=lambda part: (part.base.position, part.end.position))
        parts.append(_part(database, None))
        found, archived = _each(parts, faults, processes, progress)
        for part in parts:
            for found_in in (_joints, _kept):
                try:
                    faults += found_in(part, parts, archived)
                except StoreError as error:
                    if not any((fault.kind, fault.file) == ("file", part.file) for fault in faults):
                        faults.append(_unreadable(part.file, error.problem))
        if expected is not None:
            faults += _expected(parts, expected)
        return replace(found, ok=not faults, faults=tuple(faults), elsewhere=_elsewhere(parts))


def _part(database: Database, file: str | None) -> _Part:
    base, end = database.read(rows.at_one_moment, _ends)
    if file is not None:
        database.close_readers(0)
    return _Part(database, base, end, file)


def _ends(connection: apsw.Connection) -> tuple[ChainBase, ChainBase]:
    base = rows.chain_base(connection)
    return base, type(base)(*rows.tip(connection))


def _read(part: _Part, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
    """Read from a file, and close it again: there may be more archives than a process may have open files."""
    try:
        return part.database.read(query, *given)
    finally:
        if part.file is not None:
            part.database.close_readers(0)


def _signature(part: _Part, position: int) -> object:
    """Return the signature at a position, as a file has it; None if the file cannot be read there, which is told."""
    try:
        return _read(part, rows.signature_at, position)
    except StoreError:
        return None


def _unreadable(path: str | None, problem: str) -> Fault:
    what = "the store" if path is None else "the archive"
    return Fault("file", None, "a sound file", problem, explanation=f"{what} cannot be read: {problem}", file=path)


def _each(
    parts: list[_Part], faults: list[Fault], processes: int, progress: Progress
) -> tuple[Verification, dict[int, details.Archived]]:
    """Verify each file. Return the result of the last one, and what the entries of all files say that was archived."""
    archived: dict[int, details.Archived] = {}
    kept: dict[int, details.Archived] = {}
    found: dict[_Part, Verification] = {}
    total = parts[-1].end.position
    for part in parts:
        begun = part.base.position

        def told(done: int, _of: int, begun: int = begun) -> None:
            if progress is not None:
                progress(max(begun, done), total)

        found[part] = verify_chain(part.database, None, None, processes, told)
        with suppress(StoreError):  # told already
            for each in _read(part, rows.archives):  # those before the base are part of no walk, so they count less
                of = kept if each.position <= begun else archived
                of[each.cut] = details.of_archived(each.detail)
    archived = kept | archived
    for part, verified in found.items():
        # What stayed is compared with the archives below, which says where. While the base is being moved, it cannot be.
        faults += [
            replace(fault, file=part.file)
            for fault in verified.faults
            if fault.kind != "archive" or part.base.position not in archived
        ]
    return found[parts[-1]], archived


def _joints(part: _Part, parts: list[_Part], archived: dict[int, details.Archived]) -> list[Fault]:
    """Return a fault if the chain does not go on from the end of an archive, or if the base of a file follows from none."""
    faults = []
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
        signature.hex()
        for other in others
        if other.base.position <= place.position <= other.end.position
        and isinstance(signature := _signature(other, place.position), bytes)
    ] or ([] if said is None else [plain(said.signature)])
    if known == [place.signature.hex()] * len(known) and (known or part.file is None):
        return []  # where nothing else tells, `verify_chain` has judged the base of the store's own file
    if known:
        why = f"the file {what} where the chain has no such place: it is an archive of another chain, or was changed"
    else:
        why = f"no file tells whether the chain has the place where this one {what}: give the archives next to it"
    return [Fault("archive", place.position, [*known, "none"][0], place.signature.hex(), explanation=why, file=part.file)]


def _kept(part: _Part, parts: list[_Part], archived: dict[int, details.Archived]) -> list[Fault]:
    """Return the faults of what stayed in a file of the entries before its base."""
    if part.base == START:
        return []
    said = archived.get(part.base.position)
    if said is None:
        return _changed(part, parts)
    number, digest = part.database.read_on_own_connection(_digest, part)
    if (number, digest.hex()) == (said.kept, said.digest):
        return []
    expected = f"{shown(said.kept)} entries with the digest {plain(said.digest)}"
    found = f"{number} entries with the digest {digest.hex()}"
    why = "what stayed here of the archived entries was changed"
    faults = _changed(part, parts) + _removed(part, parts, said)
    return faults or [Fault("archive", None, expected, found, explanation=why, file=part.file)]


def _digest(connection: apsw.Connection, part: _Part) -> tuple[int, bytes]:
    return digest_of_kept(rows.kept_before(connection, part.base.position), part.database.hash)


def _changed(part: _Part, parts: list[_Part]) -> list[Fault]:
    """Return a fault for each entry before the base of a file that differs from the archive that has it."""
    names = _read(part, rows.snapshot)
    return [fault for other in parts if other is not part for fault in _changed_from(part, names, other)]


def _changed_from(part: _Part, names: rows.Snapshot, other: _Part) -> list[Fault]:
    faults = []
    archive = _read(other, rows.snapshot)
    position, through = other.base.position, min(part.base.position, other.end.position)
    while page := _read(part, rows.rows_after, position, through):
        for row, archived in zip(page, _read(other, _entries_at, [each[0] for each in page]), strict=True):
            found = rows.EntryRow._make(row)
            position = found.position
            kept, recorded = line_of(names, found), line_of(archive, archived)
            if kept != recorded:
                why = "what stayed here of the archived entries was changed: the archive has another entry"
                faults.append(_difference(part, names, found, recorded, kept, why))
    return faults


def _entries_at(connection: apsw.Connection, positions: list[int]) -> list[rows.EntryRow | None]:
    return [rows.entry_at(connection, position) for position in positions]


def _removed(part: _Part, parts: list[_Part], said: details.Archived) -> list[Fault]:
    """Return a fault for each entry that an archive has left in a file, if lookups no longer find it there or miscount."""
    cut = part.base.position
    there = part.database.read_on_own_connection(_places, cut)
    bags = [_read(part, _whole_bags, cut)]
    for other in parts:
        if other is not part and other.end == part.base:
            # A run may have finished between the cut and the entry of the archive, which only the later file tells.
            for whole in [*bags, _read(other, _whole_bags, cut)]:
                if other.database.read_on_own_connection(_digest_of_left, cut, whole, part.database.hash) == said.digest:
                    return other.database.read_on_own_connection(_missing, part, whole, there)
    return []


def _whole_bags(connection: apsw.Connection, cut: int) -> set[rows.Numbers]:
    as_of = [each.position for each in rows.archives(connection) if each.cut == cut]
    return rows.whole_bags(connection, cut, *as_of[:1])


def _places(connection: apsw.Connection, base: int) -> dict[int, int]:
    return {row.position: place for _, row, place in places(rows.kept_before(connection, base))}


def _digest_of_left(connection: apsw.Connection, cut: int, whole: set[rows.Numbers], hash_function: Hash) -> str:
    _, digest = digest_of_kept(rows.kept_through(connection, cut, whole), hash_function)
    return digest.hex()


def _missing(connection: apsw.Connection, part: _Part, whole: set[rows.Numbers], there: dict[int, int]) -> list[Fault]:
    gone: list[Fault] = []
    miscounted: dict[tuple[str, str], Fault] = {}
    for each, row, place in places(rows.kept_through(connection, part.base.position, whole)):
        names = each.run_id, each.stage
        entry = f"entry {place} of stage {shown(each.stage)} of run {shown(each.run_id)}"
        found = there.get(row.position)
        if found is None:
            said = f"{entry} stayed here when it was archived, and lookups no longer find it"
            gone.append(Fault("archive", row.position, entry, "none", *names, row.sequence, said, part.file))
        elif found != place and names not in miscounted:
            said = f"lookups take {entry} for entry {found}"
            miscounted[names] = Fault("archive", row.position, f"{place}", f"{found}", *names, row.sequence, said, part.file)
    return gone or list(miscounted.values())


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
            return contains(head, _signature(part, head.entries), entries, None)
    return contains(head, None, entries, None, parts[-1].base.position)


def _elsewhere(parts: list[_Part]) -> int:
    """Return how many entries of the chain are in none of the files."""
    missing, reached = 0, 0
    for part in parts:
        missing += max(0, part.base.position - reached)
        reached = max(reached, part.end.position)
    return missing

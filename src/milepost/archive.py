"""
Move the beginning of a chain into a file of its own, for `CheckpointStore.archive`.

The order makes every state between two steps a complete store, and loses nothing at a kill:

1. The archive is copied, sealed and verified under a temporary name, and linked into place.
2. One commit records the archive: an entry with the cut, the signature there, and the digest of what stays.
3. Commits of bounded size move the base of the chain up to the cut, and delete what is behind it.
4. The space is given back in steps.

After a kill in step 3 or 4, the next archive goes on from there. The seal is SQLite's own: a file whose write version is
above 2 is read-only to every program (https://sqlite.org/fileformat2.html, section 1.3.3).
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import apsw

from milepost import create, details, files, inherited, rows, verify
from milepost.bound import STEPS
from milepost.connection import is_sealed
from milepost.database import Database
from milepost.errors import BrokenChainError, InvalidArgumentError, StoreError
from milepost.kept import digest_of_kept
from milepost.receipt import Head
from milepost.signature import ChainBase
from milepost.sqlite_errors import translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.append import Appender
    from milepost.rows import Numbers, Statements
    from milepost.signature import Hash
    from milepost.writer import Writer

_STEP: Final = 5_000  # entries moved in one commit: other writers wait for that long


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What an archive would do.

    Attributes:
        base: Where the chain in the file begins now.
        cut: Where it would begin then. It is `base` if there is nothing to archive.
        moved: How many entries would be in the archive alone.
        kept: How many entries up to the cut would stay.
    """

    base: Head
    cut: Head
    moved: int
    kept: int


def plan(database: Database, before: Head | int) -> Plan:
    """Return what an archive before a head or a time (ms since the epoch) would do."""

    def planned(connection: apsw.Connection) -> Plan:
        base, cut = rows.chain_base(connection), _cut(connection, before)
        if cut.position <= base.position:
            return Plan(_head(base), _head(base), 0, rows.count(connection) - rows.tip(connection)[0] + base.position)
        whole = rows.whole_bags(connection, cut.position)
        kept = sum(1 for each in rows.kept_through(connection, cut.position, whole) for _ in each.rows)
        here = rows.count(connection) - (rows.tip(connection)[0] - cut.position)
        return Plan(_head(base), _head(cut), here - kept, kept)

    return database.read_on_own_connection(rows.at_one_moment, planned)


def archive(writer: Writer, path: str, before: Head | int, clock: Callable[[], int], processes: int) -> Head:
    """
    Move what was recorded before a head, or before a time in ms since the epoch, into a new file.

    Up to `processes` workers share the verification of the copy.

    Returns:
        The new base of the chain.
    """
    writer.refuse_inside_block("archive()")
    _finish(writer)
    base = writer.read_committed(rows.chain_base)
    cut = writer.read_committed(_cut, before)
    if cut.position <= base.position:
        return _head(base)
    made = False
    try:
        if os.path.lexists(path):
            _accept(writer, path, base, cut, processes)
        else:
            _make(writer, path, base, cut, processes)
            made = True
        _record(writer, base, cut, clock)
    except _OvertakenError:
        # Another process that was asked for the same accepts a file that is there, and may have recorded it. So it may
        # be too, whatever else has failed.
        if made and not writer.read_committed(rows.may_have_archived, cut.position):
            os.unlink(path)  # noqa: PTH108 - a str, whatever it contains
        raise StoreError(writer.path, "another archive was made at the same time: look at store.base, and retry") from None
    _finish(writer)
    return _head(writer.read_committed(rows.chain_base))


def _cut(connection: apsw.Connection, before: Head | int) -> ChainBase:
    if not isinstance(before, Head):
        return rows.cut_before(connection, before)
    base = rows.chain_base(connection)
    found = rows.signature_at(connection, before.entries)
    is_archived = found is None and before.entries < base.position  # and only the archive knows its signature
    if found != bytes.fromhex(before.signature) and not is_archived:
        raise InvalidArgumentError("before", before, "is no head of this chain: give one that head() has returned")
    return max(base, ChainBase(before.entries, bytes.fromhex(before.signature)), key=lambda place: place.position)


def _head(base: ChainBase) -> Head:
    return Head(base.position, base.signature.hex())


# The copy


class _OvertakenError(Exception):
    """Another archive has moved the base, or was recorded first."""


def _make(writer: Writer, path: str, base: ChainBase, cut: ChainBase, processes: int) -> None:
    """Make the archive. It appears whole, verified and durable, or not at all."""
    create.refuse_long_directory(path)
    try:
        with create.put_in_place(path) as temporary:
            writer.read_on_own_connection(_copy, temporary, path, writer.vfs, base, cut)
            with create.writing(temporary, path):
                create.seal(temporary, writer.vfs)
            _verify(writer, temporary, cut, processes)
    except FileExistsError as error:
        raise _exists(path) from error
    except apsw.Error as error:
        raise translate(error, path, writer.busy_timeout_ms) from error


def _copy(connection: apsw.Connection, temporary: str, path: str, vfs: str | None, base: ChainBase, cut: ChainBase) -> None:
    """Copy what is up to the cut into the file `temporary`, in place of an earlier attempt's."""
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
    connection.pragma("query_only", False)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)  # which would refuse to delete what is behind the cut
    connection.set_progress_handler(lambda: False, STEPS)  # a chance for Ctrl-C
    with create.writing(temporary, path):
        create.fill(temporary, path, vfs)
        connection.execute("ATTACH ? AS copy", (files.for_sqlite(temporary),))
        inherited.refuse(temporary)
        connection.execute("PRAGMA copy.journal_mode = OFF")  # if it fails, there is nothing to keep
        connection.execute("PRAGMA copy.synchronous = OFF")  # it is synced when it is sealed
        rows.at_one_moment(connection, _copy_from, base, cut)
        connection.execute("DETACH copy")


def _copy_from(connection: apsw.Connection, base: ChainBase, cut: ChainBase) -> None:
    if rows.chain_base(connection) != base:
        raise _OvertakenError
    rows.copy_through(connection, cut.position)


def _verify(writer: Writer, path: str, cut: ChainBase, processes: int) -> None:
    with closing(Database(path, writer.vfs, writer.hmac).open()) as copy:
        found = verify.verify_chain(copy, None, _head(cut), processes, None)
        if not found.ok or found.entries != cut.position:
            raise BrokenChainError(found.faults)


def _accept(writer: Writer, path: str, base: ChainBase, cut: ChainBase, processes: int) -> None:
    """Accept a file that is there as the archive of a call that was killed before it was recorded."""
    try:
        with closing(Database(path, writer.vfs, writer.hmac).open()) as copy:
            same = copy.read(rows.chain_base) == base and copy.read(rows.tip) == cut and is_sealed(path, writer.vfs)
    except StoreError:
        same = False
    if not same:
        raise _exists(path)
    _verify(writer, path, cut, processes)
    try:
        with create.writing(path, path):
            create.make_durable(path, writer.vfs)  # whoever made it was perhaps killed before its name was
    except apsw.Error as error:
        raise translate(error, path, writer.busy_timeout_ms) from error


def _exists(path: str) -> StoreError:
    return StoreError(path, "the file exists already, and an archive never overwrites: choose another path")


# The record


class _RunsChangedError(Exception):
    """A run has finished since what stays was computed, or begun again, and with it what stays of its bags."""


def _record(writer: Writer, base: ChainBase, cut: ChainBase, clock: Callable[[], int]) -> None:
    """Record the archive in one small commit. The digest of what stays is computed before, as other writers would wait."""
    while True:
        as_of = writer.read_on_own_connection(rows.at_one_moment, _what_stays, base, cut, writer.hash)
        with suppress(_RunsChangedError):
            return _record_as_of(writer, base, cut, as_of, clock)


def _record_as_of(
    writer: Writer, base: ChainBase, cut: ChainBase, as_of: _WhatStays | None, clock: Callable[[], int]
) -> None:
    def work(end: Appender) -> None:
        connection: Statements = end.statements
        last = rows.last_archive(connection)
        if any(each.cut == cut.position for each in rows.archives(connection)):
            return  # another process was asked for the same
        if as_of is None or rows.chain_base(connection) != base or (last is not None and last.cut > base.position):
            raise _OvertakenError
        if rows.whole_bags(connection, cut.position) != as_of.whole:
            raise _RunsChangedError
        end.record_archive(cut, details.of_archive(cut, as_of.kept, as_of.digest), clock)

    writer.do(work)


class _WhatStays(NamedTuple):
    """The bags of which everything stays, how many entries stay in all, and their digest."""

    whole: set[Numbers]
    kept: int
    digest: bytes


def _what_stays(connection: apsw.Connection, base: ChainBase, cut: ChainBase, hash_function: Hash) -> _WhatStays | None:
    """Return what the archive leaves, or None if another one has moved the base meanwhile."""
    if rows.chain_base(connection) != base:
        return None
    whole = rows.whole_bags(connection, cut.position)
    return _WhatStays(whole, *digest_of_kept(rows.kept_through(connection, cut.position, whole), hash_function))


# The moves


def _move(cut: int, left: rows.Moves, end: Appender) -> rows.Moves | None:
    """
    Move the base one step further, and delete what has to go.

    A reader sees by the base that entries were moved away, so each commit moves it, by one position at least.
    """
    positions = cut - left.base
    steps = max(_parts(positions, _STEP), min(positions, _parts(left.rows, _STEP)))
    return end.move_base(left.base + _parts(positions, steps), left, _parts(left.rows, steps))


def _parts(number: int, of: int) -> int:
    return -(-number // of)  # rounded up


def _finish(writer: Writer) -> None:
    """Move the base up to the cut of the last archive, and give the space back. After a kill this goes on."""
    last = writer.read_committed(rows.last_archive)
    if last is None:
        return
    if writer.read_committed(rows.chain_base).position < last.cut:
        if not details.is_archive_of(last.detail, writer.read_committed(rows.signature_at, last.cut)):
            problem = f"the entry at position {last.position:,} records an archive of another chain: verify() it"
            raise StoreError(writer.path, problem)
        left: rows.Moves | None = None
        while left is None or left.base < last.cut:
            if left is None:
                left = writer.read_on_own_connection(rows.at_one_moment, rows.moves, last.cut, last.position)
            if left.base < last.cut:
                left = writer.do(partial(_move, last.cut, left))
    if writer.read_committed(rows.can_give_back):
        while writer.do(lambda end: end.give_back()):
            pass
        writer.write_back()

"""Find what an archive moves and what stays, and move the base of the chain."""

from __future__ import annotations

from itertools import chain, dropwhile, groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from milepost import details
from milepost.checkpoint import MAX_INTEGER
from milepost.mileposts import BOUND, INTERVAL, RUN_STAGE
from milepost.rows.append import add_entries
from milepost.rows.columns import (
    EntryRow,
    Statements,
    chain_base,
    checked_signature,
    marks_bag,
    of_entry,
    require,
    said_finished,
    tip,
)
from milepost.rows.lookup import signature_at
from milepost.signature import ChainBase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

Numbers = tuple[int, int]
"""The run_number and the stage_number of a stage of a run."""


def cut_before(connection: Statements, at_ms: int) -> ChainBase:
    """Return the end of what was recorded before the first entry whose wall clock is not below a time."""
    base = chain_base(connection)
    first: int | None = connection.execute(_FIRST_SINCE, (base.position, at_ms)).get
    if first is None:
        return ChainBase(*tip(connection))
    return ChainBase(first - 1, checked_signature(signature_at(connection, first - 1)))


_FIRST_SINCE: Final = "SELECT position FROM entry WHERE position > ? AND at_ms >= ? ORDER BY position LIMIT 1"


class ArchiveRow(NamedTuple):
    """An entry that records an archive: its position, the cut that it names, and its detail."""

    position: int
    cut: int
    detail: str | None


def last_archive(connection: Statements) -> ArchiveRow | None:
    """Return the entry that records the last archive, or None if there was none."""
    row: tuple[Any, ...] | None = connection.execute(_LAST_ARCHIVE, (details.RUN_OF_MILEPOST, details.STAGE_OF_ARCHIVES)).get
    return None if row is None else ArchiveRow(*row)


def archives(connection: Statements) -> list[ArchiveRow]:
    """Return the entries in this file that record archives, in chain order."""
    names = details.RUN_OF_MILEPOST, details.STAGE_OF_ARCHIVES
    return [ArchiveRow(*row) for row in connection.execute(_ARCHIVES, names)]


def may_have_archived(connection: Statements, cut: int) -> bool:
    """
    Return whether an archive up to a position may have been recorded.

    The cuts of archives rise along the chain. Their entries behind the base are all here, and the last one before it. So an
    entry that is not here stands before that one.
    """
    base = chain_base(connection).position
    return any(each.cut == cut or (each.position <= base and each.cut > cut) for each in archives(connection))


_COLUMNS: Final = "entry.position, entry.offset, entry.detail"
_LAST_ARCHIVE: Final = f"SELECT {_COLUMNS} FROM {RUN_STAGE.last_given()}"
_ARCHIVES: Final = (
    f"SELECT {_COLUMNS} FROM {RUN_STAGE.given} CROSS JOIN {RUN_STAGE.entries('given')} "
    "ORDER BY post.sequence, entry.position"
)


def has_archived(connection: Statements, run_id: str, stage: str) -> bool:
    """Return whether entries of a stage of a run are in an archive. Its first entry that is here then counts others."""
    entries: int | None = connection.execute(_ENTRIES_AT_FIRST, (run_id, stage)).get
    return entries is not None and entries > 1


_ENTRIES_AT_FIRST: Final = (
    f"SELECT {RUN_STAGE.milepost('given', column='entries_so_far', last=False)} FROM {RUN_STAGE.given}"
)


def is_bag(connection: Statements, run_id: str, stage: str) -> bool:
    """Return whether the first entry of a stage of a run marks it as a bag of `once`, as far as that entry is here."""
    return connection.execute(_IS_BAG, (run_id, stage)).get is not None


_IS_BAG: Final = (
    f"SELECT 1 FROM {RUN_STAGE.given} "
    f"CROSS JOIN entry AS first ON first.position = {RUN_STAGE.milepost('given', last=False)} "
    f"WHERE {marks_bag('first.detail')}"
)


def count(connection: Statements) -> int:
    """Return how many entries are here. The cost grows with how many of them stand before the base."""
    base, (last, _) = chain_base(connection).position, tip(connection)
    if base == 0:
        return last
    before: int = connection.execute("SELECT count(*) FROM entry WHERE position BETWEEN 1 AND ?", (base,)).get
    if last < base:
        raise apsw.CorruptError(f"the base of the chain, {base}, is behind its last entry, {last}")
    return last - base + before


def whole_bags(connection: Statements, cut: int, as_of: int = MAX_INTEGER) -> set[Numbers]:
    """
    Return the bags of which everything stays, because their runs had not finished.

    Args:
        connection: Runs the statement.
        cut: The last position that is archived.
        as_of: The position of the entry that records the archive: the runs count as they were there.
    """
    found: list[Any] = connection.execute(_UNFINISHED_BAGS, (cut, as_of, details.STAGE_OF_RUNS)).fetchall()
    return set(found)


_ATTEMPTS: Final = {"run_number": "run_stage.run_number", "stage_number": "of_runs.stage_number"}
_UNFINISHED_BAGS: Final = (
    "SELECT run_stage.run_number, run_stage.stage_number FROM run_stage "
    f"CROSS JOIN entry AS first ON first.position = {RUN_STAGE.milepost('run_stage', last=False)} "
    "LEFT JOIN stage AS of_runs ON of_runs.stage = ?3 "
    f"WHERE first.entries_so_far = 1 AND first.position <= ?1 AND {marks_bag('first.detail')} "
    f"AND NOT ifnull({said_finished(RUN_STAGE.last(_ATTEMPTS, 'last.detail', '?2'))}, FALSE)"
)


class Kept(NamedTuple):
    """
    What stays of a stage of a run: its last entries up to the cut.

    Attributes:
        run_id: Its run.
        stage: Its name.
        ordinal: Which entry of the stage the first one is that stays: 1, 2, 3 and so on. None if that one says so itself.
        rows: All that stay. They can be read once, before the next stage is taken, as there may be very many.
    """

    run_id: str
    stage: str
    ordinal: int | None
    rows: Iterator[EntryRow]


def kept_before(connection: apsw.Connection, base: int) -> Iterator[Kept]:
    """Yield what is here of each stage of each run up to the base, where it is all that an archive has left."""
    for _, (run_id, stage), found in _before(connection, base):
        yield Kept(run_id, stage, None, found)


def _before(connection: apsw.Connection, base: int) -> Iterator[tuple[Numbers, tuple[str, str], Iterator[EntryRow]]]:
    """Yield the rows up to the base that lookups find, by stage and run with their names, in the order of numbers."""
    for (*numbers, run_id, stage), found in groupby(connection.execute(_BEFORE, (base,)), lambda row: row[:4]):
        yield (numbers[0], numbers[1]), (run_id, stage), _found_by_lookups(EntryRow._make(row[4:]) for row in found)


def _found_by_lookups(found: Iterable[EntryRow]) -> Iterator[EntryRow]:
    milepost: int | None = None
    for row in found:
        if row.entries_so_far is not None:
            milepost = row.position
        if milepost is not None and row.position < milepost + INTERVAL:
            yield row


_BEFORE: Final = (
    f"SELECT run_number, stage_number, run_id, stage, {of_entry(EntryRow._fields)} "
    "FROM entry CROSS JOIN run_stage USING (run_number, stage_number) "
    "CROSS JOIN run USING (run_number) CROSS JOIN stage USING (stage_number) WHERE entry.position BETWEEN 1 AND ? "
    "ORDER BY entry.run_number, entry.stage_number, entry.position"
)


def kept_through(connection: apsw.Connection, cut: int, whole: AbstractSet[Numbers]) -> Iterator[Kept]:
    """Yield what an archive up to a cut leaves of each stage of each run, in the order of their numbers."""
    base = min(chain_base(connection).position, cut)
    before = _before(connection, base)
    there = next(before, None)
    for numbers, names, first, last in _stages_through(connection, cut, whole):
        while there is not None and there[0] < numbers:
            there = next(before, None)
        here = there[2] if there is not None and there[0] == numbers else iter(())
        found = chain(
            dropwhile(lambda row, first=first: row.position < first, here),  # type: ignore[misc]
            _kept_behind(connection, numbers, max(first, base + 1), last),
        )
        begin = next(found, None)
        if begin is not None:
            ordinal = begin.entries_so_far
            if ordinal is None:
                ordinal = connection.execute(_ORDINAL, (*numbers, begin.position)).get
            yield Kept(*names, ordinal, chain((begin,), found))


def _kept_behind(connection: apsw.Connection, numbers: Numbers, first: int, last: int) -> Iterator[EntryRow]:
    if first <= last:
        yield from map(EntryRow._make, connection.execute(_KEPT_ROWS, (*numbers, first, last)))


def _stages_through(
    connection: apsw.Connection, cut: int, whole: AbstractSet[Numbers]
) -> Iterator[tuple[Numbers, tuple[str, str], int, int]]:
    """Yield each stage of each run with an entry up to a cut, its names, and the first and the last of what stays."""
    for run_number, stage_number, run_id, stage, first, last, stands in connection.execute(_STAGES_THROUGH, (cut,)):
        numbers = run_number, stage_number
        stays = first if stands or numbers in whole else _walk_back(connection, numbers, last)
        yield numbers, (run_id, stage), stays, last


# Of each stage of each run with an entry up to a position: its first row here, the last one up to there, and whether they
# have the same watermark. Watermarks never fall, so all between have it then.
_STAGES_THROUGH: Final = (
    "WITH found AS MATERIALIZED (SELECT run_number, stage_number, "
    f"{RUN_STAGE.milepost('run_stage', last=False)} AS first_position, "
    f"{RUN_STAGE.last('run_stage', 'last.position', '?1')} AS last_position FROM run_stage) "
    "SELECT found.run_number, found.stage_number, run_id, stage, first_position, last_position, "
    "(first.offset, first.event_time_ms) = (last.offset, last.event_time_ms) FROM found "
    "CROSS JOIN run USING (run_number) CROSS JOIN stage USING (stage_number) "
    "CROSS JOIN entry AS first ON first.position = first_position "
    "CROSS JOIN entry AS last ON last.position = last_position ORDER BY found.run_number, found.stage_number"
)
_ORDINAL: Final = (
    "SELECT post.entries_so_far + (SELECT count(*) FROM entry AS behind WHERE behind.position BETWEEN post.position + 1 "
    f"AND ?3 AND {RUN_STAGE.equal('behind', BOUND)}) FROM entry AS post "
    f"WHERE post.position = {RUN_STAGE.milepost(BOUND, 'AND post.position <= ?3')}"
)
_BETWEEN: Final = f"FROM {RUN_STAGE.entries(BOUND, '?3', '?4')} WHERE post.position BETWEEN ?3 - {INTERVAL - 1} AND ?4"
_KEPT_ROWS: Final = f"SELECT {of_entry(EntryRow._fields)} {_BETWEEN} ORDER BY post.sequence, entry.position"


def _walk_back(connection: apsw.Connection, numbers: Numbers, last: int) -> int:
    """Return the position of the first entry with the watermark that the entry at `last` has."""
    first, watermark = last, None
    for position, *mark in connection.execute(_BACKWARDS, (*numbers, last)):
        if watermark is not None and mark != watermark:
            break
        first, watermark = position, mark
    return first


_BACKWARDS: Final = (
    f"SELECT entry.position, entry.offset, entry.event_time_ms FROM {RUN_STAGE.entries(BOUND, most='?3')} "
    "WHERE post.position <= ?3 ORDER BY post.sequence DESC, entry.position DESC"
)


class Moves(NamedTuple):
    """
    What is left to do of an archive, while the base moves up to its cut.

    Attributes:
        base: Where the base is now.
        stays: The position of the first entry that stays of a stage of a run. Of any stage that is missing here all stays.
        late: The stages of which more than one entry up to the base has to go: all before this position. An earlier archive
            left them, since the run of their bag had not finished, or their stage had no later watermark.
        rows: How many entries that are.
    """

    base: int
    stays: dict[Numbers, int]
    late: dict[Numbers, int]
    rows: int


def moves(connection: apsw.Connection, cut: int, as_of: int) -> Moves:
    """Return what is left to do of the archive up to a cut that the entry at `as_of` records."""
    base = chain_base(connection).position
    whole = whole_bags(connection, cut, as_of)
    stays: dict[Numbers, int] = {}
    late: dict[Numbers, int] = {}
    rows = 0
    for numbers, _, first, _ in _stages_through(connection, cut, whole):
        if numbers in whole:
            continue
        stays[numbers] = first
        number, last = connection.execute(_HOW_MANY, (*numbers, 0, min(base, first - 1))).get
        stays_now = first
        if number and first > base:  # the last of them stays until the base is behind a later one
            number, stays_now = number - 1, last
        if number:
            late[numbers] = stays_now
            rows += number
    return Moves(base, stays, late, rows)


_HOW_MANY: Final = f"SELECT count(*), max(entry.position) {_BETWEEN}"


def move_base(connection: Statements, through: int, left: Moves, most: int) -> Moves | None:
    """
    Move the base of the chain to a position, and delete what the archive does not leave here up to there.

    Of every stage of a run the last entry stays at any moment, so each lookup answers as before. The first one that stays
    becomes a milepost. No row is updated: it is deleted and inserted again.

    Args:
        connection: Runs the statements, inside a write transaction.
        through: The new base, at or below the cut of the archive.
        left: What is left to do of the archive.
        most: How many of the late entries to delete at most. The first ones of a stage go first.

    Returns:
        What is left to do after this. None if nothing was done, because another process has moved the base meanwhile.
    """
    base = chain_base(connection).position
    if base != left.base:
        return None
    moved: list[tuple[Any, ...]] = connection.execute(_LAST_MOVED, (base, through)).fetchall()
    last = {(run_number, stage_number): position for run_number, stage_number, position in moved}
    first = {numbers: min(left.stays[numbers], position) for numbers, position in last.items() if numbers in left.stays}
    restated = [_as_milepost(connection, numbers, position) for numbers, position in first.items()]
    kept: list[int] = []
    for numbers, position in last.items():
        begin = max(first.get(numbers, 0), base + 1)
        kept += [position] if begin == position else _positions(connection, numbers, begin, position)
    connection.execute(
        "INSERT INTO chain_base (position, signature) VALUES (?, ?)",
        (through, checked_signature(signature_at(connection, through))),
    )
    connection.execute("DELETE FROM chain_base WHERE position < ?", (through,))
    connection.executemany(_DELETE, _ranges_without(sorted(kept), base + 1, through))
    _restate(connection, restated)
    late, rows = dict(left.late), left.rows
    for numbers, position in first.items():
        if numbers in late:
            late[numbers] = position
            most, rows = most + 1, rows + 1
        else:  # the one that was its last until now
            _delete_before(connection, numbers, position, base, _ALL)
    for numbers in left.late:
        number = _delete_before(connection, numbers, late[numbers], base, most)
        most, rows = most - number, rows - number
        if most == 0:
            break
        del late[numbers]
    # The cursor of an entry that has gone can resume nothing.
    connection.executemany(
        "DELETE FROM stage_cursor WHERE run_number = ? AND stage_number = ? AND position < ?",
        [(*numbers, position) for numbers, position in first.items()],
    )
    return Moves(through, left.stays, late, rows)


_LAST_MOVED: Final = (
    "SELECT run_number, stage_number, max(position) FROM entry WHERE position > ? AND position <= ? "
    "GROUP BY run_number, stage_number"
)
_ALL: Final = MAX_INTEGER - 1
_DELETE: Final = "DELETE FROM entry WHERE position BETWEEN ? AND ?"


def _delete_before(connection: Statements, numbers: Numbers, position: int, base: int, most: int) -> int:
    """Delete what a stage of a run has up to the base and before a position, the first `most` of it. Return how many."""
    found = _positions(connection, numbers, 0, min(base, position - 1), most + 1)
    doomed = found[:most]
    if doomed:
        restated = _as_milepost(connection, numbers, found[most] if len(found) > most else position)
        connection.executemany(_DELETE, _ranges(doomed))
        _restate(connection, [restated])
    return len(doomed)


def _positions(connection: Statements, numbers: Numbers, least: int, most: int, limit: int = -1) -> list[int]:
    """Return the positions of a stage of a run between two positions, in chain order."""
    found: list[tuple[Any, ...]] = connection.execute(_POSITIONS, (*numbers, least, most, limit)).fetchall()
    return [position for (position,) in found]


_POSITIONS: Final = f"SELECT entry.position {_BETWEEN} ORDER BY post.sequence, entry.position LIMIT ?5"


def _as_milepost(connection: Statements, numbers: Numbers, position: int) -> EntryRow | None:
    """Return the row at a position as a milepost, or None if it is one already."""
    row = EntryRow._make(connection.execute(_ROW, (position,)).get)
    if row.entries_so_far is not None:
        return None
    ordinal: int | None = connection.execute(_ORDINAL, (*numbers, position)).get
    return row._replace(entries_so_far=require(ordinal, "stage"))


_ROW: Final = f"SELECT {of_entry(EntryRow._fields)} FROM entry WHERE position = ?"


def _restate(connection: Statements, rows: Iterable[EntryRow | None]) -> None:
    for row in filter(None, rows):
        connection.execute("DELETE FROM entry WHERE position = ?", row[:1])
        add_entries(connection, [row])


def _ranges(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last position of each unbroken range."""
    ranges: list[tuple[int, int]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position - 1:
            ranges[-1] = ranges[-1][0], position
        else:
            ranges.append((position, position))
    return ranges


def _ranges_without(kept: Iterable[int], begin: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges from `begin` to `end` between the positions that are kept, which rise."""
    ranges: list[tuple[int, int]] = []
    for position in kept:
        if begin < position:
            ranges.append((begin, position - 1))
        begin = position + 1
    return [*ranges, (begin, end)] if begin <= end else ranges


def give_back(connection: Statements) -> int:
    """Give up to 1,000 unused pages (2 MB) back to the file system, and return how many are left."""
    connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    left: int = connection.execute("PRAGMA freelist_count").get
    return left


def can_give_back(connection: Statements) -> bool:
    """Return whether the file has unused pages, and a means to give them back."""
    mode: int = connection.execute("PRAGMA auto_vacuum").get
    unused: int = connection.execute("PRAGMA freelist_count").get
    return mode != 0 and unused > 0


def entry_at(connection: Statements, position: int) -> EntryRow | None:
    """Return the row at a position, whatever it holds, or None."""
    row: tuple[Any, ...] | None = connection.execute(_ROW, (position,)).get
    return None if row is None else EntryRow._make(row)


def copy_through(connection: apsw.Connection, cut: int) -> None:
    """
    Copy all that the file has up to a position into the attached, empty database `copy`, which has the same tables.

    If most of the table is wanted, it goes over as it is, twice as fast as row by row, and then what is behind the cut is
    deleted. `secure_delete` and the vacuum leave nothing of that in the copy.

    Source:
        https://sqlite.org/src/doc/trunk/src/insert.c (xferOptimization)
    """
    base, (last, _) = chain_base(connection).position, tip(connection)
    if 3 * (cut - base) < 2 * (last - base):
        connection.execute("INSERT INTO copy.entry SELECT * FROM main.entry WHERE position <= ?", (cut,)).fetchall()
    else:
        connection.execute("PRAGMA copy.secure_delete = ON").fetchall()
        connection.execute("INSERT INTO copy.entry SELECT * FROM main.entry").fetchall()
        connection.execute("DELETE FROM copy.entry WHERE position > ?", (cut,)).fetchall()
        connection.execute("PRAGMA copy.incremental_vacuum").fetchall()
    connection.execute(_COPY_CURSORS, (cut,)).fetchall()
    for statement in _COPY_THE_REST:
        connection.execute(statement).fetchall()


_COPY_CURSORS: Final = "INSERT INTO copy.stage_cursor SELECT * FROM main.stage_cursor WHERE position <= ?"
_USED: Final = "SELECT DISTINCT run_number, stage_number FROM copy.entry WHERE entries_so_far IS NOT NULL"
_COPY_THE_REST: Final = (
    "INSERT INTO copy.keyed SELECT * FROM main.keyed",
    "INSERT INTO copy.chain_base SELECT * FROM main.chain_base",
    f"INSERT INTO copy.run_stage {_USED}",
    "INSERT INTO copy.run SELECT * FROM main.run WHERE run_number IN (SELECT run_number FROM copy.run_stage)",
    "INSERT INTO copy.stage SELECT * FROM main.stage WHERE stage_number IN (SELECT stage_number FROM copy.run_stage)",
)

"""Two runs side by side, a page at a time."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import apsw

from milepost.checkpoint import MAX_INTEGER
from milepost.mileposts import BOUND, INTERVAL, RUN_NUMBER, RUN_STAGE, entries_so_far
from milepost.rows.columns import OWN_STAGE, at_one_moment, is_branch

COMPARED_MILEPOSTS: Final = 500
"""How many mileposts of a run one statement compares, which is up to 20,000 entries."""


class StagePair(NamedTuple):
    """
    One stage of two runs at one moment.

    Attributes:
        through: The last position at that moment.
        start: The first sequence to compare. It is the first of a branch if one of the runs is a branch there, else 0.
        run_number: The number of the first run, or None if it lacks the stage.
        other_run_number: The number of the other run, or None.
        stage_number: The number of the stage.
        stage: Its name.
        entries: How many entries the first run has there, from `start` on.
        other_entries: How many the other run has.
    """

    through: int
    start: int
    run_number: int | None
    other_run_number: int | None
    stage_number: int
    stage: str
    entries: int
    other_entries: int

    def swapped(self) -> StagePair:
        """Return the same pair, seen from the other run."""
        return self._replace(
            run_number=self.other_run_number,
            other_run_number=self.run_number,
            entries=self.other_entries,
            other_entries=self.entries,
        )


def stage_pairs(connection: apsw.Connection, run_id: str, other_run_id: str) -> list[StagePair]:
    """Return every stage that at least one of two runs has, in the order of first appearance."""
    return at_one_moment(connection, _stage_pairs, run_id, other_run_id)


def _stage_pairs(connection: apsw.Connection, run_id: str, other_run_id: str) -> list[StagePair]:
    found: list[tuple[Any, ...]] = connection.execute(_STAGE_PAIRS, (run_id, other_run_id)).fetchall()
    pairs = (StagePair(*row) for row in found)
    return [pair if pair.start == 0 else _from_its_start(connection, pair) for pair in pairs]


def _from_its_start(connection: apsw.Connection, pair: StagePair) -> StagePair:
    def below(run_number: int | None) -> int:
        bindings = run_number, pair.stage_number, pair.start
        entries: int | None = connection.execute(_ENTRIES_BELOW, bindings).get
        return entries or 0

    return pair._replace(
        entries=pair.entries - below(pair.run_number),
        other_entries=pair.other_entries - below(pair.other_run_number),
    )


def _start(run: str) -> str:
    """Return the first sequence of a stage of a run if it is a branch there, else 0, as SQL."""
    first = {column: RUN_STAGE.milepost(run, column=column, last=False) for column in ("sequence", "detail")}
    return f"iif({is_branch(first['detail'])}, {first['sequence']}, 0)"


_STAGE_PAIRS: Final = (
    f"SELECT (SELECT max(position) FROM entry), max(ifnull({_start('one')}, 0), ifnull({_start('other')}, 0)), "
    "one.run_number, other.run_number, every.stage_number, every.stage, "
    f"ifnull({entries_so_far('one')}, 0), ifnull({entries_so_far('other')}, 0) FROM stage AS every "
    f"LEFT JOIN run_stage AS one ON one.run_number = {RUN_NUMBER} "
    "AND one.stage_number = every.stage_number "
    f"LEFT JOIN run_stage AS other ON other.run_number = {RUN_NUMBER} "
    "AND other.stage_number = every.stage_number "
    "WHERE every.stage_number > 0 AND ifnull(one.run_number, other.run_number) IS NOT NULL "
    f"AND every.stage {OWN_STAGE} ORDER BY every.stage_number"
)
_MILEPOST_BELOW: Final = RUN_STAGE.milepost(BOUND, "AND post.sequence < ?3")
_ENTRIES_BELOW: Final = (
    "SELECT post.entries_so_far + (SELECT count(*) FROM entry AS behind "
    f"WHERE behind.position BETWEEN post.position + 1 AND post.position + {INTERVAL - 1} "
    f"AND {RUN_STAGE.equal('behind', 'post')} AND behind.sequence < ?3) "
    f"FROM entry AS post WHERE post.position = {_MILEPOST_BELOW}"
)


class ComparedPage(NamedTuple):
    """
    A page of one stage's entries of the first run, beside the other run's entries with the same sequences.

    Attributes:
        entries: How many the first run has in this page; 0 after the last page.
        common: How many of their sequences the other run also has.
        different: How many of those have another watermark or key.
        first_different: The first sequence of those.
        first_only: The first sequence that the other run lacks.
        last: The last sequence of the page.
    """

    entries: int
    common: int
    different: int
    first_different: int | None
    first_only: int | None
    last: int


def compared_page(connection: apsw.Connection, pair: StagePair, after: int) -> ComparedPage:
    """Compare the first run's entries with the next sequences above `after`, as of the moment of the pair."""
    if after < pair.start and pair.start > 0:  # begin at the milepost before that sequence
        numbers = pair.run_number, pair.stage_number
        milepost: int | None = connection.execute(_MILEPOST_AT, (*numbers, pair.start)).get
        after = -1 if milepost is None else milepost - 1
    bindings = pair.run_number, pair.other_run_number, pair.stage_number, after, pair.through, pair.start
    return ComparedPage(*connection.execute(_COMPARED_PAGE, bindings).get)


_MILEPOST_AT: Final = f"SELECT {RUN_STAGE.milepost(BOUND, 'AND post.sequence <= ?3', column='sequence')}"
_DIFFERENT: Final = (
    "one.offset <> other.offset OR one.event_time_ms <> other.event_time_ms OR one.idempotency_key <> other.idempotency_key"
)
_OTHER: Final = (
    "SELECT iif(same.sequence = one.sequence, same.position, NULL) FROM entry AS same WHERE same.position <= "
    "(SELECT position FROM entry INDEXED BY entry_by_sequence WHERE run_number = ?2 AND stage_number = ?3 "
    f"AND entries_so_far IS NOT NULL AND sequence <= one.sequence ORDER BY sequence DESC LIMIT 1) + {INTERVAL - 1} "
    "AND same.sequence <= one.sequence AND same.run_number = ?2 AND same.stage_number = ?3 "
    "ORDER BY same.position DESC LIMIT 1"
)
_COMPARED_PAGE: Final = (
    f"SELECT count(*), count(other.sequence), ifnull(sum({_DIFFERENT}), 0), "
    f"min(CASE WHEN {_DIFFERENT} THEN one.sequence END), "
    "min(CASE WHEN other.sequence IS NULL THEN one.sequence END), max(one.sequence) "
    "FROM entry AS post INDEXED BY entry_by_sequence "
    f"CROSS JOIN entry AS one ON one.position BETWEEN post.position AND min(post.position + {INTERVAL - 1}, ?5) "
    "AND one.run_number = ?1 AND one.stage_number = ?3 AND one.sequence >= ?6 "
    f"LEFT JOIN entry AS other ON other.position = ({_OTHER}) AND other.position <= ?5 "
    "WHERE post.run_number = ?1 AND post.stage_number = ?3 AND post.entries_so_far IS NOT NULL AND post.sequence > ?4 "
    "AND post.sequence <= ifnull((SELECT sequence FROM entry INDEXED BY entry_by_sequence WHERE run_number = ?1 "
    "AND stage_number = ?3 AND entries_so_far IS NOT NULL AND sequence > ?4 ORDER BY sequence "
    f"LIMIT 1 OFFSET {COMPARED_MILEPOSTS - 1}), {MAX_INTEGER})"
)

"""
Every question that is asked of SQLite, one function each: types in, rows out, and back.

Each lookup goes through an index of schema.sql; tests/test_query_plans.py holds them to that. Only mileposts are in the
indexes by run, by stage and by sequence: what lies between two of them is read along the chain (mileposts.py). No SQL text
is ever made from data: a statement is put together from constants, at import.

A run or stage that was never recorded has no number, and a comparison with that NULL finds nothing: no case of its own.
A statement is read to its end before a function returns, so that no read transaction stays open behind it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice, product, repeat
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, TypeVarTuple

import apsw

from milepost.checkpoint import MAX_INTEGER, Checkpoint, ResumePoint, Watermark
from milepost.mileposts import (
    APART,
    BOUND,
    RUN,
    RUN_NUMBER,
    RUN_STAGE,
    SCOPES,
    STAGE,
    STAGE_NUMBER,
    Scope,
    entries_so_far,
    scope_of,
)
from milepost.receipt import Head, Receipt, receipt_of
from milepost.signature import EMPTY
from milepost.summary import RunSummary, StageSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")
Given = TypeVarTuple("Given")

Statements = apsw.Connection | apsw.Cursor
"""What runs a statement: a connection, or a writer's own cursor, whose statements are not the caller's."""

PAGE: Final = 200
"""
How many rows a walk reads at a time: enough to hide the cost of a statement, and so few that the three tuples of each
are gone before Python's garbage collector, which looks at every 700 new ones, has seen them (a third of the time).
"""

BATCH: Final = 1000
"""How many rows of a frame are read at a time: with 200, what takes them needs twice the memory and a third more time."""

_OWN: Final = "ifnull(last.run_signature, last.signature)"  # of the run's own chain


_RUN_ID: Final = "(SELECT run_id FROM run WHERE run.run_number = entry.run_number)"
_STAGE_NAME: Final = "(SELECT stage FROM stage WHERE stage.stage_number = entry.stage_number)"
_FIELDS: Final = "entry.sequence, entry.offset, entry.event_time_ms, entry.idempotency_key, entry.at_ms"
_NAMES: Final = "LEFT JOIN run USING (run_number) LEFT JOIN stage USING (stage_number)"
_NAMED: Final = f"SELECT {_RUN_ID}, {_STAGE_NAME}, {_FIELDS}"
_NUMBERED: Final = f"SELECT entry.position, entry.run_number, entry.stage_number, {_FIELDS}"
_LINKED: Final = f"{_NUMBERED}, entry.signature"

_new: Final = tuple.__new__  # what Checkpoint(…) comes to in the end, without a call in Python on the way


def _checkpoint(
    run_id: str | None, stage: str | None, sequence: int, offset: int, event_time_ms: int, key: str, at_ms: int
) -> Checkpoint:
    if run_id is None or stage is None:
        raise apsw.CorruptError(f"the entry with idempotency_key {key!a} has a run or stage without a name")
    return _new(Checkpoint, (run_id, stage, sequence, _new(Watermark, (offset, event_time_ms)), key, at_ms))


def _known(value: T | None, what: str) -> T:
    """What each recorded entry brings with it, and only a file that was tampered with can lack."""
    if value is None:
        raise apsw.CorruptError(f"a {what} has no entries, or lacks what is kept about them")
    return value


def _given(run_id: str | None, stage: str | None) -> tuple[str, ...]:
    """The bindings for the names that are given."""
    if run_id is None:
        return () if stage is None else (stage,)
    return (run_id,) if stage is None else (run_id, stage)


# The end of the chain


def head(connection: apsw.Connection) -> Head:
    """How many entries the chain has, and its signature."""
    position, signature = tip(connection)
    return Head(position, _digits(signature))


def signature(connection: apsw.Connection) -> str:
    """The chain's signature, 64 hex digits."""
    return _digits(tip(connection)[1])


def tip(connection: Statements) -> tuple[int, bytes]:
    """The position and signature (32 bytes) of the last entry; of an empty chain, 0 and zeros."""
    row = connection.execute("SELECT position, signature FROM entry WHERE position = (SELECT max(position) FROM entry)").get
    if row is None:
        return 0, EMPTY
    position, signature = row
    if position < 1:
        raise apsw.CorruptError("the last entry has a position below 1")
    return position, signature


def _signature(signature: object) -> bytes:
    """A stored signature, instead of which a damaged file may have anything."""
    if type(signature) is not bytes or len(signature) != 32:
        raise apsw.CorruptError("a signature is not 32 bytes")
    return signature


def _digits(signature: object) -> str:
    """The 64 hex digits of a stored signature."""
    return _signature(signature).hex()


def signature_at(connection: apsw.Connection, position: int) -> bytes | None:
    """The signature (32 bytes) of the chain up to a position, or None if there is no such entry."""
    if position == 0:
        return EMPTY
    signature: bytes | None = connection.execute("SELECT signature FROM entry WHERE position = ?", (position,)).get
    return signature


def run_signature(connection: apsw.Connection, run_id: str) -> str:
    """The signature of the chain over one run's own entries, 64 hex digits; a lookup."""
    signature: bytes | None = connection.execute(_RUN_SIGNATURE, (run_id,)).get
    return _digits(EMPTY if signature is None else signature)


_RUN_SIGNATURE: Final = f"SELECT {RUN.last('given', _OWN)} FROM {RUN.given}"


# Single checkpoints


def latest(connection: Statements, run_id: str | None, stage: str | None, as_of_ms: int | None = None) -> Checkpoint | None:
    """The last checkpoint, of one run or stage where that is given, whose wall clock is not above `as_of_ms`."""
    scope = scope_of(run_id, stage)
    if as_of_ms is None:
        row = connection.execute(_LATEST[scope], _given(run_id, stage)).get
    else:
        row = connection.execute(_LATEST_AS_OF[scope], (*_given(run_id, stage), as_of_ms)).get
    if row is None:
        return None
    found_run, found_stage, sequence, offset, event_time_ms, key, at_ms = row
    return _checkpoint(run_id or found_run, stage or found_stage, sequence, offset, event_time_ms, key, at_ms)


# What is given is not looked up again.
_COLUMNS: Final[dict[Scope | None, str]] = {
    None: f"{_RUN_ID}, {_STAGE_NAME}, {_FIELDS}",
    RUN: f"NULL, {_STAGE_NAME}, {_FIELDS}",
    STAGE: f"{_RUN_ID}, NULL, {_FIELDS}",
    RUN_STAGE: f"NULL, NULL, {_FIELDS}",
}
_LATEST: Final[dict[Scope | None, str]] = {
    None: f"SELECT run_id, stage, {_FIELDS} FROM entry {_NAMES} WHERE position > 0 ORDER BY position DESC LIMIT 1",
    **{scope: f"SELECT {_COLUMNS[scope]} FROM {scope.last_given()}" for scope in SCOPES},
}
_LATEST_AS_OF: Final[dict[Scope | None, str]] = {
    None: f"SELECT {_COLUMNS[None]} FROM entry WHERE position > 0 AND at_ms <= ? ORDER BY position DESC LIMIT 1",
    **{
        scope: f"SELECT {_COLUMNS[scope]} FROM {scope.given} CROSS JOIN {scope.entries('given')} WHERE entry.at_ms <= ? "
        f"ORDER BY post.{scope.order} DESC, entry.position DESC LIMIT 1"
        for scope in SCOPES
    },
}


def get(connection: apsw.Connection, run_id: str, stage: str, sequence: int) -> Checkpoint | None:
    """The checkpoint with one sequence."""
    row = connection.execute(_GET, (run_id, stage, sequence, sequence)).get
    if row is None or row[0] != sequence:
        return None
    _, offset, event_time_ms, key, at_ms = row
    return _checkpoint(run_id, stage, sequence, offset, event_time_ms, key, at_ms)


# The last row whose sequence is not above the one that is looked for: the last such milepost, or close behind it.
_GET: Final = (
    f"SELECT {_FIELDS} FROM {RUN_STAGE.given} CROSS JOIN entry ON entry.position <= "
    f"{RUN_STAGE.milepost('given', 'AND post.sequence <= ?')} + {APART - 1} AND entry.sequence <= ? "
    f"AND {RUN_STAGE.equal('entry', 'given')} ORDER BY entry.position DESC LIMIT 1"
)


def find(connection: apsw.Connection, idempotency_key: str, run_id: str | None, stage: str | None) -> list[Checkpoint]:
    """The checkpoints with one key, in chain order: at most one in each stage of each run."""
    bindings = idempotency_key, *_given(run_id, stage)
    found: list[tuple[Any, ...]] = connection.execute(_FIND[scope_of(run_id, stage)], bindings).fetchall()
    found.sort()  # by position, which comes first; the index has them by run and stage
    return [_checkpoint(*fields) for _, *fields in found]


_WITH_KEY: Final = (
    f"SELECT position, run_id, stage, {_FIELDS} FROM entry INDEXED BY entry_by_key {_NAMES} WHERE idempotency_key = ?"
)
_FIND: Final[dict[Scope | None, str]] = {
    None: _WITH_KEY,
    RUN: f"{_WITH_KEY} AND run_number = {RUN_NUMBER}",
    STAGE: f"{_WITH_KEY} AND stage_number = {STAGE_NUMBER}",
    RUN_STAGE: f"{_WITH_KEY} AND run_number = {RUN_NUMBER} AND stage_number = {STAGE_NUMBER}",
}


def resume_points(connection: apsw.Connection, run_id: str | None, as_of_ms: int | None = None) -> dict[str, ResumePoint]:
    """
    The last checkpoint of every stage whose wall clock is not above `as_of_ms`, of one run where that is given.

    In the order of the stages' first appearance.
    """
    found = connection.execute(
        _RESUME_POINTS[run_id is not None], (*_given(run_id, None), MAX_INTEGER if as_of_ms is None else as_of_ms)
    )
    entries = [_checkpoint(*row) for row in found]
    return {entry.stage: ResumePoint(entry.run_id, entry.stage, entry.sequence, entry.watermark) for entry in entries}


def _last_as_of(scope: Scope, of: str) -> str:
    """The position of the last row whose wall clock is not above a time."""
    return (
        f"(SELECT entry.position FROM {scope.entries(of)} WHERE entry.at_ms <= ? "
        f"ORDER BY post.{scope.order} DESC, entry.position DESC LIMIT 1)"
    )


_RESUME_POINTS: Final = {
    False: f"{_NAMED} FROM stage AS every CROSS JOIN entry ON entry.position = {_last_as_of(STAGE, 'every')} "
    "WHERE every.stage_number > 0 ORDER BY every.stage_number",
    True: f"{_NAMED} FROM {RUN.given} CROSS JOIN lane ON lane.run_number = given.run_number "
    f"CROSS JOIN entry ON entry.position = {_last_as_of(RUN_STAGE, 'lane')} ORDER BY lane.stage_number",
}


# Walks along the chain


@dataclass(frozen=True, slots=True)
class Walk:
    """Which entries, by run, stage and wall clock (inclusive), and in which direction."""

    run_id: str | None = None
    stage: str | None = None
    since_ms: int = 0
    until_ms: int = MAX_INTEGER
    newest_first: bool = False


def page(
    connection: apsw.Connection, walk: Walk, after: int, before: int, limit: int, *, linked: bool
) -> list[tuple[Any, ...]]:
    """The first `limit` entries of a walk between two positions, as numbered rows, with their signatures if `linked`."""
    if after + 1 >= before:
        return []
    scope = scope_of(walk.run_id, walk.stage)
    # The mileposts behind which there may be such rows.
    least, most = after + 2 - APART, before - 1
    if walk.run_id is not None and walk.stage is not None:
        least, most = _sequences(connection, walk.run_id, walk.stage, after, before)
    mileposts = () if scope is None else (least, most)
    names = _given(walk.run_id, walk.stage)
    bindings = (*names, after + 1, before - 1, *mileposts, walk.since_ms, walk.until_ms, limit)
    found = connection.execute(_PAGE[scope, walk.newest_first, linked], bindings).fetchall()
    return _advancing(found, before, -1) if walk.newest_first else _advancing(found, after)


def _page(scope: Scope | None, columns: str, direction: str) -> str:
    if scope is None:
        where, order = "entry WHERE entry.position BETWEEN ? AND ?", f"entry.position {direction}"
    else:
        rows = f"{scope.given} CROSS JOIN {scope.entries('given', '?', '?')}"
        where = f"{rows} WHERE post.{scope.order} BETWEEN ? AND ?"
        order = f"post.{scope.order} {direction}, entry.position {direction}"
    return f"{columns} FROM {where} AND entry.at_ms BETWEEN ? AND ? ORDER BY {order} LIMIT ?"


_PAGE: Final = {
    (scope, newest_first, linked): _page(scope, _LINKED if linked else _NUMBERED, "DESC" if newest_first else "ASC")
    for scope in (None, *SCOPES)
    for newest_first in (False, True)
    for linked in (False, True)
}


def _sequences(connection: apsw.Connection, run_id: str, stage: str, after: int, before: int) -> tuple[int, int]:
    """
    The sequences of the first and last milepost of a stage of a run behind which there may be rows between two positions.

    They are found by halving, not by walking.
    """
    numbers = connection.execute(_NUMBERS, (run_id, stage)).get

    def position(sequence: int) -> int:
        return connection.execute(_POSITION_OF_SEQUENCE, (*numbers, sequence)).get or MAX_INTEGER

    least, most = connection.execute(_SEQUENCES, numbers * 2).get
    if least is None:
        return 1, 0
    every = range(MAX_INTEGER)
    if position(most) >= before:
        most = bisect_right(every, before - 1, least, most, key=position) - 1
    if after > 0 and least < most:
        beyond = position(most) > after + 1
        least = max(bisect_right(every, after + 1, least, most, key=position) - 1, least) if beyond else most
    return least, most


_NUMBERS: Final = f"SELECT {RUN_NUMBER}, {STAGE_NUMBER}"
_MILEPOSTS: Final = (
    "FROM entry INDEXED BY entry_by_sequence WHERE run_number = ? AND stage_number = ? AND milepost IS NOT NULL"
)
_SEQUENCES: Final = f"SELECT (SELECT min(sequence) {_MILEPOSTS}), (SELECT max(sequence) {_MILEPOSTS})"
_POSITION_OF_SEQUENCE: Final = f"SELECT position {_MILEPOSTS} AND sequence >= ? ORDER BY sequence LIMIT 1"


def _advancing(found: list[tuple[Any, ...]], start: int, step: int = 1) -> list[tuple[Any, ...]]:
    """A page of rows; in a damaged file a tree may lead in circles, and a walk along it would never end."""
    if found and (found[-1][0] - start) * step < len(found):
        raise apsw.CorruptError("the rows of a page do not rise from one to the next")
    return found


def checkpoints(connection: apsw.Connection, numbered: list[tuple[Any, ...]]) -> list[Checkpoint]:
    """The checkpoints of numbered rows."""
    runs, stages = _names(connection)
    if not numbered:
        return []
    # Column by column: what would be a loop in Python is one in C, in two thirds of the time.
    _, run_numbers, stage_numbers, sequences, offsets, event_times_ms, keys, ats_ms, *_ = zip(*numbered, strict=True)
    marks = map(_new, repeat(Watermark), zip(offsets, event_times_ms, strict=True))
    names = _each_name(runs, run_numbers), _each_name(stages, stage_numbers)
    return list(map(_new, repeat(Checkpoint), zip(*names, sequences, marks, keys, ats_ms, strict=False)))


def names(connection: apsw.Connection, numbered: list[tuple[Any, ...]]) -> tuple[list[str], list[str], list[str]]:
    """Of each numbered row the run_id, the stage, and the signature as 64 hex digits."""
    runs, stages = _names(connection)
    return [runs[row[1]] for row in numbered], [stages[row[2]] for row in numbered], [_digits(row[8]) for row in numbered]


def receipts(numbered: Iterable[tuple[Any, ...]]) -> list[Receipt]:
    """The receipts of numbered rows."""
    return [receipt_of(row[0], _signature(row[8])) for row in numbered]


def _each_name(names: _Names, numbers: Sequence[int]) -> Iterator[str]:
    """The names of a page's numbers, which for the most part are one: looked up once then."""
    if numbers.count(numbers[0]) == len(numbers):
        return repeat(names[numbers[0]])
    return map(names.__getitem__, numbers)


class _Names(dict[int, str]):
    """The names of the few numbers that a page of rows has. Not kept longer: a rollback may give a number away again."""

    def __init__(self, connection: apsw.Connection, statement: str) -> None:
        super().__init__()
        self._connection, self._statement = connection, statement

    def __missing__(self, number: int) -> str:
        name: str | None = self._connection.execute(self._statement, (number,)).get
        if name is None:
            raise apsw.CorruptError(f"number {number} of a run or stage has no name")
        self[number] = name
        return name


def _names(connection: apsw.Connection) -> tuple[_Names, _Names]:
    """Of runs, and of stages."""
    return (
        _Names(connection, "SELECT run_id FROM run WHERE run_number = ?"),
        _Names(connection, "SELECT stage FROM stage WHERE stage_number = ?"),
    )


# Summaries


def runs(connection: apsw.Connection, after: int = 0) -> list[RunSummary]:
    """Every run above a run number, in the order of first appearance."""
    found: list[tuple[Any, ...]] = connection.execute(_RUNS, (after,)).fetchall()
    return [_run_summary(*row) for row in found]


def _run_summary(run_id: str, entries: int, stages: str, first_at_ms: int, last_at_ms: int, signature: object) -> RunSummary:
    try:
        names = tuple(json.loads(stages))
    except ValueError as error:
        raise apsw.CorruptError(f"run {run_id!a} has a stage whose name is no text") from error
    _known(signature, "run")
    return RunSummary(run_id, entries, names, first_at_ms, last_at_ms, _digits(signature))


_FIRST_AND_LAST_OF_RUN: Final = f"{RUN.milepost('run', column='at_ms', last=False)}, {RUN.last('run', 'last.at_ms')}"
_RUNS: Final = (
    f"SELECT run_id, (SELECT sum({entries_so_far('lane')}) FROM lane WHERE lane.run_number = run.run_number), "
    "(SELECT json_group_array(stage) FROM (SELECT stage FROM lane CROSS JOIN stage USING (stage_number) "
    f"WHERE lane.run_number = run.run_number ORDER BY stage_number)), {_FIRST_AND_LAST_OF_RUN}, "
    f"{RUN.last('run', _OWN)} FROM run WHERE run_number > ? ORDER BY run_number"
)


def stages(connection: apsw.Connection) -> list[StageSummary]:
    """Every stage, in the order of first appearance."""
    return [StageSummary(*row) for row in connection.execute(_STAGES)]


_STAGES: Final = (
    f"SELECT stage, counted.entries, counted.runs, {STAGE.milepost('stage', column='at_ms', last=False)}, "
    f"{STAGE.last('stage', 'last.at_ms')} FROM stage "
    f"JOIN (SELECT stage_number, sum({entries_so_far('lane')}) AS entries, count(*) AS runs FROM lane "
    "GROUP BY stage_number) AS counted USING (stage_number) ORDER BY stage_number"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What a file holds at one moment, at a cost that grows with the number of runs and stages only.

    Attributes:
        head: The chain's.
        first_at_ms: The wall clock of the first entry.
        last: The last entry.
        spans: Of every run: run_id, and the wall clocks of its first and its last entry.
        last_runs: Summaries of the last runs, newest first.
        stages: Of every stage: where it starts again, how many entries it has in that run, its first sequence there.
        foremost: Where the first stage of the run of the last entry starts again.
    """

    head: Head
    first_at_ms: int | None
    last: Checkpoint | None
    spans: list[tuple[str, int, int]]
    last_runs: tuple[RunSummary, ...]
    stages: list[tuple[ResumePoint, int, int]]
    foremost: ResumePoint | None


def contents(connection: apsw.Connection, last_runs: int) -> Contents:
    """What the file holds, with summaries of so many runs."""
    return _at_one_moment(connection, _contents, last_runs)


def _contents(connection: apsw.Connection, last_runs: int) -> Contents:
    last = latest(connection, None, None)
    spans = [
        (run_id, _known(first_at_ms, "run"), last_at_ms) for run_id, first_at_ms, last_at_ms in connection.execute(_SPANS)
    ]
    return Contents(
        head(connection),
        connection.execute("SELECT at_ms FROM entry WHERE position = 1").get,
        last,
        spans,
        tuple(reversed(runs(connection, after=len(spans) - last_runs)[-last_runs:])),
        _stage_points(connection),
        next(iter(resume_points(connection, last.run_id).values()), None) if last else None,
    )


_SPANS: Final = f"SELECT run_id, {_FIRST_AND_LAST_OF_RUN} FROM run WHERE run_number > 0"


def _stage_points(connection: apsw.Connection) -> list[tuple[ResumePoint, int, int]]:
    return [
        (ResumePoint(_known(run_id, "stage"), stage, sequence, Watermark(*mark)), _known(entries, "stage"), first_sequence)
        for run_id, stage, sequence, *mark, entries, first_sequence in connection.execute(_STAGE_POINTS)
    ]


_STAGE_POINTS: Final = (
    f"SELECT {_RUN_ID}, stage, sequence, offset, event_time_ms, {entries_so_far('entry')}, "
    f"{RUN_STAGE.milepost('entry', column='sequence', last=False)} FROM stage AS every CROSS JOIN entry "
    f"ON entry.position = {STAGE.last('every', 'last.position')} WHERE every.stage_number > 0 ORDER BY every.stage_number"
)


def _at_one_moment(connection: apsw.Connection, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
    """Let the statements of a query see the file as it is at one moment."""
    if connection.in_transaction:
        return query(connection, *given)
    try:
        connection.execute("BEGIN DEFERRED")
        return query(connection, *given)
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


# What compare() reads

COMPARED_MILEPOSTS: Final = 500
"""How many mileposts of a run are compared in one statement: up to 10,000 entries, for which other threads wait."""


class StagePair(NamedTuple):
    """One stage of two runs at one moment: how many entries it has in each, while the last position was `through`."""

    through: int
    run_number: int | None
    other_run_number: int | None
    stage_number: int
    stage: str
    entries: int
    other_entries: int

    def swapped(self) -> StagePair:
        """The same pair, seen from the other run."""
        return self._replace(
            run_number=self.other_run_number,
            other_run_number=self.run_number,
            entries=self.other_entries,
            other_entries=self.entries,
        )


def stage_pairs(connection: apsw.Connection, run_id: str, other_run_id: str) -> list[StagePair]:
    """Every stage that one of two runs has, in the order of the stages' first appearance."""
    return [StagePair(*row) for row in connection.execute(_STAGE_PAIRS, (run_id, other_run_id))]


_STAGE_PAIRS: Final = (
    "SELECT (SELECT max(position) FROM entry), one.run_number, other.run_number, every.stage_number, every.stage, "
    f"ifnull({entries_so_far('one')}, 0), ifnull({entries_so_far('other')}, 0) FROM stage AS every "
    f"LEFT JOIN lane AS one ON one.run_number = {RUN_NUMBER} "
    "AND one.stage_number = every.stage_number "
    f"LEFT JOIN lane AS other ON other.run_number = {RUN_NUMBER} "
    "AND other.stage_number = every.stage_number "
    "WHERE every.stage_number > 0 AND ifnull(one.run_number, other.run_number) IS NOT NULL ORDER BY every.stage_number"
)


class ComparedPage(NamedTuple):
    """
    A page of one stage's entries of the first run, beside the other run's entries with the same sequences.

    Attributes:
        entries: How many the first run has in this page; 0 behind the last page, where all else is None.
        common: How many of their sequences the other run has too.
        different: How many of these have another watermark or key.
        first_different: The first sequence of these.
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
    """Compare the first run's entries with the next sequences above `after`, as they were when the pair was read."""
    bindings = pair.run_number, pair.other_run_number, pair.stage_number, after, pair.through
    return ComparedPage(*connection.execute(_COMPARED_PAGE, bindings).get)


_DIFFERENT: Final = (
    "one.offset <> other.offset OR one.event_time_ms <> other.event_time_ms OR one.idempotency_key <> other.idempotency_key"
)
_OTHER: Final = (
    "SELECT iif(same.sequence = one.sequence, same.position, NULL) FROM entry AS same WHERE same.position <= "
    "(SELECT position FROM entry INDEXED BY entry_by_sequence WHERE run_number = ?2 AND stage_number = ?3 "
    f"AND milepost IS NOT NULL AND sequence <= one.sequence ORDER BY sequence DESC LIMIT 1) + {APART - 1} "
    "AND same.sequence <= one.sequence AND same.run_number = ?2 AND same.stage_number = ?3 "
    "ORDER BY same.position DESC LIMIT 1"
)
_COMPARED_PAGE: Final = (
    f"SELECT count(*), count(other.sequence), ifnull(sum({_DIFFERENT}), 0), "
    f"min(CASE WHEN {_DIFFERENT} THEN one.sequence END), "
    "min(CASE WHEN other.sequence IS NULL THEN one.sequence END), max(one.sequence) "
    "FROM entry AS post INDEXED BY entry_by_sequence "
    f"CROSS JOIN entry AS one ON one.position BETWEEN post.position AND min(post.position + {APART - 1}, ?5) "
    "AND one.run_number = ?1 AND one.stage_number = ?3 "
    f"LEFT JOIN entry AS other ON other.position = ({_OTHER}) AND other.position <= ?5 "
    "WHERE post.run_number = ?1 AND post.stage_number = ?3 AND post.milepost IS NOT NULL AND post.sequence > ?4 "
    "AND post.sequence <= ifnull((SELECT sequence FROM entry INDEXED BY entry_by_sequence WHERE run_number = ?1 "
    "AND stage_number = ?3 AND milepost IS NOT NULL AND sequence > ?4 ORDER BY sequence "
    f"LIMIT 1 OFFSET {COMPARED_MILEPOSTS - 1}), {MAX_INTEGER})"
)


# What pictures show


@dataclass(frozen=True, slots=True)
class Lane:
    """A stage of a run, and how many checkpoints it has."""

    run_number: int
    stage_number: int
    run_id: str
    stage: str
    entries: int


def _typed(row: tuple[Any, ...] | None, *types: type) -> tuple[Any, ...]:
    """A row with values of these types, instead of which a damaged file may have anything."""
    if row is None or tuple(map(type, row)) != types:
        raise apsw.CorruptError(f"a row is {row!a:.200}, as no append leaves it")
    return row


def count_of_runs(connection: apsw.Connection) -> int:
    """How many runs there are."""
    number: int | None = connection.execute("SELECT max(run_number) FROM run").get
    return number or 0


def ends_of_lane(connection: apsw.Connection, lane: Lane) -> list[tuple[int, ...]]:
    """Sequence, offset, event_time_ms and at_ms of the first and of the last checkpoint of a lane."""
    numbers = lane.run_number, lane.stage_number
    found = [connection.execute(statement, numbers).get for statement in (_FIRST_OF_LANE, _LAST_OF_LANE)]
    return [_typed(row, int, int, int, int) for row in found]


def between_in_lane(connection: apsw.Connection, lane: Lane, low: int, high: int) -> tuple[int, ...] | None:
    """The same of a checkpoint of a lane between two sequences, from about the middle, or None if there is none."""
    numbers, middle = (lane.run_number, lane.stage_number), (low + high) // 2
    if middle == low:
        return None
    row: tuple[Any, ...] | None = connection.execute(_FROM_MIDDLE, (*numbers, middle, high - 1)).get
    if row is None:
        row = connection.execute(_BELOW_MIDDLE, (*numbers, low + 1, middle - 1)).get
    return row and _typed(row, int, int, int, int)


_OF_LANE: Final = f"SELECT entry.sequence, entry.offset, entry.event_time_ms, entry.at_ms FROM {RUN_STAGE.entries(BOUND)}"
_MILEPOST_BELOW: Final = RUN_STAGE.milepost(BOUND, "AND post.sequence <= ?3", column="sequence")
_FIRST_OF_LANE: Final = f"{_OF_LANE} ORDER BY post.sequence, entry.position LIMIT 1"
_LAST_OF_LANE: Final = f"{_OF_LANE} ORDER BY post.sequence DESC, entry.position DESC LIMIT 1"
# From the last milepost on whose sequence is not above the least that is looked for.
_BETWEEN: Final = (
    f"{_OF_LANE} WHERE entry.sequence BETWEEN ?3 AND ?4 AND post.sequence <= ?4 AND post.sequence >= "
    f"ifnull({_MILEPOST_BELOW}, 0)"
)
_FROM_MIDDLE: Final = f"{_BETWEEN} ORDER BY post.sequence, entry.position LIMIT 1"
_BELOW_MIDDLE: Final = f"{_BETWEEN} ORDER BY post.sequence DESC, entry.position DESC LIMIT 1"


# What verify() reads


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is kept beside the rows, at one moment: names by number, and which stages each run has (as numbers)."""

    entries: int
    signature: bytes
    run_names: dict[int, str]
    stage_names: dict[int, str]
    lanes: set[tuple[Any, ...]]


def snapshot(connection: apsw.Connection) -> Snapshot:
    """What is kept while the last position was `entries`, and the chain's signature what that row says."""
    return _at_one_moment(connection, _snapshot)


def _snapshot(connection: apsw.Connection) -> Snapshot:
    lanes: list[tuple[Any, ...]] = connection.execute("SELECT run_number, stage_number FROM lane").fetchall()
    return Snapshot(*tip(connection), _run_names(connection), _stage_names(connection), set(lanes))


def snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    """A snapshot, and how many entries a run had at that moment."""
    return _at_one_moment(connection, _snapshot_of_run, run_id)


def _snapshot_of_run(connection: apsw.Connection, run_id: str) -> tuple[Snapshot, int]:
    return _snapshot(connection), entries_of_run(connection, run_id)


def _run_names(connection: apsw.Connection) -> dict[int, str]:
    """The run_id of every run number; what is not UTF-8 comes with lone surrogates, and so is no valid name."""
    found = connection.execute("SELECT run_number, CAST(run_id AS BLOB) FROM run")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def _stage_names(connection: apsw.Connection) -> dict[int, str]:
    """The stage of every stage number, as `_run_names`."""
    found = connection.execute("SELECT stage_number, CAST(stage AS BLOB) FROM stage")
    return {number: (name or b"").decode(errors="surrogateescape") for number, name in found}


def empty_lanes(connection: apsw.Connection) -> list[tuple[Any, ...]]:
    """(run_number, stage_number) of every lane without an entry; no append leaves one."""
    return connection.execute(_EMPTY_LANES).fetchall()


_EMPTY_LANES: Final = f"SELECT run_number, stage_number FROM lane WHERE {RUN_STAGE.milepost('lane')} IS NULL"


class Before(NamedTuple):
    """
    How far a run, and a stage of it, had come before a position of the chain; None for what had not begun.

    Attributes:
        run_signature: The run's own chain.
        sequence: The stage's last sequence in the run.
        milepost: The position of its last milepost.
        entries: How many entries it had.
    """

    run_signature: bytes | None
    sequence: int | None
    milepost: int | None
    entries: int | None


def before(connection: apsw.Connection, position: int, run_number: int, stage_number: int) -> Before:
    """How far a run, and a stage of it, had come before a position."""
    return Before(*connection.execute(_BEFORE, (run_number, stage_number, position)).get)


# Of its mileposts before the position, a stage's last one has the highest sequence: the index gives it behind those that
# stand at the position or later, which a walk from there on reads anyway. By run, it would stand behind those of all stages.
_BEFORE: Final = (
    f"SELECT (SELECT {_OWN} FROM entry AS last WHERE last.position <= "
    f"min(?3 - 1, {RUN.milepost(BOUND, 'AND post.position < ?3')} + {APART - 1}) AND last.run_number = ?1 "
    "ORDER BY last.position DESC LIMIT 1), "
    f"(SELECT last.sequence FROM entry AS last WHERE last.position <= min(?3 - 1, post.position + {APART - 1}) "
    f"AND {RUN_STAGE.equal('last', BOUND)} ORDER BY last.position DESC LIMIT 1), "
    "post.position, post.milepost + (SELECT count(*) FROM entry AS behind WHERE behind.position "
    f"BETWEEN post.position + 1 AND min(post.position + {APART - 1}, ?3 - 1) AND {RUN_STAGE.equal('behind', BOUND)}) "
    f"FROM (SELECT 1) LEFT JOIN entry AS post ON post.position = {RUN_STAGE.milepost(BOUND, 'AND post.position < ?3')}"
)


def stray_positions(connection: apsw.Connection) -> list[int]:
    """Positions that no append gives, below 1: the first hundred."""
    return [row[0] for row in connection.execute("SELECT position FROM entry WHERE position < 1 LIMIT 100")]


def links(connection: apsw.Connection, after: int, through: int) -> list[tuple[Any, ...]]:
    """One page of numbered rows above `after`, as they are, whatever is in them."""
    try:
        found = connection.execute(_LINKS, (after, through, PAGE)).fetchall()
    except UnicodeDecodeError:
        found = _with_any_text(connection.execute(_ANY_LINKS, (after, through, PAGE)))
    return _advancing(found, after)


def _whole(key: str) -> str:
    """All columns of a row, the key as it is or, where it may be no UTF-8, as bytes."""
    return (
        "SELECT entry.position, entry.run_number, entry.stage_number, entry.sequence, entry.offset, entry.event_time_ms, "
        f"{key}, entry.at_ms, entry.signature, entry.run_signature, entry.milepost"
    )


_WHOLE: Final = _whole("entry.idempotency_key")
_WHOLE_WITH_BYTES: Final = _whole("CAST(entry.idempotency_key AS BLOB)")
_BEHIND: Final = "FROM entry WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
_LINKS: Final = f"{_WHOLE} {_BEHIND}"
_ANY_LINKS: Final = f"{_WHOLE_WITH_BYTES} {_BEHIND}"


def links_of_run(connection: apsw.Connection, run_id: str, after: int, through: int) -> list[tuple[Any, ...]]:
    """One page of numbered rows of one run above `after`, each with the signature of the row before it in the chain."""
    bindings = run_id, after, through, after + 2 - APART, through, PAGE
    try:
        found = connection.execute(_LINKS_OF_RUN, bindings).fetchall()
    except UnicodeDecodeError:
        found = _with_any_text(connection.execute(_ANY_LINKS_OF_RUN, bindings))
    return _advancing(found, after)


_BEHIND_IN_RUN: Final = (
    "(SELECT signature FROM entry AS before WHERE before.position = entry.position - 1) "
    f"FROM {RUN.given} CROSS JOIN {RUN.entries('given', '? + 1', '?')} WHERE post.position BETWEEN ? AND ? "
    "ORDER BY post.position, entry.position LIMIT ?"
)
_LINKS_OF_RUN: Final = f"{_WHOLE}, {_BEHIND_IN_RUN}"
_ANY_LINKS_OF_RUN: Final = f"{_WHOLE_WITH_BYTES}, {_BEHIND_IN_RUN}"


def _with_any_text(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows whose key came as bytes: what is not UTF-8 gets lone surrogates, which no recorded key has."""
    return [(*row[:6], row[6] and row[6].decode(errors="surrogateescape"), *row[7:]) for row in found]


class Integrity(NamedTuple):
    """
    What SQLite found in the file, beside its virtual tables.

    Attributes:
        problems: What is wrong: the first thing in the file or, where not all of it can be checked, in each table.
        unchecked: The tables that cannot be checked.
        virtual: The virtual tables.
    """

    problems: list[str]
    unchecked: list[str]
    virtual: list[str]


def integrity(connection: apsw.Connection) -> Integrity:
    """
    Whether SQLite finds the file sound, on a connection that is used for nothing else; it ends, whatever is in the file.

    SQLite looks at every page of every tree once, and goes on to the rows only if they are trees: asked for one problem, it
    never walks along what leads in circles. Modules of virtual tables know no such order, and so are left out.

    A table may need a collation or a function that this connection does not know, or in a hostile file a program without
    end. SQLite then checks nothing at all; so each table is checked by itself, and what cannot be checked is named. That two
    of them share a page, or that one is lost, is not seen then; whatever that does to our own tables is.

    Source:
        https://sqlite.org/pragma.html#pragma_integrity_check
    """
    connection.drop_modules(None)
    connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _MOST_OPERATIONS)
    tables: list[tuple[Any, ...]] = connection.execute(_TABLES).fetchall()
    virtual = [name for name, root in tables if not root]
    try:
        return Integrity(_first(connection.execute(_FIRST_PROBLEM)), [], virtual)
    except _UNCHECKED:
        pass
    problems, unchecked = list[str](), list[str]()
    for name in ("sqlite_schema", *(name for name, root in tables if root)):
        try:
            problems += _first(_of_table(connection, name))
        except _UNCHECKED:
            if name in _OURS:
                raise
            unchecked.append(name)
    return Integrity(problems, unchecked, virtual)


# Our own statements have a hundred. Generated columns that are made of one another double a check with each column.
_MOST_OPERATIONS: Final = 5_000_000
_OURS: Final = {"sqlite_schema", "keyed", "run", "stage", "lane", "entry"}
# Something is unknown to the connection; a program is too long; what it makes is too large.
_UNCHECKED: Final = apsw.SQLError, apsw.NoMemError, apsw.TooBigError
_TABLES: Final = "SELECT name, rootpage FROM sqlite_schema WHERE lower(type) = 'table'"
_FIRST_PROBLEM: Final = "PRAGMA integrity_check(1)"
_PROBLEMS_OF_TABLE: Final = "SELECT integrity_check FROM pragma_integrity_check(?)"
_COLUMNS_OF_TABLE: Final = "SELECT name FROM pragma_table_info(?)"


def _first(found: apsw.Cursor) -> list[str]:
    """The first problem, if there is one; SQLite does not go on to look for another."""
    try:
        return [message for (message,) in islice(found, 1) if message != "ok"]
    finally:
        found.close()


def _of_table(connection: apsw.Connection, name: str) -> apsw.Cursor:
    """What is wrong with one table and its indexes."""
    if re.match(r"[-+]?[0-9]", name):  # SQLite takes the name for a number of problems, and checks the whole file
        raise apsw.SQLError(f"SQLite cannot check the table {name!a} by itself")
    return connection.execute(_PROBLEMS_OF_TABLE, (name,))


def virtual_integrity(connection: apsw.Connection, names: Iterable[str]) -> Integrity:
    """The same of virtual tables, by the modules that they belong to."""
    problems, unchecked = list[str](), list[str]()
    for name in names:
        try:
            connection.execute(_COLUMNS_OF_TABLE, (name,)).fetchall()  # else a table without its module counts as sound
            problems += [message for (message,) in _of_table(connection, name) if message != "ok"]
        except apsw.SQLError:
            unchecked.append(name)
    return Integrity(problems, unchecked, [])


def integrity_check(connection: apsw.Connection) -> list[str]:
    """Up to a hundred things that SQLite finds wrong, where there are any; on a connection as `integrity` takes it."""
    connection.drop_modules(None)
    connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _MOST_OPERATIONS)
    return [message for (message,) in connection.execute("PRAGMA integrity_check") if message != "ok"]


# What an append reads and writes, inside its transaction


def state(connection: Statements, run_id: str, stage: str) -> tuple[Any, ...]:
    """
    All that an append has to know before it writes, in one statement.

    Returns:
        (position and signature of the chain's last entry; run_number, stage_number, signature of the run's own chain;
        sequence, offset and event_time_ms of the stage's last checkpoint in that run, and the position of its last
        milepost): None for what is not there yet.
    """
    row: tuple[Any, ...] | None = connection.execute(_STATE, (run_id, stage)).get
    if row is None:  # the first entry of the file
        numbers: tuple[Any, ...] = connection.execute(_NUMBERS, (run_id, stage)).get
        return (0, EMPTY, *numbers, None, None, None, None, None)
    if tuple(map(type, row)) not in _STATES or not 0 < row[0] < MAX_INTEGER:
        raise apsw.CorruptError("the last rows are not as an append leaves them")
    return row


# What the columns of a sound row may be; in a damaged file SQLite gives what it finds, STRICT or not.
_STATES: Final = {
    (int, bytes, *numbers, signature, *last)
    for numbers in product((int, NoneType), repeat=2)
    for signature in (bytes, NoneType)
    for last in ((int,) * 4, (NoneType,) * 4)
}
_FOUND: Final = {"run_number": "run.run_number", "stage_number": "stage.stage_number"}
_STATE: Final = (
    f"SELECT tip.position, tip.signature, run.run_number, stage.stage_number, {RUN.last(_FOUND, _OWN)}, "
    f"own.sequence, own.offset, own.event_time_ms, {RUN_STAGE.milepost(_FOUND)} "
    "FROM entry AS tip LEFT JOIN run ON run_id = ? LEFT JOIN stage ON stage.stage = ? "
    f"LEFT JOIN entry AS own ON own.position = {RUN_STAGE.last(_FOUND, 'last.position')} "
    "WHERE tip.position = (SELECT max(position) FROM entry)"
)


def entries_of_lane(connection: Statements, run_number: int, stage_number: int) -> int:
    """How many entries a stage has in a run."""
    entries: int | None = connection.execute(_ENTRIES_OF_LANE, (run_number, stage_number)).get
    return entries or 0


_ENTRIES_OF_LANE: Final = f"SELECT {entries_so_far(BOUND)}"


def entries_of_run(connection: apsw.Connection, run_id: str) -> int:
    """How many entries a run has."""
    entries: int | None = connection.execute(_ENTRIES_OF_RUN, (run_id,)).get
    return entries or 0


_ENTRIES_OF_RUN: Final = (
    f"SELECT sum({entries_so_far('lane')}) FROM {RUN.given} CROSS JOIN lane ON lane.run_number = given.run_number"
)


def add_run(connection: Statements, run_id: str) -> int:
    """Give a run its number."""
    number: int = connection.execute("INSERT INTO run (run_id) VALUES (?) RETURNING run_number", (run_id,)).get
    return number


def add_stage(connection: Statements, stage: str) -> int:
    """Give a stage its number."""
    number: int = connection.execute("INSERT INTO stage (stage) VALUES (?) RETURNING stage_number", (stage,)).get
    return number


def add_lane(connection: Statements, run_number: int, stage_number: int) -> None:
    """Note that a run has a stage."""
    connection.execute("INSERT INTO lane (run_number, stage_number) VALUES (?, ?)", (run_number, stage_number))


def add_entries(connection: Statements, numbered: Sequence[tuple[Any, ...]]) -> None:
    """Add numbered rows at the end of the chain; a key that the stage of the run has already is a ConstraintError."""
    if len(numbered) == 1:
        connection.execute(_ADD_ENTRY, numbered[0])
    else:
        connection.executemany(_ADD_ENTRY, numbered)


_ADD_ENTRY: Final = (
    "INSERT INTO entry (position, run_number, stage_number, sequence, offset, event_time_ms, idempotency_key, at_ms, "
    "signature, run_signature, milepost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def recorded(connection: Statements, run_id: str, stage: str, key: str) -> tuple[Receipt, Checkpoint] | None:
    """The checkpoint that a stage of a run has recorded under a key, or None."""
    row = connection.execute(_RECORDED, (key, run_id, stage)).get
    if row is None:
        return None
    position, signature, *fields = row
    return receipt_of(position, _signature(signature), duplicate=True), _checkpoint(run_id, stage, *fields)


_RECORDED: Final = (
    f"SELECT position, signature, {_FIELDS} FROM entry INDEXED BY entry_by_key "
    f"WHERE idempotency_key = ? AND run_number = {RUN_NUMBER} AND stage_number = {STAGE_NUMBER}"
)

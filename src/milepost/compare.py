"""Walk along two runs side by side, for `CheckpointStore.compare`."""

from __future__ import annotations

from itertools import chain, product
from typing import TYPE_CHECKING

from milepost import details, rows
from milepost.arguments import check_name
from milepost.comparison import Comparison, Divergence, StageComparison
from milepost.errors import ArchivedStageError, NoCheckpointError
from milepost.history import pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milepost.checkpoint import Checkpoint
    from milepost.database import Database
    from milepost.receipt import Receipt


def compare_runs(database: Database, run_id: str, other_run_id: str) -> Comparison:
    """Compare two runs as they were at the call, one page of entries at a time."""
    check_name("run_id", run_id)
    check_name("other_run_id", other_run_id)
    pairs = database.read(rows.stage_pairs, run_id, other_run_id)
    for name, known in (
        (run_id, any(pair.run_number is not None for pair in pairs)),
        (other_run_id, any(pair.other_run_number is not None for pair in pairs)),
    ):
        if not known:
            raise NoCheckpointError(name, None)
    names = run_id, other_run_id
    _refuse_archived(database, names, pairs)
    stages = tuple(_stage(database, *names, pair) for pair in pairs)
    _refuse_archived(database, names, pairs)  # an archive may have taken entries away between two pages
    return Comparison(*names, stages)


def _refuse_archived(database: Database, names: Iterable[str], pairs: Iterable[rows.StagePair]) -> None:
    for name, pair in product(names, pairs):
        if database.read(rows.has_archived, name, pair.stage):
            raise ArchivedStageError(name, pair.stage)


def _stage(database: Database, run_id: str, other_run_id: str, pair: rows.StagePair) -> StageComparison:
    pages = list(_pages(database, pair)) if pair.entries else []
    common, different = sum(page.common for page in pages), sum(page.different for page in pages)
    first_different = next((page.first_different for page in pages if page.different), None)
    first_only = next((page.first_only for page in pages if page.common < page.entries), None)
    other_first_only = None
    if pair.other_entries > common:
        other_pages = _pages(database, pair.swapped())
        other_first_only = next((page.first_only for page in other_pages if page.common < page.entries), None)
    divergence = None
    parting = [each for each in (first_different, first_only, other_first_only) if each is not None]
    if parting:
        sequence = min(parting)
        # If a side lacked it at the start, it is not asked now, because the entry may have come meanwhile.
        one = None if sequence == other_first_only else database.read(rows.get, run_id, pair.stage, sequence)
        other = None if sequence == first_only else database.read(rows.get, other_run_id, pair.stage, sequence)
        divergence = Divergence(sequence, one, other)
    return StageComparison(
        pair.stage, pair.entries, pair.other_entries, common, different, first_only, other_first_only, divergence
    )


def _pages(database: Database, pair: rows.StagePair) -> Iterator[rows.ComparedPage]:
    """Compare the first run's entries page by page, and yield the result of each page."""
    after = pair.start - 1
    while (page := database.read(rows.compared_page, pair, after)).entries:
        yield page
        after = page.last


# Two runs in two files


def compare_files(
    database: Database, run_id: str, other_database: Database, other_run_id: str
) -> tuple[StageComparison, ...]:
    """
    Compare a run of one file with a run of another as they were at the call, one page of entries of each at a time.

    No statement reads both files: to attach one file to another's connection would open it unchecked.
    """
    one, other = _RunOfFile(database, run_id), _RunOfFile(other_database, other_run_id)
    return tuple(_stage_of_files(one, other, stage) for stage in dict.fromkeys([*one.stages, *other.stages]))


class _RunOfFile:
    """A run as it is now, with its stages in order of first appearance."""

    def __init__(self, database: Database, run_id: str) -> None:
        check_name("run_id", run_id)
        self._read, self._run_id = database.read, run_id
        self._before = database.read(rows.tip)[0] + 1
        pairs = database.read(rows.stage_pairs, run_id, run_id)
        if not pairs:
            raise NoCheckpointError(run_id, None)
        _refuse_archived(database, [run_id], pairs)
        # A stage may have begun after the tip was read.
        self.stages = [pair.stage for pair in pairs if next(self.entries(pair.stage), None) is not None]

    def entries(self, stage: str) -> Iterator[tuple[Receipt, Checkpoint, str | None]]:
        """Return the entries of a stage, by rising sequence."""
        chosen = rows.Filter(self._run_id, stage, before=self._before)
        return chain.from_iterable(pages(self._read, chosen, rows.signed_rows, rows.recorded))


def _stage_of_files(run: _RunOfFile, other_run: _RunOfFile, stage: str) -> StageComparison:
    """Walk along a stage of both runs at once, as their sequences rise."""
    walk, other_walk = run.entries(stage), other_run.entries(stage)
    one, other = next(walk, None), next(other_walk, None)
    start = max(map(_start, filter(None, (one, other))), default=0)
    entries = other_entries = common = different = 0
    first_only = other_first_only = None
    divergence = None
    while one is not None or other is not None:
        sequence = min(each[1].sequence for each in (one, other) if each is not None)
        left = one[1] if one is not None and one[1].sequence == sequence else None
        right = other[1] if other is not None and other[1].sequence == sequence else None
        if left is not None:
            one = next(walk, None)
        if right is not None:
            other = next(other_walk, None)
        if sequence < start:
            continue
        entries += left is not None
        other_entries += right is not None
        if left is not None and right is not None:
            common += 1
            if (left.watermark, left.idempotency_key) == (right.watermark, right.idempotency_key):
                continue
            different += 1
        elif left is not None:
            first_only = sequence if first_only is None else first_only
        else:
            other_first_only = sequence if other_first_only is None else other_first_only
        divergence = divergence or Divergence(sequence, left, right)
    return StageComparison(stage, entries, other_entries, common, different, first_only, other_first_only, divergence)


def _start(first: tuple[Receipt, Checkpoint, str | None]) -> int:
    """Return the first sequence of a stage if it is a branch's there, else 0."""
    _, entry, detail = first
    return entry.sequence if "branch_position" in details.parse(detail) else 0

"""Walk along two runs side by side, for `CheckpointStore.compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import rows
from milepost.arguments import check_name
from milepost.comparison import Comparison, Divergence, StageComparison
from milepost.errors import ArchivedStageError, NoCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.database import Database


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
        for pair in pairs:
            if database.read(rows.has_archived, name, pair.stage):
                raise ArchivedStageError(name, pair.stage)
    return Comparison(run_id, other_run_id, tuple(_stage(database, run_id, other_run_id, pair) for pair in pairs))


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

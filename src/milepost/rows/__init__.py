"""
The queries on the chain, one function each: types in, rows out, and back.

Each lookup goes through an index of schema.sql, and tests/test_query_plans.py checks that. Only mileposts are in the indexes
by run, by stage and by sequence. The rows between two mileposts are read along the chain (mileposts.py). No SQL text is ever
made from data. Constants make up each statement at import.

There is one file for each caller: `lookup`, `history`, `summary`, `compare`, `outline` (pictures), `verify`, `integrity`,
`append` and `runs` (attempts and branches). Their shared parts are in `columns`.

A run or stage that was never recorded has no number. A comparison with that NULL finds nothing, so it is no special case.
Each function reads a statement to its end before it returns, so no read transaction stays open.
"""

from milepost.rows.append import (
    add_cursor,
    add_entries,
    add_run,
    add_run_stage,
    add_stage,
    append_state,
    entries_of_run_stage,
    find_duplicate,
    numbers_at,
)
from milepost.rows.columns import BATCH, PAGE, EntryRow, Statements, chain_base, digits, tip
from milepost.rows.compare import COMPARED_MILEPOSTS, ComparedPage, StagePair, compared_page, stage_pairs
from milepost.rows.history import (
    Filter,
    SignedRow,
    checkpoints,
    numbered_rows,
    recorded,
    run_ids_and_stages,
    signed_rows,
)
from milepost.rows.integrity import integrity, integrity_check, virtual_integrity
from milepost.rows.lookup import (
    ResumeState,
    cursor,
    find,
    get,
    has_run,
    head,
    kept_as_of_now,
    latest,
    recorded_keys,
    resume_points,
    resume_state,
    run_signature,
    signature,
    signature_at,
)
from milepost.rows.outline import (
    AttemptRow,
    RunStage,
    at_position,
    attempt_rows,
    beginning_of_run,
    between_in_run_stage,
    count_of_runs,
    end_of_run,
    ends_of_run_stage,
    entries_through,
    positions,
)
from milepost.rows.runs import Attempt, BranchPoint, branch_points, last_attempt
from milepost.rows.summary import contents, runs, stages
from milepost.rows.verify import (
    KeptCursor,
    Progress,
    Snapshot,
    empty_run_stages,
    invalid_positions,
    kept_cursors,
    progress_at,
    rows_after,
    run_rows_after,
    snapshot,
    snapshot_of_run,
)

__all__ = [
    "BATCH",
    "COMPARED_MILEPOSTS",
    "PAGE",
    "Attempt",
    "AttemptRow",
    "BranchPoint",
    "ComparedPage",
    "EntryRow",
    "Filter",
    "KeptCursor",
    "Progress",
    "ResumeState",
    "RunStage",
    "SignedRow",
    "Snapshot",
    "StagePair",
    "Statements",
    "add_cursor",
    "add_entries",
    "add_run",
    "add_run_stage",
    "add_stage",
    "append_state",
    "at_position",
    "attempt_rows",
    "beginning_of_run",
    "between_in_run_stage",
    "branch_points",
    "chain_base",
    "checkpoints",
    "compared_page",
    "contents",
    "count_of_runs",
    "cursor",
    "digits",
    "empty_run_stages",
    "end_of_run",
    "ends_of_run_stage",
    "entries_of_run_stage",
    "entries_through",
    "find",
    "find_duplicate",
    "get",
    "has_run",
    "head",
    "integrity",
    "integrity_check",
    "invalid_positions",
    "kept_as_of_now",
    "kept_cursors",
    "last_attempt",
    "latest",
    "numbered_rows",
    "numbers_at",
    "positions",
    "progress_at",
    "recorded",
    "recorded_keys",
    "resume_points",
    "resume_state",
    "rows_after",
    "run_ids_and_stages",
    "run_rows_after",
    "run_signature",
    "runs",
    "signature",
    "signature_at",
    "signed_rows",
    "snapshot",
    "snapshot_of_run",
    "stage_pairs",
    "stages",
    "tip",
    "virtual_integrity",
]

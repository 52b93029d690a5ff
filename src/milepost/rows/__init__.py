"""
Every question that is asked of SQLite, one function each: types in, rows out, and back.

Each lookup goes through an index of schema.sql; tests/test_query_plans.py holds them to that. Only mileposts are in the
indexes by run, by stage and by sequence: what lies between two of them is read along the chain (mileposts.py). No SQL text
is ever made from data: a statement is put together from constants, at import.

One file for each that asks: `lookup`, `history`, `summary`, `compare`, `outline` (pictures), `verify`, `integrity` and
`append`; what several of them share is in `columns`.

A run or stage that was never recorded has no number, and a comparison with that NULL finds nothing: no case of its own.
A statement is read to its end before a function returns, so that no read transaction stays open behind it.
"""

from milepost.rows.append import add_entries, add_lane, add_run, add_stage, entries_of_lane, recorded, state
from milepost.rows.columns import BATCH, PAGE, Statements, tip
from milepost.rows.compare import COMPARED_MILEPOSTS, ComparedPage, StagePair, compared_page, stage_pairs
from milepost.rows.history import Walk, checkpoints, names, page, receipts
from milepost.rows.integrity import integrity, integrity_check, virtual_integrity
from milepost.rows.lookup import find, get, head, latest, resume_points, run_signature, signature, signature_at
from milepost.rows.outline import Lane, between_in_lane, count_of_runs, ends_of_lane
from milepost.rows.summary import contents, runs, stages
from milepost.rows.verify import (
    Before,
    Snapshot,
    before,
    empty_lanes,
    links,
    links_of_run,
    snapshot,
    snapshot_of_run,
    stray_positions,
)

__all__ = [
    "BATCH",
    "COMPARED_MILEPOSTS",
    "PAGE",
    "Before",
    "ComparedPage",
    "Lane",
    "Snapshot",
    "StagePair",
    "Statements",
    "Walk",
    "add_entries",
    "add_lane",
    "add_run",
    "add_stage",
    "before",
    "between_in_lane",
    "checkpoints",
    "compared_page",
    "contents",
    "count_of_runs",
    "empty_lanes",
    "ends_of_lane",
    "entries_of_lane",
    "find",
    "get",
    "head",
    "integrity",
    "integrity_check",
    "latest",
    "links",
    "links_of_run",
    "names",
    "page",
    "receipts",
    "recorded",
    "resume_points",
    "run_signature",
    "runs",
    "signature",
    "signature_at",
    "snapshot",
    "snapshot_of_run",
    "stage_pairs",
    "stages",
    "state",
    "stray_positions",
    "tip",
    "virtual_integrity",
]

"""Say of each fault which entry stands there, and in words what happened to it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from milepost import rows
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import DamagedStoreError, shown
from milepost.signature import canonical_bytes, link, prefix
from milepost.verification import shorten_signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.audit import Audit, Mismatch
    from milepost.database import Database
    from milepost.verification import Fault

_SEARCHES: Final = 5000
"""How many mismatches are looked through for the predecessors of moved rows, two hashes each; more than two for each row."""

_WINDOW: Final = 200
"""How many positions are read at a time, so that faults in a row cost one statement together."""


def explain(faults: list[Fault], audit: Audit, database: Database, names: rows.Snapshot) -> list[Fault]:
    """
    Add to each fault the entry at its position, and what happened to it.

    Args:
        faults: The faults of a walk.
        audit: The walk.
        database: The file, of which the rows beside each fault are read.
        names: The names of its runs and stages.
    """
    return _Explainer(audit, database, names).explain(faults) if faults else faults


class _Explainer:
    """Reads the rows beside the faults, a window of positions at a time."""

    def __init__(self, audit: Audit, database: Database, names: rows.Snapshot) -> None:
        self._database = database
        self._names = names
        self._mismatches = audit.mismatches
        self._places = list(audit.mismatches)
        self._nearby = max(2, _SEARCHES // max(1, len(self._places)))
        self._index = {position: index for index, position in enumerate(self._places)}
        self._forged: set[int] = set()
        self._window = range(0)
        self._rows: dict[int, rows.EntryRow] = {}

    def explain(self, faults: list[Fault]) -> list[Fault]:
        return [self._explained(fault) for fault in faults]

    def _explained(self, fault: Fault) -> Fault:
        position = fault.position
        if position is None or fault.run_id is not None:  # in a run's own chain, the position is another one
            return fault
        if fault.kind == "missing":
            return self._missing(fault, position)
        row = self._row(position)
        if row is not None:
            fault = replace(
                fault,
                run_id=self._names.run_names.get(row.run_number),
                stage=self._names.stage_names.get(row.stage_number),
                sequence=row.sequence if type(row.sequence) is int else None,
            )
        if fault.explanation:
            return fault
        return replace(fault, explanation=self._sentence(fault, position, row))

    def _sentence(self, fault: Fault, position: int, row: rows.EntryRow | None) -> str:
        mismatch = self._mismatches.get(position)
        whose = "" if row is None else f" of {self._name(row)}"
        if fault.kind == "link" and mismatch is not None:
            return self._of_link(f"the row{whose}", position, row, mismatch)
        if fault.kind == "run" and mismatch is not None:
            return self._of_run(f"the row{whose}", position, row, mismatch)
        expected, found = (shorten_signatures(_no_none(text)) for text in (fault.expected, fault.found))
        if fault.kind == "cursor":
            return _of_cursor(whose, expected, found)
        if fault.kind == "lookup":
            return f"lookups cannot rely on the row{whose}: expected {expected}, found {found}"
        return f"the row{whose} is no valid checkpoint: {found}" if fault.kind == "unreadable" else ""

    def _of_link(self, what: str, position: int, row: rows.EntryRow | None, mismatch: Mismatch) -> str:
        if row is not None and not self._has_names(row):
            return f"{what} cannot be checked: its name is gone from the file"
        if position - 1 in self._forged:
            return f"{what} does not follow from the row before it, which was changed together with its signature"
        behind = self._recorded_behind(position, mismatch)
        if behind is not None:
            return f"{what} is not in its place: it was recorded directly behind the row that is now at position {behind:,}"
        follows = self._next_follows(position)
        if follows is None:
            return self._of_last_link(what, mismatch)
        return self._of_link_by_next(what, row, self._row(position + 1), mismatch, follows)

    def _of_link_by_next(
        self,
        what: str,
        row: rows.EntryRow | None,
        following: rows.EntryRow | None,
        mismatch: Mismatch,
        follows: Callable[[object], bool],
    ) -> str:
        """What the next row shows, which was made from the signature that was recorded with this one."""
        if follows(mismatch.previous):
            return f"{what} was inserted: the row after it was recorded directly behind the row before it"
        if follows(mismatch.expected):
            return f"the signature of {what} was forged: the next row follows from the one that it should have"
        if not follows(mismatch.stored):
            # A name stands in the file once, for all rows of its run or stage, and who changes it changes all of them.
            renamed = _shared_name(row, following)
            or_renamed = f", {renamed} was renamed" if renamed else ""
            return (
                f"{what} and the row after it do not fit: several rows were changed{or_renamed}, "
                "or the chain was rewritten from here"
            )
        if mismatch.run_fits:
            return (
                f"{what} fits its own run, but not the row before it: a row between them was removed, "
                "or that one was changed together with its signature"
            )
        changed = f"{what} was changed after it was recorded"
        if row is not None and type(row.sequence) is int and mismatch.last not in (-1, row.sequence - 1):
            return f"{changed}, or rows before it were removed: the sequence before was {mismatch.last:,}"
        return changed

    def _of_last_link(self, what: str, mismatch: Mismatch) -> str:
        """Of a row behind which none can be read, its own run may tell."""
        if mismatch.run_fits is False:
            return f"{what} was changed after it was recorded"
        return f"{what} or its signature was changed after it was recorded, or rows before it were removed"

    def _of_run(self, what: str, position: int, row: rows.EntryRow | None, mismatch: Mismatch) -> str:
        if row is not None and row.run_signature is None:
            return f"{what} lacks its run_signature, or that of a row before it was forged"
        follows = self._next_follows(position)
        if follows is None:
            return f"{what} was changed together with its signature, or its run_signature was forged"
        if follows(mismatch.stored):
            return f"the run_signature of {what} was forged: the row itself is as it was recorded"
        self._forged.add(position)
        return f"{what} was changed together with its signature: neither its own run nor the next row fits"

    def _missing(self, fault: Fault, position: int) -> Fault:
        before = self._row(position - 1)
        if before is None:
            return fault
        return replace(fault, explanation=f"{fault.explanation}; before it stands {self._name(before)}")

    def _recorded_behind(self, position: int, mismatch: Mismatch) -> int | None:
        """Where the row stands behind which a row was recorded, if that is one beside another mismatch."""
        for place, signature in self._signatures_near(self._index[position]):
            other = place != position and signature != mismatch.previous
            if other and link(signature, mismatch.canonical, self._database.hash) == mismatch.stored:
                return place
        return None

    def _signatures_near(self, index: int) -> Iterator[tuple[int, bytes]]:
        for place in self._places[max(0, index - self._nearby) : index + self._nearby + 1]:
            mismatch = self._mismatches[place]
            if mismatch.previous is not None:
                yield place - 1, mismatch.previous
            if isinstance(mismatch.stored, bytes):
                yield place, mismatch.stored

    def _next_follows(self, position: int) -> Callable[[object], bool] | None:
        """Whether the row behind a position follows from a signature; None if there is none, or it is no checkpoint."""
        row = self._row(position + 1)
        if row is None or not self._has_names(row):
            return None
        begins = prefix(self._names.run_names[row.run_number], self._names.stage_names[row.stage_number])
        values = row.sequence, row.offset, row.event_time_ms, row.idempotency_key, row.at_ms, row.detail
        try:
            canonical = canonical_bytes(begins, *values)
        except (TypeError, UnicodeEncodeError):
            return None
        hash_function = self._database.hash
        return lambda said: isinstance(said, bytes) and link(said, canonical, hash_function) == row.signature

    def _row(self, position: int) -> rows.EntryRow | None:
        if position not in self._window:
            through = min(position - 2 + _WINDOW, MAX_INTEGER)
            self._window = range(position - 1, through + 1)
            found: list[tuple[Any, ...]] = []
            with contextlib.suppress(DamagedStoreError):  # that is a fault of its own
                found = self._database.read(rows.rows_after, max(position - 2, -MAX_INTEGER), through)
            self._rows = {row[0]: rows.EntryRow._make(row) for row in found}
        return self._rows.get(position)

    def _has_names(self, row: rows.EntryRow) -> bool:
        return row.run_number in self._names.run_names and row.stage_number in self._names.stage_names

    def _name(self, row: rows.EntryRow) -> str:
        run_id, stage = self._names.run_names.get(row.run_number), self._names.stage_names.get(row.stage_number)
        run = f"run {shown(run_id)}" if run_id is not None else f"run number {shown(row.run_number)}"
        of_run = f"stage {shown(stage)}" if stage is not None else f"stage number {shown(row.stage_number)}"
        sequence = f"{row.sequence:,}" if type(row.sequence) is int else shown(row.sequence)
        return f"{run}, {of_run}, sequence {sequence}"


def _shared_name(row: rows.EntryRow | None, following: rows.EntryRow | None) -> str:
    """Say which names two rows have in common: their run, their stage or both."""
    if row is None or following is None:
        return ""
    shared = {"run": row.run_number == following.run_number, "stage": row.stage_number == following.stage_number}
    return " or ".join(f"their {name}" for name, same in shared.items() if same)


def _of_cursor(whose: str, expected: str, found: str) -> str:
    if found == "none":
        return f"the cursor{whose} is gone"
    if expected == "none":
        return f"a cursor stands here that was not recorded with the entry{whose}"
    return f"the cursor{whose} was changed: expected {expected}, found {found}"


def _no_none(text: str) -> str:
    return text.replace("entries_so_far None", "no entries_so_far")

"""
Walk a chain page by page, and report every fault: the part of `CheckpointStore.verify` that computes.

Memory grows with the number of runs and stages only, not with the length of the chain.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.errors import shown
from milepost.mileposts import INTERVAL
from milepost.signature import EMPTY, START, canonical_bytes, link, prefix
from milepost.verification import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from milepost.signature import ChainBase, Hash


class Mismatch(NamedTuple):
    """
    What a walk knew of a row that does not fit.

    Attributes:
        previous: The signature of the row before it, as that says; None if it is missing.
        canonical: The canonical bytes of the row.
        expected: The signature that the row should have.
        stored: The one that it has.
        run_fits: Whether the row fits its own run; None if that is not known, or no link of its own.
        last: The last sequence of its stage; -1 if none is known.
    """

    previous: bytes | None
    canonical: bytes
    expected: bytes
    stored: object
    run_fits: bool | None
    last: int


class _Run:
    """The chain over one run's own entries, as far as the walk has come."""

    __slots__ = ("instead", "said")

    def __init__(self, said: bytes | None) -> None:
        self.said = said  # the signature in its last row; None if unknown
        self.instead: bytes | None = None  # the recomputed signature, if its last row has another one


class _RunStage:
    """One stage of one run, as far as the walk has come."""

    __slots__ = ("entries", "may_be_early", "next_milepost", "prefix", "run", "sequence")

    def __init__(self, run: _Run, prefix: str, sequence: int, entries: int, next_milepost: float) -> None:
        self.may_be_early = False  # the next milepost follows one that an archive has moved away
        self.run = run
        self.prefix = prefix
        self.sequence = sequence
        self.entries = entries
        self.next_milepost = next_milepost  # its lowest possible position; infinity if unknown


class Audit:
    """
    One walk along a chain, from a trusted place onwards.

    Args:
        run_ids: The run_id of each run number.
        stages: The stage of each stage number.
        run_stages: The (run_number, stage_number) of every stage that the file says a run has.
        hash_function: Makes the links.
        start: Where to start: after the chain's base, or after a trusted head.
        progress_at_start: Returns how far a run and its stage, given by number, had come there (`rows.Progress`). Without
            it, nothing had begun.
        mark: After how many entries of a run (`check_run_rows`) to keep the signature as `marked`.
        base: The position of the chain's base. An archive may have moved mileposts up to there away.
    """

    def __init__(
        self,
        run_ids: Mapping[int, str],
        stages: Mapping[int, str],
        run_stages: AbstractSet[tuple[Any, ...]],
        hash_function: Hash,
        start: ChainBase = START,
        progress_at_start: Callable[[int, int], tuple[Any, ...]] | None = None,
        mark: int | None = None,
        base: int = 0,
    ) -> None:
        self._base = base
        self.faults: list[Fault] = []
        self.mismatches: dict[int, Mismatch] = {}
        self.position: int = start.position
        self.signature: bytes = start.signature  # recomputed from the rows
        self.entries: int = 0  # of the run whose rows are checked
        self._start = start
        self._said: bytes | None = start.signature  # in the row before; None if that row is missing
        self._instead: bytes | None = None  # the recomputed signature, if the row before has another one
        self._run_ids, self._stages, self._known_run_stages = run_ids, stages, run_stages
        self._hash_function = hash_function
        self._progress_at_start = progress_at_start or _nothing
        self.run_signature: bytes = EMPTY  # of the run whose rows are checked
        self._mark = mark
        self.marked: bytes | None = EMPTY if mark == 0 else None
        self._runs: dict[int, _Run] = {}
        self._run_stages: dict[tuple[int, int], _RunStage] = {}

    def check_rows(self, page: Iterable[tuple[Any, ...]]) -> None:
        """
        Continue along a page of neighbouring rows.

        Args:
            page: Rows with the columns of `rows.EntryRow`.
        """
        run_stages, hash_function = self._run_stages, self._hash_function
        for (
            position, run_number, stage_number, sequence, offset, event_time_ms, key, at_ms,
            signature, run_signature, entries_so_far, detail,
        ) in page:  # fmt: skip
            if position != self.position + 1:
                self._report_missing(position)
            self.position = position
            run_stage = run_stages.get((run_number, stage_number)) or self._meet(run_number, stage_number)
            run = run_stage.run
            try:
                canonical = canonical_bytes(run_stage.prefix, sequence, offset, event_time_ms, key, at_ms, detail)
                last = run_stage.sequence
                rises = sequence > last
            except (TypeError, UnicodeEncodeError):
                self._report_unreadable(position, key, detail, signature)
                continue
            previous, run_previous = self._said, run.said
            expected = hash_function(previous + canonical).digest() if previous is not None else signature
            # While the first run of a file is alone, its signature is the file's, and its rows do not store it twice.
            if run_previous is None:  # any signature may be right, but nothing else is
                run_expected = _bytes(run_signature)
            else:
                run_expected = None if run_previous == previous else hash_function(run_previous + canonical).digest()
            run_stage.sequence = sequence
            run_stage.entries += 1
            if expected == signature and run_expected == run_signature and rises and self.signature == previous:
                self.signature = self._said = signature
                run.said = signature if run_signature is None else run_signature
            elif not self._explain_mismatch(
                run_stage, canonical, (last, sequence), (expected, signature), (run_expected, run_signature)
            ):
                continue
            if entries_so_far is not None or position >= run_stage.next_milepost:
                self._check_milepost(run_stage, entries_so_far)

    def check_run_rows(self, page: Iterable[tuple[Any, ...]]) -> None:
        """
        Continue along a page of rows of one run.

        Args:
            page: Rows as in `check_rows`, each with one column more: the signature of the row before it in the chain.
        """
        for *row, previous in page:
            position, run_number, *_ = row
            self.position = position - 1
            self._said = self._start.signature if self.position == self._start.position else _bytes(previous)
            self._instead = None
            if self._said is None:
                self._report_missing(position, position - 1)
            else:
                self.signature = self._said
            self.check_rows([tuple(row)])
            self.entries += 1
            run = self._runs.get(run_number)
            self.run_signature = run.said if run and run.said else EMPTY
            if self.entries == self._mark:
                self.marked = self.run_signature

    def begin_run(self, signature: bytes) -> None:
        """Begin `check_run_rows` where the chain over the run's own entries has this signature, as at the base."""
        self.run_signature = signature
        if self._mark == 0:
            self.marked = signature

    def _meet(self, run_number: int, stage_number: int) -> _RunStage:
        run_signature, sequence, milepost, entries = self._progress_at_start(run_number, stage_number)
        run = self._runs.get(run_number)
        if run is None:
            run = self._runs[run_number] = _Run(EMPTY if run_signature is None else _bytes(run_signature))
        try:
            begins = prefix(self._run_ids[run_number], self._stages[stage_number])
        except KeyError:
            # A number has no name. This text is not canonical, so the row will not match its signature.
            begins = f"[run number {run_number}, stage number {stage_number}, "
        if (run_number, stage_number) not in self._known_run_stages:
            place = self._place(run_number, stage_number)
            self.faults.append(Fault("lookup", self.position, f"{place} among the stages of its run", "none"))
        run_stage = _RunStage(run, begins, -1, 0, 0)
        if milepost is not None:
            run_stage.sequence, run_stage.entries, run_stage.next_milepost = sequence, entries, milepost + INTERVAL
            run_stage.may_be_early = milepost <= self._base
        self._run_stages[run_number, stage_number] = run_stage
        return run_stage

    def _forget(self) -> None:
        """Forget how far every run has come: after a missing or changed row, nothing is known about that."""
        self._runs.clear()
        self._run_stages.clear()
        self._progress_at_start = _unknown

    def _explain_mismatch(
        self,
        run_stage: _RunStage,
        canonical: bytes,
        sequences: tuple[int, int],
        link_: tuple[bytes, object],
        run_link: tuple[object, object],
    ) -> bool:
        """Report the fault of a row that does not fit, or that follows such a row. Return whether its link holds."""
        (last, sequence), (expected, stored), (run_expected, run_stored) = sequences, link_, run_link
        fits = expected == stored or (self._instead is not None and self._link(self._instead, canonical) == stored)
        previous, run = self._said, run_stage.run
        run_fits = run_expected == run_stored or (
            run.instead is not None and self._link(run.instead, canonical) == run_stored
        )
        self.signature = self._link(self.signature, canonical)
        if not fits:
            self.faults.append(Fault("link", self.position, _hex(expected), _hex(stored)))
            known = run.said is not None and run_expected is not None and run_stored is not None
            self.mismatches[self.position] = Mismatch(
                previous, canonical, expected, stored, run_fits if known else None, last
            )
            # The next row may follow from the stored signature (the row was edited) or the computed one (the signature was).
            self._said, self._instead = _bytes(stored) or expected, expected
            self._forget()
            return False
        self._said, self._instead = _bytes(stored), None
        said = stored if run_stored is None else run_stored
        if run_fits:
            run.said, run.instead = _bytes(said), None
        else:
            self.mismatches[self.position] = Mismatch(previous, canonical, expected, stored, False, last)
            if run.said is None:  # nothing is known of the run yet, nor by this
                self.faults.append(Fault("run", self.position, "a signature of 32 bytes", _hex(said)))
            else:
                computed = expected if run_expected is None else run_expected
                self.faults.append(Fault("run", self.position, _hex(computed), _hex(said)))
                run.said, run.instead = _bytes(said) or _bytes(computed), _bytes(computed)
        if sequence <= last:
            self.faults.append(
                Fault("lookup", self.position, f"a sequence above {last}, the last of its stage", str(sequence))
            )
        return True

    def _link(self, signature: bytes, canonical: bytes) -> bytes:
        return link(signature, canonical, self._hash_function)

    def _check_milepost(self, run_stage: _RunStage, entries_so_far: object) -> None:
        """Check a row that is a milepost, or should be one."""
        expected = run_stage.entries if self.position >= run_stage.next_milepost else None
        if run_stage.may_be_early and entries_so_far == run_stage.entries:
            expected = run_stage.entries
        run_stage.may_be_early = False
        if run_stage.next_milepost == inf and isinstance(entries_so_far, int):
            run_stage.entries = entries_so_far
        elif entries_so_far != expected:
            found = f"entries_so_far {shown(entries_so_far)}"
            self.faults.append(Fault("lookup", self.position, f"entries_so_far {expected}", found))
            if expected is None:
                return  # a false milepost does not move the next one
        run_stage.next_milepost = self.position + INTERVAL

    def _place(self, run_number: int, stage_number: int) -> str:
        stage, run_id = self._stages.get(stage_number), self._run_ids.get(run_number)
        of_run = f"number {shown(run_number)}" if run_id is None else shown(run_id)
        return f"stage {f'number {shown(stage_number)}' if stage is None else shown(stage)} of run {of_run}"

    def report_end(self, last: int) -> None:
        """Report the rest as missing if the walk ended before `last`, where the chain had a row."""
        if self.position < last:
            self._report_missing(last + 1)

    def report_empty(self, run_stages: Iterable[tuple[int, int]]) -> None:
        """Report stages that the file lists for a run, but of which it has no entry."""
        for run_number, stage_number in run_stages:
            place = self._place(run_number, stage_number)
            said = f"lookups expect an entry of {place}, and there is none"
            self.faults.append(Fault("lookup", None, f"an entry of {place}", "none", explanation=said))

    def _report_missing(self, position: int, first: int | None = None) -> None:
        first, last = self.position + 1 if first is None else first, position - 1
        rows = f"a row at position {first}" if first == last else f"rows at positions {first} to {last}"
        if position <= self.position:
            self.faults.append(Fault("unreadable", position, "a position above the one before", str(position)))
        else:
            said = "the row is missing" if first == last else f"this row is missing, and those up to position {last:,}"
            self.faults.append(Fault("missing", first, rows, "none", explanation=said))
        self._said = self._instead = None
        self._forget()

    def _report_unreadable(self, position: int, key: object, detail: object, signature: object) -> None:
        found = f"idempotency_key {shown(key)}" + ("" if detail is None else f", detail {shown(detail)}")
        self.faults.append(Fault("unreadable", position, "a valid checkpoint", found))
        self._said, self._instead = _bytes(signature), None
        self._forget()


def _nothing(_run_number: int, _stage_number: int) -> tuple[Any, ...]:
    """Return the progress at the beginning of the chain, where nothing has begun."""
    return None, None, None, None


def _unknown(_run_number: int, _stage_number: int) -> tuple[Any, ...]:
    """Return no valid signature and a milepost that never comes, so that the walk accepts what the next rows say."""
    return b"", -1, inf, 0


def _bytes(signature: object) -> bytes | None:
    return signature if isinstance(signature, bytes) and len(signature) == 32 else None


def _hex(signature: object) -> str:
    return signature.hex() if isinstance(signature, bytes) else shown(signature)

"""
Walk a chain, page by page, and report every fault: the part of `CheckpointStore.verify` that computes.

Memory stays constant however long the chain is; it grows with the number of runs and stages only.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from milepost.errors import shown
from milepost.mileposts import APART
from milepost.signature import EMPTY, link, prefix, quoted
from milepost.verification import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from milepost.receipt import Head
    from milepost.signature import Hash


class _Run:
    """The chain over one run's own entries, as far as it has been walked."""

    __slots__ = ("before", "instead")

    def __init__(self, before: bytes | None) -> None:
        self.before = before  # what its last row says; None where that is not known
        self.instead: bytes | None = None  # what it should have said, if that is something else


class _Lane:
    """One stage of one run, as far as it has been walked."""

    __slots__ = ("entries", "milepost", "prefix", "run", "sequence")

    def __init__(self, run: _Run, before: str, sequence: int, entries: int, milepost: float) -> None:
        self.run = run
        self.prefix = before
        self.sequence = sequence
        self.entries = entries
        self.milepost = milepost  # the least position of its next milepost; infinity where it is not known


class Audit:
    """
    One walk along a chain, from a trusted place on.

    Args:
        run_ids: The run_id of each run number.
        stages: The stage of each stage number.
        lanes: The (run_number, stage_number) of every stage that the file says a run has.
        hashed: What the links are made with.
        trusted: The head to start after; None starts at the beginning.
        before: How far a run and a stage of it, given by number, had come at `trusted`: (the run's signature, the stage's
            last sequence, the position of its last milepost, how many entries it had), None for what had not begun.
        mark: Where in a run's own chain (`follow`) to keep the signature as `marked`.
    """

    def __init__(
        self,
        run_ids: Mapping[int, str],
        stages: Mapping[int, str],
        lanes: AbstractSet[tuple[Any, ...]],
        hashed: Hash,
        trusted: Head | None = None,
        before: Callable[[int, int], tuple[Any, ...]] | None = None,
        mark: int | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self.position = trusted.entries if trusted else 0
        self.entries = 0  # of the run whose rows are followed
        self.signature = bytes.fromhex(trusted.signature) if trusted else EMPTY  # recomputed from the rows
        self._before: bytes | None = self.signature  # what the row before says; None where that row is missing
        self._instead: bytes | None = None  # what it should have said, if that is something else
        self._run_ids, self._stages, self._known_lanes, self._hashed = run_ids, stages, lanes, hashed
        self._begun = before or _nothing
        self.run_signature = EMPTY  # of the run whose rows are followed
        self._mark = mark
        self.marked: bytes | None = EMPTY if mark == 0 else None
        self._runs: dict[int, _Run] = {}
        self._lanes: dict[tuple[int, int], _Lane] = {}

    def walk(self, page: Iterable[tuple[Any, ...]]) -> None:
        """
        Go on along a page of neighbouring rows.

        Args:
            page: (position, run_number, stage_number, sequence, offset, event_time_ms, idempotency_key, at_ms, signature,
                run_signature, milepost).
        """
        lanes, hashed = self._lanes, self._hashed
        for (
            position, run_number, stage_number, sequence, offset, event_time_ms, key, at_ms, stored, run_stored, milepost
        ) in page:  # fmt: skip
            if position != self.position + 1:
                self._report_missing(position)
            self.position = position
            lane = lanes.get((run_number, stage_number)) or self._meet(run_number, stage_number)
            run = lane.run
            # `signature.canonical` and `signature.link`, in place: two calls fewer for each entry.
            try:
                signed = f"{lane.prefix}{sequence},[{offset},{event_time_ms}],{quoted(key)},{at_ms}]".encode()
                rises = sequence > lane.sequence
            except (TypeError, UnicodeEncodeError):
                self._report_unreadable(position, key, stored)
                continue
            before, run_before = self._before, run.before
            expected = hashed(before + signed).digest() if before is not None else stored
            # The first run of a file has the file's signature while it is alone, and its rows do not keep that twice.
            if run_before is None:
                run_expected = run_stored
            else:
                run_expected = None if run_before == before else hashed(run_before + signed).digest()
            lane.sequence = sequence
            lane.entries += 1
            if expected == stored and run_expected == run_stored and rises and self.signature == before:
                self.signature = self._before = stored
                run.before = stored if run_stored is None else run_stored
            elif not self._settle(lane, signed, rises, (expected, stored), (run_expected, run_stored)):
                continue
            if milepost is not None or position >= lane.milepost:
                self._check_milepost(lane, milepost)

    def follow(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Go on along the rows of one run: each as in `walk`, then the signature of the row before it in the chain."""
        for *row, before in rows:
            position = row[0]
            self.position = position - 1
            self._before = _bytes(before) if position > 1 else EMPTY
            self._instead = None
            if self._before is None:
                self._report_missing(position, position - 1)
            else:
                self.signature = self._before
            self.walk([tuple(row)])
            self.entries += 1
            run = self._runs.get(row[1])
            self.run_signature = run.before if run and run.before else EMPTY
            if self.entries == self._mark:
                self.marked = self.run_signature

    def _meet(self, run_number: int, stage_number: int) -> _Lane:
        run_signature, sequence, milepost, entries = self._begun(run_number, stage_number)
        run = self._runs.get(run_number)
        if run is None:
            run = self._runs[run_number] = _Run(EMPTY if run_signature is None else _bytes(run_signature))
        try:
            before = prefix(self._run_ids[run_number], self._stages[stage_number])
        except KeyError:
            # A number without a name: such text is no canonical text, so the row will not fit its signature.
            before = f"[run number {run_number}, stage number {stage_number}, "
        if (run_number, stage_number) not in self._known_lanes:
            place = self._place(run_number, stage_number)
            self.faults.append(Fault("lookup", self.position, f"{place} among the stages of its run", "none"))
        lane = _Lane(run, before, -1, 0, 0)
        if milepost is not None:
            lane.sequence, lane.entries, lane.milepost = sequence, entries, milepost + APART
        self._lanes[run_number, stage_number] = lane
        return lane

    def _forget(self) -> None:
        """After a row that is missing, or not what it was, nothing is known of what any run had done until then."""
        self._runs.clear()
        self._lanes.clear()
        self._begun = _unknown

    def _settle(
        self, lane: _Lane, signed: bytes, rises: bool, link_: tuple[bytes, object], run_link: tuple[object, object]
    ) -> bool:
        """A row that does not fit, or a row after one; whether it is as it was recorded."""
        (expected, stored), (run_expected, run_stored) = link_, run_link
        fits = expected == stored or (self._instead is not None and link(self._instead, signed, self._hashed) == stored)
        self.signature = link(self.signature, signed, self._hashed)
        if not fits:
            self.faults.append(Fault("link", self.position, _hex(expected), _hex(stored)))
            # The next row may follow from what this says (it was edited) or from what it should say (its signature was).
            self._before, self._instead = _bytes(stored) or expected, expected
            self._forget()
            return False
        self._before, self._instead = _bytes(stored), None
        run = lane.run
        said = stored if run_stored is None else run_stored
        if run_expected == run_stored or (run.instead is not None and link(run.instead, signed, self._hashed) == run_stored):
            run.before, run.instead = _bytes(said), None
        else:
            computed = expected if run_expected is None else run_expected
            self.faults.append(Fault("run", self.position, _hex(computed), _hex(said)))
            run.before, run.instead = _bytes(said) or _bytes(computed), _bytes(computed)
        if not rises:
            self.faults.append(Fault("lookup", self.position, "a sequence above the last of its stage", "another"))
        return True

    def _check_milepost(self, lane: _Lane, milepost: object) -> None:
        """A row that is a milepost, or should be one."""
        expected = lane.entries if self.position >= lane.milepost else None
        if lane.milepost == inf and isinstance(milepost, int):
            lane.entries = milepost
        elif milepost != expected:
            self.faults.append(Fault("lookup", self.position, f"milepost {expected}", f"milepost {shown(milepost)}"))
            if expected is None:
                return  # the next one stands where it would without this one
        lane.milepost = self.position + APART

    def _place(self, run_number: int, stage_number: int) -> str:
        return f"stage {shown(self._stages.get(stage_number))} of run {shown(self._run_ids.get(run_number))}"

    def report_end(self, last: int) -> None:
        """The chain had a row at the position `last`; where the walk has ended before it, the rest is gone."""
        if self.position < last:
            self._report_missing(last + 1)

    def report_empty(self, lanes: Iterable[tuple[int, int]]) -> None:
        """The file says that a run has these stages, of which it has no entry."""
        for run_number, stage_number in lanes:
            self.faults.append(Fault("lookup", None, f"an entry of {self._place(run_number, stage_number)}", "none"))

    def _report_missing(self, position: int, first: int | None = None) -> None:
        first, last = self.position + 1 if first is None else first, position - 1
        rows = f"a row at position {first}" if first == last else f"rows at positions {first} to {last}"
        if position <= self.position:
            self.faults.append(Fault("unreadable", position, "a position above the one before", str(position)))
        else:
            self.faults.append(Fault("missing", first, rows, "none"))
        self._before = self._instead = None
        self._forget()

    def _report_unreadable(self, position: int, key: object, stored: object) -> None:
        self.faults.append(Fault("unreadable", position, "a valid checkpoint", f"idempotency_key {shown(key)}"))
        self._before, self._instead = _bytes(stored), None
        self._forget()


def _nothing(_run_number: int, _stage_number: int) -> tuple[Any, ...]:
    """At the beginning of the chain nothing has begun."""
    return None, None, None, None


def _unknown(_run_number: int, _stage_number: int) -> tuple[Any, ...]:
    """A run's signature that is none, and a milepost that never comes: whatever the next rows say is taken."""
    return b"", -1, inf, 0


def _bytes(signature: object) -> bytes | None:
    return signature if isinstance(signature, bytes) and len(signature) == 32 else None


def _hex(signature: object) -> str:
    return signature.hex() if isinstance(signature, bytes) else shown(signature)

"""
Walk a chain, page by page, and report every fault: the part of `CheckpointStore.verify` that computes.

Memory stays constant however long the chain is; it grows with the number of runs and stages only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milepost.errors import BrokenChainError, InvalidArgumentError, shown
from milepost.signature import EMPTY, link, prefix, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from milepost.receipt import Head
    from milepost.signature import Hash


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that is not as it was recorded.

    Attributes:
        kind: `link`, a row that does not follow from the row before it: it, or its place, was changed;
            `missing`, positions without a row; `unreadable`, a row whose values are no checkpoint;
            `run`, the head kept for a run disagrees with the run's rows;
            `head`, the chain does not contain the head it was expected to contain;
            `key`, the chain is keyed and was opened without its key, so that its links cannot be judged;
            `file`, what SQLite itself found wrong in the file (`PRAGMA integrity_check`).
        position: Where in the chain, 1, 2, 3 …; None where a fault has no single place.
        expected: What should be there.
        found: What is there.
    """

    kind: str
    position: int | None
    expected: str
    found: str

    def __str__(self) -> str:
        place = "" if self.position is None else f"position {self.position}: "
        return f"{place}{self.kind}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Verification:
    """
    What a verification found.

    Attributes:
        ok: Nothing is wrong.
        entries: How many entries the chain has.
        signature: The chain's signature, recomputed from the rows as they are now, 64 hex digits.
        faults: Every fault, those of the rows first, in chain order.
    """

    ok: bool
    entries: int
    signature: str
    faults: tuple[Fault, ...]

    def __post_init__(self) -> None:
        if self.ok is bool(self.faults):
            raise InvalidArgumentError("ok", self.ok, f"does not go with {len(self.faults)} fault(s)")

    def raise_if_broken(self) -> None:
        """
        Do nothing if all is well.

        Raises:
            BrokenChainError: Something is wrong; it carries the `faults`.
        """
        if not self.ok:
            raise BrokenChainError(self.faults)

    def _repr_html_(self) -> str:
        from milepost.forensics import html  # noqa: PLC0415 - only a notebook asks for it

        return html.verification(self)


class _Run:
    """The chain over one run's own entries, as far as it has been walked."""

    __slots__ = ("damaged", "entries", "signature", "stages")

    def __init__(self) -> None:
        self.stages: dict[int, _Progress] = {}
        self.signature = EMPTY
        self.entries = 0
        self.damaged = False  # a faulty row of it is reported already, and would make its head disagree as well


class _Progress:
    """One stage of one run, as far as it has been walked."""

    __slots__ = ("entries", "prefix", "run", "signature")

    def __init__(self, run: _Run, before: str) -> None:
        self.run = run
        self.prefix = before
        self.entries = 0
        self.signature = EMPTY


class Audit:
    """
    One walk along a chain, from a trusted place on.

    Args:
        run_ids: The run_id of each run number.
        stages: The stage of each stage number.
        hashed: What the links are made with.
        since: The head to start after; None starts at the beginning.
        mark: Where in a run's own chain (`follow`) to keep the signature as `marked`.
    """

    def __init__(
        self,
        run_ids: Mapping[int, str],
        stages: Mapping[int, str],
        hashed: Hash,
        since: Head | None = None,
        mark: int | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self.position = since.entries if since else 0
        self.entries = 0  # of the run whose rows are followed
        self.signature = bytes.fromhex(since.signature) if since else EMPTY  # recomputed from the rows
        self._before: bytes | None = self.signature  # what the row before says; None where that row is missing
        self._instead: bytes | None = None  # what it should have said, if that is something else
        self._run_ids, self._stages, self._hashed = run_ids, stages, hashed
        self._since = self.position
        self.run_signature = EMPTY  # of the run whose rows are followed
        self._mark = mark
        self.marked: bytes | None = EMPTY if mark == 0 else None
        self._runs: dict[int, _Run] = {}
        self._progress: dict[tuple[int, int], _Progress] = {}

    def walk(self, page: Iterable[tuple[Any, ...]]) -> None:
        """
        Go on along a page of neighbouring rows.

        Args:
            page: (position, run_number, stage_number, sequence, offset, event_time_ms, idempotency_key, at_ms, signature).
        """
        progresses, hashed = self._progress, self._hashed
        for position, run_number, stage_number, sequence, offset, event_time_ms, key, at_ms, stored in page:
            if position != self.position + 1:
                self._report_missing(position)
            self.position = position
            progress = progresses.get((run_number, stage_number)) or self._meet(run_number, stage_number)
            run = progress.run
            progress.entries += 1
            run.entries += 1
            # `signature.canonical` and `signature.link`, in place: two calls fewer for each entry.
            try:
                signed = f"{progress.prefix}{sequence},[{offset},{event_time_ms}],{quoted(key)},{at_ms}]".encode()
            except (TypeError, UnicodeEncodeError):
                self._report_unreadable(position, run, key, stored)
                continue
            before = self._before
            expected = hashed(before + signed).digest() if before is not None else stored
            # A run that is alone in its file, as most are, has the file's signature: no need to compute it twice.
            run.signature = progress.signature = (
                expected if run.signature == before else hashed(run.signature + signed).digest()
            )
            if expected == stored and self.signature == before:
                self.signature = self._before = stored
            else:
                self._settle(position, run, signed, expected, stored)

    def follow(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Go on along the rows of one run: each as in `walk`, then the signature of the row before it in the chain."""
        for *row, before in rows:
            position = row[0]
            self.position = position - 1
            self._before = _bytes(before) if position > 1 else EMPTY
            self._instead = None
            if self._before is None:
                self._report_missing(position, position - 1)
            self.walk([tuple(row)])
            self.entries += 1
            self.run_signature = self._runs[row[1]].signature
            if self.entries == self._mark:
                self.marked = self.run_signature

    def go_on_with(self, run_number: int) -> None:
        """The run is alone in the chain up to here, so that its own signature here is the chain's."""
        self._runs.setdefault(run_number, _Run()).signature = self.signature

    def stages(self) -> list[tuple[int, int, int, bytes]]:
        """How far each stage of each run has been walked: (run_number, stage_number, entries, signature)."""
        return [(run, stage, each.entries, each.signature) for (run, stage), each in self._progress.items()]

    def take_over(self, run_number: int, stage_number: int, entries: int, signature: bytes) -> None:
        """Take over what another walk, over the next part of the chain, has found as its `stages`."""
        progress = self._progress.get((run_number, stage_number)) or self._meet(run_number, stage_number)
        progress.entries += entries
        progress.run.entries += entries
        progress.signature = progress.run.signature = signature

    def end(self, entries: int) -> None:
        """The chain is said to have `entries` entries: say so if it ended before."""
        if self.position < entries:
            self._report_missing(entries + 1)

    def compare_heads(self, heads: Iterable[tuple[Any, ...]]) -> None:
        """
        Compare what the file keeps for each stage of each run: rows of (run_number, stage_number, entries, signature).

        A run that has entries from before the walk began cannot be judged and is passed over.
        """
        kept: dict[int, dict[int, tuple[int, bytes]]] = {}
        for run_number, stage_number, entries, signature in heads:
            kept.setdefault(run_number, {})[stage_number] = entries, signature
        for run_number in [*kept, *(number for number in self._runs if number not in kept)]:
            run = self._runs.get(run_number, _Run())
            stages = kept.get(run_number, {})
            stated = sum(entries for entries, _ in stages.values() if isinstance(entries, int))
            began_before = self._since and stated > run.entries
            if not run.damaged and not began_before:
                self._compare_run(run_number, run, stages)

    def _compare_run(self, run_number: int, run: _Run, stages: Mapping[int, tuple[int, bytes]]) -> None:
        for stage_number in [*stages, *(number for number in run.stages if number not in stages)]:
            progress = run.stages.get(stage_number)
            computed = (progress.entries, progress.signature) if progress else (0, EMPTY)
            stated = stages.get(stage_number, (0, EMPTY))
            if computed != stated:
                place = f"run {shown(self._run_ids.get(run_number))}, stage {shown(self._stages.get(stage_number))}"
                expected = f"{computed[0]} entries up to {_hex(computed[1])} as the head of {place}"
                self.faults.append(Fault("run", None, expected, f"{stated[0]!r} up to {_hex(stated[1])}"))

    def _meet(self, run_number: int, stage_number: int) -> _Progress:
        run = self._runs.setdefault(run_number, _Run())
        try:
            before = prefix(self._run_ids[run_number], self._stages[stage_number])
        except KeyError:
            # A number without a name: such text is no canonical text, so the row will not fit its signature.
            before = f"[run number {run_number}, stage number {stage_number}, "
        progress = self._progress[run_number, stage_number] = run.stages[stage_number] = _Progress(run, before)
        return progress

    def _settle(self, position: int, run: _Run, signed: bytes, expected: bytes, stored: object) -> None:
        """A row that does not fit, or a row after one."""
        fits = expected == stored or (self._instead is not None and link(self._instead, signed, self._hashed) == stored)
        self.signature = link(self.signature, signed, self._hashed)
        if fits:
            self._before, self._instead = _bytes(stored), None
            return
        run.damaged = True
        self.faults.append(Fault("link", position, _hex(expected), _hex(stored)))
        # The next row may follow from what this one says (it was edited) or from what it should say (its signature was).
        self._before, self._instead = _bytes(stored) or expected, expected

    def _report_missing(self, position: int, first: int | None = None) -> None:
        first, last = self.position + 1 if first is None else first, position - 1
        rows = f"a row at position {first}" if first == last else f"rows at positions {first} to {last}"
        if position <= self.position:
            self.faults.append(Fault("unreadable", position, "a position above the one before", str(position)))
        else:
            self.faults.append(Fault("missing", first, rows, "none"))
        self._before = self._instead = None

    def _report_unreadable(self, position: int, run: _Run, key: object, stored: object) -> None:
        run.damaged = True
        self.faults.append(Fault("unreadable", position, "a valid checkpoint", f"idempotency_key {shown(key)}"))
        self._before, self._instead = _bytes(stored), None


def _bytes(signature: object) -> bytes | None:
    return signature if isinstance(signature, bytes) and len(signature) == 32 else None


def _hex(signature: object) -> str:
    return signature.hex() if isinstance(signature, bytes) else shown(signature)

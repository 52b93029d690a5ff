"""Check each claim of the demo against the files and the CSV."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from milepost import details
from milepost.demo.pipeline import checkpoints, totals
from milepost.demo.source import amount, event_time, fits
from milepost.errors import InvalidArgumentError, shown
from milepost.readable import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.checkpoint import Checkpoint
    from milepost.demo.pipeline import Totals
    from milepost.demo.source import Source
    from milepost.receipt import Head
    from milepost.store import CheckpointStore


@dataclass(frozen=True, slots=True)
class Check:
    """
    One claim.

    Attributes:
        claim: The claim in words.
        fault: Why it is false; None if it is true.
    """

    claim: str
    fault: str | None


def plain_totals(source: Source) -> Totals:
    """
    Compute the totals straight from the CSV in plain Python, without a store.

    A sum of floats depends on the order. Both this function and the job add in the order of the CSV, so their sums are equal
    to the bit. A sum of integers is exact.

    Raises:
        InvalidArgumentError: A sum of integers is one that SQLite cannot hold.
    """
    counts: dict[tuple[str, str], int] = defaultdict(int)
    sums: dict[tuple[str, str], int | float] = defaultdict(int)
    for row in source:
        key = row.category, event_time(row.event_time).day
        counts[key] += 1
        sums[key] += amount(row.amount)
        if not fits(sums[key]):
            problem = f"the sum of {shown(key[0])} on {key[1]} is too large at record {row.number:,}: add up smaller numbers"
            raise InvalidArgumentError("--sum", source.summed, problem)
    return {key: (counts[key], sums[key]) for key in counts}


def checks(resumed: CheckpointStore, unkilled: CheckpointStore, expected: Totals, at_kill: Head) -> Iterator[Check]:
    """
    Compare the run that was killed and resumed with the other run and the CSV.

    Args:
        resumed: The file of the run that was killed and resumed.
        unkilled: The file of the run that was never killed.
        expected: The totals straight from the CSV.
        at_kill: The head of the chain after the kill.
    """
    found = totals(resumed)
    yield Check("its totals are those of the run that was never killed", _difference(found, totals(unkilled)))
    yield Check("its totals are those straight from the CSV", _difference(found, expected))
    yield Check(
        f"both runs recorded the same {checkpoints(unkilled):,} checkpoints, except for the clock",
        _divergence(resumed, unkilled),
    )
    verification = resumed.verify(expected=at_kill)
    yield Check(
        "its chain verifies, and contains what was on disk after the kill",
        None if verification.ok else f"{count(len(verification.faults), 'fault')}, the first: {verification.faults[0]}",
    )
    recorded = resumed.chain_signature()
    yield Check(
        "its signature is the one recomputed from the rows",
        None if recorded == verification.signature else f"recorded {recorded}, recomputed {verification.signature}",
    )


def _difference(found: Totals, expected: Totals) -> str | None:
    different = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if not different:
        return None
    category, day = different[0]
    return (
        f"{len(different):,} differ, the first {shown(category)} on {day}: "
        f"found {_total(found.get(different[0]))}, expected {_total(expected.get(different[0]))}"
    )


def _total(total: tuple[int, int | float] | None) -> str:
    return "nothing" if total is None else f"{total[0]:,} records with a sum of {total[1]!r}"


def _divergence(resumed: CheckpointStore, unkilled: CheckpointStore) -> str | None:
    for number, pair in enumerate(zip_longest(_of_stages(resumed), _of_stages(unkilled)), 1):
        one, other = (entry and entry._replace(at_ms=0) for entry in pair)
        if one != other:
            return f"checkpoint {number:,} has {one} and {other}"
    return None


def _of_stages(store: CheckpointStore) -> Iterator[Checkpoint]:
    """Leave out the entries about the run's attempts, because the killed run has one attempt more."""
    return (entry for entry in store.history() if not entry.stage.startswith(details.RESERVED))

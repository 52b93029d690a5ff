"""Find the shape of a stage of a run, in as many checkpoints as a picture can show, even out of ten million."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Mark(NamedTuple):
    """The values of a checkpoint that a picture needs."""

    sequence: int
    offset: int
    event_time_ms: int
    at_ms: int


@dataclass(frozen=True)
class Outline:
    """
    Some marks of a stage of a run in order of sequence, with the first and the last.

    Attributes:
        marks: The marks.
        neighbours: For each mark but the last, True if no checkpoint lies between it and the next mark.
        entries: How many checkpoints there are in all.
    """

    marks: list[Mark]
    neighbours: list[bool]
    entries: int

    @cached_property  # a picture asks five times
    def silences(self) -> list[int]:
        """
        Find where the stage recorded nothing for remarkably long: the indexes of the marks before.

        Such a time is longer than ten usual times between two checkpoints, and than a hundredth of the whole time.
        """
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if not pairs:
            return []
        per_entry = (self.marks[-1].sequence - self.marks[0].sequence) / max(1, self.entries - 1)  # sequences may have gaps
        paces = [(two.at_ms - one.at_ms) * per_entry / (two.sequence - one.sequence) for one, two in pairs]
        long = max(10 * median(paces), self._hundredth)
        return [
            index
            for index, ((one, two), close) in enumerate(zip(pairs, self.neighbours, strict=True))
            if close and two.at_ms - one.at_ms > long
        ]

    @cached_property
    def jumps(self) -> list[int]:
        """Find where the clock jumped back by more than a hundredth of the whole time: the indexes of the marks before."""
        least = self._hundredth
        return [
            index
            for index, (one, two) in enumerate(zip(self.marks, self.marks[1:], strict=False))
            if one.at_ms - two.at_ms > least
        ]

    @cached_property
    def _hundredth(self) -> float:
        times = [mark.at_ms for mark in self.marks]
        return (max(times) - min(times)) / 100

    def stretches(self) -> list[list[Mark]]:
        """Split the marks at the silences, and where the clock jumped back."""
        ends = sorted(index + 1 for index in [*self.silences, *self.jumps])
        return [
            self.marks[start:end] for start, end in zip([0, *ends], [*ends, len(self.marks)], strict=True) if start < end
        ]


def outline(
    first: Mark,
    last: Mark,
    entries: int,
    between: Callable[[int, int], Mark | None],
    distance: Callable[[Mark, Mark], float],
    *,
    points: int,
    enough: float = 0.001,
) -> Outline:
    """
    Choose marks so that the line through them passes close to all others.

    Offset and event time never fall along the sequence, and a clock seldom does. So every checkpoint between two marks is
    within their distance of both. The two marks farthest apart get another mark between them, until all are close enough
    or there are enough marks. Each mark costs one search in an index, and no scan.

    Args:
        first: The first mark.
        last: The last mark.
        entries: How many checkpoints there are.
        between: Returns a mark from about the middle between two sequences, or None if there is none.
        distance: Returns how far apart two marks are in the picture, as a share of its size.
        points: How many marks to choose at most; 2 or more.
        enough: The distance at which two marks are close enough.
    """
    marks = {first.sequence: first, last.sequence: last}
    neighbours: set[int] = set()  # sequences with no checkpoint before the next mark
    apart = [(-distance(first, last), first, last)] if first != last else []
    while apart and len(marks) < points:
        farness, one, two = heapq.heappop(apart)
        if -farness <= enough:
            break
        middle = between(one.sequence, two.sequence)
        if middle is None:
            neighbours.add(one.sequence)
            continue
        marks[middle.sequence] = middle
        heapq.heappush(apart, (-distance(one, middle), one, middle))
        heapq.heappush(apart, (-distance(middle, two), middle, two))
    chosen = [marks[sequence] for sequence in sorted(marks)]
    return Outline(chosen, [mark.sequence in neighbours for mark in chosen[:-1]], entries)

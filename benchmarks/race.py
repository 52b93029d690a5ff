"""Measure two contestants in turns, and say what the median of the ratios is."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")

Timings = list[float]
"""What one round took, in µs per operation: one value for each operation, or one for all of them together."""

WIDTH: Final = 99


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to reach: of the ratio to the floor, or of milepost's own value where `own`."""

    limit: float
    least: bool = False
    own: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:{',.0f' if self.own else '.2f'}}"

    def reached(self, ratio: float, value: float) -> bool:
        """Whether a result is as good as the figure."""
        result = value if self.own else ratio
        return result >= self.limit if self.least else result <= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table; the values are in the unit that `work` names."""

    work: str
    floor: float
    milepost: float
    ratio: float
    figure: Figure | None = None
    tail: tuple[float, float, float] | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts of the line: work, floor, milepost, ratio, P90, P99, max, figure, reached."""
        tail = ("", "", "") if self.tail is None else tuple(map(number, self.tail))
        figure, reached = "", ""
        if self.figure is not None:
            figure = str(self.figure)
            reached = "yes" if self.figure.reached(self.ratio, self.milepost) else "NO"
        return (self.work, number(self.floor), number(self.milepost), f"{self.ratio:.2f}", *tail, figure, reached)


def number(value: float) -> str:
    """Three significant digits of a small number, all of the whole part of a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def each(call: Callable[[T], object], arguments: Iterable[T]) -> Timings:
    """Call with each argument; µs of each call."""
    times = []
    now = perf_counter_ns
    for argument in arguments:
        begin = now()
        call(argument)
        times.append(now() - begin)
    return [time / 1000 for time in times]


def together(call: Callable[[], object], operations: int) -> Timings:
    """Call once, which does so many operations; µs of one operation."""
    begin = perf_counter_ns()
    call()
    return [(perf_counter_ns() - begin) / 1000 / operations]


def repeated(call: Callable[[], object], times: int) -> Timings:
    """Call so many times in a row; µs of one call."""
    begin = perf_counter_ns()
    for _ in range(times):
        call()
    return [(perf_counter_ns() - begin) / 1000 / times]


def in_threads(calls: Sequence[Callable[[], object]], operations: int) -> Timings:
    """Run each call in a thread of its own, all at once; they do so many operations in all; µs of one operation."""
    start = threading.Barrier(len(calls) + 1)

    def run(call: Callable[[], object]) -> None:
        start.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    start.wait()
    begin = perf_counter_ns()
    for thread in threads:
        thread.join()
    return [(perf_counter_ns() - begin) / 1000 / operations]


class Race:
    """
    Let the floor and milepost take turns, round by round, and keep the line that comes out of it.

    A contestant is a function that prepares one round, which is not timed, and returns the function that does it and
    returns its timings. pytest-benchmark times milepost's rounds as a whole; the numbers of the table are our own.
    """

    def __init__(self, benchmark: BenchmarkFixture, results: list[Result]) -> None:
        self._benchmark = benchmark
        self._results = results

    def __call__(
        self,
        work: str,
        floor: Callable[[], Callable[[], Timings]],
        milepost: Callable[[], Callable[[], Timings]],
        *,
        rounds: int,
        figure: Figure | None = None,
        rate: bool = False,
        averaged: Callable[[Sequence[float]], float] = median,
        warm_up: bool = False,
        tail: Callable[[], Timings] | None = None,
    ) -> Result:
        """
        Measure, and keep the result.

        Args:
            work: What is done, with the unit, in at most 43 characters.
            floor: Goes first in each round.
            milepost: Goes second.
            rounds: How many rounds; the result has the medians over them, that of the ratio over the ratios of the rounds.
            figure: The figure to reach.
            rate: Report operations per second instead of µs per operation.
            averaged: Makes one number of a round's timings.
            warm_up: Let both do one round that does not count.
            tail: Gives milepost's P90, P99 and maximum, where the rounds time many operations together.
        """
        rounds_of_floor: list[Timings] = []
        rounds_of_ours: list[Timings] = []
        if warm_up:
            floor()()
            milepost()()

        def go_first() -> tuple[tuple[Callable[[], Timings]], dict[str, object]]:
            rounds_of_floor.append(floor()())
            return (milepost(),), {}

        def go_second(run: Callable[[], Timings]) -> None:
            rounds_of_ours.append(run())

        pedantic: Any = self._benchmark.pedantic
        with _settled_heap():
            pedantic(go_second, setup=go_first, rounds=rounds, iterations=1)
        theirs = [_in_unit(averaged(timings), rate) for timings in rounds_of_floor]
        ours = [_in_unit(averaged(timings), rate) for timings in rounds_of_ours]
        single = tail() if tail is not None else [timing for timings in rounds_of_ours for timing in timings]
        return self.keep(
            Result(
                work,
                median(theirs),
                median(ours),
                median(our / their for our, their in zip(ours, theirs, strict=True)),
                figure,
                _tail(single) if len(single) >= 100 else None,
            ),
            rounds={"floor": theirs, "milepost": ours},
        )

    def once(self, work: str, floor: Callable[[], float], milepost: Callable[[], float], figure: Figure | None) -> Result:
        """Compare two values that no noise touches, such as sizes; keep the result."""
        theirs = floor()
        pedantic: Any = self._benchmark.pedantic
        ours: float = pedantic(milepost, rounds=1, iterations=1)
        return self.keep(Result(work, theirs, ours, ours / theirs, figure))

    def keep(self, result: Result, **more: object) -> Result:
        """Put a line into the table, and into what `--benchmark-json` writes."""
        self._results.append(result)
        self._benchmark.extra_info.update(asdict(result), **more)
        if result.figure is not None:
            self._benchmark.extra_info["reached"] = result.figure.reached(result.ratio, result.milepost)
        return result


@contextmanager
def _settled_heap() -> Iterator[None]:
    """The garbage collector stays on, as for everybody, but does not walk what was made ready before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _in_unit(microseconds: float, rate: bool) -> float:
    return 1e6 / microseconds if rate else microseconds


def _tail(timings: Timings) -> tuple[float, float, float]:
    hundredths = quantiles(timings, n=100)
    return hundredths[89], hundredths[98], max(timings)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Columns side by side, the first one flush left, the others flush right; an empty line stays one."""
    lines = [head, *lines]
    widths = [max(len(line[column]) for line in lines if line) for column in range(len(head))]
    return [
        " ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        if line
        else ""
        for line in lines
    ]

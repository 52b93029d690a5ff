"""Measure two contestants in turns, and report the median of their ratios."""

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
"""The timings of one round in µs per operation: one for each operation, or one for all together."""

WIDTH: Final = 99


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to reach, for the ratio to the floor, or with `own` for milepost's own value."""

    limit: float
    least: bool = False
    own: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:{',.0f' if self.own else '.2f'}}"

    def reached(self, ratio: float, value: float) -> bool:
        """Return whether a result reaches the figure."""
        result = value if self.own else ratio
        return result >= self.limit if self.least else result <= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table, with values in the unit that `work` names."""

    work: str
    floor: float
    milepost: float
    ratio: float
    figure: Figure | None = None
    tail: tuple[float, float, float] | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the line: work, floor, milepost, ratio, P90, P99, max, figure, reached."""
        tail = ("", "", "") if self.tail is None else tuple(map(number, self.tail))
        figure, reached = "", ""
        if self.figure is not None:
            figure = str(self.figure)
            reached = "yes" if self.figure.reached(self.ratio, self.milepost) else "NO"
        return (self.work, number(self.floor), number(self.milepost), f"{self.ratio:.2f}", *tail, figure, reached)


def number(value: float) -> str:
    """Format a small number with three significant digits, and a large one as a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def each(call: Callable[[T], object], arguments: Iterable[T]) -> Timings:
    """Call with each argument. Return the µs of each call."""
    times = []
    now = perf_counter_ns
    for argument in arguments:
        begin = now()
        call(argument)
        times.append(now() - begin)
    return [time / 1000 for time in times]


def together(call: Callable[[], object], operations: int) -> Timings:
    """Call once, for this many operations. Return the µs of one operation."""
    begin = perf_counter_ns()
    call()
    return [(perf_counter_ns() - begin) / 1000 / operations]


def repeated(call: Callable[[], object], times: int) -> Timings:
    """Call this many times in a row. Return the µs of one call."""
    begin = perf_counter_ns()
    for _ in range(times):
        call()
    return [(perf_counter_ns() - begin) / 1000 / times]


def in_threads(calls: Sequence[Callable[[], object]], operations: int) -> Timings:
    """Run all calls at once, each in a thread, for this many operations in all. Return the µs of one operation."""
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
    Lets the floor and milepost take turns, round by round, and keeps the resulting line of the table.

    A contestant is a function that prepares one round, which is not timed. It returns a second function, which runs the
    round and returns its timings. pytest-benchmark times milepost's rounds as a whole, but the table has these timings.
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
            work: The work and the unit, in at most 43 characters.
            floor: The first contestant of each round.
            milepost: The second contestant.
            rounds: How many rounds. The result has the medians of their timings, and the median of their ratios.
            figure: The figure to reach.
            rate: Report operations per second instead of µs per operation.
            averaged: Turns a round's timings into one number.
            warm_up: Run one round of both first that does not count.
            tail: Returns timings for milepost's P90, P99 and maximum, if the rounds time operations together.
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
        with _frozen_heap():
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
        """Compare two values without noise, such as sizes, and keep the result."""
        theirs = floor()
        pedantic: Any = self._benchmark.pedantic
        ours: float = pedantic(milepost, rounds=1, iterations=1)
        return self.keep(Result(work, theirs, ours, ours / theirs, figure))

    def keep(self, result: Result, **more: object) -> Result:
        """Add a line to the table, and to the output of `--benchmark-json`."""
        self._results.append(result)
        self._benchmark.extra_info.update(asdict(result), **more)
        if result.figure is not None:
            self._benchmark.extra_info["reached"] = result.figure.reached(result.ratio, result.milepost)
        return result


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Keep the garbage collector on, but let it ignore objects made before the race."""
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
    """Format columns, the first flush left and the others flush right. An empty line stays empty."""
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

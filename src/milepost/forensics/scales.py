"""The axes of a picture: whole numbers, times of the calendar, and spans of time, at ticks that people would choose."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

from milepost.forensics.extra import extra
from milepost.readable import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib import dates, ticker
    from matplotlib.axis import Axis
else:
    dates, ticker = extra("matplotlib.dates"), extra("matplotlib.ticker")

DAY_MS: Final = 86_400_000
_LAST_DATE_MS: Final = 253_402_214_400_000  # the last day of the year 9999, where Python's calendar ends
_UNITS: Final = {  # of a span of time: in ms, and how many of it are marked on an axis
    "ms": (1, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    "s": (1000, (1, 2, 5, 10, 20, 30)),
    "min": (60_000, (1, 2, 5, 10, 20, 30)),
    "h": (3_600_000, (1, 2, 3, 6, 12)),
    "d": (DAY_MS, (1, 2, 4, 7, 14, 30, 60, 90, 180)),
    "y": (365 * DAY_MS, (1, 2, 3, 5, 10, 15, 20, 30, 50, 100)),
}
SPANS: Final[dict[int, str]] = {
    number * size: f"{number} {unit}" for unit, (size, counts) in _UNITS.items() for number in counts
}
_TICKS: Final = 8  # on an axis of spans, at most
_LARGE: Final = 10_000_000  # numbers from here on are shortened, as in 10M, where that loses nothing


def whole_numbers(axis: Axis) -> None:
    """Mark whole numbers only: there is no half of a sequence, or of an offset."""
    axis.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _whole(round(value))))


def _whole(value: int) -> str:
    for unit, letter in ((10**18, "E"), (10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if value >= max(unit, _LARGE) and value * 1000 % unit == 0:
            return f"{value / unit:,g}{letter}"
    return f"{value:,}"


def _limit(axis: Axis, low: float, high: float) -> None:
    axes = axis.axes
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low, high)


def calendar(axis: Axis, times_ms: Sequence[int]) -> None:
    """Mark times of the calendar, in days since the epoch. A single moment gets a minute on each side."""
    low, high = min(times_ms), max(times_ms)
    if low == high:
        _limit(axis, (low - 60_000) / DAY_MS, (high + 60_000) / DAY_MS)
    if high < _LAST_DATE_MS:
        locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
        axis.set_major_locator(locator)
        axis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    else:
        axis.set_major_formatter(ticker.FuncFormatter(lambda day, _: f"{day:.4g} days since 1970"))


def spans(axis: Axis, lengths_ms: Sequence[int], *, from_zero: bool = True) -> None:
    """Mark lengths of time, in ms. An axis from zero begins at 0 or, where a clock jumped back, below."""
    low, high = min(lengths_ms), max(lengths_ms)
    if from_zero:
        low, high = min(0, low), max(1, high)
    elif low == high:
        low, high = low - low // 10 - 1, high + high // 10 + 1
    step = next((span for span in SPANS if (high - low) / span <= _TICKS), (high - low) // _TICKS)
    axis.set_major_locator(ticker.FixedLocator([number * step for number in range(low // step, high // step + 2)]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _length(round(value))))
    axis.set_minor_locator(ticker.NullLocator())
    margin = (high - low) * 0.03
    _limit(axis, 0 if from_zero and not low else low - margin, high + margin)


def _length(ms: int) -> str:
    """A length of time in as many units as it has: of two ticks that are close, the first two may be the same."""
    if ms < 0:
        return f"-{_length(-ms)}"
    parts = []
    for unit_ms in (DAY_MS, 3_600_000, 60_000, 1000, 1):
        number, ms = divmod(ms, unit_ms)
        if number:
            parts.append(duration(number * unit_ms))
    return " ".join(parts) or duration(0)


def logarithmic_spans(axis: Axis, lengths_ms: Sequence[int]) -> None:
    """Mark lengths of time, in ms from 1 on, on a logarithmic axis."""
    low = max((span for span in SPANS if span <= min(lengths_ms)), default=1)
    high = min((span for span in SPANS if span > max(lengths_ms)), default=max(lengths_ms))
    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    _limit(axis, low * 0.9, high * 1.1)
    ticks = [span for span in SPANS if low <= span <= high]
    axis.set_major_locator(ticker.FixedLocator(ticks[:: len(ticks) // 12 + 1]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda span, _: SPANS.get(round(span), "")))
    axis.set_minor_locator(ticker.NullLocator())

"""A CSV for the demo, with every form of time and awkward names, and what its totals must be."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from milepost.demo.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = 3000
COLUMNS = ["--event-time", "when", "--by", "who", "--sum", "how much"]
CATEGORIES = [
    "AA",
    "\x1b[31mred",
    "[bold]no markup[/bold]",
    'the "best"',
    "Ünïted, Ltd.",
    "two\nlines",
    "",
    "'; DROP TABLE totals",
]
Totals = dict[tuple[str, str], tuple[int, float]]


class Sample(NamedTuple):
    """A CSV, what its totals must be, and the latest event time in it."""

    csv: Path
    totals: Totals
    latest_ms: int


def sample(path: Path, records: int = RECORDS) -> Sample:
    """Write a CSV with every form of time and awkward names, and add it up without milepost."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    sums: dict[tuple[str, str], float] = defaultdict(float)
    latest = datetime(1970, 1, 1, tzinfo=UTC)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["when", "how much", "who", "id"])
        for number in range(records):
            moment = datetime(2024, 2, 27, 12, tzinfo=UTC) + timedelta(minutes=number * 7919 % 10_000)
            if number % 6 == 5:
                moment = moment.replace(hour=0, minute=0)
            seconds = int(moment.timestamp())
            latest = max(latest, moment)
            text = [
                moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
                moment.strftime("%Y-%m-%d %H:%M"),
                (moment + timedelta(hours=9)).strftime("%Y-%m-%dT%H:%M:%S.000+09:00"),
                str(seconds),
                f" {seconds}000 ",
                moment.strftime("%Y%m%d"),
            ][number % 6]
            who = CATEGORIES[number % len(CATEGORIES)]
            value = ["", "7", "0.1", "-2.5", "1e3"][number % 5]
            writer.writerow([text, value, who, number])
            key = who, moment.strftime("%Y-%m-%d")
            counts[key] += 1
            sums[key] += float(value or "0")
    return Sample(path, {key: (counts[key], sums[key]) for key in counts}, int(latest.timestamp()) * 1000)


def source_of(orders: Sample) -> Source:
    """The CSV with its columns."""
    return Source(str(orders.csv), "when", "who", "how much")


def stop_at(stage: str, number: int) -> Callable[[str, int], None]:
    """A watch that ends the job at one record."""

    def watch(at_stage: str, at_number: int) -> None:
        if (at_stage, at_number) == (stage, number):
            raise KeyboardInterrupt

    return watch

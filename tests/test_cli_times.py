"""Times on the command line: as people give them, and never a wrong unit."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click
import pytest

from milepost import CheckpointStore
from milepost.cli import argument, commands, output
from support.chains import entry
from support.command import answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW_MS = time.time_ns() // 1_000_000


@pytest.fixture(autouse=True)
def zone() -> None:
    """Each test begins in UTC."""
    output.set_zone(UTC)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026", 1767225600000),
        ("2026-01", 1767225600000),
        ("20260101", 1767225600000),
        ("2026-01-01T01:00+01:00", 1767225600000),
        ("500", 500),
        ("1767225600000", 1767225600000),
    ],
)
def test_a_time_is_what_it_says(text: str, ms: int) -> None:
    """A year, a month, a date, a time, or ms."""
    assert argument.time(text) == ms


@pytest.mark.parametrize(("text", "ms"), [("2h ago", 7_200_000), ("90 min ago", 5_400_000), ("1.5d ago", 129_600_000)])
def test_an_age_is_counted_from_now(text: str, ms: int) -> None:
    """To the second, near enough."""
    found = argument.time(text)
    assert isinstance(found, int)
    assert abs(time.time_ns() // 1_000_000 - ms - found) < 5_000


def test_yesterday_is_the_first_moment_of_the_day_in_the_zone() -> None:
    """Of the reader's zone, if there is one."""
    for name in ("UTC", "Asia/Tokyo"):
        zone = UTC if name == "UTC" else ZoneInfo(name)
        output.set_zone(zone)
        midnight = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
        assert argument.time("today") == midnight.timestamp() * 1000
        assert argument.time("yesterday") == (midnight - timedelta(days=1)).timestamp() * 1000
        assert argument.time("2026-01-01T00:00") == datetime(2026, 1, 1, tzinfo=zone).timestamp() * 1000
        assert argument.time("2026-01-01T00:00Z") == 1767225600000


@pytest.fixture
def in_berlin() -> Iterator[None]:
    """A machine in Berlin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs a zone that a process can change")
@pytest.mark.usefixtures("in_berlin")
def test_local_is_the_offset_of_each_moment(path: Path) -> None:
    """In summer and in winter, shown and taken: an offset of today's would be wrong for half of the year."""
    zone = ZoneInfo("Europe/Berlin")
    # Each half of a year, and both sides and the doubled hour of the last Sundays of March and October.
    hours = [datetime(2026, month, 15, 12, tzinfo=UTC) for month in (1, 7)]
    hours += [datetime(2026, 3, 29, hour, tzinfo=UTC) for hour in range(3)]
    hours += [datetime(2026, 10, 25, hour, tzinfo=UTC) for hour in range(3)]
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([entry(n, at_ms=int(hour.timestamp() * 1000)) for n, hour in enumerate(hours)])
    for name in ("local", "Europe/Berlin"):
        lines = answer("history", path, "--tz", name).splitlines()[1:]
        assert [line.split()[1] for line in lines] == [
            hour.astimezone(zone).isoformat("T", "milliseconds") for hour in hours
        ]
        found = json.loads(answer("history", path, "--tz", name, "--since", "2026-07-15T14:00", "--limit", "1", "--json"))
        assert found["at"] == "2026-07-15T12:00:00.000Z"
        assert answer("history", path, "--tz", name, "--stage", "load", "--until", "2026-01-15T12:59:59").count("\n") == 1


def test_every_command_that_takes_a_time_takes_a_zone() -> None:
    """A time without one would be in another zone in one command than in all others."""
    groups = [each for each in commands.commands.values() if isinstance(each, click.Group)]
    assert [group.name for group in groups] == ["plot"]
    for command in [*commands.commands.values(), *groups[0].commands.values()]:
        options = {name for parameter in command.params for name in parameter.opts}
        times = {each for each in command.params if each.metavar is not None and each.metavar.split("|")[0] == "TIME"}
        assert not times or "--tz" in options, command.name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1000000d ago", "is before 1970"),
        ("1767225600", "looks like seconds"),
        ("1767225600000000", "looks like microseconds"),
        ("1767225600000000000", "or nanoseconds"),
        ("soon", "is no time"),
        ("2026-13", "is no time"),
        ("fortnight ago", "is no length of time"),
    ],
)
def test_a_wrong_time_is_refused_with_the_reason(text: str, why: str) -> None:
    """Seconds would be in January 1970."""
    with pytest.raises(click.ClickException, match=why):
        argument.time(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 90_000),
        ("10m", 600_000),
        ("10 MIN", 600_000),
        ("500ms", 500),
        ("2 hours", 7_200_000),
        ("1.5 days", 129_600_000),
        ("1w", 604_800_000),
    ],
)
def test_a_span_has_a_unit(text: str, ms: int) -> None:
    """Short or long; ms are no minutes."""
    assert argument.span_ms(text) == ms


@pytest.mark.parametrize("text", ["90", "5 mss", "2hs", "-1s", "1e3s", "m", "1 fortnight"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(click.ClickException, match="give one such as 90s"):
        argument.span_ms(text)

"""Times as people give them: datetimes and ISO 8601 text, wherever a verb takes ms."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import CheckpointStore, InvalidArgumentError, NoCheckpointError, ms
from milepost.readable import iso, iso_with_ms
from milepost.times import to_ms
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Callable

MARCH = 1362107520000  # 2013-03-01T03:12:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (MARCH, MARCH),
        (2**63 - 1, 2**63 - 1),
        ("2013-03-01T03:12Z", MARCH),
        ("2013-03-01T03:12:00.000Z", MARCH),
        ("2013-03-01T03:12:00,007Z", MARCH + 7),
        ("2013-03-01 03:12", MARCH),
        ("20130301T0312Z", MARCH),
        ("2013-W09-5T03:12Z", MARCH),
        ("2013-03-01T04:12+01:00", MARCH),
        ("2013-02-28T22:12-0500", MARCH),
        ("2013-03-01", MARCH - (3 * 60 + 12) * 60_000),
        ("20130301", MARCH - (3 * 60 + 12) * 60_000),
        ("1970-01-01", 0),
        ("9999-12-31T23:59:59.999-12:00", 253402300799999 + 12 * 3_600_000),
        (datetime(2013, 3, 1, 3, 12, tzinfo=UTC), MARCH),
        (datetime(2013, 2, 28, 22, 12, tzinfo=timezone(timedelta(hours=-5))), MARCH),
    ],
)
def test_a_time_is_what_it_says(value: Any, ms: int) -> None:
    """With a zone or without, which is UTC; a date is its first moment; an int stays what it is."""
    assert to_ms("as_of", value) == ms
    assert to_ms("since", value, round_up=True) == ms


@settings(max_examples=30)  # to make a time zone takes longer than to test it
@given(st.datetimes(datetime(1970, 1, 2), timezones=st.timezones()))  # noqa: DTZ001 - hypothesis adds the zone
def test_a_fraction_of_a_ms_goes_up_at_the_begin_of_a_span_and_down_at_its_end(moment: datetime) -> None:
    """So that a span never has more than what was asked for; and text says the same as the datetime it came from."""
    down, up = to_ms("until", moment), to_ms("since", moment, round_up=True)
    exact = (moment - EPOCH) // timedelta(microseconds=1)
    assert down * 1000 <= exact <= up * 1000
    assert up - down == (exact % 1000 != 0)
    if (moment.utcoffset() or timedelta()).total_seconds() % 60 == 0:
        assert to_ms("until", moment.isoformat()) == down


def test_a_datetime_without_a_zone_is_refused_with_a_way_out() -> None:
    """To Python it is local time, to many programs UTC: hours apart."""
    with pytest.raises(InvalidArgumentError, match="has no time zone: give it one"):
        to_ms("as_of", datetime(2013, 3, 1))  # noqa: DTZ001 - that is what is refused


class _Broken(tzinfo):
    """A time zone that cannot tell its offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise RuntimeError("no network")

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, moment: datetime | None) -> str:
        return "nowhere"


class _Undecided(datetime):
    """A datetime with an offset and without a time zone."""

    def utcoffset(self) -> timedelta:
        return timedelta()


NO_TIMES: dict[str, Any] = {
    "NaT of pandas": pd.NaT,
    "NA of pandas": pd.NA,
    "NaT of numpy": np.datetime64("NaT", "ms"),
    "datetime64": np.datetime64("2013-03-01"),
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a float": float(MARCH),
    "a float of numpy": np.float64(MARCH),
    "a bool": True,
    "a date": date(2013, 3, 1),
    "a kind of str": type("Text", (str,), {})("2013-03-01"),
    "a broken zone": datetime(2013, 3, 1, tzinfo=_Broken()),
    "an offset without a zone": _Undecided(2013, 3, 1),
    "nothing": None,
}


@pytest.mark.parametrize("value", NO_TIMES.values(), ids=NO_TIMES.keys())
def test_what_is_no_moment_is_refused_in_words(value: Any) -> None:
    """Also where its class is a kind of datetime or str; and by the store as by the function."""
    with pytest.raises(InvalidArgumentError, match=r"^as_of is .*: (must be|is no moment|has no time zone)"):
        to_ms("as_of", value)


def test_the_store_refuses_a_missing_time_of_pandas(store: CheckpointStore) -> None:
    """In words, wherever it takes a time."""
    for ask in (lambda: store.latest(as_of=pd.NaT), lambda: list(store.history(since=pd.NaT))):
        with pytest.raises(InvalidArgumentError, match="is NaT: is no moment in time"):
            ask()


def test_a_timestamp_that_python_has_no_year_for_is_refused() -> None:
    """To Python the year 10,000 of pandas is 1972."""
    moment = pd.Timestamp(np.datetime64("10000-01-02T03:04:05", "ms")).tz_localize("UTC")
    with pytest.raises(InvalidArgumentError, match="out of Python's years"):
        to_ms("as_of", moment)


def test_a_nanosecond_is_a_fraction_of_a_ms() -> None:
    """It goes up at the begin of a span, and down at its end."""
    moment = pd.Timestamp("2013-03-01T03:12:00.000000001Z")
    assert (to_ms("until", moment), to_ms("since", moment, round_up=True)) == (MARCH, MARCH + 1)


@pytest.mark.parametrize(
    "look",
    [
        lambda store, time: [e.sequence for e in store.history(since=time)] == [2, 3],
        lambda store, time: [e.sequence for e in store.history(until=time)] == [1, 2],
        lambda store, time: [e.sequence for _, e, _ in store.receipts(since=time, until=time)] == [2],
        lambda store, time: store.latest(as_of=time).sequence == 2,
        lambda store, time: store.latest_for_stage("load", as_of=time).sequence == 2,
        lambda store, time: store.resume_point_for_stage("load", as_of=time).sequence == 2,
        lambda store, time: store.resume_points(as_of=time)["load"].sequence == 2,
        lambda store, time: store.resume_points("run-7", as_of=time)["load"].sequence == 2,
    ],
)
def test_every_verb_that_takes_ms_takes_a_time(store: CheckpointStore, look: Callable[[CheckpointStore, Any], bool]) -> None:
    """As an int, a datetime and text."""
    store.append_many(entry(i, at_ms=MARCH + (i - 2) * 60_000) for i in (1, 2, 3))
    assert look(store, MARCH)
    assert look(store, "2013-03-01T03:12Z")
    assert look(store, datetime(2013, 3, 1, 3, 12, tzinfo=UTC))


def test_before_the_first_checkpoint_there_was_nowhere_to_resume(store: CheckpointStore) -> None:
    """No point, in words; an empty dict of all."""
    store.append(entry(at_ms=MARCH))
    with pytest.raises(NoCheckpointError, match="stage 'load' in any run up to 2013-03-01T03:11:00Z: give a later") as told:
        store.resume_point_for_stage("load", as_of="2013-03-01T03:11Z")
    assert told.value.as_of_ms == MARCH - 60_000
    with pytest.raises(NoCheckpointError, match="no checkpoint in run 'run-7' up to 2013-03-01T03:11:00Z: see runs"):
        store.branch("run-7", "new", as_of="2013-03-01T03:11Z")
    assert store.resume_points(as_of="2013-03-01T03:11Z") == {}


@given(st.integers(0, 253402300799999))
def test_what_people_read_reads_back(ms: int) -> None:
    """ISO 8601 in UTC, up to the year 9999."""
    assert to_ms("as_of", iso(ms)) == ms
    assert to_ms("as_of", iso_with_ms(ms)) == ms


def test_ms_gives_what_a_watermark_takes() -> None:
    """Of each of the three ways to write a time, and of NumPy's integers."""
    moment = datetime(2013, 3, 1, 3, 12, 0, 1999, tzinfo=UTC)
    assert ms(moment) == ms("2013-03-01T03:12:00.001Z") == ms(1362107520001) == ms(np.int64(1362107520001)) == 1362107520001
    with pytest.raises(InvalidArgumentError, match=r"^time is None"):
        ms(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("transaction", [False, True])
def test_a_loop_takes_any_time_for_an_event_time(store: CheckpointStore, transaction: bool) -> None:
    """And records ms, rounded down."""
    times: list[Any] = [5, np.int64(7), "1970-01-01T00:00:00.009Z", datetime(1970, 1, 1, 0, 0, 0, 11_999, tzinfo=UTC)]
    loop = store.checkpointed(
        times, run_id="run-7", stage="load", every=1, event_time=lambda time: time, transaction=transaction
    )
    assert list(loop) == times
    recorded = [entry.watermark.event_time_ms for entry in store.history()]
    assert recorded == [5, 7, 9, 11]
    assert {type(time) for time in recorded} == {int}

"""A pipeline of years, archived every month: its file stays small, and its history can be proven across the archives."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import Checkpoint, CheckpointStore, Head, MilepostError, Watermark, ms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STAGES: Final = ("extract", "transform", "load")
BEGIN: Final = datetime(2016, 1, 1, tzinfo=UTC)
MINUTE_MS: Final = 60_000
SEED: Final = 2016


@dataclass
class _Years:
    """
    What a pipeline has left.

    Attributes:
        path: Its file.
        made: Its archives, oldest first.
        heads: The head at the end of each month, as kept elsewhere.
        entries: How many entries it has recorded, but for milepost's own.
        archive_s: How long each archive took.
    """

    path: Path
    made: list[Path] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    entries: int = 0
    archive_s: list[float] = field(default_factory=list)


def _live(path: Path, months: int, every_minutes: int) -> _Years:
    """A run a day, a checkpoint every so many minutes by the three stages in turn, and an archive a month."""
    years, now = _Years(path), BEGIN

    def clock() -> int:
        return ms(now)

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        for month in range(months + 1):
            first = datetime(BEGIN.year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            if month:
                began = time.monotonic()
                years.made.append(path.with_name(f"{path.stem}-{month:03}.milepost"))
                assert store.archive(years.made[-1], before=first).entries > 0
                years.archive_s.append(time.monotonic() - began)
                years.heads.append(store.head())
            now = first
            while month < months and now.month == first.month:
                years.entries += _day(store, now, every_minutes)
                now += timedelta(days=1)
    return years


def _day(store: CheckpointStore, day: datetime, every_minutes: int) -> int:
    at_ms = ms(day)
    with store.run(f"{day:%Y-%m-%d}") as run:
        receipt = store.append_many(
            Checkpoint(
                run.run_id,
                STAGES[minute // every_minutes % 3],
                minute + 1,
                Watermark(minute, at_ms + minute * MINUTE_MS),
                f"{day:%j}-{minute}",
                at_ms + minute * MINUTE_MS,
            )
            for minute in range(0, 1440, every_minutes)
        )
    return receipt.appended


def _answers(path: Path) -> list[Any] | None:
    """Everything that an archive answers, or None if it is refused."""
    try:
        with CheckpointStore.open_readonly(path) as store:
            runs = store.runs()
            return [
                list(store.receipts()),
                runs,
                store.stages(),
                (store.base, store.head(), len(store)),
                [(store.resume_points(run.run_id), store.chain_signature(run.run_id)) for run in runs],
            ]
    except MilepostError:
        return None


def _unnoticed(years: _Years, places: Iterable[tuple[int, float, int]]) -> tuple[int, list[str]]:
    """
    Flip a bit of an archive at a time, and verify it with its neighbours.

    Args:
        years: The pipeline.
        places: Which archive, where in it (0 … 1), and which bit of that byte.

    Returns:
        How many of them were found, each in its file, and those that were not, although they change an answer. A bit in a
        place that holds nothing, such as the free space of a page, changes none.
    """
    found, missed = 0, []
    with CheckpointStore.open_readonly(years.path) as store:
        for number, where, bit in places:
            archive = years.made[number]
            original = archive.read_bytes()
            offset = int(where * len(original))
            right = _answers(archive)
            changed = bytearray(original)
            changed[offset] ^= 1 << bit
            archive.write_bytes(changed)
            verification = store.verify(archives=years.made[max(0, number - 1) : number + 2])
            if any(fault.file == str(archive) for fault in verification.faults):
                found += 1
            elif _answers(archive) != right:
                missed.append(f"bit {bit} of byte {offset} of {archive.name}: {verification.faults[:1]}")
            archive.write_bytes(original)
    return found, missed


def test_a_pipeline_that_is_archived_every_month_stays_small_and_proves_its_history(tmp_path: Path) -> None:
    """Four months, with a checkpoint an hour."""
    years = _live(tmp_path / "years.milepost", 4, 60)
    assert years.path.stat().st_size < 200_000 < sum(archive.stat().st_size for archive in years.made) / 3
    with CheckpointStore.open_readonly(years.path) as store:
        assert store.verify().ok
        for head in (years.heads[0], years.heads[-1]):
            found = store.verify(archives=years.made, expected=head)
            assert (found.faults, found.elsewhere, found.entries) == ((), 0, store.head().entries)
        assert not store.verify(archives=years.made, expected=Head(years.heads[0].entries, "ab" * 32)).ok
        assert sum(stage.entries for stage in store.stages()) == years.entries
    chance = random.Random(SEED)
    found_of, missed = _unnoticed(years, [(chance.randrange(4), chance.random(), chance.randrange(8)) for _ in range(4)])
    assert missed == []
    assert found_of >= 2


@pytest.mark.long
def test_ten_years(tmp_path: Path) -> None:
    """A checkpoint a minute: 5.3 million entries in 120 archives."""
    began = time.monotonic()
    years = _live(tmp_path / "years.milepost", 120, 1)
    lived = time.monotonic()
    assert years.path.stat().st_size < 6_000_000
    with CheckpointStore.open_readonly(years.path) as store:
        for head in (None, years.heads[35]):  # at the end of year 3
            found = store.verify(archives=years.made, expected=head)
            assert (found.faults, found.elsewhere, found.entries) == ((), 0, store.head().entries)
        proven = time.monotonic()
        assert store.verify().ok
        alone = time.monotonic()
        points = store.resume_points()
        assert set(points) == set(STAGES)
    chance = random.Random(SEED)
    places = [(number, chance.random(), chance.randrange(8)) for number in range(120)]
    headers = [
        (number, chance.random() * 100 / years.made[number].stat().st_size, chance.randrange(8))
        for number in range(0, 120, 4)
    ]
    flipped, missed = _unnoticed(years, places + headers)
    print(
        f"{years.entries:,} entries in {lived - began:.0f} s, the last archives "
        f"{years.archive_s[-1]:.2f} s (the first {years.archive_s[0]:.2f} s); the file has {years.path.stat().st_size:,} "
        f"bytes, the archives {sum(each.stat().st_size for each in years.made):,}; verified from the first entry in "
        f"{(proven - lived) / 2:.0f} s, alone in {alone - proven:.1f} s; of {len(places + headers)} bits {flipped} found, "
        f"{len(missed)} missed, in {time.monotonic() - alone:.0f} s"
    )
    assert missed == []
    assert flipped > 60

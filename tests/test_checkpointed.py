"""One line that makes a loop resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointStore, InvalidArgumentError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Crash(Exception):  # noqa: N818 - plays the part of a kill
    """Ends a loop."""


def _loop(store: CheckpointStore, records: Any, *, crash_at: int | None = None, **options: Any) -> list[Any]:
    done = []
    for record in store.checkpointed(records, run_id="run-7", stage="load", **options):
        if record == crash_at:
            raise Crash
        done.append(record)
    return done


def _offsets(store: CheckpointStore) -> list[tuple[int, str]]:
    return [(entry.watermark.offset, entry.idempotency_key) for entry in store.history()]


def test_a_checkpoint_follows_every_so_many_finished_records_and_the_end(store: CheckpointStore) -> None:
    """The offset is the number of records done; the key is the stage and the range of offsets."""
    assert _loop(store, range(2500), every=1000) == list(range(2500))
    assert _offsets(store) == [(1000, "load:0-999"), (2000, "load:1000-1999"), (2500, "load:2000-2499")]


def test_no_checkpoint_is_recorded_for_nothing(store: CheckpointStore) -> None:
    """Neither for an empty source, nor for one that is done, nor twice at a round end."""
    assert _loop(store, []) == []
    assert _offsets(store) == []
    assert _loop(store, range(10), every=5) == list(range(10))
    assert _loop(store, range(10), every=5) == []
    assert _offsets(store) == [(5, "load:0-4"), (10, "load:5-9")]


def test_a_record_counts_only_when_the_next_one_is_asked_for(store: CheckpointStore) -> None:
    """An exception while the last record of a batch is processed leaves the batch before as the resume point."""
    with pytest.raises(Crash):
        _loop(store, range(100), every=10, crash_at=29)
    assert _offsets(store) == [(10, "load:0-9"), (20, "load:10-19")]
    assert _loop(store, range(100), every=10) == list(range(20, 100))
    assert _offsets(store)[-1] == (100, "load:90-99")


def test_a_break_leaves_the_last_finished_batch_as_the_resume_point(store: CheckpointStore) -> None:
    """As an exception does."""
    for record in store.checkpointed(range(100), run_id="run-7", stage="load", every=10):
        if record == 25:
            break
    assert _offsets(store)[-1] == (20, "load:10-19")


@given(st.integers(0, 60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=4), st.booleans(), st.booleans())
def test_every_record_is_processed_exactly_once_in_the_sink(
    tmp_path_factory: pytest.TempPathFactory, length: int, every: int, crashes: list[int], transaction: bool, seek: bool
) -> None:
    """With transaction=True, whatever the crashes; without it, nothing is missed."""
    with CheckpointStore(tmp_path_factory.mktemp("loop") / "store", durability="normal") as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER NOT NULL) STRICT")
        for crash_at in [*crashes, None]:
            loop = store.checkpointed(
                range(length),
                run_id="run-7",
                stage="load",
                every=every,
                seek=(lambda offset: range(offset, length)) if seek else None,
                transaction=transaction,
            )
            try:
                for record in loop:
                    if transaction:
                        loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
                    else:
                        with store.transaction() as connection:
                            connection.execute("INSERT INTO sink VALUES (?)", (record,))
                    if record == crash_at:
                        raise Crash
            except Crash:
                pass
        with store.transaction() as connection:
            written = [row[0] for row in connection.execute("SELECT record FROM sink ORDER BY record")]
        assert (written if transaction else sorted(set(written))) == list(range(length))
        assert store.verify().ok


def test_a_loop_left_by_an_exception_holds_no_transaction_open(store: CheckpointStore, path: Path) -> None:
    """Another writer can go on at once, though the loop object is still there."""
    loop = store.checkpointed(range(100), run_id="run-7", stage="load", every=10, transaction=True)
    with pytest.raises(Crash):
        for record in loop:
            if record == 15:
                raise Crash
    with CheckpointStore(path, busy_timeout_ms=0, durability="normal") as other:
        assert _loop(other, range(100), every=10) == list(range(10, 100))


def test_seek_is_asked_for_the_rest_and_nothing_done_is_read_again(store: CheckpointStore) -> None:
    """The source is not touched before the resume point."""
    assert _loop(store, range(20), every=10) == list(range(20))
    asked = []

    def seek(offset: int) -> Iterator[int]:
        asked.append(offset)
        return iter(range(offset, 40))

    assert _loop(store, range(40), every=10, seek=seek) == list(range(20, 40))
    assert asked == [20]


def test_event_time_is_the_latest_seen_so_that_it_never_falls(store: CheckpointStore) -> None:
    """Records may come out of order; a watermark may not."""
    times = [5, 3, 9, 1, 2, 8]
    _loop(store, times, every=2, event_time_ms=lambda record: record * 1000)
    assert [entry.watermark.event_time_ms for entry in store.history()] == [5000, 9000, 9000]


def test_a_source_that_has_become_shorter_is_told(store: CheckpointStore) -> None:
    """Silence would look like a finished stage."""
    _loop(store, range(30), every=10)
    with pytest.raises(InvalidArgumentError, match="30 records of it were processed already, but it has 7"):
        _loop(store, range(7))


def test_runs_and_stages_resume_apart(store: CheckpointStore) -> None:
    """Another run of the same stage begins at the beginning."""
    _loop(store, range(30), every=10)
    assert list(store.checkpointed(range(30), run_id="run-8", stage="load")) == list(range(30))
    assert list(store.checkpointed(range(30), run_id="run-7", stage="extract")) == list(range(30))


def test_a_stage_with_a_name_of_full_length_still_gets_keys(store: CheckpointStore) -> None:
    """The name is left out of a key that would be too long."""
    list(store.checkpointed(range(3), run_id="run-7", stage="é" * 512, every=2))
    assert [entry.idempotency_key for entry in store.history()] == ["0-1", "2-2"]


def test_the_connection_is_given_only_inside_a_loop_with_transactions(store: CheckpointStore) -> None:
    """Anywhere else it would be autocommit."""
    loop = store.checkpointed(range(3), run_id="run-7", stage="load", transaction=True)
    with pytest.raises(StoreError, match="only there"):
        _ = loop.connection
    list(loop)
    with pytest.raises(StoreError, match="only there"):
        _ = loop.connection
    plain = store.checkpointed(range(3), run_id="run-8", stage="load")
    for _ in plain:
        with pytest.raises(StoreError, match="only there"):
            _ = plain.connection

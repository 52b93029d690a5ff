"""A frame gives polars, pyarrow, DuckDB and pandas what `history` gives, as it is and without holding the file."""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import TYPE_CHECKING, Any, Final

import arro3.core as arrow
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    Checkpoint,
    CheckpointStore,
    ClosedStoreError,
    DamagedStoreError,
    InvalidArgumentError,
    MissingPackageError,
    Receipt,
    RejectedCheckpointError,
    Watermark,
    rows,
)
from support.chains import MAX, chain, entry, mixed
from support.doors import connections
from support.strategies import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.forensics.frames import Frame

LENGTH = 100

TAKERS: dict[str, Callable[[Any], int]] = {
    "polars": lambda frame: pl.DataFrame(frame).height,
    "pyarrow": lambda frame: pa.table(frame).num_rows,
    "duckdb": lambda frame: duckdb.sql("SELECT count(*) FROM frame").fetchall()[0][0],
    "pandas": lambda frame: len(pd.DataFrame.from_arrow(frame)),
}
a_taker = pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS.keys())


@pytest.fixture
def _pages_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH", 7)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store with a chain of runs and stages in turns."""
    with CheckpointStore(tmp_path_factory.mktemp("frames") / "store", durability="normal") as store:
        store.append_many(mixed(LENGTH))
        yield store


NULL: Final = ["detail", "cursor_sha256"]
COLUMNS: Final = ("run_id", "stage", "sequence", "offset", "event_time", "idempotency_key", "at")


def _records(frame: Frame | CheckpointStore) -> list[tuple[Receipt, Checkpoint, str | None]]:
    """A frame's rows as what `receipts` gives: times as integers, since not every one fits a datetime."""
    table = arrow.Table.from_arrow(frame)

    def values(name: str) -> Any:
        column = table.column(name)
        return (column.cast(arrow.DataType.int64()) if arrow.DataType.is_timestamp(column.type) else column).to_pylist()

    names = ("position", "signature", *COLUMNS, "detail")
    return [
        (Receipt(position, signature), Checkpoint(run_id, stage, sequence, Watermark(offset, event_time), key, at), detail)
        for position, signature, run_id, stage, sequence, offset, event_time, key, at, detail in zip(
            *map(values, names), strict=True
        )
    ]


@pytest.mark.usefixtures("_pages_of_seven")
def test_a_frame_has_what_receipts_gives(recorded: CheckpointStore) -> None:
    """Any filters, both directions, whatever the pages."""
    times = st.one_of(st.none(), st.integers(0, 1000))

    @given(
        st.sampled_from([None, "run-0", "run-1", "none"]),
        st.sampled_from([None, "load", "none"]),
        times,
        times,
        st.integers(0, LENGTH + 5),
        st.one_of(st.none(), st.integers(0, LENGTH)),
        st.booleans(),
    )
    def check(
        run_id: str | None,
        stage: str | None,
        since: int | None,
        until: int | None,
        after: int,
        limit: int | None,
        newest_first: bool,
    ) -> None:
        filters: Any = {
            "since": since,
            "until": until,
            "after": after,
            "limit": limit,
            "newest_first": newest_first,
        }
        frame = recorded.frame(run_id, stage, **filters)
        assert list(recorded.receipts(run_id, stage, **filters)) == _records(frame)

    check()


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.long)])
def test_a_frame_has_whatever_a_checkpoint_may_be(tmp_path_factory: pytest.TempPathFactory, examples: int) -> None:
    """Any names, and every integer up to 2^63-1."""

    @settings(max_examples=examples)
    @given(st.lists(checkpoints, max_size=10))
    def check(entries: list[Checkpoint]) -> None:
        with CheckpointStore(tmp_path_factory.mktemp("any") / "store", durability="normal") as store:
            for any_entry in entries:
                with contextlib.suppress(RejectedCheckpointError):
                    store.append(any_entry)
            assert list(store.receipts()) == _records(store)
            frame = pl.DataFrame(store)
            assert [e.run_id for e in store.history()] == frame["run_id"].to_list()
            assert [e.at_ms for e in store.history()] == frame["at"].to_physical().to_list()

    check()


@a_taker
@pytest.mark.usefixtures("_pages_of_seven")
def test_each_library_takes_a_frame_and_a_store_as_they_are(recorded: CheckpointStore, take: Callable[[Any], int]) -> None:
    """Without an adapter, twice, and one without a row too."""
    frame = recorded.frame("run-1")
    expected = sum(e.run_id == "run-1" for e in mixed(LENGTH))
    assert [expected, expected] == [take(frame), take(frame)]
    assert take(recorded) == LENGTH
    assert take(recorded.frame("none")) == 0


def test_each_library_gets_the_same_values(recorded: CheckpointStore) -> None:
    """Names, integers, times in UTC and signatures, down to the row."""
    frame = recorded.frame(limit=9)
    expected = pa.table(frame).to_pylist()
    assert [receipt.signature for receipt, *_ in recorded.receipts(limit=9)] == [row["signature"] for row in expected]
    assert pl.DataFrame(frame).to_dicts() == expected
    assert pl.DataFrame(duckdb.sql("SELECT * FROM frame").to_arrow_table()).to_dicts() == expected
    as_pandas = pd.DataFrame.from_arrow(frame)
    assert as_pandas.drop(columns=NULL).to_dict("records") == [
        {name: value for name, value in row.items() if name not in NULL} for row in expected
    ]
    assert as_pandas[NULL].isna().all(axis=None)  # pandas has NaN for a text that is NULL


def test_the_shorthands_give_the_frames_of_each_library(recorded: CheckpointStore) -> None:
    """Without a word of Arrow."""
    frame = recorded.frame()
    assert (LENGTH, 11) == frame.to_polars().shape == frame.to_pandas().shape == frame.to_arrow().shape
    assert frame.columns == frame.to_polars().columns
    assert [str(frame.to_pandas().dtypes[name]) for name in ("run_id", "at")] == ["category", "datetime64[ms, UTC]"]


def test_times_beyond_what_a_calendar_holds_reach_arrow_whole(store: CheckpointStore) -> None:
    """As 64 bits of ms: polars and pyarrow keep them; DuckDB, whose times are in µs, says that it cannot."""
    store.append(entry(at_ms=MAX, event_time_ms=MAX))
    frame = store.frame()
    assert pl.DataFrame(frame)["at"].to_physical().to_list() == [MAX]
    assert pa.table(frame)["event_time"].cast(pa.int64()).to_pylist() == [MAX]
    assert frame.to_pandas()["at"].astype("int64").to_list() == [MAX]
    with pytest.raises(duckdb.ConversionException):
        duckdb.sql("SELECT * FROM frame").fetchall()
    assert f"{MAX} ms" in repr(frame)


def test_a_frame_shows_what_is_recorded_when_it_is_read(store: CheckpointStore) -> None:
    """Anew each time; a stream that is open shows the chain as it was when it was opened."""
    store.append_many(chain(2500))
    frame = store.frame()
    reader = pa.RecordBatchReader.from_stream(frame)
    first = reader.read_next_batch().num_rows
    store.append_many(chain(10, run_id="later"))
    assert first + sum(batch.num_rows for batch in reader) == 2500
    assert pa.table(frame).num_rows == 2510


def test_a_stream_that_is_forgotten_holds_nothing(store: CheckpointStore) -> None:
    """The WAL is written back to its end while a stream waits half read; a transaction would pin it."""
    store.append_many(chain(2500))
    reader = pa.RecordBatchReader.from_stream(store.frame())
    reader.read_next_batch()
    store.append_many(chain(10, run_id="later"))
    connection = connections(store)[-1]
    pages, written_back = connection.wal_checkpoint()
    assert pages == written_back > 0
    assert not connection.in_transaction
    reader.close()


@a_taker
def test_inside_a_transaction_block_a_frame_shows_what_was_committed(
    store: CheckpointStore, take: Callable[[Any], int]
) -> None:
    """Also to DuckDB, which reads in another thread: no wait for the block that waits for it."""
    store.append_many(chain(3))
    with store.transaction():
        store.append(entry(4))
        assert take(store.frame()) == 3
    assert take(store.frame()) == 4


@a_taker
@pytest.mark.usefixtures("_pages_of_seven")
def test_an_error_in_the_middle_arrives_with_its_message(
    recorded: CheckpointStore, take: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each library, as an exception that can be caught."""
    pages = iter(range(5))

    def names(*given: Any) -> Any:
        if next(pages, None) is None:
            raise DamagedStoreError("orders.milepost", "page 7 is torn")
        return original(*given)

    original = rows.run_ids_and_stages
    monkeypatch.setattr(rows, "run_ids_and_stages", names)
    with pytest.raises(Exception, match=r"orders\.milepost: page 7 is torn"):
        take(recorded.frame())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (0, None),
        (1, 99),
        (3, "one"),
        (5, 0.5),
        (6, None),
        (6, b"key"),
        (7, "now"),
        (8, None),
        (8, b"short"),
        (9, b"{}"),
        (9, 7),
    ],
)
def test_a_damaged_row_is_a_damaged_store(
    recorded: CheckpointStore, monkeypatch: pytest.MonkeyPatch, column: int, value: Any
) -> None:
    """In a damaged file SQLite gives what it finds, whatever the table declares."""

    def page(*given: Any) -> list[tuple[Any, ...]]:
        *before, last = original(*given)
        return [*before, (*last[:column], value, *last[column + 1 :])]

    original = rows.signed_rows
    monkeypatch.setattr(rows, "signed_rows", page)
    with pytest.raises(Exception, match=r"DamagedStoreError: .* restore it from a copy"):
        recorded.frame().to_polars()


def test_a_frame_of_a_closed_store_says_so(path: Path) -> None:
    """To whom takes it; its repr stays readable."""
    with CheckpointStore(path) as store:
        frame = store.frame()
        assert frame.to_polars().height == 0
    with pytest.raises(ClosedStoreError):
        frame.to_polars()
    with pytest.raises(Exception, match="the store is closed"):
        duckdb.sql("SELECT * FROM frame").fetchall()
    assert "the store is closed" in repr(frame)
    assert "the store is closed" in frame._repr_html_()


def test_closing_the_store_leaves_no_connection_behind(path: Path) -> None:
    """A frame's own connection is closed with the store: the WAL is gone."""
    with CheckpointStore(path) as store:
        store.append(entry())
        assert store.frame().to_polars().height == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    gc.collect()


def test_a_readonly_store_gives_frames_too(path: Path) -> None:
    """The same ones, and no byte of its directory changes."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5))
        expected = _records(store)
    before = path.read_bytes()
    with CheckpointStore.open_readonly(path) as store:
        assert _records(store) == expected
    assert path.read_bytes() == before
    assert [path] == list(path.parent.iterdir())


def test_a_wrong_filter_is_refused_at_the_call(recorded: CheckpointStore) -> None:
    """Not when the frame is read."""
    wrongs: list[dict[str, Any]] = [
        {"run_id": ""},
        {"stage": 7},
        {"since": -1},
        {"after": True},
        {"limit": 1.5},
        {"newest_first": 1},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidArgumentError):
            recorded.frame(**wrong)


def test_what_is_shown_of_a_frame_is_short_and_escaped(store: CheckpointStore) -> None:
    """Names are hostile: no markup, no control character, no name of a kilobyte."""
    hostile = "<script>alert(1)</script>\x1b[2J\n"
    store.append_many(chain(50, run_id=hostile, stage="x" * 1000))
    html, text = store.frame()._repr_html_(), repr(store.frame())
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "\x1b" not in text
    assert len(text.splitlines()) == 12
    assert "the first 10 rows" in text
    assert len(text) < 5_000
    assert len(html) < 8_000
    assert "2 rows" in repr(store.frame(limit=2))


@pytest.mark.parametrize(("module", "verb"), [("polars", "to_polars"), ("pyarrow", "to_arrow"), ("pandas", "to_pandas")])
def test_a_library_that_is_not_there_is_named_with_the_command(
    recorded: CheckpointStore, monkeypatch: pytest.MonkeyPatch, module: str, verb: str
) -> None:
    """In one sentence, as a ModuleNotFoundError."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=f"{module}, which is not installed: pip install") as caught:
        getattr(recorded.frame(), verb)()
    assert isinstance(caught.value, ModuleNotFoundError)
    assert "\n" not in str(caught.value)


def test_without_the_extra_a_frame_names_it(recorded: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """`milepost[notebook]`; everything else works."""
    monkeypatch.setitem(sys.modules, "arro3", None)
    monkeypatch.setitem(sys.modules, "arro3.core", None)
    monkeypatch.delitem(sys.modules, "milepost.forensics.frames", raising=False)
    monkeypatch.delattr("milepost.forensics.frames", raising=False)
    with pytest.raises(MissingPackageError, match=r'pip install "milepost\[notebook\]"'):
        recorded.frame()
    assert len(recorded) == LENGTH

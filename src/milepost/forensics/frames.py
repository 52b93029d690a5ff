"""Checkpoints, or the answer to a query, as a table that polars, pyarrow, DuckDB and pandas take directly."""

from __future__ import annotations

import re
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import apsw

from milepost import details, html, rows
from milepost.errors import MilepostError, shown
from milepost.forensics.extra import extra
from milepost.readable import count, iso, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import arro3.core as arrow
else:
    arrow = extra("arro3.core")

_NAME: Final = arrow.DataType.dictionary(arrow.DataType.int32(), arrow.DataType.utf8())
_TIME: Final = arrow.DataType.timestamp("ms", tz="UTC")

# The signature has the 64 hex digits of receipts, heads and the view `checkpoint`, so you can compare them directly. As
# bytes it would take half the memory, but every library shows bytes differently.
CHECKPOINTS: Final = arrow.Schema(
    [
        arrow.Field("position", arrow.DataType.int64(), nullable=False),
        arrow.Field("run_id", _NAME, nullable=False),
        arrow.Field("stage", _NAME, nullable=False),
        arrow.Field("sequence", arrow.DataType.int64(), nullable=False),
        arrow.Field("offset", arrow.DataType.int64(), nullable=False),
        arrow.Field("event_time", _TIME, nullable=False),
        arrow.Field("idempotency_key", arrow.DataType.utf8(), nullable=False),
        arrow.Field("at", _TIME, nullable=False),
        arrow.Field("signature", arrow.DataType.utf8(), nullable=False),
        arrow.Field("detail", arrow.DataType.utf8(), nullable=True),
        arrow.Field("cursor_sha256", arrow.DataType.utf8(), nullable=True),
    ]
)

_CHECKPOINTS_OR_NULL: Final = [CHECKPOINTS.field(name).with_nullable(True) for name in CHECKPOINTS.names]

# A file that cannot be read has a row too, in which only these two columns have a value.
CHECKPOINTS_OF_FILES: Final = arrow.Schema(
    [
        arrow.Field("file", _NAME, nullable=False),
        *_CHECKPOINTS_OR_NULL,
        arrow.Field("error", arrow.DataType.utf8(), nullable=True),
    ]
)

_ROWS: Final = 10  # how many rows a notebook shows
_COLUMNS: Final = 20  # and how many columns
_WIDTH: Final = 64  # characters of a value: a signature is shown whole


class Frame:
    """
    A table that polars, pyarrow, DuckDB and pandas take directly, and that reads the store when they do.

    `polars.DataFrame(frame)`, `pyarrow.table(frame)`, `duckdb.sql("SELECT … FROM frame")` and
    `pandas.DataFrame.from_arrow(frame)` take it through the Arrow PyCapsule interface.

    A frame of checkpoints reads the store again each time, page by page, and returns the entries recorded by then. Between
    two pages it holds nothing of the file, so a slow or forgotten reader does not make the WAL grow. The answer to a query
    is already in memory.

    Source:
        https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
    """

    def __init__(self, schema: arrow.Schema, batches: Callable[[], Iterable[arrow.RecordBatch]]) -> None:
        self._schema = schema
        self._batches = batches

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._schema.names

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        # A new reader each time: DuckDB asks twice, for the columns and for the rows.
        reader = arrow.RecordBatchReader.from_batches(self._schema, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def to_arrow(self) -> Any:
        """
        Read all of it into a `pyarrow.Table`.

        Raises:
            MissingPackageError: pyarrow is not installed.
        """
        return extra("pyarrow", "pyarrow").table(self)

    def to_polars(self) -> Any:
        """
        Read all of it into a `polars.DataFrame`.

        Raises:
            MissingPackageError: polars is not installed.
        """
        return extra("polars", "polars").DataFrame(self)

    def to_pandas(self) -> Any:
        """
        Read all of it into a `pandas.DataFrame`. Names are Categorical, and times have a resolution of ms.

        Raises:
            MissingPackageError: pandas is not installed, or pyarrow, which it needs here.
        """
        extra("pandas", "pandas pyarrow")
        return extra("pyarrow", "pandas pyarrow").table(self).to_pandas()

    def _first_rows(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Read the first columns, and one row more than a notebook shows."""
        columns = self.columns[:_COLUMNS]
        found: list[tuple[Any, ...]] = []
        for each in self._batches():
            first = each.slice(0, min(_ROWS + 1 - len(found), each.num_rows))
            found += zip(*(_values(first.column(i)) for i in range(len(columns))), strict=True)
            if len(found) > _ROWS:
                break
        return columns, found

    def __repr__(self) -> str:
        try:
            columns, found = self._first_rows()
        except MilepostError as error:  # a repr works also after close()
            return f"<Frame {shown(self.columns)[:200]}: {error}>"
        lines = [columns, *([_cell(value) for value in row] for row in found[:_ROWS])]
        head = f"<Frame: {count(len(self.columns), 'column')}, {_count(found)}>"
        return "\n".join([head, *("  ".join(shown(cell)[1:-1] for cell in line) for line in lines)])

    def _repr_html_(self) -> str:
        try:
            columns, found = self._first_rows()
        except MilepostError as error:
            return html.error_page("Frame", error)
        more = f", {count(len(self.columns), 'column')}" if len(self.columns) > _COLUMNS else ""
        rows = [[_cell(value) for value in row] for row in found[:_ROWS]]
        return html.page(
            [
                html.table("Frame", [html.Column(_short(name)) for name in columns], rows),
                html.paragraph(f"{_count(found)}{more}: give this to polars, pyarrow, DuckDB or pandas", "mp-muted"),
            ]
        )


def _count(found: list[tuple[Any, ...]]) -> str:
    return f"the first {_ROWS} rows" if len(found) > _ROWS else count(len(found), "row")


def _values(column: arrow.ChunkedArray | arrow.Array) -> list[Any]:
    """Return the values of a column. Times become text, since not every time fits a datetime."""
    if arrow.DataType.is_timestamp(column.type):
        return [iso(ms) for ms in column.cast(arrow.DataType.int64()).to_pylist()]
    return column.to_pylist()


def _cell(value: object) -> str:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:_DIGITS]}…"
    return _short("NULL" if value is None else value if isinstance(value, str) else repr(value))


_DIGEST: Final = re.compile("[0-9a-f]{64}")
_DIGITS: Final = 12  # of a digest that a notebook shows


def _short(text: str) -> str:
    return shorten(text, _WIDTH)


def of_checkpoints(batches: Callable[[], Iterable[arrow.RecordBatch]]) -> Frame:
    """Make a frame of checkpoints. Each reader starts the batches from the beginning."""
    return Frame(CHECKPOINTS, batches)


def of_files(batches: Callable[[], Iterable[arrow.RecordBatch]]) -> Frame:
    """Make a frame of the checkpoints of several files. Each reader starts the batches from the beginning."""
    return Frame(CHECKPOINTS_OF_FILES, batches)


def batches_of_file(file: str, frame: Frame) -> Iterator[arrow.RecordBatch]:
    """Read a frame of checkpoints, and add the file to each batch."""
    for each in frame._batches():  # noqa: SLF001 - a frame of its own
        files = _names([file] * each.num_rows)  # UTF-8, else SQLite could not have opened it
        errors = arrow.Array([None] * each.num_rows, arrow.DataType.utf8())
        arrays = [files, *(each.column(name) for name in CHECKPOINTS.names), errors]
        yield arrow.RecordBatch.from_arrays(arrays, schema=CHECKPOINTS_OF_FILES)


def batch_of_unreadable(file: str, error: str) -> arrow.RecordBatch:
    """Make the one row of a file that cannot be read."""
    nulls = [arrow.Array([None], arrow.DataType.utf8()).cast(field.type) for field in _CHECKPOINTS_OR_NULL]
    arrays = [_names([_encodable(file)]), *nulls, arrow.Array([_encodable(error)], arrow.DataType.utf8())]
    return arrow.RecordBatch.from_arrays(arrays, schema=CHECKPOINTS_OF_FILES)


def _encodable(text: str) -> str:
    """Write out the bytes of a file's name that are no UTF-8, since a column of text cannot hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def batch(connection: apsw.Connection, signed: list[tuple[Any, ...]]) -> arrow.RecordBatch:
    """Make a record batch of a page of rows with the columns of `rows.SignedRow`."""
    columns = zip(*signed, strict=True) if signed else repeat((), len(rows.SignedRow._fields))
    positions, run_numbers, stage_numbers, sequences, offsets, event_times_ms, keys, ats_ms, signatures, stored_details = (
        columns
    )
    run_ids, stages = rows.run_ids_and_stages(connection, run_numbers, stage_numbers)
    try:
        arrays = [
            _integers(positions),
            _names(run_ids),
            _names(stages),
            _integers(sequences),
            _integers(offsets),
            _integers(event_times_ms).cast(_TIME),
            arrow.Array(keys, arrow.DataType.utf8()),
            _integers(ats_ms).cast(_TIME),
            arrow.Array([rows.digits(signature) for signature in signatures], arrow.DataType.utf8()),
            arrow.Array(stored_details, arrow.DataType.utf8()),
            arrow.Array([_text(details.parse(each).get("cursor")) for each in stored_details], arrow.DataType.utf8()),
        ]
    except (TypeError, ValueError) as error:  # from a damaged file SQLite returns any type, even from a STRICT table
        raise apsw.CorruptError(f"a row has a value that no append writes: {error}") from error
    if any(array.null_count for array in arrays[:-2]):
        raise apsw.CorruptError("a row has NULL, which no append writes")
    return arrow.RecordBatch.from_arrays(arrays, schema=CHECKPOINTS)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.isascii() else None  # a SHA-256, or what an import says it is


def _integers(values: Sequence[int]) -> arrow.Array:
    return arrow.Array(values, arrow.DataType.int64())


def _names(values: list[str]) -> arrow.Array:
    return arrow.Array(values, arrow.DataType.utf8()).cast(_NAME)

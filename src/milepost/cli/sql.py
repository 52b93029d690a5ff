"""The command `sql`."""

from __future__ import annotations

import csv
import sys
from math import isinf
from typing import TYPE_CHECKING, Any

import click

from milepost import query
from milepost.cli import argument, output
from milepost.cli.output import Column
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@argument.file
@click.argument("statement")
@click.argument("parameters", nargs=-1)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@argument.as_json
def sql(file: str, statement: str, parameters: tuple[str, ...], as_csv: bool, as_json: bool) -> None:
    """
    Ask the file anything: one SQL statement that only reads.

    The view `checkpoint` has the checkpoints in readable columns. PARAMETERS stand for each `?` of the statement, as text.
    If the columns have no room beside each other, they stand below each other. Of two columns with one name, the second gets
    the name with `_2`.
    """
    with CheckpointStore.open_readonly(file) as store:
        columns, rows = store._database.read_on_own_connection(  # noqa: SLF001 - the command is a part of the library
            query.ask, statement, parameters
        )
    names = query.names_of(columns)
    if as_json:
        output.document([dict(zip(names, map(_in_json, row), strict=True)) for row in rows])
    elif as_csv:
        table = csv.writer(sys.stdout)
        table.writerow(map(output.cell, names))
        table.writerows([output.cell(each) if isinstance(each, str) else _value(each) for each in row] for row in rows)
    else:
        output.Table(
            *(Column(name, "number" if _is_number(rows, index) else "name") for index, name in enumerate(names)),
            below_each_other=True,
        ).print([[_cell(value) for value in row] for row in rows])


def _is_number(rows: Sequence[tuple[Any, ...]], index: int) -> bool:
    return bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)


def _value(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _in_json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and isinf(value) else _value(value)  # JSON has no infinite numbers


def _cell(value: Any) -> str:
    return "" if value is None else str(_value(value))

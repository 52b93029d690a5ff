"""The recipes that load files lose no row and double none, wherever they are killed."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milepost import CheckpointStore
from support.recipes import DOSES, Recipe, ask, check_store, directories, killed_and_resumed, write_orders

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = "SELECT id, amount FROM orders ORDER BY rowid"


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_csv_file_is_loaded_exactly_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """Every row, in its place."""
    for directory in directories(tmp_path, rounds):
        orders = write_orders(directory / "orders.csv", 40_000)
        killed_and_resumed(Recipe("Load a CSV file", directory), kills, within_s=0.06)
        assert ask(directory / "orders.milepost", ORDERS) == orders
        check_store(directory / "orders.milepost", "load", len(orders))


def test_a_csv_file_that_is_another_one_is_refused(tmp_path: Path) -> None:
    """It is loaded no further, and the error says what to do."""
    write_orders(tmp_path / "orders.csv", 2000)
    recipe = Recipe("Load a CSV file", tmp_path)
    recipe.run()
    write_orders(tmp_path / "orders.csv", 3000)
    with recipe.started() as life:
        assert "accept_source=True" in life.end_badly()
    assert len(ask(tmp_path / "orders.milepost", ORDERS)) == 2000


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_another_database_has_every_row_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """Its unique key takes what a kill repeats."""
    for directory in directories(tmp_path, rounds):
        orders = write_orders(directory / "orders.csv", 20_000)
        killed_and_resumed(Recipe("Write to another database", directory), kills, within_s=0.06)
        assert ask(directory / "warehouse.db", ORDERS) == orders
        check_store(directory / "warehouse.milepost", "load", len(orders) // 500)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_failing_record_is_set_aside_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """Good and bad records together are all of them."""
    for directory in directories(tmp_path, rounds):
        lines = ["not a number\n" if number % 10 == 3 else f"{number}\n" for number in range(30_000)]
        (directory / "amounts.txt").write_text("".join(lines))
        killed_and_resumed(Recipe("Set a failing record aside", directory), kills, within_s=0.06)
        amounts = [amount for (amount,) in ask(directory / "amounts.milepost", "SELECT amount FROM amount ORDER BY rowid")]
        assert amounts == [number for number in range(30_000) if number % 10 != 3]
        letters = ask(directory / "amounts.milepost", "SELECT line, error FROM dead_letter")
        assert letters == [("not a number\n", "invalid literal for int() with base 10: 'not a number\\n'")] * 3000
        check_store(directory / "amounts.milepost", "load", 30_000)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_chunks_of_pandas_are_loaded_exactly_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """Whatever was skipped, nothing is missing."""
    for directory in directories(tmp_path, rounds):
        orders = write_orders(directory / "orders.csv", 30_000)
        recipe = Recipe("Read chunks with pandas, and row groups of a Parquet file", directory)
        killed_and_resumed(recipe, kills, within_s=0.06)
        assert ask(directory / "chunks.milepost", ORDERS) == orders
        check_store(directory / "chunks.milepost", "load", 30)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_row_groups_are_loaded_exactly_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """Of a Parquet file."""
    for directory in directories(tmp_path, rounds):
        orders = write_orders(directory / "orders.csv", 30_000)
        table = pa.table({name: [order[place] for order in orders] for place, name in enumerate(("id", "amount"))})
        pq.write_table(table, directory / "orders.parquet", row_group_size=1000)
        recipe = Recipe("Read chunks with pandas, and row groups of a Parquet file", directory, number=1)
        killed_and_resumed(recipe, kills, within_s=0.06)
        assert ask(directory / "groups.milepost", ORDERS) == orders
        check_store(directory / "groups.milepost", "load", 30)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_model_learns_from_every_batch_once_and_in_order(tmp_path: Path, rounds: int, kills: int) -> None:
    """Its weights are those of a training that nobody killed."""
    weights = 0
    for epoch in range(5):
        order = random.Random(epoch).sample(range(10_000), 10_000)
        for first in range(0, 10_000, 32):
            weights = (31 * weights + sum(order[first : first + 32])) % 1_000_003
    for directory in directories(tmp_path, rounds):
        killed_and_resumed(Recipe("Resume a data loader", directory), kills, within_s=0.05)
        assert ask(directory / "training.milepost", "SELECT weights FROM model") == [(weights,)]
        check_store(directory / "training.milepost", "train", 5 * 313)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_days_are_loaded_once_and_branched(tmp_path: Path, rounds: int, kills: int) -> None:
    """A day that is done is passed over; a branch begins where the day stood, and repeats the rest of it."""
    days = [f"2026-01-0{day}" for day in range(1, 4)]
    for directory in directories(tmp_path, rounds):
        file = directory / "nightly.milepost"
        for day in days:
            orders = write_orders(directory / f"{day}.csv", 8_000)
        killed_and_resumed(_nightly(directory, "2026-01-01", "2026-01-03"), kills, within_s=0.06)
        _nightly(directory, "2026-01-02", "2026-01-03").run()  # nothing is left to do
        for day in days:
            assert ask(file, f"SELECT id, amount FROM orders WHERE day = '{day}' ORDER BY rowid") == orders
            check_store(file, "load", 8_000, f"orders-{day}")
        with CheckpointStore.open_readonly(file) as store:
            assert {run.state for run in store.runs()} == {"finished"}
            assert sum(run.attempts for run in store.runs()) == 3 + sum(run.killed for run in store.runs())
            middle = store.get("orders-2026-01-02", "load", 5)
            assert middle is not None
        again = Recipe(
            "Run a job every night, and backfill", directory, number=1, arguments=("2026-01-02", _iso(middle.at_ms))
        )
        for _ in range(kills):
            again.kill(within_s=0.06)
        again.run()
        again.run()  # nothing is left to do
        assert ask(file, "SELECT id, amount FROM fixed ORDER BY rowid") == orders[middle.watermark.offset :]


def _nightly(directory: Path, *days: str) -> Recipe:
    return Recipe("Run a job every night, and backfill", directory, arguments=days)


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")

"""The recipes whose work is done when it is printed: nothing is lost, and little or nothing is repeated."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from support.patience import WATCHDOG_S, until
from support.recipes import CHANCE, DOSES, Recipe, check_store, directories, killed_and_resumed, write_orders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_every_order_of_a_queue_is_done(tmp_path: Path, rounds: int, kills: int) -> None:
    """After a kill at most a batch is done again, and what was in flight."""
    for directory in directories(tmp_path, rounds):
        recipe = Recipe("Feed asyncio workers through a queue", directory, PYTHONUNBUFFERED="1")
        met = killed_and_resumed(recipe, kills, within_s=0.3)
        orders = [int(line) for line in recipe.lines]
        assert set(orders) == set(range(2000))
        assert len(orders) <= 2000 + met * (100 + 50)
        check_store(directory / "queue.milepost", "load", 2000)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_stop_by_sigterm_repeats_nothing(tmp_path: Path, rounds: int, kills: int) -> None:
    """However often, and the last one comes to the end."""
    for directory in directories(tmp_path, rounds):
        orders = write_orders(directory / "orders.csv", 15_000)
        recipe = Recipe("Stop cleanly on SIGTERM", directory)
        for _ in range(2):
            recipe.stop(within_s=0.01)  # all of it takes some 0.06 s, and at its end no handler is left
        recipe.run()
        assert recipe.lines == ["id amount", *(f"{number} {amount}" for number, amount in orders)]
        check_store(directory / "sigterm.milepost", "load", len(orders) + 1)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_file_that_grows_is_followed(tmp_path: Path, rounds: int, kills: int) -> None:
    """SIGTERM repeats nothing, a kill at most what was printed and not recorded; a line half written is waited for."""
    for directory in directories(tmp_path, rounds):
        _follow(directory, kills)


def _follow(directory: Path, kills: int) -> None:
    recipe = Recipe("Follow a file that grows", directory)
    log = directory / "events.log"
    log.touch()
    with _written(log) as written:
        for _ in range(2):
            recipe.stop(within_s=0.1)
        assert recipe.lines == written[: len(recipe.lines)]
        for _ in range(kills):
            assert recipe.kill(within_s=0.2)
    with recipe.started() as life:
        until(lambda: life.has_printed(written[-1]))
        life.process.send_signal(signal.SIGTERM)
        life.end_well()
    assert list(dict.fromkeys(recipe.lines)) == written
    check_store(directory / "events.milepost", "follow", len(written), "events")


@contextlib.contextmanager
def _written(log: Path) -> Iterator[list[str]]:
    """The lines that somebody writes to a file meanwhile, some of them in two parts."""
    lines: list[str] = []
    over = threading.Event()

    def write() -> None:
        with log.open("a", encoding="utf-8") as file:
            while not over.is_set():
                file.write(f"event {len(lines)}")
                if CHANCE.random() < 0.3:
                    file.flush()
                    time.sleep(0.005)
                lines.append(f"event {len(lines)}")
                file.write("\n")
                file.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield lines
    finally:
        over.set()
        writer.join(WATCHDOG_S)

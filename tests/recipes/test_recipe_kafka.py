"""The consumer of the page has each message once, whoever is killed, and whoever comes back late."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import apsw
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from milepost import CheckpointStore
from support.mock_kafka import PARTITIONS, broker
from support.patience import until
from support.recipes import DOSES, Recipe, ask, check_store, directories

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORDERS = 16_000


def _produce(address: str, begin: int, end: int) -> None:
    producer = Producer({"bootstrap.servers": address})
    for number in range(begin, end):
        producer.produce("orders", f"order {number}", partition=number % PARTITIONS)
    assert producer.flush(10) == 0


def _stored(file: Path) -> int:
    try:
        return int(ask(file, "SELECT count(*) FROM orders")[0][0])
    except apsw.SQLError:  # there is no table yet
        return 0


def _check(file: Path, number: int) -> None:
    stored = [order for (order,) in ask(file, "SELECT number FROM orders")]
    assert sorted(stored) == sorted(f"order {each}" for each in range(number))
    for partition in range(PARTITIONS):
        check_store(file, f"partition-{partition}", number // PARTITIONS, "orders")
    for partition in range(PARTITIONS):  # and in the order of each partition
        assert [order for order in stored if int(order.split()[1]) % PARTITIONS == partition] == [
            f"order {each}" for each in range(partition, number, PARTITIONS)
        ]


def _committed(address: str) -> list[int]:
    """What a tool that shows the lag sees."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "orders"})
    asked = [TopicPartition("orders", partition) for partition in range(PARTITIONS)]
    found = [each.offset for each in consumer.committed(asked, timeout=10)]
    consumer.close()
    return found


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_each_message_has_its_effect_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """The consumer is killed at random moments."""
    for directory in directories(tmp_path, rounds):
        _kill_and_resume(directory, kills)


def _kill_and_resume(directory: Path, kills: int) -> None:
    with broker("orders") as address:
        recipe = Recipe("Consume Kafka", directory, KAFKA=address)
        file = directory / "kafka.milepost"
        _produce(address, 0, ORDERS)
        for _ in range(kills):
            assert recipe.kill(within_s=0.2)
        with recipe.started():
            until(lambda: _stored(file) == ORDERS)
            _produce(address, ORDERS, ORDERS + 80)
            until(lambda: _stored(file) == ORDERS + 80)
            until(lambda: _committed(address) == [(ORDERS + 80) // PARTITIONS] * PARTITIONS)
            _check(file, ORDERS + 80)


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_consumer_that_comes_back_late_is_refused(tmp_path: Path, rounds: int, kills: int) -> None:
    """It stands still in the middle of a batch, and another takes its partitions over meanwhile."""
    refused = 0
    for directory in directories(tmp_path, 5 * rounds):  # on a busy machine it may be nowhere in a batch, or wait too long
        refused += _stop_and_continue(directory)
        if refused == rounds:
            break
    assert refused == rounds


def _stop_and_continue(directory: Path) -> bool:
    with broker("orders") as address:
        recipe = Recipe("Consume Kafka", directory, KAFKA=address)
        file = directory / "kafka.milepost"
        _produce(address, 0, 80)
        with recipe.started() as late:
            until(lambda: file.exists() and _stored(file) == 80)
            with _locked(file):  # its next batch waits for this
                _produce(address, 80, ORDERS)
                time.sleep(0.5)
                late.process.send_signal(signal.SIGSTOP)
            before = _offsets(file)
            with recipe.started():
                until(lambda: all(now > then for now, then in zip(_offsets(file), before, strict=True)))
                late.process.send_signal(signal.SIGCONT)
                until(lambda: _stored(file) == ORDERS)
                time.sleep(0.2)
        _check(file, ORDERS)
    assert all("'partition-" in line and "was expected" in line for line in recipe.lines)
    return bool(recipe.lines)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Nobody else writes meanwhile."""
    with contextlib.closing(apsw.Connection(str(file))) as connection:
        connection.set_busy_timeout(5000)
        connection.execute("BEGIN IMMEDIATE")
        yield


def _offsets(file: Path) -> list[int]:
    with CheckpointStore.open_readonly(file) as store:
        points = store.resume_points("orders")
    stages = [f"partition-{partition}" for partition in range(PARTITIONS)]
    return [points[stage].watermark.offset if stage in points else 0 for stage in stages]

"""
The mock broker that librdkafka has for its own tests, with a topic of eight partitions, in this process.

`"test.mock.num.brokers": 1` starts one too, but Python can neither make a topic of it nor tell it when a consumer is dead.
So librdkafka's own functions are called.
"""

from __future__ import annotations

import contextlib
from ctypes import CDLL, c_char_p, c_int, c_void_p, create_string_buffer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import confluent_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITIONS: Final = 8
_DEAD_AFTER_MS: Final = 300
_HEARTBEAT_MS: Final = 50
_PRODUCER: Final = 0


def _librdkafka() -> CDLL:
    (library,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*")
    found = CDLL(str(library))
    found.rd_kafka_conf_new.restype = c_void_p
    found.rd_kafka_conf_set.argtypes = (c_void_p, c_char_p, c_char_p, c_char_p, c_int)
    found.rd_kafka_new.restype = found.rd_kafka_handle_mock_cluster.restype = c_void_p
    found.rd_kafka_new.argtypes = (c_int, c_void_p, c_char_p, c_int)
    found.rd_kafka_handle_mock_cluster.argtypes = found.rd_kafka_destroy.argtypes = (c_void_p,)
    found.rd_kafka_mock_cluster_bootstraps.restype = c_char_p
    found.rd_kafka_mock_cluster_bootstraps.argtypes = (c_void_p,)
    found.rd_kafka_mock_topic_create.argtypes = (c_void_p, c_char_p, c_int, c_int)
    found.rd_kafka_mock_set_group_consumer_session_timeout_ms.argtypes = (c_void_p, c_int)
    found.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms.argtypes = (c_void_p, c_int)
    return found


@contextlib.contextmanager
def broker(topic: str) -> Iterator[str]:
    """A broker with that topic; its address. A consumer that is silent for 300 ms is dead to it."""
    kafka = _librdkafka()
    error = create_string_buffer(512)
    configuration = kafka.rd_kafka_conf_new()
    assert kafka.rd_kafka_conf_set(configuration, b"test.mock.num.brokers", b"1", error, 512) == 0, error.value
    handle = kafka.rd_kafka_new(_PRODUCER, configuration, error, 512)
    assert handle, error.value
    try:
        cluster = kafka.rd_kafka_handle_mock_cluster(handle)
        kafka.rd_kafka_mock_set_group_consumer_session_timeout_ms(cluster, _DEAD_AFTER_MS)
        kafka.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(cluster, _HEARTBEAT_MS)
        assert kafka.rd_kafka_mock_topic_create(cluster, topic.encode(), PARTITIONS, 1) == 0
        yield kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    finally:
        kafka.rd_kafka_destroy(handle)

"""A store, and what writes or reads through it, can be neither pickled nor copied."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import milepost
from milepost import CheckpointStore, MilepostError


def test_a_store_can_be_neither_pickled_nor_copied(store: CheckpointStore) -> None:
    """A copy would share the connection; the message says what to do instead."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MilepostError, match="hand over its path"):
            attempt(store)


def test_what_belongs_to_a_store_says_the_same_where_it_is_pickled(store: CheckpointStore, tmp_path: Path) -> None:
    """As an argument of a process, say, where Python would name an object inside it that nobody has heard of."""
    with milepost.ship(store, tmp_path / "shipped", "orders") as shipper:
        loop = store.checkpointed(range(3), run_id="run-1", stage="load")
        for each in (shipper, store.transaction(), store.plot, loop, loop.map(str), store.run("run-1")):
            for attempt in (pickle.dumps, copy.deepcopy):
                with pytest.raises(MilepostError, match="hand over its path"):
                    attempt(each)

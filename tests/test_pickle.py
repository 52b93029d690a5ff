"""A store can be neither pickled nor copied."""

from __future__ import annotations

import copy
import pickle

import pytest

from milepost import CheckpointStore, MilepostError


def test_a_store_can_be_neither_pickled_nor_copied(store: CheckpointStore) -> None:
    """A copy would share the connection; the message says what to do instead."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MilepostError, match="hand over its path"):
            attempt(store)

"""The command `latest`: the last checkpoint, of all, of a run, of a stage, as of a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("run_id", [None, "run-1"])
@pytest.mark.parametrize("stage", [None, "load"])
@pytest.mark.parametrize("as_of", [None, 500])
def test_latest_is_that_of_the_store(
    file: Path, reader: CheckpointStore, run_id: str | None, stage: str | None, as_of: int | None
) -> None:
    """With each of its options, and with where it stands in the chain."""
    options = [] if run_id is None else ["--run", run_id]
    options += [] if stage is None else ["--stage", stage]
    options += [] if as_of is None else ["--as-of", str(as_of)]
    if stage is None:
        expected = reader.latest(run_id, as_of=as_of)
    else:
        expected = reader.latest_for_stage(stage, run_id=run_id, as_of=as_of)
    assert expected is not None
    found = json.loads(answer("latest", file, *options, "--json"))
    assert found["idempotency_key"] == expected.idempotency_key
    receipt, recorded, _ = next(reader.receipts(after=found["position"] - 1, limit=1))
    assert recorded == expected
    assert found["signature"] == receipt.signature
    assert f"\nkey         {expected.idempotency_key}\n" in answer("latest", file, *options)

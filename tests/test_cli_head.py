"""The command `head`: what to keep elsewhere, for `verify --expected`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore, Head
from support.command import answer

if TYPE_CHECKING:
    from pathlib import Path


def test_head_is_one_line_that_verify_takes_back(file: Path, reader: CheckpointStore) -> None:
    """Of the file, and of a run."""
    assert Head.parse(answer("head", file)) == reader.head()
    assert json.loads(answer("head", file, "--json")) == {"entries": 30, "signature": reader.head().signature}
    of_run = Head.parse(answer("head", file, "--run", "run-1"))
    assert (of_run.entries, of_run.signature) == (10, reader.chain_signature("run-1"))
    assert answer("verify", file, "--run", "run-1", "--expected", str(of_run)).startswith("intact")

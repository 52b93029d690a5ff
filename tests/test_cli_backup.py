"""The command `backup`: a copy, and its head."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore, Head
from support.chains import entry
from support.command import answer
from support.exported import recorded

if TYPE_CHECKING:
    from pathlib import Path


def test_backup_is_a_copy_with_the_head_it_prints(file: Path, tmp_path: Path) -> None:
    """Also while a writer holds the file."""
    with CheckpointStore(file, durability="normal") as store:
        store.append(entry(1, run_id="later"))
        printed = answer("backup", file, tmp_path / "copy")
    assert recorded(tmp_path / "copy") == recorded(file)
    assert Head.parse(printed) == recorded(file)[1]
    assert json.loads(answer("backup", file, tmp_path / "copy-2", "--json"))["entries"] == 31

"""What is asked of files on the disk, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("statx", [files._statx, None, lambda *arguments: -1], ids=["statx", "no statx", "statx refused"])
def test_a_file_is_known_by_device_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statx: object) -> None:
    """Whichever way it is asked for, the answer is the same."""
    monkeypatch.setattr(files, "_statx", statx)
    one, other = tmp_path / "one ü\n", tmp_path / "other"
    one.touch()
    other.touch()
    of_one, of_other = files.identity_of(str(one)), files.identity_of(str(other))
    first, second = of_one(), of_other()
    assert None is not first == of_one() == files.identity_of(str(one))()
    assert None is not second != first
    other.replace(one)
    assert (of_one(), of_other()) == (second, None)

"""The file that a command makes: never in the place of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.command import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("arguments", [("export", "{file}", "--output", "{new}"), ("backup", "{file}", "{new}")])
def test_nothing_is_ever_overwritten(file: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Neither a file nor a link that leads nowhere's place; and a missing directory is said."""
    (tmp_path / "there").write_text("mine")
    for new in ("there", "no/such", "orders.milepost"):
        before = file.read_bytes()
        result = run(*(argument.format(file=file, new=tmp_path / new) for argument in arguments))
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith(f"Error: {tmp_path / new}: ")
        assert file.read_bytes() == before
    assert (tmp_path / "there").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["orders.milepost", "there"]

"""The page of screens shows what the commands say today."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.documentation import TOP, text

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

PAGE = text(TOP / "docs/see.md")


def _screens() -> Any:
    spec = importlib.util.spec_from_file_location("screens", TOP / "docs/screens.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _whatever_the_time_is(screen: str) -> str:
    """Without the times, the ages, the sizes and the directory, and what follows from them: the head and the widths."""
    for pattern in (
        r"\d{4}-\d\d-\d\dT[\d:]+Z",
        r"\d[\d,]* (d|h|min|s|ms)\b( \d+ (h|min|s|ms)\b)?",
        r"\d+ kB",
        r"\d+:[0-9a-f]{64}",
        r"\S*/(?=orders)",
        r"\s+",
    ):
        screen = re.sub(pattern, " ", screen)
    return screen


def test_each_screen_is_what_its_command_shows(tmp_path: Path) -> None:
    """On the store that the page describes; `python docs/screens.py` makes them again."""
    screens = _screens()
    screens.fill(tmp_path / screens.NAME, time.time_ns() // 1_000_000)
    found = {each["command"]: each["shown"] for each in screens.SCREEN.finditer(PAGE)}
    assert [command.split()[0] for command in found] == ["summary", "runs", "check", "watch"]
    for command, kept in found.items():
        assert [line for line in kept.splitlines() if len(line) > 80] == []
        if not command.startswith("watch"):  # of a pipeline that goes on; test_cli_watch.py looks at it
            assert _whatever_the_time_is(screens.shown(command, tmp_path)) == _whatever_the_time_is(kept)


def test_the_picture_is_the_one_that_the_script_draws() -> None:
    """It is there, and small."""
    picture = _screens().PICTURE
    assert f"({picture.name})" in PAGE
    assert picture.stat().st_size < 150_000

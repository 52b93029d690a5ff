"""The README and the pages of `docs`, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

TOP: Final = Path(__file__).parents[2]
README: Final = TOP / "README.md"
PAGES: Final = (README, *sorted((TOP / "docs").rglob("*.md")))
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block: its language, as written behind the fence, and its text."""

    language: str
    text: str


def text(page: Path) -> str:
    """The page as it is written."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Its blocks in order, all of them or those of one language."""
    found = [Block(*each.groups()) for each in _BLOCK.finditer(text(page))]
    return [block for block in found if language in {None, block.language}]


def sections(page: Path) -> dict[str, list[Block]]:
    """The Python blocks below each heading of the second level."""
    parts = re.split(r"^## (.*)$", text(page), flags=re.MULTILINE)
    found = {
        title: [Block(*each.groups()) for each in _BLOCK.finditer(body)]
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: [block for block in blocks if block.language == "python"] for title, blocks in found.items()}


def name(page: Path) -> str:
    """What a test calls it."""
    return page.relative_to(TOP).as_posix()

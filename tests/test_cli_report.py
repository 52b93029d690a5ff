"""The command `report`: one page to send, that runs nothing and fetches nothing."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from milepost.forensics import report
from support.chains import entry
from support.command import answer, run
from support.tampering import tamper

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """What a browser would find on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note tags, ids, and what would run."""
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture
def page(path: Path) -> Path:
    """Where the page goes."""
    return path.with_name("report.html")


def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on pictures are empty: they take longer than all the rest of a page, and something else is asked."""
    monkeypatch.setattr(report, "_svg", lambda picture, number: "<svg></svg>")


def test_a_page_has_the_summary_the_pictures_and_the_verdict(
    path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one file; a second time only with --overwrite."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number, run_id="nightly") for number in range(1, 20))
    assert answer("report", path, page) == ""
    text = page.read_text()
    found = Page(text)
    assert text.count("<svg") == 4
    for part in ("19 entries in 1 run", "Where each stage starts again", "19 entries: intact", "nightly"):
        assert part in text
    assert len(found.ids) == len(set(found.ids)), "each id once, though each picture has its own"
    # On a narrow screen pictures scroll instead of shrinking, and on a dark page they are no white cards.
    assert re.search(r"figure \{[^}]*overflow-x: auto", text)
    assert re.search(r"figure svg \{[^}]*min-width: 640px", text)
    assert re.search(r"prefers-color-scheme: dark\) \{ figure \{ background: #0d1117", text)
    assert run("report", path, page).exit_code == 3
    _without_pictures(monkeypatch)
    assert answer("report", path, page, "--overwrite", "--no-verify") == ""
    assert "Not verified" in page.read_text()


def test_nothing_in_it_runs_or_is_fetched_whatever_the_names_are(path: Path, page: Path) -> None:
    """Also where a browser would not heed its policy."""
    names = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "]]><svg onload=alert(1)>",
        "javascript:alert(1)",
    ]
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number, run_id=name, stage=name) for name in names for number in (1, 2))
    answer("report", path, page)
    text = page.read_text()
    found = Page(text)
    assert found.handlers == []
    assert found.tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "foreignobject", "a"})
    assert set(re.findall(r'(?:src|href)="([^#"][^"]*)"', text)) == set()
    assert "default-src 'none'" in text


def test_a_broken_record_is_told(path: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place."""
    _without_pictures(monkeypatch)
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(number) for number in range(1, 9))
    tamper(path, "UPDATE entry SET offset = 9999 WHERE position = 5")
    answer("report", path, page)
    assert "BROKEN" in page.read_text()


def test_a_chain_that_takes_long_is_verified_only_when_asked(
    path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entries, and by its runs, each of which has a chain of its own."""
    monkeypatch.setattr(sys.modules["milepost.cli.report"], "_VERIFIED_RUNS", 2)
    _without_pictures(monkeypatch)
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(1, run_id=f"run-{number}") for number in range(3))
    answer("report", path, page)
    assert "Not verified" in page.read_text()


def test_an_empty_store_has_a_page(path: Path, page: Path) -> None:
    """Without pictures."""
    CheckpointStore(path).close()
    answer("report", path, page)
    assert "nothing recorded yet" in page.read_text()
    assert "<svg" not in page.read_text()

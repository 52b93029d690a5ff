"""What a notebook shows: everything there is to say, and nothing from data but text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, Comparison, Divergence, Fault, StageComparison, Verification, Watermark
from support.chains import chain, entry
from support.tampering import tamper
from support.warm import warm_programs

if TYPE_CHECKING:
    from pathlib import Path

TAGS: Final = {
    "div",
    "style",
    "p",
    "span",
    "code",
    "bdi",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
}
STYLE: Final = (files("milepost") / "style.css").read_text(encoding="utf-8")
CLASSES: Final = {"milepost"} | set(re.findall(r"\.(mp-\w+)", STYLE))

HOSTILE: Final = [
    "<script>alert(1)</script>",
    "</style></p></td></table><img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)\" x='",
    "<!-- ", "]]>", "<![CDATA[", "<?php", "&lt;b&gt;", "&#60;b>", "&colon;", "<a href='javascript:alert(1)'>x</a>",
    "<svg/onload=alert(1)>", "<iframe src=https://example.com>", "{{7*7}}", "${7*7}", "`", "@import url(x);", "\\3c b",
    "\x1b[2J\x1b]0;title\x07", "line\nbreak\r\ttab", "right\u202eto left\u2066", "zero\u200bwidth\ufeff", "\u2028\u2029",
    "שלום", "ﷺ" * 100, "x" * 1024, "e\u0301\u0327" * 90, " leading", "'", '"', "&", "<", "\U000e0041tag", "\ufff9\ufffa",
]  # fmt: skip


class Page(HTMLParser):
    """Reads a page as a browser would, and refuses what is not ours."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.classes: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = "".join(self.cells)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Only our tags, with our attributes."""
        assert tag in TAGS
        for name, value in attrs:
            assert (name, value) == ("scope", "col") or (name == "class" and value in CLASSES)
            self.classes.append(value or "")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Each closes the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, and our own style sheet."""
        if self.open[-1] == "style":
            assert data == STYLE
        else:
            assert data.isprintable()
            self.cells.append(data)

    def handle_comment(self, data: str) -> None:
        """None."""
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        """None."""
        raise AssertionError(decl)

    handle_pi = unknown_decl = handle_comment


def shown(value: object) -> Page:
    """What IPython would put into the page."""
    return Page(value._repr_html_())  # type: ignore[attr-defined]


def test_the_style_sheet_asks_nobody_and_stays_within_our_output() -> None:
    """No address, no import; every rule is under `.milepost`."""
    assert not re.search(r"url|@import|expression|http", STYLE)
    rules = re.sub(r"/\*.*?\*/|@media[^{]*\{", "", STYLE, flags=re.DOTALL)
    for selectors in re.findall(r"([^{}]+)\{", rules):
        for selector in selectors.split(","):
            assert ".milepost" in selector, selector


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_text(path: Path, name: str) -> None:
    """As run, stage and key, in a store, a comparison and a file name."""
    with CheckpointStore(path.with_name(name.replace("/", "÷")[:60]), durability="normal") as store:
        store.append_many(entry(i, run_id=name, stage=name, key=f"{name[:1000]}{i}") for i in (1, 2))
        store.append_many([entry(1, run_id="run-8", stage="load"), entry(1, run_id="run-9", stage=name, key=name)])
        store.verify()
        shown(store)
        shown(store.summary())
        shown(store.compare(name, "run-8"))
        page = shown(store.compare(name, "run-9"))
        if name.isprintable() and len(name) <= 80:
            assert name in page.text
        assert str(store.summary()).replace("\n", "").isprintable()


@given(st.text(), st.text(), st.text(), st.integers(), st.integers(0, 2**63 - 1))
def test_no_value_gets_out_of_its_cell(one: str, other: str, stage: str, number: int, ms: int) -> None:
    """Any text, any number, in every place that data comes to."""
    mark = Checkpoint(one, stage, number, Watermark(number, ms), other, ms)
    page = shown(
        Comparison(one, other, (StageComparison(stage, number, 1, 1, number, number, None, Divergence(number, mark, None)),))
    )
    assert page.open == []
    faults = (
        Fault(one, number, other, stage),
        Fault(other, None, stage, one),
        Fault(one, number, other, stage, one, stage, number, other),
    )
    shown(Verification(False, ms, one, faults, (one, other, stage)))


def test_an_empty_store_says_that_it_is_empty(store: CheckpointStore) -> None:
    """No table without a line."""
    page = shown(store)
    assert "nothing recorded yet" in page.cells
    assert "table" not in store._repr_html_().split("</style>")[1]


def test_a_store_tells_what_it_holds(store: CheckpointStore) -> None:
    """How much, of which time, and its head."""
    store.append_many(chain(3))
    text = shown(store).text
    assert "orders.milepost" in text
    assert "3 entries in 1 run and 1 stage, 2026-01-01T00:00:00Z to" in text
    assert str(store.head()) in text


def test_long_lists_are_cut_and_the_rest_is_counted(store: CheckpointStore) -> None:
    """Ten runs, twenty stages, twenty faults."""
    store.append_many(entry(1, run_id=f"run-{i}", stage=f"stage-{i}", at_ms=i) for i in range(35))
    page = shown(store)
    assert "and 25 earlier runs" in page.cells
    assert "and 15 more stages" in page.cells
    assert {"run-34", "run-25"} <= set(page.cells)
    faults = tuple(Fault("link", i, "a", "b") for i in range(1, 31))
    assert "and 10 more faults" in shown(Verification(False, 30, "ab", faults)).cells
    page = shown(Verification(True, 30, "ab", (), tuple(f"sink-{i}" for i in range(30))))
    assert {"✓ 30 entries: intact", "sink-0", "sink-19", "and 10 more tables"} <= set(page.cells)
    assert "sink-20" not in page.cells


def test_of_many_stages_those_that_were_active_last_are_shown(store: CheckpointStore) -> None:
    """By the run that has them, and then by event time."""
    store.append_many(entry(1, run_id="first", stage=f"stage-{i}") for i in range(30))
    store.append_many(entry(i, run_id="last", stage=f"stage-{i}", key="again") for i in range(3, 25))
    found = [cell for cell in shown(store).cells if cell.startswith("stage-")]
    assert found == [f"stage-{i}" for i in range(24, 4, -1)]


def test_of_many_stages_those_that_part_first_are_shown(store: CheckpointStore) -> None:
    """Each with both sides; the rest is one sentence."""
    for run in (1, 2):
        for i in range(60):
            parts_at = 60 - i if run == 2 and i % 2 else None
            store.append_many(
                entry(k, run_id=f"run-{run}", stage=f"stage-{i}", offset=k * 500 + (k == parts_at)) for k in range(1, 61)
            )
    page = shown(store.compare("run-1", "run-2"))
    found = [cell for cell in page.cells if re.fullmatch(r"stage-\d+", cell)]
    part_first = [f"stage-{i}" for i in range(59, 19, -2)]
    assert found == part_first + [stage for stage in part_first for _ in range(2)]
    assert "and 40 more stages: 10 different, 30 identical" in page.cells


BOUND: Final = 200_000
LONG: Final = ["\x1b" * 1024, "\U000e0041" * 256, "&" * 1024, "ﷺ" * 341, "e" + "\u0301" * 500]


@pytest.mark.parametrize("name", LONG, ids=range(len(LONG)))
@pytest.mark.parametrize("stages", [1, 40, *(pytest.param(more, marks=pytest.mark.long) for more in (300, 2000))])
def test_a_page_has_a_bound_however_much_there_is(name: str, stages: int, store: CheckpointStore) -> None:
    """In bytes, in lines and in the height of a line, with the longest names there are."""
    names = [f"{i}{name.encode()[: 1020 - len(str(i))].decode(errors='ignore')}" for i in range(stages)]
    for run in (name, f"2{name[:-1]}"):
        store.append_many(entry(1, run_id=run, stage=stage, key=run, at_ms=7) for stage in names)
    faults = tuple(Fault("link", i, name * 9, name, name, name, i, name) for i in range(1, stages + 1))
    found = store.summary(), store.compare(name, f"2{name[:-1]}"), Verification(False, stages, "ab", faults)
    for each in found:
        assert max(map(len, shown(each).cells)) <= 320
        html: str = each._repr_html_()
        assert len(html.encode()) < BOUND
        assert html.count("<tr>") <= 70
        rest = f"and {stages - 20:,} more"
        assert (rest in html) == (stages > 20)


def test_no_name_turns_round_what_stands_beside_it(store: CheckpointStore) -> None:
    """A name from right to left, first in a sentence of ours, would take the sentence along."""
    for run in ("שלום", "run-8"):
        store.append(entry(run_id=run))
    assert "<bdi>שלום</bdi> and run-8" in store.compare("שלום", "run-8")._repr_html_()


def test_what_a_table_of_a_frame_shows_is_short_whatever_is_in_it(store: CheckpointStore) -> None:
    """Of what a screen would obey, what is shown instead is counted, and no escape is cut in two."""
    store.append(entry(stage="\x1b" * 1000, key="\u202e" * 300))
    html = store.frame()._repr_html_().partition("</style>")[2]
    assert html.isprintable()
    assert max(map(len, re.findall(r"<td>([^<]*)</td>", html))) <= 65
    assert re.search(r"<td>(<bdi>)?(\\x1b){16}…(</bdi>)?</td>", html)


def test_a_closed_store_says_so(path: Path) -> None:
    """As an error would, without raising one."""
    store = CheckpointStore(path)
    store.close()
    assert "✗ " in shown(store).text
    assert "the store is closed: open it again" in shown(store).text


def test_a_verdict_is_never_a_colour_alone() -> None:
    """Sign, word and colour."""
    good, bad = Verification(True, 1, "ab", ()), Verification(False, 1, "ab", (Fault("link", 1, "a", "b"),))
    assert "✓ 1 entry: intact" in shown(good).cells
    assert "✗ 1 entry: BROKEN, 1 fault" in shown(bad).cells
    assert "mp-good" in shown(good).classes
    assert "mp-bad" in shown(bad).classes


def test_of_a_sound_chain_the_verdict_is_all_that_is_shown() -> None:
    """And no table without a row."""
    assert "table" not in Verification(True, 1, "ab", ())._repr_html_().split("</style>")[1]
    found = Verification(False, 1, "ab", (Fault("link", 1, "a", "b"),))._repr_html_()
    assert found.count("</table>") == 1


def test_a_fault_is_shown_with_its_entry_and_what_happened(path: Path) -> None:
    """In words, and not by two signatures."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3))
    tamper(path, "UPDATE entry SET offset = 7 WHERE position = 2")
    with CheckpointStore.open_readonly(path) as store:
        found = store.verify()
    page = shown(found)
    assert {"2", "link", "run-7", "load"} <= set(page.cells)
    assert any("sequence 2 was changed after it was recorded" in cell for cell in page.cells)
    assert found.faults[0].expected not in page.text


def test_the_page_needs_no_extra() -> None:
    """The standard library and the text of a style sheet."""
    program = (
        "import sys, milepost\n"
        "milepost.Verification(True, 0, '', ())._repr_html_()\n"
        "print(sorted({'pandas', 'numpy', 'matplotlib', 'IPython', 'jinja2'} & set(sys.modules)))"
    )
    found = warm_programs().run("-c", program)
    assert found.stdout == "[]\n"


def test_a_name_that_is_not_long_is_never_broken_and_one_of_blanks_is_seen(store: CheckpointStore) -> None:
    """A date in a name stays together; a long name may break, for the page has an end."""
    store.append_many(entry(1, run_id=run_id, stage=run_id) for run_id in ("nightly-2026-11-27", "x" * 40, "   "))
    page = store.summary()._repr_html_()
    assert page.count('<td class="mp-whole">nightly-2026-11-27</td>') == 3
    assert f'<td class="mp-name">{"x" * 40}</td>' in page
    assert '<td class="mp-whole">&#x27;   &#x27;</td>' in page
    assert re.search(r"td\.mp-whole \{ white-space: nowrap; \}", STYLE)

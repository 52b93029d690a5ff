"""Names are data: SQL, markup, escapes and formulas pass through every verb, are found again, and nothing else is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import given, settings

from milepost import Checkpoint, CheckpointStore, Head, ResumePoint, Watermark
from milepost.checkpoint import chain_signature
from support.chains import entry
from support.strategies import stages

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    "'; DROP TABLE entry; --", '" OR 1=1 --', "1; DELETE FROM run", "x' UNION SELECT run_id FROM run --", "%", "_", "*", "?",
    "?1", ":run_id", "@x", "$x", "[x]", "`x`", "NULL", "null", "0", "007", "1e3", "0x10", "-1", "True", "rowid", "entry",
    "checkpoint", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;&amp;", "{{7*7}}", "${7*7}", "%s%n",
    "{0.__class__}", "=HYPERLINK(\"http://x\")", "+1", "@SUM(A1)", "\t=1",
    "\x1b[2J\x1b]0;x\x07", "\x9b2J", "\r\n", "a\nb", "\x7f",
    "\x01\x02", "\ufeff", "\u202eevil", "\u200b", "e\u0301", "é", "ß", "SS", "İ", "i\u0307",
    "Kelvin \u212a", "K", "k", " ", "  ", " x",
    "x ", "\\", "\\0", "\\u0000", '\\"', "../../etc/passwd", "C:\\x", "file:x?mode=ro", "\U0001f600", "\U0010ffff", "\ufffd",
    "\ufffe", "日本", "x" * 1024, "ü" * 512, "\U0001f600" * 256,
]  # fmt: skip


def _through_every_verb(store: CheckpointStore, name: str, others: list[Checkpoint]) -> None:
    """As the run, the stage and the key at once."""
    first, second = (entry(n, run_id=name, stage=name, key=name + "b" * (n - 1))._replace(at_ms=n) for n in (1, 2))
    if len(second.idempotency_key.encode()) > 1024:
        second = second._replace(idempotency_key="b")
    before = len(store)
    assert store.append(first).position == before + 1
    assert store.append(first).duplicate
    assert store.append_many([first, second]).appended == 1
    mark = Watermark(10_000, second.watermark.event_time_ms)
    third = Checkpoint(name, name, 3, mark, "third", 0)
    store.advance(name, name, mark, idempotency_key="third")
    own = [first, second, third._replace(at_ms=list(store.history(name))[-1].at_ms)]
    point = ResumePoint(name, name, 3, mark)
    assert list(store.history(name)) == list(store.history(stage=name)) == list(store.history(name, name)) == own
    assert list(store.history()) == [*others, *own]
    assert [e for _, e, _ in store.receipts(name, name, newest_first=True)] == own[::-1]
    assert store.latest(name) == store.latest_for_stage(name) == store.latest_for_stage(name, run_id=name) == own[2]
    assert store.latest(name, as_of=1) == first
    assert (
        store.resume_point_for_stage(name, run_id=name)
        == store.resume_points(name)[name]
        == store.resume_points()[name]
        == point
    )
    assert list(store.resume_points(name)) == [name]
    assert store.get(name, name, 1) == first
    assert list(store.find(name)) == list(store.find(name, stage=name, run_id=name)) == [first]
    assert [run.stages for run in store.runs() if run.run_id == name] == [(name,)]
    assert [stage.entries for stage in store.stages() if stage.stage == name] == [3]
    assert store.chain_signature(name) == chain_signature(own)
    assert store.verify(run_id=name, expected=Head(3, chain_signature(own))).ok
    others += own


def test_every_name_passes_through_every_verb_unharmed(path: Path) -> None:
    """Promise F1: all in one store, so that one found for another would show."""
    recorded: list[Checkpoint] = []
    with CheckpointStore(path, durability="normal") as store:
        for name in NAMES:
            _through_every_verb(store, name, recorded)
        assert store.verify(expected=Head(len(recorded), chain_signature(recorded))).ok
        assert [run.run_id for run in store.runs()] == NAMES
        copy = path.with_name("copy")
        store.backup(copy)
    with CheckpointStore.open_readonly(copy) as store:
        assert list(store.history()) == recorded
        assert list(store.resume_points()) == NAMES
    connection = apsw.Connection(str(copy))
    assert {name for (name,) in connection.execute("SELECT run_id FROM checkpoint")} == set(NAMES)
    connection.close()


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_any_text_comes_back_as_it_was(path: Path, count: int) -> None:
    """Promise D2: characters drawn from all of Unicode but NUL and surrogates; a short text is seldom drawn twice."""
    print(f"seed {count}")
    chance = random.Random(count)

    def text() -> str:
        ranges = chance.choice([(1, 0x7F), (1, 0xD7FF), (0xE000, 0x10FFFF), (0x300, 0x36F), (0x2000, 0x206F)])
        return "".join(chr(chance.randint(*ranges)) for _ in range(chance.randint(1, 24)))

    drawn = dict.fromkeys(text() for _ in range(count))
    recorded = [
        Checkpoint(run_id, key, number, Watermark(number, number), key, number)
        for number, (key, run_id) in enumerate(zip(drawn, [*drawn][::-1], strict=True))
    ]
    with CheckpointStore(path, durability="normal") as store:
        for first in range(0, len(recorded), 5_000):
            store.append_many(recorded[first : first + 5_000])
        assert list(store.history()) == recorded
        assert [list(store.find(entry.idempotency_key)) for entry in recorded[::20]] == [[entry] for entry in recorded[::20]]
        assert store.chain_signature() == chain_signature(recorded)


@pytest.mark.parametrize("examples", [15, pytest.param(50, marks=pytest.mark.long)])
def test_any_two_names_are_told_apart(tmp_path_factory: pytest.TempPathFactory, examples: int) -> None:
    """Promise D2: byte by byte, whatever looks alike."""

    @settings(max_examples=examples)
    @given(name=stages, other=stages)
    def check(name: str, other: str) -> None:
        with CheckpointStore(tmp_path_factory.mktemp("names") / "store", durability="normal") as store:
            recorded: list[Checkpoint] = []
            for each in dict.fromkeys((name, other)):
                _through_every_verb(store, each, recorded)

    check()

"""The command `watch`: a live view on a terminal, that cuts no number and quits clean."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

import pytest

from milepost import Checkpoint, CheckpointStore, Watermark
from milepost.cli.watch import _chosen, _Watched
from support.chains import entry
from support.command import run, watching

if TYPE_CHECKING:
    from pathlib import Path


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_a_stage_is_seen_to_move_with_its_rate_and_when_it_will_end(path: Path) -> None:
    """While a writer appends; and nothing of the file or beside it is touched."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(Checkpoint("nightly", "load", 1, Watermark(1_000, _now_ms() - 5000), "1", _now_ms()))
        with watching(path, "--total", "5000", "--interval", "100ms") as wait_for:
            wait_for("1,000")
            before = {each: hashlib.sha256(each.read_bytes()).digest() for each in path.parent.iterdir()}
            time.sleep(0.3)
            assert {each: hashlib.sha256(each.read_bytes()).digest() for each in path.parent.iterdir()} == before
            store.append(Checkpoint("nightly", "load", 2, Watermark(3_000, _now_ms() - 5000), "2", _now_ms()))
            screen = wait_for("3,000")
            store.append(Checkpoint("nightly", "load", 3, Watermark(5_000, _now_ms() - 5000), "3", _now_ms()))
            done = wait_for("done")
    assert f"{path.name}, run nightly" in screen
    assert re.search(r"stage +offset +records/s +last +lag +left", screen)
    assert re.search(r"load +3,000 +[1-9][\d,]* +[01] s ago +[56] s +[\d]+ (ms|s)", screen), screen
    assert re.search(r"load +5,000 .* done", done)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_number_is_cut_however_narrow_the_screen_is(path: Path, columns: int) -> None:
    """Names are, and columns are left out."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(
            Checkpoint(f"nightly-2026-01-{day:02d}", name, 1, Watermark(9_876_543_210_987, 5), "1", 1_700_000_000_000)
            for day, name in enumerate(["transform-and-enrich-the-orders", "東京" * 20, "x" * 500, " ", "\x1b[31mred"], 1)
        )
    with watching(path, columns=columns) as wait_for:
        screen = wait_for("red")
    lines = screen.splitlines()
    assert [line for line in lines if len(line) > columns] == []
    assert len(re.findall(r" 9,876,543,210,987( |$)", screen, re.MULTILINE)) == 5
    assert "' '" in screen
    assert re.search(r"records/s +last", screen) or columns == 40
    assert ("lag" in screen) == (columns == 120)


def test_stages_that_stand_still_are_first_and_the_rest_is_counted(path: Path) -> None:
    """Forty stages do not leave the screen."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(entry(1, stage=f"stage-{number:02d}", at_ms=_now_ms()) for number in range(40))
    with watching(path) as wait_for:
        screen = wait_for("and 20 more stages")
    assert [f"stage-{number:02d}" in screen for number in (0, 19, 20, 39)] == [True, True, False, False]


def test_a_stage_is_stalled_after_five_times_its_pace_and_ten_seconds() -> None:
    """It then is among the first, also if many others were recorded later."""
    watched = {f"stage-{number}": _Watched() for number in range(30)}
    for second in range(3):
        for number, each in enumerate(watched.values()):
            if number != 29 or second < 2:
                each.see(entry(second + 1, at_ms=second * 4000), second * 4000)
    quick, slow = watched["stage-0"], watched["stage-29"]
    assert [quick.stalled(now_ms) for now_ms in (8000, 28_000, 28_001)] == [False, False, True]
    assert [slow.stalled(now_ms) for now_ms in (24_000, 24_001)] == [False, True]
    names = [name for name, _, _ in _chosen(watched, 24_001, 20)]
    assert len(names) == 20
    assert names[-1] == "stage-29"
    assert names == [name for name in watched if name in names], "in the order of the file"


def test_an_empty_store_is_waited_for(path: Path) -> None:
    """Its first checkpoint appears."""
    with CheckpointStore(path, durability="normal") as store, watching(path, "--interval", "100ms") as wait_for:
        wait_for("nothing recorded yet")
        store.append(entry(1))
        wait_for("load")


def test_without_a_terminal_it_says_what_to_use_instead(file: Path) -> None:
    """And a look without end in between is refused."""
    refused = run("watch", file)
    assert refused.exit_code == 2
    assert "milepost check" in refused.stderr
    assert run("watch", file, "--interval", "0s").exit_code == 2

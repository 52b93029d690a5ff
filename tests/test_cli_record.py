"""The command `record`: a shell pipeline states a checkpoint."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore, Watermark
from support.command import answer, run, warm_process

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_is_recorded_and_the_same_command_again_writes_nothing(path: Path) -> None:
    """It makes the file; a script that was killed repeats the command."""
    command = ("record", path, "--run", "nightly", "--stage", "load", "--offset", "500", "--event-time", "2026-01-01")
    assert answer(*command) == "stage 'load' of run 'nightly': offset 500 recorded, at position 1\n"
    assert "was recorded before, at position 1" in answer(*command)
    assert json.loads(answer(*command, "--json"))["duplicate"] is True
    with CheckpointStore.open_readonly(path) as store:
        (entry,) = store.history()
    assert (entry.idempotency_key, entry.watermark) == ("load:500", Watermark(500, 1767225600000))


@pytest.mark.parametrize("after", [(), ("--after", "0")])
@pytest.mark.parametrize("when", [(), ("--event-time", "now"), ("--event-time", "1s ago")])
def test_the_same_command_again_writes_nothing_whatever_its_event_time_means_by_then(
    path: Path, when: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """A script that records two steps, and is begun anew: the default is that of the second step now, and `now` is later."""
    base = ("record", str(path), "--run", "r", "--stage", "s")
    first = (*base, "--offset", "5", *when, *after)
    answer(*first)
    answer(*base, "--offset", "9", "--event-time", "2100-01-31")
    time.sleep(0.002)
    assert "was recorded before, at position 1" in answer(*first)
    refused = run(*base, "--offset", "7", "--key", "s:5", *when)
    assert (refused.exit_code, "is already recorded" in refused.stderr) == (1, True)
    refused = run(*base, "--offset", "5", "--event-time", "2026-01-01")
    assert (refused.exit_code, "event time 2026-01-01" in refused.stderr) == (1, True)


def test_an_event_time_that_cannot_be_read_makes_no_file(path: Path) -> None:
    """It is a wrong argument."""
    refused = run("record", path, "--run", "r", "--stage", "s", "--offset", "5", "--event-time", "soon")
    assert (refused.exit_code, "'soon' is no time" in refused.stderr, path.exists()) == (2, True, False)


def test_a_warning_is_a_remark_and_no_line_of_source(path: Path) -> None:
    """Nobody at a shell knows what to do with a path of Python's."""
    given = ("--run", "r", "--stage", "run_id", "--offset", "1", "--event-time", "2300-01-01")
    ended = warm_process("record", path, *given)
    assert ended.returncode == 0
    told = "milepost: event times of stage 'run_id' of run 'r' are after the year 2200: check their unit, which must be "
    assert ended.stderr.decode() == f"{told}ms since the epoch\n"


def test_after_refuses_a_second_owner_and_takes_the_own_retry(path: Path) -> None:
    """Compare and set; 0 is the beginning."""
    base = ("record", path, "--run", "r", "--stage", "s")
    answer(*base, "--offset", "5", "--after", "0")
    assert "was recorded before" in answer(*base, "--offset", "5", "--after", "0")
    answer(*base, "--offset", "9", "--after", "5", "--event-time", "2026-01-02")
    answer(*base, "--offset", "12", "--after", "9")
    refused = run(*base, "--offset", "20", "--after", "5")
    assert refused.exit_code == 1
    assert "see `milepost resume`" in refused.stderr
    with CheckpointStore.open_readonly(path) as store:
        assert [entry.watermark.offset for entry in store.history()] == [5, 9, 12]


def test_an_offset_that_goes_back_is_refused(path: Path) -> None:
    """As by the store."""
    base = ("record", path, "--run", "r", "--stage", "s")
    answer(*base, "--offset", "5")
    assert run(*base, "--offset", "4").exit_code == 1
    assert run(*base, "--offset", "-1").exit_code == 2

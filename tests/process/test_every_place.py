"""An interrupt at every place where CPython looks for signals: the store goes on, and nothing is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.outside_view import Outcome, fast_directory, interrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "2000"))
LONG: Final = pytest.mark.long
ALL: Final = pytest.param(0, marks=LONG, id="all")
"""Of a default run's choice of places: the long run takes all."""


def _interrupt(operations: Sequence[str], places: int = 0, **orders: Any) -> Outcome:
    with fast_directory() as directory:
        return interrupt(directory, operations, rounds=places, seed=SEED, **orders)


@pytest.mark.parametrize(
    "keeping",
    [
        pytest.param({"Append": [False], "AppendMore": [True]}, id="kept or not"),
        pytest.param({"Append": [False, True], "AppendMore": [False, True]}, marks=LONG, id="both"),
    ],
)
def test_an_append_that_is_interrupted_anywhere_is_there_or_not_and_the_store_goes_on(
    keeping: dict[str, list[bool]],
) -> None:
    """At every place: another process can append at once, so can the store, and the same append can be made again."""
    for operation, kept in keeping.items():
        outcome = _interrupt([operation], keeping=kept)
        assert outcome.problems == [], outcome.problems[0]
        assert outcome.hits >= len(kept) * 40


@pytest.mark.parametrize("places", [6, ALL])
def test_a_write_that_is_interrupted_anywhere_is_there_or_not_and_the_store_goes_on(places: int) -> None:
    """A duplicate, a rejected checkpoint, a batch, a step."""
    outcome = _interrupt(["Duplicate", "Rejected", "AppendMany", "Advance"], places)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 4 * 5


@pytest.mark.parametrize("places", [6, ALL])
def test_a_durable_write_that_is_interrupted_anywhere_is_there_or_not(places: int) -> None:
    """With durability full, where a duplicate is synced as well."""
    outcome = _interrupt(["Append", "AppendMore", "Duplicate"], places, durability="full")
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 3 * 5


@pytest.mark.parametrize(("times", "places"), [(1, 20), pytest.param(25, 40, marks=LONG)])
def test_an_append_beside_threads_that_is_interrupted_anywhere_stops_none_of_them(times: int, places: int) -> None:
    """The main thread leads the others' group commit, or follows one of them: they go on, and get what is theirs."""
    outcome = _interrupt(["Append"] * times, places, workers=4, patience_ms=5000)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= times * places // 4


@pytest.mark.parametrize("places", [15, ALL])
def test_a_block_that_is_interrupted_anywhere_is_there_as_a_whole_or_not_at_all(places: int) -> None:
    """At its beginning, inside, at its end; no transaction stays open, and nothing is acknowledged that nobody commits."""
    outcome = _interrupt(["Block", "Nested", "NestedUndone"], places, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 3 * 11


@pytest.mark.parametrize("places", [15, ALL])
def test_a_block_that_catches_an_interrupt_goes_on(places: int) -> None:
    """An inner block, or an append, is undone alone, and the rest is committed."""
    outcome = _interrupt(["CaughtInBlock", "CaughtInAppend"], places, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 11


@pytest.mark.parametrize("places", [15, ALL])
def test_a_loop_that_is_interrupted_anywhere_resumes(places: int) -> None:
    """With `transaction=True` each record is in the sink once, however often it was interrupted."""
    outcome = _interrupt(["Loop", "TransactionalLoop"], places, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 11


@pytest.mark.parametrize("places", [15, ALL])
def test_a_kept_exception_of_an_interrupted_block_makes_no_later_append_be_lost(places: int) -> None:
    """Until it is gone an append is refused, or it is there; then all goes on."""
    outcome = _interrupt(["Block", "CaughtInBlock", "TransactionalLoop"], places, keeping=[True])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 3 * 11


@pytest.mark.parametrize("places", [2, pytest.param(500, marks=LONG)])
def test_an_archive_that_is_interrupted_anywhere_is_finished_by_the_next_call(places: int) -> None:
    """Nothing is left open or half made, and meanwhile another process appends at once."""
    outcome = _interrupt(["Archive"], places)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= places


@pytest.mark.parametrize(
    "keeping", [pytest.param([False], id="not kept"), pytest.param([False, True], marks=LONG, id="kept or not")]
)
def test_a_close_that_is_interrupted_anywhere_is_done_by_the_next_one(keeping: list[bool]) -> None:
    """At every place: nothing of the store stays open."""
    outcome = _interrupt(["Close"], keeping=keeping)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= len(keeping) * 5


@pytest.mark.parametrize("places", [4, ALL])
def test_an_opening_that_is_interrupted_anywhere_leaves_nothing_behind(places: int) -> None:
    """Of a file that is there, of a new one, of one that is only read: the next opening works."""
    outcome = _interrupt(["Open", "OpenNew", "OpenReadonly"], places)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 3 * 3


@pytest.mark.parametrize("places", [6, ALL])
def test_a_fork_that_is_interrupted_anywhere_leaves_every_store_usable(places: int) -> None:
    """Parent and child go on at once, and what the child has acknowledged is there, or it was refused."""
    outcome = _interrupt(["Fork"], places, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 5


@pytest.mark.parametrize("handler", ["fork", "open"])
@pytest.mark.parametrize("places", [3, ALL])
def test_a_handler_anywhere_that_forks_or_opens_a_store_hangs_nowhere(handler: str, places: int) -> None:
    """As the store opens, closes, forks or writes."""
    outcome = _interrupt(["Fork", "Open", "Close", "Append"], places, handler=handler, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == outcome.recorded + outcome.refused >= 4 * 2


@pytest.mark.parametrize("places", [5, pytest.param(1_000, marks=LONG)])
def test_a_read_that_is_interrupted_anywhere_leaves_the_store_as_it_was(places: int) -> None:
    """The same read works, and so does an append."""
    outcome = _interrupt(["Latest", "History", "Verify"], places)
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 2 * 3 * 4


@pytest.mark.parametrize("places", [5, ALL])
def test_sys_exit_anywhere_comes_out_as_such(places: int) -> None:
    """A handler that raises SystemExit."""
    outcome = _interrupt(["Append", "Block", "Loop"], places, handler="exit", keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits >= 3 * 4


@pytest.mark.parametrize("handler", ["append", "block"])
@pytest.mark.parametrize("places", [5, ALL])
def test_a_handler_anywhere_that_uses_the_store_is_answered_at_once(handler: str, places: int) -> None:
    """What it appends is recorded, or refused as what it is; the call around it ends as if nothing had been."""
    operations = ["Append", "AppendMany", "Nested", "Loop", "TransactionalLoop"]
    outcome = _interrupt(operations, places, handler=handler, keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == outcome.recorded + outcome.refused >= 5 * 4


@pytest.mark.parametrize("places", [30, ALL])
def test_a_handler_anywhere_in_a_block_that_opens_one_is_inside_it_or_refused(places: int) -> None:
    """The outer block's own beginning and end are not what it may write into."""
    outcome = _interrupt(["Block", "Nested"], places, handler="block", keeping=[False])
    assert outcome.problems == [], outcome.problems[0]
    assert outcome.hits == outcome.recorded + outcome.refused >= (2 * 25 if places else 700)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("forget", "was acknowledged and is not in the file"),
        ("swallow", "the interrupt did not come out of the call"),
        ("blame", "what came out is StoreError"),
        ("lock", "another process cannot append"),
        ("hang", "it hangs in interrupted_process.py"),
    ],
)
def test_a_store_that_is_broken_is_caught(broken: str, words: str) -> None:
    """So that the tests above can tell."""
    outcome = _interrupt(["Latest"], 5, broken=broken, watchdog_s=1.0)
    assert len(outcome.problems) == 1
    assert words in outcome.problems[0]

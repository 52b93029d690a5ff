"""The pipeline of the demo: stopped anywhere, it goes on exactly there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost.demo import pipeline, proof
from milepost.demo.source import Source
from support.sample_csv import sample, source_of, stop_at

if TYPE_CHECKING:
    from pathlib import Path

    from milepost import CheckpointStore


@pytest.mark.parametrize("stage", pipeline.STAGES)
@pytest.mark.parametrize("number", [1, 10, 11, 25, 95])
def test_a_job_that_is_stopped_anywhere_goes_on_exactly_there(
    stage: str, number: int, store: CheckpointStore, tmp_path: Path
) -> None:
    """At the first record, at the last of a batch, at the last of all: what comes out is the same."""
    orders = sample(tmp_path / "orders.csv", 95)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(store, source_of(orders), 10, stop_at(stage, number))
    told: list[tuple[str, int]] = []
    pipeline.run(store, source_of(orders), 10, lambda at_stage, at_number: told.append((at_stage, at_number)))
    assert pipeline.totals(store) == orders.totals
    assert told[0] == (stage, (number - 1) // 10 * 10 + 1)


def test_what_is_done_is_not_read_again(store: CheckpointStore, tmp_path: Path) -> None:
    """Started again, transform and load ask for what comes after their checkpoint; of the rest, at most for the last."""
    orders = sample(tmp_path / "orders.csv", 95)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(store, source_of(orders), 10, stop_at("load", 35))
    with store.transaction() as connection:
        connection.execute("DELETE FROM staged WHERE number < 95; DELETE FROM cleaned WHERE number <= 30")
    pipeline.run(store, source_of(orders), 10, lambda stage, number: None)
    assert pipeline.totals(store) == orders.totals


def test_a_sum_of_whole_numbers_is_exact(store: CheckpointStore, tmp_path: Path) -> None:
    """Also beyond 2^53, where a float leaves out every second one; one decimal point among them makes it a float."""
    amounts = [2**53 + 1, -1, 2**60 + 1, 2]
    lines = [f"1,whole,{value}" for value in amounts] + ["1,part,0.5", f"1,part,{2**53 + 1}", "1,none,"]
    (tmp_path / "x.csv").write_text("\n".join(["when,who,many", *lines]), encoding="utf-8")
    source = Source(str(tmp_path / "x.csv"), "when", "who", "many")
    pipeline.run(store, source, 2, lambda stage, number: None)
    found = pipeline.totals(store)
    day = "1970-01-01"
    assert (
        found
        == {
            ("whole", day): (4, sum(amounts)),
            ("part", day): (2, 0.5 + (2**53 + 1)),
            ("none", day): (1, 0),
        }
        == proof.plain_totals(source)
    )
    assert type(found["whole", day][1]) is int


def test_a_job_that_is_done_does_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    """Run again after its end, it records nothing and changes nothing."""
    orders = sample(tmp_path / "orders.csv", 50)
    for _ in range(2):
        pipeline.run(store, source_of(orders), 10, lambda stage, number: None)
    assert pipeline.checkpoints(store) == 15
    assert pipeline.totals(store) == orders.totals

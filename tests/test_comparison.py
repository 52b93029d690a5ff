"""What a comparison says of itself, however many stages it has."""

from __future__ import annotations

import pytest

from milepost import Comparison, Divergence, StageComparison
from milepost.summary import STAGES_SHOWN
from support.chains import entry


def _stage(name: str, parts_at: int | None = None) -> StageComparison:
    divergence = None if parts_at is None else Divergence(parts_at, entry(parts_at), None)
    return StageComparison(name, 9, 9, 9, int(parts_at is not None), None, None, divergence)


def _comparison(*stages: StageComparison) -> Comparison:
    return Comparison("run-7", "run-8", stages)


def test_few_stages_are_all_told_of_in_the_order_of_the_file() -> None:
    """As a pipeline has them, wherever they part."""
    stages = _stage("extract"), _stage("transform", 5), _stage("load", 3)
    assert _comparison(*stages).excerpt(3) == (stages, "")
    assert str(_comparison(*stages)).count("\n  stage ") == 3


def test_an_event_time_that_was_never_given_is_no_1970() -> None:
    """A dash on the page, as in the text."""
    divergence = Divergence(3, entry(3, event_time_ms=0), None)
    comparison = _comparison(StageComparison("load", 9, 9, 9, 1, None, None, divergence))
    assert "event time –" in str(comparison)
    assert "1970" not in str(comparison) + comparison._repr_html_()


def test_of_many_stages_those_that_part_first_are_told_of() -> None:
    """Then the identical ones; the rest is counted, by what it is."""
    comparison = _comparison(_stage("a"), _stage("b", 9), _stage("c", 2), _stage("d"), _stage("e", 5), _stage("f", 2))
    assert [stage.stage for stage in comparison.excerpt(3)[0]] == ["c", "f", "e"]
    assert comparison.excerpt(3)[1] == "and 3 more stages: 1 different, 2 identical"
    assert [stage.stage for stage in comparison.excerpt(5)[0]] == ["c", "f", "e", "b", "a"]
    assert comparison.excerpt(5)[1] == "and 1 more stage: 1 identical"
    assert comparison.excerpt(0)[1] == "and 6 more stages: 4 different, 2 identical"


@pytest.mark.parametrize("stages", [1, 40, 300, 2000])
@pytest.mark.parametrize("parts_at", [None, 7])
def test_a_comparison_fits_a_terminal_however_many_stages_it_has(stages: int, parts_at: int | None) -> None:
    """At most three lines of each of twenty stages, none of them long, whatever the names are; and a line for the rest."""
    comparison = Comparison(
        "\x1b" * 1024, "x" * 1024, tuple(_stage(f"{i}" + "\u202e" * 300, parts_at) for i in range(stages))
    )
    lines = str(comparison).splitlines()
    assert len(lines) <= 2 + 3 * STAGES_SHOWN
    assert max(map(len, lines)) < 500
    kind = "identical" if parts_at is None else "different"
    rest = f"  and {stages - 20:,} more stages: {stages - 20:,} {kind}"
    assert (lines[-1] == rest) == (stages > STAGES_SHOWN)

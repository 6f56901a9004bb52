"""A training is told by few numbers, and the step that was kept is among them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.reporting.learning_curve import (
    BLOCKS,
    MOST_ROWS,
    Point,
    best,
    learning_curve,
    sparkline,
    table,
)

LOSSES = st.lists(st.floats(0, 10), min_size=1, max_size=60)


def points_of(losses: list[float]) -> list[Point]:
    return [Point(step, None, loss) for step, loss in enumerate(losses)]


def test_a_point_has_the_mean_of_the_steps_since_the_one_before() -> None:
    course = {
        "losses": [4.0, 2.0, 1.0, 2.0, 9.0],
        "validation_losses": [5.0, 3.0, 2.5],
        "compared_at": [0, 2, 4],
    }
    assert learning_curve(course) == [Point(0, None, 5.0), Point(2, 3.0, 3.0), Point(4, 1.5, 2.5)]


def test_what_was_not_compared_has_no_curve() -> None:
    without = {"losses": [1.0], "validation_losses": [], "compared_at": []}
    older = {"losses": [1.0], "validation_losses": [2.0, 1.0]}
    assert [learning_curve(course) for course in (None, {}, without, older)] == [[]] * 4


def test_of_equal_losses_the_first_is_the_best() -> None:
    assert best(points_of([3.0, 1.0, 2.0, 1.0])).step == 1


def test_a_curve_that_falls_falls_in_blocks() -> None:
    assert sparkline([None, *range(7, -1, -1)]) == f" {BLOCKS[::-1]}"
    assert sparkline([2.0, 2.0]) == BLOCKS[0] * 2


@given(losses=LOSSES)
def test_greater_losses_have_blocks_that_are_no_lower(losses: list[float]) -> None:
    ordered = sparkline(sorted(losses))
    assert ordered == "".join(sorted(ordered))
    assert len(ordered) == len(losses)


@given(losses=LOSSES)
def test_a_table_is_short_and_has_the_first_the_last_and_the_best_step(
    losses: list[float],
) -> None:
    points = points_of(losses)
    steps = [int(step) for step, _, _ in table(points)]
    assert steps == sorted(set(steps))
    assert len(steps) <= MOST_ROWS + 1
    assert {0, len(losses) - 1, best(points).step} <= set(steps)

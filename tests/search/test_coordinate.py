"""Coordinate search moves one gene at a time, shrinks its steps and ends by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.genome.genes import Gene
from evomerge.search.contract import Finished, Result, StrategySettings
from evomerge.search.coordinate import SMALLEST, STEP, CoordinateSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.search.contract import Point

SETTINGS = StrategySettings(dimension=4, generation=1, seed=0)


def search(
    judge: Callable[[Point], float | None],
    settings: StrategySettings = SETTINGS,
    count: int = 1,
) -> list[Point]:
    """Ask and tell until it ends; all points."""
    strategy, found = CoordinateSearch(settings), []
    for _ in range(2000):
        try:
            points = strategy.ask(count)
        except Finished:
            return found
        strategy.tell([Result(fitness=judge(point)) for point in points])
        found += points
    raise AssertionError("it does not end")


def sphere(point: Point) -> float:
    return -sum((coordinate - 0.37) ** 2 for coordinate in point)


def moved(point: Point, centre: Point) -> list[int]:
    pairs = zip(point, centre, strict=True)
    return [index for index, (one, other) in enumerate(pairs) if one != other]


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("dimension", [1, 2, 9, 24])
def test_it_ends_where_no_smallest_step_along_a_coordinate_is_better(
    count: int, dimension: int
) -> None:
    points = search(sphere, replace(SETTINGS, dimension=dimension), count=count)
    assert np.abs(np.array(max(points, key=sphere)) - 0.37).max() < 2 * SMALLEST


def test_it_asks_for_the_centre_first() -> None:
    centre = (0.1, 0.2, 0.3, 0.4)
    first, second = CoordinateSearch(replace(SETTINGS, centre=centre)).ask(2)
    assert first == centre
    assert len(moved(second, centre)) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_each_point_differs_from_the_best_in_one_coordinate(count: int) -> None:
    strategy = CoordinateSearch(SETTINGS)
    best = strategy.ask(1)[0]
    strategy.tell([Result(fitness=sphere(best))])
    for _ in range(6):
        points = strategy.ask(count)
        assert [len(moved(point, best)) for point in points] == [1] * count
        strategy.tell([Result(fitness=sphere(point)) for point in points])
        best = max(best, *points, key=sphere)


def test_steps_that_fail_turn_round_and_are_halved_until_they_are_too_small() -> None:
    centre = (0.5,)
    points = search(lambda _: 0.0, replace(SETTINGS, dimension=1, centre=centre))
    steps = [point[0] - 0.5 for point in points[1:]]
    assert [abs(step) for step in steps] == [STEP / 2**n for n in range(len(steps))]
    assert all(one * other < 0 for one, other in pairwise(steps))
    assert abs(steps[-1]) == SMALLEST


def test_a_step_that_was_better_is_taken_again() -> None:
    settings = replace(SETTINGS, dimension=1, step=0.125, centre=(0.5,))
    _, second = CoordinateSearch(settings).ask(2)
    sign = np.sign(second[0] - 0.5)
    points = search(lambda point: sign * (point[0] - 0.5), settings)
    assert [abs(point[0] - 0.5) for point in points[1:5]] == [0.125, 0.25, 0.375, 0.5]
    assert all(0 <= point[0] <= 1 for point in points)


def test_the_first_step_is_that_of_the_settings() -> None:
    _, point = CoordinateSearch(replace(SETTINGS, step=0.0625)).ask(2)
    (index,) = moved(point, (0.5,) * 4)
    assert abs(point[index] - 0.5) == 0.0625


def test_every_coordinate_has_its_turn_before_any_has_a_second_one() -> None:
    _, *points = CoordinateSearch(SETTINGS).ask(9)
    turns = [index for point in points for index in moved(point, (0.5,) * 4)]
    assert sorted(turns[:4]) == [0, 1, 2, 3]
    assert turns[4:] == turns[:4]


def test_choices_are_all_tried_once_and_never_something_between_them() -> None:
    number = Gene(parameter="weight", source=0, group=0, component=None)
    choice = Gene(
        parameter="operator", source=None, group=None, component=None, choices=("a", "b", "c")
    )
    mixed = replace(SETTINGS, dimension=2, genes=(number, choice), centre=(0.5, 0.9))
    points = search(lambda _: 0.0, mixed)
    chosen = [point[1] for point in points if moved(point, (0.5, 0.9)) == [1]]
    assert chosen == pytest.approx([1 / 6, 0.5])
    # A better one is kept for what follows.
    better = search(lambda point: float(choice.choice(point[1]) == "a"), mixed)
    assert {choice.choice(point[1]) for point in better[4:]} == {"a", "b"}


def test_a_start_that_failed_is_left_for_the_first_point_that_did_not() -> None:
    points = search(lambda point: None if point == (0.5,) * 4 else sphere(point))
    assert max(map(sphere, points)) > -1e-4


@given(
    fitness=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=60, max_size=60),
    count=st.integers(1, 9),
    dimension=st.integers(1, 4),
)
@settings(max_examples=40)
def test_whatever_it_is_told_its_points_are_in_the_cube(
    fitness: list[float | None], count: int, dimension: int
) -> None:
    told = iter(fitness)
    points = search(lambda _: next(told, 0.0), replace(SETTINGS, dimension=dimension), count=count)
    assert all(len(point) == dimension for point in points)
    assert all(0 <= coordinate <= 1 for point in points for coordinate in point)


def test_it_does_not_end_while_points_are_under_way() -> None:
    strategy = CoordinateSearch(replace(SETTINGS, dimension=1))
    points = strategy.ask(100)
    assert 0 < len(points) < 100
    assert strategy.ask(100) == []
    strategy.tell([Result(fitness=0.0)] * len(points))
    with pytest.raises(Finished, match="no step along a coordinate is better"):
        strategy.ask(1)

"""Latin hypercube sampling covers every coordinate's range evenly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evomerge.genome.genes import Gene
from evomerge.search.contract import StrategySettings
from evomerge.search.latin_hypercube import first_points, latin_hypercube


@pytest.mark.parametrize("count", [1, 2, 7, 16])
@pytest.mark.parametrize("dimension", [1, 5])
def test_every_part_of_every_range_is_met_once(count: int, dimension: int) -> None:
    points = latin_hypercube(count, dimension, np.random.default_rng(0))
    parts = np.sort(np.floor(points * count).astype(int), axis=0)
    assert parts.tolist() == [[part] * dimension for part in range(count)]


def test_coordinates_are_shuffled_apart() -> None:
    points = latin_hypercube(50, 2, np.random.default_rng(0))
    assert abs(np.corrcoef(points.T)[0, 1]) < 0.3


@pytest.mark.parametrize(("dimension", "step", "expected"), [(9, 0.05, 0.05), (30, None, 0.14)])
def test_first_points_lie_around_the_middle_with_the_step_as_their_standard_deviation(
    dimension: int, step: float | None, expected: float
) -> None:
    settings = StrategySettings(dimension=dimension, generation=16, seed=0, step=step)
    points = first_points(32, settings, np.random.default_rng(0))
    assert points.shape == (32, dimension)
    assert points.std(axis=0) == pytest.approx(expected, rel=0.15)
    assert points.mean(axis=0) == pytest.approx(0.5, abs=0.01)


def test_first_points_are_in_the_cube_however_large_the_step() -> None:
    settings = StrategySettings(dimension=5, generation=16, seed=0, step=0.5)
    points = first_points(32, settings, np.random.default_rng(0))
    assert (points.min(), points.max()) == (0, 1)


def test_first_points_spread_choices_evenly_over_what_there_is_to_choose() -> None:
    choice = Gene(
        parameter="operator", source=None, group=None, component="all", choices=(*"abcd",)
    )
    weight = Gene(parameter="weight", source=0, group=0, component=None)
    settings = StrategySettings(dimension=2, generation=16, seed=0, genes=(choice, weight))
    points = first_points(32, settings, np.random.default_rng(0))
    chosen = [choice.choice(coordinate) for coordinate in points[:, 0].tolist()]
    assert [chosen.count(each) for each in choice.choices] == [8] * 4
    assert points[:, 1].std() == pytest.approx(0.14, rel=0.15)
    around = first_points(
        32, dataclasses.replace(settings, centre=(0.9, 0.3)), np.random.default_rng(0)
    )
    chosen = [choice.choice(coordinate) for coordinate in around[:, 0].tolist()]
    assert [chosen.count(each) for each in choice.choices] == [4, 4, 4, 20]

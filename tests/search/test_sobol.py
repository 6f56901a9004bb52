"""Sobol points are one sequence, spread evenly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Point, StrategySettings
from evomerge.search.sobol import Sobol


def _points(counts: list[int], dimension: int = 4, seed: int = 0) -> list[Point]:
    sobol = Sobol(StrategySettings(dimension=dimension, generation=8, seed=seed))
    return [point for count in counts for point in sobol.ask(count)]


@given(counts=st.lists(st.integers(0, 7), max_size=6))
def test_the_points_do_not_depend_on_how_many_are_asked_for_at_a_time(counts: list[int]) -> None:
    assert _points(counts) == _points([sum(counts)])


@pytest.mark.parametrize("dimension", [1, 9, 100])
@pytest.mark.parametrize("count", [8, 32])
def test_each_interval_of_every_coordinate_has_its_point(dimension: int, count: int) -> None:
    cells = np.floor(np.array(_points([count], dimension)) * count)
    assert (np.sort(cells, axis=0) == np.arange(count)[:, None]).all()


def test_a_number_that_is_no_power_of_two_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(_points([5, 3, 6])) == 14

"""Two-point crossover gives the layers between two cuts to the second source."""

from __future__ import annotations

import math

import operating
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

fractions = st.floats(0, 1)


def _from_second(low: float, high: float, depth: float) -> bool:
    stack = torch.tensor([[0.0], [1.0]])
    where = torch.tensor(depth, dtype=torch.float64)
    child = operating.merge("two_point_crossover", stack, low=low, high=high, depth=where)
    return bool(child)


@given(cuts=st.tuples(fractions, fractions), depth=fractions)
def test_a_layer_is_the_seconds_if_and_only_if_it_lies_between_the_cuts(
    cuts: tuple[float, float], depth: float
) -> None:
    assert _from_second(*cuts, depth) == (min(cuts) <= depth <= max(cuts))


@pytest.mark.parametrize("cuts", [(0, 1), (1, 0)], ids=str)
def test_what_lies_outside_the_layers_is_always_the_firsts(cuts: tuple[float, float]) -> None:
    assert not _from_second(*cuts, math.nan)


def test_in_a_model_of_five_layers_the_middle_three_are_exchanged() -> None:
    taken = [_from_second(0.25, 0.75, layer / 4) for layer in range(5)]
    assert taken == [False, True, True, True, False]


def test_nothing_of_the_other_source_reaches_the_child() -> None:
    stack = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    child = operating.merge("two_point_crossover", stack, low=0.8, high=0.9)
    assert child.tolist() == [1, 2]

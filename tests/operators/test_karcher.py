"""The Karcher mean is the point of the sphere nearest to all directions, at the mean length."""

from __future__ import annotations

import functools
import itertools
import math

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

karcher = functools.partial(operating.merge, "karcher")


def _distance(point: torch.Tensor, stack: torch.Tensor) -> float:
    """Sum of the squared angles from a point to every source."""
    units = torch.nn.functional.normalize(stack)
    return float(torch.acos((units @ point).clamp(-1, 1)).square().sum())


@given(count=st.integers(2, 5), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_direction_nearby_is_nearer_to_all(count: int, seed: int) -> None:
    # Within a quarter of the sphere the mean is unique.
    stack = operating.draw((count, 4), seed, torch.float64).abs()
    mean = torch.nn.functional.normalize(karcher(stack), dim=0)
    least = _distance(mean, stack)
    for axis, step in itertools.product(torch.eye(4, dtype=torch.float64), (1e-2, -1e-2)):
        assert least <= _distance(torch.nn.functional.normalize(mean + step * axis, dim=0), stack)


def test_three_axes_meet_on_the_diagonal() -> None:
    merged = karcher(torch.eye(3, dtype=torch.float64))
    assert merged.tolist() == pytest.approx([1 / math.sqrt(3)] * 3)


def test_three_points_on_a_circle_meet_at_the_mean_of_their_angles() -> None:
    """Unlike the mean of the directions, which is at 0.464."""
    angles = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    stack = torch.stack([angles.cos(), angles.sin()], dim=1)
    merged = karcher(stack)
    assert math.atan2(merged[1], merged[0]) == pytest.approx(math.pi / 6, abs=1e-5)


@pytest.mark.parametrize("length", [1.0, 1e-9])
def test_the_mean_of_one_source_is_that_source(length: float) -> None:
    stack = operating.draw((1, 100)) * length
    assert torch.equal(karcher(stack), stack[0])


def test_it_is_as_long_as_the_sources_are_on_average() -> None:
    stack = operating.draw((4, 100), dtype=torch.float64)
    assert karcher(stack).norm().item() == pytest.approx(stack.norm(dim=1).mean().item())


def test_opposite_sources_have_no_mean_and_give_one_of_them() -> None:
    assert karcher([[1.0, 0.0], [-1.0, 0.0]]).tolist() == [1.0, 0.0]


def test_opposite_sources_do_not_turn_a_third() -> None:
    assert karcher([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).tolist() == pytest.approx([0.0, 1.0])


def test_zeros_merge_to_zeros() -> None:
    assert not karcher(torch.zeros(3, 4)).any()


def test_entries_far_from_one_are_merged_as_well() -> None:
    stack = operating.draw((3, 50), dtype=torch.float64)
    assert torch.allclose(karcher(stack * 1e9), karcher(stack) * 1e9)

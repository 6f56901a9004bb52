"""Spherical interpolation walks along the arc between two tensors."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

slerp = functools.partial(operating.merge, "slerp")
entries = st.floats(-10, 10).filter(lambda entry: entry == 0 or abs(entry) > 1e-3)


def _published(first: list[float], second: list[float], t: float) -> list[float]:
    """Section 3.3, entry by entry; the straight line between nearly parallel tensors."""
    first_norm = math.sqrt(sum(entry**2 for entry in first)) or 1.0
    second_norm = math.sqrt(sum(entry**2 for entry in second)) or 1.0
    product = sum(a * b for a, b in zip(first, second, strict=True))
    cosine = max(-1.0, min(1.0, product / first_norm / second_norm))
    shares = 1 - t, t
    if abs(cosine) <= 0.9995:
        angle = math.acos(cosine)
        shares = (
            math.sin((1 - t) * angle) / math.sin(angle),
            math.sin(t * angle) / math.sin(angle),
        )
    return [shares[0] * a + shares[1] * b for a, b in zip(first, second, strict=True)]


def test_a_quarter_of_a_right_angle_comes_out() -> None:
    """methods.md 5.3: x = (1, 0), y = (0, 1), three quarters of the way to x."""
    merged = slerp(torch.eye(2, dtype=torch.float64), t=0.25)
    assert merged.tolist() == pytest.approx([0.92388, 0.382683], abs=1e-6)


@pytest.mark.parametrize(("t", "row"), [(0.0, 0), (1.0, 1)])
def test_the_ends_are_the_sources(t: float, row: int, draw: Callable[..., Tensor]) -> None:
    stack = draw((2, 300))
    assert torch.equal(slerp(stack, t=t), stack[row])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_between_unit_tensors_the_norm_stays_one(t: float, draw: Callable[..., Tensor]) -> None:
    stack = draw((2, 300), dtype=torch.float64)
    stack /= stack.norm(dim=1, keepdim=True)
    assert slerp(stack, t=t).norm().item() == pytest.approx(1)


def test_swapping_the_sources_and_turning_the_way_round_changes_nothing(
    draw: Callable[..., Tensor],
) -> None:
    stack = draw((2, 300), dtype=torch.float64)
    assert torch.allclose(slerp(stack, t=0.25), slerp(stack.flip(0), t=0.75))


def test_nearly_parallel_tensors_take_the_straight_line() -> None:
    stack = torch.tensor([[1.0, 0.0], [3.0, 0.01]])
    assert slerp(stack, t=0.5).tolist() == pytest.approx([2.0, 0.005])


def test_opposite_tensors_take_the_straight_line() -> None:
    stack = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    assert slerp(stack, t=0.25).tolist() == pytest.approx([0.5, 1.0])


def test_a_tensor_of_zeros_is_at_a_right_angle_as_in_mergekit() -> None:
    stack = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    share = math.sin(math.pi / 4)
    assert slerp(stack, t=0.5).tolist() == pytest.approx([share, 2 * share])


@given(data=st.data(), size=st.integers(1, 20), t=st.floats(0, 1))
@settings(max_examples=100)
def test_it_is_what_the_paper_says(data: st.DataObject, size: int, t: float) -> None:
    first, second = (data.draw(st.lists(entries, min_size=size, max_size=size)) for _ in range(2))
    merged = slerp(torch.tensor([first, second], dtype=torch.float64), t=t)
    assert merged.tolist() == pytest.approx(_published(first, second, t), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_entry_that_is_no_finite_number_stays_visible(
    value: float, draw: Callable[..., Tensor]
) -> None:
    stack = draw((2, 70_000))
    stack[0, 3] = stack[1, 3] = value
    stack[1, 69_000] = math.inf
    assert not slerp(stack, t=0.5).isfinite().all()


def test_infinities_of_both_signs_stay_visible(draw: Callable[..., Tensor]) -> None:
    stack = draw((2, 70_000)).abs()
    stack[1, 3], stack[1, 69_000] = math.inf, -math.inf
    assert not slerp(stack, t=0.5).isfinite().all()


def test_the_number_of_threads_does_not_change_the_angle(
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    threads: Callable[[int], None],
) -> None:
    """Close tensors: near a right angle the last bits of the cosine would not show."""
    stack = draw((2, 150_001), dtype=torch.float64)
    stack[1] = stack[0] + 0.3 * stack[1]
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(slerp(stack, t=0.3))
    assert all(same_bits(result, results[0]) for result in results)

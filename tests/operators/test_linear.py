"""The weighted average averages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from evomerge.errors import MergeError
from evomerge.operators.linear import linear
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def test_weights_are_normalised_to_one() -> None:
    stack = torch.tensor([[1.0, 2.0], [3.0, -2.0]])
    assert linear(stack, weight=(1.0, 3.0)).tolist() == [2.5, -1.0]


def test_without_normalising_the_weights_count_as_they_are() -> None:
    stack = torch.tensor([[1.0, 2.0], [3.0, -2.0]])
    assert linear(stack, weight=(1.0, 3.0), normalize=False).tolist() == [10.0, -4.0]


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_one_normalised_source_is_returned_as_it_is(
    weight: float, draw: Callable[..., Tensor]
) -> None:
    stack = draw((1, 500))
    assert torch.allclose(linear(stack, weight=(weight,)), stack[0], rtol=1e-6)


def test_one_source_of_weight_one_is_returned_to_the_last_bit(
    draw: Callable[..., Tensor],
) -> None:
    stack = draw((1, 500))
    assert torch.equal(linear(stack), stack[0])


def test_the_average_stays_between_the_sources(draw: Callable[..., Tensor]) -> None:
    stack = draw((3, 500), dtype=torch.float64)
    merged = linear(stack, weight=(0.2, 0.5, 0.3))
    slack = 1e-12
    assert (merged >= stack.amin(0) - slack).all()
    assert (merged <= stack.amax(0) + slack).all()


@pytest.mark.parametrize("weight", [(0.0, 0.0), (1.0, -1.0)])
def test_weights_that_add_up_to_zero_cannot_be_normalised(weight: tuple[float, ...]) -> None:
    with pytest.raises(MergeError, match=r"weight: \[.*\] add up to 0; cannot normalize"):
        find_operator("linear").check(weight=weight, normalize=True)


def test_weights_that_add_up_to_zero_are_fine_without_normalising() -> None:
    merged = linear(torch.tensor([[3.0], [1.0]]), weight=(1.0, -1.0), normalize=False)
    assert merged.tolist() == [2.0]


def test_a_weight_too_few_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        linear(torch.ones(3, 2), weight=(1.0, 1.0))

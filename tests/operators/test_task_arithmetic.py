"""Task arithmetic adds up task vectors, as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.linear import linear
from evomerge.operators.task_arithmetic import task_arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TOY = torch.tensor([[4.0, -1.0, 0.5, -3.0], [2.0, 3.0, -0.2, -1.0]])
numbers = st.floats(-10, 10)


def _published(deltas: list[list[float]], weight: list[float], scale: float) -> list[float]:
    """Section 2, entry by entry."""
    return [
        scale * sum(w * entry for w, entry in zip(weight, entries, strict=True))
        for entries in zip(*deltas, strict=True)
    ]


def test_the_toy_of_the_specification_comes_out() -> None:
    """methods.md 4.1."""
    merged = task_arithmetic(TOY, weight=(1.0, 1.0), scale=0.5)
    assert merged.tolist() == pytest.approx([3, 1, 0.15, -2])


def test_scale_zero_gives_the_base() -> None:
    assert task_arithmetic(TOY, weight=(1.0, 1.0), scale=0.0).count_nonzero() == 0


def test_one_source_of_weight_one_gives_its_task_vector(draw: Callable[..., Tensor]) -> None:
    deltas = draw((1, 500))
    assert torch.equal(task_arithmetic(deltas, weight=(1.0,)), deltas[0])


def test_the_result_is_linear_in_the_scale(draw: Callable[..., Tensor]) -> None:
    deltas = draw((3, 50), dtype=torch.float64)
    weight = (0.5, 0.2, -0.4)
    whole, part, rest = (
        task_arithmetic(deltas, weight=weight, scale=scale) for scale in (1.5, 0.4, 1.1)
    )
    assert torch.allclose(whole, part + rest)


def test_the_result_is_linear_in_each_weight(draw: Callable[..., Tensor]) -> None:
    deltas = draw((2, 50), dtype=torch.float64)
    whole, part, rest = (
        task_arithmetic(deltas, weight=weight) for weight in ((0.5, 0.9), (0.5, 0.7), (0.0, 0.2))
    )
    assert torch.allclose(whole, part + rest)


def test_averaged_task_vectors_are_the_average_of_the_models(draw: Callable[..., Tensor]) -> None:
    models = draw((3, 50), dtype=torch.float64)
    for seed in (1, 2):
        base = draw((50,), seed=seed, dtype=torch.float64)
        merged = base + task_arithmetic(models - base, weight=(1 / 3,) * 3)
        assert torch.allclose(merged, linear(models, weight=(1.0,) * 3))


def test_a_negative_weight_forgets() -> None:
    assert task_arithmetic(TOY, weight=(-1.0, 0.0)).tolist() == pytest.approx([-4, 1, -0.5, 3])


def test_normalising_divides_by_the_sum_of_the_weights() -> None:
    merged = task_arithmetic(TOY, weight=(0.5, 1.5), normalize=True)
    assert merged.tolist() == pytest.approx([2.5, 2.0, -0.025, -1.5])


def test_normalising_leaves_weights_alone_that_add_up_to_zero() -> None:
    merged = task_arithmetic(TOY, weight=(1.0, -1.0), normalize=True)
    assert merged.tolist() == pytest.approx([2, -4, 0.7, -2])


@given(
    data=st.data(),
    sources=st.integers(1, 5),
    size=st.integers(1, 20),
    scale=numbers,
)
@settings(max_examples=60)
def test_it_is_what_the_paper_says(
    data: st.DataObject, sources: int, size: int, scale: float
) -> None:
    row = st.lists(numbers, min_size=size, max_size=size)
    deltas = data.draw(st.lists(row, min_size=sources, max_size=sources))
    weight = data.draw(st.lists(numbers, min_size=sources, max_size=sources))
    merged = task_arithmetic(
        torch.tensor(deltas, dtype=torch.float64), weight=tuple(weight), scale=scale
    )
    assert merged.tolist() == pytest.approx(_published(deltas, weight, scale), abs=1e-11)

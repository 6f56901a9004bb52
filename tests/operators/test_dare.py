"""DARE thins task vectors with masks of its own, then merges them as its namesakes do."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

both = pytest.mark.parametrize("dare", ["dare_linear", "dare_ties"])
merge = functools.partial(operating.merge, scale=1.0)


def _published(
    deltas: list[list[float]], weight: list[float], density: list[float]
) -> list[float]:
    """Section 3.2 of the paper and a weighted sum, entry by entry, with the engine's masks."""
    merged = [0.0] * len(deltas[0])
    for row, (delta, w, d) in enumerate(zip(deltas, weight, density, strict=True)):
        chances = draws(0, "tensor", "layer", str(row)).coarse((len(delta),)).tolist()
        for index, (entry, chance) in enumerate(zip(delta, chances, strict=True)):
            if d == 1 or chance < d:
                merged[index] += w * entry / d
    return merged


@given(data=st.data(), sources=st.integers(1, 4), size=st.integers(1, 20))
@settings(max_examples=60)
def test_dare_linear_is_what_the_paper_says(data: st.DataObject, sources: int, size: int) -> None:
    per_source = {"min_size": sources, "max_size": sources}
    weight = data.draw(st.lists(st.floats(-2, 2), **per_source))
    # A chance is a multiple of 2^-24: a density between two of them would be a matter of rounding.
    density = data.draw(st.lists(st.integers(1, 64).map(lambda n: n / 64), **per_source))
    row = st.lists(st.floats(-10, 10), min_size=size, max_size=size)
    deltas = data.draw(st.lists(row, **per_source))
    stack = torch.tensor(deltas, dtype=torch.float64)
    merged = merge("dare_linear", stack, weight=weight, density=density)
    assert merged.tolist() == pytest.approx(_published(deltas, weight, density), abs=1e-9)


@pytest.mark.parametrize(
    ("dare", "plain"),
    [("dare_linear", "task_arithmetic"), ("dare_ties", "ties")],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_density_one_is_the_same_merge_without_dropping(
    dare: str,
    plain: str,
    normalize: bool,
    draw: Callable[..., Tensor],
) -> None:
    deltas = draw((3, 200))
    settings: dict[str, Any] = {"weight": (0.5, 0.3, 0.9), "normalize": normalize, "scale": 0.7}
    dropped = operating.merge(dare, deltas, density=1.0, **settings)
    whole = {"density": 1.0} if plain == "ties" else {}
    assert torch.equal(dropped, operating.merge(plain, deltas, **settings, **whole))


@both
def test_density_below_one_drops_something(dare: str, draw: Callable[..., Tensor]) -> None:
    merged = merge(dare, draw((1, 200)), weight=1.0, density=0.5)
    assert 0 < merged.count_nonzero() < 200


@both
def test_each_source_is_thinned_by_numbers_of_its_own(
    dare: str, draw: Callable[..., Tensor]
) -> None:
    deltas = draw((1, 200)).repeat(2, 1)
    first = merge(dare, deltas, weight=(1.0, 0.0), density=0.5)
    second = merge(dare, deltas, weight=(0.0, 1.0), density=0.5)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [1, 20, 1000])
def test_dare_linear_averages_to_the_plain_sum_over_seeds(
    size: int, draw: Callable[..., Tensor]
) -> None:
    deltas, seeds = draw((2, size), dtype=torch.float64), 1500
    total = torch.zeros(size, dtype=torch.float64)
    for seed in range(seeds):
        total += merge("dare_linear", deltas, weight=1.0, density=0.5, seed=seed)
    # At density 1/2 an entry's variance is its square.
    error = deltas.square().sum(0).div(seeds).sqrt()
    assert ((total / seeds - deltas.sum(0)).abs() <= 5 * error).all()

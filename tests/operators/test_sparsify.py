"""Trimming keeps the largest entries, dropping keeps random ones, both as many as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.randomness import generator
from evomerge.operators.sparsify import drop, rescale_kept, trim

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.operators.sparsify import Rescale

DRAWS = 10_000
quick = settings(max_examples=100)


@given(size=st.integers(1, 300), density=st.floats(0, 1, exclude_max=True))
@quick
def test_trimming_keeps_the_density_on_every_size(
    size: int, density: float, draw: Callable[..., Tensor]
) -> None:
    kept = trim(draw((size,)), density).count_nonzero()
    assert kept == (max(1, int(density * size)) if density > 0 else 0)


@pytest.mark.parametrize("size", [1, 2, 99, 100, 101])
def test_trimming_to_density_one_returns_the_task_vector(
    size: int, draw: Callable[..., Tensor]
) -> None:
    delta = draw((size,))
    assert torch.equal(trim(delta, 1.0), delta)


def test_trimming_keeps_the_largest_entries() -> None:
    trimmed = trim(torch.tensor([4.0, -1.0, 0.5, -3.0]), 0.5)
    assert trimmed.tolist() == [4.0, 0.0, 0.0, -3.0]


@given(
    values=st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0]), min_size=1, max_size=300),
    density=st.floats(0.01, 0.99),
)
@quick
def test_of_equal_magnitudes_trimming_keeps_those_that_mergekit_keeps(
    values: list[float], density: float
) -> None:
    delta = torch.tensor(values)
    kept = max(1, int(density * len(values)))
    expected = torch.zeros(len(values))
    mask = delta.abs().argsort(descending=True)[:kept]
    expected[mask] = delta[mask]
    assert torch.equal(trim(delta, density), expected)


def test_of_equal_magnitudes_a_large_bfloat16_task_vector_keeps_those_that_mergekit_keeps(
    draw: Callable[..., Tensor],
) -> None:
    delta = draw((150, 300), dtype=torch.float32).bfloat16().float()
    mask = torch.zeros(delta.numel())
    mask[delta.abs().reshape(-1).argsort(descending=True)[: int(0.3 * delta.numel())]] = 1
    assert torch.equal(trim(delta, 0.3), delta * mask.reshape(delta.shape))


def test_trimming_does_not_hide_an_entry_that_is_no_number() -> None:
    assert trim(torch.tensor([1.0, torch.nan, 3.0, 2.0]), 0.25).isnan().any()


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [
        ("density", [8.0, 0.0, 0.0, -6.0]),
        ("norm", [4 * 8.5 / 7, 0.0, 0.0, -3 * 8.5 / 7]),
        ("none", [4.0, 0.0, 0.0, -3.0]),
    ],
)
def test_kept_entries_make_up_for_the_dropped_ones(
    rescale: Rescale, expected: list[float]
) -> None:
    """methods.md 4.3: p = 0.5 keeping elements 1 and 4 of the toy gives (8, 0, 0, -6)."""
    delta = torch.tensor([4.0, -1.0, 0.5, -3.0])
    mask = torch.tensor([True, False, False, True])
    assert rescale_kept(delta, mask, 0.5, rescale).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [20, 1000, 100_000])
def test_rescaling_to_the_norm_restores_the_sum_of_magnitudes(
    size: int, draw: Callable[..., Tensor]
) -> None:
    delta = draw((size,), dtype=torch.float64)
    dropped = drop(delta, 0.3, "norm", generator(0, "mask"))
    assert dropped.count_nonzero() < size
    assert dropped.abs().sum().item() == pytest.approx(delta.abs().sum().item())


def test_nothing_kept_is_not_rescaled_to_the_norm() -> None:
    assert drop(torch.ones(20), 0.0, "norm", generator(0, "mask")).tolist() == [0.0] * 20


@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_density_one_drops_nothing_and_draws_nothing(
    rescale: Rescale, draw: Callable[..., Tensor]
) -> None:
    delta, rng = draw((50,)), generator(0, "mask")
    before = rng.get_state()
    assert torch.equal(drop(delta, 1.0, rescale, rng), delta)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_density_zero_drops_everything(rescale: Rescale, draw: Callable[..., Tensor]) -> None:
    assert drop(draw((50,)), 0.0, rescale, generator(0, "mask")).count_nonzero() == 0


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dropping_keeps_the_density_on_average(density: float) -> None:
    kept = drop(torch.ones(100_000), density, "none", generator(0, "mask")).sum().item()
    # Four standard deviations of a binomial.
    assert abs(kept - 100_000 * density) < 4 * (100_000 * density * (1 - density)) ** 0.5


@pytest.mark.parametrize("density", [0.3, 0.9])
def test_dropping_is_unbiased_and_has_the_variance_of_the_paper(density: float) -> None:
    """methods.md 4.3: the mean over draws is the task vector, the variance d^2 p / (1 - p)."""
    delta = torch.tensor([4.0, -1.0, 0.5, -3.0], dtype=torch.float64)
    # Every row draws its own mask: one tensor of many copies is as good as many seeds.
    dropped = drop(delta.repeat(DRAWS, 1), density, "density", generator(0, "mask"))
    variance = delta.square() * (1 - density) / density
    assert ((dropped.mean(0) - delta).abs() < 4 * (variance / DRAWS).sqrt()).all()
    assert torch.allclose(dropped.var(0), variance, rtol=0.1)


@pytest.mark.parametrize("size", [1, 20, 1000])
def test_dropping_is_unbiased_over_seeds_on_every_size(
    size: int, draw: Callable[..., Tensor]
) -> None:
    delta, density, seeds = draw((size,), dtype=torch.float64), 0.5, 2000
    total = torch.zeros_like(delta)
    for seed in range(seeds):
        total += drop(delta, density, "density", generator(seed, "mask"))
    error = (delta * ((1 - density) / density / seeds) ** 0.5).abs()
    assert ((total / seeds - delta).abs() <= 5 * error).all()

"""Trimming keeps the largest entries, dropping keeps random ones, both as many as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators import sparsify
from evomerge.operators.chunks import Chunks
from evomerge.operators.measure import take_measure
from evomerge.operators.randomness import draws
from evomerge.operators.sparsify import drop, drop_factor, norm_factor, trim_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.operators.randomness import Draws
    from evomerge.operators.sparsify import Rescale

DRAWS = 10_000
MASK = draws(0, "tensor", "layer", "source")
quick = settings(max_examples=100)


def trim(delta: Tensor, density: float) -> Tensor:
    """Measure the threshold, then trim."""
    least = take_measure(trim_threshold, delta[None], {"density": (density,)})
    return sparsify.trim(delta, least[0])


def rescaled(delta: Tensor, density: float, rescale: Rescale, own: Draws = MASK) -> Tensor:
    """Drop, then make up for it."""
    return drop(delta, density, own) * factor(delta, density, rescale, own)


def factor(delta: Tensor, density: float, rescale: Rescale, own: Draws = MASK) -> Tensor:
    """What makes up for dropped entries."""
    arguments = {"density": (density,), "rescale": rescale, "draws": [own]}
    return take_measure(drop_factor, delta[None], arguments)[0]


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
def test_of_equal_magnitudes_trimming_keeps_all_or_none(
    values: list[float], density: float
) -> None:
    delta = torch.tensor(values)
    least = sorted(map(abs, values), reverse=True)[max(1, int(density * len(values))) - 1]
    assert trim(delta, density).tolist() == [v if abs(v) >= least else 0.0 for v in values]


def test_trimming_does_not_hide_an_entry_that_is_no_number() -> None:
    assert trim(torch.tensor([1.0, torch.nan, 3.0, 2.0]), 0.25).isnan().any()


def test_the_norm_is_restored_by_one_factor() -> None:
    delta, kept = torch.tensor([4.0, -1.0, 0.5, -3.0]), torch.tensor([4.0, 0.0, 0.0, -3.0])
    whole = Chunks(delta, None, delta.dtype)
    assert norm_factor(whole, MASK, lambda *_: kept) == pytest.approx(8.5 / 7)


def test_dividing_by_the_density_makes_up_for_what_is_dropped_on_average() -> None:
    assert factor(torch.ones(4), 0.5, "density").item() == 2


@pytest.mark.parametrize("size", [20, 1000, 100_000])
def test_rescaling_to_the_norm_restores_the_sum_of_magnitudes(
    size: int, draw: Callable[..., Tensor]
) -> None:
    delta = draw((size,), dtype=torch.float64)
    dropped = rescaled(delta, 0.3, "norm")
    assert dropped.count_nonzero() < size
    assert dropped.abs().sum().item() == pytest.approx(delta.abs().sum().item())


def test_nothing_kept_is_not_rescaled_to_the_norm() -> None:
    assert rescaled(torch.ones(20), 0.0, "norm").tolist() == [0.0] * 20


@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_density_one_drops_nothing(rescale: Rescale, draw: Callable[..., Tensor]) -> None:
    delta = draw((50,))
    assert torch.equal(rescaled(delta, 1.0, rescale), delta)


@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_density_zero_drops_everything(rescale: Rescale, draw: Callable[..., Tensor]) -> None:
    assert rescaled(draw((50,)), 0.0, rescale).count_nonzero() == 0


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dropping_keeps_the_density_on_average(density: float) -> None:
    kept = drop(torch.ones(100_000), density, MASK).sum().item()
    # Four standard deviations of a binomial.
    assert abs(kept - 100_000 * density) < 4 * (100_000 * density * (1 - density)) ** 0.5


@pytest.mark.parametrize("density", [0.3, 0.9])
def test_dropping_is_unbiased_and_has_the_variance_of_the_paper(density: float) -> None:
    """The mean over draws is the task vector, the variance d^2 p / (1 - p)."""
    delta = torch.tensor([4.0, -1.0, 0.5, -3.0], dtype=torch.float64)
    # Every row draws its own mask: one tensor of many copies is as good as many seeds.
    dropped = rescaled(delta.repeat(DRAWS, 1), density, "density")
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
        total += rescaled(delta, density, "density", draws(seed, "t", "l", "s"))
    error = (delta * ((1 - density) / density / seeds) ** 0.5).abs()
    assert ((total / seeds - delta).abs() <= 5 * error).all()

"""Noise is normal, as large as it says in units of the task vector, and each source's own."""

from __future__ import annotations

import math

import operating
import pytest
import torch

from evomerge.operators.randomness import draws

SIZE = 100_000


def test_the_root_mean_square_is_that_of_the_tensor() -> None:
    assert operating.measured("gaussian_noise", [[3, 4, 0, 0]]).tolist() == [2.5]


def test_the_root_mean_square_of_many_entries_is_added_up_in_float64() -> None:
    delta = torch.full((1, 3_000_001), 1e-3)
    measured = operating.measured("gaussian_noise", delta)
    assert measured.item() == pytest.approx(1e-3, rel=1e-7)


@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_noise_has_the_strength_that_it_says(size: float) -> None:
    delta = torch.full((1, SIZE), size, dtype=torch.float64)
    noise = operating.merge("gaussian_noise", delta, weight=1, strength=0.3)[None] - delta
    slack = 4 / math.sqrt(SIZE)
    assert noise.mean().item() == pytest.approx(0, abs=slack * 0.3 * size)
    assert noise.std().item() == pytest.approx(0.3 * size, rel=slack)


def test_noise_is_added_entry_by_entry_and_then_weighed() -> None:
    deltas = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    own = [draws(0, "tensor", "layer", str(row)).normal((2,)).double() for row in range(2)]
    sizes = [math.sqrt(12.5), math.sqrt(2)]
    expected = sum(
        weight * (delta + 0.5 * size * noise)
        for weight, delta, size, noise in zip([0.3, 0.6], deltas, sizes, own, strict=True)
    )
    merged = operating.merge("gaussian_noise", deltas, weight=[0.3, 0.6], strength=0.5)
    assert torch.allclose(merged, torch.as_tensor(expected))

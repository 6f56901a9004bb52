"""LiNeS scales layers by depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

COEFFICIENTS = {"weight": (0.5, 1.0), "alpha": 0.25, "beta": 0.5}


@pytest.mark.parametrize("layers", [2, 3, 7])
def test_the_factor_is_linear_in_the_layer(layers: int, draw: Callable[..., Tensor]) -> None:
    deltas = draw((2, 20), dtype=torch.float64)
    total = 0.5 * deltas[0] + deltas[1]
    for layer in range(layers):
        depth = torch.tensor(layer / (layers - 1), dtype=torch.float64)
        merged = operating.merge("lines", deltas, depth=depth, **COEFFICIENTS)
        assert torch.allclose(merged, total * (0.25 + 0.5 * layer / (layers - 1)))


def test_without_a_slope_it_is_task_arithmetic(draw: Callable[..., Tensor]) -> None:
    deltas = draw((2, 20))
    merged = operating.merge("lines", deltas, weight=0.5, alpha=0.7, beta=0.0)
    assert torch.equal(merged, operating.merge("task_arithmetic", deltas, weight=0.5, scale=0.7))

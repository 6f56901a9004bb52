"""Ways to keep a fraction of a task vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.operators.accumulate import absolute_sum
from evomerge.operators.measure import measure
from evomerge.operators.randomness import Draws
from evomerge.operators.select import order_statistic

Rescale = Literal["density", "norm", "none"]


@measure("source")
def trim_threshold(delta: Tensor, *, density: float) -> Tensor:
    """The least magnitude that `trim` keeps, shape `()`."""
    if density >= 1 or delta.numel() == 0:
        return delta.new_zeros(())
    if density <= 0:
        return delta.new_tensor(torch.inf)
    kept = max(1, int(density * delta.numel()))
    return order_statistic([delta.abs()], delta.numel() - kept)


def trim(delta: Tensor, threshold: Tensor) -> Tensor:
    """Keep the entries of largest magnitude (TIES, section 4, step 1).

    Entries as large as the smallest one kept are kept too, so that the result does not depend on
    an order among equals.

    Args:
        delta: Task vector of one parameter, any shape.
        threshold: The least magnitude kept, see `trim_threshold`.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    # Written so that an entry that is no number is kept, and found out later.
    return torch.where(delta.abs() < threshold, 0.0, delta)


@measure("source")
def drop_factor(delta: Tensor, *, density: float, rescale: Rescale, draws: Draws) -> Tensor:
    """What makes up for the entries that `drop` takes away, shape `()` (DARE, section 3.2).

    Args:
        delta: Task vector of one parameter, any shape.
        density: Chance of an entry to be kept, in [0, 1].
        rescale: `density` divides by the density (the paper), `norm` restores the L1 norm
            (mergekit's default), `none` does nothing.
        draws: Draws the mask.
    """
    if rescale == "none" or density <= 0 or density >= 1:
        return delta.new_ones(())
    if rescale == "density":
        return delta.new_tensor(1 / density)
    return norm_factor(delta, drop(delta, density, draws))


def drop(delta: Tensor, density: float | Tensor, draws: Draws) -> Tensor:
    """Keep entries at random (DARE, section 3.2).

    Args:
        delta: Task vector of one parameter, any shape.
        density: Chance of an entry to be kept, in [0, 1].
        draws: Draws the mask.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    return torch.where(draws.uniform(delta.shape) < density, delta, 0.0)


def norm_factor(delta: Tensor, kept: Tensor) -> Tensor:
    """What gives the entries kept the L1 norm of all, shape `()`; 1 if either norm is near 0."""
    before, after = absolute_sum(delta), absolute_sum(kept)
    return delta.new_tensor(before / after if min(before, after) >= 1e-7 else 1.0)

"""Ways to keep a fraction of a task vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["density", "norm", "none"]


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the entries of largest magnitude (TIES, section 4, step 1).

    Args:
        delta: Task vector of one parameter, any shape.
        density: Fraction kept, in [0, 1]; at least one entry is kept unless it is 0.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    if density >= 1 or delta.numel() == 0:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    kept = max(1, int(density * delta.numel()))
    magnitude = delta.abs().reshape(-1)
    threshold = magnitude.kthvalue(delta.numel() - kept + 1).values
    mask = magnitude >= threshold
    if int(mask.count_nonzero()) > kept:
        # Equal magnitudes straddle the cut. mergekit keeps those that this very call puts first;
        # so do we, because an exported recipe must rebuild the same model there.
        mask.zero_()[magnitude.argsort(descending=True)[:kept]] = True
    return delta * mask.reshape(delta.shape)


def drop(delta: Tensor, density: float, rescale: Rescale, rng: torch.Generator) -> Tensor:
    """Keep entries at random and scale up what is left (DARE, section 3.2).

    Args:
        delta: Task vector of one parameter, any shape.
        density: Chance of an entry to be kept, in [0, 1].
        rescale: `density` divides by the density (the paper), `norm` restores the L1 norm
            (mergekit's default), `none` does nothing.
        rng: Draws the mask.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    if density >= 1:
        return delta
    mask = torch.rand(delta.shape, generator=rng, dtype=torch.float32) < density
    return rescale_kept(delta, mask, density, rescale)


def rescale_kept(delta: Tensor, mask: Tensor, density: float, rescale: Rescale) -> Tensor:
    """Apply a mask and make up for what it takes away; see `drop`."""
    kept = delta * mask
    if rescale == "density" and density > 0:
        return kept / density
    if rescale == "norm":
        before, after = _absolute_sum(delta), _absolute_sum(kept)
        if min(before, after) >= 1e-7:
            return kept * (before / after)
    return kept


def _absolute_sum(tensor: Tensor) -> float:
    # Rows are summed by one thread each, so the result does not depend on their number.
    rows = torch.split(tensor.abs().reshape(-1), 32_768)
    return sum(float(row.sum(dtype=torch.float64)) for row in rows)

"""Karcher mean of models: the point of a sphere nearest to all of their directions.

Grove and Karcher, "How to conjugate C1-close group actions", 1973; iterated and stopped as in
mergekit (Goddard et al., "Arcee's MergeKit", 2024, https://arxiv.org/abs/2403.13257). Every point
on the way is a sum of the sources, so the inner products of the sources are all it takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.arc import cosines
from evomerge.operators.inner_products import inner_products
from evomerge.operators.measure import measure
from evomerge.operators.registry import operator

STEPS = 10
"""Most steps taken."""

TOLERANCE = 1e-5
"""Step, in radians, that is not worth taking; also the norm below which a tensor is no vector."""


@measure("tensor")
def karcher_shares(stack: Tensor) -> Tensor:
    """How much of each source is in the mean, shape `(M,)`, float64.

    Args:
        stack: One parameter of every source, shape `(M, *S)`.
    """
    if len(stack) == 1:
        # Even next to zero, and to the last bit.
        return torch.ones(1, dtype=torch.float64)
    gram = inner_products(stack.reshape(len(stack), 1, -1))[0]
    norms = gram.diagonal().sqrt()
    pointing = norms > TOLERANCE
    shares = torch.zeros_like(norms)
    if pointing.any():
        directions = _mean_direction(cosines(gram[pointing][:, pointing]))
        shares[pointing] = directions / norms[pointing] * norms.mean()
    return shares


@operator(space="weight", elementwise=True, measure=karcher_shares)
def karcher(tensors: Tensor, *, measured: Tensor) -> Tensor:
    """Take the mean of the sources' directions on the sphere, at the mean of their lengths.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        measured: How much of each source is in the mean, shape `(M,)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`. Tensors next to zero shorten it and do not turn it.
    """
    parts = measured.to(tensors[0].dtype)
    return add_up((row * part for row, part in zip(tensors, parts, strict=True)), tensors[0])


def _mean_direction(cosine: Tensor) -> Tensor:
    """How much of each unit vector is in the mean of their directions, shape `(M,)`."""
    count = len(cosine)
    mean = torch.full((count,), 1 / count, dtype=cosine.dtype)
    if _length(mean, cosine) < TOLERANCE:
        # They cancel out: no direction is nearer than others, so start anywhere.
        mean = torch.eye(count, dtype=cosine.dtype)[0]
    mean = mean / _length(mean, cosine)
    for _ in range(STEPS):
        towards = (cosine @ mean).clamp(-1, 1)
        angles = torch.acos(towards)
        # An angle over its sine is 1 at zero; opposite the mean no way is the shortest.
        stretch = torch.where(angles.sin() < TOLERANCE, 1.0, angles / angles.sin()) / count
        tangent = stretch - (stretch * towards).sum() * mean
        step = _length(tangent, cosine)
        if step < TOLERANCE:
            break
        mean = step.cos() * mean + step.sin() / step * tangent
        mean = mean / _length(mean, cosine)
    return mean


def _length(shares: Tensor, cosine: Tensor) -> Tensor:
    return (shares @ cosine @ shares).clamp(min=0).sqrt()

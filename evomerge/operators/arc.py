"""Angles between two vectors, and the way along the arc from one to the other.

Shoemake, "Animating rotation with quaternion curves", 1985, section 3.3, of vectors that keep
their lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cosines(gram: Tensor) -> Tensor:
    """Cosines of the angles between vectors, in [-1, 1].

    Args:
        gram: Inner products of M vectors, shape `(..., M, M)`.

    Returns:
        The shape of `gram`. Vectors next to zero are at a right angle to all, as in mergekit.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    norms = torch.where(norms <= 1e-8, 1.0, norms)
    return (gram / norms[..., None] / norms[..., None, :]).clamp(-1, 1)


def arc_shares(gram: Tensor, t: Tensor, nearly_parallel: float) -> Tensor:
    """How much of each of two vectors is in the point that divides the arc between them.

    Args:
        gram: Inner products of both, shape `(..., 2, 2)`.
        t: How far the point is: 0 the first vector, 1 the second; shape `()`.
        nearly_parallel: Above this cosine, of either sign, the point is on the straight line.

    Returns:
        Shape `(..., 2)`.
    """
    cosine = cosines(gram)[..., 0, 1]
    straight = cosine.abs() > nearly_parallel
    angle = torch.acos(torch.where(straight, 0.0, cosine))[..., None]
    way = torch.stack([1 - t, t])
    return torch.where(straight[..., None], way, torch.sin(way * angle) / torch.sin(angle))

"""Inner products of the sources: all that their norms and angles depend on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.operators.measure import measure

CHUNK = 32_768
"""Entries that torch adds up in one thread, so that their number does not change a sum."""

Around = Literal["base", "origin"]
"""What angles and norms are measured from: the base model or the tensor of zeros."""


@measure("tensor")
def gram_of_sources(stack: Tensor) -> Tensor:
    """Inner products of the sources' tensors, shape `(M, M)`, float64.

    Args:
        stack: One parameter of every source, shape `(M, *S)`.
    """
    return inner_products(stack.reshape(len(stack), 1, -1))[0]


@measure("tensor")
def gram_around(stack: Tensor, *, around: Around, base: Tensor) -> Tensor:
    """Inner products of the sources' tensors seen from elsewhere, shape `(M, M)`, float64.

    Args:
        stack: One parameter of every source, shape `(M, *S)`.
        around: What they are seen from.
        base: The base model's tensor, shape `(*S,)`.
    """
    origin = base.reshape(1, -1) if around == "base" else None
    return inner_products(stack.reshape(len(stack), 1, -1), origin)[0]


def inner_products(vectors: Tensor, origin: Tensor | None = None) -> Tensor:
    """Inner products of the sources' vectors, in float64 and in a fixed order.

    Args:
        vectors: n vectors of every source, shape `(M, n, length)`.
        origin: What the vectors are seen from, shape `(n, length)`; zeros if absent.

    Returns:
        Shape `(n, M, M)`.
    """
    sources, count, length = vectors.shape
    found = vectors.new_zeros((sources, sources, count), dtype=torch.float64)
    step = max(1, CHUNK // max(1, length))
    for first in range(0, count, step):
        rows = slice(first, first + step)
        for start in range(0, length, CHUNK):
            entries = slice(start, start + CHUNK)
            part = vectors[:, rows, entries]
            if origin is not None:
                part = part - origin[rows, entries]
            # Sums over rows that do not lie in one piece depend on the number of threads.
            part = part.double().contiguous()
            for a in range(sources):
                for b in range(a + 1):
                    found[a, b, rows] += (part[a] * part[b]).sum(-1)
    lower = found.movedim(2, 0)
    return lower + lower.tril(-1).mT

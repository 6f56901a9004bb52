"""Inner products of the sources: all that their norms and angles depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from evomerge.operators.chunks import Chunks
from evomerge.operators.measure import measure
from evomerge.operators.spectral import one_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK = 32_768
"""Entries that torch adds up in one thread, so that their number does not change a sum."""

LONG = 1 << 17
"""Entries that a matrix product adds up in one thread."""

Around = Literal["base", "origin"]
"""What angles and norms are measured from: the base model or the tensor of zeros."""


@measure("streams")
def gram_of_sources(sources: Sequence[Chunks]) -> Tensor:
    """Inner products of the sources' tensors, shape `(M, M)`, float64.

    Args:
        sources: One parameter of every source.
    """
    found = torch.zeros(len(sources), len(sources), dtype=torch.float64)
    room = torch.empty(len(sources), LONG, dtype=torch.float64)
    for parts in zip(*(source.pieces(LONG) for source in sources), strict=True):
        vectors = room[:, : parts[0].numel()]
        for vector, part in zip(vectors, parts, strict=True):
            vector.copy_(part)
        with one_thread():
            found += vectors @ vectors.mT
    return found.tril() + found.tril(-1).mT


@measure("streams")
def gram_around(sources: Sequence[Chunks], *, around: Around, base: Tensor) -> Tensor:
    """Inner products of the sources' tensors seen from elsewhere, shape `(M, M)`, float64.

    Args:
        sources: One parameter of every source.
        around: What they are seen from.
        base: The base model's tensor, shape `(*S,)`.
    """
    origin = base if around == "base" else None
    seen = [Chunks(source.source, origin, source.dtype) for source in sources]
    return gram_of_sources.function(seen)


def inner_products(vectors: Tensor) -> Tensor:
    """Inner products of the sources' vectors, in float64 and in a fixed order.

    Args:
        vectors: n vectors of every source, shape `(M, n, length)`.

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
            # Sums over rows that do not lie in one piece depend on the number of threads.
            part = vectors[:, rows, entries].double().contiguous()
            for a in range(sources):
                for b in range(a + 1):
                    found[a, b, rows] += (part[a] * part[b]).sum(-1)
    lower = found.movedim(2, 0)
    return lower + lower.tril(-1).mT

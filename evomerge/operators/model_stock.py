"""Model Stock: follow the average of models as far as the angle between them allows.

Jang et al., "Model Stock: All we need is just a few fine-tuned models", 2024,
https://arxiv.org/abs/2403.19522, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.operators.axes import as_vectors, from_vectors
from evomerge.operators.combination import combination
from evomerge.operators.inner_products import gram_of_sources, inner_products
from evomerge.operators.registry import operator


@operator(space="delta", elementwise=True, sources=(2, None), measure=gram_of_sources)
def model_stock(deltas: Tensor, *, measured: Tensor) -> Tensor:
    """Shrink the average task vector by how much the task vectors differ in direction.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        measured: Inner products of the task vectors, shape `(M, M)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`: the average of parallel task
        vectors, 0 for those at right angles, pointing away from the average beyond.
    """
    return _model_stock(deltas, measured)


@operator(space="delta", sources=(2, None))
def model_stock_rows(deltas: Tensor) -> Tensor:
    """Shrink the average of each row by how much the rows differ in direction.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point. Rows run along the
            last axis; a tensor of one dimension is one row.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    lines = as_vectors(deltas, "rows")
    shares = _shares(inner_products(lines)).to(deltas.dtype)
    merged = torch.zeros_like(lines[0])
    for line, share in zip(lines, shares.unbind(-1), strict=True):
        merged += line * share[:, None]
    return from_vectors(merged, tuple(deltas.shape[1:]), "rows")


@combination
def _model_stock(gram: Tensor) -> Tensor:
    return _shares(gram)


def _shares(gram: Tensor) -> Tensor:
    """The share of each task vector, shape `(..., M)`, from inner products `(..., M, M)`."""
    count = gram.shape[-1]
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    # As in mergekit: task vectors next to zero are at a right angle to all.
    floored = (norms[..., None] * norms[..., None, :]).clamp(min=1e-6)
    pairs = (gram / floored).clamp(-1, 1).tril(-1)
    cosine = pairs.sum((-2, -1)) / (count * (count - 1) / 2)
    below = 1 + (count - 1) * cosine
    ratio = torch.where(below.abs() < 1e-6, 0.0, count * cosine / below)
    return (ratio / count)[..., None].expand(*ratio.shape, count).clone()

"""Arcee Fusion: take from the second model the entries that matter most.

mergekit's `arcee_fusion` (Goddard et al., "Meet MergeKit v0.1", 2025,
https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration).
An entry's importance is its change times how much the softmax of its row changed; quartiles of all
entries decide, where mergekit reads them off a random sample of tensors over a million entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.operators.axes import as_vectors
from evomerge.operators.inner_products import CHUNK
from evomerge.operators.registry import operator
from evomerge.operators.select import order_statistic

FLOOR = 1e-8
"""Added to probabilities, so that none is 0."""


@operator(space="weight", sources=(2, 2))
def arcee_fusion(tensors: Tensor) -> Tensor:
    """Replace the first source's entries by the second's where the change is important.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point. Rows run along
            the last axis; a tensor of one dimension is one row.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`. Replaced are the entries whose importance is at
        least the median of all plus 1.5 times the distance between their quartiles.
    """
    if tensors[0].numel() == 0:
        return tensors[0].clone()
    rows = as_vectors(tensors, "rows")
    first, second = rows.unbind()
    change = second - first
    importance = change.abs() * _divergence(rows)[:, None]
    low, median, high = (
        order_statistic([importance], int(part * (importance.numel() - 1)))
        for part in (0.25, 0.5, 0.75)
    )
    unimportant = importance < median + 1.5 * (high - low)
    # Entries that are no numbers are kept, or a broken source would pass unnoticed.
    kept = torch.where(unimportant, 0.0, change)
    return (first + kept).reshape(tensors.shape[1:])


def _divergence(rows: Tensor) -> Tensor:
    """How far the softmax of the second source's rows is from the first's, shape `(n,)`.

    Kullback and Leibler, 1951.
    """
    first, second = (rows.softmax(-1) + FLOOR).unbind()
    terms = second * (second / first).log()
    # Sums over longer parts of a single row depend on the number of threads.
    return torch.stack([part.sum(-1) for part in torch.split(terms, CHUNK, dim=-1)]).sum(0)

"""Merge the leading singular directions of task vectors, made orthogonal to each other.

Gargiulo et al., "Task singular vectors: reducing task interference in model merging", 2025,
https://arxiv.org/abs/2412.00081, section 4.2 (TSV-Merge).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Interval, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.spectral import (
    decompose,
    is_matrix,
    nearest_isometry,
    one_thread,
    weighted_mean,
)


@operator(space="delta")
def tsv_m(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    scale: Annotated[float, Interval(), Search(0.2, 2.0)] = 1.0,
) -> Tensor:
    """Add up the leading singular directions of each task vector, free of interference.

    Each of M matrices keeps an M-th of its singular directions, at least one; left directions of
    all sources are replaced by the nearest orthonormal ones, and so are right ones. What several
    sources share exactly is merged within what they span, where the paper's code fills up with
    arbitrary directions. Tensors that are not matrices are averaged.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Factor on each task vector before the merge, length M.
        scale: Factor on the merged task vector (alpha).

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: A matrix has NaN or infinite entries.
    """
    if not is_matrix(deltas):
        return weighted_mean(deltas, weight) * scale
    share = max(1, min(deltas.shape[1:]) // len(deltas))
    with one_thread():
        weighted = (delta * w for delta, w in zip(deltas, weight, strict=True))
        parts = [decompose(delta).first(share) for delta in weighted]
        left = nearest_isometry(torch.cat([part.left for part in parts], dim=1))
        right = nearest_isometry(torch.cat([part.right for part in parts]))
        values = torch.cat([part.values for part in parts])
        return (left * values) @ right * scale

"""Merge task vectors so that all their directions have the same strength.

Marczak et al., "No task left behind: isotropic model merging with common and task-specific
subspaces", 2025, https://arxiv.org/abs/2502.04959, sections 4.1 (Iso-C) and 4.2 (Iso-CTS).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Interval, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.spectral import (
    Decomposition,
    decompose,
    is_matrix,
    nearest_isometry,
    one_thread,
    weighted_mean,
)


@operator(space="delta")
def iso_c(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    scale: Annotated[float, Interval(), Search(0.2, 2.0)] = 1.0,
) -> Tensor:
    """Add up the task vectors and set the singular values of the sum to their mean.

    Directions that the sum does not have stay 0, and the mean is over those it has: elsewhere the
    result would be arbitrary. Tensors that are not matrices are averaged.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        scale: Factor on the merged task vector (alpha).

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: A matrix has NaN or infinite entries.
    """
    if not is_matrix(deltas):
        return weighted_mean(deltas, weight) * scale
    with one_thread():
        total = add_up((d * w for d, w in zip(deltas, weight, strict=True)), deltas[0])
        return _level([decompose(total)]) * scale


@operator(space="delta")
def iso_cts(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    common: Annotated[float, Interval(0.0, 1.0), Search(0.5, 1.0)] = 0.8,
    scale: Annotated[float, Interval(), Search(0.2, 2.0)] = 1.0,
) -> Tensor:
    """Level the leading directions of the sum together with directions of each source alone.

    The least singular directions of the sum make room for the same number of directions from each
    source, taken from what the source does outside of those that stay. Tensors that are not
    matrices are averaged.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        common: Fraction of directions that are the sum's, up to what divides evenly; 1 is `iso_c`.
        scale: Factor on the merged task vector (alpha).

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: A matrix has NaN or infinite entries.
    """
    if not is_matrix(deltas):
        return weighted_mean(deltas, weight) * scale
    most, sources = min(deltas.shape[1:]), len(deltas)
    own = min(most // sources, round((most - int(most * common)) / sources))
    with one_thread():
        weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
        shared = decompose(add_up(weighted, deltas[0])).first(most - sources * own)
        rests = (delta - shared.left @ (shared.left.T @ delta) for delta in weighted if own)
        return _level([shared, *(decompose(rest).first(own) for rest in rests)]) * scale


def _level(parts: list[Decomposition]) -> Tensor:
    """Make all directions orthonormal, and their singular values the mean of all."""
    left = nearest_isometry(torch.cat([part.left for part in parts], dim=1))
    right = nearest_isometry(torch.cat([part.right for part in parts]))
    values = torch.cat([part.values for part in parts])
    return left @ right * (values.sum() / max(1, len(values)))

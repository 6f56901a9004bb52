"""Task arithmetic that is careful in the layers that matter most to the base model.

FIM-Merging, 2026, https://arxiv.org/abs/2603.21705: a layer's importance is the mean diagonal
Fisher information of the base there times the squared norm of the task vector, and important
layers get small coefficients. The map from importance to coefficient is not published; the one
here is the simplest that falls from 1 to 0. The method takes the Fisher information from random
tokens, this operator from the recipe's texts of the base, which may be such.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Densities, Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import trim, trim_threshold
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected

Caution = Annotated[float, Interval(0.0, 1e6), Search(0.0, 4.0)]


@operator(space="delta", elementwise=True)
def fim(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    scale: Scale = 1.0,
    caution: Caution = 1.0,
    importance: Tensor,
) -> Tensor:
    """Add up the task vectors, each layer by a coefficient that falls with its importance.

    The coefficient is `1 / (1 + caution * r)`, where r is the layer's importance over the mean of
    all layers.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        scale: Factor on the merged task vector (lambda).
        caution: How fast the coefficient falls; 0 is task arithmetic.
        importance: Of the layers to each source, that of the tensor first, shape `(M, L)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    factors = _factors(importance, caution).to(deltas[0].dtype)
    weights = factors * torch.as_tensor(weight, dtype=factors.dtype)
    return add_weighted(deltas, list(weights), scale=scale, normalize=False)


@operator(space="delta", elementwise=True, measure=trim_threshold)
def fim_ties(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    density: Densities = (0.2,),  # noqa: ARG001 (is in the thresholds)
    scale: Scale = 1.0,
    caution: Caution = 1.0,
    importance: Tensor,
    measured: Tensor,
) -> Tensor:
    """Merge as `ties` does, each layer by a coefficient that falls with its importance.

    Takes and returns what `fim` does, and the fraction of entries that is kept of each task
    vector. Coefficients are not divided out again.
    """
    factors = _factors(importance, caution).to(deltas[0].dtype)
    trimmed = [
        trim(delta, least) * factor
        for delta, least, factor in zip(deltas, measured, factors, strict=True)
    ]
    return merge_elected(trimmed, weight, scale=scale, normalize=True)


def _factors(importance: Tensor, caution: float | Tensor) -> Tensor:
    """The coefficient of each source in the tensor's layer, shape `(M,)`, float64."""
    importance = importance.double()
    mean = importance.mean(dim=1)
    relative = importance[:, 0] / torch.where(mean > 0, mean, 1.0)
    return 1 / (1 + caution * relative)

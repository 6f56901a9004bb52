"""Weighted sum of task vectors.

Ilharco et al., "Editing models with task arithmetic", 2023, https://arxiv.org/abs/2212.04089,
section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Scale, Weights
from evomerge.operators.registry import operator

if TYPE_CHECKING:
    from collections.abc import Sequence


@operator(space="delta", elementwise=True)
def task_arithmetic(
    deltas: Tensor, *, weight: Weights, scale: Scale = 1.0, normalize: bool = False
) -> Tensor:
    """Add up the task vectors, each times its weight.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M; negative ones forget.
        scale: Factor on the merged task vector (lambda).
        normalize: Divide by the sum of the weights, if that is not zero.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    return add_weighted(deltas, weight, scale=scale, normalize=normalize)


def add_weighted(
    deltas: Tensor | Sequence[Tensor], weight: Weights, *, scale: float, normalize: bool
) -> Tensor:
    """The sum that `task_arithmetic` describes, of M tensors of shape `(*S,)`."""
    merged = add_up((delta * w for delta, w in zip(deltas, weight, strict=True)), deltas[0])
    if normalize:
        total = torch.as_tensor(weight, dtype=merged.dtype).sum()
        merged = merged / torch.where(total.abs() >= 1e-8, total, 1.0)
    return merged * scale

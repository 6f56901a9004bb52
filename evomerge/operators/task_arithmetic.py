"""Weighted sum of task vectors.

Ilharco et al., "Editing models with task arithmetic", 2023, https://arxiv.org/abs/2212.04089,
section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Scale, Weights
from evomerge.operators.registry import operator


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
    merged = add_up((delta * w for delta, w in zip(deltas, weight, strict=True)), deltas[0])
    if normalize:
        total = torch.tensor(weight, dtype=deltas.dtype).sum()
        merged /= total if total.abs() >= 1e-8 else 1
    return merged * scale if scale != 1 else merged

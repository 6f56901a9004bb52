"""Mutation along the singular directions of a task vector.

Kuroki et al., "Agent Skill Acquisition for Large Language Models via CycleQD", 2025,
https://arxiv.org/abs/2410.14735: the SVD-based mutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Interval, Search, Weights
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator
from evomerge.operators.spectral import decompose, one_thread
from evomerge.operators.task_arithmetic import add_weighted


@operator(space="delta")
def svd_noise(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    strength: Annotated[float, Interval(0.0), Search(0.0, 0.5)] = 0.1,
    draws: Sequence[Draws],
) -> Tensor:
    """Strengthen every singular direction by a random part of itself, then add up.

    A task vector `U diag(s) Vt` becomes `U diag(s (1 + u)) Vt`, where `u` is uniform in
    [0, strength) for each direction. Vectors and scalars are not mutated; a tensor of three or
    more dimensions is a stack of matrices.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        strength: Greatest part that a direction gains.
        draws: Random numbers of each source, length M.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: A task vector has NaN or infinite entries.
    """
    mutated = [_mutate(delta, strength, own) for delta, own in zip(deltas, draws, strict=True)]
    return add_weighted(mutated, weight, scale=1.0, normalize=False)


def _mutate(delta: Tensor, strength: float, own: Draws) -> Tensor:
    if delta.ndim < 2 or delta.numel() == 0:
        return delta
    matrices = delta.reshape(-1, *delta.shape[-2:])
    drawn = own.uniform((len(matrices), min(delta.shape[-2:]))).to(delta.dtype) * strength
    with one_thread():
        changes = [_gain(matrix, parts) for matrix, parts in zip(matrices, drawn, strict=True)]
    return delta + torch.stack(changes).view(delta.shape)


def _gain(matrix: Tensor, parts: Tensor) -> Tensor:
    left, values, right = decompose(matrix)
    return (left * (values * parts[: len(values)])) @ right

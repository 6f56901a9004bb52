"""Mutation by normal noise.

Rechenberg, "Evolutionsstrategie", 1973, mutates vectors so; here the noise is as large as the
changes that training made, tensor by tensor, because those of different tensors differ by orders
of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.operators.inner_products import inner_products
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Search, Weights
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator
from evomerge.operators.task_arithmetic import add_weighted


@measure("source")
def root_mean_square(delta: Tensor) -> Tensor:
    """The root of the mean square of a task vector's entries, shape `()`; 0 if it has none."""
    square = float(inner_products(delta.reshape(1, 1, -1)))
    return delta.new_tensor(math.sqrt(square / max(1, delta.numel())))


@operator(space="delta", elementwise=True, measure=root_mean_square)
def gaussian_noise(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    strength: Annotated[float, Interval(0.0), Search(0.0, 0.5)] = 0.1,
    draws: Sequence[Draws],
    measured: Tensor,
) -> Tensor:
    """Add normal noise to every task vector, then add them up, each times its weight.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        strength: Standard deviation of the noise, in root mean squares of the task vector.
        draws: Random numbers of each source, length M.
        measured: Root mean square of each task vector, shape `(M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    noisy = [
        delta + own.normal(delta.shape).to(delta.dtype) * (size * strength)
        for delta, own, size in zip(deltas, draws, measured, strict=True)
    ]
    return add_weighted(noisy, weight, scale=1.0, normalize=False)

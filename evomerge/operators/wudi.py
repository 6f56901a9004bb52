"""Find the task vector that interferes least with what each source does to its inputs.

Cheng et al., "Whoever started the interference should end it: guiding data-free model merging via
task vectors", 2025, https://arxiv.org/abs/2503.08099, section 4. The rows of a source's task
vector stand in for the inputs that it was trained on.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.spectral import eigenvectors, is_matrix, one_thread, weighted_mean


@operator(space="delta")
def wudi(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    cutoff: Annotated[float, Interval(0.0, 1.0), Search(0.0, 0.01)] = 1e-6,
    scale: Scale = 1.0,
) -> Tensor:
    """Solve for the task vector of least interference.

    The loss of eq. 9, the sum over sources of `|(merged - delta) deltaT|^2 / |delta|^2`, is
    quadratic, and its minimum is the solution of linear equations in float64. Tensors that are not
    matrices are averaged.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Factor on each task vector before the merge, length M.
        cutoff: Directions of inputs that the sources hardly use, as a fraction of the squared
            strength of the most used one, are added up instead: there the solution is unstable.
        scale: Factor on the merged task vector.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: A matrix has NaN or infinite entries.
    """
    if not is_matrix(deltas):
        return weighted_mean(deltas, weight) * scale
    with one_thread():
        total, gram, target = _normal_equations(deltas, weight)
        strengths, directions = eigenvectors(gram)
        rounding = len(gram) * torch.finfo(gram.dtype).eps
        used = strengths > strengths[-1] * max(cutoff, rounding)
        directions, strengths = directions[:, used], strengths[used]
        missing = (target - total @ gram) @ directions
        return ((total + missing / strengths @ directions.T) * scale).to(deltas.dtype)


@operator(space="delta")
def wudi_iterative(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    steps: Annotated[float, Interval(0.0, 2000.0), Search(50.0, 500.0)] = 300.0,
    rate: Annotated[float, Interval(0.0, 0.01), Search(1e-6, 1e-4)] = 1e-5,
    scale: Scale = 1.0,
) -> Tensor:
    """Descend from the sum of the task vectors towards least interference, as the paper does.

    Adam (Kingma and Ba, 2015) with its usual settings and the exact gradient of the loss that
    `wudi` minimises, in float64. Tensors that are not matrices are averaged.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Factor on each task vector before the merge, length M.
        steps: Number of steps, rounded to a whole one.
        rate: Learning rate: about how far an entry moves in a step.
        scale: Factor on the merged task vector.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    if not is_matrix(deltas):
        return weighted_mean(deltas, weight) * scale
    with one_thread():
        merged, gram, target = _normal_equations(deltas, weight)
        mean, square = torch.zeros_like(merged), torch.zeros_like(merged)
        for step in range(1, round(steps) + 1):
            gradient = 2 * (merged @ gram - target)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient.square()
            spread = (square / (1 - 0.999**step)).sqrt() + 1e-8
            merged = merged - rate * (mean / (1 - 0.9**step)) / spread
        return (merged * scale).to(deltas.dtype)


def _normal_equations(deltas: Tensor, weight: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Where to start, and the equations `merged @ gram = target` of the minimum, in float64.

    Returns:
        The weighted sum of the task vectors, shape `(out, in)`; the sum of their Gram matrices,
        each divided by its trace, shape `(in, in)`; the target, shape `(out, in)`.
    """
    _, _, columns = deltas.shape
    start = torch.zeros(deltas.shape[1:], dtype=torch.float64)
    gram, target = start.new_zeros(columns, columns), start.clone()
    for delta, w in zip(deltas.double(), weight, strict=True):
        own = delta.T @ delta
        trace = own.trace()
        own = own / torch.where(trace > 0, trace, 1.0)
        start, gram, target = start + delta * w, gram + own, target + delta @ own * w
    return start, gram, target

"""Drop the largest and the smallest entries of task vectors, then merge.

Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
2023, https://arxiv.org/abs/2312.06795, section 3. The density is what is kept, as in mergekit;
electing signs afterwards is mergekit's variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from evomerge.operators.measure import measure
from evomerge.operators.parameters import Densities, Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.select import order_statistic
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected

if TYPE_CHECKING:
    from evomerge.operators.chunks import Chunks

Gammas = Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.0, 0.05)]


@measure("chunks")
def middle(delta: Chunks, *, density: float, gamma: float) -> Tensor:
    """The least and the greatest magnitude kept, shape `(2,)`.

    Args:
        delta: Task vector of one parameter.
        density: Fraction of entries kept; 1 keeps all of them.
        gamma: Fraction of entries dropped at the large end, as far as the density allows; less
            than one entry drops none.
    """
    size = delta.entries
    if density >= 1 or size == 0:
        return torch.tensor([0.0, torch.inf], dtype=delta.dtype)
    kept = int(density * size)
    if kept == 0:
        return torch.tensor([torch.inf, torch.inf], dtype=delta.dtype)
    first = max(0, size - kept - int(gamma * size))
    return torch.stack([order_statistic(delta, rank) for rank in (first, first + kept - 1)])


@operator(space="delta", elementwise=True, measure=middle)
def breadcrumbs(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),  # noqa: ARG001 (is in the magnitudes)
    gamma: Gammas = (0.01,),  # noqa: ARG001 (is in the magnitudes)
    scale: Scale = 1.0,
    normalize: bool = False,
    measured: Tensor,
) -> Tensor:
    """Add up the middle entries of task vectors, each times its weight.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        density: Fraction of entries kept in each task vector, length M.
        gamma: Fraction of the largest entries dropped in each task vector, length M.
        scale: Factor on the merged task vector (lambda).
        normalize: Divide by the sum of the weights, if that is not zero.
        measured: The least and the greatest magnitude kept, shape `(M, 2)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    return add_weighted(_keep(deltas, measured), weight, scale=scale, normalize=normalize)


@operator(space="delta", elementwise=True, measure=middle)
def breadcrumbs_ties(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),  # noqa: ARG001 (is in the magnitudes)
    gamma: Gammas = (0.01,),  # noqa: ARG001 (is in the magnitudes)
    scale: Scale = 1.0,
    normalize: bool = False,
    measured: Tensor,
) -> Tensor:
    """Keep the middle entries of task vectors that agree with the elected sign.

    Takes and returns what `breadcrumbs` does, but `normalize` divides each entry by the sum of
    the weights that took part in it; the sign is elected as in `ties`.
    """
    return merge_elected(_keep(deltas, measured), weight, scale=scale, normalize=normalize)


def _keep(deltas: Tensor, measured: Tensor) -> list[Tensor]:
    kept = []
    for delta, bounds in zip(deltas, measured, strict=True):
        magnitude = delta.abs()
        # Written so that an entry that is no number is kept, and found out later.
        dropped = (magnitude < bounds[0]) | (magnitude > bounds[1])
        kept.append(torch.where(dropped, 0.0, delta))
    return kept

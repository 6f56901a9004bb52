"""Drop entries of task vectors at random, rescale, then merge.

Yu et al., "Language models are super Mario", 2024, https://arxiv.org/abs/2311.03099, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.operators.parameters import Densities, Scale, Weights
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import Rescale, drop, drop_factor
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected


@operator(space="delta", elementwise=True, measure=drop_factor)
def dare_linear(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),
    scale: Scale = 1.0,
    normalize: bool = False,
    rescale: Rescale = "density",  # noqa: ARG001 (is in the factors)
    draws: Sequence[Draws],
    measured: Tensor,
) -> Tensor:
    """Add up randomly thinned task vectors, each times its weight.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        density: Chance of an entry to be kept, per source, length M.
        scale: Factor on the merged task vector (lambda).
        normalize: Divide by the sum of the weights, if that is not zero.
        rescale: How kept entries make up for dropped ones, see `sparsify.drop_factor`.
        draws: Random numbers of each source, length M.
        measured: What makes up for dropped entries, shape `(M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    thinned = _thin(deltas, density, draws, measured)
    return add_weighted(thinned, weight, scale=scale, normalize=normalize)


@operator(space="delta", elementwise=True, measure=drop_factor)
def dare_ties(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),
    scale: Scale = 1.0,
    normalize: bool = False,
    rescale: Rescale = "density",  # noqa: ARG001 (is in the factors)
    draws: Sequence[Draws],
    measured: Tensor,
) -> Tensor:
    """Thin task vectors at random, then keep what agrees with the elected sign.

    Takes and returns what `dare_linear` does; the sign is elected as in `ties`.
    """
    thinned = _thin(deltas, density, draws, measured)
    return merge_elected(thinned, weight, scale=scale, normalize=normalize)


def _thin(
    deltas: Tensor, density: Densities, draws: Sequence[Draws], factors: Tensor
) -> list[Tensor]:
    per_source = zip(deltas, density, draws, factors, strict=True)
    return [drop(delta, d, own) * factor for delta, d, own, factor in per_source]

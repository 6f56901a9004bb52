"""Trim, elect sign and merge.

Yadav et al., "TIES-Merging", 2023, https://arxiv.org/abs/2306.01708, section 4. Each tensor is
trimmed by itself and the weighted task vectors elect the sign, both as in mergekit; the paper
trims all tensors of a model together and gives every model one vote, see `ties_global`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.indicator import above, at_least, is_zero
from evomerge.operators.parameters import Densities, Scale, Weights
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import trim, trim_threshold

Elect = Literal["sum", "count"]


@operator(space="delta", elementwise=True, measure=trim_threshold)
def ties(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),  # noqa: ARG001 (is in the thresholds)
    scale: Scale = 1.0,
    normalize: bool = True,
    measured: Tensor,
) -> Tensor:
    """Merge task vectors, keeping only large entries that agree with the elected sign.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        density: Fraction of entries kept in each task vector, by magnitude, length M.
        scale: Factor on the merged task vector (lambda).
        normalize: Divide each entry by the sum of the weights that took part in it.
        measured: The least magnitude kept of each task vector, shape `(M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Entries that no task vector
        keeps are 0.
    """
    trimmed = [trim(delta, least) for delta, least in zip(deltas, measured, strict=True)]
    return merge_elected(trimmed, weight, scale=scale, normalize=normalize)


@operator(space="delta", elementwise=True, measure=trim_threshold)
def ties_count(
    deltas: Tensor,
    *,
    weight: Weights,
    density: Densities = (1.0,),  # noqa: ARG001 (is in the thresholds)
    scale: Scale = 1.0,
    normalize: bool = True,
    measured: Tensor,
) -> Tensor:
    """Merge task vectors as `ties` does, but let large and small entries vote alike.

    Takes and returns what `ties` does.
    """
    trimmed = [trim(delta, least) for delta, least in zip(deltas, measured, strict=True)]
    return merge_elected(trimmed, weight, scale=scale, normalize=normalize, elect="count")


def merge_elected(
    deltas: list[Tensor],
    weight: Weights,
    *,
    scale: float,
    normalize: bool,
    elect: Elect = "sum",
) -> Tensor:
    """Elect a sign per entry and add up what agrees with it (section 4, steps 2 and 3).

    Args:
        deltas: Sparse task vectors, M tensors of shape `(*S,)`.
        weight: Mixing coefficient of each source, length M.
        scale: Factor on the merged task vector.
        normalize: Divide each entry by the sum of the weights that took part in it.
        elect: What votes: the weighted entries, or their signs.

    Returns:
        Merged task vector, shape `(*S,)`. A vote that ends in a draw elects plus.
    """
    weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
    sign = at_least(count_votes(weighted, elect), 0) * 2 - 1
    agrees = [above(entry * sign, 0) for entry in weighted]
    # What does not agree is added too, times 0: one that is no number is found out later.
    merged = weighted[0] * agrees[0]
    for entry, one in zip(weighted[1:], agrees[1:], strict=True):
        merged = torch.addcmul(merged, entry, one)
    if normalize:
        total = add_up((one * w for one, w in zip(agrees, weight, strict=True)), sign)
        merged = merged / (total + is_zero(total))
    return merged * scale


def count_votes(deltas: list[Tensor], elect: Elect) -> Tensor:
    """What decides the sign of each entry: the sum of the entries, or of their signs."""
    return add_up(deltas if elect == "sum" else (delta.sign() for delta in deltas), deltas[0])

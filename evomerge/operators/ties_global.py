"""Trim, elect sign and merge, over the whole model and as published.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023,
https://arxiv.org/abs/2306.01708, section 4 and its code, down to the one entry more than the
density that the code keeps. `ties` is what mergekit makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Densities, Interval, Search
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import entry_count, model_threshold, trim
from evomerge.operators.ties import Elect, count_votes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Merge = Literal["mean", "sum", "max"]


@measure("model")
def thresholds_and_majority(
    stacks: Iterable[Tensor], *, density: Sequence[float], elect: Elect
) -> Tensor:
    """The least magnitude kept of each source, and the sign that most entries elect.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
        density: Fraction of a model's entries that are kept, length M.
        elect: What votes for the sign.

    Returns:
        Shape `(M + 1,)`, float64; the sign is plus where neither has a majority.
    """
    size = entry_count(stacks)
    # The code keeps what is not below the last entry that it means to drop.
    kept = [int(each * size) + 1 if each > 0 else 0 for each in density]
    least = [model_threshold(stacks, row, count) for row, count in enumerate(kept)]
    tally = 0.0
    for stack in stacks:
        trimmed = [trim(delta, own) for delta, own in zip(stack, least, strict=True)]
        # Whole numbers this small are added exactly, in any order.
        tally += float(count_votes(trimmed, elect).sign().sum(dtype=torch.float64))
    return torch.stack([*least, torch.tensor(1.0 if tally >= 0 else -1.0, dtype=torch.float64)])


@operator(space="delta", elementwise=True, measure=thresholds_and_majority)
def ties_global(
    deltas: Tensor,
    *,
    density: Densities = (0.2,),  # noqa: ARG001 (is in the thresholds)
    scale: Annotated[float, Interval(), Search(0.2, 2.5)] = 1.0,
    merge: Merge = "mean",
    elect: Elect = "sum",
    measured: Tensor,
) -> Tensor:
    """Merge the largest entries of each model that agree with the sign that the models elect.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        density: Fraction of the whole model's entries kept in each task vector, length M.
        scale: Factor on the merged task vector (lambda).
        merge: What becomes of entries that agree: their mean, their sum or the largest one.
        elect: What votes for the sign: `sum` the entries, `count` their signs.
        measured: The least magnitude kept of each task vector, then the sign of entries whose
            vote is a draw, shape `(M + 1,)`; one for all tensors of a model.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Entries that no task vector
        keeps are 0.
    """
    *least, majority = measured.to(deltas[0].dtype)
    trimmed = [trim(delta, own) for delta, own in zip(deltas, least, strict=True)]
    votes = count_votes(trimmed, elect)
    elected = torch.where(votes == 0, majority, votes.sign())
    agreeing = [delta * (delta.sign() == elected) for delta in trimmed]
    return _merge_agreeing(agreeing, merge) * scale


def _merge_agreeing(deltas: list[Tensor], merge: Merge) -> Tensor:
    if merge == "max":
        largest = deltas[0]
        for delta in deltas[1:]:
            largest = torch.where(delta.abs() > largest.abs(), delta, largest)
        return largest
    total = add_up(deltas, deltas[0])
    if merge == "sum":
        return total
    count = add_up(((delta != 0).to(total.dtype) for delta in deltas), total)
    return total / count.clamp(min=1)

"""Keep each source's largest entries, and average where they overlap.

He et al., "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic", 2024,
https://arxiv.org/abs/2408.13656: the dataless variant (section 3.4), which masks by magnitude
instead of training the masks, and stitching (section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Scale, Search
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import entry_count, model_threshold

# The paper masks all but 1 %, later work on language models all but 10 %.
Sparsities = Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.01, 0.3)]


@measure("model")
def largest_of_model(stacks: Iterable[Tensor], *, density: Sequence[float]) -> Tensor:
    """The least magnitude in each source's mask, shape `(M,)`.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
        density: Fraction of a model's entries that are in its mask, length M.
    """
    size = entry_count(stacks)
    kept = [max(1, int(each * size)) if each > 0 else 0 for each in density]
    return torch.stack([model_threshold(stacks, row, count) for row, count in enumerate(kept)])


@operator(space="delta", elementwise=True, measure=largest_of_model)
def localize_and_stitch(
    deltas: Tensor,
    *,
    density: Sparsities = (0.1,),  # noqa: ARG001 (is in the thresholds)
    scale: Scale = 1.0,
    measured: Tensor,
) -> Tensor:
    """Average, entry by entry, the task vectors that have it in their mask.

    Entries that a source shares with the base are in no mask of its, however few others it has.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        density: Fraction of the whole model's entries in each mask, by magnitude, length M.
        scale: Factor on the merged task vector.
        measured: The least magnitude in each mask, shape `(M,)`; one for all tensors of a model.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Entries in no mask are 0.
    """
    dtype = deltas[0].dtype
    thresholds = measured.to(dtype)
    # Written so that an entry that is no number is kept, and found out later.
    masks = [
        ((delta != 0) & ~(delta.abs() < least)).to(dtype)
        for delta, least in zip(deltas, thresholds, strict=True)
    ]
    count = add_up(masks, deltas[0])
    total = add_up((d * m for d, m in zip(deltas, masks, strict=True)), deltas[0])
    return total / count.clamp(min=1) * scale

"""Task arithmetic on entries that several sources need.

Wang et al., "Localizing Task Information for Improved Model Merging and Compression", 2024,
https://arxiv.org/abs/2405.07813: TALL masks (section 4) and Consensus Merging (section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Interval, Scale, Search
from evomerge.operators.registry import operator

Thresholds = Annotated[Sequence[float], Interval(0.0), Search(0.2, 0.6)]


@operator(space="delta", elementwise=True)
def consensus(
    deltas: Tensor,
    *,
    threshold: Thresholds = (0.4,),
    k: Annotated[float, Interval(0.0), Search(1.0, 3.0)] = 2.0,
    scale: Scale = 1.0,
) -> Tensor:
    """Add up the task vectors where at least k of the sources hold the sum to be theirs.

    A source does where its entry is not smaller than `threshold` times its distance from the sum.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        threshold: How strict each source is, length M (lambda of the masks).
        k: Least number of sources; 0 is task arithmetic, 1 drops what no source needs, 2 also
            what only one needs.
        scale: Factor on the merged task vector (alpha).

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    total = add_up(deltas, deltas[0])
    needed = [
        delta.abs() >= (total - delta).abs() * strictness
        for delta, strictness in zip(deltas, threshold, strict=True)
    ]
    votes = add_up((mask.to(total.dtype) for mask in needed), total)
    # Written so that a sum that is no number is kept, and found out later.
    return torch.where(votes >= k, total, total * 0) * scale

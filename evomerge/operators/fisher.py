"""Average models, each entry counting as much as its Fisher information.

Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", 2021,
https://arxiv.org/abs/2111.09832, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator

Shares = Annotated[Sequence[float], Interval(0.0), Search(0.0, 1.0)]
Floor = Annotated[float, Interval(1e-20, 1.0), Search(1e-10, 1e-6)]


def _some_source_counts(weight: Shares, **_: object) -> None:
    if not any(weight):
        raise MergeError(f"weight: {list(weight)} are all 0; give one source a weight")


@operator(space="weight", elementwise=True, check=_some_source_counts)
def fisher(
    tensors: Tensor,
    *,
    weight: Shares = (1.0,),
    floor: Floor = 1e-10,
    normalize: bool = False,
    fisher: Tensor,
    fisher_norm: Tensor,
) -> Tensor:
    """Average the sources, entry by entry, weighted with their Fisher information.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        weight: Factor on each source's Fisher information, length M.
        floor: Added to the Fisher information, so that entries that no text depends on are
            averaged evenly.
        normalize: Divide each source's Fisher information by its norm over the whole model, so
            that a model of larger gradients does not count more everywhere.
        fisher: Diagonal Fisher information of each source, shape `(M, *S)`.
        fisher_norm: Norm of each source's, shape `(M,)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.

    Raises:
        MergeError: All weights are 0.
    """
    dtype = tensors[0].dtype
    shares = []
    for row, norm, factor in zip(fisher, fisher_norm, weight, strict=True):
        divisor = torch.where(norm > 0, norm, 1.0).to(dtype)
        information = row.to(dtype) / divisor if normalize else row.to(dtype)
        shares.append((information + floor) * factor)
    total = add_up(shares, tensors[0])
    merged = add_up((t * share for t, share in zip(tensors, shares, strict=True)), tensors[0])
    return merged / total

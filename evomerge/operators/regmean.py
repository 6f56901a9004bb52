"""Merge linear layers so that they answer the sources' inputs as the sources do.

Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", 2022,
https://arxiv.org/abs/2212.09849, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator
from evomerge.operators.spectral import eigenvectors, one_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

Shares = Annotated[Sequence[float], Interval(0.0), Search(0.0, 1.0)]
Shrinkage = Annotated[float, Interval(0.0, 1.0), Search(0.1, 1.0)]
Cutoff = Annotated[float, Interval(0.0, 1.0), Search(0.0, 0.01)]


def _some_source_counts(weight: Shares, **_: object) -> None:
    if not any(weight):
        raise MergeError(f"weight: {list(weight)} are all 0; give one source a weight")


@operator(space="weight", check=_some_source_counts)
def regmean(
    tensors: Tensor,
    *,
    weight: Shares = (1.0,),
    off_diagonal: Shrinkage = 0.9,
    cutoff: Cutoff = 1e-6,
    gram: Tensor | None,
) -> Tensor:
    """Solve the regression of all sources' outputs on their inputs; average all other tensors.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        weight: How much each source's inputs, and in averages each source, count, length M.
        off_diagonal: Factor on the inner products of different inputs (alpha).
        cutoff: Directions of inputs that hardly occur, as a fraction of the squared strength of
            the most frequent one, are averaged: there the solution is unstable.
        gram: Inner products of each source's input columns, shape `(M, in, in)`; None if the
            tensor is not a linear layer's weight.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.

    Raises:
        MergeError: All weights are 0, or inner products are not finite.
    """
    total = sum(float(w) for w in weight)
    mean = add_up((t * (w / total) for t, w in zip(tensors, weight, strict=True)), tensors[0])
    if gram is None or not tensors.numel():
        return mean
    grams = (g.double() * w for g, w in zip(gram, weight, strict=True))
    solved = solve(tensors, grams, mean.double(), off_diagonal=off_diagonal, cutoff=cutoff)
    return solved.to(tensors.dtype)


def solve(
    tensors: Iterable[Tensor],
    grams: Iterable[Tensor],
    mean: Tensor,
    *,
    off_diagonal: float,
    cutoff: float,
) -> Tensor:
    """The weight of eq. 2, and `mean` where the inputs say nothing.

    Args:
        tensors: Weights of M sources, each of shape `(out, in)`.
        grams: Inner products of their inputs, each of shape `(in, in)`, float64.
        mean: What the sources agree on elsewhere, shape `(out, in)`, float64.
        off_diagonal: Factor on the inner products of different inputs.
        cutoff: The least squared strength of a direction of inputs that counts, as a fraction of
            the greatest.

    Returns:
        Shape `(out, in)`, float64.
    """
    with one_thread():
        seen = mean.new_zeros(mean.shape[-1], mean.shape[-1])
        missing = torch.zeros_like(mean)
        for tensor, gram in zip(tensors, grams, strict=True):
            shrunk = off_diagonal * gram + (1 - off_diagonal) * gram.diagonal().diag()
            seen += shrunk
            missing += (tensor.double() - mean) @ shrunk
        strengths, directions = eigenvectors(seen)
        rounding = len(seen) * torch.finfo(seen.dtype).eps
        used = strengths > strengths[-1] * max(cutoff, rounding)
        directions, strengths = directions[:, used], strengths[used]
        return mean + (missing @ directions) / strengths @ directions.T

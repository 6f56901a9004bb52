"""Merge each column by how much sources changed its magnitude and its direction.

Yu et al., "Extend model merging from fine-tuned to pre-trained large language models via weight
disentanglement", 2024, https://arxiv.org/abs/2408.03092, section 3.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import absolute_sum, add_up
from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.registry import operator

CHUNK = 32_768
"""Entries that torch sums in one thread."""


@operator(space="delta")
def widen(
    deltas: Tensor,
    *,
    base: Tensor,
    weight: Weights = (1.0,),
    threshold: Annotated[float, Interval(0.0, 100.0), Search(0.5, 1.5)] = 1.0,
    calibration: Annotated[float, Interval(0.0, 10.0), Search(0.2, 1.2)] = 1.0,
    scale: Scale = 1.0,
) -> Tensor:
    """Add up task vectors, each column times its importance in magnitude and in direction.

    Columns of a source are ranked by how much their magnitude and their direction changed; an
    importance is the softmax over the sources, or `calibration` for columns that rank high within
    their source. Columns that changed alike share a rank (the authors' code ranks them by
    position). In tensors that are not matrices each entry is ranked by its own change.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        base: The base model's tensor, shape `(*S,)`.
        weight: Factor on each task vector in the sum, length M.
        threshold: Multiple of a source's mean rank above which a column ranks high (t).
        calibration: Importance of columns that rank high (s).
        scale: Factor on the merged task vector.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    if deltas.dim() == 3 and deltas.numel() > 0:
        magnitude, direction = column_changes(base, deltas)
        columns = deltas.shape[2]
        parts = [
            _importance(_ranks(changes), threshold, calibration, unit=columns)
            for changes in (magnitude, direction)
        ]
        importance = (parts[0] + parts[1]) / 2
    else:
        importance = _importance(deltas.abs(), threshold, calibration)
    rows = zip(deltas, importance.to(deltas.dtype), weight, strict=True)
    return add_up((delta * own * w for delta, own, w in rows), deltas[0]) * scale


def column_changes(base: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """How far the columns of each source are from those of the base.

    Args:
        base: Shape `(out, in)`.
        deltas: Task vectors, shape `(M, out, in)`.

    Returns:
        Differences of norms, and 1 less the cosine of directions, 0 where a column has none; both
        of shape `(M, in)`, float64.
    """
    origin = _column_sums(base, base).sqrt()
    magnitudes, directions = [], []
    for delta in deltas:
        source = base + delta
        norm = _column_sums(source, source).sqrt()
        lengths = norm * origin
        cosine = _column_sums(source, base) / torch.where(lengths > 0, lengths, 1.0)
        magnitudes.append((norm - origin).abs())
        directions.append(torch.where(lengths > 0, 1 - cosine, 0.0))
    return torch.stack(magnitudes), torch.stack(directions)


def _column_sums(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of columns, the same for every number of threads, shape `(in,)`, float64."""
    rows = max(1, CHUNK // first.shape[1])
    total = torch.zeros(first.shape[1], dtype=torch.float64)
    for a, b in zip(torch.split(first, rows), torch.split(second, rows), strict=True):
        total += (a.double() * b.double()).sum(0)
    return total


def _ranks(changes: Tensor) -> Tensor:
    """How many of a source's columns changed less, shape `(M, in)`, float64."""
    return torch.searchsorted(changes.sort(dim=1).values, changes).double()


def _importance(
    ranks: Tensor, threshold: float, calibration: float, *, unit: float = 1.0
) -> Tensor:
    """Softmax over the sources, replaced where a source ranks an entry high, shape `(M, *S)`.

    Ranks are divided by `unit` only in the softmax: whole numbers tell a rank from the mean.
    """
    means = [absolute_sum(row) / max(1, row.numel()) for row in ranks]
    high = [row > threshold * mean for row, mean in zip(ranks, means, strict=True)]
    # Not torch.softmax, whose last entries depend on how threads cut the tensor.
    powers = torch.exp((ranks - ranks.amax(0)) / unit)
    return torch.where(torch.stack(high), calibration, powers / add_up(powers, powers[0]))

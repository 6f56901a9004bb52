"""Exact order statistics in linear time, of tensors too large to sort.

Floyd and Rivest, "Expected time bounds for selection", 1975: a sample brackets the answer; one
pass counts what lies below and keeps what lies inside the bracket, a small part of the whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 18
"""Entries looked at in one go: few enough for the cache."""

SAMPLE = 1 << 14
"""About how many entries the bracket is read off."""


def order_statistic(tensors: Iterable[Tensor], rank: int) -> Tensor:
    """The entry that `rank` others come before when all are sorted in rising order.

    Args:
        tensors: Parts of what is looked at, of any shapes; gone through up to three times.
        rank: From 0 to the number of entries less one.

    Returns:
        Shape `()`, the dtype of the tensors; the same for any order and any cut of the parts.
    """
    low, high = _bracket(tensors, rank)
    below, inside = _count(tensors, low, high)
    found = sum(part.numel() for part in inside)
    if not below <= rank < below + found:
        # The sample misled us, which is rare; then nothing is left out.
        below, inside = _count(tensors, -math.inf, math.inf)
    return torch.cat(inside).kthvalue(rank - below + 1).values


def _bracket(tensors: Iterable[Tensor], rank: int) -> tuple[float, float]:
    sizes = [tensor.numel() for tensor in tensors]
    total = sum(sizes)
    if total <= SAMPLE:
        return -math.inf, math.inf
    step = total // SAMPLE
    # An odd step does not fall in step with rows and columns.
    sample = torch.cat([tensor.reshape(-1)[:: step | 1] for tensor in tensors]).sort().values
    place = rank / total * len(sample)
    slack = 4 * math.sqrt(len(sample) * 0.25)
    low, high = int(place - slack), int(place + slack) + 1
    return (
        float(sample[low]) if low >= 0 else -math.inf,
        float(sample[high]) if high < len(sample) else math.inf,
    )


def _count(tensors: Iterable[Tensor], low: float, high: float) -> tuple[int, list[Tensor]]:
    """How many entries lie below the bracket, and the entries inside it, ends included."""
    below, inside = 0, []
    for chunk in _chunks(tensors):
        above = chunk >= low
        below += chunk.numel() - int(above.count_nonzero())
        inside.append(chunk[above & (chunk <= high)])
    return below, inside


def _chunks(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        yield from torch.split(tensor.reshape(-1), CHUNK)

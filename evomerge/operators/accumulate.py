"""Sums in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


def add_up(tensors: Iterable[Tensor], like: Tensor) -> Tensor:
    """Add tensors one after the other, starting from zeros shaped as `like`.

    `Tensor.sum` may associate the last few entries of a tensor differently from the others when
    there are five sources or more; then a result would depend on how a tensor is cut in blocks.
    """
    total = torch.zeros_like(like)
    for tensor in tensors:
        total += tensor
    return total


def absolute_sum(tensor: Tensor) -> float:
    """L1 norm, the same for every number of threads."""
    # Rows of this length are summed by one thread each.
    rows = torch.split(tensor.reshape(-1), 32_768)
    return sum(float(row.abs().sum(dtype=torch.float64)) for row in rows)

"""Sums in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


def add_up(tensors: Iterable[Tensor], like: Tensor) -> Tensor:
    """Add tensors one after the other; zeros shaped as `like` if there are none.

    `Tensor.sum` may associate the last few entries of a tensor differently from the others when
    there are five sources or more; then a result would depend on how a tensor is cut in blocks.
    """
    total = None
    for tensor in tensors:
        total = tensor if total is None else total + tensor
    return torch.zeros_like(like) if total is None else total


def absolute_sum(tensor: Tensor) -> float:
    """L1 norm, the same for every number of threads."""
    # numpy adds pairwise, so float32 is enough, and in one thread.
    return float(np.abs(tensor.numpy()).sum())

"""Reinforced Agent Merging: keep what one model alone changed, average what several did.

Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models", 2026,
https://arxiv.org/abs/2601.13572: task vectors of reinforcement learning are so sparse that an
average over all models dilutes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.chunks import CHUNK
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator

if TYPE_CHECKING:
    from collections.abc import Sequence

Epsilon = Annotated[float, Interval(0.0, math.inf), Search(0.0, 1e-4)]
Bonus = Annotated[float, Interval(0.0, math.inf), Search(0.0, 1.0)]


@operator(space="delta", elementwise=True)
def ram(deltas: Tensor, *, epsilon: Epsilon = 1e-5) -> Tensor:
    """Average each entry over the sources that changed it.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        epsilon: Entries no larger than this are unchanged.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Entries that no source changed
        are 0.
    """
    changed = [delta.abs() > epsilon for delta in deltas]
    return _average(deltas, changed, _count(changed, deltas[0]))


@measure("tensor")
def overlap(stack: Tensor, *, epsilon: float) -> Tensor:
    """Entries that a source shares with others, for each that it changed alone; shape `(M,)`.

    Args:
        stack: Task vectors of one parameter, shape `(M, *S)`.
        epsilon: Entries no larger than this are unchanged.
    """
    shared = torch.zeros(len(stack), dtype=torch.float64)
    alone = torch.zeros_like(shared)
    for part in torch.split(stack.reshape(len(stack), -1), CHUNK, dim=1):
        changed = part.abs() > epsilon
        together = changed.sum(0) > 1
        shared += (changed & together).sum(1)
        alone += (changed & ~together).sum(1)
    return shared / alone.clamp(min=1)


@operator(space="delta", elementwise=True, measure=overlap)
def ramplus_tl(
    deltas: Tensor,
    *,
    epsilon: Epsilon = 1e-5,
    r: Bonus = 0.1,
    alpha: Bonus = 0.2,
    measured: Tensor,
) -> Tensor:
    """Average as `ram` does, and stretch what a source alone changed if it overlaps much.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        epsilon: Entries no larger than this are unchanged.
        r: How much the overlap stretches: entries changed by one source alone are multiplied by
            `1 + r * min(overlap, alpha)`.
        alpha: Overlap beyond which nothing more is gained.
        measured: Overlap of each source in this tensor, shape `(M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    changed = [delta.abs() > epsilon for delta in deltas]
    count = _count(changed, deltas[0])
    gain, most = (torch.as_tensor(number, dtype=count.dtype) for number in (r, alpha))
    factors = 1 + gain * torch.minimum(measured.to(count.dtype), most)
    rows = zip(deltas, factors, strict=True)
    stretched = [torch.where(count > 1, delta, delta * factor) for delta, factor in rows]
    return _average(stretched, changed, count)


def _count(changed: Sequence[Tensor], like: Tensor) -> Tensor:
    return add_up((own.to(like.dtype) for own in changed), like)


def _average(rows: Tensor | Sequence[Tensor], changed: Sequence[Tensor], count: Tensor) -> Tensor:
    # Each source is divided by itself, as in mergekit, so that both agree to the last bit.
    shares = ((row / count.clamp(min=1)) * own for row, own in zip(rows, changed, strict=True))
    return add_up(shares, count)

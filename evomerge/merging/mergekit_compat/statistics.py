"""Merges by statistics of a tensor, in mergekit's order of operations.

Formulas of Model Stock (Jang et al., 2024, https://arxiv.org/abs/2403.19522), NearSwap, Arcee
Fusion (both mergekit's own), SCE (Wan et al., 2024, https://arxiv.org/abs/2408.07990) and RAM
(https://arxiv.org/abs/2601.13572). Every function takes the sources' tensors, M of shape `(*S,)`
in the dtype of the arithmetic, and returns shape `(*S,)`.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE = 1_000_000
"""Entries that quartiles are read off at most."""


def model_stock(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
    """Shrink the mean towards the base by how much whole tensors differ in direction."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    return model_stock_rows(flat, base=base.reshape(-1)).view_as(base)


def model_stock_rows(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
    """Shrink the mean towards the base by how much rows differ in direction."""
    count = len(tensors)
    deltas = [tensor - base for tensor in tensors]
    cosines = []
    for one, other in combinations(deltas, 2):
        norms = one.norm(dim=-1) * other.norm(dim=-1)
        dot = (one * other).sum(dim=-1)
        cosines.append((dot / norms.clamp(min=1e-6)).clamp(-1, 1))
    cosine = torch.stack(cosines).mean(dim=0).unsqueeze(-1)
    below = 1 + (count - 1) * cosine
    ratio = torch.where(below.abs() < 1e-6, 0.0, count * cosine / below)
    mean = tensors[0]
    for tensor in tensors[1:]:
        mean = mean + tensor
    return ratio * (mean / count) + (1 - ratio) * base


def nearswap(tensors: Sequence[Tensor], *, t: float) -> Tensor:
    """Take the second tensor's entries as far as they are near the first's."""
    first, second = tensors
    share = (t / (first - second).abs().clamp(min=1e-6)).clamp(0, 1)
    return share * second + (1 - share) * first


def arcee_fusion(tensors: Sequence[Tensor], *, rng: torch.Generator) -> Tensor:
    """Take the second tensor's entries where the change is important; gives float32."""
    first, second = tensors
    delta = second - first
    p, q = (torch.softmax(tensor, dim=-1) + 1e-8 for tensor in (second, first))
    divergence = (p * (p / q).log()).sum(dim=-1)
    scores = delta.abs() * divergence.unsqueeze(-1)
    sample = scores.reshape(-1)
    if sample.numel() > SAMPLE:
        sample = sample[torch.randint(sample.numel(), (SAMPLE,), generator=rng)]
    ordered = sample.sort().values
    low, median, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return first + delta * (scores >= median + 1.5 * (high - low)).float()


def sce(tensors: Sequence[Tensor], *, density: float, base: Tensor) -> Tensor:
    """Select by variance, weigh by energy, erase the minority's signs."""
    deltas = torch.stack([tensor - base for tensor in tensors])
    if density < 1:
        variance = deltas.var(dim=0, unbiased=False).reshape(-1)
        # The product is one of tensors, so it is rounded to float32.
        selected = variance.topk(int(density * variance.count_nonzero())).indices
        mask = torch.zeros_like(variance)
        mask[selected] = 1
        deltas = deltas * mask.view_as(base)
    shares = deltas.square().flatten(1).mean(dim=1)
    total = shares.sum()
    shares = shares / total if total >= 1e-6 else torch.full_like(shares, 1 / len(tensors))
    elected = (deltas.sum(dim=0) >= 0).to(deltas.dtype) * 2 - 1
    erased = shares.view(-1, *[1] * base.dim()) * (deltas.sign() == elected)
    return base + (deltas * erased).sum(dim=0) / erased.sum(dim=0).clamp(min=1e-6)


def ram(tensors: Sequence[Tensor], *, epsilon: float, base: Tensor) -> Tensor:
    """Average each entry over the sources that changed it."""
    deltas, active = _changes(tensors, base, epsilon)
    return base + (deltas / _divisor(active, deltas) * active).sum(dim=0)


def ramplus_tl(
    tensors: Sequence[Tensor], *, epsilon: float, r: float, alpha: float, base: Tensor
) -> Tensor:
    """Average as `ram` does, and stretch what a source alone changed; gives float32."""
    deltas, active = _changes(tensors, base, epsilon)
    count = active.sum(dim=0)
    alone, shared = active & (count == 1), active & (count > 1)
    ratio = shared.flatten(1).sum(dim=1).float() / alone.flatten(1).sum(dim=1).clamp(min=1)
    bonus = (1 + r * ratio.clamp(0, alpha)).view(-1, *[1] * base.dim())
    averaged = deltas / _divisor(active, deltas) * active
    return base + (averaged * torch.where(alone, bonus, 1.0)).sum(dim=0)


def _changes(tensors: Sequence[Tensor], base: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    deltas = torch.stack([tensor - base for tensor in tensors])
    return deltas, deltas.abs() > epsilon


def _divisor(active: Tensor, like: Tensor) -> Tensor:
    return active.sum(dim=0).clamp(min=1).to(like.dtype)

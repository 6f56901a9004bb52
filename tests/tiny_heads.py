"""Hidden states and a head, small enough for thousands of losses of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from evomerge.refinement.heads import Head

if TYPE_CHECKING:
    from torch import Tensor


def student(rows: int, vocabulary: int, seed: int = 0, **features: Any) -> tuple[Tensor, Head]:
    """Hidden states of width 6 and a head, all of which want gradients."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=rng).requires_grad_()
    weight = torch.randn(vocabulary, 6, generator=rng).requires_grad_()
    bias = torch.randn(vocabulary, generator=rng).requires_grad_()
    return hidden, Head(weight=weight, bias=bias, **features)


def gradients(loss: Tensor, hidden: Tensor, head: Head) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, head.weight, head.bias]))


def close(
    found: Tensor, expected: Tensor, tolerance: float = 1e-5, more: float | Tensor = 0.0
) -> bool:
    """Whether the largest error is small against the largest entry, or little more than that."""
    size = expected.abs().max() if expected.numel() else torch.zeros(())
    return bool((found - expected).abs().max() <= tolerance * size + 2e-7 + more)

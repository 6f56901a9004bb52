"""Sums of sparse task vectors in mergekit's order of operations.

Formulas of task arithmetic (Ilharco et al., 2023, https://arxiv.org/abs/2212.04089), TIES (Yadav
et al., 2023, https://arxiv.org/abs/2306.01708), DARE (Yu et al., 2024,
https://arxiv.org/abs/2311.03099), Model Breadcrumbs (Davari and Belilovsky, 2023,
https://arxiv.org/abs/2312.06795) and DELLA (Deep et al., 2024, https://arxiv.org/abs/2406.11617).
All are rounded to the dtype of the tensors at each step, weights too; what restores a norm does so
tensor by tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Arguments = dict[str, Any]

ELECTING = {"ties", "dare_ties", "breadcrumbs_ties", "della"}
"""Operators that keep what agrees with the elected sign."""


def sum_task_vectors(
    name: str,
    base: Tensor,
    tensors: Sequence[Tensor],
    arguments: Mapping[str, Any],
    rng: torch.Generator,
) -> Tensor:
    """Add up task vectors that one of `SPARSIFIERS` has thinned.

    Args:
        name: The operator.
        base: The base model's tensor, shape `(*S,)`.
        tensors: Those of the sources, M of shape `(*S,)`.
        arguments: The operator's parameters.
        rng: Draws masks.

    Returns:
        Shape `(*S,)`, the dtype of the tensors.
    """
    weight = torch.tensor(arguments["weight"], dtype=base.dtype)
    weighted = []
    for row, tensor in enumerate(tensors):
        delta = tensor - base
        own = {key: v[row] if isinstance(v, tuple) else v for key, v in arguments.items()}
        # On a CPU, random numbers and sums of float16 are of float32.
        wide = delta.float() if delta.dtype == torch.float16 else delta
        sparse = SPARSIFIERS[name](wide, own, rng).to(delta.dtype)
        weighted.append(sparse * weight[row])
    stack = torch.stack(weighted)
    shares = weight.view(-1, *[1] * base.dim())
    if name in ELECTING:
        elected = (stack.sum(dim=0) >= 0).to(stack.dtype) * 2 - 1
        agreeing = stack.sign() == elected
        merged = (stack * agreeing).sum(dim=0)
        total = (shares * agreeing).sum(dim=0)
        total = torch.where(total == 0, 1.0, total)
    else:
        merged = stack.sum(dim=0)
        total = shares.sum(dim=0)
        total = torch.where(total.abs() < 1e-8, 1.0, total)
    if arguments["normalize"]:
        merged = merged / total
    if arguments["scale"] != 1:
        merged = merged * arguments["scale"]
    return base + merged


def _keep_all(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    return delta


def _keep_largest(
    delta: Tensor,
    arguments: Arguments,
    rng: torch.Generator,  # noqa: ARG001
) -> Tensor:
    density, size = arguments["density"], delta.numel()
    if density >= 1:
        return delta
    kept = max(1, int(density * size)) if density > 0 else 0
    # The order among equals is that of this very sort.
    order = delta.abs().reshape(-1).float().argsort(descending=True)
    return _keep(delta, order[:kept])


def _keep_middle(
    delta: Tensor,
    arguments: Arguments,
    rng: torch.Generator,  # noqa: ARG001
) -> Tensor:
    density, size = arguments["density"], delta.numel()
    if density >= 1:
        return delta
    kept, top = int(density * size), int(arguments["gamma"] * size)
    first = max(0, size - kept - top)
    order = delta.abs().reshape(-1).float().argsort()
    return _keep(delta, order[first : first + kept])


def _keep(delta: Tensor, places: Tensor) -> Tensor:
    mask = torch.zeros(delta.numel(), dtype=delta.dtype)
    mask[places] = 1
    return delta * mask.view_as(delta)


def _keep_at_random(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:
    density = arguments["density"]
    if density >= 1:
        return delta
    mask = torch.bernoulli(torch.full_like(delta, density), generator=rng)
    return _rescale(delta, delta * mask, arguments)


def _keep_by_rank(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:
    density, epsilon = arguments["density"], arguments["epsilon"]
    if density >= 1:
        return delta
    rows = delta.abs().view(1, -1) if delta.dim() < 2 else delta.abs()
    # Along the second axis, even of three; counted from 1, for bfloat16 rounds ranks over 256.
    ranks = rows.argsort(dim=1).argsort(dim=1).to(delta.dtype) + 1
    low, high = ranks.amin(dim=1, keepdim=True), ranks.amax(dim=1, keepdim=True)
    chances = (density - epsilon) + 2 * epsilon * ((ranks - low) / (high - low)).clamp(0, 1)
    mask = torch.bernoulli(chances, generator=rng).view_as(delta)
    return _rescale(delta, delta * mask, arguments)


def _rescale(delta: Tensor, kept: Tensor, arguments: Arguments) -> Tensor:
    if arguments["rescale"] != "norm":
        return kept
    before, after = delta.abs().sum(), kept.abs().sum()
    return kept if min(before, after) < 1e-7 else kept * (before / after)


SPARSIFIERS: dict[str, Callable[[Tensor, Arguments, torch.Generator], Tensor]] = {
    "task_arithmetic": _keep_all,
    "ties": _keep_largest,
    "dare_linear": _keep_at_random,
    "dare_ties": _keep_at_random,
    "breadcrumbs": _keep_middle,
    "breadcrumbs_ties": _keep_middle,
    "della": _keep_by_rank,
    "della_linear": _keep_by_rank,
}
"""How each operator thins one task vector."""

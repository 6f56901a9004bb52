"""Averages and arcs in mergekit's order of operations.

Formulas of model soups (Wortsman et al., 2022, https://arxiv.org/abs/2203.05482), SLERP (Shoemake,
1985) and of mergekit's own NuSLERP, Multi-SLERP and Karcher mean (Goddard et al., "Arcee's
MergeKit", 2024, https://arxiv.org/abs/2403.13257). Every function takes the sources' tensors, M of
shape `(*S,)` in the dtype of the arithmetic, and returns shape `(*S,)`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from evomerge.operators import linear as averages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.operators.axes import Along
    from evomerge.operators.inner_products import Around

CHUNK = 1 << 20
"""Entries that products of two tensors are added up over at a time."""

STEPS, TOLERANCE = 10, 1e-5
"""Most steps to a Karcher mean, and the step that is not worth taking."""


def linear(tensors: Sequence[Tensor], *, weight: Sequence[float], normalize: bool) -> Tensor:
    """Average in float32 at least, as our own operator does."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    stack = torch.stack([tensor.to(wide) for tensor in tensors])
    return averages.linear(stack, weight=weight, normalize=normalize).to(tensors[0].dtype)


def passthrough(tensors: Sequence[Tensor], *, scale: Sequence[float]) -> Tensor:
    """Scale the only tensor."""
    return tensors[0] if scale[0] == 1 else tensors[0] * scale[0]


def slerp(tensors: Sequence[Tensor], *, t: float) -> Tensor:
    """Go along the arc between two tensors, in float32 at least."""
    dtype = tensors[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    share = torch.tensor(t, dtype=wide)
    first, second = (tensor.to(wide).reshape(-1) for tensor in tensors)
    ones = [vector / _length(vector) for vector in (first, second)]
    cosine = _dot(*ones).clamp(-1, 1)
    if cosine.abs() > 0.9995:
        merged = (1 - share) * first + share * second
    else:
        angle = torch.acos(cosine)
        sine = torch.sin(angle)
        shares = torch.sin((1 - share) * angle) / sine, torch.sin(share * angle) / sine
        merged = shares[0] * first + shares[1] * second
    return merged.view_as(tensors[0]).to(dtype)


def _length(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return norm if norm > 1e-8 else torch.ones_like(norm)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    total = torch.zeros((), dtype=first.dtype)
    for one, other in zip(torch.split(first, CHUNK), torch.split(second, CHUNK), strict=True):
        total = total + (one * other).sum()
    return total


def nuslerp(
    tensors: Sequence[Tensor],
    *,
    weight: Sequence[float],
    around: Around,
    base: Tensor,
    along: Along | Literal["all"] = "all",
) -> Tensor:
    """Go along an arc between two tensors, or between their lines, by their weights."""
    first, second = (t - base if around == "base" else t for t in tensors)
    one, other = weight
    share = 0.5 if abs(one + other) < 1e-6 else other / (one + other)
    if along == "all":
        merged = _arc(first.reshape(1, -1), second.reshape(1, -1), share)
    else:
        # Sums run along the last axis, as mergekit's do.
        axis = -1 if along == "rows" else 0
        merged = _arc(first.transpose(axis, -1), second.transpose(axis, -1), share)
        merged = merged.transpose(axis, -1)
    merged = merged.reshape(base.shape)
    return base + merged if around == "base" else merged


def _arc(first: Tensor, second: Tensor, share: float) -> Tensor:
    ones = []
    for vectors in (first, second):
        norms = vectors.norm(dim=-1, keepdim=True)
        ones.append(vectors / norms.clamp(min=1e-7))
    cosine = (ones[0] * ones[1]).sum(dim=-1, keepdim=True).clamp(-1, 1)
    angle = torch.acos(cosine)
    arc = torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second
    straight = (1 - share) * first + share * second
    return torch.where(1 - cosine * cosine <= 1e-16, straight, arc / torch.sin(angle))


def multislerp(
    tensors: Sequence[Tensor],
    *,
    weight: Sequence[float],
    normalize: bool,
    around: Around,
    base: Tensor,
) -> Tensor:
    """Step from the mean direction along the mean tangent; one tensor stays what it is."""
    if len(tensors) == 1:
        return tensors[0]
    eps = 1e-8
    origin = base if around == "base" else torch.zeros_like(base)
    points = torch.stack([tensor - origin for tensor in tensors]).reshape(len(tensors), -1)
    shares = torch.tensor(weight, dtype=base.dtype).view(-1, 1)
    if normalize:
        shares = shares / shares.sum()
    norms = points.norm(dim=-1, keepdim=True)
    units = points / (norms + eps)
    mean = (shares * units).sum(dim=0)
    length = mean.norm()
    if length < eps:
        merged = (shares * points).sum(dim=0)
    else:
        mean = mean / length
        along = (units * mean).sum(dim=-1, keepdim=True)
        tangent = (shares * (units - along * mean)).sum(dim=0)
        step = tangent.norm() + eps
        merged = mean * torch.cos(step) + tangent * (torch.sin(step) / step)
        merged = merged * (shares * norms).sum()
    merged = merged.view_as(base)
    return base + merged if around == "base" else merged


def karcher(tensors: Sequence[Tensor]) -> Tensor:
    """Go to the mean of all directions step by step; one tensor stays what it is."""
    if len(tensors) == 1:
        return tensors[0]
    flat, dtype = [tensor.reshape(-1) for tensor in tensors], tensors[0].dtype
    norms = [_norm(vector) for vector in flat]
    pairs = zip(flat, norms, strict=True)
    units = [(vector / norm).to(dtype) for vector, norm in pairs if norm > TOLERANCE]
    if not units:
        return torch.zeros_like(tensors[0])
    alpha = 1 / len(tensors)
    share = alpha / sum([alpha] * len(units))
    mean = _add(share * unit for unit in units)
    length = _norm(mean)
    mean = units[0] if length < TOLERANCE else (mean / length).to(dtype)
    for _ in range(STEPS):
        tangent = _add(_towards(mean, unit, share) for unit in units)
        length = _norm(tangent)
        if length < TOLERANCE:
            break
        mean = (torch.cos(length) * mean + torch.sin(length) * (tangent / length)).to(dtype)
        mean = (mean / _norm(mean)).to(dtype)
    return (_add(alpha * norm for norm in norms) * mean).view_as(tensors[0])


def _norm(vector: Tensor) -> Tensor:
    """The length of a vector, of float32 at least; shape `()`."""
    wide = torch.promote_types(vector.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(vector.to(wide))
    return length


def _towards(mean: Tensor, unit: Tensor, share: float) -> Tensor:
    """A share of the tangent at the mean that leads to a direction."""
    cosine = torch.dot(mean, unit).clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle < TOLERANCE:
        return torch.zeros_like(mean)
    return share * (angle / torch.sin(angle)) * (unit - cosine * mean)


def _add(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)

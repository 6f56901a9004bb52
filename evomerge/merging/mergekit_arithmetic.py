"""The arithmetic of mergekit 0.1.5, in its dtypes and in its order of operations.

Written from the published formulas (Goddard et al., "Arcee's MergeKit", 2024,
https://arxiv.org/abs/2403.13257, and the papers of the methods) and checked against its results.
Our own operators compute in float32 and do not depend on the order among equal entries; these do
what mergekit does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.operators.linear import linear

CHUNK = 1 << 20
"""Entries that sums of arcs are taken over at a time."""

SAMPLE = 1_000_000
"""Entries that quartiles are read off at most."""

Arguments = dict[str, Any]
Sparsify = Callable[[Tensor, Arguments, int], Tensor]


def merge(
    name: str, base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator
) -> Tensor:
    """Merge one parameter as mergekit does.

    Args:
        name: Our operator.
        base: The base model's tensor, shape `(*S,)`.
        tensors: Those of the sources, M of shape `(*S,)`, all in the dtype of the arithmetic.
        arguments: A value for each of the operator's parameters.
        rng: Draws masks and samples.

    Returns:
        Shape `(*S,)`, in the dtype that mergekit's result has.
    """
    if name in _SPARSIFIERS:
        return _sum_task_vectors(name, base, tensors, arguments, rng)
    return _METHODS[name](base, tensors, arguments, rng)


# Sums of task vectors


def _sum_task_vectors(
    name: str, base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator
) -> Tensor:
    sparsify = _SPARSIFIERS[name]
    weight = torch.tensor(arguments["weight"], dtype=base.dtype)
    weighted = []
    for row, tensor in enumerate(tensors):
        delta = tensor - base
        own = {key: v[row] if isinstance(v, tuple) else v for key, v in arguments.items()}
        weighted.append(sparsify(delta, own, rng) * weight[row])
    stack = torch.stack(weighted)
    shares = weight.view(-1, *[1] * base.dim())
    if name in ELECTING:
        elected = (stack.sum(dim=0) >= 0).to(stack.dtype) * 2 - 1
        agreeing = stack.sign() == elected
        merged = (stack * agreeing).sum(dim=0)
        total = (shares * agreeing).sum(dim=0)
        total[total == 0] = 1
    else:
        merged = stack.sum(dim=0)
        total = shares.sum(dim=0)
        total[total.abs() < 1e-8] = 1
    if arguments["normalize"]:
        merged = merged / total
    if arguments["scale"] != 1:
        merged = merged * arguments["scale"]
    return (base + merged).to(base.dtype)


def _keep_all(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    return delta


def _keep_largest(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    density = arguments["density"]
    if density >= 1:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    kept = max(1, int(density * delta.numel()))
    order = delta.abs().reshape(-1).float().argsort(descending=True)
    mask = torch.zeros(delta.numel(), dtype=delta.dtype)
    mask[order[:kept]] = 1
    return delta * mask.view_as(delta)


def _keep_at_random(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:
    density = arguments["density"]
    if density >= 1:
        return delta
    mask = torch.bernoulli(torch.full_like(delta, density), generator=rng)
    return _restore_norm(delta, delta * mask, arguments)


def _keep_middle(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    density, size = arguments["density"], delta.numel()
    if density >= 1:
        return delta
    kept, top = int(density * size), int(arguments["gamma"] * size)
    first = max(0, size - kept - top)
    order = delta.abs().reshape(-1).float().argsort()
    mask = torch.zeros(size, dtype=delta.dtype)
    mask[order[first : first + kept]] = 1
    return delta * mask.view_as(delta)


def _keep_by_rank(delta: Tensor, arguments: Arguments, rng: torch.Generator) -> Tensor:
    density, epsilon = arguments["density"], arguments["epsilon"]
    if density >= 1:
        return delta
    rows = delta.abs().view(1, -1) if delta.dim() < 2 else delta.abs()
    ranks = rows.argsort(dim=-1).argsort(dim=-1).to(delta.dtype)
    low, high = ranks.min(dim=-1, keepdim=True).values, ranks.max(dim=-1, keepdim=True).values
    chances = (density - epsilon) + 2 * epsilon * ((ranks - low) / (high - low))
    mask = torch.bernoulli(chances, generator=rng).view_as(delta).to(delta.dtype)
    return _restore_norm(delta, delta * mask, arguments)


def _restore_norm(delta: Tensor, kept: Tensor, arguments: Arguments) -> Tensor:
    if arguments["rescale"] != "norm":
        return kept
    before, after = delta.abs().sum(), kept.abs().sum()
    if before < 1e-7 or after < 1e-7:
        return kept
    return kept * (before / after)


_SPARSIFIERS: dict[str, Callable[[Tensor, Arguments, torch.Generator], Tensor]] = {
    "task_arithmetic": _keep_all,
    "ties": _keep_largest,
    "dare_linear": _keep_at_random,
    "dare_ties": _keep_at_random,
    "breadcrumbs": _keep_middle,
    "breadcrumbs_ties": _keep_middle,
    "della": _keep_by_rank,
    "della_linear": _keep_by_rank,
}
ELECTING = {"ties", "dare_ties", "breadcrumbs_ties", "della"}


# Interpolation


def _linear(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    stack = torch.stack([tensor.to(wide) for tensor in tensors])
    return linear(stack, **arguments).to(tensors[0].dtype)


def _slerp(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    t = arguments["t"]
    dtype = tensors[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    first, second = (tensor.to(wide).reshape(-1) for tensor in tensors)
    ones = first / _norm(first), second / _norm(second)
    dot = _chunked(lambda a, b: (a * b).sum(), *ones).clamp(-1, 1)
    if abs(float(dot)) > 0.9995:
        merged = (1 - t) * first + t * second
    else:
        angle = torch.acos(dot)
        sine = torch.sin(angle)
        part = angle * t
        merged = torch.sin(angle - part) / sine * first + torch.sin(part) / sine * second
    return merged.view_as(tensors[0]).to(dtype)


def _norm(vector: Tensor) -> Tensor:
    norm = _chunked(lambda a: (a * a).sum(), vector).sqrt()
    return norm if norm > 1e-8 else torch.ones_like(norm)


def _chunked(function: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
    total = torch.zeros((), dtype=vectors[0].dtype)
    for parts in zip(*(torch.split(vector, CHUNK) for vector in vectors), strict=True):
        total = total + function(*parts)
    return total


def _nuslerp(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    first, second = tensors
    around = arguments["around"] == "base"
    if around:
        first, second = first - base, second - base
    one, other = arguments["weight"]
    t = 0.5 if abs(one + other) < 1e-6 else other / (one + other)
    along = arguments.get("along")
    if along is None:
        merged = _arc(first.reshape(1, -1), second.reshape(1, -1), t, -1)
    else:
        dim = -1 if along == "rows" else 0
        merged = _arc(first, second, t, dim)
    merged = merged.reshape(base.shape)
    return base + merged if around else merged


def _arc(first: Tensor, second: Tensor, t: float, dim: int) -> Tensor:
    tiny = 1e-8
    ones = [v / v.norm(dim=dim, keepdim=True).clamp(min=tiny) for v in (first, second)]
    cosine = (ones[0] * ones[1]).sum(dim=dim, keepdim=True).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    straight = 1 - cosine * cosine <= 1e-16
    arc = (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / sine
    return torch.where(straight, (1 - t) * first + t * second, arc)


def _multislerp(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    eps = 1e-8
    around = arguments["around"] == "base"
    points = torch.stack([t - base if around else t for t in tensors]).reshape(len(tensors), -1)
    weight = torch.tensor(arguments["weight"], dtype=base.dtype)
    if arguments["normalize"]:
        weight = weight / weight.sum()
    norms = points.norm(dim=-1, keepdim=True)
    units = points / (norms + eps)
    shares = weight.view(-1, 1)
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
    return base + merged if around else merged


def _karcher(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    tolerance = 1e-5
    flat = [tensor.reshape(-1) for tensor in tensors]
    norms = [float(vector.float().norm()) for vector in flat]
    units = [v / norm for v, norm in zip(flat, norms, strict=True) if norm > tolerance]
    share = 1 / len(tensors)
    scale = sum(share * norm for norm in norms)
    if not units:
        return torch.zeros_like(tensors[0])
    shares = [1 / len(units)] * len(units)
    mean = sum((s * unit for s, unit in zip(shares, units, strict=True)), torch.zeros_like(flat[0]))
    length = float(mean.float().norm())
    mean = mean / length if length > tolerance else units[0].clone()
    for _ in range(10):
        tangent = torch.zeros_like(mean)
        for s, unit in zip(shares, units, strict=True):
            cosine = float((mean * unit).sum().clamp(-1, 1))
            angle = math.acos(cosine)
            if angle < tolerance:
                continue
            tangent = tangent + s * (angle / math.sin(angle)) * (unit - cosine * mean)
        length = float(tangent.float().norm())
        if length < tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) * (tangent / length)
        norm = float(mean.float().norm())
        if norm > tolerance:
            mean = mean / norm
    return (scale * mean).view_as(tensors[0]).to(tensors[0].dtype)


def _passthrough(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    scale = arguments["scale"]
    return tensors[0] if scale == 1 else tensors[0] * scale


# Statistics of a tensor


def _model_stock(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    return _stock(base, tensors, rows=False)


def _model_stock_rows(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    return _stock(base, tensors, rows=True)


def _stock(base: Tensor, tensors: Sequence[Tensor], *, rows: bool) -> Tensor:
    count = len(tensors)
    shape = base.shape
    flat = [t if rows else t.reshape(-1) for t in (base, *tensors)]
    origin, points = flat[0], flat[1:]
    deltas = [point - origin for point in points]
    cosines = []
    for i in range(count):
        for j in range(i + 1, count):
            norms = deltas[i].norm(dim=-1) * deltas[j].norm(dim=-1)
            dot = (deltas[i] * deltas[j]).sum(dim=-1)
            cosines.append((dot / norms.clamp(min=1e-6)).clamp(-1, 1))
    cosine = torch.stack(cosines).mean(dim=0).unsqueeze(-1)
    below = 1 + (count - 1) * cosine
    ratio = torch.where(below.abs() < 1e-6, torch.zeros_like(below), count * cosine / below)
    mean = sum(points) / count
    return (ratio * mean + (1 - ratio) * origin).reshape(shape)


def _nearswap(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    first, second = tensors
    distance = (first - second).abs().clamp(min=1e-6)
    share = (arguments["t"] / distance).clamp(0, 1)
    return share * second + (1 - share) * first


def _arcee_fusion(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    first, second = tensors
    delta = second - first
    p, q = (torch.softmax(tensor, dim=-1) + 1e-8 for tensor in (second, first))
    divergence = (p * (p / q).log()).sum(dim=-1)
    scores = delta.abs() * divergence.unsqueeze(-1)
    low, median, high = _quartiles(scores.reshape(-1), rng)
    mask = (scores >= median + 1.5 * (high - low)).float()
    return first + delta * mask


def _quartiles(scores: Tensor, rng: torch.Generator) -> list[Tensor]:
    if scores.numel() > SAMPLE:
        scores = scores[torch.randint(scores.numel(), (SAMPLE,), generator=rng)]
    ordered = scores.sort().values
    return [ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75)]


def _sce(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    deltas = torch.stack([tensor - base for tensor in tensors])
    if arguments["density"] < 1:
        variance = deltas.var(dim=0, unbiased=False)
        kept = int(arguments["density"] * int(variance.count_nonzero()))
        mask = torch.zeros_like(variance).view(-1)
        if kept:
            mask[variance.view(-1).topk(kept).indices] = 1
        deltas = deltas * mask.view_as(variance)
    shares = (deltas**2).flatten(1).mean(dim=1)
    total = shares.sum()
    shares = shares / total if total >= 1e-6 else torch.full_like(shares, 1 / len(tensors))
    shares = shares.view(-1, *[1] * base.dim())
    elected = (deltas.sum(dim=0) >= 0).to(deltas.dtype) * 2 - 1
    agreeing = deltas.sign() == elected
    erased = shares * agreeing
    merged = (deltas * erased).sum(dim=0) / erased.sum(dim=0).clamp(min=1e-6)
    return base + merged


def _ram(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    deltas = torch.stack([tensor - base for tensor in tensors])
    active = deltas.abs() > arguments["epsilon"]
    total = torch.where(active, deltas, 0.0).sum(dim=0)
    return base + total / active.sum(dim=0).clamp(min=1).to(deltas.dtype)


def _ramplus_tl(
    base: Tensor, tensors: Sequence[Tensor], arguments: Arguments, rng: torch.Generator  # noqa: ARG001
) -> Tensor:
    deltas = torch.stack([tensor - base for tensor in tensors])
    active = deltas.abs() > arguments["epsilon"]
    count = active.sum(dim=0)
    total = torch.zeros_like(base)
    for delta, own in zip(deltas, active, strict=True):
        alone = own & (count == 1)
        shared = own & (count > 1)
        ratio = float(shared.sum()) / max(1.0, float(alone.sum()))
        bonus = 1 + arguments["r"] * min(max(ratio, 0.0), arguments["alpha"])
        total = total + torch.where(own, delta, 0.0) * torch.where(alone, bonus, 1.0)
    return base + total / count.clamp(min=1)


_METHODS: dict[str, Callable[[Tensor, Sequence[Tensor], Arguments, torch.Generator], Tensor]] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "nuslerp_lines": _nuslerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "passthrough": _passthrough,
    "model_stock": _model_stock,
    "model_stock_rows": _model_stock_rows,
    "nearswap": _nearswap,
    "arcee_fusion": _arcee_fusion,
    "sce": _sce,
    "ram": _ram,
    "ramplus_tl": _ramplus_tl,
}

"""How near mergekit's results and ours must be, and of which calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.operators.axes import as_vectors, from_vectors
from evomerge.recipe.mergekit.names import METHODS

if TYPE_CHECKING:
    from mergekit_calls import Call
    from torch import Tensor

SLACK = 4
"""Roundings in float32 of the largest number at hand."""


def assert_close(call: Call, ours: Tensor, theirs: Tensor, where: Tensor | bool = True) -> None:
    """Check that results are neighbours as stored, or differ by a few roundings in float32.

    Where operands cancel out few digits are left, so these roundings are those of the largest
    number at hand: the entry of any model, or the greatest change of the tensor.

    Args:
        call: What was asked.
        ours: Our result, shape `(*S,)`.
        theirs: mergekit's.
        where: The entries that are compared, shape `(*S,)`.
    """
    assert ours.dtype == theirs.dtype
    one, other = ours.double(), theirs.double()
    info = torch.finfo(ours.dtype)
    larger = torch.maximum(one.abs(), other.abs()).clamp(min=info.tiny)
    neighbour = 2.0 ** larger.log2().floor() * info.eps
    at_hand = call.stack.double().abs().amax(0) + (other - call.stack[0].double()).abs().max()
    allowed = neighbour + SLACK * torch.finfo(torch.float32).eps * at_hand
    assert bool(((one - other).abs() <= allowed)[where].all())


def is_cut_among_equals(call: Call) -> bool:
    """Whether the order of equal entries, or of nearly equal variances, decides what is kept."""
    if call.method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        rows = enumerate(call.deltas.abs())
        return any(_is_tied(own, cut) for row, own in rows for cut in cuts(call, row))
    if call.method == "sce" and "select_topk" in call.parameters:
        variance = call.deltas.double().var(0, correction=0)
        at = variance.numel() - _selected(call, variance)
        return _is_tied(variance, at, 1e-4)
    return False


def cuts(call: Call, row: int) -> list[int]:
    """How many entries of a source's task vector are smaller than each of its cuts."""
    _, arguments = call.ours()
    density, size = arguments["density"][row], call.stack[0].numel()
    kept = int(density * size)
    if call.method == "ties":
        return [size - max(1, kept)] if 0 < density < 1 else []
    if density >= 1 or kept == 0:
        return []
    first = max(0, size - kept - int(arguments["gamma"][row] * size))
    return [first, first + kept]


def _is_tied(values: Tensor, cut: int, tolerance: float = 0.0) -> bool:
    """Whether the entries on both sides of a cut are equal, and not 0."""
    if not 0 < cut < values.numel():
        return False
    below, above = values.reshape(-1).sort().values[cut - 1 : cut + 1].tolist()
    return above > 0 and above - below <= tolerance * above


def _selected(call: Call, variance: Tensor) -> int:
    share = torch.tensor(call.parameters.get("select_topk", 1.0), dtype=torch.float32)
    return int(share * int(variance.count_nonzero()))


def well_conditioned(call: Call) -> Tensor:
    """Entries where a small error of an angle is a small error of the result, shape `(*S,)`."""
    shape = tuple(call.stack.shape[1:])
    if call.method == "sce":
        return torch.full(shape, _energy(call) > 1e-6)
    name, arguments = call.ours()
    from_base = METHODS[call.method].base == "origin" or arguments.get("around") == "base"
    seen = call.sources.double() - (call.stack[0].double() if from_base else 0.0)
    if name not in ("nuslerp_lines", "model_stock_rows"):
        return _is_well(call, seen.reshape(len(seen), 1, -1)).expand(shape)
    along = arguments.get("along", "rows")
    lines = as_vectors(seen, along)
    return from_vectors(_is_well(call, lines)[:, None].expand(lines.shape[1:]), shape, along)


def _is_well(call: Call, lines: Tensor) -> Tensor:
    """Whether angles between lines, shape `(M, n, length)`, are; shape `(n,)`."""
    lengths = lines.norm(dim=-1, keepdim=True)
    units = lines / lengths.clamp(min=1e-30)
    cosines = torch.einsum("anl,bnl->nab", units, units)
    count = len(units)
    match call.method:
        case "model_stock":
            mean = cosines.tril(-1).sum((1, 2)) / (count * (count - 1) / 2)
            return (1 + (count - 1) * mean).abs() > 0.3
        case "multislerp":
            weight = torch.tensor(call.parameters["weight"], dtype=torch.float64)
            shares = weight / weight.abs().sum()
            return torch.einsum("nab,a,b->n", cosines, shares, shares) > 0.04
        case "karcher":
            # The angles that mergekit finds between siblings so close are noise.
            noise = (cosines > 1 - 1e-5) & (cosines < 1 - 1e-12)
            return ((cosines > -0.9) & ~noise).all(-1).all(-1)
        case "nuslerp":
            # Shorter lines are at right angles to all for us, and nearly so for mergekit.
            short = (lengths > 0) & (lengths < 1e-7)
            return (cosines > -0.7).all(-1).all(-1) & ~short[..., 0].any(0)
        case _:
            return (cosines > -0.9).all(-1).all(-1)


def _energy(call: Call) -> float:
    """What SCE weighs sources by; if it is next to nothing, mergekit weighs all alike."""
    deltas = call.deltas.double().flatten(1)
    if call.parameters.get("select_topk", 1.0) < 1:
        variance = deltas.var(0, correction=0)
        chosen = variance.topk(_selected(call, variance)).indices
        return float(deltas[:, chosen].square().sum() / deltas.shape[1])
    return float(deltas.square().sum() / deltas.shape[1])

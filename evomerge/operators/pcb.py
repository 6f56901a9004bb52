"""Let parameters compete within each task vector and between task vectors.

Du et al., "Parameter competition balancing for model merging", 2024,
https://arxiv.org/abs/2410.02396, section 3. As in the authors' code, scores are exponentials and
hyperbolic tangents where the paper writes softmax. Ranks are taken in the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.select import order_statistic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Balancing = Literal["sum", "normalized", "pairs"]


@measure("model")
def score_limits(
    stacks: Iterable[Tensor], *, density: float, outliers: float, balancing: Balancing
) -> Tensor:
    """Limits of each source's magnitudes and scores in the whole model.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
        density: Fraction of a source's entries whose scores count.
        outliers: Fraction of a source's entries that are clamped at either end.
        balancing: What an entry must agree with.

    Returns:
        Shape `(M, 4)`: least and greatest magnitude after clamping, the score below which an entry
        does not count, the greatest score.
    """
    sizes = [(len(stack), stack[0].numel()) for stack in stacks]
    sources, size = sizes[0][0], sum(entries for _, entries in sizes)
    if size == 0:
        return torch.zeros(sources, 4)
    low, high = int(size * outliers), max(0, int(size * (1 - outliers) - 1))
    least = min(size - 1, int(size * (1 - density)))
    ends = []
    for row in range(sources):
        magnitudes = _View(stacks, partial(_magnitude, row=row))
        ends.append(torch.stack([order_statistic(magnitudes, rank) for rank in (low, high)]))
    limits = []
    for row in range(sources):
        scores = _View(stacks, partial(_score, row=row, ends=ends, balancing=balancing))
        greatest = torch.stack([each.amax() for each in scores if each.numel()]).amax()
        limits.append(torch.stack([order_statistic(scores, least), greatest]))
    return torch.cat([torch.stack(ends), torch.stack(limits)], dim=1)


# Compiled loops have an exponential and a hyperbolic tangent of their own.
@operator(space="delta", elementwise=True, fusible=False, measure=score_limits)
def pcb(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    density: Annotated[float, Interval(0.0, 1.0), Search(0.05, 0.5)] = 0.1,  # noqa: ARG001
    outliers: Annotated[float, Interval(0.0, 0.1), Search(0.0, 0.01)] = 1e-4,  # noqa: ARG001
    balancing: Balancing = "sum",
    scale: Scale = 1.0,
    measured: Tensor,
) -> Tensor:
    """Average task vectors by how large an entry is and how well the other sources agree with it.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        density: Fraction of each source's entries whose scores count, in the whole model.
        outliers: Fraction of each source's entries that are clamped at either end of their
            magnitudes, in the whole model.
        balancing: What an entry must agree with: the `sum` of the sources (section 3), the sum of
            their `normalized` magnitudes, or each source by itself in `pairs`.
        scale: Factor on the merged task vector (lambda).
        measured: Limits of magnitudes and scores, shape `(M, 4)`, see `score_limits`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Entries that count in no source
        are 0.
    """
    rows = [*deltas]
    limits = measured.to(rows[0].dtype)
    ends = [*limits[:, :2]]
    shares, parts = [], []
    for row, (w, (least, greatest)) in enumerate(zip(weight, limits[:, 2:], strict=True)):
        share = _share(_score(rows, row, ends, balancing), least, greatest)
        shares.append(share)
        parts.append(_clamp(rows[row], ends[row]) * share * w)
    total = add_up(shares, rows[0]).clamp(min=1e-12)
    return add_up(parts, rows[0]) / total * scale


@dataclass(frozen=True, slots=True)
class _View:
    """What a function makes of each stack of a model; may be gone through again."""

    stacks: Iterable[Tensor]
    look: Callable[[Tensor], Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.look, self.stacks)


def _magnitude(stack: Tensor, row: int) -> Tensor:
    return stack[row].abs()


def _score(
    deltas: Sequence[Tensor] | Tensor, row: int, ends: Sequence[Tensor], balancing: Balancing
) -> Tensor:
    """How much the entries of a source deserve to be kept, up to a positive factor.

    The product of competition within the source and between sources; the factor `exp(-M)` keeps
    the exponential from overflowing and cancels in `_share`.
    """
    delta = deltas[row]
    within = torch.exp(len(deltas) * (_normalize(delta, ends[row]).square() - 1))
    if balancing == "sum":
        return within * torch.tanh(delta * add_up(deltas, delta))
    pairs = zip(deltas, ends, strict=True)
    if balancing == "normalized":
        others = (other.sign() * _normalize(other, limits) for other, limits in pairs)
        return within * torch.tanh(delta * add_up(others, delta))
    own = _clamp(delta, ends[row])
    between = (torch.tanh(own * _clamp(other, limits)) for other, limits in pairs)
    return within * add_up(between, delta)


def _clamp(delta: Tensor, ends: Tensor) -> Tensor:
    return delta.sign() * torch.clamp(delta.abs(), ends[0], ends[1])


def _normalize(delta: Tensor, ends: Tensor) -> Tensor:
    """Clamped magnitudes from 0 to 1; all 0 where they are all alike."""
    low, high = ends[0], ends[1]
    width = torch.where(high > low, high - low, 1.0)
    return (torch.clamp(delta.abs(), low, high) - low) / width


def _share(score: Tensor, least: Tensor, greatest: Tensor) -> Tensor:
    """Scores from 0, at the least that counts, to 1, at the greatest.

    Where the two are one, an entry of that score counts in full, unless no source supports it.
    """
    width = greatest - least
    alike = (score >= greatest) & (score > 0)
    shares = (torch.clamp(score, least) - least) / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, shares, alike.to(score.dtype))

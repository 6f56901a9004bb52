"""Select, calculate and erase.

Wan et al., "FuseChat: Knowledge Fusion of Chat Models", 2024, https://arxiv.org/abs/2408.07990,
section 3.3, tensor by tensor. The two implementations that are public disagree on what becomes of
entries that are not selected: mergekit erases them (`sce`), the authors' fork of it, in FuseAI
(https://github.com/fanqiwan/FuseAI), weighs sources by the selected ones and merges all
(`sce_unmasked`). Where task vectors are as small as those of common fine-tunes, mergekit weighs
all sources alike; here they are weighed by the paper whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.inner_products import CHUNK
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator
from evomerge.operators.select import order_statistic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Density = Annotated[float, Interval(0.0, 1.0), Search(0.1, 1.0)]


@measure("tensor")
def variance_and_energy(stack: Tensor, *, density: float) -> Tensor:
    """The least variance that is selected, then each source's weight; `(1 + M,)`, float64.

    Args:
        stack: Task vectors of one parameter, shape `(M, *S)`.
        density: Fraction of the entries that differ between the sources to select.
    """
    parts = _Parts(stack)
    least = _least_variance(parts, density)
    energy = torch.zeros(len(stack), dtype=torch.float64)
    for part in parts:
        squares = [row.double().square().sum() for row in _select(list(part), least)]
        energy += torch.stack(squares)
    total = energy.sum()
    return torch.cat([least.double()[None], energy / torch.where(total > 0, total, 1.0)])


@operator(space="delta", elementwise=True, measure=variance_and_energy)
def sce(
    deltas: Tensor,
    *,
    density: Density = 1.0,  # noqa: ARG001 (is in the least variance)
    measured: Tensor,
) -> Tensor:
    """Keep entries that vary most, weigh sources by their energy, erase the minority's signs.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        density: Fraction of the entries that differ between the sources to select, by variance;
            at 1 equal ones are selected too.
        measured: The least variance selected and the weights of the sources, shape `(1 + M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Sums that are 0 elect plus.
    """
    found = measured.to(deltas[0].dtype)
    return _merge_elected(_select(deltas, found[0]), found[1:])


@operator(space="delta", elementwise=True, measure=variance_and_energy)
def sce_unmasked(
    deltas: Tensor,
    *,
    density: Density = 1.0,  # noqa: ARG001 (is in the weights)
    measured: Tensor,
) -> Tensor:
    """Weigh sources by their energy where they vary most, erase the minority's signs everywhere.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        density: Fraction of the entries that differ between the sources to weigh them by, those
            of the largest variance.
        measured: The least variance selected and the weights of the sources, shape `(1 + M,)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`. Sums that are 0 elect plus;
        where nothing is selected, all sources weigh the same.
    """
    weights = measured[1:].to(deltas[0].dtype)
    return _merge_elected(deltas, torch.where(weights.sum() == 0, 1.0, weights))


def _merge_elected(deltas: Tensor | Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted mean, at each entry, of the sources that have the sign of the entry's sum."""
    elected = torch.where(add_up(deltas, deltas[0]) >= 0, 1.0, -1.0).to(deltas[0].dtype)
    agreeing = [(row.sign() == elected).to(row.dtype) for row in deltas]
    weighted = [own * weight for own, weight in zip(agreeing, weights, strict=True)]
    merged = add_up((row * w for row, w in zip(deltas, weighted, strict=True)), deltas[0])
    return merged / add_up(weighted, merged).clamp(min=1e-6)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A stack cut into short ones, which can be gone through again."""

    stack: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.split(self.stack.reshape(len(self.stack), -1), CHUNK, dim=1)


@dataclass(frozen=True, slots=True)
class _Variances:
    """The variances of a stack's entries, a part at a time."""

    parts: _Parts

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield _variance(list(part))


def _least_variance(parts: _Parts, density: float) -> Tensor:
    dtype = parts.stack.dtype
    if density >= 1:
        return torch.tensor(-torch.inf, dtype=dtype)
    variances = _Variances(parts)
    differing = sum(int(variance.count_nonzero()) for variance in variances)
    # As mergekit rounds it: 0.29 of 100 entries are 29, where double precision finds 28.
    selected = int(torch.tensor(density, dtype=torch.float32) * differing)
    if selected == 0:
        return torch.tensor(torch.inf, dtype=dtype)
    return order_statistic(variances, parts.stack[0].numel() - selected)


def _select(deltas: Tensor | Sequence[Tensor], least: Tensor) -> list[Tensor]:
    """Entries whose variance is too small become 0; no numbers stay what they are."""
    unselected = _variance(deltas) < least
    return [torch.where(unselected, 0.0, row) for row in deltas]


def _variance(deltas: Tensor | Sequence[Tensor]) -> Tensor:
    # Seen from the first source, for then entries that are all equal have none: the mean of three
    # equal numbers may be another number.
    seen = [row - deltas[0] for row in deltas]
    mean = add_up(seen, seen[0]) / len(seen)
    return add_up(((row - mean).square() for row in seen), mean) / len(seen)

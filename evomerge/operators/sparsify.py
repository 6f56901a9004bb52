"""Ways to keep a fraction of a task vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from evomerge.operators.accumulate import absolute_sum
from evomerge.operators.measure import measure
from evomerge.operators.select import order_statistic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from evomerge.operators.chunks import Chunks
    from evomerge.operators.randomness import Draws

Rescale = Literal["density", "norm", "none"]


@measure("chunks")
def trim_threshold(delta: Chunks, *, density: float) -> Tensor:
    """The least magnitude that `trim` keeps, shape `()`."""
    if density >= 1 or delta.entries == 0:
        return torch.zeros((), dtype=delta.dtype)
    if density <= 0:
        return torch.tensor(torch.inf, dtype=delta.dtype)
    kept = max(1, int(density * delta.entries))
    return order_statistic(delta, delta.entries - kept)


def trim(delta: Tensor, threshold: Tensor) -> Tensor:
    """Keep the entries of largest magnitude (TIES, section 4, step 1).

    Entries as large as the smallest one kept are kept too, so that the result does not depend on
    an order among equals.

    Args:
        delta: Task vector of one parameter, any shape.
        threshold: The least magnitude kept, see `trim_threshold`.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    if torch.compiler.is_compiling():
        return torch.where(delta.abs() < threshold, 0.0, delta)
    # One operation instead of three; it keeps what is greater than its bound.
    bound = torch.as_tensor(threshold, dtype=delta.dtype)
    return hardshrink(delta, torch.nextafter(bound, bound.new_tensor(-torch.inf)).item())


def entry_count(stacks: Iterable[Tensor]) -> int:
    """How many entries a model has, whose sources' tensors are stacked, each `(M, *S)`."""
    return sum(stack[0].numel() for stack in stacks)


def model_threshold(stacks: Iterable[Tensor], row: int, kept: int) -> Tensor:
    """The least magnitude that `trim` keeps of all tensors of a model together.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
        row: Which source is looked at.
        kept: How many of its entries are kept, if no two are of equal magnitude.

    Returns:
        Shape `()`, float64, for tensors of a model may differ in dtype.
    """
    dropped = entry_count(stacks) - kept
    if dropped <= 0:
        return torch.zeros((), dtype=torch.float64)
    if kept == 0:
        return torch.tensor(torch.inf, dtype=torch.float64)
    return order_statistic(_Magnitudes(stacks, row), dropped).double()


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """Those of one source, which can be gone through again without holding the model."""

    stacks: Iterable[Tensor]
    row: int

    def __iter__(self) -> Iterator[Tensor]:
        for stack in self.stacks:
            yield stack[self.row].abs()


@measure("chunks")
def drop_factor(delta: Chunks, *, density: float, rescale: Rescale, draws: Draws) -> Tensor:
    """What makes up for the entries that `drop` takes away, shape `()` (DARE, section 3.2).

    Args:
        delta: Task vector of one parameter.
        density: Chance of an entry to be kept, in [0, 1].
        rescale: `density` divides by the density (the paper), `norm` restores the L1 norm
            (mergekit's default), `none` does nothing.
        draws: Draws the mask.
    """
    if rescale == "none" or density <= 0 or density >= 1:
        return torch.ones((), dtype=delta.dtype)
    if rescale == "density":
        return torch.tensor(1 / density, dtype=delta.dtype)

    def thin(piece: Tensor, _: slice, own: Draws) -> Tensor:
        return drop(piece, density, own)

    return torch.tensor(norm_factor(delta, draws, thin), dtype=delta.dtype)


def drop(delta: Tensor, density: float | Tensor, draws: Draws) -> Tensor:
    """Keep entries at random (DARE, section 3.2).

    Args:
        delta: Task vector of one parameter, any shape.
        density: Chance of an entry to be kept, in [0, 1].
        draws: Draws the mask.

    Returns:
        A tensor shaped as `delta`, the other entries 0.
    """
    return delta * draws.kept(delta.shape, density)


def norm_factor(
    delta: Chunks, draws: Draws, thin: Callable[[Tensor, slice, Draws], Tensor]
) -> float:
    """What gives the entries kept the L1 norm of all; 1 if either norm is near 0.

    Args:
        delta: Task vector of one parameter.
        draws: Its random numbers.
        thin: Returns what is kept of a piece, given where that lies and its random numbers.
    """
    before = after = 0.0
    for where in delta.cuts():
        piece = delta.take(where)
        before += absolute_sum(piece)
        after += absolute_sum(thin(piece, where, draws.after(where.start)))
    return before / after if min(before, after) >= 1e-7 else 1.0

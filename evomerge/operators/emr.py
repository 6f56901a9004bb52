"""Rebuild one source from what all sources agree on: an upper bound, not an offspring.

Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging", 2024,
https://arxiv.org/abs/2405.17461, section 3. The method keeps one unified task vector and, for each
source, a mask and a rescaler, and picks these by task; this is what it then computes with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.accumulate import absolute_sum, add_up
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@measure("model")
def rescalers(stacks: Iterable[Tensor]) -> Tensor:
    """What restores the L1 norm of each source's rebuilt task vector, shape `(M,)`, float64.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
    """
    sums = torch.stack([_norms_before_and_after(stack) for stack in stacks]).sum(0)
    before, after = sums.unbind()
    return torch.where(after > 0, before / after, 1.0)


def _norms_before_and_after(stack: Tensor) -> Tensor:
    rows = zip(stack, _masked(stack), strict=True)
    norms = [(absolute_sum(delta), absolute_sum(masked)) for delta, masked in rows]
    return torch.tensor(norms, dtype=torch.float64).T


def _masked(deltas: Tensor) -> Iterator[Tensor]:
    """The unified task vector under the mask of each source."""
    elected = torch.where(add_up(deltas, deltas[0]) > 0, 1.0, -1.0).to(deltas.dtype)
    agreeing = deltas * elected > 0
    unified = elected * (deltas.abs() * agreeing).amax(dim=0)
    yield from unified * agreeing


@operator(space="delta", measure=rescalers)
def emr(
    deltas: Tensor,
    *,
    task: Annotated[float, Interval(0.0), Search(0.0, 1.0)],
    measured: Tensor,
) -> Tensor:
    """Rebuild a source's task vector from the unified one, its mask and its rescaler.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        task: Index of the source to rebuild, from 0; a fraction is cut off.
        measured: Rescaler of each source, shape `(M,)`; one for all tensors of a model.

    Returns:
        The rebuilt task vector, shape `(*S,)`, the dtype of `deltas`.

    Raises:
        MergeError: There is no such source.
    """
    index = int(task)
    if index >= len(deltas):
        raise MergeError(f"task: {index} is no source; there are {len(deltas)}, counted from 0")
    masked = list(_masked(deltas))[index]
    return masked * measured[index].to(masked.dtype)

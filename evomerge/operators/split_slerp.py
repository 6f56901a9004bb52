"""Spherical interpolation that changes sides at a point of the flattened model.

Abrantes, Lange and Tang, "Competition and Attraction Improve Model Fusion", 2025,
https://arxiv.org/abs/2508.16204: the crossover of M2N2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.operators.arc import arc_shares
from evomerge.operators.inner_products import inner_products
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Fraction
from evomerge.operators.registry import operator
from evomerge.operators.slerp import NEARLY_PARALLEL

if TYPE_CHECKING:
    from collections.abc import Iterable


@measure("model")
def shares(stacks: Iterable[Tensor], *, t: float, split: float) -> Tensor:
    """What each source contributes before and after the split point, and where that lies.

    Args:
        stacks: The weights of both sources, tensor by tensor, each of shape `(2, *S)`.
        t: How far to go from the first source to the second, before the split point.
        split: The split point, as a fraction of the model's entries.

    Returns:
        Shape `(5,)`, float64: the shares of the first and of the second source before the split
        point, the same after it, and the number of entries before it.
    """
    gram, entries = torch.zeros(2, 2, dtype=torch.float64), 0
    for stack in stacks:
        gram += inner_products(stack.reshape(2, 1, -1))[0]
        entries += stack[0].numel()
    ways = torch.tensor([t, 1 - t], dtype=torch.float64)
    before, after = (arc_shares(gram, way, NEARLY_PARALLEL) for way in ways)
    return torch.cat([before, after, gram.new_tensor([round(split * entries)])])


@operator(space="weight", elementwise=True, sources=(2, 2), measure=shares)
def split_slerp(
    tensors: Tensor,
    *,
    t: Fraction,  # noqa: ARG001 (is in the shares)
    split: Fraction = 0.5,  # noqa: ARG001 (is in the shares)
    offset: Tensor,
    measured: Tensor,
) -> Tensor:
    """Interpolate with `t` before a point of the flattened model and with `1 - t` after it.

    The angle is that between the whole models; their tensors are flattened and joined in the
    order of their names.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        t: How far to go from the first source to the second, before the split point.
        split: The split point, as a fraction of the model's entries.
        offset: Entries of the model that come before, shape `()`.
        measured: Shares of the sources and the split point, see `shares`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    first, second = tensors
    index = offset + torch.arange(math.prod(first.shape)).view(first.shape)
    before = index < measured[4]
    of_first, of_second = (
        torch.where(before, measured[row], measured[row + 2]).to(first.dtype) for row in (0, 1)
    )
    merged: Tensor = first * of_first + second * of_second
    return merged

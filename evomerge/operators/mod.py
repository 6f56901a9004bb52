"""Replace the largest MLP weights of one model by those of another.

Dang and Ngo, "MoD: A Distribution-Based Approach for Merging Large Language Models", 2024,
https://arxiv.org/abs/2411.00406, as its code does it: the paper speaks of mixing distributions,
the code selects weights. Trained weights lie near zero, so that it replaces next to none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.layout import Component
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Fraction
from evomerge.operators.registry import operator

_MLP = [*Component].index(Component.MLP)


@measure("tensor")
def range_of_first(tensors: Tensor) -> Tensor:
    """The least and the greatest weight of the first source, shape `(2,)`."""
    first = tensors[0]
    return torch.stack(first.aminmax()) if first.numel() else first.new_zeros(2)


@operator(space="weight", elementwise=True, sources=(2, 2), measure=range_of_first)
def mod(tensors: Tensor, *, share: Fraction = 0.9, component: Tensor, measured: Tensor) -> Tensor:
    """Take from the second source what is greater in the first than a share of its range.

    Only in the MLP; elsewhere, and in tensors of one value, the first source is kept.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        share: Where to cut the range of the first source, counted from its least weight; the
            weight of the first model in the paper.
        component: Number of the tensor's component, shape `()`.
        measured: The least and the greatest weight of the first source, shape `(2,)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    first, second = tensors
    low, high = measured
    width = high - low
    place = (first - low) / torch.where(width > 0, width, 1.0)
    replaced = ~(place < share) & (component == _MLP)
    return torch.where(replaced, second, first)

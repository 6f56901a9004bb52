"""A run of layers of one model inside another.

Holland, "Adaptation in Natural and Artificial Systems", 1975, and De Jong, "An Analysis of the
Behavior of a Class of Genetic Adaptive Systems", 1975, https://hdl.handle.net/2027.42/4507: the
crossover of strings, here of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.operators.parameters import Fraction
from evomerge.operators.registry import operator


@operator(space="weight", elementwise=True, sources=(2, 2))
def two_point_crossover(
    tensors: Tensor, *, low: Fraction = 0.25, high: Fraction = 0.75, depth: Tensor
) -> Tensor:
    """Take the layers between two cuts from the second source, all else from the first.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        low: One cut: 0 is the first layer, 1 the last. A layer at a cut lies between them.
        high: The other cut; the two may come in any order.
        depth: Where the tensor's layer sits, NaN outside the layers, shape `()`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`; the entries of one source.
    """
    first, second = tensors
    # One of the cuts on each side, whichever it is; NaN lies on no side.
    between = ((low <= depth) & (depth <= high)) | ((high <= depth) & (depth <= low))
    return torch.where(between, second, first)

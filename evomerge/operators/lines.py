"""Task arithmetic whose strength grows with depth.

Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
2024, https://arxiv.org/abs/2410.17146, section 4.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Interval, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.task_arithmetic import add_weighted

Coefficient = Annotated[float, Interval(), Search(0.0, 1.0)]


@operator(space="delta", elementwise=True)
def lines(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    alpha: Coefficient,
    beta: Coefficient,
    normalize: bool = False,
    depth: Tensor,
) -> Tensor:
    """Add up the task vectors, times a factor that rises linearly from layer to layer.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        alpha: Factor in the first layer and outside the layers.
        beta: How much greater the factor of the last layer is.
        normalize: Divide by the sum of the weights, if that is not zero.
        depth: Where the tensor's layer sits, 0 first and 1 last, NaN outside; shape `()`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    inside = torch.where(depth.isnan(), 0.0, depth).to(deltas[0].dtype)
    factor = alpha + beta * inside
    return add_weighted(deltas, weight, scale=1.0, normalize=normalize) * factor

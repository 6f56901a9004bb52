"""Keep a merge near the base where the base's activations are strong.

Nobari et al., "Activation-Informed Merging of Large Language Models", 2025,
https://arxiv.org/abs/2502.02421, section 4. It relaxes any merge: make that merge, as a recipe,
the only source.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.task_arithmetic import add_weighted


@operator(space="delta")
def aim(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    omega: Annotated[float, Interval(0.0, 1.0), Search(0.2, 0.6)] = 0.4,
    scale: Scale = 1.0,
    activation: Tensor | None,
) -> Tensor:
    """Add up the task vectors and shrink the columns that read strong activations.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        omega: What is left of the column of the strongest activation; 1 changes nothing.
        scale: Factor on the merged task vector.
        activation: Mean magnitude of the base model's input columns, shape `(in,)`; None if the
            tensor is not a linear layer's weight, and then nothing shrinks.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    merged = add_weighted(deltas, weight, scale=scale, normalize=False)
    if activation is None or not merged.numel():
        return merged
    strongest = activation.max()
    relative = activation / torch.where(strongest > 0, strongest, 1.0)
    return merged * (1 - relative * (1 - omega)).to(merged.dtype)

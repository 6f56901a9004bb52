"""Whole layers from one parent or another.

Syswerda, "Uniform crossover in genetic algorithms", 1989 (ICGA, pages 2 to 9): every gene is from
a parent drawn by lot; here a gene is a layer, a component of a layer or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.accumulate import add_up
from evomerge.operators.parameters import Interval, Search
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator


def _a_source_has_a_chance(weight: Sequence[float], **_: object) -> None:
    if sum(weight) <= 0:
        raise MergeError(f"weight: {list(weight)} gives no source a chance; make one positive")


@operator(space="weight", elementwise=True, check=_a_source_has_a_chance)
def layer_crossover(
    tensors: Tensor,
    *,
    weight: Annotated[Sequence[float], Interval(0.0), Search(0.1, 1.0)] = (1.0,),
    granularity: Literal["layer", "component", "tensor"] = "layer",
    draws: Sequence[Draws],
    component: Tensor,
) -> Tensor:
    """Take every layer whole from one source, drawn by lot.

    What lies outside the layers counts as one layer per component.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        weight: Chance of each source in proportion to the others, length M.
        granularity: What is inherited in one piece: all tensors of a layer, those of a layer and
            component, or each tensor by itself.
        draws: Random numbers of each source; those of the first are used.
        component: Number of the tensor's component, shape `()`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`; the entries of one source.

    Raises:
        MergeError: No weight is positive.
    """
    own = draws[0]
    if granularity == "tensor":
        drawn = own.of_tensor(1)[0]
    else:
        drawn = own.of_layer(1, component + 1 if granularity == "component" else 0)[0]
    weights = [torch.as_tensor(share, dtype=torch.float32) for share in weight]
    lot = drawn * add_up(weights, weights[0])
    child, passed = tensors[0], torch.zeros(())
    for tensor, share in zip(tensors, weights, strict=True):
        child = torch.where((passed <= lot) & (share > 0), tensor, child)
        passed = passed + share
    return child

"""Task arithmetic with weights in closed form.

Zhou et al., "MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic", 2024,
https://arxiv.org/abs/2406.11385, section 4: where losses are quadratic around the base and task
vectors orthogonal, the best weight of a source is its share of the squared norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Scale
from evomerge.operators.registry import operator

if TYPE_CHECKING:
    from collections.abc import Iterable


@measure("model")
def shares_of_squared_norm(stacks: Iterable[Tensor]) -> Tensor:
    """Each source's share of the squared norms of all task vectors, shape `(M,)`, float64.

    Args:
        stacks: The task vectors, tensor by tensor, each of shape `(M, *S)`.
    """
    squares = torch.stack([_squared_norms(stack) for stack in stacks]).sum(dim=0)
    total = squares.sum()
    return squares / torch.where(total > 0, total, 1.0)


def _squared_norms(stack: Tensor) -> Tensor:
    return torch.tensor([_squared_norm(delta) for delta in stack], dtype=torch.float64)


def _squared_norm(delta: Tensor) -> float:
    # Parts of this length are summed by one thread each.
    parts = torch.split(delta.reshape(-1), 32_768)
    return sum(float(part.double().square().sum()) for part in parts)


@operator(space="delta", elementwise=True, measure=shares_of_squared_norm)
def metagpt(deltas: Tensor, *, scale: Scale = 1.0, measured: Tensor) -> Tensor:
    """Add up the task vectors, each times its share of the squared norms of all.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        scale: Factor on the merged task vector; the paper has none.
        measured: Share of each source, shape `(M,)`; one for all tensors of a model.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    shares = measured.to(deltas[0].dtype)
    return add_up((d * s for d, s in zip(deltas, shares, strict=True)), deltas[0]) * scale

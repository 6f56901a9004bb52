"""Weighted average of models, also called a model soup.

Wortsman et al., "Model soups", 2022, https://arxiv.org/abs/2203.05482, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.parameters import Weights
from evomerge.operators.registry import operator


def _weights_do_not_cancel(weight: Weights, *, normalize: bool) -> None:
    total = sum(weight)
    if normalize and abs(total) < 1e-8:
        raise MergeError(f"weight: {list(weight)} add up to {total:g}; cannot normalize")


# Compiled loops round after the multiplication.
@operator(space="weight", elementwise=True, fusible=False, check=_weights_do_not_cancel)
def linear(tensors: Tensor, *, weight: Weights = (1.0,), normalize: bool = True) -> Tensor:
    """Average the sources.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        normalize: Divide by the sum of the weights.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.

    Raises:
        MergeError: The weights add up to zero and `normalize` is set.
    """
    merged = torch.zeros_like(tensors[0])
    weights = torch.as_tensor(weight, dtype=merged.dtype)
    for tensor, coefficient in zip(tensors, weights, strict=True):
        # One fused step per source, as in mergekit, so that both agree to the last bit.
        merged = torch.addcmul(merged, tensor, coefficient)
    return merged / weights.sum() if normalize else merged

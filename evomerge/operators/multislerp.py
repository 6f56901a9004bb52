"""Spherical mean of any number of models, seen from the base model or from zero.

mergekit's Multi-SLERP (Goddard et al., "Arcee's MergeKit", 2024, https://arxiv.org/abs/2403.13257).
Its step from the weighted mean direction along the mean of the tangents comes to nothing, for at
the mean the tangents cancel out; what remains is the direction, as long as the sources on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.combination import combination
from evomerge.operators.inner_products import Around, gram_around
from evomerge.operators.parameters import Weights
from evomerge.operators.registry import operator

SHORT = 1e-8
"""Length below which directions have cancelled out; also keeps zero from being divided by."""


def _weights_do_not_cancel(weight: Weights, *, normalize: bool, **_: object) -> None:
    if normalize and abs(sum(weight)) < 1e-8:
        raise MergeError(
            f"weight: {list(weight)} add up to {sum(weight):g}; cannot normalize. Change them or "
            "set normalize: false"
        )


@operator(space="weight", elementwise=True, measure=gram_around, check=_weights_do_not_cancel)
def multislerp(
    tensors: Tensor,
    *,
    weight: Weights,
    normalize: bool = True,
    around: Around = "base",
    base: Tensor,
    measured: Tensor,
) -> Tensor:
    """Take the weighted mean of the sources' directions, at the weighted mean of their lengths.

    Args:
        tensors: One parameter of every source, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        normalize: Divide the weights by their sum.
        around: Where directions and lengths are seen from: `base` means task vectors, `origin`
            weights.
        base: The base model's tensor, shape `(*S,)`.
        measured: Inner products of the sources from there, shape `(M, M)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`. Directions that cancel out leave the weighted sum.
    """
    if around == "origin":
        return _multislerp(tensors, measured, weight, normalize)
    return _multislerp([tensor - base for tensor in tensors], measured, weight, normalize) + base


@combination
def _multislerp(gram: Tensor, weight: Tensor, normalize: Tensor) -> Tensor:
    weight = weight / torch.where(normalize > 0, weight.sum(), 1.0)
    norms = gram.diagonal().sqrt()
    direction = weight / (norms + SHORT)
    length = (direction @ gram @ direction).clamp(min=0).sqrt()
    mean = direction / length * (weight @ norms)
    return torch.where(length < SHORT, weight, mean)

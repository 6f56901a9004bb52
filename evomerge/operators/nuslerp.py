"""Spherical interpolation of two models by their weights, seen from the base model or from zero.

mergekit's NuSLERP (Goddard et al., "Arcee's MergeKit", 2024, https://arxiv.org/abs/2403.13257).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.arc import arc_shares
from evomerge.operators.axes import Along, as_vectors, from_vectors
from evomerge.operators.combination import combination
from evomerge.operators.inner_products import Around, gram_around, inner_products
from evomerge.operators.parameters import Weights
from evomerge.operators.registry import operator

NEARLY_PARALLEL = 1 - 5e-9
"""Cosine above which the arc is as good as straight, or, of opposite vectors, undetermined."""


def _weights_have_a_ratio(weight: Weights, **_: object) -> None:
    if abs(sum(weight)) < 1e-6:
        raise MergeError(
            f"weight: {list(weight)} add up to {sum(weight):g}; they say how far to go from the "
            "first source to the second, so their sum must not be zero"
        )


@operator(
    space="weight",
    elementwise=True,
    sources=(2, 2),
    measure=gram_around,
    check=_weights_have_a_ratio,
)
def nuslerp(
    tensors: Tensor, *, weight: Weights, around: Around = "base", base: Tensor, measured: Tensor
) -> Tensor:
    """Go from the first source to the second along the arc, as far as their weights say.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        weight: Weight of each source, length 2; only their ratio counts.
        around: The centre of the arc: `base` interpolates task vectors, `origin` weights.
        base: The base model's tensor, shape `(*S,)`.
        measured: Inner products of the sources around the centre, shape `(2, 2)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    if around == "origin":
        return _nuslerp(tensors, measured, weight)
    return _nuslerp([tensor - base for tensor in tensors], measured, weight) + base


@operator(space="weight", sources=(2, 2), check=_weights_have_a_ratio)
def nuslerp_lines(
    tensors: Tensor,
    *,
    weight: Weights,
    along: Along = "rows",
    around: Around = "base",
    base: Tensor,
) -> Tensor:
    """Go from the first source to the second along an arc for each row or column.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        weight: Weight of each source, length 2; only their ratio counts.
        along: What is interpolated by itself: `rows` vectors along the last axis, `columns`
            vectors along the first. Tensors of one dimension are one vector either way.
        around: The centre of the arc: `base` interpolates task vectors, `origin` weights.
        base: The base model's tensor, shape `(*S,)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    seen = tensors - base if around == "base" else tensors
    first, second = lines = as_vectors(seen, along)
    # Weights are as precise as those of `nuslerp`.
    given = torch.as_tensor(weight, dtype=tensors.dtype).double()
    shares = _shares(inner_products(lines), given).to(tensors.dtype)
    merged = first * shares[:, :1] + second * shares[:, 1:]
    merged = from_vectors(merged, tuple(tensors.shape[1:]), along)
    return merged + base if around == "base" else merged


def _shares(gram: Tensor, weight: Tensor) -> Tensor:
    return arc_shares(gram, weight[1] / weight.sum(), NEARLY_PARALLEL)


@combination
def _nuslerp(gram: Tensor, weight: Tensor) -> Tensor:
    return _shares(gram, weight)

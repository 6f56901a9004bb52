"""Spherical interpolation of two models, tensor by tensor.

Shoemake, "Animating rotation with quaternion curves", 1985, section 3.3, applied to weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.operators.parameters import Fraction
from evomerge.operators.registry import operator

if TYPE_CHECKING:
    from collections.abc import Iterator

NEARLY_PARALLEL = 0.9995
"""Cosine above which two tensors are interpolated on the straight line instead."""


@operator(space="weight", sources=(2, 2))
def slerp(tensors: Tensor, *, t: Fraction) -> Tensor:
    """Go from the first source to the second along the arc between them.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        t: How far to go: 0 gives the first source, 1 the second.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    first, second = tensors.unbind()
    first_norm, second_norm = _norm(first), _norm(second)
    products = (float((a.double() * b.double()).sum()) for a, b in _chunks(first, second))
    # Not fsum, which raises an error of its own where entries are infinite.
    cosine = sum(products) / (first_norm * second_norm)
    cosine = max(-1.0, min(1.0, cosine))
    if abs(cosine) > NEARLY_PARALLEL:
        return first * (1 - t) + second * t
    angle = math.acos(cosine)
    first_share = math.sin((1 - t) * angle) / math.sin(angle)
    second_share = math.sin(t * angle) / math.sin(angle)
    return first * first_share + second * second_share


def _norm(tensor: Tensor) -> float:
    squares = (float(part.double().square().sum()) for (part,) in _chunks(tensor))
    norm = math.sqrt(sum(squares))
    return norm if norm > 1e-8 else 1.0


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    # torch sums up to this many entries in one thread: the result does not depend on their number.
    yield from zip(*(torch.split(tensor.reshape(-1), 32_768) for tensor in tensors), strict=True)

"""Spherical interpolation of two models, tensor by tensor.

Shoemake, "Animating rotation with quaternion curves", 1985, section 3.3, applied to weights.
"""

from __future__ import annotations

from torch import Tensor

from evomerge.operators.arc import arc_shares
from evomerge.operators.combination import combination
from evomerge.operators.inner_products import gram_of_sources
from evomerge.operators.parameters import Fraction
from evomerge.operators.registry import operator

NEARLY_PARALLEL = 0.9995
"""Cosine above which two tensors are interpolated on the straight line instead."""


@operator(space="weight", elementwise=True, sources=(2, 2), measure=gram_of_sources)
def slerp(tensors: Tensor, *, t: Fraction, measured: Tensor) -> Tensor:
    """Go from the first source to the second along the arc between them.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        t: How far to go: 0 gives the first source, 1 the second.
        measured: Inner products of the sources, shape `(2, 2)`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    return _slerp(tensors, measured, t)


@combination
def _slerp(gram: Tensor, t: Tensor) -> Tensor:
    return arc_shares(gram, t, NEARLY_PARALLEL)

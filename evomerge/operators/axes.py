"""The rows or the columns of a tensor as vectors of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Along = Literal["rows", "columns"]
"""Vectors along the last axis of a tensor, or along its first; a vector is both at once."""


def as_vectors(stack: Tensor, along: Along) -> Tensor:
    """The rows or columns of every source's tensor, shape `(M, n, length)`.

    Args:
        stack: Shape `(M, *S)`; a single number is a vector of length 1.
        along: Which of them.
    """
    shape = tuple(stack.shape[1:]) or (1,)
    if along == "rows":
        return stack.reshape(len(stack), math.prod(shape[:-1]), shape[-1])
    return stack.reshape(len(stack), shape[0], math.prod(shape[1:])).mT


def from_vectors(vectors: Tensor, shape: tuple[int, ...], along: Along) -> Tensor:
    """One tensor of a shape from its rows or columns, shape `(n, length)`."""
    return (vectors if along == "rows" else vectors.mT).reshape(shape)

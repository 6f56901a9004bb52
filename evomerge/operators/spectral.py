"""Singular value decompositions whose results are the same everywhere.

Where a matrix lacks rank, the directions that a decomposition adds to fill a basis are arbitrary;
everything here leaves them out.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.accumulate import add_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.operators.parameters import Weights


class Decomposition(NamedTuple):
    """What `left * values @ right` makes of a matrix, without directions it does not have.

    Attributes:
        left: Orthonormal columns, shape `(out, rank)`.
        values: Singular values, in falling order, shape `(rank,)`.
        right: Orthonormal rows, shape `(rank, in)`.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def first(self, count: int) -> Decomposition:
        """The `count` directions of largest singular values."""
        return Decomposition(self.left[:, :count], self.values[:count], self.right[:count])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let linear algebra run in one thread: it rounds differently for other numbers of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_matrix(stack: Tensor) -> bool:
    """Whether a stack of shape `(M, *S)` is one of matrices that have entries."""
    return stack.dim() == 3 and stack.numel() > 0


def weighted_mean(deltas: Tensor, weight: Weights) -> Tensor:
    """Sum of M tensors, each times its weight, divided by M."""
    parts = (delta * w for delta, w in zip(deltas, weight, strict=True))
    return add_up(parts, deltas[0]) / len(deltas)


def decompose(matrix: Tensor) -> Decomposition:
    """Singular value decomposition, of the numerical rank.

    Singular values below `max(out, in)` units of rounding of the greatest count as 0.

    Args:
        matrix: Shape `(out, in)`, floating point.

    Raises:
        MergeError: The matrix has NaN or infinite entries.
    """
    if matrix.numel() == 0:
        rows, columns = matrix.shape
        return Decomposition(matrix.new_zeros(rows, 0), matrix.new_zeros(0), matrix[:0, :columns])
    _check_finite(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    least = values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    rank = int((values > least).count_nonzero())
    return Decomposition(left, values, right).first(rank)


def nearest_isometry(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values set to 1 (the polar factor), shape `(out, in)`.

    Directions that the matrix does not have stay 0; then columns are orthonormal only within what
    they span.
    """
    left, _, right = decompose(matrix)
    return left @ right


def eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in rising order, shape `(in,)`, and eigenvectors as columns, shape `(in, in)`.

    Raises:
        MergeError: The matrix, shape `(in, in)` and symmetric, has NaN or infinite entries.
    """
    _check_finite(gram)
    values, vectors = torch.linalg.eigh(gram)
    return values, vectors


def _check_finite(matrix: Tensor) -> None:
    if not matrix.isfinite().all():
        raise MergeError("the task vectors have NaN or infinite entries")

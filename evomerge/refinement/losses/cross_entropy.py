"""Cross entropy with the tokens that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.refinement.losses.rows import RowLoss

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.refinement.losses.rows import Student


class CrossEntropy(RowLoss):
    """The negative log-probability of the token that follows.

    Args:
        labels: That token at each row; shape `(N,)`, int64.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        labels = self._labels[rows]
        losses = -student.of(labels)
        if gradient is not None:
            gradient.add_(student.probs, alpha=weight)
            share = gradient.new_full((1, 1), -weight).expand(len(labels), 1)
            gradient.scatter_add_(-1, labels[:, None], share)
        return losses

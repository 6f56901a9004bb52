"""What every loss of rows has in common, and how losses are weighted, tempered and standardised.

A row is a position that is learned from: the student's logits there, which predict the next token.
Rows come in chunks, so that the logits of all of them never exist at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

_SMALL = 1e-7

IMPOSSIBLE = -1e4
"""A log-probability that stands for minus infinity where 0 times it has to be 0."""


class Student:
    """What the student predicts at the rows of a chunk.

    Args:
        logits: Shape `(n, V)`, float32 or float64.

    Attributes:
        log_probs: Log-probabilities, shape `(n, V)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = torch.log_softmax(logits, dim=-1)

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities, shape `(n, V)`."""
        return self.log_probs.exp()

    def of(self, tokens: Tensor) -> Tensor:
        """The log-probability of a token per row; shapes `(n,)`."""
        return self.log_probs.gather(-1, tokens[:, None]).squeeze(-1)


class RowLoss(ABC):
    """A loss of rows, made from its targets at all rows.

    Attributes:
        spans: First row and row after the last one of the groups of rows that have a loss
            together; shape `(G, 2)`, int64, on the CPU, ascending, disjoint. A chunk splits none.
            None if each row has its own loss.
        copies: How many tensors of shape `(n, V)` there are at once, those of `Student` and the
            gradient included.
    """

    spans: Tensor | None = None
    copies: int = 3

    @abstractmethod
    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """The losses of some rows.

        Args:
            student: What the student predicts there.
            rows: Which rows these are.
            gradient: Where `weight` times the gradient of the losses' sum with respect to the
                logits is added; shape `(n, V)`. None if it is not wanted.
            weight: See there; the losses that are returned have no weight.

        Returns:
            Shape `(n,)`. A group of rows has its loss at its last row.
        """


class Weighted(RowLoss):
    """The weighted sum of losses.

    Args:
        parts: Weights and losses.
    """

    def __init__(self, parts: Sequence[tuple[float, RowLoss]]) -> None:
        self._parts = tuple(parts)
        spans = [loss.spans for _, loss in parts if loss.spans is not None]
        self.spans = torch.cat(spans) if spans else None
        self.copies = max(loss.copies for _, loss in parts)

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        losses = [
            share * loss(student, rows, gradient, weight * share) for share, loss in self._parts
        ]
        return torch.stack(losses).sum(0)


class Masked(RowLoss):
    """A loss of some rows; the others have none, whatever stands in their targets.

    Args:
        loss: A loss without groups of rows.
        covered: Which rows have it; shape `(N,)`, bool.
    """

    def __init__(self, loss: RowLoss, covered: Tensor) -> None:
        self._loss = loss
        self._covered = covered
        self.copies = loss.copies + 1

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        covered = self._covered[rows]
        own = None if gradient is None else torch.zeros_like(gradient)
        losses = self._loss(student, rows, own, weight)
        if gradient is not None and own is not None:
            gradient.add_(own.masked_fill_(~covered[:, None], 0.0))
        return losses.masked_fill(~covered, 0.0)


class Tempered(RowLoss):
    """A loss at another temperature, times its square so that gradients keep their size.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, sec. 2.1
    (https://arxiv.org/abs/1503.02531). The targets of `loss` have to be tempered already.
    """

    def __init__(self, loss: RowLoss, temperature: float) -> None:
        self._loss = loss
        self._temperature = temperature
        self.spans = loss.spans
        self.copies = loss.copies + 2

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        tempered = Student(student.log_probs / self._temperature)
        # The square, times the derivative of the division.
        losses = self._loss(tempered, rows, gradient, weight * self._temperature)
        return losses * self._temperature**2


class Standardised(RowLoss):
    """A loss of logits that have mean 0 and standard deviation 1 in each row.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, eq. 10
    (https://arxiv.org/abs/2403.01427); the sample's standard deviation, as in their code. A
    student whose logits are an affine function of the teacher's has no loss, so that something
    else has to teach it how sure to be. Rows of infinite logits have no mean: slice them off.
    """

    def __init__(self, loss: RowLoss) -> None:
        self._loss = loss
        self.spans = loss.spans
        self.copies = loss.copies + 4

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        # The log-probabilities are the logits but for a shift of each row.
        shifted, deviation = centred(student.log_probs)
        standardised = Student(scaled(shifted, deviation))
        inner = None if gradient is None else torch.zeros_like(gradient)
        losses = self._loss(standardised, rows, inner, weight)
        if gradient is not None and inner is not None:
            inner.sub_(inner.mean(-1, keepdim=True)).div_(deviation + _SMALL)
            along = (inner * shifted).sum(-1, keepdim=True)
            # A row of equal logits has no direction in which its deviation would grow.
            spread = (shifted.shape[-1] - 1) * deviation * (deviation + _SMALL)
            along = torch.where(spread > 0, along / spread, 0.0)
            gradient.add_(inner).sub_(shifted.mul_(along))
        return losses


def standardise(logits: Tensor) -> Tensor:
    """Logits with mean 0 and standard deviation 1 in each row; shapes `(n, V)`."""
    return scaled(*centred(logits))


def centred(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with mean 0 in each row, and their sample's standard deviation, shape `(n, 1)`."""
    shifted = logits - logits.mean(-1, keepdim=True)
    return shifted, shifted.square().sum(-1, keepdim=True).div(logits.shape[-1] - 1).sqrt()


def scaled(shifted: Tensor, deviation: Tensor) -> Tensor:
    """Logits with mean 0, by their standard deviation, shape `(n, 1)`, which may be 0."""
    return shifted / (deviation + _SMALL)

"""How likely teacher and student find the same piece of text, whatever tokens it is made of.

Minixhofer et al., "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
2025, sec. 3 (https://arxiv.org/abs/2503.20083). A teacher is one number per piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.refinement.losses.rows import RowLoss
from evomerge.refinement.losses.spans import groups_within

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.refinement.losses.rows import Student

_SMALL = 1e-6


class LikelihoodMatching(RowLoss):
    """The binary cross entropy between likelihoods of pieces of text, to the power 1/temperature.

    Args:
        labels: The token that follows each row; shape `(N,)`, int64.
        spans: The rows that predict the tokens of each piece; see `RowLoss`.
        teacher: The teacher's log-likelihood of each piece; shape `(G,)`, float32.
        temperature: What log-likelihoods are divided by; large ones, as the default, make the
            loss tell small likelihoods apart.
    """

    def __init__(
        self, labels: Tensor, spans: Tensor, teacher: Tensor, temperature: float = 100.0
    ) -> None:
        self._labels = labels
        self.spans: Tensor = spans
        self._teacher = teacher
        self._temperature = temperature

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        labels = self._labels[rows]
        groups = groups_within(self.spans, rows, labels.device)
        likelihoods = groups.sums(student.of(labels))
        a = self._teacher[groups.which] / self._temperature - _SMALL
        b = likelihoods / self._temperature - _SMALL
        of_groups = -(a.exp() * b - a.expm1() * b.expm1().neg().log())
        if gradient is not None:
            slopes = -(a.exp() + a.expm1() / b.neg().expm1()) / self._temperature
            of_rows = groups.spread(slopes, len(labels))[:, None] * weight
            gradient.addcmul_(student.probs, of_rows, value=-1.0)
            gradient.scatter_add_(-1, labels[:, None], of_rows)
        return of_groups.new_zeros(len(labels)).index_copy_(0, groups.last, of_groups)

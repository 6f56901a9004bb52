"""Divergences between everything that a teacher and a student of one vocabulary predict.

The family of Agarwal et al., "On-Policy Distillation of Language Models", 2023, sec. 2
(https://arxiv.org/abs/2306.13649): with the mixture m = beta q + (1 - beta) p of teacher q and
student p, beta KL(q|m) + (1 - beta) KL(p|m); for beta 0 the forward KL(q|p) and for beta 1 the
reverse KL(p|q) by definition, which are not its limits: those are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from evomerge.errors import CompatibilityError
from evomerge.refinement.losses.rows import IMPOSSIBLE, RowLoss, Tempered

if TYPE_CHECKING:
    from evomerge.refinement.losses.rows import Student

LogitsOf = Callable[[slice], Tensor]
"""A teacher's logits at some rows, shape `(n, V)`, float32; a new tensor at each call."""


def divergence(teacher: LogitsOf, *, beta: float = 0.0, temperature: float = 1.0) -> RowLoss:
    """A divergence from a teacher of the student's vocabulary.

    Args:
        teacher: Its logits. Tokens that only the student knows come last.
        beta: 0 for the forward KL, 1 for the reverse one, between them the generalised
            Jensen-Shannon divergence.
        temperature: What both logits are divided by; the loss is multiplied by its square.
    """

    def log_probs(rows: slice) -> Tensor:
        logits = teacher(rows)
        if temperature != 1:
            logits = logits.div_(temperature)
        return torch.log_softmax(logits, dim=-1)

    loss = _Divergence(log_probs, beta)
    return loss if temperature == 1 else Tempered(loss, temperature)


class _Divergence(RowLoss):
    def __init__(self, teacher: LogitsOf, beta: float) -> None:
        self._teacher = teacher
        self._beta = beta
        self.copies = 5 if beta in {0, 1} else 8

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        log_p = student.log_probs.clamp_(min=IMPOSSIBLE)
        log_q = _widen(self._teacher(rows), log_p.shape[-1]).clamp_(min=IMPOSSIBLE)
        if self._beta == 0:
            return _forward(student, log_q, gradient, weight)
        if self._beta == 1:
            return _weighed(student, log_q.neg_().add_(log_p), gradient, weight)
        log_m = mixed(log_p, log_q, self._beta)
        q = log_q.exp()
        of_teacher = log_q.sub_(log_m).mul_(q).sum(-1)
        ratio = log_m.neg_().add_(log_p)
        of_student = _weighed(student, ratio, gradient, weight * (1 - self._beta))
        return self._beta * of_teacher + (1 - self._beta) * of_student


def mixed(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """The logarithm of beta q + (1 - beta) p, for beta between 0 and 1."""
    return torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))


def _forward(student: Student, log_q: Tensor, gradient: Tensor | None, weight: float) -> Tensor:
    q = log_q.exp()
    losses = log_q.sub_(student.log_probs).mul_(q).sum(-1)
    if gradient is not None:
        gradient.add_(student.probs, alpha=weight).sub_(q, alpha=weight)
    return losses


def _weighed(student: Student, ratio: Tensor, gradient: Tensor | None, weight: float) -> Tensor:
    """The mean of log-ratios under the student, whose own derivatives have mean 0 under it."""
    losses = (student.probs * ratio).sum(-1)
    if gradient is not None:
        gradient.addcmul_(student.probs, ratio.sub_(losses[:, None]), value=weight)
    return losses


def _widen(log_probs: Tensor, vocabulary: int) -> Tensor:
    missing = vocabulary - log_probs.shape[-1]
    if missing < 0:
        raise CompatibilityError(
            f"the teacher predicts {log_probs.shape[-1]} tokens, the student {vocabulary}; give "
            "both the size of their common tokenizer, or use a loss for different tokenizers"
        )
    return functional.pad(log_probs, (0, missing), value=-math.inf) if missing else log_probs

"""Divergences from the likeliest, or from sampled, tokens of a teacher of the same vocabulary.

With the k kept tokens K of the teacher q, a = q(K), the student p over its whole vocabulary and
b = p(K), the loss is the sum over K of q log(q/p), and what becomes of the tail is a choice:

- `ghost`: all other tokens are one more token, with (1 - a) log((1 - a)/(1 - b)). On K the
  gradient is that of the full divergence, p - q, and the loss is at most the full one.
- `renormalised`: q / a takes the place of q, as in FuseLLM (https://arxiv.org/abs/2401.10491).
  Kept tokens are learned as too likely.
- `zero`: nothing; kept tokens are learned as too likely here as well, and the loss can be
  negative. For a sampled teacher, whose q are the shares of its draws and add up to 1, nothing is
  missing, and the gradient is that of the full divergence in the mean of many draws:
  "Sparse Logit Sampling", 2025 (https://arxiv.org/abs/2503.16870).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from evomerge.errors import CompatibilityError
from evomerge.refinement.losses.rows import IMPOSSIBLE, RowLoss

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.refinement.losses.rows import Student
    from evomerge.refinement.predictions.top_k import TopK

Tail = Literal["ghost", "renormalised", "zero"]


class TopKDivergence(RowLoss):
    """The forward KL from the tokens that are kept of a teacher.

    Args:
        targets: What the teacher predicts at each row.
        tail: What becomes of the other tokens; see above.
    """

    def __init__(self, targets: TopK, tail: Tail = "ghost") -> None:
        self._targets = targets
        self._tail = tail

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        self._check(student.log_probs.shape[-1])
        ids, log_q = self._targets.ids[rows], self._targets.log_probs[rows]
        kept = log_q.isfinite()
        # What fills up a row must not stand for a token that is none of its own.
        ids = torch.where(kept, ids, ids[:, :1])
        if self._tail == "renormalised":
            log_q = torch.log_softmax(log_q, dim=-1)
        log_q = log_q.clamp(min=IMPOSSIBLE)
        q = log_q.exp()
        mass = q.sum(-1)
        log_p = student.log_probs.gather(-1, ids).clamp(min=IMPOSSIBLE)
        losses = (q * (log_q - log_p)).sum(-1)
        if self._tail == "ghost":
            tail = self._targets.tail[rows].clamp(min=IMPOSSIBLE)
            return losses + _ghost(student, (ids, kept, q), tail, gradient, weight)
        if gradient is not None:
            gradient.addcmul_(student.probs, mass[:, None], value=weight)
            gradient.scatter_add_(-1, ids, q * -weight)
        return losses

    def _check(self, vocabulary: int) -> None:
        if self._targets.vocabulary > vocabulary:
            raise CompatibilityError(
                f"the teacher predicts {self._targets.vocabulary} tokens, the student "
                f"{vocabulary}; use a loss for different tokenizers"
            )


def _ghost(
    student: Student,
    targets: tuple[Tensor, Tensor, Tensor],
    log_tail: Tensor,
    gradient: Tensor | None,
    weight: float,
) -> Tensor:
    """The part of the tail in the losses, and the gradient of all of them.

    Where the student has almost nothing left for the tail, the gradients of tail and kept tokens
    are large numbers that cancel. So the tail's share is summed up, not subtracted from 1, and the
    kept tokens are left out when the tail's gradient is added.
    """
    ids, kept, q = targets
    tail, mass = log_tail.exp(), q.sum(-1)
    probs = student.probs
    p = probs.gather(-1, ids)
    probs.scatter_(-1, ids, 0.0)
    rest = probs.sum(-1).clamp_(min=torch.finfo(probs.dtype).tiny)
    if gradient is not None:
        of_kept = torch.where(kept, p, 0.0)
        scale = mass - tail * of_kept.sum(-1) / rest
        gradient.addcmul_(probs, scale[:, None], value=weight)
        on_kept = (mass + tail)[:, None] * of_kept - q
        gradient.scatter_add_(-1, ids, on_kept * weight)
    probs.scatter_(-1, ids, p)
    return tail * (log_tail - rest.log())

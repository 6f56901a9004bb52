"""Distances between sorted probabilities: teacher and student need not share a vocabulary.

Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for
LLMs", 2024, sec. 3 (https://arxiv.org/abs/2402.12030): the Wasserstein distance of two
distributions when every token is as far from every other, which sorting computes. Which token has
a probability is ignored: being sure of another word costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from evomerge.refinement.losses.rows import RowLoss, Standardised, scaled, standardise

if TYPE_CHECKING:
    from evomerge.refinement.losses.rows import Student
    from evomerge.refinement.predictions.top_k import TopK

ProbsOf = Callable[[slice], Tensor]
"""A teacher's probabilities at some rows, in any order; shape `(n, any)`, float32."""

Over = Literal["vocabulary", "kept"]


class ULD(RowLoss):
    """The distance between the sorted probabilities of teacher and student, from 0 to 2.

    Args:
        teacher: Its probabilities; what is left out of them counts as 0.
    """

    copies = 7

    def __init__(self, teacher: ProbsOf) -> None:
        self._teacher = teacher

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        losses, signs = sorted_distance(student.probs, self._teacher(rows))
        if gradient is not None:
            signs.sub_((student.probs * signs).sum(-1, keepdim=True))
            gradient.addcmul_(student.probs, signs, value=weight)
        return losses


def sorted_distance(probs: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the differences of sorted rows, the shorter ones filled up with 0.

    Args:
        probs: Shape `(n, V)`.
        teacher: Shape `(n, any)`.

    Returns:
        The distances, shape `(n,)`, and their derivatives by `probs`, shape `(n, V)`.
    """
    ordered, order = probs.sort(dim=-1, descending=True)
    teacher = teacher.sort(dim=-1, descending=True).values
    common = min(ordered.shape[-1], teacher.shape[-1])
    ordered[:, :common] -= teacher[:, :common]
    beyond = teacher[:, common:].sum(-1)
    signs = torch.zeros_like(ordered).scatter_(-1, order, ordered.sign())
    return ordered.abs_().sum(-1) + beyond, signs


def standardised_uld(teacher: ProbsOf, k: int, over: Over) -> RowLoss:
    """The distance between the k largest, standardised logits, after a softmax over them.

    This is a reconstruction of the loss of InfiFusion, 2025 (https://arxiv.org/abs/2501.02795,
    v3): that logits are standardised, that the 10 largest are kept, and that sorted probabilities
    are compared, is attested; in which order and over what is not.

    Args:
        teacher: What `standardised_targets` gives for the same `k` and `over`.
        k: How many logits are kept.
        over: What mean and deviation are of: the whole vocabulary, or the kept logits. Two kept
            logits always become the same two numbers; it takes at least three.
    """
    if over == "vocabulary":
        return Standardised(_Kept(teacher, k, itself=False))
    return _Kept(teacher, k, itself=True)


def standardised_targets(rows: TopK, k: int, over: Over) -> Tensor:
    """What a student learns from what is kept of a teacher by `standardised_uld`.

    Log-probabilities are logits but for a shift of each row.

    Args:
        rows: At least `k` tokens, with mean and deviation of the whole vocabulary.
        k: How many are compared.
        over: What mean and deviation are of.

    Returns:
        Probabilities, likeliest first; shape `(n, k)`.
    """
    kept = rows.log_probs[:, :k]
    if over == "kept":
        return torch.softmax(standardise(kept), dim=-1)
    if rows.mean is None or rows.deviation is None:
        raise RuntimeError("rows without mean and deviation cannot be standardised")
    return torch.softmax(scaled(kept - rows.mean[:, None], rows.deviation[:, None]), dim=-1)


class _Kept(RowLoss):
    def __init__(self, teacher: ProbsOf, k: int, *, itself: bool) -> None:
        self._teacher = teacher
        self._k = k
        self._itself = itself

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        values, ids = student.log_probs.topk(self._k, dim=-1)
        # There are k numbers a row: autograd costs nothing here.
        with torch.enable_grad():
            values.requires_grad_()
            kept = standardise(values) if self._itself else values
            losses = (torch.softmax(kept, dim=-1) - self._teacher(rows)).abs().sum(-1)
            if gradient is not None:
                (slopes,) = torch.autograd.grad(losses.sum(), values)
                gradient.scatter_add_(-1, ids, slopes * weight)
        return losses.detach()

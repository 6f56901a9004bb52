"""Distances between what teacher and student of different tokenizers predict for the same text.

Where a group of tokens covers the same bytes as a group of the teacher's, its rows are merged into
one by the chain rule: what the last one predicts, times the probability of the tokens before it.
Tokens of the same text are compared by a Jensen-Shannon divergence, all others by their sorted
probabilities: the hybrid loss of the trainer GOLD in TRL, with its merge named `bayesian`
(https://huggingface.co/docs/trl/gold_trainer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from evomerge.refinement.losses.divergence import mixed
from evomerge.refinement.losses.rows import IMPOSSIBLE, RowLoss
from evomerge.refinement.losses.sorted_distance import sorted_distance
from evomerge.refinement.losses.spans import groups_within

if TYPE_CHECKING:
    from evomerge.refinement.losses.rows import Student

LogProbsOf = Callable[[slice], Tensor]
"""A teacher's merged log-probabilities of some groups, shape `(g, V_T)`, new at each call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """The tokens of two vocabularies that have the same text.

    Attributes:
        student: Their ids in the student's vocabulary; shape `(m,)`, int64.
        teacher: Their ids in the teacher's, in the same order.
        weight: Of their divergence; the distance of the other tokens has the rest. The share of
            the vocabulary that is matched is a good one.
        beta: Of the divergence, between 0 and 1.
    """

    student: Tensor
    teacher: Tensor
    weight: float
    beta: float = 0.5


class MergedSpans(RowLoss):
    """The distance between merged rows of teacher and student.

    Args:
        labels: The token that follows each row; shape `(N,)`, int64.
        spans: The rows of each group; see `RowLoss`.
        teacher: Its merged rows.
        matched: Tokens that are compared one by one.
    """

    copies = 9

    def __init__(
        self, labels: Tensor, spans: Tensor, teacher: LogProbsOf, matched: Matched
    ) -> None:
        self._labels = labels
        self.spans: Tensor = spans
        self._teacher = teacher
        self._matched = matched

    def __call__(
        self, student: Student, rows: slice, gradient: Tensor | None, weight: float = 1.0
    ) -> Tensor:
        """See `RowLoss`."""
        labels = self._labels[rows]
        groups = groups_within(self.spans, rows, labels.device)
        earlier = student.of(labels).index_fill_(0, groups.last, 0.0)
        merged = student.log_probs[groups.last].clamp_(min=IMPOSSIBLE)
        merged += groups.sums(earlier)[:, None]
        distances, slopes = _distance(merged, self._teacher(groups.which), self._matched)
        if gradient is not None:
            # Of the merged probabilities' logarithms, then of the rows that they are made of.
            slopes.mul_(merged.exp_())
            of_rows = groups.spread(slopes.sum(-1), len(labels)) * weight
            gradient.index_add_(0, groups.last, slopes, alpha=weight)
            gradient.addcmul_(student.probs, of_rows[:, None], value=-1.0)
            of_rows.index_fill_(0, groups.last, 0.0)
            gradient.scatter_add_(-1, labels[:, None], of_rows[:, None])
        return distances.new_zeros(len(labels)).index_copy_(0, groups.last, distances)


def _distance(log_p: Tensor, log_q: Tensor, matched: Matched) -> tuple[Tensor, Tensor]:
    """Distances of merged rows and their derivatives by the student's merged probabilities."""
    p, q = log_p.exp(), log_q.exp()
    # A probability of 0 changes no sorted distance.
    distances, slopes = sorted_distance(
        p.index_fill_(1, matched.student, 0.0), q.index_fill_(1, matched.teacher, 0.0)
    )
    divergences, of_matched = _divergence(
        log_p[:, matched.student],
        log_q[:, matched.teacher].clamp_(min=IMPOSSIBLE),
        matched.beta,
    )
    slopes.mul_(1 - matched.weight).index_copy_(1, matched.student, of_matched * matched.weight)
    return (1 - matched.weight) * distances + matched.weight * divergences, slopes


def _divergence(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Of parts of distributions: what they lack of 1 adds nothing to the derivative."""
    log_m = mixed(log_p, log_q, beta)
    of_teacher = (log_q.exp() * (log_q - log_m)).sum(-1)
    ratio = log_p - log_m
    of_student = (log_p.exp() * ratio).sum(-1)
    return beta * of_teacher + (1 - beta) * of_student, (1 - beta) * ratio

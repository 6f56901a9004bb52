"""What a teacher predicts that runs beside its student, made chunk by chunk like the student's.

All of it without gradients: a teacher learns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.refinement.chunked import row_losses
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.rows import Student
from evomerge.refinement.losses.spans import groups_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.refinement.heads import Head


def logits_of(head: Head, hidden: Tensor) -> Callable[[slice], Tensor]:
    """The logits of a teacher, as losses ask for them.

    Args:
        head: The teacher's.
        hidden: The teacher's last hidden states at the rows of the loss; shape `(N, H)`.
    """
    hidden = hidden.detach()

    @torch.no_grad()
    def logits(rows: slice) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return head.logits(hidden[rows])

    return logits


def merged(
    head: Head, hidden: Tensor, labels: Tensor, spans: Tensor
) -> tuple[Callable[[slice], Tensor], Tensor]:
    """What a teacher of another tokenizer predicts for groups of its own rows.

    Args:
        head: The teacher's.
        hidden: The teacher's last hidden states at its rows; shape `(N_T, H)`.
        labels: The teacher's token that follows each of its rows; shape `(N_T,)`, int64.
        spans: The teacher's rows of each group; see `RowLoss`.

    Returns:
        The merged log-probabilities of groups, as `MergedSpans` asks for them, and the
        log-likelihood of each group, shape `(G,)`, as `LikelihoodMatching` does.
    """
    of_rows = -row_losses(hidden, head, CrossEntropy(labels))
    groups = groups_within(spans, slice(0, len(hidden)), hidden.device)
    likelihoods = groups.sums(of_rows)
    earlier = likelihoods - of_rows[groups.last]
    logits = logits_of(head, hidden[groups.last])

    def log_probs(which: slice) -> Tensor:
        return Student(logits(which)).log_probs.add_(earlier[which][:, None])

    return log_probs, likelihoods

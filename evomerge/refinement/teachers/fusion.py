"""Several teachers of one vocabulary become one, from the tokens that are kept of each.

Averages of logits or of probabilities are those of Lin et al. 2020, sec. 3,
https://arxiv.org/abs/2006.07242.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CompatibilityError
from evomerge.refinement.predictions.kept import concatenate
from evomerge.refinement.predictions.top_k import TopK
from evomerge.refinement.teachers.weights import teacher_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evomerge.refinement.teachers.weights import Rule


def fuse(teachers: Sequence[TopK], rule: Rule, *, per_token: bool = False) -> TopK:
    """Make one teacher of several, at the positions of one sequence.

    A token that a teacher did not keep has an equal share of its tail. `min_ce` is exact, the
    others are as exact as that. As many tokens are kept as the widest teacher has.

    Args:
        teachers: At least one, each with the same positions. The student may be among them.
        rule: How; see `teacher_weights`.
        per_token: Whether weights are chosen for each token or for the whole sequence.

    Raises:
        CompatibilityError: The teachers have different vocabularies, or `avg_logits` finds no
            token that all of them give a probability.
    """
    vocabularies = {teacher.vocabulary for teacher in teachers}
    if len(vocabularies) > 1:
        sizes = ", ".join(map(str, sorted(vocabularies)))
        raise CompatibilityError(
            f"teachers have vocabularies of {sizes} tokens; only those with the student's own "
            "tokens can be fused"
        )
    if len(teachers) == 1 or len(teachers[0].nll) == 0:
        return teachers[0]
    nll = torch.stack([teacher.nll for teacher in teachers])
    weights = teacher_weights(nll, rule, per_token=per_token)
    if rule == "min_ce":
        return _select(teachers, weights.argmax(dim=0).expand(nll.shape[1]))
    return _mix(teachers, weights, geometric=rule == "avg_logits")


def _select(teachers: Sequence[TopK], chosen: Tensor) -> TopK:
    """At each position the row of the chosen teacher."""
    count = len(chosen)
    places = chosen * count + torch.arange(count)
    return concatenate(teachers).each(lambda own: own[places])


def _mix(teachers: Sequence[TopK], weights: Tensor, *, geometric: bool) -> TopK:
    vocabulary, k = teachers[0].vocabulary, max(each.ids.shape[1] for each in teachers)
    ids, is_kept = _union(teachers)
    # One more column: any token that no teacher kept.
    given = torch.stack([_log_probs(teacher, ids) for teacher in teachers])
    nll = torch.stack([teacher.nll for teacher in teachers])
    others = vocabulary - is_kept.sum(dim=1)
    if geometric:
        mixed, mixed_nll = (weights[..., None] * given).sum(dim=0), (weights * nll).sum(dim=0)
    else:
        mixed = (weights.log()[..., None] + given).logsumexp(dim=0)
        mixed_nll = -(weights.log() - nll).logsumexp(dim=0)
    log_probs = mixed[:, :-1].masked_fill(~is_kept, -math.inf)
    tail = torch.where(others > 0, mixed[:, -1] + others.clamp(min=1).log(), -math.inf)
    if geometric:
        total = torch.logaddexp(log_probs.logsumexp(dim=1), tail)
        if torch.isneginf(total).any():
            raise CompatibilityError(
                "fuse: avg_logits: at some position no token has a probability with all teachers; "
                "choose avg_probs"
            )
        log_probs, tail, mixed_nll = log_probs - total[:, None], tail - total, mixed_nll + total
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    return TopK(
        ids=ids.gather(1, order)[:, :k],
        log_probs=log_probs[:, :k],
        tail=torch.logaddexp(tail, log_probs[:, k:].logsumexp(dim=1)),
        nll=mixed_nll,
        vocabulary=vocabulary,
    )


def _union(teachers: Sequence[TopK]) -> tuple[Tensor, Tensor]:
    """The tokens that any teacher kept, and where each stands for the first time."""
    ids, _ = torch.cat([_kept(teacher) for teacher in teachers], dim=1).sort(dim=1)
    is_kept = ids < teachers[0].vocabulary
    is_kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return ids.masked_fill(~is_kept, 0), is_kept


def _kept(teacher: TopK) -> Tensor:
    """The tokens that a teacher kept; padding is no token."""
    return teacher.ids.masked_fill(torch.isneginf(teacher.log_probs), teacher.vocabulary)


def _log_probs(teacher: TopK, ids: Tensor) -> Tensor:
    """A teacher's log-probabilities of tokens, and in one more column of any it did not keep."""
    kept, order = _kept(teacher).sort(dim=1)
    count = (kept < teacher.vocabulary).sum(dim=1)
    other = (teacher.tail - (teacher.vocabulary - count).clamp(min=1).log())[:, None]
    place = torch.searchsorted(kept, ids).clamp_(max=kept.shape[1] - 1)
    found = teacher.log_probs.gather(1, order).gather(1, place)
    is_there = kept.gather(1, place) == ids
    return torch.cat([torch.where(is_there, found, other), other], dim=1)

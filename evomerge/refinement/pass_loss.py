"""What the mistakes of a pass are measured by, from settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from evomerge.recipe.refine import IN_STUDENTS_TOKENS
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.likelihoods import LikelihoodMatching
from evomerge.refinement.losses.merged_spans import Matched, MergedSpans
from evomerge.refinement.losses.rows import Masked, Tempered, Weighted, standardise
from evomerge.refinement.losses.sorted_distance import ULD, standardised_uld
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.told import from_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from evomerge.recipe.refine import DistillationLoss
    from evomerge.refinement.losses.divergence import LogitsOf
    from evomerge.refinement.losses.rows import RowLoss
    from evomerge.refinement.losses.sorted_distance import ProbsOf
    from evomerge.refinement.predictions import TopK
    from evomerge.refinement.student import MakeLoss
    from evomerge.refinement.told import Told

BETAS = {"kl": 0.0, "reverse_kl": 1.0}
ALM_TEMPERATURE = 100.0
_SMALL = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class Tongue:
    """The vocabulary that a student is told in.

    Attributes:
        vocabulary: How many tokens it has.
        to_student: The student's id for each of them, or `UNMATCHED`; shape `(vocabulary,)`.
    """

    vocabulary: int
    to_student: Tensor


def loss_of(
    settings: DistillationLoss,
    tongue: Tongue | None,
    beside: Callable[[Mapping[str, Tensor]], LogitsOf] | None = None,
) -> MakeLoss:
    """What makes the loss of a pass; without teachers it is the cross entropy.

    Args:
        settings: Which loss, and its weights.
        tongue: What the targets of a pass are told in; None if there are none.
        beside: Runs teachers beside the student on a pass, and gives their logits.
    """
    matched = None
    if tongue is not None and settings.kind == "span_hybrid":
        matched = _matched(tongue.to_student, settings.beta)

    def make(read: Mapping[str, Tensor]) -> RowLoss:
        own = CrossEntropy(read["labels"])
        if beside is not None:
            distilled, weight = _live(settings, beside(read)), settings.distillation
        elif tongue is not None:
            told = from_tensors(read, tongue.vocabulary)
            distilled, weight = _told(settings, told, read["labels"], matched)
        else:
            return own
        return Weighted([(weight, distilled), (settings.cross_entropy, own)])

    return make


def _live(settings: DistillationLoss, logits: LogitsOf) -> RowLoss:
    beta = BETAS.get(settings.kind, settings.beta)
    return divergence(logits, beta=beta, temperature=settings.temperature or 1.0)


def _told(
    settings: DistillationLoss, told: Told, labels: Tensor, matched: Matched | None
) -> tuple[RowLoss, float]:
    """The loss of what was told, and its weight."""
    weight = settings.distillation
    if settings.kind == "alm":
        temperature = settings.temperature or ALM_TEMPERATURE
        spans, last = _groups(told)
        # Its gradients shrink as the temperature grows, and the cross entropy's do not.
        matching = LikelihoodMatching(labels, spans, -told.rows.nll[last], temperature)
        return matching, weight * temperature
    if matched is not None:
        return _merged_spans(told, labels, matched), weight
    loss = _of_rows(settings, told.rows)
    if told.covered.all():
        return loss, weight
    known = Masked(loss, told.covered)
    if settings.kind not in IN_STUDENTS_TOKENS:
        return known, weight
    # A token without a partner is taught as certain, or it would hardly be learned.
    certain = Masked(CrossEntropy(labels), ~told.covered)
    return Weighted([(1.0, known), (1.0, certain)]), weight


def _of_rows(settings: DistillationLoss, rows: TopK) -> RowLoss:
    if settings.kind == "uld":
        return ULD(lambda which: rows.log_probs[which].exp())
    if settings.kind == "standardised_uld":
        targets = standardised_rows(rows, settings)
        return standardised_uld(targets, settings.top, settings.standardise)
    if settings.kind == "sampled_kl":
        return TopKDivergence(rows, "zero")
    if (temperature := settings.temperature or 1.0) != 1:
        # All that is left out stays left out: the kept tokens sum to one at any temperature.
        cooler = replace(rows, log_probs=rows.log_probs / temperature)
        return Tempered(TopKDivergence(cooler, settings.tail), temperature)
    return TopKDivergence(rows, settings.tail)


def standardised_rows(rows: TopK, settings: DistillationLoss) -> ProbsOf:
    """What a student learns from kept log-probabilities by `standardised_uld`.

    Mean and deviation of the whole vocabulary are those that were written down: log-probabilities
    are logits but for a shift.
    """
    if settings.standardise == "kept":
        kept = rows.log_probs[:, : settings.top]
        return lambda which: torch.softmax(standardise(kept[which]), dim=-1)
    mean, deviation = rows.mean, rows.deviation
    if mean is None or deviation is None:
        raise RuntimeError("rows without mean and deviation cannot be standardised")
    kept = (rows.log_probs[:, : settings.top] - mean[:, None]) / (deviation[:, None] + _SMALL)
    return lambda which: torch.softmax(kept[which], dim=-1)


def _groups(told: Told) -> tuple[Tensor, Tensor]:
    """The rows of each group, first and behind the last, on the CPU; and the last of each."""
    last = told.covered.nonzero()[:, 0]
    spans = torch.stack([last - told.before[last], last + 1], dim=1)
    return spans.cpu(), last


def _matched(to_student: Tensor, beta: float) -> Matched:
    """The tokens that both have; of several of the teacher's that are one the first counts."""
    theirs = (to_student != UNMATCHED).nonzero()[:, 0]
    ours, place = torch.unique(to_student[theirs], return_inverse=True)
    first = torch.full_like(ours, len(theirs))
    first.scatter_reduce_(0, place, torch.arange(len(theirs)), "amin")
    weight = len(theirs) / max(1, len(to_student))
    return Matched(student=ours, teacher=theirs[first], weight=weight, beta=beta)


def _merged_spans(told: Told, labels: Tensor, matched: Matched) -> RowLoss:
    spans, last = _groups(told)
    rows = told.rows.each(lambda own: own[last])
    here = replace(
        matched,
        student=matched.student.to(labels.device),
        teacher=matched.teacher.to(labels.device),
    )
    return MergedSpans(labels, spans, lambda which: _spread_out(rows, which), here)


def _spread_out(rows: TopK, which: slice) -> Tensor:
    """Log-probabilities of the whole vocabulary, where those left out share alike."""
    ids, kept = rows.ids[which], rows.log_probs[which]
    others = rows.vocabulary - kept.isfinite().sum(dim=1)
    share = rows.tail[which] - others.clamp(min=1).log()
    found = share[:, None].repeat(1, rows.vocabulary)
    # What fills up a row must not stand for a token.
    return found.scatter_(1, torch.where(kept.isfinite(), ids, ids[:, :1]), _filled(kept))


def _filled(kept: Tensor) -> Tensor:
    return torch.where(kept.isfinite(), kept, kept[:, :1])

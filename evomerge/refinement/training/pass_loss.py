"""What the mistakes of a pass are measured by, from settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from evomerge.recipe.distillation import IN_STUDENTS_TOKENS
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.likelihoods import LikelihoodMatching
from evomerge.refinement.losses.merged_spans import Matched, MergedSpans
from evomerge.refinement.losses.rows import (
    Masked,
    Standardised,
    Tempered,
    Weighted,
    standardise,
)
from evomerge.refinement.losses.sorted_distance import ULD, standardised_targets, standardised_uld
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.predictions.targets import from_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from evomerge.recipe.distillation import DistillationLoss, TailName
    from evomerge.refinement.losses.divergence import LogitsOf
    from evomerge.refinement.losses.rows import RowLoss
    from evomerge.refinement.losses.top_k import Tail
    from evomerge.refinement.predictions.targets import Targets, TargetVocabulary
    from evomerge.refinement.predictions.top_k import TopK
    from evomerge.refinement.training.student import MakeLoss

BETAS = {"kl": 0.0, "standardised_kl": 0.0, "reverse_kl": 1.0}
TEMPERATURES = {"alm": 100.0, "standardised_kl": 2.0}
"""Where a recipe gives none and it is not 1; as the authors of these losses do."""


def loss_of(
    settings: DistillationLoss,
    vocabularies: Sequence[TargetVocabulary],
    live: Callable[[Mapping[str, Tensor]], LogitsOf] | None = None,
) -> MakeLoss:
    """What makes the loss of a pass; without teachers it is the cross entropy.

    Args:
        settings: Which loss, and its weights.
        vocabularies: Of each teacher whose targets a pass has.
        live: Runs teachers beside the student on a pass, and gives their logits.
    """
    matched = [
        _matched(each.to_student, settings.beta) if settings.kind == "span_hybrid" else None
        for each in vocabularies
    ]

    def make(read: Mapping[str, Tensor]) -> RowLoss:
        labels = read["labels"]
        own = CrossEntropy(labels)
        parts = []
        for number, each in enumerate(vocabularies):
            targets = from_tensors(read, each.size, number)
            tail = settings.tail_of(aligned=each.aligned)
            parts.append(_distilled(settings, targets, labels, matched[number], tail))
        if live is not None:
            parts = [(settings.distillation, _live(settings, live(read)))]
        return Weighted([*parts, (settings.cross_entropy, own)]) if parts else own

    return make


def _live(settings: DistillationLoss, logits: LogitsOf) -> RowLoss:
    beta, temperature = BETAS.get(settings.kind, settings.beta), _temperature(settings)
    if settings.kind != "standardised_kl":
        return divergence(logits, beta=beta, temperature=temperature)
    alike = divergence(lambda rows: standardise(logits(rows)), beta=beta, temperature=temperature)
    return Standardised(alike)


def _temperature(settings: DistillationLoss) -> float:
    return settings.temperature or TEMPERATURES.get(settings.kind, 1.0)


def _distilled(
    settings: DistillationLoss,
    targets: Targets,
    labels: Tensor,
    matched: Matched | None,
    tail: TailName,
) -> tuple[float, RowLoss]:
    """The weight of a teacher's loss, and the loss."""
    weight = settings.distillation
    if settings.kind == "alm":
        temperature = _temperature(settings)
        spans, last = _groups(targets)
        # Its gradients shrink as the temperature grows, and the cross entropy's do not.
        matching = LikelihoodMatching(labels, spans, -targets.rows.nll[last], temperature)
        return weight * temperature, matching
    if matched is not None:
        return weight, _merged_spans(targets, labels, matched)
    loss, covered = _of_rows(settings, targets.rows, tail), targets.covered
    if settings.kind == "top_k_kl" and tail == "text":
        # Where these learn from what is kept as if it were all, and the others learn the text's
        # own token, the gradient is that of the full divergence in the mean over texts that are
        # as the teacher predicts them: a token of the tail comes up as often as it expects.
        covered = covered & targets.rows.has(labels)
    if covered.all():
        return weight, loss
    known = Masked(loss, covered)
    if settings.kind not in IN_STUDENTS_TOKENS:
        return weight, known
    # A token without a partner is learned as if the teacher were certain of it: with the weight
    # of the cross entropy alone it would hardly be learned.
    certain = Masked(CrossEntropy(labels), ~covered)
    return weight, Weighted([(1.0, known), (1.0, certain)])


def _of_rows(settings: DistillationLoss, rows: TopK, tail: TailName) -> RowLoss:
    if settings.kind == "uld":
        return ULD(lambda which: rows.log_probs[which].exp())
    if settings.kind == "standardised_uld":
        k, over = settings.top, settings.standardise
        targets = standardised_targets(rows, k, over)
        return standardised_uld(lambda which: targets[which], k, over)
    if settings.kind == "sampled_kl":
        return TopKDivergence(rows, "zero")
    kept: Tail = "renormalised" if tail == "text" else tail
    if (temperature := _temperature(settings)) != 1:
        # All that is left out stays left out: the kept tokens sum to one at any temperature.
        cooler = replace(rows, log_probs=rows.log_probs / temperature)
        return Tempered(TopKDivergence(cooler, kept), temperature)
    return TopKDivergence(rows, kept)


def _groups(targets: Targets) -> tuple[Tensor, Tensor]:
    """The rows of each group, first and behind the last, on the CPU; and the last of each."""
    last = targets.covered.nonzero()[:, 0]
    spans = torch.stack([last - targets.before[last], last + 1], dim=1)
    return spans.cpu(), last


def _matched(to_student: Tensor, beta: float) -> Matched:
    """The tokens that both have; of several of the teacher's that are one the first counts."""
    theirs = (to_student != UNMATCHED).nonzero()[:, 0]
    ours, place = torch.unique(to_student[theirs], return_inverse=True)
    first = torch.full_like(ours, len(theirs))
    first.scatter_reduce_(0, place, torch.arange(len(theirs)), "amin")
    weight = len(theirs) / max(1, len(to_student))
    return Matched(student=ours, teacher=theirs[first], weight=weight, beta=beta)


def _merged_spans(targets: Targets, labels: Tensor, matched: Matched) -> RowLoss:
    spans, last = _groups(targets)
    rows = targets.rows.each(lambda own: own[last])
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

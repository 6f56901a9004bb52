"""Random targets of row losses, each with the dense loss that it has to equal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dense_losses as dense
import torch

from evomerge.recipe.distillation import DistillationLoss
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.likelihoods import LikelihoodMatching
from evomerge.refinement.losses.merged_spans import Matched, MergedSpans
from evomerge.refinement.losses.rows import Masked, Standardised, Tempered, Weighted
from evomerge.refinement.losses.sorted_distance import ULD, standardised_uld
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.predictions.targets import TargetVocabulary, as_tensors, row_by_row
from evomerge.refinement.predictions.top_k import TopK
from evomerge.refinement.training.pass_loss import loss_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.refinement.losses.rows import RowLoss

    Pair = tuple[RowLoss, Callable[[Tensor], Tensor]]
    """A loss of rows, and the same from all logits."""


class Targets:
    """Random targets for `rows` rows of `vocabulary` tokens.

    `sharpness` is the deviation of the teacher's logits, `choice` a number in [0, 1) that decides
    what else there is to choose.
    """

    def __init__(
        self, rows: int, vocabulary: int, seed: int, sharpness: float, choice: float
    ) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.rows, self.vocabulary, self.choice = rows, vocabulary, choice
        self.labels = torch.randint(vocabulary, (rows,), generator=self.rng)
        self.teacher = torch.randn(rows, vocabulary, generator=self.rng) * sharpness

    def one_of(self, *options: float) -> float:
        return options[int(self.choice * len(options))]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.rng))

    def temperature(self) -> float:
        """1, which takes a shorter way, or any other."""
        return self.one_of(1.0, self.between(0.5, 1.0), self.between(1.0, 4.0))

    def kept(self) -> int:
        """How many tokens are kept of a teacher: all of them in one case of five."""
        return min(self.vocabulary, 1 + int(1.25 * self.choice * self.vocabulary))

    def mask(self) -> Tensor:
        """Some of the rows, none, or all of them."""
        return torch.rand(self.rows, generator=self.rng) < self.between(-0.2, 1.2)

    def spans(self) -> Tensor:
        """Groups of one to three rows, some rows in none."""
        spans, start = [], 0
        while start < self.rows:
            size = int(torch.randint(1, 4, (), generator=self.rng))
            if torch.rand((), generator=self.rng) < 0.8:
                spans.append((start, min(start + size, self.rows)))
            start += size
        return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)


def top_k_of(teacher: Tensor, k: int) -> TopK:
    """The k likeliest tokens of a teacher's logits, in double precision until they are stored."""
    q, ids = teacher.double().softmax(-1).topk(k, dim=-1)
    rest = teacher.double().softmax(-1).scatter(-1, ids, 0.0).sum(-1)
    return TopK(
        ids=ids,
        log_probs=q.log().float(),
        tail=rest.log().float(),
        nll=torch.zeros(len(ids)),
        vocabulary=teacher.shape[-1],
    )


def cross_entropy(of: Targets) -> Pair:
    return CrossEntropy(of.labels), lambda z: dense.cross_entropy(z, of.labels)


def kl(of: Targets, beta: float = 0.0) -> Pair:
    tau = of.temperature()
    loss = divergence(lambda rows: of.teacher[rows].clone(), beta=beta, temperature=tau)
    return loss, lambda z: dense.divergence(z, of.teacher.double(), beta, tau)


def reverse_kl(of: Targets) -> Pair:
    return kl(of, beta=1.0)


def jensen_shannon(of: Targets) -> Pair:
    return kl(of, beta=0.1 + 0.8 * of.choice)


def standardised_kl(of: Targets) -> Pair:
    beta, tau = of.one_of(0.0, 1.0, 0.5), of.between(0.5, 4.0)
    teacher = dense.standardise(of.teacher.double())
    own = divergence(lambda rows: teacher[rows].float(), beta=beta, temperature=tau)
    return Standardised(own), lambda z: dense.divergence(dense.standardise(z), teacher, beta, tau)


def ghost(of: Targets, tail: str = "ghost") -> Pair:
    targets = top_k_of(of.teacher, of.kept())
    q = of.teacher.double().softmax(-1).gather(-1, targets.ids)
    return TopKDivergence(targets, tail), lambda z: dense.top_k(z, targets.ids, q, tail)


def renormalised(of: Targets) -> Pair:
    return ghost(of, "renormalised")


def zero(of: Targets) -> Pair:
    return ghost(of, "zero")


def asked_for(of: Targets, rows: TopK, covered: Tensor, **settings: Any) -> RowLoss:
    """The loss that a recipe asks for, of a teacher that has predictions for some rows."""
    targets = replace(row_by_row(rows), covered=covered)
    vocabulary = TargetVocabulary(size=of.vocabulary, to_student=torch.arange(of.vocabulary))
    found = DistillationLoss(distillation=1.0, cross_entropy=0.0, **settings)
    return loss_of(found, [vocabulary])({"labels": of.labels} | as_tensors(targets))


def renormalised_at_a_temperature(of: Targets) -> Pair:
    tau, rows = of.between(0.5, 4.0), top_k_of(of.teacher, of.kept())
    loss = asked_for(of, rows, of.labels >= 0, tail="renormalised", temperature=tau)
    q = (of.teacher.double() / tau).softmax(-1).gather(-1, rows.ids)
    return loss, lambda z: tau**2 * dense.top_k(z / tau, rows.ids, q, "renormalised")


def text_tail(of: Targets) -> Pair:
    """Rows whose own token is not among those that are kept, or that have none, learn it."""
    rows, covered = top_k_of(of.teacher, of.kept()), of.mask()
    loss = asked_for(of, rows, covered, tail="text")
    q = of.teacher.double().softmax(-1).gather(-1, rows.ids)
    kept = covered & (rows.ids == of.labels[:, None]).any(-1)
    return loss, lambda z: torch.where(
        kept, dense.top_k(z, rows.ids, q, "renormalised"), dense.cross_entropy(z, of.labels)
    )


def sampled(of: Targets) -> Pair:
    """Shares of some draws with replacement, the rows filled up to one length."""
    draws = torch.multinomial(of.teacher.softmax(-1), 8, replacement=True, generator=of.rng)
    counts = torch.nn.functional.one_hot(draws, of.vocabulary).sum(1).double() / 8
    return TopKDivergence(sampled_from(counts), "zero"), lambda z: (
        torch.special.xlogy(counts, counts) - counts * z.log_softmax(-1)
    ).sum(-1)


def sampled_from(shares: Tensor) -> TopK:
    """A sampled target in the form that caches have: no tail, rows end with minus infinity."""
    q, ids = shares.topk(int((shares > 0).sum(-1).max()), dim=-1)
    nothing = torch.full((len(ids),), -torch.inf)
    return TopK(
        # Any token may fill up a row; 0 is the worst if it is also a true one.
        ids=torch.where(q > 0, ids, 0),
        log_probs=q.log().float(),
        tail=nothing,
        nll=torch.zeros(len(ids)),
        vocabulary=shares.shape[-1],
    )


def uld(of: Targets) -> Pair:
    size = int(of.one_of(of.vocabulary, of.vocabulary + 3, max(1, of.vocabulary - 2)))
    teacher = torch.randn(of.rows, size, generator=of.rng).softmax(-1)
    tau = of.temperature()
    loss: RowLoss = ULD(lambda rows: teacher[rows])
    return (
        loss if tau == 1 else Tempered(loss, tau),
        lambda z: dense.uld(z, teacher.double(), tau),
    )


def standardised_uld_over_vocabulary(of: Targets, over: str = "vocabulary") -> Pair:
    k = min(3 + int(of.choice * 5), of.vocabulary)
    targets = dense.standardised_kept(of.teacher.double(), k, over)
    loss = standardised_uld(lambda rows: targets[rows].float(), k, over)
    return loss, lambda z: (dense.standardised_kept(z, k, over) - targets).abs().sum(-1)


def standardised_uld_over_kept(of: Targets) -> Pair:
    return standardised_uld_over_vocabulary(of, "kept")


def likelihood_matching(of: Targets) -> Pair:
    spans = of.spans()
    teacher = -torch.rand(len(spans), generator=of.rng) * 5 - 0.1
    tau = of.one_of(100.0, of.between(1.0, 10.0), of.between(10.0, 200.0))
    return LikelihoodMatching(of.labels, spans, teacher, tau), lambda z: dense.likelihood_matching(
        z, of.labels, spans, teacher.double(), tau
    )


def merged_spans(of: Targets) -> Pair:
    spans, size = of.spans(), of.vocabulary + 2
    q = torch.randn(len(spans), size, generator=of.rng).softmax(-1)
    common = int(of.choice * of.vocabulary)
    pairs = (
        torch.randperm(of.vocabulary, generator=of.rng)[:common],
        torch.randperm(size, generator=of.rng)[:common],
    )
    matched = Matched(student=pairs[0], teacher=pairs[1], weight=0.7, beta=0.3)
    loss = MergedSpans(of.labels, spans, lambda groups: q[groups].log(), matched)

    def reference(z: Tensor) -> Tensor:
        p = dense.merged(z, of.labels, spans) if len(spans) else z[:0]
        losses = dense.merged_spans(p, q.double(), pairs, 0.7, 0.3)
        return torch.zeros(of.rows, dtype=z.dtype).index_put((spans[:, 1] - 1,), losses)

    return loss, reference


def mixed(of: Targets) -> Pair:
    """Everything that the stage mixes: labels, a cache, a live teacher, groups of rows."""
    shares = (0.1, 0.5, 0.3, 0.2)
    parts = [cross_entropy(of), ghost(of), kl(of), likelihood_matching(of)]
    loss = Weighted([(share, each) for share, (each, _) in zip(shares, parts, strict=True)])
    return loss, lambda z: sum(
        share * each(z) for share, (_, each) in zip(shares, parts, strict=True)
    )


def masked(of: Targets) -> Pair:
    """Some rows have nothing to learn from; their targets are no numbers."""
    covered, targets = of.mask(), top_k_of(of.teacher, of.kept())
    q = of.teacher.double().softmax(-1).gather(-1, targets.ids)
    targets.log_probs[~covered] = torch.nan
    loss = Masked(TopKDivergence(targets, "ghost"), covered)
    return loss, lambda z: dense.top_k(z, targets.ids, q, "ghost") * covered


KINDS: tuple[Callable[[Targets], Pair], ...] = (
    *(cross_entropy, kl, reverse_kl, jensen_shannon, standardised_kl),
    *(ghost, renormalised, renormalised_at_a_temperature, zero, text_tail, sampled),
    *(uld, standardised_uld_over_vocabulary, standardised_uld_over_kept),
    *(likelihood_matching, merged_spans, masked, mixed),
)

"""Promise: what has to change nothing in a loss or its gradients changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dense_losses as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refinement_targets import KINDS, Targets, sampled, top_k_of
from tiny_heads import close, gradients, student

from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss, row_losses
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.likelihoods import LikelihoodMatching
from evomerge.refinement.losses.merged_spans import Matched, MergedSpans
from evomerge.refinement.losses.rows import Standardised, standardise
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.teachers.live import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from refinement_targets import Pair
    from torch import Tensor

    from evomerge.refinement.losses.rows import RowLoss

SEEDS = st.integers(0, 2**32 - 1)
BETAS = st.sampled_from([0.0, 1.0]) | st.floats(0.05, 0.95)
TEMPERATURES = st.just(1.0) | st.floats(0.5, 4)
of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@of_every_kind
@given(
    size=st.tuples(st.integers(1, 6), st.integers(8, 20)),
    seed=SEEDS,
    choice=st.floats(0, 0.999),
    padding=st.integers(1, 8),
)
@settings(max_examples=20)
def test_padded_rows_of_the_head_change_nothing_and_learn_nothing(
    kind: Callable[[Targets], Pair],
    size: tuple[int, int],
    seed: int,
    choice: float,
    padding: int,
) -> None:
    rows, vocabulary = size
    row_loss, _ = kind(Targets(rows, vocabulary, seed, 2.0, choice))
    hidden, wide = student(rows, vocabulary + padding, seed)
    assert wide.bias is not None
    head = Head(
        weight=wide.weight[:vocabulary].detach().requires_grad_(),
        bias=wide.bias[:vocabulary].detach().requires_grad_(),
    )
    weights = torch.full((rows,), 1 / rows)
    found = []
    for each in (head, replace(wide, tokens=vocabulary)):
        loss = chunked_loss(hidden, each, row_loss, weights)
        found.append([loss.detach(), *gradients(loss, hidden, each)])
    plain, padded = found
    assert close(padded[0], plain[0], 1e-6)
    assert close(padded[1], plain[1], 1e-6)
    for one, other in zip(plain[2:], padded[2:], strict=True):
        assert close(other[:vocabulary], one, 1e-6)
        assert not other[vocabulary:].any()


@given(seed=SEEDS, beta=BETAS, temperature=TEMPERATURES, padding=st.integers(1, 8))
@settings(max_examples=40)
def test_tokens_that_cannot_be_change_no_divergence(
    seed: int, beta: float, temperature: float, padding: int
) -> None:
    of = Targets(5, 12, seed, 2.0, 0.1)
    hidden, head = student(5, 12, seed)
    assert head.bias is not None
    impossible = torch.full((padding,), -torch.inf)
    wide = Head(
        weight=torch.cat([head.weight.detach(), torch.zeros(padding, 6)]),
        bias=torch.cat([head.bias.detach(), impossible]),
    )
    weights = torch.full((5,), 0.2)
    found = []
    for each, teacher in (
        (head, of.teacher),
        (wide, torch.cat([of.teacher, impossible.expand(5, padding)], dim=1)),
        # A teacher without the student's last tokens says the same.
        (wide, of.teacher),
    ):
        row_loss = divergence(
            lambda rows, teacher=teacher: teacher[rows].clone(), beta=beta, temperature=temperature
        )
        loss = chunked_loss(hidden, each, row_loss, weights)
        found.append((loss.detach(), *torch.autograd.grad(loss, hidden)))
    for other in found[1:]:
        assert all(close(*each, 2e-6) for each in zip(other, found[0], strict=True))


@of_every_kind
@given(seed=SEEDS, choice=st.floats(0, 0.999), chunk=st.integers(1, 10))
@settings(max_examples=20)
def test_a_frozen_head_gives_the_same_gradient_of_the_hidden_states(
    kind: Callable[[Targets], Pair], seed: int, choice: float, chunk: int
) -> None:
    row_loss, _ = kind(Targets(9, 15, seed, 2.0, choice))
    hidden, head = student(9, 15, seed)
    weights = torch.full((9,), 1 / 9)
    (expected, *_) = gradients(chunked_loss(hidden, head, row_loss, weights, chunk), hidden, head)
    assert head.bias is not None
    frozen = replace(head, weight=head.weight.detach(), bias=head.bias.detach())
    loss = chunked_loss(hidden, frozen, row_loss, weights, chunk)
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], expected)


@given(seed=SEEDS, beta=BETAS, temperature=TEMPERATURES, standardised=st.booleans())
@settings(max_examples=40)
def test_a_live_teacher_gets_no_gradient(
    seed: int, beta: float, temperature: float, standardised: bool
) -> None:
    hidden, head = student(6, 10, seed)
    of_teacher, teachers = student(6, 10, seed + 1)
    logits = logits_of(teachers, of_teacher)
    row_loss = divergence(logits, beta=beta, temperature=temperature)
    if standardised:
        alike = divergence(lambda rows: standardise(logits(rows)), beta=beta)
        row_loss = Standardised(alike)
    chunked_loss(hidden, head, row_loss, torch.ones(6)).backward()
    assert hidden.grad is not None
    assert hidden.grad.any()
    assert of_teacher.grad is teachers.weight.grad is None
    assert teachers.bias is not None
    assert teachers.bias.grad is None


def divergence_from(own: Tensor, of: Targets) -> RowLoss:
    beta, tau = of.one_of(0.0, 1.0, of.between(0.1, 0.9)), of.temperature()
    return divergence(lambda rows: own[rows].clone(), beta=beta, temperature=tau)


def standardised_from(own: Tensor, of: Targets) -> RowLoss:
    return Standardised(divergence_from(standardise(own), of))


def ghost_from(own: Tensor, of: Targets) -> RowLoss:
    return TopKDivergence(top_k_of(own, of.kept()))


def renormalised_from(own: Tensor, of: Targets) -> RowLoss:
    return TopKDivergence(top_k_of(own, of.vocabulary), "renormalised")


def zero_from(own: Tensor, of: Targets) -> RowLoss:
    return TopKDivergence(top_k_of(own, of.vocabulary), "zero")


def merged_from(own: Tensor, of: Targets) -> RowLoss:
    spans, every = of.spans(), torch.arange(of.vocabulary)
    merged = dense.merged(own, of.labels, spans) if len(spans) else own[:0]
    ids = Matched(student=every, teacher=every, weight=1.0, beta=of.between(0.1, 0.9))
    return MergedSpans(of.labels, spans, lambda groups: merged[groups].log(), ids)


def likelihoods_from(own: Tensor, of: Targets) -> RowLoss:
    spans = of.spans()
    each = -dense.cross_entropy(own, of.labels)
    sums = torch.tensor([float(each[start:stop].sum()) for start, stop in spans.tolist()])
    return LikelihoodMatching(of.labels, spans, sums, of.between(1.0, 100.0))


@pytest.mark.parametrize(
    "learned_from",
    [
        *(divergence_from, standardised_from, ghost_from, renormalised_from, zero_from),
        *(merged_from, likelihoods_from),
    ],
    ids=lambda each: each.__name__,
)
@given(
    size=st.tuples(st.integers(1, 8), st.integers(3, 20)),
    seed=SEEDS,
    choice=st.floats(0, 0.999),
    chunk=st.integers(1, 8),
)
@settings(max_examples=40)
def test_a_student_like_its_teacher_has_no_gradient_and_no_loss(
    learned_from: Callable[[Tensor, Targets], RowLoss],
    size: tuple[int, int],
    seed: int,
    choice: float,
    chunk: int,
) -> None:
    """Sums of absolute differences have no gradient there; they are seen to be 0 elsewhere."""
    rows, vocabulary = size
    hidden, head = student(rows, vocabulary, seed)
    own = head.logits(hidden).detach()
    row_loss = learned_from(own, Targets(rows, vocabulary, seed, 1.0, choice))
    loss = chunked_loss(hidden, head, row_loss, torch.full((rows,), 1 / rows), chunk)
    # The cross entropy of a likelihood with itself is its entropy.
    assert learned_from is likelihoods_from or loss.detach().abs() < 2e-6
    assert all(float(each.abs().max()) < 1e-5 for each in gradients(loss, hidden, head))


@pytest.mark.parametrize(
    "kind", [each for each in KINDS if each is not sampled], ids=lambda kind: kind.__name__
)
@given(vocabulary=st.integers(8, 20), seed=SEEDS, choice=st.floats(0, 0.999))
@settings(max_examples=10)
def test_without_supervised_rows_the_loss_is_zero_and_so_are_gradients(
    kind: Callable[[Targets], Pair], vocabulary: int, seed: int, choice: float
) -> None:
    row_loss, _ = kind(Targets(0, vocabulary, seed, 2.0, choice))
    hidden, head = student(0, vocabulary, seed)
    loss = chunked_loss(hidden, head, row_loss, torch.zeros(0))
    assert loss.detach() == 0
    assert all(not each.any() for each in gradients(loss, hidden, head))
    assert row_losses(hidden, head, row_loss).shape == (0,)

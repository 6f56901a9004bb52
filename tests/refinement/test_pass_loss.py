"""Promise: what settings ask for is what a pass is measured by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense_losses import standardised_kept
from hypothesis import given
from hypothesis import strategies as st

from evomerge.recipe.distillation import DistillationLoss
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss, row_losses
from evomerge.refinement.losses.sorted_distance import Over, standardised_targets
from evomerge.refinement.predictions.kept import top_k
from evomerge.refinement.predictions.targets import (
    Targets,
    TargetVocabulary,
    as_tensors,
    from_tensors,
    join,
    row_by_row,
)
from evomerge.refinement.training.pass_loss import loss_of

VOCABULARY = 11
ALL = TargetVocabulary(size=VOCABULARY, to_student=torch.arange(VOCABULARY))
HEAD = Head(weight=torch.eye(VOCABULARY))
"""Hidden states are logits."""


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def targets_of(logits: torch.Tensor, labels: torch.Tensor, k: int = VOCABULARY) -> Targets:
    return row_by_row(top_k(logits.clone(), labels, k))


def losses_of(
    settings: DistillationLoss, targets: Targets, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    loss = loss_of(settings, [ALL])({"labels": labels} | as_tensors(targets))
    return row_losses(logits, HEAD, loss)


def only(kind: str, **given_: object) -> DistillationLoss:
    return DistillationLoss.model_validate(
        {"kind": kind, "distillation": 1.0, "cross_entropy": 0.0, **given_}
    )


@pytest.mark.parametrize(
    "settings",
    [
        only("top_k_kl"),
        only("top_k_kl", tail="renormalised", temperature=2.0),
        only("uld"),
        only("standardised_uld", top=4),
        only("standardised_uld", top=4, standardise="kept"),
        only("span_hybrid"),
    ],
    ids=lambda each: f"{each.kind}-{each.temperature}-{each.standardise}",
)
def test_a_student_that_predicts_what_its_teacher_does_has_no_loss(
    settings: DistillationLoss,
) -> None:
    logits, labels = logits_of(5), torch.arange(5)
    losses = losses_of(settings, targets_of(logits, labels), logits, labels)
    torch.testing.assert_close(losses, torch.zeros(5), atol=2e-6, rtol=0)


@given(seed=st.integers(0, 99), kept=st.integers(4, VOCABULARY), over=st.booleans())
def test_what_was_written_down_is_enough_to_standardise(seed: int, kept: int, over: bool) -> None:
    logits, labels = logits_of(3, seed), torch.zeros(3, dtype=torch.int64)
    of: Over = "vocabulary" if over else "kept"
    found = standardised_targets(targets_of(logits, labels, kept).rows, 4, of)
    expected = standardised_kept(logits, 4, of)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), kept=st.integers(1, VOCABULARY - 1))
def test_a_tail_learned_from_texts_has_the_gradient_of_the_full_divergence_in_the_mean(
    seed: int, kept: int
) -> None:
    teacher = logits_of(1, seed).expand(VOCABULARY, -1)
    student = logits_of(1, seed + 100).repeat(VOCABULARY, 1).requires_grad_()
    every_label, expected = torch.arange(VOCABULARY), teacher[0].softmax(0)
    targets, settings = targets_of(teacher, every_label, kept), only("top_k_kl", tail="text")
    loss = loss_of(settings, [ALL])({"labels": every_label} | as_tensors(targets))
    chunked_loss(student, HEAD, loss, expected).backward()
    assert student.grad is not None
    full = student.detach()[0].softmax(0) - expected
    torch.testing.assert_close(student.grad.sum(0), full, atol=1e-5, rtol=1e-5)


def test_the_tail_of_a_teacher_with_another_tokenizer_is_learned_from_the_texts() -> None:
    logits, labels = logits_of(5), torch.arange(5)
    read = {"labels": labels} | as_tensors(targets_of(logits_of(5, seed=1), labels, k=3))

    def losses(settings: DistillationLoss, *, aligned: bool) -> torch.Tensor:
        loss = loss_of(settings, [replace(ALL, aligned=aligned)])(read)
        return row_losses(logits, HEAD, loss)

    by_text, by_ghost = (
        losses(only("top_k_kl", tail=tail), aligned=False) for tail in ("text", "ghost")
    )
    assert torch.equal(losses(only("top_k_kl"), aligned=True), by_text)
    assert torch.equal(losses(only("top_k_kl"), aligned=False), by_ghost)
    assert not torch.equal(by_text, by_ghost)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_tail_learned_from_texts_teaches_what_is_kept_or_else_the_row_s_own_token(
    chunk: int,
) -> None:
    """Rows 0 and 3 have kept their label, row 1 has not, and rows 2 and 4 have no prediction."""
    logits, teacher = logits_of(5).requires_grad_(), logits_of(5, seed=1)
    kept, likeliest = teacher.topk(2).indices, torch.tensor([True, False, True, True, False])
    labels = torch.where(likeliest, kept[:, 1], teacher.argmin(1))
    covered = torch.tensor([True, True, False, True, False])
    targets = replace(targets_of(teacher, labels, 2), covered=covered)
    settings = DistillationLoss(tail="text", distillation=0.9, cross_entropy=0.1)
    loss = loss_of(settings, [ALL])({"labels": labels} | as_tensors(targets))
    chunked_loss(logits, HEAD, loss, torch.ones(5), chunk).backward()
    own = torch.nn.functional.one_hot(labels, VOCABULARY).float()
    q = torch.zeros(5, VOCABULARY).scatter(1, kept, teacher.gather(1, kept).softmax(1))
    learned = torch.where((covered & likeliest)[:, None], q, own)
    expected = logits.detach().softmax(1) - 0.9 * learned - 0.1 * own
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=1e-5)


def half_covered(logits: torch.Tensor, labels: torch.Tensor) -> Targets:
    targets = targets_of(logits, labels)
    covered = torch.arange(len(labels)) % 2 == 0
    return Targets(rows=targets.rows, covered=covered, before=targets.before)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]


def test_a_row_without_a_prediction_learns_its_own_token_with_the_weights_of_both() -> None:
    logits, labels = logits_of(4), torch.arange(4)
    targets = half_covered(logits_of(4, seed=1), labels)
    settings = DistillationLoss(distillation=0.5, cross_entropy=0.25)
    losses = losses_of(settings, targets, logits, labels)
    own = cross_entropy(logits, labels)
    torch.testing.assert_close(losses[1::2], 0.75 * own[1::2])
    assert (losses[::2] > 0.25 * own[::2]).all()


def test_a_row_without_a_prediction_to_be_sorted_has_the_cross_entropy_alone() -> None:
    logits, labels = logits_of(4), torch.arange(4)
    targets = half_covered(logits_of(4, seed=1), labels)
    settings = DistillationLoss(kind="uld", distillation=0.5, cross_entropy=0.25)
    losses = losses_of(settings, targets, logits, labels)
    torch.testing.assert_close(losses[1::2], 0.25 * cross_entropy(logits, labels)[1::2])


def test_likelihoods_of_groups_are_matched_with_gradients_of_the_size_of_others() -> None:
    """ALM's .058830 of one group, -1 and -2, at temperature 100, of which 100 times is taken."""
    labels = torch.tensor([0])
    rows = targets_of(torch.zeros(1, VOCABULARY), labels).rows.each(lambda own: own)
    targets = row_by_row(rows)
    targets.rows.nll[:] = 1.0
    p = torch.full((1, VOCABULARY), (1 - torch.tensor(-2.0).exp()) / (VOCABULARY - 1))
    p[0, 0] = torch.tensor(-2.0).exp()
    losses = losses_of(only("alm"), targets, p.log(), labels)
    assert losses.item() == pytest.approx(5.8830, abs=1e-4)


@pytest.mark.parametrize(("temperature", "expected"), [(None, 0.398569), (1.0, 0.420512)])
def test_standardised_logits_are_compared_at_temperature_two_unless_another_is_asked_for(
    temperature: float | None, expected: float
) -> None:
    """(-1, 0, 1) against (-1, 1, 0); at two the divergence is taken four times."""
    teacher, logits = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 6.0, 4.0]])
    settings = only("standardised_kl", temperature=temperature, cross_entropy=1e-9)
    loss = loss_of(settings, [], lambda _: lambda rows: teacher[rows].clone())
    found = row_losses(logits, Head(weight=torch.eye(3)), loss({"labels": torch.tensor([0])}))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_group_of_two_tokens_is_as_likely_as_both_together() -> None:
    labels, logits = torch.tensor([1, 2]), logits_of(2)
    targets = targets_of(logits, labels)
    total = targets.rows.nll.sum()
    targets.rows.nll[:] = torch.stack([torch.zeros(()), total])
    group = Targets(
        rows=targets.rows, covered=torch.tensor([False, True]), before=torch.tensor([0, 1])
    )
    losses = losses_of(only("alm", temperature=1.0), group, logits, labels)
    p = (-total).exp()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    assert losses[0] == 0
    torch.testing.assert_close(losses[1], entropy, atol=1e-5, rtol=1e-5)


def test_tokens_that_the_student_has_not_are_compared_by_their_probabilities() -> None:
    """Half of the vocabulary is the student's under other ids, the rest has no partner."""
    logits, labels = logits_of(3), torch.arange(3)
    to_student = torch.arange(VOCABULARY).flip(0)
    to_student[::2] = UNMATCHED
    vocabulary = TargetVocabulary(size=VOCABULARY, to_student=to_student)
    targets = targets_of(logits.flip(1), labels)
    loss = loss_of(only("span_hybrid"), [vocabulary])({"labels": labels} | as_tensors(targets))
    torch.testing.assert_close(row_losses(logits, HEAD, loss), torch.zeros(3), atol=2e-6, rtol=0)


def test_targets_are_taken_apart_and_put_together() -> None:
    labels = torch.arange(3)
    targets = join([targets_of(logits_of(3), labels, 4), targets_of(logits_of(3, 1), labels, 6)])
    again = from_tensors(as_tensors(targets), VOCABULARY)
    assert as_tensors(again).keys() == as_tensors(targets).keys()
    for name, each in as_tensors(targets).items():
        assert torch.equal(as_tensors(again)[name], each), name

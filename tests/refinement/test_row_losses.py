"""Promise: losses of rows and their gradients are the numbers that one computes by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refinement_targets import sampled_from, top_k_of
from torch import Tensor

from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.likelihoods import LikelihoodMatching
from evomerge.refinement.losses.merged_spans import Matched, MergedSpans
from evomerge.refinement.losses.rows import RowLoss, Standardised, Student, standardise
from evomerge.refinement.losses.sorted_distance import (
    ULD,
    Over,
    standardised_targets,
    standardised_uld,
)
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.predictions.kept import top_k

Q = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]])
Z = torch.tensor([[0.3, -0.2, 0.6, 0.0, 0.1]])
U = torch.tensor([[4.0, 2.0, 0.0, -2.0]])
NO_TOKENS = torch.zeros(0, dtype=torch.int64)
NONE_MATCHED = Matched(student=NO_TOKENS, teacher=NO_TOKENS, weight=0.0)
SEEDS = st.integers(0, 2**32 - 1)


def measure(row_loss: RowLoss, logits: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros_like(logits)
    losses = row_loss(Student(logits), slice(0, len(logits)), gradient)
    return losses, gradient


def targets_of(logits: Tensor, k: int, over: Over) -> Tensor:
    """What a student learns from the logits of a teacher, of which `k` are kept."""
    rows = top_k(logits.clone(), torch.zeros(len(logits), dtype=torch.int64), k)
    return standardised_targets(rows, k, over)


def approx(values: object) -> object:
    return pytest.approx(values, abs=1.5e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 0.583815), (1.0, 0.537176), (0.5, 0.132918), (0.01, 0.005760), (0.99, 0.00531161)],
)
def test_divergences_are_the_definition_s(beta: float, expected: float) -> None:
    q, p = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.2, 0.5, 0.3]])
    losses, gradient = measure(divergence(lambda _: q.log(), beta=beta), p.log())
    assert losses.item() == approx(expected)
    assert gradient.sum().item() == approx(0)


@pytest.mark.parametrize(
    ("tail", "loss", "gradient"),
    [
        ("ghost", 0.414370, [-0.278562, -0.165691, 0.206117, 0.113120, 0.125016]),
        # p = (.221438, .134309, .298910, .164045, .181298): p - q / 0.8, and 0.8 p - q.
        ("renormalised", 1.033550, [-0.403562, -0.240691, 0.298910, 0.164045, 0.181298]),
        ("zero", 0.648325, [-0.322850, -0.192553, 0.239128, 0.131236, 0.145038]),
    ],
)
def test_two_kept_tokens_of_five(tail: str, loss: float, gradient: list[float]) -> None:
    losses, found = measure(TopKDivergence(top_k_of(Q.log(), 2), tail), Z)
    assert losses.item() == approx(loss)
    assert found[0].tolist() == approx(gradient)


def test_all_of_five_tokens() -> None:
    losses, gradient = measure(divergence(lambda _: Q.log()), Z)
    assert losses.item() == approx(0.418029)
    assert gradient[0].tolist() == approx([-0.278562, -0.165691, 0.198910, 0.104045, 0.141298])


def predictions(seed: int, vocabulary: int) -> Tensor:
    """Logits of a teacher and of a student at four rows."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, vocabulary, generator=rng) * 3


@pytest.mark.parametrize("tail", ["ghost", "renormalised", "zero"])
@given(seed=SEEDS, vocabulary=st.integers(2, 30))
def test_keeping_every_token_is_the_full_divergence(tail: str, seed: int, vocabulary: int) -> None:
    teacher, logits = predictions(seed, vocabulary)
    full = measure(divergence(lambda _: teacher.clone()), logits)
    whole = measure(TopKDivergence(top_k_of(teacher, vocabulary), tail), logits)
    assert all(torch.allclose(*each, atol=2e-6) for each in zip(whole, full, strict=True))


@given(seed=SEEDS, vocabulary=st.integers(2, 30))
def test_a_tail_of_one_token_is_no_loss_of_information(seed: int, vocabulary: int) -> None:
    teacher, logits = predictions(seed, vocabulary)
    full = measure(divergence(lambda _: teacher.clone()), logits)
    ghost = measure(TopKDivergence(top_k_of(teacher, vocabulary - 1)), logits)
    assert all(torch.allclose(*each, atol=2e-6) for each in zip(ghost, full, strict=True))


@given(seed=SEEDS, k=st.integers(1, 20))
def test_the_ghost_of_the_tail_is_at_most_the_full_divergence(seed: int, k: int) -> None:
    teacher, logits = predictions(seed, 20)
    ghost, _ = measure(TopKDivergence(top_k_of(teacher, k)), logits)
    full, _ = measure(divergence(lambda _: teacher.clone()), logits)
    assert bool((ghost <= full + 1e-5).all())


def test_the_ghost_is_exact_where_the_student_has_nothing_left_for_the_tail() -> None:
    teacher = torch.tensor([[2.0, 1.0, 0.0, 0.0, -1.0]])
    logits = torch.tensor([[25.0, 24.0, 3.0, 2.0, 1.0]])
    _, found = measure(TopKDivergence(top_k_of(teacher, 2)), logits)
    _, expected = measure(TopKDivergence(top_k_of(teacher.double(), 2)), logits.double())
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    _, full = measure(divergence(lambda _: teacher.clone()), logits)
    assert torch.allclose(found[:, :2], full[:, :2], rtol=1e-5)


@pytest.mark.parametrize("tail", ["ghost", "renormalised", "zero"])
def test_what_fills_up_a_row_stands_for_no_token(tail: str) -> None:
    targets = top_k_of(Q.log().roll(1), 2)
    expected = measure(TopKDivergence(targets, tail), Z)
    filled = replace(
        targets,
        ids=torch.nn.functional.pad(targets.ids, (0, 3)),
        log_probs=torch.nn.functional.pad(targets.log_probs, (0, 3), value=-torch.inf),
    )
    found = measure(TopKDivergence(filled, tail), Z)
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("probs", "loss"), [([0.1, 0.6, 0.3], 0.2), ([0.05, 0.55, 0.3, 0.1], 0.3)]
)
def test_sorted_probabilities_are_compared(probs: list[float], loss: float) -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1]])
    losses, _ = measure(ULD(lambda _: teacher), torch.tensor([probs]).log())
    assert losses.item() == approx(loss)


def test_the_gradient_of_sorted_probabilities() -> None:
    teacher = torch.tensor([[0.6, 0.25, 0.1, 0.05]])
    losses, gradient = measure(ULD(lambda _: teacher), torch.tensor([[0.2, 1.0, -0.3, 0.5]]))
    assert losses.item() == approx(0.341038)
    assert gradient[0].tolist() == approx([0.165761, -0.490054, 0.100539, 0.223754])


@given(seed=SEEDS, narrow=st.integers(1, 9))
def test_the_order_of_either_vocabulary_changes_no_sorted_distance(seed: int, narrow: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, generator=rng)
    teacher = torch.randn(3, narrow, generator=rng).softmax(-1)
    order = torch.randperm(6, generator=rng)
    losses, gradient = measure(ULD(lambda _: teacher), logits)
    moved, of_moved = measure(ULD(lambda _: teacher.flip(-1)), logits[:, order])
    assert torch.allclose(losses, moved)
    assert torch.allclose(gradient[:, order], of_moved, atol=1e-7)
    assert bool(((losses >= 0) & (losses <= 2)).all())
    assert torch.allclose(gradient.sum(-1), torch.zeros(3), atol=1e-6)


@pytest.mark.parametrize(
    ("over", "k", "loss"),
    [
        ("vocabulary", 2, 0.239831),
        ("vocabulary", 3, 0.272126),
        ("vocabulary", 4, 0.270701),
        # Two numbers always become the same two, which is why settings ask for three.
        ("kept", 2, 0.0),
        ("kept", 3, 0.106552),
        ("kept", 4, 0.270701),
    ],
)
def test_the_largest_standardised_logits_are_compared(over: str, k: int, loss: float) -> None:
    row_loss = standardised_uld(lambda _: targets_of(U, k, over), k, over)
    losses, _ = measure(row_loss, torch.tensor([[1.0, 3.0, 0.0, 0.0]]))
    assert losses.item() == approx(loss)


def test_the_targets_of_standardised_logits() -> None:
    assert targets_of(U, 3, "vocabulary")[0].tolist() == approx([0.597618, 0.275436, 0.126946])


@given(
    seed=SEEDS,
    scale=st.floats(0.2, 5),
    shift=st.floats(-5, 5),
    over=st.sampled_from(["vocabulary", "kept"]),
)
def test_scale_and_shift_of_logits_change_no_standardised_distance(
    seed: int, scale: float, shift: float, over: str
) -> None:
    rng = torch.Generator().manual_seed(seed)
    teacher, logits = torch.randn(2, 3, 12, generator=rng)
    plain, moved = (
        measure(standardised_uld(lambda _, u=u: targets_of(u, 5, over), 5, over), z)[0]
        for u, z in ((teacher, logits), (teacher * 2 - 1, logits * scale + shift))
    )
    assert torch.allclose(plain, moved, atol=2e-5)


def test_standardised_logits_at_temperature_two() -> None:
    teacher, logits = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 6.0, 4.0]])
    assert standardise(teacher)[0].tolist() == approx([-1, 0, 1])
    assert standardise(logits)[0].tolist() == approx([-1, 1, 0])
    row_loss = Standardised(divergence(lambda _: standardise(teacher), temperature=2.0))
    assert measure(row_loss, logits)[0].item() == approx(0.398569)


def test_an_affine_student_learns_nothing_from_standardised_logits() -> None:
    row_loss = Standardised(divergence(lambda _: standardise(Z), temperature=2.0))
    losses, gradient = measure(row_loss, 10 * Z + 5)
    assert losses.item() == approx(0)
    assert gradient.abs().max().item() == approx(0)


def test_a_student_that_prefers_nothing_learns_finitely_from_standardised_logits() -> None:
    row_loss = Standardised(divergence(lambda _: standardise(Z)))
    _, gradient = measure(row_loss, torch.zeros_like(Z))
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("likelihood", "loss"), [(-2.0, 0.058830), (-1.0, 0.055777)])
def test_likelihoods_of_a_piece_of_text(likelihood: float, loss: float) -> None:
    p = torch.tensor(likelihood).exp()
    row_loss = LikelihoodMatching(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([-1.0]))
    losses, gradient = measure(row_loss, torch.stack([p, 1 - p])[None].log())
    assert losses.item() == approx(loss)
    assert (gradient.abs().max().item() == approx(0)) == (likelihood == -1)


def test_the_likelihood_of_a_piece_is_that_of_its_tokens_together() -> None:
    labels = torch.tensor([1, 0, 1])
    logits = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    together = LikelihoodMatching(labels, torch.tensor([[0, 2]]), torch.tensor([-1.0]))
    losses, gradient = measure(together, logits)
    likelihood = logits.log_softmax(-1)[[0, 1], [1, 0]].sum().exp()
    alone = LikelihoodMatching(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([-1.0]))
    expected, _ = measure(alone, torch.stack([likelihood, 1 - likelihood])[None].log())
    assert losses.tolist() == approx([0, expected.item(), 0])
    assert not gradient[2].any()


def test_a_group_of_tokens_is_merged_by_the_chain_rule() -> None:
    rows = torch.tensor([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1]])
    merged = torch.tensor([[0.54, 0.27, 0.09]])
    labels, spans = torch.tensor([0, 1]), torch.tensor([[0, 2]])
    row_loss = MergedSpans(labels, spans, lambda _: merged.log(), NONE_MATCHED)
    losses, _ = measure(row_loss, rows.log())
    assert losses.tolist() == approx([0, 0])


def test_tokens_of_the_same_text_are_compared_with_each_other() -> None:
    # 0.5 of "a" and 0.3 of "b", against 0.3 and 0.5: sorted they are the same.
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.3, 0.5]])
    labels, spans = torch.tensor([0]), torch.tensor([[0, 1]])
    swapped, _ = measure(MergedSpans(labels, spans, lambda _: q.log(), NONE_MATCHED), p.log())
    assert swapped.item() == approx(0)
    ids = Matched(student=torch.tensor([0, 1]), teacher=torch.tensor([1, 2]), weight=1.0)
    compared, _ = measure(MergedSpans(labels, spans, lambda _: q.log(), ids), p.log())
    # 0.5 (0.3 log(0.3/0.4) + 0.5 log(0.5/0.4)), twice.
    assert compared.item() == approx(0.025267)


def test_a_label_changes_its_own_row_alone() -> None:
    _, one = measure(CrossEntropy(torch.tensor([0, 1, 2])), Z.expand(3, 5).clone())
    _, other = measure(CrossEntropy(torch.tensor([0, 4, 2])), Z.expand(3, 5).clone())
    assert [bool(each) for each in (one != other).any(-1)] == [False, True, False]


def test_sampled_targets_teach_the_full_divergence_on_average() -> None:
    rng = torch.Generator().manual_seed(0)
    teacher, logits = torch.randn(2, 1, 30, generator=rng) * 2
    draws = torch.multinomial(
        teacher.softmax(-1).expand(4000, 30), 50, replacement=True, generator=rng
    )
    shares = torch.nn.functional.one_hot(draws, 30).sum(1) / 50
    row_loss = TopKDivergence(sampled_from(shares), "zero")
    losses, gradients = measure(row_loss, logits.expand(4000, 30).clone())
    _, full = measure(divergence(lambda _: teacher.clone()), logits)
    error = gradients.std(0) / 4000**0.5
    # Thirty comparisons at three standard errors; a tail that is cut off misses by fifty.
    assert bool(((gradients.mean(0) - full[0]).abs() <= 4 * error + 1e-7).all())
    assert bool((losses >= -1e-5).all())


def test_sixty_four_tokens_and_a_ghost_point_where_the_full_divergence_does() -> None:
    rng = torch.Generator().manual_seed(0)
    # A teacher about as sure as language models are, a student near it.
    teacher = torch.randn(64, 4000, generator=rng) * 3
    logits = teacher + torch.randn(64, 4000, generator=rng)
    _, full = measure(divergence(lambda _: teacher.clone()), logits)
    _, ghost = measure(TopKDivergence(top_k_of(teacher, 64)), logits)
    assert torch.cosine_similarity(ghost.flatten(), full.flatten(), dim=0) >= 0.99

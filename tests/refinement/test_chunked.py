"""Promise: a loss in chunks, and its gradients, are those of all logits at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from refinement_targets import (
    KINDS,
    Targets,
    cross_entropy,
    ghost,
    kl,
    likelihood_matching,
    mixed,
    standardised_uld_over_kept,
    top_k_of,
)
from torch.nn import functional

from evomerge.errors import CompatibilityError
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss, chunks, row_losses
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.rows import RowLoss, Standardised, standardise
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.teachers.live import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from refinement_targets import Pair
    from torch import Tensor

NORMAL = st.integers(0, 2**32 - 1)


def student(rows: int, vocabulary: int, seed: int = 0, **features: Any) -> tuple[Tensor, Head]:
    """Hidden states of width 6 and a head, all of which want gradients."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=rng).requires_grad_()
    weight = torch.randn(vocabulary, 6, generator=rng).requires_grad_()
    bias = torch.randn(vocabulary, generator=rng).requires_grad_()
    return hidden, Head(weight=weight, bias=bias, **features)


def gradients(loss: Tensor, hidden: Tensor, head: Head) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, head.weight, head.bias]))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether the largest error is small against the largest entry."""
    size = expected.abs().max() if expected.numel() else torch.zeros(())
    return bool((found - expected).abs().max() <= tolerance * size + 2e-7)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(8, 40)),
    seed=NORMAL,
    sharpness=st.floats(0.1, 4),
    choice=st.floats(0, 0.999),
    chunk=st.integers(1, 14),
    cap=st.sampled_from([None, 5.0]),
)
def test_every_loss_and_its_gradients_are_those_of_autograd_in_double_precision(
    kind: Callable[[Targets], Pair],
    size: tuple[int, int],
    seed: int,
    sharpness: float,
    choice: float,
    chunk: int,
    cap: float | None,
) -> None:
    rows, vocabulary = size
    row_loss, reference = kind(Targets(rows, vocabulary, seed, sharpness, choice))
    hidden, head = student(rows, vocabulary, seed, scale=0.5, cap=cap)
    weights = torch.full((rows,), 1 / (rows + 3))
    loss = chunked_loss(hidden, head, row_loss, weights, chunk)
    exact = [each.detach().double().requires_grad_() for each in (hidden, head.weight, head.bias)]
    logits = functional.linear(*exact) * 0.5
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    expected = (reference(logits) * weights).sum()
    # Three logits that are almost equal are far apart once they are standardised, and so is what
    # was rounded.
    tolerance = 1e-3 if kind is standardised_uld_over_kept else 1e-5
    assert close(loss.detach(), expected.detach(), tolerance)
    for found, wanted in zip(
        gradients(loss, hidden, head),
        torch.autograd.grad(expected, exact, materialize_grads=True),
        strict=True,
    ):
        assert close(found, wanted, tolerance)


@given(seed=NORMAL, chunk=st.integers(1, 20))
def test_the_chunk_size_changes_nothing(seed: int, chunk: int) -> None:
    row_loss, _ = mixed(Targets(16, 30, seed, 2.0, 0.4))
    hidden, head = student(16, 30, seed)
    whole, cut = (
        chunked_loss(hidden, head, row_loss, torch.full((16,), 1 / 16), size)
        for size in (16, chunk)
    )
    assert torch.allclose(whole, cut, rtol=1e-6)
    for one, other in zip(
        gradients(whole, hidden, head), gradients(cut, hidden, head), strict=True
    ):
        assert close(one, other, 1e-6)


@pytest.mark.parametrize("sizes", [[8], [2, 2, 2, 2], [1, 4, 3], [0, 8]])
def test_how_a_step_is_cut_into_batches_changes_nothing(sizes: list[int]) -> None:
    of = Targets(8, 20, 3, 2.0, 0.5)
    hidden, head = student(8, 20)
    targets = top_k_of(of.teacher, 4)
    whole = gradients(
        chunked_loss(hidden, head, TopKDivergence(targets), torch.full((8,), 1 / 8)), hidden, head
    )
    parts = []
    start = 0
    for size in sizes:
        part = slice(start, start := start + size)
        row_loss = TopKDivergence(
            replace(
                targets,
                ids=targets.ids[part],
                log_probs=targets.log_probs[part],
                tail=targets.tail[part],
            )
        )
        loss = chunked_loss(hidden[part], head, row_loss, torch.full((size,), 1 / 8))
        parts.append(gradients(loss, hidden, head))
    summed = [sum(each) for each in zip(*parts, strict=True)]
    assert all(close(*each, 1e-6) for each in zip(summed, whole, strict=True))


@pytest.mark.parametrize("kind", [cross_entropy, ghost, kl])
def test_padded_rows_of_the_head_change_nothing_and_learn_nothing(
    kind: Callable[[Targets], Pair],
) -> None:
    row_loss, _ = kind(Targets(5, 12, 1, 2.0, 0.1))
    hidden, head = student(5, 12)
    weights = torch.full((5,), 0.2)
    plain = chunked_loss(hidden, head, row_loss, weights)
    assert head.bias is not None
    wide = Head(
        weight=torch.cat([head.weight.detach(), torch.randn(4, 6)]).requires_grad_(),
        bias=torch.cat([head.bias.detach(), torch.ones(4)]).requires_grad_(),
        tokens=12,
    )
    padded = chunked_loss(hidden, wide, row_loss, weights)
    assert torch.equal(plain, padded)
    for one, other in zip(
        gradients(plain, hidden, head), gradients(padded, hidden, wide), strict=True
    ):
        assert torch.equal(other[: len(one)], one)
        assert not other[len(one) :].any()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_tokens_that_cannot_be_change_no_divergence(beta: float) -> None:
    of = Targets(5, 12, 1, 2.0, 0.1)
    hidden, head = student(5, 12)
    assert head.bias is not None
    impossible = torch.full((4,), -torch.inf)
    wide = Head(
        weight=torch.cat([head.weight.detach(), torch.zeros(4, 6)]),
        bias=torch.cat([head.bias.detach(), impossible]),
    )
    weights = torch.full((5,), 0.2)
    found = []
    for each, teacher in (
        (head, of.teacher),
        (wide, torch.cat([of.teacher, impossible.expand(5, 4)], dim=1)),
        # A teacher without the student's last tokens says the same.
        (wide, of.teacher),
    ):
        row_loss = divergence(lambda rows, teacher=teacher: teacher[rows].clone(), beta=beta)
        loss = chunked_loss(hidden, each, row_loss, weights)
        found.append((loss, *torch.autograd.grad(loss, hidden)))
    for loss, gradient in found[1:]:
        assert torch.allclose(loss, found[0][0])
        assert close(gradient, found[0][1], 1e-6)


def test_a_frozen_head_gives_the_same_gradient_of_the_hidden_states() -> None:
    row_loss, _ = mixed(Targets(9, 15, 4, 2.0, 0.6))
    hidden, head = student(9, 15)
    weights = torch.full((9,), 1 / 9)
    loss = chunked_loss(hidden, head, row_loss, weights, 4)
    (expected, *_) = gradients(loss, hidden, head)
    assert head.bias is not None
    frozen = replace(head, weight=head.weight.detach(), bias=head.bias.detach())
    (found,) = torch.autograd.grad(chunked_loss(hidden, frozen, row_loss, weights, 4), hidden)
    assert torch.equal(found, expected)


def test_a_head_learns_from_frozen_hidden_states() -> None:
    row_loss, _ = cross_entropy(Targets(9, 15, 4, 2.0, 0.6))
    hidden, head = student(9, 15)
    weights = torch.full((9,), 1 / 9)
    _, expected, _ = gradients(chunked_loss(hidden, head, row_loss, weights), hidden, head)
    loss = chunked_loss(hidden.detach(), head, row_loss, weights)
    assert torch.equal(torch.autograd.grad(loss, head.weight)[0], expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_live_teacher_gets_no_gradient(beta: float) -> None:
    hidden, head = student(6, 10)
    of_teacher, teachers = student(6, 10, seed=1)
    row_loss = divergence(logits_of(teachers, of_teacher), beta=beta)
    chunked_loss(hidden, head, row_loss, torch.ones(6)).backward()
    assert hidden.grad is not None
    assert of_teacher.grad is teachers.weight.grad is None


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("standardised", [False, True])
def test_a_student_like_its_teacher_has_no_loss_and_no_gradient(
    beta: float, standardised: bool
) -> None:
    hidden, head = student(6, 10)
    row_loss: RowLoss
    if standardised:
        own = head.logits(hidden).detach()
        row_loss = Standardised(divergence(lambda rows: standardise(own[rows]), beta=beta))
    else:
        row_loss = divergence(logits_of(head, hidden), beta=beta)
    loss = chunked_loss(hidden, head, row_loss, torch.full((6,), 1 / 6), 4)
    assert loss.detach().abs() < 1e-7
    assert all(float(each.abs().max()) < 1e-6 for each in gradients(loss, hidden, head))


def test_without_supervised_rows_the_loss_is_zero_and_so_are_gradients() -> None:
    hidden, head = student(0, 10)
    row_loss = CrossEntropy(torch.zeros(0, dtype=torch.int64))
    loss = chunked_loss(hidden, head, row_loss, torch.zeros(0))
    assert loss.detach() == 0
    assert all(not each.any() for each in gradients(loss, hidden, head))
    assert row_losses(hidden, head, row_loss).shape == (0,)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_evaluation_gives_the_same_losses(kind: Callable[[Targets], Pair]) -> None:
    row_loss, _ = kind(Targets(11, 15, 4, 2.0, 0.6))
    hidden, head = student(11, 15)
    weights = torch.full((11,), 1 / 11)
    trained = chunked_loss(hidden, head, row_loss, weights, 3)
    losses = row_losses(hidden, head, row_loss, 5)
    assert losses.shape == (11,)
    assert torch.allclose((losses * weights).sum(), trained, rtol=1e-5)
    with torch.no_grad():
        evaluated = chunked_loss(hidden, head, row_loss, weights, 4)
    assert not evaluated.requires_grad
    assert torch.allclose(evaluated, trained, rtol=1e-5)


@pytest.mark.parametrize("precision", ["weights", "autocast"])
@pytest.mark.parametrize("kind", [cross_entropy, ghost, kl, likelihood_matching])
def test_half_precision_is_exact_to_two_percent(
    kind: Callable[[Targets], Pair], precision: str
) -> None:
    row_loss, reference = kind(Targets(32, 100, 4, 2.0, 0.1))
    hidden, head = student(32, 100)
    weights = torch.full((32,), 1 / 32)
    if precision == "weights":
        assert head.bias is not None
        head = replace(
            head, weight=head.weight.detach().bfloat16(), bias=head.bias.detach().bfloat16()
        )
        head.weight.requires_grad_()
        hidden = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        loss = chunked_loss(hidden, head, row_loss, weights, 8)
    exact = [each.detach().double().requires_grad_() for each in (hidden, head.weight)]
    assert head.bias is not None
    expected = (reference(functional.linear(*exact, head.bias.double())) * weights).sum()
    assert torch.allclose(loss.double(), expected, rtol=2e-2)
    for leaf, found, wanted in zip(
        (hidden, head.weight),
        torch.autograd.grad(loss, [hidden, head.weight]),
        torch.autograd.grad(expected, exact),
        strict=True,
    ):
        assert found.dtype == leaf.dtype
        assert float((found - wanted).norm() / wanted.norm()) < 2e-2


@pytest.mark.parametrize("run", [chunked_loss, row_losses])
def test_the_head_s_products_have_the_precision_of_autocast(
    run: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head = student(4, 10)
    seen: list[torch.dtype] = []
    cast = Head.cast

    def watched(own: Head, dtype: torch.dtype) -> Head:
        seen.append(dtype)
        return cast(own, dtype)

    monkeypatch.setattr(Head, "cast", watched)
    row_loss, _ = cross_entropy(Targets(4, 10, 4, 2.0, 0.6))
    more = (torch.ones(4),) if run is chunked_loss else ()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(hidden, head, row_loss, *more)
    assert seen == [torch.bfloat16]


def test_a_loss_can_be_scaled_and_used_twice() -> None:
    row_loss, _ = cross_entropy(Targets(4, 10, 4, 2.0, 0.6))
    hidden, head = student(4, 10)
    loss = chunked_loss(hidden, head, row_loss, torch.ones(4))
    (once,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (thrice,) = torch.autograd.grad(loss * 3, hidden)
    assert torch.allclose(thrice, once * 3)


@given(
    count=st.integers(0, 40),
    size=st.integers(1, 12),
    pieces=st.lists(st.integers(1, 9), max_size=20),
)
@example(count=5, size=1, pieces=[5])
def test_chunks_cover_all_rows_and_split_no_group(
    count: int, size: int, pieces: list[int]
) -> None:
    ends = torch.tensor([0, *pieces]).cumsum(0).clamp(max=count)
    spans = torch.stack([ends[:-1], ends[1:]], dim=1)
    spans = spans[spans[:, 0] < spans[:, 1]]
    found = list(chunks(count, size, spans))
    assert [row for each in found for row in range(each.start, each.stop)] == list(range(count))
    for each in found:
        within = (spans[:, 0] >= each.start) & (spans[:, 1] <= each.stop)
        apart = (spans[:, 1] <= each.start) | (spans[:, 0] >= each.stop)
        assert bool((within | apart).all())
        longest = max([0, *(spans[:, 1] - spans[:, 0]).tolist()])
        assert each.stop - each.start <= max(size, longest)


def test_a_teacher_that_knows_more_tokens_than_the_student_is_refused() -> None:
    of = Targets(4, 12, 4, 2.0, 0.6)
    hidden, head = student(4, 10)
    for row_loss in (
        divergence(lambda rows: of.teacher[rows].clone()),
        TopKDivergence(top_k_of(of.teacher, 3)),
    ):
        with pytest.raises(CompatibilityError, match="12 tokens, the student 10; "):
            chunked_loss(hidden, head, row_loss, torch.ones(4))

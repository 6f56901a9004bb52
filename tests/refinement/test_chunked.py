"""Promise: a loss in chunks, and its gradients, are those of all logits at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

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
from tiny_heads import close, gradients, student
from torch.nn import functional

from evomerge.errors import CompatibilityError
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss, chunks, row_losses
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.top_k import TopKDivergence

if TYPE_CHECKING:
    from collections.abc import Callable

    from refinement_targets import Pair
    from torch import Tensor

NORMAL = st.integers(0, 2**32 - 1)


def of_nudged(reference: Callable[[Tensor], Tensor], seed: int, logits: Tensor) -> Tensor:
    """A reference's losses of logits that single precision has rounded, one way or the other."""
    rng = torch.Generator().manual_seed(seed)
    ways = torch.randint(2, logits.shape, generator=rng) * 2 - 1
    nudges = ways * logits.detach().log_softmax(-1) * torch.finfo(torch.float32).eps
    return reference(logits + nudges)


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

    def in_double_precision(losses: Callable[[Tensor], Tensor]) -> list[Tensor]:
        logits = functional.linear(*exact) * 0.5
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        total = (losses(logits) * weights).sum()
        return [total.detach(), *torch.autograd.grad(total, exact, materialize_grads=True)]

    expected = in_double_precision(reference)
    allowed = [torch.zeros((), dtype=torch.float64)] * len(expected)
    if kind is standardised_uld_over_kept:
        # Three logits that are almost equal are far apart once they are standardised, and so is
        # what was rounded: in three cases of a thousand that alone is more than is allowed.
        for way in range(8):
            nudged = in_double_precision(partial(of_nudged, reference, way))
            moved = [4 * (a - b).abs().max() for a, b in zip(nudged, expected, strict=True)]
            allowed = [torch.maximum(*each) for each in zip(allowed, moved, strict=True)]
    found = [loss.detach(), *gradients(loss, hidden, head)]
    for own, wanted, more in zip(found, expected, allowed, strict=True):
        assert close(own, wanted, more=more)


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


def test_a_head_learns_from_frozen_hidden_states() -> None:
    row_loss, _ = cross_entropy(Targets(9, 15, 4, 2.0, 0.6))
    hidden, head = student(9, 15)
    weights = torch.full((9,), 1 / 9)
    _, expected, _ = gradients(chunked_loss(hidden, head, row_loss, weights), hidden, head)
    loss = chunked_loss(hidden.detach(), head, row_loss, weights)
    assert torch.equal(torch.autograd.grad(loss, head.weight)[0], expected)


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

"""Promise: what is kept of a distribution is its best tokens and the exact rest, or fair draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.refinement.predictions.kept import concatenate, sampled, top_k

SHAPES = {"n": st.integers(1, 5), "vocabulary": st.integers(1, 12), "k": st.integers(1, 14)}


def random_logits(n: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocabulary, generator=rng) * 4
    return logits, torch.randint(vocabulary, (n,), generator=rng)


@given(**SHAPES, seed=st.integers(0, 100))
def test_the_best_tokens_and_the_tail_are_the_whole_distribution(
    n: int, vocabulary: int, k: int, seed: int
) -> None:
    logits, labels = random_logits(n, vocabulary, seed)
    expected = logits.double().log_softmax(dim=1)
    rows = top_k(logits.clone(), labels, k)
    assert rows.ids.shape == (n, min(k, vocabulary))
    best = expected.sort(dim=1, descending=True).values
    torch.testing.assert_close(rows.log_probs.double(), best[:, :k], atol=1e-5, rtol=0)
    torch.testing.assert_close(expected.gather(1, rows.ids), best[:, :k])
    rest = best[:, k:].logsumexp(dim=1) if k < vocabulary else torch.full((n,), -math.inf).double()
    torch.testing.assert_close(rows.tail.double(), rest, atol=1e-5, rtol=1e-6)
    nll = -expected.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(rows.nll.double(), nll, atol=1e-5, rtol=1e-5)


def test_a_tail_keeps_its_digits_where_hardly_anything_is_left() -> None:
    rows = top_k(torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0]), 1)
    assert rows.tail.item() == pytest.approx(math.log(2) - 30, abs=1e-5)


def test_draws_are_an_unbiased_estimate() -> None:
    logits, labels = random_logits(1, 6)
    expected = logits.double().softmax(dim=1)[0]
    uniform = torch.rand(4000, 50, generator=torch.Generator().manual_seed(1))
    rows = sampled(logits.repeat(4000, 1), labels.repeat(4000), uniform)
    shares = torch.zeros(4000, 6).scatter_add_(1, rows.ids, rows.log_probs.exp()).double()
    deviation = (expected * (1 - expected) / 50 / 4000).sqrt()
    assert ((shares.mean(dim=0) - expected).abs() <= 3 * deviation).all()


@given(**SHAPES)
def test_drawn_shares_add_up_to_one_with_each_token_once(n: int, vocabulary: int, k: int) -> None:
    logits, labels = random_logits(n, vocabulary)
    uniform = torch.rand(n, k, generator=torch.Generator().manual_seed(2))
    rows = sampled(logits, labels, uniform)
    torch.testing.assert_close(rows.log_probs.exp().sum(dim=1), torch.ones(n))
    assert (rows.log_probs.diff(dim=1) <= 0).logical_or(rows.log_probs[:, 1:].isinf()).all()
    assert torch.isneginf(rows.tail).all()
    for ids, log_probs in zip(rows.ids.tolist(), rows.log_probs.tolist(), strict=True):
        drawn = [token for token, value in zip(ids, log_probs, strict=True) if value > -math.inf]
        assert len(drawn) == len(set(drawn))


def test_draws_of_a_known_distribution_are_these() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    uniform = torch.tensor([[0.1, 0.8, 0.3, 0.9]])
    rows = sampled(logits, torch.tensor([1]), uniform)
    assert rows.ids.tolist() == [[0, 2]]
    torch.testing.assert_close(rows.log_probs.exp(), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(rows.nll, torch.tensor([math.log(4)]))


def test_rows_of_different_width_are_put_behind_each_other() -> None:
    one = top_k(*random_logits(2, 5), 2)
    other = top_k(*random_logits(3, 5, seed=1), 4)
    both = concatenate([one, other])
    assert both.ids.shape == (5, 4)
    assert torch.isneginf(both.log_probs[:2, 2:]).all()
    assert torch.equal(both.log_probs[2:], other.log_probs)
    assert torch.equal(both.nll, torch.cat([one.nll, other.nll]))

"""A layer's regression gives each source its features, as far as the anchor lets it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.calibration.regression import Moments, Regression
from evomerge.operators.randomness import generator
from evomerge.operators.regmean import solve

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def asked(
    merged: Tensor, source: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Regression:
    """A regression that one source asks of."""
    regression = Regression(merged.shape[1], len(weight), CPU)
    moments = Moments(merged.shape[1], CPU)
    moments.add(merged, source)
    regression.add(moments, weight, bias)
    return regression


def test_the_number_computed_by_hand_comes_out() -> None:
    weight = draw(3, 2)
    regression = asked(torch.eye(2), torch.eye(2), weight)
    found = regression.weight(torch.zeros(3, 2, dtype=torch.float64), 0.05)
    assert torch.allclose(found, weight * 0.933959, atol=1e-6)


def test_one_source_without_a_pull_gets_its_own_weight() -> None:
    weight, inputs = draw(3, 5, seed=1), draw(20, 5, seed=2)
    found = asked(inputs, inputs, weight).weight(draw(3, 5, seed=3), 0.0)
    assert torch.allclose(found, weight, atol=1e-6)


def test_an_endless_pull_gives_the_anchor() -> None:
    inputs, anchor = draw(20, 5, seed=2), draw(3, 5, seed=3)
    regression = asked(inputs, inputs, draw(3, 5, seed=1), draw(3, seed=4))
    assert torch.allclose(regression.weight(anchor, 1e12), anchor)
    assert torch.allclose(regression.bias(anchor, anchor[:, 0], 1e12), anchor[:, 0])


def test_a_source_is_answered_through_what_the_merge_reads() -> None:
    # Twice the source's activations ask for half its weight.
    weight, inputs = draw(3, 5, seed=1), draw(20, 5, seed=2)
    found = asked(2 * inputs, inputs, weight).weight(torch.zeros(3, 5, dtype=torch.float64), 0.0)
    assert torch.allclose(found, weight / 2, atol=1e-6)


def test_sources_count_alike_however_long_their_texts_are() -> None:
    weights, inputs = draw(2, 3, 5, seed=1), draw(2, 20, 5, seed=2)
    once, longer = Regression(5, 3, CPU), Regression(5, 3, CPU)
    for source in range(2):
        for regression, repeats in ((once, 1), (longer, 7 if source else 1)):
            moments = Moments(5, CPU)
            for _ in range(repeats):
                moments.add(inputs[source], inputs[source])
            regression.add(moments, weights[source], None)
    anchor = draw(3, 5, seed=3)
    assert torch.allclose(once.weight(anchor, 0.05), longer.weight(anchor, 0.05))


def test_without_a_pull_it_is_regmean_with_normalised_inner_products() -> None:
    weights, inputs = draw(2, 3, 5, seed=1), draw(2, 20, 5, seed=2)
    regression, grams = Regression(5, 3, CPU), []
    for weight, own in zip(weights, inputs, strict=True):
        moments = Moments(5, CPU)
        moments.add(own, own)
        regression.add(moments, weight, None)
        grams.append(own.T @ own / (own.T @ own).norm())
    expected = solve(weights, grams, weights.mean(dim=0), off_diagonal=1.0, cutoff=0.0)
    found = regression.weight(torch.zeros(3, 5, dtype=torch.float64), 0.0)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_bias_makes_up_for_a_shift_of_the_inputs() -> None:
    weight, bias, inputs = draw(3, 5, seed=1), draw(3, seed=4), draw(20, 5, seed=2)
    regression = asked(inputs + 1, inputs, weight, bias)
    found = regression.bias(weight, torch.zeros(3, dtype=torch.float64), 0.0)
    assert torch.allclose(found, bias - weight.sum(dim=1))


def test_a_layer_that_no_text_reaches_is_the_anchor() -> None:
    anchor = draw(3, 5, seed=3)
    empty = torch.zeros(0, 5)
    assert torch.allclose(asked(empty, empty, draw(3, 5)).weight(anchor, 0.05), anchor)
    silent = torch.zeros(4, 5)
    assert float(asked(silent, silent, draw(3, 5)).bias(anchor, anchor[:, 0], 0.0)[0]) == (
        pytest.approx(0.0)
    )

"""Promise: the paired comparison says no more than the items allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from evomerge.evaluation.scores import statistics
from evomerge.evaluation.scores.statistics import Array, PairedComparison, compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def alone(first: Sequence[float], second: Sequence[float], **options: int) -> PairedComparison:
    """Compare two models on one task."""
    return compare({"task": first}, {"task": second}, lambda means: means["task"], **options)


def weighted(means: Mapping[str, Array]) -> Array:
    """Three quarters of one task, a quarter of the other."""
    return 0.75 * means["a"] + 0.25 * means["b"]


def test_the_difference_is_the_weighted_mean_over_tasks() -> None:
    result = compare({"a": [1, 1, 0, 1], "b": [1, 0]}, {"a": [0, 1, 0, 0], "b": [1, 1]}, weighted)
    assert result.difference == pytest.approx(0.75 * 0.5 - 0.25 * 0.5)
    assert result.items == 6


def test_swapping_the_models_turns_the_sign() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 200)).tolist()
    forth, back = alone(a, b), alone(b, a)
    assert forth.difference == -back.difference
    assert forth.p_value == pytest.approx(back.p_value, abs=0.01)


def test_the_p_value_agrees_with_the_exact_mcnemar_test() -> None:
    wins, losses = 14, 4
    first = [1] * wins + [0] * losses + [1] * 30
    second = [0] * wins + [1] * losses + [1] * 30
    exact = stats.binomtest(losses, wins + losses).pvalue
    assert alone(first, second).p_value == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("comparisons", [1, 2])
@pytest.mark.parametrize("items", [50, 150])
@pytest.mark.parametrize("chances", [(0.1, 0.6, 0.3), (0.05, 0.9, 0.05)])
def test_the_interval_covers_the_truth_as_often_as_it_says(
    comparisons: int, items: int, chances: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)
    rng = np.random.default_rng(1)
    truth, inside, trials = chances[2] - chances[0], 0, 1000
    for seed in range(trials):
        pair = rng.choice([-1.0, 0.0, 1.0], p=chances, size=items)
        result = alone(pair, np.zeros(items), comparisons=comparisons, seed=seed)
        inside += result.low - 1e-9 <= truth <= result.high + 1e-9
    # Within 1.5 points, and 1.3 for the luck of a thousand trials (two standard deviations).
    assert inside / trials == pytest.approx(1 - 0.05 / comparisons, abs=0.028)


def test_equal_models_are_not_distinguishable() -> None:
    result = alone([1, 0, 1], [1, 0, 1])
    assert (result.difference, result.p_value, result.verdict) == (0.0, 1.0, "not distinguishable")


def test_the_verdict_follows_from_the_interval() -> None:
    ones, zeros = [1.0] * 50, [0.0] * 50
    assert alone(ones, zeros).verdict == "better"
    assert alone(zeros, ones).verdict == "worse"

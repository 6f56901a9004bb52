"""Promise: the paired comparison says no more than the items allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evomerge.evaluation import statistics
from evomerge.evaluation.outcome import Objective, TaskScore
from evomerge.evaluation.statistics import compare


def test_the_difference_is_the_weighted_mean_over_tasks() -> None:
    result = compare([[1, 1, 0, 1], [1, 0]], [[0, 1, 0, 0], [1, 1]], [3.0, 1.0])
    assert result.difference == pytest.approx(0.75 * 0.5 - 0.25 * 0.5)
    assert result.items == 6


def test_swapping_the_models_turns_the_sign() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 200)).tolist()
    forth, back = compare([a], [b], [1.0]), compare([b], [a], [1.0])
    assert forth.difference == -back.difference
    assert forth.p_value == pytest.approx(back.p_value, abs=0.01)


def test_the_p_value_agrees_with_the_exact_mcnemar_test() -> None:
    wins, losses = 14, 4
    first = [1] * wins + [0] * losses + [1] * 30
    second = [0] * wins + [1] * losses + [1] * 30
    exact = stats.binomtest(losses, wins + losses).pvalue
    assert compare([first], [second], [1.0]).p_value == pytest.approx(exact, abs=0.005)


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
        result = compare([pair], [np.zeros(items)], [1.0], comparisons=comparisons, seed=seed)
        inside += result.low - 1e-9 <= truth <= result.high + 1e-9
    # Within 1.5 points, and 1.3 for the luck of a thousand trials (two standard deviations).
    assert inside / trials == pytest.approx(1 - 0.05 / comparisons, abs=0.028)


def test_equal_models_are_not_distinguishable() -> None:
    result = compare([[1, 0, 1]], [[1, 0, 1]], [1.0])
    assert (result.difference, result.p_value, result.verdict) == (0.0, 1.0, "not distinguishable")


def test_the_verdict_follows_from_the_interval() -> None:
    ones, zeros = [[1.0] * 50], [[0.0] * 50]
    assert compare(ones, zeros, [1.0]).verdict == "better"
    assert compare(zeros, ones, [1.0]).verdict == "worse"


def test_a_task_to_be_minimised_counts_with_a_minus_sign() -> None:
    objective = Objective(
        weights={"acc": 3.0, "loss": 1.0}, higher_is_better={"acc": True, "loss": False}
    )
    scores = [
        TaskScore(task="acc", score=0.8, items=()),
        TaskScore(task="loss", score=2.0, items=()),
    ]
    assert objective.fitness(scores) == pytest.approx((3 * 0.8 - 2.0) / 4)

"""Promise: racing saves items, and rarely stops a candidate that would have become the best."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.scores.objective import Aim
from evomerge.evaluation.scores.outcome import TaskScore
from evomerge.evaluation.scores.racing import FEWEST, Race, _quantile, estimate

RUNGS = (0.25, 0.5)


def race(to_beat: float, expected: list[float], share: float = 1.0) -> Race:
    return Race(
        to_beat=to_beat,
        aims=(Aim(shares={"t": share}),),
        expected={"t": expected},
        ranges={"t": 1.0},
        alpha=0.05,
        looks=2,
    )


def scored(*items: float) -> list[TaskScore]:
    return [TaskScore(task="t", score=float(np.mean(items)), items=items)]


def test_an_estimate_is_what_is_expected_corrected_by_what_was_seen() -> None:
    # Expected mean 0.5; the two items seen are on average 0.25 better than expected.
    found = estimate([1.0, 0.5], [0.5, 0.5, 1.0, 0.0], 1.0)
    assert found.score == 0.75


def test_the_variance_falls_with_the_items_that_are_left() -> None:
    # Residuals 0.5 and 0: variance 0.125, and 1 / 2 for one item more; half of 4 is left.
    found = estimate([1.0, 0.5], [0.5, 0.5, 1.0, 0.0], 1.0)
    assert found.variance == pytest.approx((0.125 + 1 / 2) / 2 * 0.5)
    assert estimate([0.0, 1.0], [0.5, 0.5], 1.0).variance == 0


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8), st.integers(2, 8))
def test_what_happens_as_expected_is_estimated_without_error(items: list[int], count: int) -> None:
    assert estimate(items[:count], items, 1.0).score == pytest.approx(np.mean(items))


def test_the_estimate_is_unbiased_whatever_is_expected() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2, 40).astype(float)
    for expected in (rng.random(40), 1 - items, 0.9 * items, np.zeros(40)):
        found = []
        for _ in range(4_000):
            order = rng.permutation(40)
            found.append(estimate(items[order][:10].tolist(), expected[order].tolist(), 1.0).score)
        error = np.std(found) / math.sqrt(len(found))
        assert np.mean(found) == pytest.approx(items.mean(), abs=4 * error)


def test_a_good_expectation_cuts_the_variance() -> None:
    rng = np.random.default_rng(1)
    items = rng.integers(0, 2, 200).astype(float)
    near = np.where(rng.random(200) < 0.1, 1 - items, items)
    variances = []
    for expected in (near, np.full(200, 0.5)):
        found = []
        for _ in range(2_000):
            order = rng.permutation(200)
            found.append(estimate(items[order][:50].tolist(), expected[order].tolist(), 1.0).score)
        variances.append(np.var(found))
    assert variances[0] < 0.6 * variances[1]


def test_a_hopeless_candidate_is_stopped_with_an_estimate_of_its_score() -> None:
    stopped = race(0.9, [0.9] * 100).stopped(scored(*[0.0] * 24, 1.0))
    assert stopped is not None
    assert stopped[0].score == pytest.approx(0.04)
    assert len(stopped[0].items) == 25


def test_a_candidate_as_good_as_the_best_goes_on() -> None:
    assert race(0.5, [0.5] * 100).stopped(scored(*[1.0, 0.0] * 12)) is None


def test_nobody_is_judged_by_a_few_items() -> None:
    assert race(0.9, [0.9] * 100).stopped(scored(*[0.0] * (FEWEST - 1))) is None
    assert race(0.9, [0.9] * 100).stopped(scored(*[0.0] * FEWEST)) is not None


def test_lower_may_be_better() -> None:
    lower = race(-0.1, [0.1] * 100, share=-1.0)
    assert lower.stopped(scored(*[1.0, 0.9] * 13)) is not None
    assert lower.stopped(scored(*[0.0, 0.1] * 13)) is None


@pytest.mark.parametrize(
    ("freedom", "alpha", "expected"),
    # Tables of Student's t.
    [(20, 0.025, 2.086), (30, 0.05, 1.697), (60, 0.025, 2.000), (120, 0.01, 2.358)],
)
def test_quantiles_are_those_of_students_t(freedom: int, alpha: float, expected: float) -> None:
    assert _quantile(alpha, freedom) == pytest.approx(expected, abs=0.01)
    assert _quantile(alpha, 10**9) == pytest.approx(-NormalDist().inv_cdf(alpha), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("advantage", "most_wrong", "most_items"),
    # Skills of the candidates below the best one's; 0.4 are some 13 points of accuracy.
    [(0.0, 0.05, 1.0), (-0.2, 0.05, 0.7), (-0.4, 0.05, 0.4)],
)
def test_few_of_10000_truly_better_candidates_are_stopped(
    advantage: float, most_wrong: float, most_items: float
) -> None:
    better, wrong, share = _races(10_000, advantage)
    assert wrong <= most_wrong * max(better, 1)
    assert share <= most_items


@pytest.mark.slow
def test_few_of_10000_candidates_that_are_just_as_good_are_stopped() -> None:
    better, wrong, _ = _races(10_000, 0.0, only_ties=True)
    assert better == 10_000
    assert wrong <= 0.05 * better


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("items", [100, 200])
def test_a_rare_success_is_waited_for(rate: float, items: int) -> None:
    rng = np.random.default_rng(3)
    done = wrong = 0
    while done < 1_000:
        known = (rng.random((6, items)) < rate).astype(float)
        solved = known.sum(axis=1)
        if solved[5] < solved[:5].max():
            continue
        run = Race(
            to_beat=float(solved[:5].max()) / items,
            aims=(Aim(shares={"t": 1.0}),),
            expected={"t": known[:5].mean(axis=0).tolist()},
            ranges={"t": float(known[:5].max() - known[:5].min())},
            alpha=0.05,
            looks=len(RUNGS),
        )
        seen = [scored(*known[5][: int(rung * items)]) for rung in RUNGS]
        done += 1
        wrong += any(run.stopped(each) is not None for each in seen)
    # 5 %, and what a thousand races may differ by chance.
    assert wrong <= 50 + 2 * math.sqrt(50)


def _races(count: int, advantage: float, *, only_ties: bool = False) -> tuple[int, int, float]:
    """Race candidates of which each item is solved if skill and luck exceed its difficulty.

    Returns:
        How many were at least as good as the best one, how many of these were stopped, and the
        share of the items that all candidates were scored on.
    """
    rng = np.random.default_rng(2)
    items, tasks = 60, ("a", "b", "c")
    done = better = wrong = 0
    shares = 0.0
    while done < count:
        known = {}
        for task in tasks:
            difficulty = rng.normal(0, 1, items)
            skill = np.array([0.5] * 5 + [0.5 + advantage])[:, None]
            known[task] = (skill + rng.normal(0, 0.6, (6, items)) > difficulty).astype(float)
        solved = [sum(int(k[row].sum()) for k in known.values()) for row in (0, 5)]
        if only_ties and solved[1] - solved[0] not in (0, 1):
            continue
        run = Race(
            to_beat=solved[0] / (items * len(tasks)),
            aims=(Aim(shares=dict.fromkeys(tasks, 1 / 3)),),
            expected={task: k[:5].mean(axis=0).tolist() for task, k in known.items()},
            ranges=dict.fromkeys(tasks, 1.0),
            alpha=0.05,
            looks=len(RUNGS),
        )
        share = next(
            (
                rung
                for rung in RUNGS
                if run.stopped(
                    [
                        TaskScore(task=t, score=0.0, items=tuple(k[5][: int(rung * items)]))
                        for t, k in known.items()
                    ]
                )
            ),
            1.0,
        )
        done += 1
        shares += share
        better += solved[1] >= solved[0]
        wrong += solved[1] >= solved[0] and share < 1
    return better, wrong, shares / count

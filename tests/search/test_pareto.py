"""Fronts are what nothing dominates, and volumes are exact."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.pareto import crowding_distances, hypervolume, pareto_front, pareto_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.search.pareto import Scores

SMALL = np.array([[1, 4], [2, 3], [4, 1], [2, 2], [1, 1], [2, 3]], dtype=float)

# Random numbers; ranks, volumes and distances are pymoo 0.6.2's (it divides distances by K).
THREE_SCORES = np.array(
    [
        [0.09, 0.24, 0.8],
        [0.58, 0.09, 0.43],
        [0.48, 0.16, 0.73],
        [0.11, 0.39, 0.52],
        [0.43, 0.59, 0.74],
        [0.96, 0.28, 0.65],
        [0.7, 0.29, 0.0],
        [0.97, 0.3, 0.31],
    ]
)
FOUR_SCORES = np.array(
    [
        [0.89, 0.59, 0.47, 0.77],
        [0.03, 0.71, 0.37, 0.09],
        [0.66, 0.93, 0.21, 0.63],
        [0.3, 0.74, 0.72, 0.22],
        [0.83, 0.66, 0.68, 0.82],
        [0.43, 0.76, 0.88, 0.1],
        [0.85, 0.39, 0.48, 0.15],
        [0.7, 0.29, 0.87, 0.28],
    ]
)


@st.composite
def score_arrays(draw: st.DrawFn, least: int = 0, most: int = 12, scores: int = 0) -> Scores:
    """Few levels, so that rows are often equal in some scores."""
    width = scores or draw(st.integers(1, 4))
    row = st.tuples(*[st.integers(0, 4)] * width)
    rows = draw(st.lists(row, min_size=least, max_size=most))
    return np.array(rows, dtype=float).reshape(-1, width) / 4


def _dominates(winner: Scores, loser: Scores) -> bool:
    return bool((winner >= loser).all() and (winner > loser).any())


def test_ranks_by_hand() -> None:
    assert pareto_ranks(SMALL).tolist() == [0, 0, 0, 1, 2, 0]
    assert pareto_front(SMALL).tolist() == [0, 1, 2, 5]


def test_with_one_score_ranks_count_the_higher_levels() -> None:
    assert pareto_ranks(np.array([[0.2], [0.9], [0.5], [0.9]])).tolist() == [2, 0, 1, 0]


def test_crowding_by_hand() -> None:
    scores = np.array([[2, 6], [0, 10], [10, 0], [5, 5]], dtype=float)
    # (5 - 0) / 10 + (10 - 5) / 10, and (10 - 2) / 10 + (6 - 0) / 10.
    assert crowding_distances(scores).tolist() == pytest.approx([1.0, np.inf, np.inf, 1.4])


def test_of_equal_rows_only_the_first_has_a_distance() -> None:
    scores = np.array([[0, 10], [2, 6], [2, 6], [10, 0], [0, 10]], dtype=float)
    assert crowding_distances(scores).tolist() == pytest.approx([np.inf, 2, 0, np.inf, 0])


def test_where_all_is_equal_nothing_is_far_from_anything() -> None:
    assert crowding_distances(np.full((3, 2), 0.5)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("scores", "reference", "volume"),
    [
        pytest.param([[0.3], [0.8]], [0.1], 0.7, id="one score"),
        pytest.param([[1, 3], [2, 2], [3, 1]], [0, 0], 6, id="stairs"),
        pytest.param([[1, 3], [2, 2], [3, 1]], [0.5, 0.5], 3.25, id="higher reference"),
        pytest.param([[1, 3], [2, 2], [3, 1]], [1, 1], 1, id="ends on the reference"),
        pytest.param([[2, 1, 1], [1, 2, 1], [1, 1, 2]], [0, 0, 0], 4, id="three boxes"),
        pytest.param(np.eye(4) + 1, [0] * 4, 5, id="four scores"),
        pytest.param(np.empty((0, 3)), [0] * 3, 0, id="nothing"),
    ],
)
def test_volumes_by_hand(scores: object, reference: object, volume: float) -> None:
    found = hypervolume(np.array(scores, dtype=float), np.array(reference, dtype=float))
    assert found == pytest.approx(volume)


@pytest.mark.parametrize(
    ("scores", "ranks", "volume"),
    [
        (THREE_SCORES, [0, 1, 0, 1, 0, 0, 1, 0], 0.158844),
        (FOUR_SCORES, [0, 1, 0, 0, 0, 0, 0, 0], 0.1920542),
    ],
)
def test_ranks_and_volumes_are_those_of_pymoo(
    scores: Scores, ranks: list[int], volume: float
) -> None:
    assert pareto_ranks(scores).tolist() == ranks
    assert hypervolume(scores, np.full(scores.shape[1], 0.1)) == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "distances"),
    [
        (THREE_SCORES, [np.inf, np.inf, np.inf, 1.553495922681969, np.inf]),
        (FOUR_SCORES, [*[np.inf] * 5, 1.0505444177417995, np.inf]),
    ],
)
def test_crowding_distances_are_those_of_pymoo(scores: Scores, distances: list[float]) -> None:
    front = scores[pareto_front(scores)]
    assert crowding_distances(front).tolist() == pytest.approx(distances)


@given(scores=score_arrays())
def test_a_row_is_dominated_by_one_of_the_rank_above_and_by_none_of_its_own(
    scores: Scores,
) -> None:
    ranks = pareto_ranks(scores)
    for row, rank in zip(scores, ranks, strict=True):
        assert not any(_dominates(other, row) for other in scores[ranks >= rank])
        assert rank == 0 or any(_dominates(other, row) for other in scores[ranks == rank - 1])


@given(scores=score_arrays())
def test_the_front_is_the_first_rank(scores: Scores) -> None:
    assert pareto_front(scores).tolist() == np.flatnonzero(pareto_ranks(scores) == 0).tolist()


@given(scores=score_arrays(least=1, scores=2))
def test_each_score_has_an_infinitely_distant_best_on_the_front(scores: Scores) -> None:
    front = scores[pareto_front(scores)]
    ends = front[np.isinf(crowding_distances(front))]
    # Unless the front is a single point.
    assert len(ends) == 0 or ends.max(axis=0).tolist() == scores.max(axis=0).tolist()
    assert (len(ends) == 0) == (len(np.unique(front, axis=0)) == 1)


def _by_inclusion_and_exclusion(scores: Scores) -> float:
    return sum(
        (-1) ** (size + 1) * np.min(chosen, axis=0).prod()
        for size in range(1, len(scores) + 1)
        for chosen in combinations(scores, size)
    )


@given(scores=score_arrays(most=6))
def test_the_volume_is_that_of_the_union_of_boxes(scores: Scores) -> None:
    volume = hypervolume(scores, np.zeros(scores.shape[1]))
    assert volume == pytest.approx(_by_inclusion_and_exclusion(scores))


@given(scores=score_arrays(least=1), seed=st.integers(0, 100))
def test_the_volume_does_not_depend_on_the_order(scores: Scores, seed: int) -> None:
    reference = np.zeros(scores.shape[1])
    shuffled = np.random.default_rng(seed).permutation(scores)
    assert hypervolume(shuffled, reference) == pytest.approx(hypervolume(scores, reference))


@given(scores=score_arrays(least=1))
def test_a_row_more_never_makes_the_volume_smaller_and_only_the_front_counts(
    scores: Scores,
) -> None:
    reference = np.zeros(scores.shape[1])
    whole = hypervolume(scores, reference)
    assert whole >= hypervolume(scores[1:], reference) - 1e-12
    assert whole == pytest.approx(hypervolume(scores[pareto_front(scores)], reference))


@given(scores=score_arrays(least=1, most=1))
def test_the_volume_of_one_row_is_its_product(scores: Scores) -> None:
    assert hypervolume(scores, np.zeros(scores.shape[1])) == pytest.approx(scores.prod())


@pytest.mark.parametrize(
    "function",
    [
        pareto_front,
        pareto_ranks,
        crowding_distances,
        lambda scores: hypervolume(scores, np.zeros(2)),
        lambda scores: hypervolume(np.ones((1, 2)), scores[0]),
    ],
)
def test_nan_never_enters(function: Callable[[Scores], object]) -> None:
    with pytest.raises(ValueError, match="a score is NaN; leave candidates that failed out"):
        function(np.array([[np.nan, 1.0], [0.5, 0.5]]))

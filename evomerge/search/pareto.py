"""What is best when several scores count: fronts, ranks, crowding distances, hypervolumes.

Scores are arrays of shape `(N, K)`, a row per candidate and a column per task, higher is better.
One row dominates another if it is nowhere lower and somewhere higher.

Ranks and crowding: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic
algorithm: NSGA-II", IEEE TEVC 2002, sections III-A and III-B. Hypervolume: While, Bradstreet and
Barone, "A fast way of calculating exact hypervolumes", IEEE TEVC 2012 (WFG, with its slices); good
to about 100 points, and the time grows fast with the number of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]


def pareto_front(scores: Scores) -> NDArray[np.intp]:
    """Indices of the rows that no other row dominates, in ascending order; equal rows all count.

    Raises:
        ValueError: A score is NaN.
    """
    return np.flatnonzero(~_dominance(scores).any(axis=0))


def pareto_ranks(scores: Scores) -> NDArray[np.intp]:
    """Rank of each row, shape `(N,)`: 0 on the front, 1 on the front without those, and so on.

    Raises:
        ValueError: A score is NaN.
    """
    dominates = _dominance(scores)
    dominators = dominates.sum(axis=0)
    ranks = np.zeros(len(scores), dtype=np.intp)
    left, rank = np.ones(len(scores), dtype=np.bool_), 0
    while left.any():
        front = left & (dominators == 0)
        ranks[front] = rank
        left &= ~front
        dominators -= dominates[front].sum(axis=0)
        rank += 1
    return ranks


def crowding_distances(scores: Scores) -> NDArray[np.float64]:
    """How far apart the neighbours of each row are, shape `(N,)`; infinite at an end of a score.

    Departs from the paper for small item sets, where scores are often equal: of equal rows only
    the first gets a distance, the others 0, and a score that is equal everywhere has no ends.

    Args:
        scores: The rows of one rank.

    Raises:
        ValueError: A score is NaN.
    """
    distinct, first = np.unique(_checked(scores), axis=0, return_index=True)
    distances = np.zeros(len(scores))
    for column in distinct.T:
        order = np.argsort(column, kind="stable")
        ascending = column[order]
        if len(order) and ascending[0] < ascending[-1]:
            gaps = np.full(len(order), np.inf)
            gaps[1:-1] = (ascending[2:] - ascending[:-2]) / (ascending[-1] - ascending[0])
            distances[first[order]] += gaps
    return distances


def hypervolume(scores: Scores, reference: Scores) -> float:
    """Volume of all that lies above the reference and below some row.

    Args:
        scores: Shape `(N, K)`; a row that is not above the reference in every score adds nothing.
        reference: Shape `(K,)`, the worst that counts.

    Raises:
        ValueError: A score is NaN.
    """
    heights = _checked(scores) - _checked(reference)
    return _volume(heights[(heights > 0).all(axis=1)])


def _volume(heights: Scores) -> float:
    """The hypervolume above zero of rows that are positive."""
    if heights.shape[1] == 1:
        return float(heights.max(initial=0.0))
    if heights.shape[1] == 2:
        return _area(heights)
    heights = heights[pareto_front(heights)]
    heights = heights[np.argsort(heights[:, -1])]
    total = 0.0
    for index, row in enumerate(heights):
        # What a row adds to those above it: they reach higher in the last score, so their overlap
        # with it is a slice of its own thickness.
        overlap = np.minimum(heights[index + 1 :, :-1], row[:-1])
        total += row[-1] * (row[:-1].prod() - _volume(overlap))
    return total


def _area(heights: Scores) -> float:
    """The two-dimensional case: a staircase, from the widest step to the narrowest."""
    widths, tops = heights[np.argsort(-heights[:, 0])].T
    steps = widths - np.append(widths[1:], 0.0)
    return float(steps @ np.maximum.accumulate(tops)) if len(heights) else 0.0


def _dominance(scores: Scores) -> NDArray[np.bool_]:
    """Which row (first axis) dominates which (second axis), shape `(N, N)`."""
    rows = _checked(scores)
    nowhere_lower = np.ones((len(rows), len(rows)), dtype=np.bool_)
    somewhere_higher = np.zeros_like(nowhere_lower)
    for column in rows.T:
        nowhere_lower &= column[:, None] >= column
        somewhere_higher |= column[:, None] > column
    return nowhere_lower & somewhere_higher


def _checked(scores: Scores) -> Scores:
    if np.isnan(scores).any():
        raise ValueError("a score is NaN; leave candidates that failed out")
    return scores

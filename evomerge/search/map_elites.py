"""Quality diversity over tasks: the best on one task for each level of the others, task by task.

Kuroki et al., "Agent Skill Acquisition for Large Language Models via CycleQD", 2025,
https://arxiv.org/abs/2410.14735. With one task there is one cell, and MAP-Elites of
Mouret and Clune, 2015, https://arxiv.org/abs/1504.04909, keeps one elite.

The paper's crossover adds two task vectors with shares that sum to 1; so does ours of two points,
for operators that are linear in their coefficients. Its mutation scales the singular directions of
a model's task vectors, which a point does not have: ours is Gaussian. Its cells have fixed bounds,
which need scores of a known range; ours lie between quantiles of the scores so far, after
Fontaine et al., "Mapping Hearthstone Deck Spaces through MAP-Elites with Sliding Boundaries",
2019, https://arxiv.org/abs/1904.10656.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Array = NDArray[np.float64]

Cell = tuple[int, ...]
"""The level of a candidate on each behaviour axis."""

BINS = 5
"""Levels of each behaviour axis."""

WARM_UP = 20
"""First points, drawn at random."""

MUTATION = 0.05
"""Standard deviation of what is added to each coordinate of a child (benchmarks/LOG.md)."""

MIXING = 0.01
"""Standard deviation of a parent's weight, around 1: the paper's."""

LEAST_CHANCE, GREATEST_CHANCE = 0.5, 0.8
"""What the worst and the best elite on a task contribute to their chances: the paper's."""


class CycleQD:
    """An archive per task, each with the other tasks' scores as behaviour axes.

    Point by point the tasks take turns: both parents come from the archive of the one whose turn
    it is. Every result is offered to all archives. Candidates that were stopped in a race are,
    too, with their estimated scores: one that cannot win on the mean may be the best of its cell.
    Archives are made anew from all results, because boundaries of cells move with the scores.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._dimension = settings.dimension
        self._asked: deque[Point] = deque()
        self._proposed = 0
        self._points: list[Point] = []
        self._scores: list[tuple[float, ...]] = []

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        scores = np.array(self._scores, dtype=np.float64)
        tasks = scores.shape[1] if self._scores else 0
        archives = [archive(scores, task, BINS) for task in range(tasks)]
        points = [self._propose(scores, archives) for _ in range(count)]
        self._asked += points
        return points

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            point = self._asked.popleft()
            if result.scores:
                self._points.append(point)
                self._scores.append(result.scores)

    def _propose(self, scores: Array, archives: Sequence[dict[Cell, int]]) -> Point:
        self._proposed += 1
        if self._proposed <= WARM_UP or not archives:
            return tuple(self._rng.random(self._dimension).tolist())
        elites = list(archives[self._proposed % len(archives)].values())
        # A lone elite is both parents.
        parents = self._rng.choice(
            elites, 2, replace=len(elites) == 1, p=chances(scores[elites])
        ).tolist()
        child = crossover(
            np.array([self._points[parent] for parent in parents]),
            self._rng.normal(1.0, MIXING, len(parents)),
        )
        mutant = child + self._rng.normal(0.0, MUTATION, self._dimension)
        return tuple(np.clip(mutant, 0.0, 1.0).tolist())


def archive(scores: Array, task: int, bins: int) -> dict[Cell, int]:
    """The candidate that is best on one task in each cell of the others' scores.

    Args:
        scores: Scores of shape `(C, T)`, candidates by tasks, higher is better.
        task: Index of the task that is the quality.
        bins: Levels of each behaviour axis.

    Returns:
        Rows of `scores` by their cells.
    """
    axes = np.delete(scores, task, axis=1)
    return elites_of(scores[:, task], cells(axes, boundaries(axes, bins)))


def boundaries(axes: Array, bins: int) -> Array:
    """The quantiles that part each axis, shape `(C, A)`, into levels, shape `(bins - 1, A)`."""
    bounds: Array = np.quantile(axes, np.arange(1, bins) / bins, axis=0)
    return bounds


def cells(axes: Array, bounds: Array) -> list[Cell]:
    """The cells of candidates at `axes`, shape `(C, A)`: on each axis, the bounds below it."""
    levels = (axes[:, None, :] > bounds[None, :, :]).sum(axis=1)
    return [tuple(row) for row in levels.tolist()]


def elites_of(quality: Iterable[float], where: Iterable[Cell]) -> dict[Cell, int]:
    """The index of the best of each cell, the first of equals."""
    best: dict[Cell, tuple[float, int]] = {}
    for index, (value, cell) in enumerate(zip(quality, where, strict=True)):
        if cell not in best or value > best[cell][0]:
            best[cell] = value, index
    return {cell: index for cell, (_, index) in best.items()}


def coverage(filled: int, bins: int, axes: int) -> float:
    """Share of the cells that have an elite."""
    return filled / float(bins) ** axes


def qd_score(qualities: Iterable[float], worst: float) -> float:
    """What the elites are better than the worst quality there is, summed over the cells."""
    return float(sum(quality - worst for quality in qualities))


def chances(scores: Array) -> Array:
    """How likely each elite is to become a parent: more so the better it is, on all tasks.

    Args:
        scores: Scores of the elites, shape `(E, T)`.

    Returns:
        Shape `(E,)`; sums to 1.
    """
    low, high = scores.min(axis=0), scores.max(axis=0)
    heights = (scores - low) / np.where(high > low, high - low, 1.0)
    product = (LEAST_CHANCE + (GREATEST_CHANCE - LEAST_CHANCE) * heights).prod(axis=1)
    shares: Array = product / product.sum()
    return shares


def crossover(parents: Array, weights: Array) -> Array:
    """The mean of points, shape `(2, D)`, by weights, shape `(2,)`."""
    child: Array = weights / weights.sum() @ parents
    return child

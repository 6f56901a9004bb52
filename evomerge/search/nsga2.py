"""NSGA-II: a genetic search for the whole trade-off between the tasks.

Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
IEEE TEVC 2002, section III-C; https://doi.org/10.1109/4235.996017. MERGE3 (arXiv 2502.10436)
evolves merges of language models with it. Survivors are chosen whenever results are told, so it
needs no whole generations.

It looks at the score on each task, not at the fitness, and keeps what is best at one task though
it may be poor on the mean. Racing stops such candidates early: then their scores are estimates.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.pareto import crowding_distances, pareto_ranks
from evomerge.search.variation import crossed, mutated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

CROSSOVER_RATE, CROSSOVER_ETA = 0.9, 20.0
"""Section IV-A."""

MUTATION_ETA = 5.0
"""The paper's 20 moves too little for a few hundred evaluations (benchmarks/LOG.md)."""

SMALLEST = 8
"""Least population: with fewer there is no front to speak of."""


class NSGA2:
    """Breeds the candidates that no other dominates, the lonely ones first.

    The objectives are the scores on the tasks; the fitness where there is one task only. The
    population has the size of a generation, and at least `SMALLEST`.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._size = max(settings.generation, SMALLEST)
        self._founders = self._size
        self._choices = np.array(settings.choices)
        self._asked: deque[NDArray[np.float64]] = deque()
        # Best first, by the crowded comparison.
        self._points = np.empty((0, settings.dimension))
        self._scores: list[tuple[float, ...]] = []

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        points = [self._propose() for _ in range(count)]
        self._asked += points
        return [tuple(point.tolist()) for point in points]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        told = [(self._asked.popleft(), result) for result in results]
        alive = [(point, objectives(result)) for point, result in told if objectives(result)]
        if alive:
            points = np.concatenate([self._points, [point for point, _ in alive]])
            scores = self._scores + [scores for _, scores in alive]
            best = survivors(np.array(scores), self._size)
            self._points, self._scores = points[best], [scores[index] for index in best]

    def _propose(self) -> NDArray[np.float64]:
        if self._founders > 0 or len(self._points) < 2:
            self._founders -= 1
            return self._rng.random(self._points.shape[1])
        first, second = self._points[self._parents()]
        if self._rng.random() < CROSSOVER_RATE:
            first = crossed(first, second, self._rng, eta=CROSSOVER_ETA, choices=self._choices)
        return mutated(first, self._rng, eta=MUTATION_ETA, choices=self._choices)

    def _parents(self) -> list[int]:
        """Winners of two tournaments of two: the population is in order, so lower indices win."""
        size = len(self._points)
        entrants = self._rng.choice(size, (2, 2), replace=size < 4)
        return [min(pair) for pair in entrants.tolist()]


def objectives(result: Result) -> tuple[float, ...]:
    """What is maximised; empty if the candidate failed."""
    if result.fitness is None:
        return ()
    return result.scores if len(result.scores) > 1 else (result.fitness,)


def survivors(scores: NDArray[np.float64], size: int) -> list[int]:
    """Indices of the best rows by rank, then by crowding distance, then by age; best first.

    Args:
        scores: Shape `(N, K)`, the oldest first.
        size: Most rows that survive.
    """
    ranks = pareto_ranks(scores)
    distances = np.zeros(len(scores))
    for rank in range(ranks.max() + 1):
        front = ranks == rank
        distances[front] = crowding_distances(scores[front])
    order: list[int] = np.lexsort((-distances, ranks)).tolist()
    return order[:size]

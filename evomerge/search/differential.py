"""Differential evolution: DE/rand/1/bin.

R. Storn, K. Price, "Differential Evolution: A Simple and Efficient Heuristic for Global
Optimization over Continuous Spaces", Journal of Global Optimization 11, 1997, section 2.

Asynchronous: the targets take turns, a trial competes with its target as soon as it is told, and
later trials are made of whatever is known by then. The first members are a Latin hypercube sample
around the middle of the cube.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.latin_hypercube import first_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Vector = NDArray[np.float64]

FACTOR, RATE = 0.5, 0.9
"""F and CR: what the paper advises for quick convergence, and the best of five pairs tried."""

SMALLEST = 8
"""Members at least. Few, because a search has hundreds of evaluations, not many thousands."""

LEAST_KNOWN = 4
"""Members that a trial is made of: a target and three others."""


class Population:
    """Members that are replaced by trials made for them that are not worse.

    Attributes:
        points: Shape `(N, D)`.
        fitness: Shape `(N,)`; minus infinity while nothing is known of a member.
    """

    def __init__(self, settings: StrategySettings, rng: np.random.Generator) -> None:
        size = max(settings.generation, SMALLEST)
        self.points = first_points(size, settings, rng)
        self.fitness = np.full(size, -np.inf)
        self._turns = 0
        self._rng = rng

    def __len__(self) -> int:
        return len(self.points)

    @property
    def known(self) -> NDArray[np.intp]:
        """Indices of the members whose fitness is known."""
        return np.flatnonzero(np.isfinite(self.fitness))

    def next_target(self) -> tuple[int, Vector | None]:
        """The member whose turn it is, and its trial where that cannot be made of others.

        That is the member itself in the first round, and a random point while the member or too
        many others have failed or are under way.
        """
        rounds, target = divmod(self._turns, len(self))
        self._turns += 1
        if rounds == 0:
            return target, self.points[target].copy()
        if not np.isfinite(self.fitness[target]) or len(self.known) < LEAST_KNOWN:
            return target, self._rng.random(len(self.points[target]))
        return target, None

    def others(self, target: int, count: int) -> list[int]:
        """Distinct members, none of them the target, whose fitness is known."""
        known = self.known
        drawn = self._rng.choice(known[known != target], count, replace=False)
        return [int(index) for index in drawn]

    def compete(self, target: int, trial: Vector, fitness: float) -> float:
        """Let a trial take its target's place if it is not worse; how much better it is."""
        gain = fitness - float(self.fitness[target])
        if gain >= 0:
            self.points[target], self.fitness[target] = trial, fitness
        return gain


class DErand1:
    """Adds a scaled difference of two random members to a third, and crosses it with its target.

    Args:
        settings: Dimension, seed, first step and generation, which is the size of the population.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._population = Population(settings, self._rng)
        self._asked: deque[tuple[int, Vector]] = deque()

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        asked = [self._propose() for _ in range(count)]
        self._asked += asked
        return [tuple(trial.tolist()) for _, trial in asked]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            target, trial = self._asked.popleft()
            if result.fitness is not None:
                self._population.compete(target, trial, result.fitness)

    def _propose(self) -> tuple[int, Vector]:
        target, trial = self._population.next_target()
        if trial is None:
            parent = self._population.points[target]
            base, first, second = self._population.points[self._population.others(target, 3)]
            mutant = repair(rand_1(base, first, second, FACTOR), parent)
            trial = binomial(parent, mutant, RATE, self._rng)
        return target, trial


def rand_1(base: Vector, first: Vector, second: Vector, factor: float) -> Vector:
    """The mutant of DE/rand/1: a member plus a scaled difference of two others."""
    return base + factor * (first - second)


def binomial(parent: Vector, mutant: Vector, rate: float, rng: np.random.Generator) -> Vector:
    """Take each coordinate of the mutant with probability `rate`, and one of them always."""
    taken = rng.random(len(parent)) <= rate
    taken[rng.integers(len(parent))] = True
    return np.where(taken, mutant, parent)


def repair(mutant: Vector, parent: Vector) -> Vector:
    """Put a coordinate that left the cube halfway between its parent's and the bound."""
    inside = np.where(mutant < 0, parent / 2, mutant)
    return np.where(mutant > 1, (1 + parent) / 2, inside)

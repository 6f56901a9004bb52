"""SHADE: differential evolution that learns its parameters from the trials that succeeded.

R. Tanabe, A. Fukunaga, "Success-History Based Parameter Adaptation for Differential Evolution",
IEEE Congress on Evolutionary Computation, 2013, section III. Mutation, archive and the repair of
what leaves the cube are those of J. Zhang, A. C. Sanderson, "JADE: Adaptive Differential
Evolution with Optional External Archive", IEEE Transactions on Evolutionary Computation 13, 2009.

Asynchronous as `differential` is; a generation of the paper is as many results as the population
has members.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.differential import Population, binomial, repair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Vector = NDArray[np.float64]

MEMORY = 6
"""Places of the memory. The paper has 100, which few searches would fill once; this is the number
of its successor, L-SHADE (2014)."""

SPREAD = 0.1
"""Spread of F and CR around a place of the memory."""

GREATEST_SHARE = 0.2
"""The best ones that trials are drawn to, as a share of the population."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A point that was asked; F and CR are None where it was not made of others."""

    target: int
    point: Vector
    factor: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Success:
    """A trial that is better than its target, and by how much."""

    factor: float
    rate: float
    gain: float


class SHADE:
    """Moves each member towards one of the best, and along a difference with beaten parents.

    Args:
        settings: Dimension, seed, first step and generation, which is the size of the population.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._population = Population(settings, self._rng)
        self._archive: list[Vector] = []
        self._memory = Memory()
        self._successes: list[Success] = []
        self._told = 0
        self._asked: deque[Trial] = deque()

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        asked = [self._propose() for _ in range(count)]
        self._asked += asked
        return [tuple(trial.point.tolist()) for trial in asked]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            trial = self._asked.popleft()
            if result.fitness is not None:
                self._compete(trial, result.fitness)
            self._told += 1
            if self._told % len(self._population) == 0:
                self._memory.learn(self._successes)
                self._successes = []

    def _propose(self) -> Trial:
        target, point = self._population.next_target()
        if point is not None:
            return Trial(target, point)
        factor, rate = self._memory.draw(self._rng)
        points = self._population.points
        parent, best = points[target], points[self._one_of_the_best()]
        (first,) = self._population.others(target, 1)
        mutant = current_to_pbest_1(
            parent, best, points[first], self._second(target, first), factor
        )
        point = binomial(parent, repair(mutant, parent), rate, self._rng)
        return Trial(target, point, factor, rate)

    def _one_of_the_best(self) -> int:
        known = self._population.known
        least = 2 / len(known)
        share = self._rng.uniform(least, max(least, GREATEST_SHARE))
        best = known[np.argsort(-self._population.fitness[known], kind="stable")]
        return int(self._rng.choice(best[: round(share * len(known))]))

    def _second(self, target: int, first: int) -> Vector:
        """A member, neither the target nor the first, or a parent from the archive."""
        known = self._population.known
        members = known[(known != target) & (known != first)]
        pool: list[Vector] = [*self._population.points[members], *self._archive]
        return pool[int(self._rng.integers(len(pool)))]

    def _compete(self, trial: Trial, fitness: float) -> None:
        parent = self._population.points[trial.target].copy()
        gain = self._population.compete(trial.target, trial.point, fitness)
        if gain <= 0 or trial.factor is None or trial.rate is None:
            return
        self._successes.append(Success(trial.factor, trial.rate, gain))
        self._archive.append(parent)
        if len(self._archive) > len(self._population):
            self._archive.pop(int(self._rng.integers(len(self._archive))))


class Memory:
    """F and CR that succeeded lately.

    Attributes:
        factors: F by place.
        rates: CR by place.
    """

    def __init__(self) -> None:
        self.factors = [0.5] * MEMORY
        self.rates = [0.5] * MEMORY
        self._place = 0

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """F and CR of a trial, near those of a random place."""
        place = int(rng.integers(MEMORY))
        rate = float(np.clip(rng.normal(self.rates[place], SPREAD), 0.0, 1.0))
        factor = 0.0
        while factor <= 0:
            factor = self.factors[place] + SPREAD * float(rng.standard_cauchy())
        return min(factor, 1.0), rate

    def learn(self, successes: Sequence[Success]) -> None:
        """Write the means of a generation's successes into the oldest place; nothing without."""
        if not successes:
            return
        factors, rates, gains = (
            np.array([getattr(success, name) for success in successes])
            for name in ("factor", "rate", "gain")
        )
        shares = gains / gains.sum()
        self.factors[self._place] = lehmer_mean(factors, shares)
        self.rates[self._place] = float(shares @ rates)
        self._place = (self._place + 1) % MEMORY


def current_to_pbest_1(
    parent: Vector, best: Vector, first: Vector, second: Vector, factor: float
) -> Vector:
    """The mutant of current-to-pbest/1."""
    return parent + factor * (best - parent) + factor * (first - second)


def lehmer_mean(values: Vector, shares: Vector) -> float:
    """The weighted Lehmer mean, which leans to the greater values."""
    return float(shares @ values**2 / (shares @ values))

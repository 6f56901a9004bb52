"""A steady-state genetic algorithm over the genes of a merge.

Parents are chosen by tournaments (D. E. Goldberg, K. Deb, "A Comparative Analysis of Selection
Schemes Used in Genetic Algorithms", FOGA 1, 1991). Half of the offspring have two, are crossed
by the structure of what their genes drive (`crossover`) and mutated with a step that follows the
rule of one fifth (I. Rechenberg, "Evolutionsstrategie", 1973), times a scale of each gene's own
where one is known. The others are means of many parents, in which the errors of single ones cancel
(intermediate recombination; H.-G. Beyer, "Toward a Theory of Evolution Strategies: On the Benefits
of Sex", Evolutionary Computation 3, 1995), with noise of the population's own spread. Each point
that is told joins the population and the worst one leaves it, as in GENITOR (D. Whitley, "The
GENITOR Algorithm and Selection Pressure", ICGA 1989): the best one stays, and no evaluation waits
for another.

The numbers below were chosen by measurement; see benchmarks/LOG.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evomerge.genome.genes import DECIMALS
from evomerge.search.crossover import Mask, Vector, crossovers
from evomerge.search.latin_hypercube import first_points
from evomerge.search.variation import gaussian, redrawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Point, Result, StrategySettings
    from evomerge.search.variation import Mutation

SMALLEST = 16
"""Members at least; as many as a generation has points, if those are more."""

TOURNAMENT = 3
"""Members that are drawn, of which the best becomes a parent."""

INTERMEDIATE = 0.5
"""Share of offspring that are the mean of many parents; the others have two."""

PARENTS = 8
"""Parents of a mean."""

MUTATED = 6.0
"""Genes of an offspring that mutate, on average."""

STEP = 0.15
"""Standard deviation of the first mutations."""

SMALLEST_STEP, GREATEST_STEP = 0.01, 0.4
"""Bounds of the step."""

SUCCESSES = 0.2
"""Share of successful offspring at which the step stays as it is."""

HURRY = 0.1
"""Change of the step's logarithm, times success (0 or 1) less `SUCCESSES`."""

IMMIGRANTS = 0.02
"""Share of points that are drawn from all over the cube."""

COLLAPSED = 0.005
"""Mean standard deviation of the genes in a population that has nothing left to cross."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A point whose fitness is known."""

    point: Vector
    fitness: float


@dataclass(frozen=True, slots=True, eq=False)
class Offspring:
    """A point that was asked, and the fitness of its better parent; None if it has no parents."""

    point: Vector
    bar: float | None = None


class GA:
    """Breeds points from those that did best.

    Args:
        settings: Dimension, genes, their scales, seed, generation and standard deviation of the
            first points.
        mutation: How genes mutate.
    """

    def __init__(self, settings: StrategySettings, mutation: Mutation = gaussian) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._dimension = settings.dimension
        self._genes, self._choices = settings.genes, np.array(settings.choices)
        self._scales = np.array(settings.scales or [1.0] * settings.dimension)
        self._mutation = mutation
        self._crossovers = crossovers(settings)
        self._size = max(settings.generation, SMALLEST)
        self._founders = deque(first_points(self._size, settings, self._rng))
        self._population: list[Member] = []
        self._step = STEP
        self._seen: set[Point] = set()
        self._asked: deque[Offspring] = deque()

    def ask(self, count: int) -> list[Point]:
        """Propose points, none of them twice."""
        asked = [self._propose() for _ in range(count)]
        self._asked += asked
        return [tuple(offspring.point.tolist()) for offspring in asked]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            offspring = self._asked.popleft()
            if result.fitness is not None:
                self._join(offspring, result.fitness)

    def _propose(self) -> Offspring:
        if self._founders:
            return Offspring(self._unseen(self._founders.popleft()))
        if len(self._population) < 2 or self._rng.random() < IMMIGRANTS:
            return Offspring(self._unseen(self._rng.random(self._dimension)))
        return self._recombine() if self._rng.random() < INTERMEDIATE else self._cross()

    def _recombine(self) -> Offspring:
        """The mean of many parents, with noise of the population's spread."""
        parents = [tournament(self._population, self._rng).point for _ in range(PARENTS)]
        noise = self._deviations() * self._rng.normal(size=self._dimension)
        child = np.clip(np.mean(parents, axis=0) + noise, 0.0, 1.0)
        for place in np.flatnonzero(self._choices):
            # The mean of two choices may be a third one; what they share is what most make.
            gene, found = self._genes[place], [float(parent[place]) for parent in parents]
            made = [gene.choice(coordinate) for coordinate in found]
            child[place] = found[made.index(max(made, key=made.count))]
        return Offspring(self._unseen(child))

    def _cross(self) -> Offspring:
        """Two parents, crossed by structure and mutated."""
        first = tournament(self._population, self._rng)
        second = tournament([m for m in self._population if m is not first], self._rng)
        cross = self._crossovers[self._rng.integers(len(self._crossovers))]
        point = self._mutated(cross(first.point, second.point, self._rng))
        return Offspring(self._unseen(point), max(first.fitness, second.fitness))

    def _mutated(self, point: Vector) -> Vector:
        share, steps = MUTATED / self._dimension, self._step * self._scales
        return mutate(
            point, steps, share, self._rng, choices=self._choices, mutation=self._mutation
        )

    def _unseen(self, point: Vector) -> Vector:
        """The point, mutated until it differs from all others in the digits that genes keep."""
        while (key := tuple(point.round(DECIMALS).tolist())) in self._seen:
            point = self._mutated(point)
        self._seen.add(key)
        return point

    def _join(self, offspring: Offspring, fitness: float) -> None:
        if offspring.bar is not None:
            self._step = adapt(self._step, success=fitness > offspring.bar)
        self._population.append(Member(offspring.point, fitness))
        if len(self._population) > self._size:
            # The oldest of equals: plateaus are crossed by moving on them.
            self._population.remove(min(self._population, key=lambda member: member.fitness))
        if len(self._population) == self._size and self._deviations().mean() < COLLAPSED:
            self._restart()

    def _deviations(self) -> Vector:
        """Standard deviation of each gene in the population."""
        deviations: Vector = np.std([member.point for member in self._population], axis=0)
        return deviations

    def _restart(self) -> None:
        """Keep the best one and found the population anew around it."""
        best = max(self._population, key=lambda member: member.fitness)
        self._population, self._step = [best], STEP
        steps = STEP * self._rng.normal(size=(self._size - 1, self._dimension))
        founders = best.point + np.where(self._choices, 0.0, steps)
        self._founders = deque(np.clip(founders, 0.0, 1.0))


def tournament(members: Sequence[Member], rng: np.random.Generator) -> Member:
    """The best of some members that are drawn with replacement."""
    drawn = rng.integers(len(members), size=TOURNAMENT)
    return max((members[int(index)] for index in drawn), key=lambda member: member.fitness)


def mutate(
    point: Vector,
    step: float | Vector,
    share: float,
    rng: np.random.Generator,
    *,
    choices: Mask | None = None,
    mutation: Mutation = gaussian,
) -> Vector:
    """Mutate a share of the coordinates, and one at least; draw choices anew."""
    mutated = rng.random(len(point)) < share
    mutated[rng.integers(len(point))] = True
    moved = mutation(point, step, rng)
    return np.clip(np.where(mutated, redrawn(moved, choices, rng), point), 0.0, 1.0)


def adapt(step: float, *, success: bool) -> float:
    """The step after an offspring that was better than its parents, or was not."""
    step *= float(np.exp(HURRY * (success - SUCCESSES)))
    return min(max(step, SMALLEST_STEP), GREATEST_STEP)

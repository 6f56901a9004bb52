"""Evolver: whole models are individuals, which move towards one another in random places.

Du et al., "Knowledge Fusion By Evolving Weights of Language Models", 2024,
https://arxiv.org/abs/2406.12208, as its authors' code has it. A child lies between an individual
and another one, in a random part of its weights, and takes the individual's place if its score is
higher. Their code keeps the population with the best score on test data; here nothing sees them.

`Evolver` scores children by themselves. `EvolverMean` scores the mean of the population with the
child in it, and keeps the child if that mean is better than the best so far; `EvolverTIES` has the
population merged by TIES instead, at the density of its own paper (Yadav et al., 2023, section 5).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.contract import Breeding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Proposal, Result, StrategySettings

MUTATION, CROSSOVER, GENERATIONS = 0.5, 0.5, 15
"""F, Cr and the number of generations of the authors' experiments."""

DENSITY = 0.2
"""Share of a task vector that TIES keeps."""

Individual = int | Breeding


class Evolver:
    """Individuals are scored one by one.

    Args:
        settings: Number of sources, which are the first population, and seed.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._population: list[Individual] = list(range(settings.sources))
        self._scores = [-math.inf] * settings.sources
        # Whose place each is after, and what will be there.
        self._asked: deque[tuple[int, Individual]] = deque()
        self._sources, self._count = settings.sources, 0

    def ask(self, count: int) -> list[Proposal]:
        """Propose the sources first, then children of one individual after the other."""
        return [self._propose() for _ in range(count)]

    def tell(self, results: Sequence[Result]) -> None:
        """Put each child into the place that it is after, if it is better."""
        for result in results:
            place, child = self._asked.popleft()
            if result.fitness is not None and result.fitness > self._scores[place]:
                self._population[place], self._scores[place] = child, result.fitness

    def _propose(self) -> Proposal:
        number = self._count
        self._count += 1
        if number < self._sources:
            self._asked.append((number, number))
            return number
        place = number % self._sources
        # Later proposals know this one by the sources and what was asked before it.
        self._asked.append((place, self._sources + number))
        return self._child(place)

    def _child(self, place: int) -> Breeding:
        return Breeding(
            operator="evolver",
            parents=(self._population[place], self._population[self._partner(place)]),
            parameters={"mutation": MUTATION, "crossover": CROSSOVER},
            seed=int(self._rng.integers(2**31)),
        )

    def _partner(self, place: int) -> int:
        """A random other individual, or the best other one, more and more often at random."""
        others = [other for other in range(self._sources) if other != place]
        generation = self._count // self._sources
        at_random = 0.5 / max(GENERATIONS - generation, 1) + 0.5
        if self._rng.random() < at_random:
            return int(self._rng.choice(others))
        return max(others, key=self._scores.__getitem__)


class EvolverMean(Evolver):
    """The mean of the population is scored.

    Args:
        settings: See `Evolver`.
    """

    def __init__(self, settings: StrategySettings) -> None:
        super().__init__(settings)
        self._best = -math.inf

    def tell(self, results: Sequence[Result]) -> None:
        """Keep each child with which the population's mean is better than the best so far."""
        for result in results:
            place, child = self._asked.popleft()
            if result.fitness is not None and result.fitness > self._best:
                self._population[place], self._best = child, result.fitness

    def _propose(self) -> Proposal:
        number = self._count
        self._count += 1
        if number == 0:
            self._asked.append((0, 0))
            return self._merged(self._population)
        place = number % self._sources
        child = self._child(place)
        self._asked.append((place, child))
        return self._merged([*self._population[:place], child, *self._population[place + 1 :]])

    def _merged(self, population: Sequence[Individual]) -> Breeding:
        return Breeding(operator="linear", parents=tuple(population))

    def _partner(self, place: int) -> int:
        """A random other individual: nobody knows which is best."""
        return int(self._rng.choice([o for o in range(self._sources) if o != place]))


class EvolverTIES(EvolverMean):
    """What TIES makes of the population is scored.

    Args:
        settings: See `Evolver`.
    """

    def _merged(self, population: Sequence[Individual]) -> Breeding:
        parameters = {"weight": 1.0, "density": DENSITY}
        return Breeding(operator="ties", parents=tuple(population), parameters=parameters)

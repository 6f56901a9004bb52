"""Differential evolution whose individuals are models: the textbook's form beside Evolver's.

Storn and Price, "Differential Evolution: A Simple and Efficient Heuristic for Global Optimization
over Continuous Spaces", 1997, https://doi.org/10.1023/A:1008202821328, section 2: DE/rand/1 with
binomial crossover. All trials of a generation are made of the generation before it, and each
competes with its own target. F and CR are those of Evolver, to compare the two.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.contract import Breeding
from evomerge.search.evolver import CROSSOVER, MUTATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Proposal, Result, StrategySettings

LEAST_SOURCES = 4
"""A target and three others, of which the trial is made."""


class EvolverDE:
    """Adds a part of the difference of two random individuals to a third, crossed with a target.

    Args:
        settings: Seed, and number of sources, which are the first population.

    Raises:
        ValueError: There are fewer than four sources.
    """

    def __init__(self, settings: StrategySettings) -> None:
        if settings.sources < LEAST_SOURCES:
            raise ValueError(f"needs {LEAST_SOURCES} sources, found {settings.sources}")
        self._rng = np.random.default_rng(settings.seed)
        self._population = list(range(settings.sources))
        self._scores = [-math.inf] * settings.sources
        # What a generation has not asked for yet, each in the order of the places.
        self._generation: deque[Proposal] = deque(self._population)
        # Whose place each is after, and what will be there.
        self._asked: deque[tuple[int, int]] = deque()
        self._count = 0

    def ask(self, count: int) -> list[Proposal]:
        """Propose the sources, then trials; none while a generation has not been told."""
        if not self._generation and not self._asked:
            self._generation.extend(map(self._trial, range(len(self._population))))
        return [self._propose() for _ in range(min(count, len(self._generation)))]

    def tell(self, results: Sequence[Result]) -> None:
        """Put each trial into the place of its target, if it is better."""
        for result in results:
            place, trial = self._asked.popleft()
            if result.fitness is not None and result.fitness > self._scores[place]:
                self._population[place], self._scores[place] = trial, result.fitness

    def _propose(self) -> Proposal:
        number, sources = self._count, len(self._population)
        self._count += 1
        # A source keeps its own number; a trial has that of what was asked.
        self._asked.append((number % sources, number if number < sources else sources + number))
        return self._generation.popleft()

    def _trial(self, place: int) -> Breeding:
        others = [other for other in range(len(self._population)) if other != place]
        drawn = self._rng.choice(others, 3, replace=False).tolist()
        return Breeding(
            operator="de_rand_1",
            parents=tuple(self._population[each] for each in (place, *drawn)),
            parameters={"mutation": MUTATION, "crossover": CROSSOVER},
            seed=int(self._rng.integers(2**31)),
        )

"""Evolver: whole models are individuals, which move towards one another in random places.

Du et al., "Knowledge Fusion By Evolving Weights of Language Models", 2024,
https://arxiv.org/abs/2406.12208, as its authors' code has it when every individual is scored by
itself: a child lies between an individual and another one, in a random part of its weights, and
takes the individual's place if its score is higher. One pass breeds a child for each place.

Their code ends after M passes and keeps what is best on test data. Here the search ends as any
other, M follows from what was planned, and nothing sees test data.
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

MUTATION, CROSSOVER = 0.5, 0.5
"""F and Cr of the authors' experiments."""

Individual = int | Breeding


class Evolver:
    """Individuals are scored one by one.

    Args:
        settings: Seed, number of sources, which are the first population, and how many proposals
            were planned: the sources, and as many passes as there is room for. More may be asked
            for: then every partner is random.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._population: list[Individual] = list(range(settings.sources))
        self._scores = [-math.inf] * settings.sources
        # Whose place each is after, and what will be there.
        self._asked: deque[tuple[int, Individual]] = deque()
        self._sources, self._count = settings.sources, 0
        self._passes = settings.proposals // settings.sources - 1

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
        # The sources are round 0, and the passes come after it.
        round_, place = divmod(number, self._sources)
        if round_ == 0:
            self._asked.append((place, place))
            return place
        # Later proposals know this one by the sources and what was asked before it.
        self._asked.append((place, self._sources + number))
        partner = self._partner(place, random_share(round_ - 1, self._passes))
        return child(self._population[place], self._population[partner], self._rng)

    def _partner(self, place: int, at_random: float) -> int:
        """A random other individual with this chance, or else the best other one."""
        others = [other for other in range(self._sources) if other != place]
        if self._rng.random() < at_random:
            return int(self._rng.choice(others))
        return max(others, key=self._scores.__getitem__)


def random_share(turn: int, passes: int) -> float:
    """The chance that a partner is drawn at random, and is not the best other individual.

    Args:
        turn: Passes before this one.
        passes: How many were planned (M). In the last one and after it the chance is 1.
    """
    return 0.5 / max(passes - turn, 1) + 0.5


def child(individual: Individual, other: Individual, rng: np.random.Generator) -> Breeding:
    """An individual of which a random part is moved towards another one."""
    return Breeding(
        operator="evolver",
        parents=(individual, other),
        parameters={"mutation": MUTATION, "crossover": CROSSOVER},
        seed=int(rng.integers(2**31)),
    )

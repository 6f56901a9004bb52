"""Evolver with a merger: individuals move towards one another so that their merge gets better.

Du et al., "Knowledge Fusion By Evolving Weights of Language Models", 2024,
https://arxiv.org/abs/2406.12208, as its authors' code has it when the population is merged: what
is scored is a merge of all individuals, one of which is a child. If it is better than the best so
far, the child stays. Places have their turns in a random order, a new one in every pass.

The authors merge by average, Fisher information and RegMean, and say that any merge will do; TIES
is one, at the density of its own paper (Yadav et al., 2023, section 5). What Fisher merging and
RegMean measure is measured of the sources once, and never of their descendants, as in their code.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.contract import Breeding
from evomerge.search.evolver import Individual, child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.search.contract import Proposal, Result, StrategySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """How a population is merged.

    Attributes:
        operator: Name of the merge operator.
        parameters: Its parameters.
        measures: Whether it measures what it merges.
    """

    operator: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    measures: bool = False


MERGES = {
    "EvolverMean": Merge(operator="linear"),
    "EvolverFisher": Merge(operator="fisher", measures=True),
    "EvolverRegMean": Merge(operator="regmean", measures=True),
    "EvolverTIES": Merge(operator="ties", parameters={"weight": 1.0, "density": 0.2}),
}
"""By the names of the strategies."""


class MergedEvolver:
    """The merge of the population is scored.

    Args:
        merge: How it is merged.
        settings: Seed, and number of sources, which are the first population.
    """

    def __init__(self, merge: Merge, settings: StrategySettings) -> None:
        self._merge, self._sources = merge, settings.sources
        self._rng = np.random.default_rng(settings.seed)
        self._population: tuple[Individual, ...] = tuple(range(settings.sources))
        self._best = -math.inf
        self._asked: deque[tuple[Individual, ...]] = deque()
        # Places that have not had their turn in this pass.
        self._turns: deque[int] = deque()
        self._begun = False

    def ask(self, count: int) -> list[Proposal]:
        """Propose merges: of the sources first, then each of a population with one child."""
        return [self._propose() for _ in range(count)]

    def tell(self, results: Sequence[Result]) -> None:
        """Go on with each population whose merge is better than the best so far.

        As it was scored: if several were under way at a time, what is better in two of them may
        not be so together.
        """
        for result in results:
            population = self._asked.popleft()
            if result.fitness is not None and result.fitness > self._best:
                self._population, self._best = population, result.fitness

    def _propose(self) -> Proposal:
        population = self._varied() if self._begun else self._population
        self._begun = True
        self._asked.append(population)
        return Breeding(
            operator=self._merge.operator,
            parents=population,
            parameters=self._merge.parameters,
            measured_as=tuple(range(self._sources)) if self._merge.measures else (),
        )

    def _varied(self) -> tuple[Individual, ...]:
        """The population with a child in the place whose turn it is."""
        if not self._turns:
            self._turns.extend(self._rng.permutation(self._sources).tolist())
        place = self._turns.popleft()
        before, after = self._population[:place], self._population[place + 1 :]
        others = [other for other in range(self._sources) if other != place]
        # Nobody knows which of the others is best.
        partner = self._population[self._rng.choice(others)]
        return (*before, child(self._population[place], partner, self._rng), *after)
